"""Times as they stand in ids: what was made before a time has an id below that time's first one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from app.clock import first_id, time_of_id

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECONDS = st.integers(0, 8000 * 365 * 86_400_000)
MILLISECOND = timedelta(milliseconds=1)


def id_of(milliseconds: int, rest: int) -> UUID:
    """A UUIDv7 as RFC 9562 lays it out: 48 bits of time, the version, 12 bits, the variant, 62 bits."""
    bits = f"{milliseconds:048b}0111{rest >> 62:012b}10{rest & (1 << 62) - 1:062b}"
    return UUID(int=int(bits, 2))


@given(MILLISECONDS, st.integers(0, (1 << 74) - 1), st.timedeltas(timedelta(0), timedelta(microseconds=999)))
def test_no_id_of_a_millisecond_is_below_its_first_and_all_of_the_one_before_are(
    milliseconds: int, rest: int, part: timedelta
) -> None:
    time = EPOCH + milliseconds * MILLISECOND + part
    assert first_id(time) == id_of(milliseconds, 0) <= id_of(milliseconds, rest) < first_id(time + MILLISECOND)
    assert time_of_id(id_of(milliseconds, rest)) == time - part


def test_ids_as_they_are_made_lie_between_the_times_before_and_after() -> None:
    before = datetime.now(UTC)
    made = uuid7()
    after = datetime.now(UTC) + MILLISECOND

    assert first_id(before) <= UUID(int=made.int) <= first_id(after + MILLISECOND)
    assert (first_id(before).version, first_id(before).variant) == (7, RFC_4122)
