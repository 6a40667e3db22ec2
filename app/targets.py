"""Which addresses outside of this service may be called, for URLs that others give us: the guard against SSRF.

Whatever is not known to be a public address is refused, unless the operator allows it.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import quote

from yarl import URL

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LONGEST_URL: Final = 2048
LONGEST_SOURCE: Final = 8192
"""Characters: of a URL that somebody gave us, and of one that a file is fetched from, which a signature may make longer."""

LONGEST_HOST: Final = 253
"""Characters, without the dot at the end (RFC 1035, 2.3.4)."""

_NO_URL: Final = "Must be an http or https URL"
_URL: Final = re.compile(r"(https?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_UNFIT: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff\\]")
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMERIC: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")
"""Hosts that are addresses or nothing: their last label is a number (WHATWG URL, "ends in a number checker")."""

_SPECIAL: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ip_network(network), f"{meaning} address")
    for network, meaning in (
        # What clouds tell their machines about themselves, keys included. Azure's looks public.
        ("169.254.169.254", "a cloud metadata"),
        ("169.254.170.2", "a cloud metadata"),
        ("100.100.100.200", "a cloud metadata"),
        ("168.63.129.16", "a cloud metadata"),
        ("192.0.0.192", "a cloud metadata"),
        ("fd00:ec2::254", "a cloud metadata"),
        ("fd20:ce::254", "a cloud metadata"),
        # The registry of special addresses (RFC 6890 and IANA's iana-ipv4-special-registry).
        ("0.0.0.0/32", "an unspecified"),
        ("0.0.0.0/8", "a reserved"),
        ("10.0.0.0/8", "a private"),
        ("100.64.0.0/10", "a shared"),
        ("127.0.0.0/8", "a loopback"),
        ("169.254.0.0/16", "a link-local"),
        ("172.16.0.0/12", "a private"),
        ("192.0.0.0/24", "a reserved"),
        ("192.0.2.0/24", "a documentation"),
        ("192.88.99.0/24", "a 6to4 relay's"),
        ("192.168.0.0/16", "a private"),
        ("198.18.0.0/15", "a benchmark"),
        ("198.51.100.0/24", "a documentation"),
        ("203.0.113.0/24", "a documentation"),
        ("224.0.0.0/4", "a multicast"),
        ("255.255.255.255", "a broadcast"),
        ("240.0.0.0/4", "a reserved"),
        # The same for IPv6; some of these carry an IPv4 address that somebody on the way would take out again.
        ("::", "an unspecified"),
        ("::1", "a loopback"),
        ("::/96", "an IPv4-compatible"),
        ("64:ff9b::/96", "a NAT64"),
        ("64:ff9b:1::/48", "a NAT64"),
        ("100::/64", "a discard"),
        ("2001::/32", "a Teredo"),
        ("2001:2::/48", "a benchmark"),
        ("2001::/23", "a reserved"),
        ("2001:db8::/32", "a documentation"),
        ("2002::/16", "a 6to4"),
        ("3fff::/20", "a documentation"),
        ("fc00::/7", "a private"),
        ("fe80::/10", "a link-local"),
        ("fec0::/10", "a site-local"),
        ("ff00::/8", "a multicast"),
    )
)
"""Addresses that are no public ones, and what they are; the first network that an address is in says it."""

_PUBLIC_V6: Final = IPv6Network("2000::/3")
"""All that was ever given out as global unicast (RFC 4291, 2.4, and IANA's ipv6-address-space)."""

_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_LOOPBACK: Final = ("127.0.0.1", "::1")


class TargetRefused(Exception):
    """A URL or an address must not be called; the message is one sentence that says why, without its full stop."""


class Targets:
    """What may be called: the public addresses, and what the operator allows besides."""

    def __init__(self, allowed: Sequence[str] = (), *, longest_url: int = LONGEST_URL) -> None:
        """Allow addresses, networks (`10.1.0.0/16`), hosts (`hooks.internal`) and the names below one (`*.internal`).

        Raises ValueError, with one line that quotes the entry, for anything else.
        """
        entries = [entry.lower() for entry in allowed]
        networks = [_read_network(entry) for entry in entries]
        names = [_read_pattern(entry) for entry, network in zip(entries, networks, strict=True) if network is None]
        self._networks = tuple(network for network in networks if network is not None)
        self._names = frozenset(name for name in names if not name.startswith("."))
        self._suffixes = tuple(name for name in names if name.startswith("."))
        self._longest_url = longest_url

    def check(self, url: str) -> URL:
        """Read a URL that is to be called; raise TargetRefused for what can be seen without asking the DNS.

        What is returned holds the very characters that were given, but for the authority in lower case and non-ASCII
        characters behind it, which are percent-encoded. Where its host is a name, ask `refusal` what that leads to.
        """
        read = _read_url(url, self._longest_url)
        host = read.raw_host or ""
        if (fault := _host_fault(host, bracketed="[" in read.raw_authority)) is not None:
            raise TargetRefused(fault)
        if is_address(host) and (fault := self.refusal(host, host)) is not None:
            raise TargetRefused(fault)
        if _is_localhost(host) and all(self.refusal(host, address) is not None for address in _LOOPBACK):
            raise TargetRefused(f"{host} is this machine itself")
        return read

    def fault(self, url: object) -> str | None:
        """Why a value is no URL to be called, as far as that can be seen without asking the DNS; None: no reason."""
        if not isinstance(url, str):
            return _NO_URL
        try:
            self.check(url)
        except TargetRefused as refused:
            return str(refused)
        return None

    def refusal(self, host: str, address: str) -> str | None:
        """Why an address must not be connected to for a host, which resolved to it or is it; None: it may be."""
        if "%" in address:
            return f"{address} has a zone, which has a meaning on this machine only"
        try:
            ip = _unmapped(ip_address(address))
        except ValueError:
            return f"{address} is not an IP address"
        if self._allows_name(_bare(host)) or any(ip in network for network in self._networks):
            return None
        meaning = _meaning(ip)
        return None if meaning is None else f"{ip} is {meaning}"

    def _allows_name(self, name: str) -> bool:
        return name in self._names or name.endswith(self._suffixes)


def is_address(host: str) -> bool:
    """Whether a host, valid in its form, is an address instead of a name."""
    return ":" in host or _NUMERIC.fullmatch(host) is not None


def _read_url(url: str, longest: int) -> URL:
    if len(url) > longest:
        raise TargetRefused(f"Must have at most {longest:,} characters")
    if _UNFIT.search(url):
        raise TargetRefused("Must not contain whitespace, control characters or backslashes")
    match = _URL.fullmatch(url)
    if match is None:
        raise TargetRefused(_NO_URL)
    scheme, authority, rest = match.groups()
    if "@" in authority:
        raise TargetRefused("Must not contain a user name or a password")
    if not authority.isascii():
        raise TargetRefused("Must have a host in ASCII: write it in punycode, as xn--…")
    _, colon, port = authority.rpartition("]")[2].partition(":")
    if colon and not (port.isdigit() and 0 < int(port) < 2**16):
        raise TargetRefused("Must have a port from 1 to 65535, or none")
    try:
        # Encoded: neither the path nor the query is rewritten, since its receiver may have signed them.
        read = URL(f"{scheme.lower()}://{authority.lower()}{quote(rest, safe=string.printable)}", encoded=True)
        host = read.raw_host
    except ValueError:
        raise TargetRefused("Must have a host that can be read") from None
    if not host:
        raise TargetRefused("Must have a host")
    return read


def _host_fault(host: str, *, bracketed: bool) -> str | None:
    """What is wrong with the form of a host; nothing is said of where it leads."""
    if ":" in host or bracketed:
        if "%" in host:
            return "Must not have a zone in its IPv6 address"
        return None if _is(IPv6Address, host) else "Must have a valid IPv6 address between brackets"
    if _NUMERIC.fullmatch(host):
        usual = "Must have an IPv4 address as four decimal numbers, such as 192.0.2.1"
        return None if _is(IPv4Address, host) else usual
    name = host.removesuffix(".")
    valid = len(name) <= LONGEST_HOST and _NAME.fullmatch(name)
    return None if valid else "Must have a host that is a valid name"


def _is(kind: type[Address], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _is_localhost(host: str) -> bool:
    return f".{_bare(host)}".endswith(".localhost")


def _bare(host: str) -> str:
    """A host's name as it is compared: in lower case, without the dot that closes a full name."""
    return host.lower().removesuffix(".")


def _unmapped(ip: Address) -> Address:
    """The IPv4 address that an IPv4-mapped one stands for: the system connects to that one."""
    return (isinstance(ip, IPv6Address) and ip.ipv4_mapped) or ip


def _meaning(ip: Address) -> str | None:
    """What an address is instead of a public one; None: it is public."""
    for network, meaning in _SPECIAL:
        if ip in network:
            return meaning
    # Python's own list comes last: it follows the registries, but it lets multicast and transition addresses pass.
    public = ip.is_global and (isinstance(ip, IPv4Address) or ip in _PUBLIC_V6)
    return None if public else "not a public address"


def _read_network(entry: str) -> Network | None:
    """The network or the one address that an entry of the allow-list stands for; None: it is neither by its form."""
    if not ("/" in entry or ":" in entry or _NUMERIC.fullmatch(entry)):
        return None
    if "%" in entry:
        raise ValueError(f"{entry!r} is no network: it has a zone")
    try:
        network = ip_network(entry)
    except ValueError as error:
        raise ValueError(f"{entry!r} is no network: {error}") from None
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) % 2**32, network.prefixlen - _MAPPED.prefixlen))
    return network


def _read_pattern(entry: str) -> str:
    """A host's name as it is compared, or `.` and the name that others end with."""
    name = _bare(entry.removeprefix("*"))
    form = name.removeprefix(".") if entry.startswith(("*.", ".")) else _bare(entry)
    if len(form) > LONGEST_HOST or not _NAME.fullmatch(form) or _NUMERIC.fullmatch(form):
        raise ValueError(f"{entry!r} is neither an address, a network, a host nor *. and a host")
    return name
