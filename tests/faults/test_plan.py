"""What a seed decides, and that every run puts to the test what it says."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from app.config import load_settings
from app.faults.plan import Plan, environment_for, settings_for, simulator_config, strikes, submissions


def test_the_same_seed_draws_the_same_and_another_seed_does_not() -> None:
    one, again, other = (Plan(seed=seed) for seed in (3, 3, 4))
    assert (strikes(one), submissions(one)) == (strikes(again), submissions(again))
    assert strikes(one) != strikes(other)
    assert {one.prompt for one in submissions(one)}.isdisjoint(one.prompt for one in submissions(other))
    assert simulator_config(one).seed == 3


def test_no_prompt_and_no_key_occurs_twice() -> None:
    drawn = submissions(Plan(jobs=2000))
    assert len({one.prompt for one in drawn}) == len({one.key for one in drawn}) == 2000
    assert {one.respond_async for one in drawn} == {True, False}
    assert len({one.team for one in drawn}) == 3


@pytest.mark.parametrize("seed", range(20))
def test_few_kills_hit_every_kind_and_all_of_them_fall_into_the_load(seed: int) -> None:
    drawn = strikes(Plan(jobs=100, kills=4, seed=seed))
    assert {strike.kind for strike in drawn} == {"service", "worker", "postmaster", "everything"}
    assert [strike.after for strike in drawn] == sorted(strike.after for strike in drawn)
    assert all(2 <= strike.after <= 90 for strike in drawn)


def test_some_kills_follow_at_once_and_hit_what_is_just_starting() -> None:
    after = [strike.after for seed in range(10) for strike in strikes(Plan(kills=24, seed=seed))]
    assert any(first == second for first, second in pairwise(after))


def test_nothing_of_the_environment_gets_into_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DATABASE_URL", "FRAMEHOOK_DIRECT_DATABASE_URL"):
        monkeypatch.setenv(name, "postgresql://someone@127.0.0.1:1/theirs")
    monkeypatch.setenv("FRAMEHOOK_DATA_DIR", "theirs")
    monkeypatch.setenv("APIFRAME_API_KEY", "afk_theirs")
    made = settings_for("http://127.0.0.1:1", tmp_path)
    assert (made.database_url, made.direct_database_url, made.apiframe_api_key) == (None, None, None)
    assert made.data_dir == tmp_path


def test_the_processes_get_the_same_settings_by_their_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in environment_for("http://127.0.0.1:1", tmp_path, "http://127.0.0.1:2").items():
        monkeypatch.setenv(name, value)
    expected = settings_for("http://127.0.0.1:1", tmp_path)
    assert load_settings(_env_file=None) == expected.model_copy(
        update={"public_base_url": "http://127.0.0.1:2", "log_format": "json"}
    )
