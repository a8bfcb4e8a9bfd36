"""Start a lab for a developer's hands: print where everything is, and wait for Ctrl-C."""

import argparse
import signal
import sys

from tests.lab import Lab, LabError


def main() -> int:
    """Run one lab until SIGINT or SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("users", nargs="*", default=["ann@example.test", "bob@example.test"])
    parser.add_argument("--auth-penalty", action="store_true", help="leave Dovecot's delay after failed logins on")
    parser.add_argument("--ttl", type=int, default=3600, metavar="SECONDS", help="life of access tokens (3600)")
    parser.add_argument("--submission", choices=("postfix", "dovecot"), help="default: postfix if root")
    arguments = parser.parse_args()
    stop_signals = {signal.SIGINT, signal.SIGTERM}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Lab.start(
            arguments.users,
            auth_penalty=arguments.auth_penalty,
            access_token_ttl_s=arguments.ttl,
            submission=arguments.submission,
        ) as lab:
            signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
            describe(lab, arguments.users)
            signal.sigwait(stop_signals)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def describe(lab: Lab, users: list[str]) -> None:
    """Print all a person needs to use the lab."""
    rows = {
        "directory": lab.directory,
        "CA": lab.ca_file,
        "IMAP": f"imaps://{lab.imaps}  imap://{lab.imap} (STARTTLS)",
        "submission": f"smtps://{lab.submissions}  smtp://{lab.submission} (STARTTLS)",
        "LMTP": lab.lmtp,
        "issuer": lab.idp.issuer,
        "client": f"{lab.idp.client_id}  secret {lab.idp.client_secret}",
        "scope": lab.idp.scope,
        "redirect URI": lab.idp.redirect_uri,
    }
    for user in users:
        rows[user] = f"password {lab.password(user)}  TOTP {lab.totp_secret(user)}  refresh {lab.refresh_token(user)}"
    for name, value in rows.items():
        print(f"{name:18} {value}")
    print("Ctrl-C stops it.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
