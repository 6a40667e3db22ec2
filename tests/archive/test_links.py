"""Signed links: they open one file, without a key, until their end, and nothing that was changed about them does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.apiframe.signature import WEBHOOK_PATH
from app.archive.links import GOOD_FOR, Links, is_signed
from app.events.tickets import make_ticket, read_ticket
from app.simulator.server import RunningSimulator
from tests.archive.stories import Archive, Simulate, archiving, get_anonymously
from tests.harness import FrozenClock, held_job, refused
from tests.media import png
from tests.objects import Place
from tests.sources import Source

PICTURE: Final = png(30, 30, seed=1)
OTHER: Final = png(30, 30, seed=2)

NOW: Final = datetime(2026, 3, 4, 5, 6, 7, 890_000, tzinfo=UTC)
FILE: Final = UUID("01987c5e-7a2b-7c3d-8e4f-5a6b7c8d9e0f")
SECRET: Final = b"a secret of the tests"


@pytest.fixture
async def files(archive: Archive, source: Source) -> list[dict[str, Any]]:
    """Two kept pictures."""
    return await archive.kept(source.serve("a.png", PICTURE), source.serve("b.png", OTHER))


async def link_to(archive: Archive, file: dict[str, Any], **body: Any) -> dict[str, Any]:
    answer = await archive.service.caller.http.post(f"/v1/files/{file['id']}/links", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


async def test_a_link_opens_its_file_without_a_key(archive: Archive, files: list[dict[str, Any]]) -> None:
    file, other = files
    url = (await link_to(archive, file))["url"]
    assert url.startswith(f"{file['url']}?")
    answer = await get_anonymously(url)
    assert (answer.status_code, answer.content) == (200, PICTURE)
    part = await get_anonymously(url, Range="bytes=-5")
    assert (part.status_code, part.content) == (206, PICTURE[-5:])
    query = urlsplit(url).query
    thumbnail = await get_anonymously(f"{file['thumbnailUrl']}?{query}")
    assert (thumbnail.status_code, thumbnail.headers["Content-Type"]) == (200, "image/webp")
    saved = await get_anonymously(f"{url}&download=true")
    assert saved.headers["Content-Disposition"].startswith("attachment")
    for path in (other["url"], other["thumbnailUrl"], f"{archive.service.url}/v1/files/{FILE}"):
        refused(await get_anonymously(f"{path}?{query}"), 404)
    async with archive.service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql(f"UPDATE files SET status = 'deleted' WHERE id = '{file['id']}'")
    refused(await get_anonymously(url), 404)


async def test_a_link_is_good_for_a_day_or_as_long_as_was_asked_for_to_the_second(
    archive: Archive, files: list[dict[str, Any]]
) -> None:
    clock = archive.service.ctx.clock = FrozenClock()
    begun = clock.time = NOW
    whole = begun.replace(microsecond=0)
    wanted = ((None, 86_400), (1, 1), (90, 90), (30 * 86_400, 30 * 86_400))
    for asked, seconds in wanted:
        clock.time = begun
        made = await link_to(archive, files[0], **({} if asked is None else {"expiresIn": asked}))
        end = whole + timedelta(seconds=seconds)
        assert datetime.fromisoformat(made["expiresAt"]) == end
        assert query_of(made["url"])["expires"] == str(int(end.timestamp()))
        clock.time = end - timedelta(milliseconds=1)
        assert (await get_anonymously(made["url"])).content == PICTURE
        clock.time = end
        assert "over" in refused(await get_anonymously(made["url"]), 404)["error"]


async def test_a_link_is_made_without_a_body_too(archive: Archive, files: list[dict[str, Any]]) -> None:
    answer = await archive.service.caller.http.post(f"/v1/files/{files[0]['id']}/links")
    assert answer.status_code == 201
    assert (await get_anonymously(answer.json()["url"])).content == PICTURE


async def test_a_link_for_no_time_or_too_much_is_refused(archive: Archive, files: list[dict[str, Any]]) -> None:
    path = f"/v1/files/{files[0]['id']}/links"
    wrongs: tuple[Any, ...] = (0, -1, 30 * 86_400 + 1, 10**30, 1.5, "60", True, None, [], {})
    for wrong in wrongs:
        body = refused(await archive.service.caller.http.post(path, json={"expiresIn": wrong}), 400)
        assert list(body["details"]) == ["expiresIn"], wrong
    for nonsense in (b"[]", b"{", b'"x"', b"\xff"):
        refused(await archive.service.caller.http.post(path, content=nonsense), 400)
    refused(await archive.service.caller.http.post(path, content=b" " * 2000), 413)


async def test_links_are_made_by_those_who_may_read_the_file(
    archive: Archive, files: list[dict[str, Any]], source: Source
) -> None:
    service, path = archive.service, f"/v1/files/{files[0]['id']}/links"
    stranger, submitter = await service.new_caller("strangers"), await service.new_caller("tests", ("submit",))
    operator = await service.new_caller("ops", ("ops",))
    refused(await stranger.http.post(path), 404)
    refused(await submitter.http.post(path), 403)
    refused(await service.caller.http.post(path, headers={"X-API-Key": "fh_live_nobody"}), 401)
    refused(await service.caller.http.post("/v1/files/x/links"), 404)
    made = await operator.http.post(path)
    assert (await get_anonymously(made.json()["url"])).content == PICTURE
    job_id = await archive.job({"images": [source.serve("c.png", PICTURE, declared_length=10**12)]})
    await archive.settled(job_id)
    (failed,) = await archive.files(job_id)
    refused(await service.caller.http.post(f"/v1/files/{failed.id}/links"), 404)


async def test_a_link_cannot_be_made_by_a_link(archive: Archive, files: list[dict[str, Any]]) -> None:
    query = urlsplit((await link_to(archive, files[0]))["url"]).query
    stranger = await archive.service.new_caller("strangers")
    refused(await stranger.http.post(f"/v1/files/{files[0]['id']}/links?{query}"), 404)


async def test_links_outlive_a_change_of_the_secret_that_is_still_named(
    database_url: str, simulate: Simulate, source: Source, place: Place
) -> None:
    async with archiving(database_url, simulate, place, secret_key="the-first-secret-of-the-tests") as archive:
        (file,) = await archive.kept(source.serve("a.png", PICTURE))
        path = (await link_to(archive, file))["url"].removeprefix(archive.service.url)
    secrets: dict[str, Any] = {"secret_key": "the-second-secret-of-the-tests"}
    previous: dict[str, Any] = {"previous_secret_key": "the-first-secret-of-the-tests"}
    async with archiving(database_url, simulate, place, **secrets | previous) as archive:
        assert (await get_anonymously(archive.service.url + path)).content == PICTURE
    async with archiving(database_url, simulate, place, **secrets) as archive:
        refused(await get_anonymously(archive.service.url + path), 404)


async def test_tickets_and_webhook_tokens_open_no_file_and_links_no_stream(
    database_url: str, simulate: Callable[..., RunningSimulator], source: Source, place: Place
) -> None:
    async with archiving(database_url, simulate, place) as archive:
        (file,) = await archive.kept(source.serve("a.png", PICTURE))
        query = query_of((await link_to(archive, file))["url"])
        http = archive.service.caller.http
        ticket = (await http.post("/v1/events/tickets")).json()["ticket"]
        held = await held_job(archive.service, archive.simulator)
        token = held.url.rpartition("/")[2]
        for other in (ticket, token):
            changed = urlencode(query | {"signature": other})
            refused(await get_anonymously(f"{file['url']}?{changed}"), 404)
        stream = f"{archive.service.url}/v1/jobs/{held.id}/events/stream"
        refused(await get_anonymously(f"{stream}?ticket={query['signature']}"), 401)
        webhook = archive.service.url + WEBHOOK_PATH.format(job_id=held.id, token=query["signature"])
        assert (await http.post(webhook, content=b"{}")).status_code in (401, 403, 404)


# Links in themselves


def test_a_link_of_a_result_is_the_same_for_an_hour_and_opens_for_a_day_at_least() -> None:
    ends = set()
    for minutes in range(60):
        now = NOW.replace(minute=minutes)
        (end,) = parse_qs(urlsplit(Links("https://x.example", SECRET, now).signed(FILE)).query)["expires"]
        assert GOOD_FOR <= datetime.fromtimestamp(int(end), UTC) - now <= GOOD_FOR + timedelta(hours=1)
        ends.add(end)
    assert len(ends) == 1


SIGNED: Final = query_of(Links("https://x.example", SECRET, NOW).signed(FILE, NOW + timedelta(hours=1)))


def opens(query: dict[str, str], *, file_id: UUID = FILE, secrets: tuple[bytes, ...] = (SECRET,)) -> bool:
    return is_signed(query, file_id, secrets, NOW)


def test_a_link_is_good_for_its_file_under_any_of_our_secrets_only() -> None:
    assert opens(SIGNED)
    assert opens(SIGNED, secrets=(b"new", SECRET))
    assert not opens(SIGNED, secrets=(b"new",))
    assert not opens(SIGNED, secrets=())
    assert not opens(SIGNED, file_id=UUID(int=FILE.int + 1))
    assert not opens({})
    assert not opens({"signature": SIGNED["signature"]})


texts = st.one_of(st.text(), st.from_regex(r"[0-9]{1,12}", fullmatch=True), st.integers().map(str))


@given(texts.filter(lambda text: text != SIGNED["expires"]))
def test_a_link_whose_end_was_changed_is_refused(end: str) -> None:
    assert not opens(SIGNED | {"expires": end})


@given(st.data())
def test_a_link_with_any_change_of_its_signature_is_refused(data: st.DataObject) -> None:
    """Also those that base64 would read as the same bytes."""
    good = SIGNED["signature"]
    at = data.draw(st.integers(0, len(good)))
    width = data.draw(st.integers(0, 3))
    put = data.draw(st.text("ABCXYZabcxyz0189-_+/= \n%é☃", max_size=3))
    changed = good[:at] + put + good[at + width :]
    assert opens(SIGNED | {"signature": changed}) is (changed == good)


def test_no_other_writing_of_the_same_link_opens() -> None:
    signature, end = SIGNED["signature"], SIGNED["expires"]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    others = [signature[:-1] + letter for letter in letters if letter != signature[-1]]
    for other in (*others, f"{signature}=", signature.replace("-", "+").replace("_", "/") + "=", f"{signature}\n"):
        assert not opens(SIGNED | {"signature": other}), other
    for other in (f"0{end}", f"+{end}", f" {end}", f"{end}.0", f"{end[:-1]}_{end[-1]}", end.translate(ARABIC)):
        assert not opens(SIGNED | {"expires": other}), other


ARABIC: Final = {ord(str(digit)): chr(0x0660 + digit) for digit in range(10)}


@given(st.uuids(), st.integers(1, 10**10), st.binary(min_size=1, max_size=64))
def test_what_seals_a_link_seals_no_ticket_and_the_other_way_round(id_: UUID, seconds: int, secret: bytes) -> None:
    """Both are an id and a time under the same secret."""
    end = datetime.fromtimestamp(seconds, UTC)
    query = query_of(Links("https://x.example", secret, NOW).signed(id_, end))
    ticket = make_ticket(secret, id_, end)
    before = end - timedelta(seconds=1)
    assert is_signed(query, id_, (secret,), before)
    assert read_ticket(ticket, (secret,), before) == id_
    assert read_ticket(query["signature"], (secret,), before) is None
    assert not is_signed({"expires": str(seconds), "signature": ticket}, id_, (secret,), before)
    assert not is_signed({"expires": str(seconds), "signature": ticket[32:]}, id_, (secret,), before)
