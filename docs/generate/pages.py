"""All generated pages, by their names in the repository."""

from __future__ import annotations

from pathlib import Path

from docs.generate.commands import cli_page, manual
from docs.generate.keys import configuration_page, manual_of_configuration, tables
from docs.generate.shown import security_page
from proxy.cli.grammar import grammar

ROOT = Path(__file__).parent.parent.parent


def pages() -> dict[str, str]:
    top = grammar()
    read = tables((ROOT / "config" / "gatepost.example.toml").read_text())
    return {
        "docs/cli.md": cli_page(top),
        "docs/man/gatepost.1": manual(top),
        "docs/configuration.md": configuration_page(read),
        "docs/man/gatepost.toml.5": manual_of_configuration(read),
        "docs/security-tests.md": security_page(
            (ROOT / "docs" / "security-tests.md").read_text(), (ROOT / "docs" / "outcomes.md").read_text()
        ),
    }
