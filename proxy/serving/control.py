"""The control socket: the service's side of what commands ask it to do with the master key. See admin.service.

The supervisor opens it, the first worker answers. Root, the service's own user and its group may ask; the file's mode
says so, and the kernel's word on who connects is looked at besides. One request at a time, each with a deadline, and
nothing that could be a secret is ever in an answer.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from proxy.admin import keys
from proxy.admin.desk import opened as opened_desk
from proxy.admin.finding import Finding
from proxy.admin.service import MAX_REQUEST_BYTES, SOCKET_NAME, Words, socket_path
from proxy.config import Config
from proxy.config.reader import load
from proxy.doctor.checks import check
from proxy.errors import ConfigError, OperatorError, StoreUnavailable
from proxy.logs import Line
from proxy.vault.sealed import unwrapped
from proxy.vault.sealing import SealBroken, load_master

logger = logging.getLogger("gatepost.control")

REQUEST_S = 5.0  # for a line that a program sends at once
WORK_S = 150.0  # a rotation of very many secrets is finished by the next one
SEND_S = 5.0
AT_ONCE = 4  # connections; further ones wait in the backlog
AGAIN_S = 1.0  # until a request is accepted again that could not be
SO_PEERGROUPS = 59  # asm-generic/socket.h; Linux 4.13
MAX_GROUPS = 256  # 1 kB is what Python's getsockopt takes; who is in more counts by his first group alone


@contextlib.contextmanager
def opened(name: str = SOCKET_NAME) -> Iterator[socket.socket | None]:
    """A listening socket, in the directory that systemd made for it; None without RuntimeDirectory.

    raises  ConfigError
    """
    if "RUNTIME_DIRECTORY" not in os.environ:
        yield None
        return
    path = socket_path(name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            _remove_stale(path)
            sock.bind(str(path))
            path.chmod(0o660)
            sock.listen(AT_ONCE)
        except OSError as error:
            raise ConfigError(f"cannot listen at {path}: {error.strerror}", "check the RuntimeDirectory") from None
        sock.setblocking(False)
        owner = os.getpid()
        try:
            yield sock
        finally:
            if os.getpid() == owner:  # a worker that ends leaves it to the others
                path.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()


class Control:
    """Answers requests on `sock`. One per node, run() a duty of its first worker."""

    def __init__(self, sock: socket.socket, config: Config) -> None:
        self._sock = sock
        self._config = config
        self._room = asyncio.Semaphore(AT_ONCE)
        self._alone = asyncio.Lock()

    async def run(self) -> None:
        """Answer until cancelled; what is under way is cancelled with it."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                await self._room.acquire()
                try:
                    sock, _ = await loop.sock_accept(self._sock)
                except OSError as error:  # no descriptors: mail goes on, and whoever asks waits
                    logger.warning("%s", Line("control_delayed", error=error.strerror))
                    self._room.release()
                    await asyncio.sleep(AGAIN_S)
                    continue
                group.create_task(self._serve(sock))

    async def _serve(self, sock: socket.socket) -> None:
        try:
            with sock:
                sock.setblocking(False)
                with contextlib.suppress(OSError, TimeoutError):
                    peer = peer_of(sock)
                    if not may_ask(*peer):
                        logger.warning("%s", Line("control_refused", uid=peer[0]))
                        return
                    request = await self._request(sock)
                    answer = await self._answer(request, peer[0])
                    async with asyncio.timeout(SEND_S):
                        await asyncio.get_running_loop().sock_sendall(sock, json.dumps(answer).encode() + b"\n")
        finally:
            self._room.release()

    @staticmethod
    async def _request(sock: socket.socket) -> bytes:
        data = b""
        async with asyncio.timeout(REQUEST_S):
            while not data.endswith(b"\n") and len(data) <= MAX_REQUEST_BYTES:
                chunk = await asyncio.get_running_loop().sock_recv(sock, MAX_REQUEST_BYTES)
                if not chunk:
                    break
                data += chunk
        return data

    async def _answer(self, data: bytes, uid: int) -> Words:
        try:
            request = _parsed(data)
            op = request.get("op")
            act = {"check": _check, "rotate": _rotate, "unwrap": _unwrap}.get(op if isinstance(op, str) else "")
            if act is None:
                _refuse("the service does not know this request", "systemctl restart gatepost after an upgrade")
            if request.get("config") != str(self._config.path.resolve()):
                _refuse(f"the service runs with {self._config.path}", "name that by --config")
            if self._alone.locked():
                _refuse("the service is at such a request already", "wait for its end")
            logger.info("%s", Line("control", op=str(op), uid=uid))
            async with self._alone, asyncio.timeout(WORK_S):
                return await _aside(lambda: _guarded(act, self._config, request))
        except OperatorError as error:
            return {"ok": False, "problem": error.problem, "remedy": error.remedy}
        except TimeoutError:
            return {"ok": False, "problem": "it took too long", "remedy": "run it again; see the service's log"}
        except Exception:
            # A bug that a request brings out must not end everybody's mail.
            logger.exception("%s", Line("control_crashed"))
            return {"ok": False, "problem": "a bug", "remedy": "see the service's log, and report it"}


async def _aside(work: Callable[[], Words]) -> Words:
    """Run it in a thread: no step of it may hold up the loop. A daemon: nor may it keep a worker from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Words] = loop.create_future()

    def settle(answer: Words | None, error: Exception | None) -> None:
        if done.done():  # nobody waits any more
            return
        if error is not None:
            done.set_exception(error)
        elif answer is not None:
            done.set_result(answer)

    def run() -> None:
        answer, failure = None, None
        try:
            answer = work()
        except Exception as error:  # noqa: BLE001 - raised by whoever waits
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, answer, failure)

    threading.Thread(target=run, name="control", daemon=True).start()
    return await done


def may_ask(uid: int, groups: tuple[int, ...]) -> bool:
    """Root, the service's user, and members of its group."""
    return uid in (0, os.geteuid()) or os.getegid() in groups


def peer_of(sock: socket.socket) -> tuple[int, tuple[int, ...]]:
    """User and groups of whoever connected, at that time (unix(7))."""
    _, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    groups = [gid]
    with contextlib.suppress(OSError):
        data = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * MAX_GROUPS)
        groups += struct.unpack(f"{len(data) // 4}I", data)
    return uid, tuple(groups)


def _parsed(data: bytes) -> Words:
    try:
        request = json.loads(data)
    except ValueError:
        request = None
    if not data.endswith(b"\n") or not isinstance(request, dict):
        _refuse("the service cannot read this request", "systemctl restart gatepost after an upgrade")
    return request


def _guarded(act: Callable[[Config, Words], Words], config: Config, request: Words) -> Words:
    try:
        return act(config, request)
    except StoreUnavailable as error:
        raise OperatorError(f"the store does not answer: {error}", error.remedy) from None


def _check(config: Config, request: Words) -> Words:
    """With the file as it is now: before a reload this looks at what would be loaded."""
    login = request.get("login")
    findings = check(load(config.path), login if isinstance(login, str) else None, _by(request))
    return {"ok": True, "findings": [_record(finding) for finding in findings]}


def _by(request: Words) -> str:
    by = str(request.get("by", ""))[:70]
    return by if by and by.isprintable() else "cli:unknown"


def _record(finding: Finding) -> Words:
    return {"name": finding.name, "ok": finding.ok, "detail": finding.detail, "remedy": finding.remedy}


def _rotate(config: Config, request: Words) -> Words:
    with opened_desk(config, _by(request)) as desk:
        rotated = keys.rotate_held(desk)
    return {
        "ok": True,
        "master_key": rotated.master,
        "secrets": rotated.secrets,
        "app_keys": rotated.app_keys,
        "dropped": list(rotated.dropped),
    }


def _unwrap(config: Config, request: Words) -> Words:
    """Take the master's lock off one app key. The app password's own stays on: it never comes here."""
    secret_id = request.get("secret")
    with opened_desk(config, _by(request)) as desk:
        key = desk.store.app_key(secret_id) if isinstance(secret_id, int) else None
    if key is None:
        _refuse("there is no such app key", "gatepost list shows what there is")
    try:
        locked = unwrapped(key, load_master(config.keys.master.read()))
    except SealBroken as error:
        _refuse(str(error), "use --sign-in")
    return {"ok": True, "locked": base64.b64encode(locked.sealed).decode()}


def _refuse(problem: str, remedy: str) -> NoReturn:
    raise OperatorError(problem, remedy)
