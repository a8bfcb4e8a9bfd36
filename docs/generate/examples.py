"""An example for every command, as docs/cli.md shows it. tests/test_docs_run.py runs them from top to bottom.

c69a72db3c is the id of the app password that was made last, 6d1f0c2a9be3 that of a live session.
"""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "init": ("gatepost init /etc/gatepost",),
    "serve": ("gatepost serve",),
    "reload": ("gatepost reload",),
    "check": ("gatepost check", "gatepost check --login ann@example.com --json"),
    "db upgrade": ("gatepost db upgrade",),
    "account add": (
        "gatepost account add ann@example.com --upstream office --alias ann",
        "gatepost account add box@example.com --upstream old --password-stdin < password",
    ),
    "account connect": ("gatepost account connect ann@example.com --paste",),
    "account list": ("gatepost account list",),
    "account show": ("gatepost account show ann@example.com",),
    "account remove": ("gatepost account remove box@example.com",),
    "account disable": ("gatepost account disable ann@example.com",),
    "account enable": ("gatepost account enable ann@example.com",),
    "account alias": (
        "gatepost account alias ann@example.com add scanner2",
        "gatepost account alias ann@example.com remove scanner2",
    ),
    "account grant": ("gatepost account grant team@example.com --to ann@example.com",),
    "account revoke-grant": ("gatepost account revoke-grant team@example.com --from ann@example.com",),
    "create": (
        'gatepost create ann@example.com --name "Scanner, 2nd floor" --protocol smtp --from 192.0.2.0/24 --expires 90d',
    ),
    "list": ("gatepost list ann@example.com", "gatepost list --json"),
    "show": ("gatepost show c69a72db3c",),
    "revoke": (
        "gatepost revoke c69a72db3c",
        'gatepost revoke --account ann@example.com --name "Scanner, 2nd floor"',
        "gatepost revoke --account ann@example.com --all",
    ),
    "rotate": ("gatepost rotate c69a72db3c --overlap 7d",),
    "suspend": ("gatepost suspend c69a72db3c",),
    "resume": ("gatepost resume c69a72db3c",),
    "sessions": ("gatepost sessions --account ann@example.com",),
    "sessions kick": ("gatepost sessions kick 6d1f0c2a9be3",),
    "audit": ("gatepost audit --account ann@example.com --since 7d", "gatepost audit --event refused --jsonl"),
    "key rotate": ("gatepost key rotate",),
    "key new": ("gatepost key new | systemd-creds encrypt --name=gatepost-master - new.cred",),
    "backup": ("gatepost backup /var/backups/gatepost-2026-11-26",),
    "restore": ("gatepost restore /var/backups/gatepost-2026-11-26",),
    "completion": ("gatepost completion bash > gatepost.bash",),
}
