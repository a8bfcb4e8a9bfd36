"""The house stands as ARCHITECTURE.md draws it: imports go down only, and each foreign package has one door."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "proxy"

# The longest prefix that fits decides.
FLOORS = {
    "proxy": 0,
    "proxy.errors": 0,
    "proxy.secret": 0,
    "proxy.logs": 0,
    "proxy.journald": 0,
    "proxy.outlet": 0,
    "proxy.notify": 0,
    "proxy.config": 0,
    "proxy.meters": 0,
    "proxy.wire": 1,
    "proxy.vault": 2,
    "proxy.store": 2,
    "proxy.login": 3,
    "proxy.oauth": 3,
    "proxy.live": 3,
    "proxy.record": 3,
    "proxy.admin": 3,
    "proxy.edge": 4,
    "proxy.serving": 5,
    "proxy.doctor": 5,
    "proxy.connecting": 5,
    "proxy.cli": 5,
    "proxy.web": 5,
    "proxy.__main__": 5,
}
SOLE_IMPORTERS = {
    "aiosmtpd": ("proxy.edge.smtp",),
    "aioimaplib": ("proxy.edge.upstream_imap",),
    "argon2": ("proxy.vault",),
    "cryptography": ("proxy.vault",),
    "sqlalchemy": ("proxy.store",),
    "alembic": ("proxy.store",),
    "httpx2": ("proxy.oauth.exchange", "proxy.record.hooks"),
    "joserfc": ("proxy.oauth.jwts",),
    "prometheus_client": ("proxy.live.exposition",),
    "starlette": ("proxy.web",),
    "jinja2": ("proxy.web.rendering",),
    "markupsafe": ("proxy.web.qr",),
    "uvicorn": ("proxy.web.serve",),
    "segno": ("proxy.web.qr",),
}
MAY_REVEAL = ("proxy.vault", "proxy.oauth", "proxy.wire.sasl")
SANS_IO_FORBIDS = {"asyncio", "socket", "time", "datetime", "logging", "threading", "os"}
ROWS = ("proxy.store.rows", "proxy.store.people_rows", "proxy.store.audit_rows")
MAX_LINES = 400


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            assert node.module is not None
            yield node.module
            # `from proxy.edge import listen` imports a module, too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module.startswith("proxy"))


def floor(module: str) -> int:
    fitting = [name for name in FLOORS if module == name or module.startswith(f"{name}.")]
    best = max(fitting, key=len)
    assert best != "proxy" or module == "proxy" or not is_module(module), (
        f"{module} stands on no floor: add it to FLOORS"
    )
    return FLOORS[best]


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def stands_in(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_go_down_only(module: str, path: Path) -> None:
    upward = {
        name
        for name in imports(path)
        if name.startswith("proxy") and is_module(name) and name != "proxy" and floor(name) > floor(module)
    }
    assert not upward


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_foreign_packages_have_one_door(module: str, path: Path) -> None:
    for name in imports(path):
        places = SOLE_IMPORTERS.get(name.partition(".")[0])
        assert places is None or stands_in(module, places), f"{module} imports {name}"


def test_the_wire_knows_no_io() -> None:
    for module, path in modules():
        if stands_in(module, ("proxy.wire",)):
            assert not SANS_IO_FORBIDS & {name.partition(".")[0] for name in imports(path)}, module


def test_shells_call_admin_and_serve_only() -> None:
    for module, path in modules():
        if stands_in(module, ("proxy.cli",)):
            reached = {name for name in imports(path) if name.startswith("proxy.") and is_module(name)}
            allowed = (
                "proxy.cli",
                "proxy.admin",
                "proxy.config",
                "proxy.errors",
                "proxy.secret",
                "proxy.serving.supervisor",
                "proxy.doctor",
                "proxy.connecting",
                "proxy.web.serve",
            )
            assert all(stands_in(name, (*allowed, *ROWS)) for name in reached), (module, reached)


def test_the_page_calls_admin_and_what_a_sign_in_needs_only() -> None:
    allowed = (
        "proxy.web",
        "proxy.admin",
        "proxy.config",
        "proxy.errors",
        "proxy.secret",
        "proxy.logs",
        "proxy.connecting",
        "proxy.oauth.client",
        "proxy.oauth.consent",
        "proxy.oauth.signin",
        "proxy.store.pool",
        "proxy.vault.parcel",
        "proxy.vault.cms",
        "proxy.vault.sealing",  # its exception
        "proxy.wire.addresses",
        *(f"proxy.store.{rows}" for rows in ("rows", "people_rows", "audit_rows")),
    )
    for module, path in modules():
        if stands_in(module, ("proxy.web",)) and module not in ("proxy.web.serve", "proxy.web.certificate"):
            reached = {name for name in imports(path) if name.startswith("proxy.") and is_module(name)}
            assert all(stands_in(name, allowed) for name in reached), (module, reached)


def test_secrets_are_revealed_in_three_places_only() -> None:
    for module, path in modules():
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "reveal"
        ]
        assert not calls or stands_in(module, MAY_REVEAL), module


def test_no_file_needs_scrolling_for_minutes() -> None:
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for _, path in modules()}
    assert {name: lines for name, lines in long.items() if lines > MAX_LINES} == {}


def test_every_module_says_what_it_owns() -> None:
    texts = {module: path.read_text() for module, path in modules()}
    assert [module for module, text in texts.items() if text and not ast.get_docstring(ast.parse(text))] == []
