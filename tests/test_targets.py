"""What may be called: every way to write an address that must not be, and what the operator allows besides."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from app.targets import LONGEST_URL, TargetRefused, Targets

URLS_REFUSED: Final = {
    # Not a URL that could be called
    "": "http or https",
    "hook": "http or https",
    "/hook": "http or https",
    "//hooks.example/a": "http or https",
    "hooks.example:8080/a": "http or https",
    "ftp://hooks.example/a": "http or https",
    "file:///etc/passwd": "http or https",
    "gopher://hooks.example/_x": "http or https",
    "javascript:alert(1)": "http or https",
    "http:hooks.example": "http or https",
    "http:/hooks.example": "http or https",
    "httpx://hooks.example": "http or https",
    "unix://hooks.example": "http or https",
    "http://": "a host",
    "https:///hook": "a host",
    "http://:80/": "a host",
    "http://?a": "a host",
    "http://" + "a" * LONGEST_URL: "2,048",
    "https://user@hooks.example/": "user name",
    "https://user:password@hooks.example/": "user name",
    "https://:password@hooks.example/": "user name",
    "https://@hooks.example/": "user name",
    "https://hooks.example@127.0.0.1/": "user name",
    "https://hooks.example:80@127.0.0.1/": "user name",
    "https://hooks.example\\@127.0.0.1/": "backslashes",
    "https://hooks.example\\.evil.example/": "backslashes",
    "https:\\\\hooks.example/": "backslashes",
    "https://hooks.example/a\\b": "backslashes",
    " https://hooks.example/": "whitespace",
    "https://hooks.example/ ": "whitespace",
    "https://hooks.example/a b": "whitespace",
    "https://hooks.example/a\nb": "control characters",
    "https://hooks\t.example/": "control characters",
    "https://127.0.0.\r\n1/": "control characters",
    "https://hooks.example/\x00": "control characters",
    "https://hooks.example/\x7f": "control characters",
    "https://hooks.example/\x85": "control characters",
    "https://hooks.example/\u2028": "whitespace",
    "https://hooks.example/\ud800": "control characters",
    "https://hooks.example:0/": "port",
    "https://hooks.example:65536/": "port",
    "https://hooks.example:-1/": "port",
    "https://hooks.example:+80/": "port",
    "https://hooks.example:8_0/": "port",
    "https://hooks.example:http/": "port",
    "https://hooks.example:/": "port",
    "https://hooks.example:80:80/": "port",
    "https://[2606:4700::1111]:0/": "port",
    # Hosts that others could read in another way
    "https://hööks.example/": "punycode",
    "https://hooks。example/": "punycode",
    "https://①②⑦.0.0.1/": "punycode",
    "https://127。0。0。1/": "punycode",
    "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/": "punycode",
    "https://hoo%6bs.example/": "valid name",
    "https://127%2e0%2e0%2e1/": "valid name",
    "https://hooks..example/": "valid name",
    "https://.hooks.example/": "valid name",
    "https://hooks.example../": "valid name",
    "https://./": "valid name",
    "https://-hooks.example/": "valid name",
    "https://hooks-.example/": "valid name",
    "https://hooks*.example/": "valid name",
    "https://hooks,example/": "valid name",
    "https://hooks;example/": "valid name",
    "https://" + "a" * 64 + ".example/": "valid name",
    "https://" + "a." * 127 + "example/": "valid name",
    "https://[::1": "port",
    "https://::1]/": "can be read",
    "https://[::1]x/": "can be read",
    "https://x[::1]/": "can be read",
    "https://[127.0.0.1]/": "can be read",
    "https://[hooks.example]/": "can be read",
    "https://[v1.hooks]/": "between brackets",
    "https://[:::]/": "between brackets",
    "https://[::ffff:127.1]/": "between brackets",
    "https://[::ffff:0177.0.0.1]/": "between brackets",
    # IPv4 in other forms than the usual one
    "http://2130706433/": "four decimal numbers",
    "http://017700000001/": "four decimal numbers",
    "http://0x7f000001/": "four decimal numbers",
    "http://0X7F000001/": "four decimal numbers",
    "http://0x/": "four decimal numbers",
    "http://0/": "four decimal numbers",
    "http://127.1/": "four decimal numbers",
    "http://127.0.1/": "four decimal numbers",
    "http://0177.0.0.1/": "four decimal numbers",
    "http://0x7f.1/": "four decimal numbers",
    "http://0x7f.0x0.0x0.0x1/": "four decimal numbers",
    "http://127.0.0.0x1/": "four decimal numbers",
    "http://127.0.0.01/": "four decimal numbers",
    "http://127.0.0.1./": "four decimal numbers",
    "http://1.1.1.1./": "four decimal numbers",
    "http://2130706433./": "four decimal numbers",
    "http://256.0.0.1/": "four decimal numbers",
    "http://127.0.0.1.1/": "four decimal numbers",
    "http://hooks.example.1/": "four decimal numbers",
    "http://hooks.0x7f/": "four decimal numbers",
    # This machine, by name
    "http://localhost/": "this machine",
    "http://LocalHost:8080/": "this machine",
    "http://localhost./": "this machine",
    "http://hooks.localhost/": "this machine",
    # Addresses that are what they are
    "http://127.0.0.1/": "127.0.0.1 is a loopback address",
    "http://127.0.0.1:8000/hook": "127.0.0.1 is a loopback address",
    "http://10.0.0.1/": "10.0.0.1 is a private address",
    "http://169.254.169.254/latest/meta-data/": "169.254.169.254 is a cloud metadata address",
    "http://[::1]:8000/": "::1 is a loopback address",
    "http://[0:0:0:0:0:0:0:1]/": "::1 is a loopback address",
    "http://[::FFFF:127.0.0.1]/": "127.0.0.1 is a loopback address",
    "http://[::ffff:7f00:1]/": "127.0.0.1 is a loopback address",
    "http://[fe80::1%25eth0]/": "zone",
    "http://[fe80::1%eth0]/": "zone",
    "http://[2606:4700::1111%251]/": "zone",
}

ADDRESSES_REFUSED: Final = {
    "0.0.0.0": "an unspecified",
    "0.1.2.3": "a reserved",
    "10.0.0.0": "a private",
    "10.255.255.255": "a private",
    "100.64.0.1": "a shared",
    "100.127.255.255": "a shared",
    "100.100.100.200": "a cloud metadata",
    "127.0.0.1": "a loopback",
    "127.255.255.254": "a loopback",
    "168.63.129.16": "a cloud metadata",
    "169.254.0.1": "a link-local",
    "169.254.169.254": "a cloud metadata",
    "169.254.170.2": "a cloud metadata",
    "172.16.0.1": "a private",
    "172.31.255.255": "a private",
    "192.0.0.1": "a reserved",
    "192.0.0.9": "a reserved",
    "192.0.0.192": "a cloud metadata",
    "192.0.2.1": "a documentation",
    "192.88.99.1": "a 6to4 relay's",
    "192.168.0.1": "a private",
    "198.18.0.1": "a benchmark",
    "198.19.255.255": "a benchmark",
    "198.51.100.1": "a documentation",
    "203.0.113.1": "a documentation",
    "224.0.0.1": "a multicast",
    "239.255.255.255": "a multicast",
    "240.0.0.1": "a reserved",
    "255.255.255.255": "a broadcast",
    "::": "an unspecified",
    "::1": "a loopback",
    "::2": "an IPv4-compatible",
    "::127.0.0.1": "an IPv4-compatible",
    "::1.1.1.1": "an IPv4-compatible",
    "::ffff:0:1.1.1.1": "not a public",
    "64:ff9b::127.0.0.1": "a NAT64",
    "64:ff9b::1.1.1.1": "a NAT64",
    "64:ff9b:1::1": "a NAT64",
    "100::1": "a discard",
    "2001::1": "a Teredo",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": "a Teredo",
    "2001:2::1": "a benchmark",
    "2001:10::1": "a reserved",
    "2001:20::1": "a reserved",
    "2001:1ff::1": "a reserved",
    "2001:db8::1": "a documentation",
    "2002:7f00:1::1": "a 6to4",
    "2002:101:101::1": "a 6to4",
    "3fff::1": "a documentation",
    "4000::1": "not a public",
    "5f00::1": "not a public",
    "fc00::1": "a private",
    "fd00:ec2::254": "a cloud metadata",
    "fd20:ce::254": "a cloud metadata",
    "fd12:3456::1": "a private",
    "fe80::1": "a link-local",
    "fec0::1": "a site-local",
    "ff02::1": "a multicast",
    "ff0e::1": "a multicast",
}

ADDRESSES_ADMITTED: Final = (
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
    *("128.0.0.1", "168.63.129.15", "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.0.1.1", "192.167.255.255"),
    *("192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255", "::ffff:1.1.1.1", "2001:200::1"),
    *("2001:4860:4860::8888", "2003::1", "2606:4700::1111", "2a00:1450:4001::1", "3ffe:ffff::1"),
)

URLS_ADMITTED: Final = (
    "http://hooks.example",
    "HTTPS://Hooks.Example/Path",
    "https://hooks.example:8443/a/b?c=d&e=%2F#f",
    "https://hooks.example./",
    "https://xn--hks-0qaa.example/",
    "https://hooks_1.example/",
    "https://hooks/",
    "https://1.hooks.example/",
    "https://0x7f.example/",
    "https://hooks.internal/",
    "https://localhost.example/",
    "https://notlocalhost/",
    "https://hooks.example/@/a:b",
    "https://hooks.example/?next=http://127.0.0.1/",
    "https://hooks.example/ä?ö=ü",
    "https://" + ".".join(["a" * 63] * 3) + ".example/",
    "http://1.1.1.1:8080/",
    "http://[2606:4700::1111]:8080/",
    "http://[::ffff:1.1.1.1]/",
    "http://h/" + "a" * (LONGEST_URL - 9),
)


@pytest.mark.parametrize("url", URLS_REFUSED, ids=ascii)
def test_a_url_that_must_not_be_called_is_refused_with_its_reason(url: str) -> None:
    fault = Targets().fault(url)

    assert fault is not None
    assert URLS_REFUSED[url] in fault
    assert "\n" not in fault
    assert not fault.endswith(".")
    with pytest.raises(TargetRefused) as caught:
        Targets().check(url)
    assert str(caught.value) == fault


@pytest.mark.parametrize("value", [None, 1, True, b"https://hooks.example/", ["https://hooks.example/"], {}])
def test_what_is_no_text_is_no_url(value: object) -> None:
    assert Targets().fault(value) == "Must be an http or https URL"


@pytest.mark.parametrize("url", URLS_ADMITTED, ids=ascii)
def test_a_url_that_may_be_called_is_let_through(url: str) -> None:
    assert Targets().fault(url) is None


@pytest.mark.parametrize("address", ADDRESSES_REFUSED)
def test_an_address_that_is_not_public_is_refused_wherever_it_comes_from(address: str) -> None:
    assert (
        Targets().refusal("hooks.example", address) == f"{ip_address(address)} is {ADDRESSES_REFUSED[address]} address"
    )
    literal = f"[{address}]" if ":" in address else address
    assert Targets().fault(f"http://{literal}:8080/a") == Targets().refusal("hooks.example", address)


@pytest.mark.parametrize("address", ADDRESSES_REFUSED)
def test_an_address_is_not_hidden_by_being_mapped_into_ipv6(address: str) -> None:
    if ":" not in address:
        assert Targets().refusal("hooks.example", f"::ffff:{address}") == Targets().refusal("hooks.example", address)


@pytest.mark.parametrize("address", ADDRESSES_ADMITTED)
def test_a_public_address_is_admitted(address: str) -> None:
    assert Targets().refusal("hooks.example", address) is None


@pytest.mark.parametrize("address", ["", "hooks.example", "127.1", "2130706433", "0177.0.0.1", "1.1.1.1 ", "[::1]"])
def test_what_is_no_address_is_refused_as_one(address: str) -> None:
    assert Targets(["0.0.0.0/0", "::/0"]).refusal("hooks.example", address) == f"{address} is not an IP address"


@pytest.mark.parametrize("address", ["fe80::1%eth0", "fe80::1%2", "2606:4700::1111%1", "::ffff:1.1.1.1%1"])
def test_an_address_with_a_zone_is_refused_even_if_it_is_allowed(address: str) -> None:
    assert "zone" in (Targets(["::/0", "hooks.example"]).refusal("hooks.example", address) or "")


@given(st.ip_addresses(v=4))
@example(IPv4Address("168.63.129.16"))
def test_every_ipv4_address_that_is_admitted_is_global_unicast(address: IPv4Address) -> None:
    if Targets().refusal("hooks.example", str(address)) is None:
        assert address.is_global
        assert not any((address.is_multicast, address.is_reserved, address.is_private))


@given(st.ip_addresses(v=6) | st.ip_addresses(v=6, network="2000::/3") | st.ip_addresses(v=6, network="::/64"))
def test_every_ipv6_address_that_is_admitted_is_global_unicast_or_maps_one(address: IPv6Address) -> None:
    if Targets().refusal("hooks.example", str(address)) is None:
        inner = address.ipv4_mapped or address
        assert inner.is_global
        assert not inner.is_multicast
        assert isinstance(inner, IPv4Address) or inner in IPv6Network("2000::/3")
        assert address.sixtofour is None
        assert address.teredo is None


@given(st.text(max_size=40) | st.text("/:@[]%.0x1271?#a", max_size=20).map("http://".__add__))
def test_any_text_is_either_a_url_whose_host_was_judged_or_a_fault(text: str) -> None:
    if Targets().fault(text) is not None:
        return
    read = Targets().check(text)
    assert read.scheme in ("http", "https")
    assert read.raw_host
    assert read.user is None
    assert read.password is None
    # Whoever reads the text in another way, by rewriting it, comes to the same place.
    assert URL(text).origin() == URL(str(read)).origin()
    assert 0 < (read.port or 0) < 2**16


@pytest.mark.parametrize(
    ("given_url", "sent"),
    [
        ("HTTPS://Hooks.Example:443/A?b=%2F%3d&c=a+b", "https://hooks.example:443/A?b=%2F%3d&c=a+b"),
        ("https://hooks.example/a/../%2e%2E/b//c", "https://hooks.example/a/../%2e%2E/b//c"),
        ("https://hooks.example/ä?ö", "https://hooks.example/%C3%A4?%C3%B6"),
    ],
)
def test_a_path_and_a_query_are_called_as_they_were_given(given_url: str, sent: str) -> None:
    read = Targets().check(given_url)

    assert f"{read.scheme}://{read.raw_authority}{read.raw_path_qs}" == sent


# What the operator allows


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9000/hook"),
        ("127.0.0.0/8", "http://127.9.9.9/"),
        ("127.0.0.0/8", "http://localhost:9000/"),
        ("::1", "http://localhost:9000/"),
        ("::1", "http://[::1]:9000/"),
        ("localhost", "http://localhost/"),
        ("*.localhost", "http://hooks.localhost/"),
        ("10.0.0.0/8", "http://[::ffff:10.0.0.1]/"),
        ("::ffff:10.0.0.1", "http://10.0.0.1/"),
        ("::ffff:10.0.0.0/104", "http://10.9.9.9/"),
        ("fd00::/8", "http://[fd12::1]/"),
        ("0.0.0.0/0", "http://169.254.169.254/"),
        ("::/0", "http://[64:ff9b::1]/"),
    ],
)
def test_what_is_allowed_may_be_called(allowed: str, url: str) -> None:
    assert Targets().fault(url) is not None
    assert Targets([allowed]).fault(url) is None


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("127.0.0.1", "http://127.0.0.2/"),
        ("127.0.0.0/8", "http://2130706433/"),
        ("127.0.0.0/8", "http://127.1/"),
        ("127.0.0.0/8", "http://[::127.0.0.1]/"),
        ("127.0.0.0/8", "http://[64:ff9b::127.0.0.1]/"),
        ("127.0.0.0/8", "http://user@127.0.0.1/"),
        ("10.0.0.0/8", "http://localhost/"),
        ("::/0", "http://10.0.0.1/"),
        ("hooks.localhost", "http://localhost/"),
        ("*.localhost", "http://localhost/"),
    ],
)
def test_what_is_allowed_allows_nothing_else(allowed: str, url: str) -> None:
    assert Targets([allowed]).fault(url) is not None


@pytest.mark.parametrize(
    ("allowed", "host", "may"),
    [
        ("hooks.internal", "hooks.internal", True),
        ("Hooks.Internal.", "hooks.internal", True),
        ("hooks.internal", "HOOKS.internal.", True),
        ("hooks.internal", "a.hooks.internal", False),
        ("hooks.internal", "xhooks.internal", False),
        ("hooks", "hooks", True),
        ("*.hooks.internal", "a.hooks.internal", True),
        (".hooks.internal", "a.b.hooks.internal", True),
        ("*.hooks.internal", "A.Hooks.Internal.", True),
        ("*.hooks.internal", "hooks.internal", False),
        (".hooks.internal", "xhooks.internal", False),
        ("*.hooks.internal", "a.hooks.internal.example", False),
    ],
)
def test_a_host_that_is_allowed_may_lead_anywhere(allowed: str, host: str, may: bool) -> None:
    targets = Targets(["192.168.7.7", allowed])

    assert (targets.refusal(host, "10.0.0.1") is None) is may
    assert (targets.refusal(host, "fd00::1") is None) is may
    assert targets.refusal(host, "1.1.1.1") is None


@pytest.mark.parametrize(
    "entry",
    [
        *(
            "",
            " ",
            "*",
            "*.",
            ".",
            "**.internal",
            "*internal",
            "hooks.*",
            "a..b",
            "-a",
            "hooks internal",
            "höoks.example",
        ),
        *("10.0.0.0/33", "10.0.0.1/8", "10.0.0/8", "10/8", "::/129", "::1%eth0", "[::1]", "fe80::1%1/64"),
        *("127.1", "2130706433", "0177.0.0.1", "0x7f.1", "127.0.0.1.", "127.0.0.1:80", "hooks.internal:80"),
        *("http://hooks.internal", "hooks.internal/a", "a" * 64, "hooks.0x1", "*.1"),
    ],
)
def test_an_entry_that_is_none_is_one_line_that_quotes_it(entry: str) -> None:
    with pytest.raises(ValueError, match="is ") as caught:
        Targets(["10.0.0.0/8", entry])

    assert repr(entry) in str(caught.value)
    assert "\n" not in str(caught.value)
