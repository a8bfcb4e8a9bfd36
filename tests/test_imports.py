"""What a server that has just started has imported, and what it has not: megabytes of each of its processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

UNNEEDED = {
    "alembic",
    "jinja2",
    "joserfc",
    "prometheus_client",
    "psycopg",
    "segno",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.orm",
    "starlette",
    "uvicorn",
    "proxy.store.archive",
    "proxy.store.backup",
    "proxy.store.people",
    "proxy.store.web_sessions",
}
PRELOADED = """
from dataclasses import replace
from pathlib import Path
from proxy.config import OAuth2Config, UpstreamConfig
from proxy.oauth.client import preload
from proxy.secret import SecretSource
plain = OAuth2Config(client_id="x", token_url="http://127.0.0.1:1/")
preload([UpstreamConfig("a", oauth2=replace(plain, **{signs})), UpstreamConfig("b", auth="password")])
"""


def imported(script: str) -> set[str]:
    """The modules of a fresh process that ran this."""
    ended = subprocess.run(
        [sys.executable, "-c", f"{script}\nimport sys\nprint(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.split())


def test_a_server_imports_no_page_no_migrations_and_no_signatures() -> None:
    modules = imported("import proxy.serving.supervisor")
    assert {"proxy.serving.build", "proxy.oauth.client", "httpx2", "argon2", "cryptography"} <= modules
    assert modules & UNNEEDED == set()


@pytest.mark.parametrize(
    ("signs", "is_there"),
    [
        ("{}", False),
        ("{'client_secret': SecretSource('file', 'x')}", False),
        ("{'client_key': SecretSource('file', 'x'), 'client_certificate': Path('x')}", True),
        ("{'service_account': SecretSource('file', 'x')}", True),
    ],
)
def test_what_signs_is_there_before_the_fork_if_an_upstream_needs_it(signs: str, is_there: bool) -> None:
    assert ("joserfc" in imported(PRELOADED.format(signs=signs))) == is_there
