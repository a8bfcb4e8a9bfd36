"""The control socket: who may ask, how much, and what the commands make of it. Real sockets, real peers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from proxy.admin import keys, service
from proxy.admin.desk import opened as opened_desk
from proxy.admin.keys import hand_over_new, rotate_held
from proxy.admin.setup import init, upgrade
from proxy.cli import main
from proxy.config import Config
from proxy.config.reader import load
from proxy.errors import OperatorError
from proxy.serving.control import Control, may_ask, opened
from proxy.vault.sealed import locked_of, unlocked
from proxy.vault.sealing import SealBroken, load_master
from tests.service.house import until
from tests.store.conftest import NOW

CREDENTIAL = "master"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A set-up whose master key is a credential, as the service sees it."""
    init(tmp_path / "gatepost.toml", NOW, "test")
    text = (tmp_path / "gatepost.toml").read_text()
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    shutil.move(tmp_path / "master.key", credentials / CREDENTIAL)
    text = text.replace("file:master.key", f"credential:{CREDENTIAL}")
    text = text[: text.index("[upstream.main]")] + '[upstream.main]\nimap = "imaps://localhost:1"\nauth = "password"\n'
    text = text.replace('"smtp"', '"imap"')
    (tmp_path / "gatepost.toml").write_text(text)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    loaded = load(tmp_path / "gatepost.toml")
    upgrade(loaded, "test")
    return loaded


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@asynccontextmanager
async def answering(config: Config) -> AsyncIterator[Path]:
    with opened() as sock:
        assert sock is not None
        task = asyncio.create_task(Control(sock, config).run())
        try:
            yield service.socket_path()
        finally:
            task.cancel()
            await asyncio.wait([task])


async def ask(path: Path, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    async with asyncio.timeout(30):
        writer.write(data)
        answer = await reader.read()
    writer.close()
    return answer


def request(config: Config, op: str, **more: object) -> bytes:
    return json.dumps({"op": op, "config": str(config.path), **more}).encode() + b"\n"


@pytest.mark.parametrize(
    ("uid", "groups", "may"),
    [
        (0, (), True),
        (os.geteuid(), (), True),
        (12345, (), False),
        (12345, (os.getegid(),), True),
        (12345, (1, 2), False),
    ],
)
def test_root_the_service_s_user_and_its_group_may_ask(uid: int, groups: tuple[int, ...], may: bool) -> None:
    assert may_ask(uid, groups) is may


async def test_the_socket_is_for_user_and_group_alone_and_goes_with_the_service(config: Config) -> None:
    path = service.socket_path()
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))  # what a service that was killed leaves
    async with answering(config):
        assert path.stat().st_mode & 0o777 == 0o660
    assert not path.exists()
    assert config.keys.master.kind == "credential"


@pytest.mark.usefixtures("as_root")
async def test_a_peer_without_a_right_is_closed_without_a_word(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with answering(config) as path:
        path.chmod(0o666)  # as if the mode had not kept him out
        for directory in (path.parent, *path.parent.parents):
            if directory.stat().st_mode & 0o001 == 0:
                directory.chmod(0o711)
        script = (
            "import os, socket, sys; os.setgroups([]); os.setgid(54321); os.setuid(54321)\n"
            "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
            "s.sendall(sys.argv[2].encode()); print(len(s.recv(100)))"
        )
        stranger = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-c", script, path, request(config, "check").decode(), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        heard, error = await stranger.communicate()
    assert (heard.strip() == b"0") or b"ConnectionResetError" in error or b"BrokenPipe" in error
    assert "event=control_refused uid=54321" in caplog.text


@pytest.mark.usefixtures("as_root")
def test_every_group_of_a_peer_counts(tmp_path: Path) -> None:
    """In a process of its own, which joins a group and connects."""
    script = (
        "import os, socket; from proxy.serving.control import peer_of\n"
        "os.setgroups([54320, 54322]); os.setgid(54321); os.setuid(54321)\n"
        "a, b = socket.socketpair(); print(peer_of(a))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.stdout.strip() == "(54321, (54321, 54320, 54322))"


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"[]\n", b"{}\n", b'{"op": "check"', b'{"op": []}\n', b'{"op": "drop"}\n', b"x" * 100_000, b"\xff\n"],
)
async def test_what_is_no_request_is_refused_and_the_next_is_answered(config: Config, data: bytes) -> None:
    async with answering(config) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        async with asyncio.timeout(30):
            writer.write(data)
            writer.write_eof()
            try:
                answer = await reader.read()
            except ConnectionResetError:  # it was not even read to its end
                answer = b""
        writer.close()
        assert not answer or json.loads(answer)["ok"] is False
        assert json.loads(await ask(path, request(config, "check")))["ok"] is True


async def test_who_asks_a_service_without_descriptors_waits(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with answering(config) as path:
        asker = socket.socket(socket.AF_UNIX)
        asker.setblocking(False)
        taken: list[int] = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(asker.fileno()))
            asker.connect(str(path))
            await until(lambda: "control_delayed" in caplog.text)
        finally:
            for one in taken:
                os.close(one)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        asker.close()
        assert json.loads(await ask(path, request(config, "check")))["ok"] is True


async def test_a_request_for_another_configuration_is_refused(config: Config) -> None:
    async with answering(config) as path:
        answer = json.loads(await ask(path, b'{"op": "check", "config": "/etc/other.toml"}\n'))
    assert answer["ok"] is False
    assert answer["problem"] == f"the service runs with {config.path}"


async def test_check_asks_the_service_and_no_key_crosses_the_socket(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with answering(config) as path:
        answer = await ask(path, request(config, "check", login="nobody@example.org"))
        # In the command's own place there are no credentials; the service's thread has read them by then.
        findings = json.loads(answer)["findings"]
    names = {finding["name"]: finding for finding in findings}
    assert names["master key"]["ok"]
    assert "login nobody@example.org" in names
    key = (Path(os.environ["CREDENTIALS_DIRECTORY"]) / CREDENTIAL).read_text().split(":")[1].strip()
    assert key not in answer.decode()
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    assert service.must_ask(config)


async def test_check_without_a_service_looks_at_all_but_the_key(config: Config) -> None:
    alone = await command(config, "check", "--json", stdin="")
    findings = {finding["name"]: finding for finding in json.loads(alone.stdout)["findings"]}
    assert alone.returncode == 1
    assert "no service listens" in findings["master key"]["detail"]
    assert "systemctl start gatepost" in findings["master key"]["remedy"]
    assert findings["store"]["result"] == "ok"


def front_key(config: Config) -> None:
    """As `gatepost key new` and systemd-creds do it: a new key in front of the old."""
    file = Path(os.environ["CREDENTIALS_DIRECTORY"]) / CREDENTIAL
    with (file.parent / "new").open("w") as new:
        hand_over_new(new)
    file.write_text((file.parent / "new").read_text() + file.read_text())


async def test_the_service_lets_go_of_the_former_key_of_its_credential(config: Config) -> None:
    with opened_desk(config, "test") as desk:
        before = [key.key_id for key in desk.store.masters()]
    async with answering(config) as path:
        assert "no new key in front" in json.loads(await ask(path, request(config, "rotate")))["problem"]
        front_key(config)
        answer = json.loads(await ask(path, request(config, "rotate", by="cli:ann")))
        assert answer["dropped"] == before
        again = json.loads(await ask(path, request(config, "rotate")))
        assert again["ok"] is False  # there is nothing left to do
    with opened_desk(config, "test") as desk:
        assert [key.key_id for key in desk.store.masters()] == [answer["master_key"]]


def test_a_rotation_that_was_killed_is_finished_by_the_next(config: Config) -> None:
    front_key(config)
    with opened_desk(config, "test") as desk:
        before = desk.store.masters()[0].key_id
        keys._introduce(desk, load_master(config.keys.master.read()), desk.store.masters()[0].created)
        assert len(desk.store.masters()) == 2
        done = rotate_held(desk)
        assert done.dropped == (before,)
        assert [key.key_id for key in desk.store.masters()] == [done.master]


SUE = "sue@example.com"


async def command(config: Config, *words: str, stdin: str) -> subprocess.CompletedProcess[str]:
    """A gatepost command as the administrator has it: without the service's credentials."""
    environment = {name: value for name, value in os.environ.items() if name != "CREDENTIALS_DIRECTORY"}
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "proxy", *words, "--config", str(config.path)],
        check=False, input=stdin, capture_output=True, text=True, timeout=60, env=environment,
    )  # fmt: skip


async def test_an_app_password_unlocks_a_sealed_account_with_the_service_s_master_key(config: Config) -> None:
    assert main(["account", "add", SUE, "--upstream", "main", "--sealed", "--config", str(config.path)]) == 0
    create = ("create", SUE, "--json", "--name")
    first = await command(config, *create, "phone", "--sign-in", stdin="the mailbox's password\n")
    assert first.returncode == 0, first.stderr
    phone = json.loads(first.stdout)["password"]
    alone = await command(config, *create, "laptop", "--unlock-stdin", stdin=phone)
    assert "no service listens" in alone.stderr
    async with answering(config) as path:
        second = await command(config, *create, "laptop", "--unlock-stdin", stdin=phone)
        assert second.returncode == 0, second.stderr
        laptop = json.loads(second.stdout)["password"]
        assert (await command(config, *create, "tablet", "--unlock-stdin", stdin=laptop)).returncode == 0
        wrong = await command(config, *create, "other", "--unlock-stdin", stdin=laptop[:-1] + "0")
        assert wrong.returncode == 1
        for secret in (None, -1, "x", 10_000):
            answer = json.loads(await ask(path, request(config, "unwrap", secret=secret)))
            assert answer["problem"] == "there is no such app key"
        answer = json.loads(await ask(path, request(config, "unwrap", secret=1)))
    # Its own lock is still on: without the app password it opens for nobody.
    with opened_desk(config, "test") as desk:
        key = desk.store.app_key(1)
    assert key is not None
    locked = locked_of(key, base64.b64decode(answer["locked"]))
    with pytest.raises(SealBroken):
        unlocked(locked, bytes(32))


def test_a_master_key_is_not_shown_on_a_terminal() -> None:
    leader, follower = os.openpty()
    with os.fdopen(leader, "rb", buffering=0) as terminal, os.fdopen(follower, "w") as stdout:
        with pytest.raises(OperatorError, match="not for a terminal"):
            hand_over_new(stdout)
        os.set_blocking(terminal.fileno(), False)
        assert terminal.read(100) is None
