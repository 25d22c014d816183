"""The dashboard, the alerts and the guide speak of what there is, and of all of it."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.daemon.readiness import ReadinessProbe
from protocol.codes import ErrorCode
from tests.admin.site import Site, running_site
from tests.conftest import Valkey

ROOT = Path(__file__).parents[2]
ALERTS = (ROOT / "conf" / "prometheus-alerts.yml").read_text()
DASHBOARD: dict[str, Any] = json.loads((ROOT / "conf" / "grafana-dashboard.json").read_text())
GUIDE = (ROOT / "docs" / "operating.md").read_text()
NAME = re.compile(r"\b(?:signalbox|process|python_gc)_[a-z_]+\b")
LABEL = re.compile(r"(\w+)=~?\"")


async def exported(valkey: Valkey) -> dict[str, str]:
    """The names of all metrics that a broker exports, as queries use them, with their types."""
    async with running_site(valkey, None) as site:
        return await _exported(site)


async def _exported(site: Site) -> dict[str, str]:
    page = (await site.ask("GET", "/metrics", token=None)).body.decode()
    found: dict[str, str] = {}
    for line in page.splitlines():
        if line.startswith("# TYPE"):
            _, _, name, kind = line.split(" ")
            suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            found |= {name + suffix: kind for suffix in suffixes}
    return found


def expressions() -> Iterator[str]:
    """Every query of the dashboard and of the alerts."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation.get("expr", "")
    for block, line in re.findall(r"^        expr: (?:\|\n((?:          .*\n)+)|(.*)$)", ALERTS, re.MULTILINE):
        yield block or line


async def test_every_metric_that_is_named_exists(valkey: Valkey) -> None:
    """A query never asks for a metric that the broker does not have."""
    names = await exported(valkey)
    asked = {name for expression in expressions() for name in NAME.findall(expression)}
    assert asked - names.keys() - {"signalbox"} == set()
    assert len(asked) > 30


async def test_rates_are_of_counters(valkey: Valkey) -> None:
    """Rates and increases are taken of what only rises, quantiles of histograms."""
    names = await exported(valkey)
    for expression in expressions():
        for name in re.findall(r"(?:rate|increase)\(([a-z_]+)", expression):
            assert names[name] in ("counter", "histogram"), expression
        for name in re.findall(r"histogram_quantile\([^a-z]*sum by \([a-z, ]+\) \(rate\(([a-z_]+)", expression):
            assert names[name] == "histogram", expression


async def test_the_guide_explains_every_metric(valkey: Valkey) -> None:
    """docs/operating.md has every metric, and none that does not exist."""
    names = {re.sub("_(bucket|sum|count)$", "", name) for name in await exported(valkey)}
    told = set(re.findall(r"`((?:signalbox|process|python_gc)_[a-z_]+)(?:\{[a-z, ]+\})?`", GUIDE))
    assert names - told == set()
    assert told - names == set()


def test_the_guide_explains_every_alert() -> None:
    """Every alert has a section of its own, in the order of the rules, and every section an alert."""
    alerts = re.findall(r"^      - alert: (\w+)$", ALERTS, re.MULTILINE)
    sections = re.findall(r"^### (Signalbox\w+)$", GUIDE, re.MULTILINE)
    assert sections == alerts
    assert ALERTS.count("severity: page") + ALERTS.count("severity: ticket") == len(alerts)


def test_the_guide_explains_every_reason() -> None:
    """Whatever a client can be refused for is in docs/operating.md; broken frames end in a close code alone."""
    assert {code for code in ErrorCode if f"`{code}`" not in GUIDE} == {ErrorCode.INVALID_FRAME}


def test_links_inside_the_guide() -> None:
    """Every link inside the guide leads to a heading."""
    titles = re.findall("^#+ (.*)$", GUIDE, re.MULTILINE)
    headings = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", GUIDE)) - headings == set()


def test_the_guide_knows_every_complaint() -> None:
    """Every warning and error that the broker can log is in the guide."""
    told = " ".join(GUIDE.split())
    complaint = re.compile(r"\.(?:warning|error|exception)\(\s*(?:f?\"[^\"]*\",\s*)?f?\"([^\"]+)\"")
    untold = {
        f"{source.name}: {text}"
        for source in (ROOT / "broker").rglob("*.py")
        if "cli" not in source.parts
        for text in complaint.findall(source.read_text())
        if f"*{text}" not in told and f"*{text.partition(':')[0]}: …*" not in told
    }
    assert untold == set(), "these want a line in the table of log lines"


def test_the_guide_explains_readiness() -> None:
    """Every code of /health/ready is in the guide's table."""
    source = Path(ReadinessProbe.check.__code__.co_filename).read_text()
    assert 'f"redis_{' in source
    codes = {"redis_commands_down", "redis_control_down", "redis_events_down"}
    codes |= set(re.findall(r"\"(draining|[a-z]+_[a-z_]+)\"", source))
    assert {code for code in codes if f"| `{code}`" not in GUIDE} == set()


def promtool(*words: str) -> None:
    """Run Prometheus's own tool; skips the test where it is not installed."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    done = subprocess.run([program, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_rules() -> None:
    """Prometheus finds nothing wrong with the alerts."""
    promtool("check", "rules", str(ROOT / "conf" / "prometheus-alerts.yml"))


def test_the_alerts_fire(tmp_path: Path) -> None:
    """A healthy broker wakes nobody, one in trouble sets off what it should."""
    file = tmp_path / "alerts-test.yml"
    text = Path(__file__).with_name("alerts-test.yml").read_text()
    file.write_text(text.replace("RULES", str(ROOT / "conf" / "prometheus-alerts.yml")))
    promtool("test", "rules", str(file))


def test_the_dashboard_is_one() -> None:
    """Grafana imports it: panels have places of their own, and every query goes to the chosen source and brokers."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
            assert 'instance=~"$instance"' in target["expr"]
