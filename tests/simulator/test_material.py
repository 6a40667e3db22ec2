"""Assets and LoRAs: closed forms, lists by pages, archiving, and the same faults as everywhere."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.simulator.server import RunningSimulator
from tests.simulator.walks import KEY, OTHER_KEY, PNG, STYLE, eventually, pictures

ASSET = {"url": "https://example.com/a.mp4", "type": "video"}


def train(vendor: httpx.Client, name: str = "woodcut") -> str:
    answer = vendor.post("/v2/loras", data=STYLE | {"name": name}, files=pictures())
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def faults_of(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 400, answer.text
    return sorted(answer.json()["details"])


def test_a_lora_is_trained_for_two_credits_and_then_ready(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    before = vendor.get("/v2/me").json()["team"]["credits"]
    lora_id = train(vendor)
    lora = eventually(lambda: (one := vendor.get(f"/v2/loras/{lora_id}").json())["isReady"] and one)
    assert (lora["status"], lora["name"], lora["imageCount"]) == ("READY", "woodcut", 15)
    assert vendor.get("/v2/me").json()["team"]["credits"] == before - 2
    simulator.tell("config", credits=1)
    assert vendor.post("/v2/loras", data=STYLE, files=pictures()).status_code == 402


@pytest.mark.parametrize(
    ("fields", "files", "named"),
    [
        ({}, pictures(), ["name"]),
        ({"name": "a person"}, pictures(), ["ethnicity", "gender"]),
        (STYLE | {"color": "red"}, pictures(), ["color"]),
        (STYLE | {"steps": "499", "loraRank": "many"}, pictures(), ["loraRank", "steps"]),
        (STYLE | {"webhookUrl": "nowhere"}, pictures(), ["webhookUrl"]),
        (STYLE | {"webhookEvents": "completed,born"}, pictures(), ["webhookEvents"]),
        (STYLE, pictures(14), ["images"]),
        (STYLE, pictures(31), ["images"]),
        (STYLE, pictures(content=b"GIF89a"), ["images"]),
        (STYLE, pictures(content=PNG + bytes(10 * 1024 * 1024)), ["images"]),
    ],
)
def test_a_form_that_is_not_well_formed_is_a_400(
    vendor: httpx.Client, fields: dict[str, Any], files: Any, named: list[str]
) -> None:
    assert faults_of(vendor.post("/v2/loras", data=fields, files=files)) == named
    assert vendor.get("/v2/loras").json()["items"] == []


def test_loras_are_listed_by_pages_and_archived_ones_on_request(vendor: httpx.Client) -> None:
    ids = [train(vendor, str(number)) for number in range(5)][::-1]
    first = vendor.get("/v2/loras?limit=2").json()
    second = vendor.get("/v2/loras", params={"limit": 3, "cursor": first["nextCursor"]}).json()
    assert [one["id"] for one in first["items"] + second["items"]] == ids
    assert second["nextCursor"] is None
    for _ in range(2):
        assert vendor.delete(f"/v2/loras/{ids[0]}").status_code == 204
    assert [one["id"] for one in vendor.get("/v2/loras").json()["items"]] == ids[1:]
    everything = vendor.get("/v2/loras?includeArchived=true").json()["items"]
    assert [one["status"] == "ARCHIVED" for one in everything] == [True, False, False, False, False]
    bad = {"limit": "0", "includeArchived": "yes", "cursor": "x"}
    assert faults_of(vendor.get("/v2/loras", params=bad)) == sorted(bad)
    assert faults_of(vendor.get(f"/v2/loras?cursor={uuid4()}")) == ["cursor"]


def test_an_asset_is_shown_in_its_providers_words(vendor: httpx.Client) -> None:
    answer = vendor.post("/v2/assets/create", json=ASSET)
    assert answer.status_code == 201
    shown = vendor.get(f"/v2/assets/{answer.json()['assetId']}").json()
    assert shown["SourceUrl"] == ASSET["url"]
    bodies: list[Any] = [{}, ASSET | {"type": "text"}, ASSET | {"url": "x"}, ASSET | {"name": "x"}, []]
    for body in bodies:
        assert faults_of(vendor.post("/v2/assets/create", json=body))
    assert vendor.post("/v2/assets/create", content=b"{").status_code == 400


def test_another_account_has_none_of_it(vendor: httpx.Client) -> None:
    lora_id, asset_id = train(vendor), vendor.post("/v2/assets/create", json=ASSET).json()["assetId"]
    vendor.headers["X-API-Key"] = OTHER_KEY
    try:
        assert vendor.get("/v2/loras").json() == {"items": [], "nextCursor": None}
        for method, path in (("GET", "loras"), ("DELETE", "loras"), ("GET", "assets")):
            thing = lora_id if path == "loras" else asset_id
            assert vendor.request(method, f"/v2/{path}/{thing}").status_code == 404
        assert faults_of(vendor.get("/v2/loras/x")) == ["id"]
    finally:
        vendor.headers["X-API-Key"] = KEY


@pytest.mark.parametrize(("fault", "status"), [("rate_limited", 429), ("server_error", 503), ("down", 503)])
def test_faults_strike_here_too(simulator: RunningSimulator, vendor: httpx.Client, fault: str, status: int) -> None:
    simulator.tell("faults", server_error_statuses=[503], **{fault: 1})
    assert vendor.post("/v2/loras", data=STYLE, files=pictures()).status_code == status
    assert vendor.post("/v2/assets/create", json=ASSET).status_code == status
    simulator.tell("faults", replace=True, read_server_error=1, server_error_statuses=[502])
    assert vendor.get("/v2/loras").status_code == 502


def test_an_accepted_lora_may_be_answered_by_a_cut(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    simulator.tell("faults", accept_then_cut=1)
    with pytest.raises(httpx.TransportError):
        vendor.post("/v2/loras", data=STYLE, files=pictures())
    assert len(vendor.get("/v2/loras").json()["items"]) == 1
