"""The pages for operators hold what they promise: commands parse, snippets load, links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.cli.accounts import _TOKEN_WORDS
from proxy.cli.arguments import parser
from proxy.cli.audit import _record
from proxy.config.presets import preset, preset_names
from proxy.config.reader import load
from proxy.errors import ConfigError
from proxy.record.hooks import __doc__ as alert_contract
from proxy.store.audit_rows import Entry, Event
from proxy.store.rows import TokenState

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# What a snippet leaves out. The upstream is for the listeners: a snippet's own may have one protocol only.
REST = {
    "listen": """
[[listen]]
protocol = "imap"
address = "127.0.0.1:0"
tls = "none"

[[listen]]
protocol = "smtp"
address = "127.0.0.1:0"
tls = "none"
""",
    "upstream": """
[upstream.rest]
imap = "imaps://rest.example.com"
smtp = "smtps://rest.example.com"
auth = "password"
""",
}
_FENCE = re.compile(r" *```(\w*)$")
_INLINE = re.compile(r"`(gatepost [^`]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"#{1,6} (.*)")
_REDIRECTION = re.compile(r"\s[0-9]?[<>]{1,2}\s*\S+")


@dataclass(frozen=True)
class Block:
    """A block of code: fenced, or indented by four columns more than the text around it."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    language: str | None = None
    begin, lines, before = 0, [], ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if language is not None:
            if fence:
                yield Block(page, begin, language, "\n".join(lines) + "\n")
                language, lines = None, []
            else:
                lines.append(line)
        elif fence:
            language, begin = fence[1], number
        elif line.startswith("    ") and (lines or not before.strip()):
            begin = begin if lines else number
            lines.append(line.strip())
        elif lines:
            yield Block(page, begin, "", "\n".join(lines) + "\n")
            lines = []
        before = line
    assert language is None, f"{page}: a fence is left open"
    if lines:
        yield Block(page, begin, "", "\n".join(lines) + "\n")


BLOCKS = [block for page in PAGES for block in blocks(page)]
TOML = [block for block in BLOCKS if block.language == "toml"]


def commands() -> Iterator[tuple[str, str]]:
    for block in BLOCKS:
        if block.language in ("", "sh", "console"):
            for line in block.text.replace("\\\n", " ").splitlines():
                for part in re.split(r"\|\|?|&&|;(?= )", line):
                    if re.match(r"\s*(\$ )?(sudo (-u \S+ )?)?gatepost\b", part):
                        yield str(block), part


COMMANDS = list(commands())


def words(command: str) -> list[str]:
    """The arguments of a command line, as a shell would give them."""
    found = shlex.split(_REDIRECTION.sub("", command), comments=True)
    return found[found.index("gatepost") + 1 :]


@pytest.mark.parametrize(("where", "command"), COMMANDS, ids=[f"{where} {command}" for where, command in COMMANDS])
def test_commands_in_blocks_parse(where, command, capsys) -> None:
    if {"--help", "--version"} & set(words(command)):
        return
    try:
        arguments = parser().parse_args(words(command))
    except SystemExit:
        pytest.fail(f"{where}: {command}: {capsys.readouterr().err}")
    if arguments.verb == "create" and (arguments.device or arguments.paste):
        assert arguments.sign_in, f"{where}: {command}"


def test_commands_in_the_text_name_verbs_and_options_that_exist(capsys) -> None:
    for page in PAGES:
        for found in _INLINE.findall(page.read_text().replace("\n", " ")):
            said = shlex.split(re.sub(r" {2,}", " ", found))[1:]
            verbs = [word for word in said[:2] if word.islower() and word.isalpha()]
            options = {word for word in said if word.startswith("--")}
            if options == {"--help"} and not verbs:
                continue
            shown = help_of(verbs, capsys) or help_of(verbs[:1], capsys)
            assert shown, f"{page.name}: {found}"
            assert options <= set(re.findall(r"--[a-z-]+", shown)), f"{page.name}: {found}"


def help_of(verbs: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as end:
        parser().parse_args([*verbs, "--help"])
    return capsys.readouterr().out if end.value.code == 0 else ""


def test_there_is_something_to_test() -> None:
    assert len(COMMANDS) > 50
    assert len(TOML) > 15
    assert {block.page.name for block in TOML} >= {
        "microsoft365.md",
        "outlook.md",
        "gmail.md",
        "generic.md",
        "tokens.md",
    }


@pytest.mark.parametrize("block", TOML, ids=str)
def test_snippets_are_configurations(block, tmp_path) -> None:
    config = load(composed(block.text, tmp_path))
    assert set(tomllib.loads(block.text).get("upstream", {})) <= set(config.upstreams)


def composed(text: str, directory: Path) -> Path:
    """A configuration of a snippet and the rest of one."""
    there = tomllib.loads(text)
    file = directory / "gatepost.toml"
    file.write_text(text + REST["upstream"] + ("" if "listen" in there else REST["listen"]))
    return file


def test_a_wrong_snippet_would_be_noticed(tmp_path) -> None:
    with pytest.raises(ConfigError):
        load(composed('[upstream.office]\npreset = "microsoft356"\n', tmp_path))


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "json"], ids=str)
def test_json_is_json(block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page) -> None:
    for target in _LINK.findall(page.read_text()):
        if not target.startswith("https://"):
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            assert file.is_file(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to headings."""
    in_code = False
    found = set()
    for line in page.read_text().splitlines():
        in_code ^= _FENCE.match(line) is not None
        if not in_code and (heading := _HEADING.match(line)):
            found.add(re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-"))
    return found


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert [page.name for page in PAGES if page.parent.name == "docs" and f"({page.name})" not in index] == [
        "README.md"
    ]


def test_every_preset_has_a_snippet() -> None:
    used = {table.get("preset") for block in TOML for table in tomllib.loads(block.text).get("upstream", {}).values()}
    assert used >= set(preset_names())


def test_the_page_on_tokens_knows_every_state_and_every_limit() -> None:
    text = (ROOT / "docs" / "tokens.md").read_text()
    for state in TokenState:
        assert f"| {_TOKEN_WORDS[state]} | `{state.value}` |" in text
    for name in preset_names():
        limits = preset(name).values["limits"]
        line = next(line for line in text.splitlines() if line.startswith("|") and f"`{name}`" in line)
        assert f"| {limits['imap']} | {limits['smtp']} |" in line


def test_the_page_on_app_passwords_knows_every_event_and_field_of_the_audit() -> None:
    text = (ROOT / "docs" / "app-passwords.md").read_text()
    for event in Event:
        assert f"`{event.value}`" in text
    (shown,) = [
        json.loads(block.text) for block in BLOCKS if block.page.name == "app-passwords.md" and block.language == "json"
    ]
    assert list(shown) == list(_record(Entry(datetime.now(UTC), Event.USED, "client")))


def test_the_page_on_tokens_knows_the_contract_of_alerts() -> None:
    assert alert_contract is not None
    text = (ROOT / "docs" / "tokens.md").read_text()
    for word in set(re.findall(r'"([a-z_]+)"', alert_contract)) - {"invalid_grant", "office"}:  # examples
        assert f"`{word}`" in text, word
