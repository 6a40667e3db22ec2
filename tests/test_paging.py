"""Cursors: what was written is read back to the microsecond, and whatever else is sent for one is refused."""

from __future__ import annotations

import base64
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Invalid
from app.paging import Cursor

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIMES = st.timedeltas(timedelta(0), timedelta(days=8000 * 365)).map(lambda since: EPOCH + since)
CURSORS = st.builds(Cursor, TIMES, st.uuids())


@given(CURSORS)
def test_a_cursor_is_read_back_as_it_was_written(cursor: Cursor) -> None:
    assert Cursor.parse(str(cursor)) == cursor


@given(CURSORS)
def test_a_cursor_tells_microseconds_and_ids_apart(cursor: Cursor) -> None:
    later = Cursor(cursor.created_at + timedelta(microseconds=1), cursor.id)
    other = Cursor(cursor.created_at, UUID(int=cursor.id.int ^ 1))

    assert len({str(cursor), str(later), str(other)}) == 3


@given(CURSORS)
def test_a_cursor_needs_no_escaping_in_a_query(cursor: Cursor) -> None:
    assert set(str(cursor)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(st.text() | st.binary(max_size=40).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_anything_is_a_cursor_or_refused_as_one(text: str) -> None:
    """Nothing but Invalid is raised, whatever time the bytes would stand for."""
    cursor = None
    with suppress(Invalid):
        cursor = Cursor.parse(text)

    assert cursor is None or Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        str(Cursor(datetime(2026, 1, 1, tzinfo=UTC), UUID(int=1)))[:-1],
        str(Cursor(datetime(2026, 1, 1, tzinfo=UTC), UUID(int=1))) + "A",
        " " + str(Cursor(datetime(2026, 1, 1, tzinfo=UTC), UUID(int=1))),
        base64.urlsafe_b64encode(b"\xff" * 24).decode(),
        base64.urlsafe_b64encode(b"\x00" * 23).decode(),
        base64.urlsafe_b64encode(b"\x00" * 25).decode(),
        "\u00e9" * 32,
    ],
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        Cursor.parse(text)

    assert list(caught.value.body["details"]) == ["cursor"]
