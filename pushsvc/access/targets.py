"""Whither: which URLs and addresses a webhook may be sent to. Closed towards every network that is not public.

A name is no guarantee: whoever owns it decides what it resolves to, and may decide anew between two look-ups. So
addresses are what is checked, at each attempt, and the connection goes to an address that was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from ..errors import BadRequest, SettingsError

LONGEST = 2048
"""Characters of a URL."""

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[!\"$->@-~]*)?(?P<query>\?[!\"$-~]*)?",
    re.IGNORECASE,
)
_PORTS = {"http": 80, "https": 443}
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

# IANA's registries of special-purpose addresses (RFC 6890), and multicast. Not `ipaddress`' own `is_global`, which
# takes fec0::/10, ::127.0.0.1, 2002:7f00:1:: and 64:ff9b::7f00:1 for public ones, and changes with Python's version.
_PRIVATE_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",  # behind a carrier's NAT
            "127.0.0.0/8",
            "168.63.129.16/32",  # Azure's host agent: a public address that never leaves the machine
            "169.254.0.0/16",  # link-local, and the metadata of most clouds
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
_PUBLIC_V6 = IPv6Network("2000::/3")
_PRIVATE_V6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
_NAT64 = IPv6Network("64:ff9b::/96")
_LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))


@dataclass(frozen=True, slots=True)
class Target:
    """A URL in its parts: host in lower case and without brackets, `path` with the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """What may be logged of it: paths and queries hold secrets."""
        return f"{self.scheme}://{self.authority}"

    def __str__(self) -> str:
        return self.origin + self.path

    def __repr__(self) -> str:
        return f"<Target {self.origin}>"


def parse_target(url: str) -> Target:
    """The parts of a URL, which as text are its one canonical form. Raises BadRequest; the URL is not in it."""
    match = _URL.fullmatch(url)
    if len(url) > LONGEST or match is None:
        raise BadRequest(
            f"callback_url is an https:// URL of up to {LONGEST} ASCII characters, without user, password or fragment"
        )
    scheme, host = match["scheme"].lower(), match["host"].lower()
    port = int(match["port"] or _PORTS[scheme])
    if not 0 < port < 65536:
        raise BadRequest("callback_url has a port that there is not")
    return Target(scheme, _host(host), port, (match["path"] or "/") + (match["query"] or ""))


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            return str(IPv6Address(text[1:-1]))
        except ValueError:
            raise BadRequest("callback_url has no valid IPv6 address") from None
    labels = text.split(".")
    if len(text) > 253 or not all(0 < len(label) < 64 for label in labels):
        raise BadRequest("callback_url has no valid host name")
    # What ends in a number is read as an IPv4 address, `127.1` and `0x7f000001` too: only the plain form is one here.
    if _NUMBER.fullmatch(labels[-1]) and _literal(text) is None:
        raise BadRequest("callback_url has no valid IPv4 address")
    return text


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


class Targets:
    """What the operator allows beyond public addresses by https: networks, addresses, host names, `*.` and a name.

    A target that is allowed may be private, and called by http. Raises SettingsError for what is none of these.
    """

    def __init__(self, allow: Iterable[str] = ()) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        self._hosts: set[str] = set()
        for entry in allow:
            try:
                self._networks.append(ip_network(entry))
            except ValueError:
                if not re.fullmatch(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*", entry.lower()) or "/" in entry:
                    raise SettingsError(
                        f"PUSHSVC_WEBHOOK_ALLOW: {entry!r} is no network such as 10.0.0.0/8, no address, no host name"
                    ) from None
                self._hosts.add(entry.lower())

    def check(self, url: str) -> str:
        """The URL in its canonical form, if a webhook might be sent there. Raises BadRequest.

        Nothing is resolved: what a name stands for is checked at each attempt.
        """
        target = parse_target(url)
        address = _literal(target.host)
        if address is not None:
            if not self.allows(target, str(address)):
                raise BadRequest(f"callback_url is not a public address by https; {_HOW}")
            return str(target)
        named = self._named(target.host)
        if _is_localhost(target.host) and not named and not any(net.overlaps(own) for net, own in self._pairs()):
            raise BadRequest(f"callback_url is this machine's own; {_HOW}")
        if target.scheme == "http" and not named and not self._networks:
            raise BadRequest(f"callback_url is not an https:// URL; {_HOW}")
        return str(target)

    def _pairs(self) -> Iterable[tuple[IPv4Network | IPv6Network, IPv4Network | IPv6Network]]:
        return ((net, own) for net in self._networks for own in _LOOPBACK if net.version == own.version)

    def allows(self, target: Target, address: str) -> bool:
        """Whether a connection for `target` may go to `address`, which is what its host has resolved to."""
        try:
            at = ip_address(address)
        except ValueError:
            return False
        if isinstance(at, IPv6Address) and at.ipv4_mapped is not None:
            at = at.ipv4_mapped
        if self._named(target.host) or any(at in network for network in self._networks):
            return True
        return target.scheme == "https" and is_public(at)

    def allowed(self, target: Target, addresses: Sequence[str]) -> list[str]:
        """Those of the addresses that `allows` lets through."""
        return [address for address in addresses if self.allows(target, address)]

    def _named(self, host: str) -> bool:
        _, _, parent = host.partition(".")
        parents = [parent]
        while "." in parent:
            parent = parent.partition(".")[2]
            parents.append(parent)
        return host in self._hosts or any(f"*.{name}" in self._hosts for name in parents if name)


_HOW = "PUSHSVC_WEBHOOK_ALLOW names what else is allowed"


def _is_localhost(host: str) -> bool:
    """RFC 6761, section 6.3: the name, and all below it, are loopback addresses."""
    return host == "localhost" or host.endswith(".localhost")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether anybody on the Internet could reach the address anyway."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _PRIVATE_V4)
    if (inner := address.ipv4_mapped) is not None:
        return is_public(inner)
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _PUBLIC_V6 and not any(address in network for network in _PRIVATE_V6)
