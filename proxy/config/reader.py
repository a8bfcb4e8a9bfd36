"""Makes the frozen Config from gatepost.toml; owns every rule about what may stand in it.

The tables [upstream.NAME] are upstream.py's. Reads one file and the presets it uses: certificates, keys and databases
that it names are looked at by whoever needs them.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from proxy.config.address import is_loopback, listen_address, webhook
from proxy.config.model import (
    PROTOCOLS,
    AlertsConfig,
    Config,
    KeysConfig,
    LimitsConfig,
    ListenConfig,
    LogConfig,
    StoreConfig,
    Tls,
    TlsConfig,
    UpstreamConfig,
    WorkersConfig,
)
from proxy.config.table import Table, shown
from proxy.config.upstream import upstreams_of
from proxy.config.web import web_of
from proxy.errors import ConfigError

MAX_FILE_BYTES = 1_048_576  # ten thousand upstreams fit; anything longer is the wrong file
_SECTIONS = ("store", "keys", "tls", "listen", "upstream", "alerts", "log", "workers", "limits", "web")
_WEEK_S = 604_800
_TLS_MINIMUM: tuple[Literal["1.2", "1.3"], ...] = ("1.2", "1.3")
_LEVELS: tuple[Literal["debug", "info", "warning"], ...] = ("debug", "info", "warning")
_FORMATS: tuple[Literal["text", "json"], ...] = ("text", "json")
_LOOPS: tuple[Literal["uvloop", "asyncio"], ...] = ("uvloop", "asyncio")

# What each limit may be, both ends included. Below the lower ends mail clients or RFCs break, above the upper ones
# a machine does; argon2's lower end is that of RFC 9106 3.1 for one lane.
_RANGES: dict[str, tuple[int, int]] = {
    "connections": (1, 1_000_000),
    "waiting_per_address": (1, 1_000_000),
    "argon2_memory_kib": (8, 4_194_304),
    "argon2_time": (1, 100),
    "argon2_lanes": (1, 64),
    "hash_queue": (1, 100_000),
    "verify_cache_s": (0, 300),  # design: a store that is down is bridged for 300 s at most
    "throttle_wrong": (1, 1_000_000),
    "throttle_wrong_network": (1, 10_000_000),
    "throttle_window_s": (1, _WEEK_S),
    "imap_idle_s": (1, _WEEK_S),
    "smtp_idle_s": (1, _WEEK_S),
    "drain_s": (0, 3_600),
}


def load(path: Path) -> Config:
    """Read and check a configuration file.

    raises  ConfigError, one line: the file, the key, what is wrong with it; the remedy
    """
    file = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links, and relative paths start here
    top = Table(file, "", _toml(file), _SECTIONS)
    upstreams = upstreams_of(top)
    tls = _tls(top)
    return Config(
        path=file,
        listeners=_listeners(top, upstreams, tls),
        upstreams=upstreams,
        store=_store(top),
        keys=_keys(top),
        tls=tls,
        log=_log(top),
        workers=_workers(top),
        alerts=_alerts(top),
        limits=_limits(top),
        web=web_of(top, upstreams, tls),
    )


def _toml(file: Path) -> Mapping[str, object]:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist", "run gatepost init, or name your file with --config") from None
    except PermissionError:
        raise ConfigError(f"{file} may not be read by this user", "run as its owner or as root") from None
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", "name a TOML file with --config") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{file} is longer than {MAX_FILE_BYTES} bytes", "name the right file with --config")
    try:
        # Editors on Windows put a byte order mark in front, which TOML does not know.
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}: line {line} is not UTF-8", "save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: {shown(str(error))}", "correct the TOML there") from None
    except RecursionError:
        raise ConfigError(f"{file} is nested too deeply", "name the right file with --config") from None


def _store(top: Table) -> StoreConfig:
    table = top.table("store", ("url", "migrate"))
    default = StoreConfig()
    url = table.text("url") or default.url
    return StoreConfig(_store_url(table, url), table.flag("migrate", default=default.migrate))


def _store_url(table: Table, url: str) -> str:
    """A PostgreSQL URL as it is, an SQLite one with an absolute path. The URL may hold a password: never repeated."""
    remedy = 'write "sqlite:///FILE" or "postgresql://USER@HOST/DATABASE"'
    if url.startswith("postgresql://") and url != "postgresql://":
        return url
    name = url.removeprefix("sqlite:///")
    if name == url or not name:
        raise table.error("url", "is no database that Gatepost knows", remedy)
    if "?" in name:
        raise table.error("url", "has options after a ?", "leave them out: Gatepost sets what SQLite needs")
    if name.startswith(":memory:"):
        raise table.error("url", "is no file", "name a file: app passwords have to last")
    return f"sqlite:///{table.file.parent / name}"


def _keys(top: Table) -> KeysConfig:
    table = top.table("keys", ("master",))
    return KeysConfig(table.secret("master") or KeysConfig().master)


def _tls(top: Table) -> TlsConfig:
    table = top.table("tls", ("certificate", "key", "minimum"))
    tls = TlsConfig(
        table.path("certificate"), table.path("key"), table.choice("minimum", _TLS_MINIMUM, TlsConfig().minimum)
    )
    if (tls.certificate is None) != (tls.key is None):
        missing, there = ("certificate", "key") if tls.certificate is None else ("key", "certificate")
        raise table.error(missing, f"is missing beside {there}", "name both PEM files")
    return tls


def _listeners(top: Table, upstreams: Mapping[str, UpstreamConfig], tls: TlsConfig) -> tuple[ListenConfig, ...]:
    tables = top.tables("listen", ("protocol", "address", "tls", "upstreams", "insecure"))
    if not tables:
        raise top.error("listen", "is missing", "add a [[listen]] table with protocol, address and tls")
    listeners: list[ListenConfig] = []
    for table in tables:
        listener = _listener(table, upstreams)
        if listener.tls is not Tls.NONE and tls.certificate is None:
            raise table.error(
                "tls", "needs a certificate", "set certificate and key in [tls]; gatepost init makes a pair"
            )
        if listener.port and any((listener.host, listener.port) == (other.host, other.port) for other in listeners):
            raise table.error("address", "is used by another [[listen]] already", "give each an address of its own")
        listeners.append(listener)
    return tuple(listeners)


def _listener(table: Table, upstreams: Mapping[str, UpstreamConfig]) -> ListenConfig:
    protocol = table.choice("protocol", PROTOCOLS, None)
    address = table.parsed("address", listen_address)
    if address is None:
        raise table.missing("address", '"0.0.0.0:993"')
    host, port = address
    tls = Tls(table.choice("tls", [how.value for how in Tls], None))
    insecure = table.flag("insecure", default=False)
    if tls is Tls.NONE and not insecure and not is_loopback(host):
        raise table.error(
            "tls",
            f'"none" on {host} would let passwords be overheard',
            'use "implicit" or "starttls", listen on 127.0.0.1, or say insecure = true',
        )
    names = table.texts("upstreams")
    if names is None:
        names = tuple(name for name, upstream in upstreams.items() if upstream.endpoint(protocol))
    for name in names:
        upstream = upstreams.get(name)
        if upstream is None:
            known = ", ".join(upstreams)
            raise table.error("upstreams", f"there is no [upstream.{shown(name)}]", f"add it, or use one of: {known}")
        if upstream.endpoint(protocol) is None:
            raise table.error(
                "upstreams", f"[upstream.{name}] has no {protocol}", f"set its {protocol}, or leave it out here"
            )
    if not names:
        raise table.error("upstreams", f"no upstream here has {protocol}", f"set {protocol} in an [upstream.NAME]")
    return ListenConfig(protocol, host, port, tls, names, insecure)


def _alerts(top: Table) -> AlertsConfig:
    table = top.table("alerts", ("command", "webhook"))
    command = table.words("command")
    if command is not None:
        if "/" not in command[0]:
            # Which program a bare name is depends on PATH, and services are started with another one than shells.
            raise table.error("command", "does not start with a file name", "write the program with its path")
        command = (str(table.file.parent / command[0]), *command[1:])
    return AlertsConfig(command or (), table.parsed("webhook", webhook))


def _log(top: Table) -> LogConfig:
    table = top.table("log", ("level", "format"))
    default = LogConfig()
    return LogConfig(table.choice("level", _LEVELS, default.level), table.choice("format", _FORMATS, default.format))


def _workers(top: Table) -> WorkersConfig:
    table = top.table("workers", ("count", "loop"))
    default = WorkersConfig()
    count = table.number("count", default.count, 0, 1_024)
    if count != 1:
        raise table.error("count", f"{count} is not possible yet", "this version runs one worker: set count = 1")
    return WorkersConfig(count, table.choice("loop", _LOOPS, default.loop))


def _limits(top: Table) -> LimitsConfig:
    table = top.table("limits", tuple(_RANGES))
    default = LimitsConfig()
    limits = LimitsConfig(
        **{key: table.number(key, getattr(default, key), low, high) for key, (low, high) in _RANGES.items()}
    )
    if limits.argon2_memory_kib < 8 * limits.argon2_lanes:
        raise table.error("argon2_memory_kib", "is too little for argon2_lanes", "RFC 9106 wants 8 KiB for each lane")
    return limits


assert {limit.name for limit in dataclasses.fields(LimitsConfig)} == set(_RANGES), "every limit has a range"
