"""Makes the frozen Config from gatepost.toml; owns every rule about what may stand in it.

The tables [upstream.NAME] are upstream.py's, the [[listen]] tables listener.py's. Reads one file and the presets it
uses: certificates, keys and databases that it names are looked at by whoever needs them.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from proxy.config.address import is_loopback, listen_address, webhook
from proxy.config.listener import listeners_of
from proxy.config.model import (
    AlertsConfig,
    AuditConfig,
    Config,
    KeysConfig,
    LimitsConfig,
    LogConfig,
    MetricsConfig,
    StoreConfig,
    TlsConfig,
    WorkersConfig,
)
from proxy.config.table import Table, shown
from proxy.config.upstream import upstreams_of
from proxy.config.web import web_of
from proxy.errors import ConfigError

MAX_FILE_BYTES = 1_048_576  # ten thousand upstreams fit; anything longer is the wrong file
_SECTIONS = (
    "store",
    "keys",
    "tls",
    "listen",
    "upstream",
    "alerts",
    "audit",
    "metrics",
    "log",
    "workers",
    "limits",
    "web",
)
MAX_WORKERS = 1_024
_NODE = re.compile(r"[A-Za-z0-9._-]{1,64}")  # as long as a host name may be on Linux
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
    "app_passwords": (1, 100_000),
    "argon2_memory_kib": (8, 4_194_304),
    "argon2_time": (1, 100),
    "argon2_lanes": (1, 64),
    "hash_queue": (1, 100_000),
    "verify_cache_s": (0, 300),  # so long a store that is down is bridged, and no revocation noticed
    "throttle_wrong": (1, 1_000_000),
    "throttle_wrong_network": (1, 10_000_000),
    "throttle_window_s": (1, _WEEK_S),
    "imap_idle_s": (1, _WEEK_S),
    "smtp_idle_s": (1, _WEEK_S),
    "drain_s": (0, 3_600),
}


def load(path: Path, text: bytes | None = None) -> Config:
    """Read and check a configuration file.

    text    what stood in it when it was checked, if not what stands there now is wanted
    raises  ConfigError, one line: the file, the key, what is wrong with it; the remedy
    """
    file = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links, and relative paths start here
    text = _read(file) if text is None else text
    top = Table(file, "", _toml(file, text), _SECTIONS)
    upstreams = upstreams_of(top)
    tls = _tls(top)
    return Config(
        path=file,
        listeners=listeners_of(top, upstreams, tls),
        upstreams=upstreams,
        store=_store(top),
        keys=_keys(top),
        tls=tls,
        log=_log(top),
        workers=_workers(top),
        alerts=_alerts(top),
        audit=_audit(top),
        metrics=_metrics(top),
        limits=_limits(top),
        web=web_of(top, upstreams, tls),
        text=text,
    )


def _read(file: Path) -> bytes:
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
    return data


def _toml(file: Path, data: bytes) -> Mapping[str, object]:
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


def _alerts(top: Table) -> AlertsConfig:
    table = top.table("alerts", ("command", "webhook", "new_network"))
    command = table.words("command")
    if command is not None:
        if "/" not in command[0]:
            # Which program a bare name is depends on PATH, and services are started with another one than shells.
            raise table.error("command", "does not start with a file name", "write the program with its path")
        command = (str(table.file.parent / command[0]), *command[1:])
    new_network = table.flag("new_network", default=AlertsConfig().new_network)
    return AlertsConfig(command or (), table.parsed("webhook", webhook), new_network)


def _audit(top: Table) -> AuditConfig:
    table = top.table("audit", ("keep_days", "keep_refusals_days", "flush_s"))
    default = AuditConfig()
    keep_days = table.number("keep_days", default.keep_days, 1, 36_500)
    return AuditConfig(
        keep_days,
        table.number("keep_refusals_days", min(default.keep_refusals_days, keep_days), 1, 36_500),
        table.number("flush_s", default.flush_s, 1, 60),
    )


def _metrics(top: Table) -> MetricsConfig:
    table = top.table("metrics", ("address", "insecure", "certificate_days"))
    default = MetricsConfig()
    metrics = MetricsConfig(
        table.parsed("address", listen_address),
        table.flag("insecure", default=default.insecure),
        table.number("certificate_days", default.certificate_days, 0, 365),
    )
    if metrics.address is not None and not metrics.insecure and not is_loopback(metrics.address[0]):
        raise table.error(
            "address",
            f"{metrics.address[0]} would show how much is going on to whoever asks",
            "listen on 127.0.0.1, or say insecure = true and let a firewall choose who asks",
        )
    return metrics


def _log(top: Table) -> LogConfig:
    table = top.table("log", ("level", "format"))
    default = LogConfig()
    return LogConfig(table.choice("level", _LEVELS, default.level), table.choice("format", _FORMATS, default.format))


def _workers(top: Table) -> WorkersConfig:
    table = top.table("workers", ("count", "loop", "node"))
    default = WorkersConfig()
    count = table.number("count", default.count, 0, MAX_WORKERS)
    node = table.text("node") or default.node
    if node and not _NODE.fullmatch(node):
        raise table.error("node", "is no name for a machine", "use up to 64 letters, digits, dots, dashes or _")
    return WorkersConfig(count, table.choice("loop", _LOOPS, default.loop), node)


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
