"""What is handed to Prometheus and Grafana fits what is served: every metric, every alert's runbook."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from app.ops.metrics import render_metrics
from app.simulator.server import RunningSimulator
from tests.harness import Service

ROOT: Final = Path(__file__).resolve().parents[1]
DEPLOY: Final = ROOT / "deploy"
NAME: Final = re.compile(r"\b(?:framehook_\w+|up)\b(?=[\s{\[)]|$)")
LABELS: Final = re.compile(r"(framehook_\w+)\{([^}]*)\}")
SEVERITIES: Final = {"critical", "warning", "info"}
EXPECTED: Final = {
    *(
        "FramehookDown",
        "NotReady",
        "WebhooksSilent",
        "SignaturesDoNotVerify",
        "DispatchHeld",
        "QueueOld",
        "JobsOverdue",
    ),
    *("AmbiguousJobs", "Undelivered", "OldestRetry", "SubscriptionDisabled", "FilesLate", "LoopStalled", "FeedLag"),
    *("PoolWait", "HighFailureRate", "BudgetExhausted", "LoopErrors"),
}


def read_yaml(name: str) -> Any:
    return YAML(typ="safe", pure=True).load((DEPLOY / "prometheus" / name).read_text(encoding="utf-8"))


def rules() -> list[dict[str, Any]]:
    return [rule for group in read_yaml("alerts.yml")["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DEPLOY / "grafana" / "framehook.json").read_text(encoding="utf-8"))
    return loaded


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


async def test_every_metric_that_is_asked_for_is_served(serve: Callable[..., Any], simulator: RunningSimulator) -> None:
    service: Service = await serve(simulator, loops=False)
    served: dict[str, set[str]] = {"up": {"job"}}
    for family in text_string_to_metric_families((await render_metrics(service.ctx)).decode()):
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        for suffix in suffixes:
            served[family.name + suffix] = {label for sample in family.samples for label in sample.labels}

    asked = {(where, name) for where, words in expressions() for name in NAME.findall(words)}
    assert len({name for _, name in asked}) > 30
    assert {(where, name) for where, name in asked if name not in served} == set()
    for where, words in expressions():
        for name, labels in LABELS.findall(words):
            assert set(re.findall(r"(\w+)=", labels)) <= served[name] | {"status"}, where


def test_every_alert_says_how_bad_it_is_and_where_to_read_on() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### (\w+)$", runbook, re.MULTILINE)
    assert {rule["alert"] for rule in rules()} == EXPECTED
    assert [heading for heading in headings if heading in EXPECTED] == [rule["alert"] for rule in rules()]
    for rule in rules():
        name = rule["alert"]
        assert rule["labels"]["severity"] in SEVERITIES, name
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
        assert rule["annotations"]["summary"].endswith("."), name
        assert re.fullmatch(r"\d+[mh]", rule["for"]), name
        part = runbook.split(f"\n### {name}\n")[1].split("\n##")[0]
        assert re.findall(r"^\*\*(.+?)\*\*", part, re.MULTILINE) == [
            "What one sees.",
            "What to look at.",
            "What to do.",
        ], name


@pytest.mark.parametrize("pair", ["()", "{}", "[]"])
def test_expressions_are_balanced(pair: str) -> None:
    assert [where for where, words in expressions() if words.count(pair[0]) != words.count(pair[1])] == []


def test_panels_lie_in_rows_beside_each_other_and_ask_the_chosen_source() -> None:
    board = dashboard()
    assert [one["type"] for one in board["templating"]["list"]] == ["datasource"]
    assert board["schemaVersion"] >= 38, "Grafana 10"
    panels = board["panels"]
    assert len({one["id"] for one in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for one in panels:
        place = one["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, one["title"]
        assert not cells & taken, one["title"]
        taken |= cells
        for asking in (one, *one.get("targets", ())) if one["type"] != "row" else ():
            assert asking["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, one["title"]


def test_the_example_reads_these_rules_from_where_metrics_are() -> None:
    example = read_yaml("prometheus.yml")
    assert example["rule_files"] == ["alerts.yml"]
    (scraped,) = example["scrape_configs"]
    assert (scraped["job_name"], scraped["metrics_path"]) == ("framehook", "/metrics")
