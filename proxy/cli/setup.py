"""`gatepost init`, `serve`, `reload`, `check`, `db upgrade`: the set-up in words and JSON, the way to the server."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from proxy.admin.finding import Finding
from proxy.cli.output import Json, complain, document, plain, say, table
from proxy.cli.person import who
from proxy.config import Config
from proxy.config.reader import load
from proxy.errors import OperatorError

SERVING_YOUNG_OBJECTS = 700  # CPython's own


def run(arguments: argparse.Namespace, config: Path) -> int:
    verbs: dict[str, Callable[[argparse.Namespace, Path], int]] = {
        "init": _init,
        "serve": _serve,
        "reload": _reload,
        "check": _check,
        "upgrade": _upgrade,
    }
    return verbs[arguments.verb](arguments, config)


def _init(arguments: argparse.Namespace, config: Path) -> int:
    from proxy.admin.setup import example_file, init  # noqa: PLC0415 - `serve` does without

    if arguments.directory is not None:
        config = Path(arguments.directory) / "gatepost.toml"
    made = init(config, datetime.now(UTC).replace(microsecond=0), who())
    if arguments.json:
        say(
            document(
                {
                    "config": str(made.config),
                    "files": [str(file) for file in made.files],
                    "certificate_names": list(made.names),
                }
            )
        )
        return 0
    say("Made:\n" + "\n".join(f"  {plain(str(file))}" for file in made.files))
    say(f"The certificate is self-signed, for {plain(', '.join(made.names))}.")
    say(f"Every key there is, with its default: {plain(str(example_file()))}")
    say("Keep a copy of master.key apart from the database: neither is of use without the other.")
    say(f"Next: put your mail server into {plain(str(made.config))}, then gatepost check --config {made.config}")
    return 0


def _serve(arguments: argparse.Namespace, config: Path) -> int:
    # A command that ends soon looks for garbage late (proxy/__main__). Here a refused login leaves a TLS connection of
    # 60 kB in a cycle, and a thousand of them would lie about.
    gc.set_threshold(SERVING_YOUNG_OBJECTS)
    if arguments.web_only:
        from proxy.web.serve import run  # noqa: PLC0415 - the page alone

        return run(config)
    from proxy.serving.supervisor import serve  # noqa: PLC0415 - the whole server

    return serve(load(config), has_page=not arguments.no_web)


def _reload(arguments: argparse.Namespace, _: Path) -> int:
    from proxy.admin import service  # noqa: PLC0415 - only here

    name = service.reload()
    say(document({"reloaded": name}) if arguments.json else f"Reloaded {plain(name)}.")
    return 0


def _check(arguments: argparse.Namespace, config: Path) -> int:
    import logging  # noqa: PLC0415 - for the probes only

    from proxy.admin import service  # noqa: PLC0415 - only here
    from proxy.doctor.checks import check  # noqa: PLC0415 - the whole server

    loaded = load(config)
    if not logging.getLogger().handlers:
        # Probes warn in the server's log; here the report says it, and stderr has one line.
        logging.getLogger().addHandler(logging.NullHandler())
    try:
        is_asked = service.must_ask(loaded)
        findings = (service.check if is_asked else check)(loaded, arguments.login, who())
    except service.NoService as error:  # which may not start for what is found here
        findings = check(loaded, arguments.login, who())
        findings = [_of_service(finding, error) for finding in findings]
    records = _dns_records(loaded) if arguments.dns else None
    return report(findings, as_json=arguments.json, records=records)


def _of_service(finding: Finding, error: OperatorError) -> Finding:
    """The master key can't be looked at from here."""
    if finding.name != "master key":
        return finding
    return Finding(finding.name, ok=False, detail=f"not looked at: {error.problem}", remedy=f"then {error.remedy}")


def _dns_records(config: Config) -> list[str]:
    from proxy.admin.dns import domains_of, records  # noqa: PLC0415 - SQLAlchemy

    return [str(record) for record in records(config, domains_of(config))]


def report(findings: Sequence[Finding], *, as_json: bool, records: Sequence[str] | None = None) -> int:
    """Print what was found, and DNS records if they were asked for; 1 if anything failed."""
    failed = sum(not finding.ok for finding in findings)
    if as_json:
        dns: Mapping[str, Json] = {} if records is None else {"dns": list(records)}
        say(document({"ok": not failed, "findings": [_record(finding) for finding in findings], **dns}))
    else:
        say(table(("CHECK", "RESULT", "DETAIL"), [_row(finding) for finding in findings], width=_UNLIMITED))
        for finding in findings:
            if finding.remedy:
                say(f"{finding.verdict}: {plain(finding.name)}: {plain(finding.remedy)}")
        if records is not None:
            say("\nTo publish (RFC 6186, RFC 8314):" if records else "\nNothing to publish: there is no account yet.")
            for record in records:
                say(plain(record))
    if failed:
        complain(f"{failed} of {len(findings)} checks failed; the report says what to do about each")
    return 1 if failed else 0


_UNLIMITED = 1_000_000  # cells: the detail of a failure is what the report is for; it wraps rather than being cut


def _row(finding: Finding) -> tuple[str, str, str]:
    return finding.name, finding.verdict, finding.detail


def _record(finding: Finding) -> Json:
    return {"name": finding.name, "result": finding.verdict, "detail": finding.detail, "remedy": finding.remedy}


def _upgrade(arguments: argparse.Namespace, config: Path) -> int:
    from proxy.admin.setup import upgrade  # noqa: PLC0415 - `serve` does without

    done = upgrade(load(config), who())
    if arguments.json:
        say(document({"before": done.before or None, "now": done.now, "master_key": done.master or None}))
        return 0
    if done.before == done.now:
        say(f"The database is up to date (schema {done.now}).")
    else:
        say(f"The database has schema {done.now} now; before: {done.before or 'empty'}.")
    if not done.master:
        say("It knows no master key yet: the service gives it one, or this command as a user who can read it.")
    return 0
