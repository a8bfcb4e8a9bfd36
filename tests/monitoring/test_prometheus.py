"""What ships for Prometheus and Grafana is sound, and speaks of numbers that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

from proxy.errors import ProviderFault, Refusal, UpstreamFault
from proxy.live.sessions import End
from proxy.meters import METERS, Kind
from proxy.store.rows import TokenState
from tests.needs import needs

ROOT = Path(__file__).parents[2]
RULES = ROOT / "config" / "prometheus" / "gatepost.rules.yml"
RULE_TESTS = Path(__file__).parent / "gatepost.rules.test.yml"
DASHBOARD = ROOT / "config" / "grafana" / "gatepost.json"
PAGE = ROOT / "docs" / "monitoring.md"
PATIENCE_S = 60


def promtool(*words: str, cwd: Path) -> str:
    done = subprocess.run(
        [needs("promtool", "prometheus"), *words], cwd=cwd, text=True, timeout=PATIENCE_S, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def series() -> set[str]:
    """Every name that /metrics can have."""
    names = {"gatepost_workers", "gatepost_build_info"}
    for meter in METERS:
        ends = {Kind.COUNTER: ("_total",), Kind.GAUGE: ("",), Kind.HISTOGRAM: ("_bucket", "_sum", "_count")}[meter.kind]
        names |= {meter.name + end for end in ends}
    return names


def expressions() -> list[str]:
    return [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]


def test_every_alert_comes_when_it_should_and_a_quiet_day_brings_none(tmp_path: Path) -> None:
    for file in (RULES, RULE_TESTS):
        shutil.copy(file, tmp_path)
    assert "SUCCESS" in promtool("check", "rules", RULES.name, cwd=tmp_path)
    assert "SUCCESS" in promtool("test", "rules", RULE_TESTS.name, cwd=tmp_path)
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    tested = RULE_TESTS.read_text()
    assert len(alerts) > 10
    assert [name for name in alerts if not re.search(rf"alertname: {name}\n +exp_alerts:", tested)] == []


def test_every_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    lines = ["groups:", "  - name: dashboard", "    rules:"]
    for number, expression in enumerate(expressions()):
        text = expression.replace("$__rate_interval", "5m").replace("$job", "gatepost").replace("$instance", ".*")
        lines += [f"      - record: dashboard:{number}", f"        expr: {json.dumps(text)}"]
    (tmp_path / "rules.yml").write_text("\n".join(lines) + "\n")
    assert f"{len(expressions())} rules found" in promtool("check", "rules", "rules.yml", cwd=tmp_path)


def test_rules_and_dashboard_speak_of_numbers_that_exist() -> None:
    known = series()
    text = RULES.read_text() + "\n".join(expressions())
    used = set(re.findall(r"\bgatepost_\w+", text))
    assert used
    assert used <= known
    shown = set(re.findall(r"\bgatepost_\w+", "\n".join(expressions())))
    for meter in METERS:
        assert any(name.startswith(meter.name) for name in shown), f"{meter.name} is nowhere on the dashboard"


def test_the_words_in_the_queries_are_ones_that_gatepost_says() -> None:
    said = {
        "cause": {one.value for one in Refusal},
        "fault": {one.value for one in UpstreamFault},
        "reason": {one.value for one in End},
        "token_state": {one.value for one in TokenState},
        "outcome": {"ok", "refused"} | {one.value for one in ProviderFault},
        "is": {"accepting", "configured"},
    }
    text = re.sub(r"\s+", " ", RULES.read_text()) + "\n".join(expressions())
    found = re.findall(r'(\w+)=~?"([\w|]+)"', text)
    assert len(found) > 15
    for label, words in found:
        if label in said:
            assert set(words.split("|")) <= said[label], (label, words)


def test_the_dashboard_has_a_place_of_its_own_for_each_panel() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_page_names_every_number_and_every_alert() -> None:
    page = PAGE.read_text()
    for meter in METERS:
        name = meter.name + ("_total" if meter.kind is Kind.COUNTER else "")
        assert f"`{name}`" in page, name
    for alert in re.findall(r"- alert: (\w+)", RULES.read_text()):
        assert f"`{alert}`" in page, alert
