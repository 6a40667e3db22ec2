"""Connections to receivers: what is read of an answer, and which connections are used again."""

from __future__ import annotations

import asyncio

import pytest

from app.outbound import connections, exchange
from tests.outbound.servers import Open, Receive, Received, post, until


async def test_answers_on_the_way_are_passed_over(
    receive: Receive, open_outbound: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 600)
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nRetry-After: 9\r\nContent-Length: 7\r\n\r\n"
    receiver, calls = await receive(interim + b"HTTP/1.1 202 Fine\r\nContent-Length: 2\r\n\r\nok"), open_outbound()

    replies = [await post(calls, receiver.url()) for _ in range(2)]

    assert [(reply.status, reply.body, reply.error) for reply in replies] == [(202, b"ok", None)] * 2
    assert receiver.connections == 1


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\nX: y\r\n\r\n",
            200,
            b"abc",
        ),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", 200, b"hi"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    ],
)
async def test_an_answer_that_ends_as_it_says_leaves_its_connection_to_the_next_call(
    receive: Receive, open_outbound: Open, monkeypatch: pytest.MonkeyPatch, answer: bytes, status: int, body: bytes
) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 600)
    receiver, calls = await receive(answer), open_outbound()

    replies = [await post(calls, receiver.url()) for _ in range(3)]

    assert {(reply.status, reply.body, reply.error) for reply in replies} == {(status, body, None)}
    assert receiver.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nho",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi and more",
        b"HTTP/1.1 101 Else\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
)
async def test_after_an_answer_that_says_so_or_says_too_much_a_connection_is_not_used_again(
    receive: Receive, open_outbound: Open, answer: bytes
) -> None:
    receiver, calls = await receive(answer), open_outbound()

    replies = [await post(calls, receiver.url()) for _ in range(2)]

    assert {reply.status for reply in replies} == {101 if b"101" in answer else 200}
    assert {reply.body for reply in replies} <= {b"hi", b""}
    assert receiver.connections == 2
    await until(lambda: receiver.open == 0)


async def test_what_comes_while_nobody_asked_is_nobody_s_answer(receive: Receive, open_outbound: Open) -> None:
    async def twice(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")

    receiver, calls = await receive(twice), open_outbound()
    assert (await post(calls, receiver.url())).status == 200
    await until(lambda: receiver.open == 0)

    assert (await post(calls, receiver.url())).status == 200
    assert receiver.connections == 2


async def test_connections_that_are_not_used_are_closed(
    receive: Receive, open_outbound: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.1)
    receiver, calls = await receive(), open_outbound()
    await asyncio.gather(*(post(calls, receiver.url()) for _ in range(3)))

    await until(lambda: receiver.open == 0)

    assert (await post(calls, receiver.url())).status == 200


async def test_an_answer_without_an_end_in_pieces_of_nothing_is_given_up(
    receive: Receive, open_outbound: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the words beside a chunk nor what follows the last one may fill the memory."""
    monkeypatch.setattr(exchange, "LONGEST_ANSWER", 10_000)

    async def endless(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
        while True:
            writer.write(b"x" * 1000)
            await writer.drain()

    receiver = await receive(endless)
    reply = await post(open_outbound(), receiver.url())

    assert (reply.status, reply.error) == (200, "the answer is not valid HTTP: it is too long")
    await until(lambda: receiver.open == 0)


async def test_headers_that_were_given_stand_in_for_ours_and_cannot_add_lines(
    receive: Receive, open_outbound: Open
) -> None:
    receiver, calls = await receive(), open_outbound()

    await calls.post(receiver.url(), b"", {"User-Agent": "mine", "accept": "x/y"}, timeout_seconds=60)
    for value in ("a\r\nX-Smuggled: 1", "a\nb", "a\rb", "é"):
        with pytest.raises(ValueError, match=r"line break|ascii"):
            await calls.post(receiver.url(), b"", {"X-Mine": value}, timeout_seconds=60)

    (request,) = receiver.requests
    assert (request.headers["user-agent"], request.headers["accept"]) == ("mine", "x/y")
    assert request.headers["accept-encoding"] == "identity"
