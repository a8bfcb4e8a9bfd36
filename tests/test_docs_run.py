"""The commands of the pages for operators are run, from top to bottom, as they stand there, before a real mail server.

Names of the world outside are replaced by those of the lab, and what a command needs to be there already is made. What
can't be run here is listed with the reason; a line that is neither run nor listed fails, and so does a reason without a
line.
"""

from __future__ import annotations

import imaplib
import json
import os
import re
import shlex
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.connecting import Connecting, prepare, sign_in
from tests.gate import _environment
from tests.lab import Lab
from tests.lab.talk import ANN
from tests.test_docs import ROOT, blocks

PAGES = (
    "README.md", "install.md", "first-mailbox.md", "cli.md", "incidents.md", "troubleshooting.md", "outlook.md",
    "gmail.md", "generic.md",
)  # fmt: skip
# Pages with commands that are not run by this file, and why.
ELSEWHERE = {
    "operations.md": "tests/systemd/test_operations.py runs every line of it in a booted systemd",
    "microsoft365.md": "PowerShell and Entra's own names; its gatepost lines are those of outlook.md and generic.md",
    "monitoring.md": "tests/monitoring runs promtool and fail2ban-regex on these files; the rest is the machine's own",
    "backup.md": "tests/cli/test_backup.py: into a new database, which this set-up has not",
    "scale.md": "needs PostgreSQL: tests/whole/test_nodes.py has two nodes on one",
    "security-tests.md": "fuzzing and benchmarks of an hour; tests/fuzz runs its targets for seconds",
    "sealed.md": "tests/cli/test_sealed.py and tests/whole/test_sealed.py: each line needs what the one before printed",
    "tokens.md": "tests/test_hooks.py runs an alert's command; the others are in troubleshooting.md",
    "web.md": "tests/web/test_journey.py; its commands are in cli.md",
}
# The providers' names for what the lab has.
LAB_UPSTREAMS = ("main", "office", "google", "gmail", "outlook", "company")
COMMAND_S = 60.0
BOX, TEAM = "box@example.test", "team@example.test"
AN_ID, A_SESSION = "c69a72db3c", "6d1f0c2a9be3"  # what the pages call the latest app password and a live session
UPSTREAMS = """
[upstream.old]
imap = "{imap}"
auth = "password"
tls_ca = "{ca}"
"""

# The beginning of a line, and why it is not run here.
NOT_RUN = {
    r"make deb|apt install": "builds and installs the Debian package: tests/systemd/test_package.py does",
    r"make (demo|test)$": "the demo is run by CI, and the tests are what runs",
    r"pipx |uv tool |pip install": "installs from the wheel: tests/packaging/test_wheel.py does, without the downloads",
    r"mkdir -p -m 0700 /etc/credstore|gatepost key new|gatepost reload|systemctl|install (-d )?-o gatepost": (
        "needs the service in a booted systemd: tests/systemd does"
    ),
    r"runuser -u postgres": "makes a user and a database in the machine's own PostgreSQL",
    r"gatepost restore ": "wants a new database: tests/cli/test_backup.py",
    r"gatepost .*(scans@|robots)": "app-only access is one mailbox's in the lab: tests/whole/test_app_only.py",
    r"gatepost .*(fastmail|yahoo|gmail-password|--upstream old --password-stdin$)": (
        "an upstream with passwords: first-mailbox.md and cli.md have the same for one of the lab's"
    ),
    r"gatepost .*(--upstream-user ann --alias ann|--refresh-token-stdin < token)": "the lab has other names and tokens",
    r"curl -k ": "asks for the password on a terminal: tests/clients/test_curl.py is the same without",
}


def lines_of(page: str) -> list[str]:
    found = []
    for block in blocks(ROOT / "docs" / page):
        if block.language in ("", "sh") and not block.text.startswith("client --") and "-->" not in block.text:
            found += [line.strip() for line in block.text.replace("\\\n", " ").splitlines()]
    return [line for line in found if line and not line.startswith("#")]


LINES = [(page, line) for page in PAGES for line in lines_of(page)]


def reason(line: str) -> str | None:
    return next((why for begin, why in NOT_RUN.items() if re.match(begin, line)), None)


class Desk:
    """A set-up whose commands are run as a shell runs them."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.home = directory
        self.gate = prepare(lab, directory / "gate")
        text = self.gate.config.read_text()
        upstream = text[text.index("[upstream.lab]") : text.index("[log]")]
        others = "\n".join(upstream.replace("upstream.lab", f"upstream.{name}") for name in LAB_UPSTREAMS)
        self.gate.config.write_text(
            text.replace(upstream, f"{others}\n{UPSTREAMS.format(imap=f'imaps://{lab.imaps}', ca=lab.ca_file)}\n")
        )
        command = directory / "bin" / "gatepost"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m proxy "$@"\n')
        command.chmod(0o755)
        for name in (".local/share/bash-completion/completions", ".zfunc", ".config/fish/completions", "backups"):
            (directory / name).mkdir(parents=True)
        (directory / "password").write_text("the-mailbox-password\n")
        self.id = ""
        self.live: imaplib.IMAP4_SSL | None = None

    def accounts(self) -> dict[str, str]:
        """The mailboxes and the states of their tokens."""
        return {one["account"]: one["token"]["state"] for one in json.loads(self.gate.cli("account", "list", "--json"))}

    def need(self, line: str) -> None:
        """Make what a line takes for granted."""
        there = self.accounts()
        for email, upstream in ((ANN, "main"), (BOX, "old"), (TEAM, "main")):
            if email not in line:
                continue
            if "account add" in line:
                if email in there:
                    self.gate.cli("account", "remove", email)
            elif email not in there or (email == ANN and there[email] == "none" and "account connect" not in line):
                if email in there:
                    self.gate.cli("account", "remove", email)
                token = ("--refresh-token-stdin",) if email == ANN else ()
                secret = self.lab.refresh_token(email) if token else ""
                self.gate.cli("account", "add", email, "--upstream", upstream, *token, stdin=secret)
        if AN_ID in line or A_SESSION in line or "revoke --account" in line:
            self.need_password(re.findall(r'--name "([^"]+)"', line))
        if "gatepost create" in line:
            self.gate.run("revoke", "--account", ANN, "--all")
        if A_SESSION in line:
            self.need_session()

    def need_password(self, names: list[str]) -> None:
        if ANN not in self.accounts():
            self.need(ANN)
        self.gate.run("revoke", "--account", ANN, "--all")
        self.password = self.gate.create(ANN, names[0] if names else "Scanner")
        self.id = self.password["id"]

    def need_session(self) -> None:
        self.serve()
        trust = ssl.create_default_context(cafile=self.lab.ca_file)
        self.live = imaplib.IMAP4_SSL(*self.gate.imaps, ssl_context=trust, timeout=COMMAND_S)
        self.live.login(ANN, self.password["password"])

    def session(self) -> str:
        for _ in range(100):  # published once a second
            if found := json.loads(self.gate.cli("sessions", "--json")):
                return str(found[0]["id"])
        pytest.fail("the session is not listed")

    def serve(self) -> None:
        if self.gate.process is None:
            self.gate.start()

    def run(self, line: str) -> None:
        line = re.sub(r"(?<=ann@)(gmail|outlook)\.com", "example.com", line)
        line = line.replace("example.com", "example.test").replace("/var/backups", str(self.home / "backups"))
        self.need(line)
        if line == "gatepost serve":
            self.serve()
            return
        if "account connect" in line:
            self.connect(line)
            return
        # A first set-up is made beside the one that is used.
        own = str(self.home / "fresh" / str(len(list(self.home.glob("fresh/*"))))) if "init" in line else None
        line = line.replace("/etc/gatepost", own or str(self.gate.directory))
        line = line.replace(AN_ID, self.id)
        if A_SESSION in line:
            line = line.replace(A_SESSION, self.session())
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            check=False, cwd=self.home, input=self.lab.idp.client_secret, capture_output=True, text=True,
            timeout=COMMAND_S,
            env={
                **_environment(), "HOME": str(self.home), "GATEPOST_CONFIG": str(self.gate.config),
                "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
            },
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stderr or done.stdout[-1000:]}"

    def connect(self, line: str) -> None:
        """The sign-in, with a person at the provider's pages."""
        words = [word for word in shlex.split(line)[3:] if word.startswith("--")]
        running = Connecting(self.gate, ANN, *(words or ["--paste"]))
        address = sign_in(self.lab, running.url(), ANN)
        status, said, complaint = running.end(address + "\n")
        assert status == 0, complaint
        assert "Connected" in said


@pytest.fixture(scope="module")
def desk(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    lab.idp.allow_redirect("http://127.0.0.1/")
    desk = Desk(lab, tmp_path_factory.mktemp("docs"))
    yield desk
    if desk.live is not None:
        desk.live.shutdown()
    desk.gate.kill()


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work_from_top_to_bottom(page: str, desk: Desk) -> None:
    ran = [line for line in lines_of(page) if reason(line) is None]
    for line in ran:
        desk.run(line)
    assert len(ran) >= {"install.md": 6, "first-mailbox.md": 9, "cli.md": 30, "incidents.md": 15}.get(page, 3)


def test_every_page_with_commands_is_run_or_said_to_be_run_elsewhere() -> None:
    found = {page.name for page in (ROOT / "docs").glob("*.md") if lines_of(page.name)}
    assert found == {*PAGES, *ELSEWHERE}
    for why in ELSEWHERE.values():
        for file in re.findall(r"tests/[\w/]+(?:\.py)?", why):
            assert (ROOT / file).exists(), file


def test_every_reason_for_not_running_a_line_is_needed() -> None:
    for begin, why in NOT_RUN.items():
        assert [line for _, line in LINES if reason(line) == why and re.match(begin, line)], begin
