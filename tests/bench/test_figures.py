"""The arithmetic of the report: ratios to what was measured beside it, medians, percentiles, and what makes it fail."""

from __future__ import annotations

import math
from array import array

import pytest

from app.bench.figures import milliseconds, percentile, ratio, rounded, spread
from app.bench.found import Found
from app.bench.limit import _read, array_literal
from app.bench.load import Summary
from app.bench.machine import check_durable
from app.bench.plan import KINDS, MEASURES, Plan, make_plan, read_only
from app.bench.player import Played
from app.bench.report import Report
from app.bench.throughput import Sample
from app.bench.verify import Checked
from app.errors import StartupError

SAID = """
number of clients: 32
number of transactions actually processed: 1234
latency average = 2.500 ms
tps = 4321.5 (without initial connection time)
"""


def sample(variant: str, rate: int, limit: tuple[float, float], number: int = 0, wrong: int = 0) -> Sample:
    """A round of a second in which so many requests were answered, the first after 1 ms, the next after 2, and so on."""
    took = array("d", [(place + 1) / 1000 for place in range(rate)])
    summary = Summary(seconds=2.0, cpu_seconds=0.5, broken=0, ran_out=False)
    played = Played(summary, 100.0, 1.0, array("d", [100.0]) * rate, took, array("h", [200]) * rate)
    one = Sample("webhook", variant, number, played, {"service": 0.7}, Checked(rate, ["lost"] * wrong))
    one.limits = {"postgres": list(limit), "batched": [4 * each for each in limit]}
    return one


def test_a_round_is_told_in_terms_of_the_limits_beside_it_and_a_figure_is_the_median_of_its_rounds() -> None:
    report = Report(Plan(), {}, "pgbench")
    ours = [sample("one", 200, (100, 300)), sample("one", 300, (100, 100), 1), sample("one", 100, (100, 300), 2)]
    theirs = [sample("naive", 20, (100, 300)), sample("naive", 30, (100, 100), 1), sample("naive", 20, (100, 300), 2)]
    report.add_rounds("webhook", [*ours, *theirs])
    assert report.figures["webhook_vs_postgres"] == 1.0
    assert report.figures["webhook_vs_batched"] == 0.25
    assert report.figures["naive_vs_ours"] == {"webhook": 0.1}
    assert report.figures["webhook_per_second"] == 200
    assert (report.figures["webhook_p50_ms"], report.figures["webhook_p99_ms"]) == (100, 198)
    raw = report.raw["webhook"]["one"]
    assert raw["ratios"]["postgres"] == {"median": 1.0, "least": 0.5, "greatest": 3.0}
    assert raw["rounds"][0]["load_cpu_share"] == 0.25
    assert raw["rounds"][0]["limits"] == {"postgres": [100, 300], "batched": [400, 1200]}
    document = report.as_json()
    assert (document["ok"], document["acknowledged"], document["wrong"]) == (True, 670, [])


def test_one_acknowledgement_that_is_not_there_makes_the_run_fail() -> None:
    report = Report(Plan(), {}, "pgbench")
    report.add_rounds("webhook", [sample("one", 20, (10, 10), wrong=1)])
    assert (report.wrong, report.as_json()["ok"]) == (True, False)
    other = Report(Plan(), {}, "pgbench")
    other.add("idle", Found({}, {}, Checked(1, ["doubled"])))
    assert other.as_json()["wrong"] == ["doubled"]


def test_answers_after_the_time_are_acknowledged_and_do_not_count_for_the_rate() -> None:
    one = sample("one", 1500, (1, 1)).played  # the last of them took a second and a half
    assert (len(one.acknowledged), len(one.in_time), one.rate) == (1500, 1000, 1000.0)


def test_percentiles_are_of_the_nearest_rank() -> None:
    rising = [float(number) for number in range(1, 101)]
    assert [percentile(rising, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert percentile([7.0], 0.5) == percentile([7.0], 0.99) == 7
    assert math.isnan(percentile([], 0.5))
    assert rounded(math.nan) is None
    assert (rounded(1234.56), milliseconds(0.0012345)) == (1235, 1.234)
    assert ratio(3, [1, 2]) == 2
    assert spread([3, 1, 2, 10]).as_json() == {"median": 2.5, "least": 1, "greatest": 10}


def test_pgbench_is_read_and_a_batch_counts_as_what_is_in_it() -> None:
    one, batch = _read(SAID, 1, [300, 100, 200]), _read(SAID, 32, [])
    assert (one.count, one.rate, one.mean_ms, one.median_ms) == (1234, 4321.5, 2.5, 0.2)
    assert (batch.count, batch.rate, batch.median_ms) == (1234 * 32, 4321.5 * 32, None)
    with pytest.raises(StartupError, match="pgbench says something else"):
        _read("pgbench: error: connection failed", 1, [])


def test_payloads_are_written_as_postgresql_reads_an_array() -> None:
    assert array_literal(['{"a": "b\\n"}', "c"]) == r'{"{\"a\": \"b\\n\"}","c"}'


def test_a_database_that_forgets_is_refused() -> None:
    durable = dict.fromkeys(("fsync", "synchronous_commit", "full_page_writes"), "on")
    check_durable(durable)
    for name in durable:
        with pytest.raises(StartupError, match=f"{name} off"):
            check_durable(durable | {name: "off"})


def test_the_seed_decides_the_order_and_only_what_was_asked_for_is_measured() -> None:
    items = list(range(20))
    orders = [Plan(seed=seed).shuffled(items, name) for seed, name in ((0, "a"), (0, "a"), (0, "b"), (1, "a"))]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    assert set(MEASURES) - set(read_only(None)) == {"loops", "soak"}
    assert read_only("submit, idle") == ("idle", "submit")
    with pytest.raises(StartupError, match="unknown speed"):
        read_only("webhook,speed")
    asked = {"seconds": None, "rounds": None, "processes": 2, "seed": 0, "quick": False}
    assert [make_plan(only="naive", **asked).wants_rounds(kind) for kind in KINDS] == [True, True]  # type: ignore[arg-type]
    only_one = make_plan(only="submit,naive", **asked)  # type: ignore[arg-type]
    assert [only_one.wants_rounds(kind) for kind in KINDS] == [False, True]
