"""The guard cannot be got around, by no spelling of an address and no answer of the DNS."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from app.outbound import client, guard
from app.outbound.guard import system_lookup
from tests.outbound.servers import Names, Open, Receive, post, until


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::1]", "[::127.0.0.1]", "[::]", "0.0.0.0"),
        *("2130706433", "0x7f000001", "017700000001", "127.1", "0177.0.0.1", "127.0.0.1.", "0", "localhost"),
        *("user@127.0.0.1", "hooks.example@127.0.0.1", "127。0。0。1", "127%2e0%2e0%2e1", "hooks.example\\@127.0.0.1"),
    ],
)
async def test_no_way_to_write_this_machine_leads_to_it(receive: Receive, open_outbound: Open, host: str) -> None:
    receiver, names = await receive(), Names(["127.0.0.1"])

    reply = await post(open_outbound(allowed=(), lookup=names), receiver.url(host=host))

    assert (reply.status, reply.refused, reply.address) == (None, True, None)
    assert (reply.error or "").startswith("refused: ")
    assert (receiver.connections, names.asked) == (0, [])


async def test_a_number_is_no_host_even_if_its_address_is_allowed(receive: Receive, open_outbound: Open) -> None:
    receiver = await receive()

    for host in ("2130706433", "127.1", "0x7f.1", "127.0.0.1."):
        assert (await post(open_outbound(allowed=["127.0.0.0/8"]), receiver.url(host=host))).refused

    assert receiver.connections == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "10.0.0.1", "169.254.169.254", "fe80::1%2"])
async def test_a_name_that_leads_to_a_forbidden_address_is_refused_and_the_address_is_not_told(
    receive: Receive, open_outbound: Open, address: str
) -> None:
    receiver = await receive()

    reply = await post(open_outbound(allowed=(), lookup=lambda host: [address]), receiver.url(host="hooks.example"))

    error = "refused: hooks.example leads to no public address"
    assert (reply.status, reply.error, reply.refused, reply.address) == (None, error, True, None)
    assert receiver.connections == 0


async def test_slow_names_keep_no_name_from_being_called_that_was_resolved_before(
    receive: Receive, open_outbound: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "NAMES_KEPT_SECONDS", 0)
    receiver = await receive(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    released = threading.Event()

    def lookup(host: str) -> list[str]:
        if host.startswith("slow"):
            released.wait(60)
        return ["127.0.0.1"]

    calls = open_outbound(lookup=lookup)
    assert (await post(calls, receiver.url(host="fine.example"))).status == 200
    monkeypatch.setattr(guard, "LOOKUP_SECONDS", 0.3)
    slow = [post(calls, receiver.url(host=f"slow{number}.example")) for number in range(guard.LOOKUPS_AT_ONCE)]
    waiting = [asyncio.ensure_future(one) for one in slow]
    answered = asyncio.ensure_future(asyncio.wait(waiting))
    await until(lambda: calls._guard._looking == guard.LOOKUPS_AT_ONCE)

    known = await post(calls, receiver.url(host="fine.example"))
    unknown = await post(calls, receiver.url(host="new.example"))
    await answered
    released.set()

    assert known.status == 200
    assert unknown.error is not None
    assert "not resolved within" in unknown.error
    assert {one.result().status for one in waiting} == {None}


async def test_a_name_without_addresses_is_refused(open_outbound: Open) -> None:
    reply = await post(open_outbound(lookup=lambda host: []), "http://hooks.example/")

    assert (reply.error, reply.refused) == ("refused: hooks.example has no address", True)


async def test_of_several_addresses_the_forbidden_ones_are_left_out(receive: Receive, open_outbound: Open) -> None:
    receiver = await receive()
    calls = open_outbound(lookup=lambda host: ["10.0.0.1", "fd00::1", "127.0.0.1", "::1", "192.168.0.1"])

    # The order in which addresses are tried changes with every call that finds the name in the cache.
    replies = [await post(calls, receiver.url(host="hooks.example")) for _ in range(6)]

    assert {(reply.status, reply.address) for reply in replies} == {(200, "127.0.0.1")}


async def test_a_name_is_looked_up_once_per_connection_so_its_answer_cannot_change_in_between(
    receive: Receive, open_outbound: Open
) -> None:
    """The stand-in for a public address is 127.0.0.1, which is allowed; whoever looks twice gets a forbidden one."""
    receiver, names = await receive(), Names(["127.0.0.1"], ["10.0.0.1"])

    reply = await post(open_outbound(lookup=names), receiver.url(host="rebinding.example"))

    assert (reply.status, reply.address, names.asked) == (200, "127.0.0.1", ["rebinding.example"])


async def test_a_name_that_leads_elsewhere_later_is_judged_again(
    receive: Receive, open_outbound: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "NAMES_KEPT_SECONDS", 0)
    receiver = await receive(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    names = Names(["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1"], ["::1"])
    calls = open_outbound(lookup=names)

    replies = [await post(calls, receiver.url(host="rebinding.example")) for _ in range(4)]

    assert [(reply.status, reply.refused) for reply in replies] == [(200, False), (None, True)] * 2
    assert [reply.address for reply in replies] == ["127.0.0.1", None] * 2
    assert len(names.asked) == 4


async def test_a_name_that_first_leads_to_a_public_address_never_leads_to_this_machine(
    receive: Receive, open_outbound: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No socket is opened for the public answer, since the machine that tests run on may well have a network."""
    monkeypatch.setattr(client, "NAMES_KEPT_SECONDS", 0)
    receiver = await receive()
    opened: list[str] = []

    def no_socket(info: tuple[object, object, object, object, tuple[str, int]]) -> socket.socket:
        opened.append(info[4][0])
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(client, "_open_socket", no_socket)
    names = Names(["1.1.1.1"], ["127.0.0.1"])
    calls = open_outbound(allowed=(), lookup=names)

    first, second = [await post(calls, receiver.url(host="rebinding.example")) for _ in range(2)]

    assert (first.error, first.refused) == ("network is unreachable", False)
    assert (second.error, second.refused) == ("refused: rebinding.example leads to no public address", True)
    assert (opened, receiver.connections) == (["1.1.1.1"], 0)


async def test_calls_that_wait_for_one_look_up_are_all_told_what_came_of_it(open_outbound: Open) -> None:
    names = Names(["10.0.0.1"])
    calls = open_outbound(lookup=names)

    replies = await asyncio.gather(*(post(calls, "http://hooks.example/") for _ in range(5)))

    assert {(reply.refused, reply.error) for reply in replies} == {
        (True, "refused: hooks.example leads to no public address")
    }


async def test_an_allowed_host_may_lead_to_this_machine(receive: Receive, open_outbound: Open) -> None:
    receiver = await receive()
    calls = open_outbound(allowed=["*.hooks.internal"])

    assert (await post(calls, receiver.url(host="a.hooks.internal"))).status == 200
    assert (await post(calls, receiver.url(host="hooks.example"))).refused
    assert (await post(calls, receiver.url())).refused


def test_the_system_knows_this_machine_by_name() -> None:
    assert set(system_lookup("localhost")) & {"127.0.0.1", "::1"}
