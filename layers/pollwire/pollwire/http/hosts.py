"""
Which requests may be sent, and which addresses may answer them.

    Hosts.require   a base URL in its normal form, if the operator or a provider's module named it
    Hosts.admit     the origin of a request, if nothing about the request is odd
    Origin.admits   an address that a name led to, if it is public or was named itself
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import urlencode

from pollwire.errors import Misconfigured
from pollwire.exchange import Request


@dataclass(frozen=True, slots=True)
class Origin:
    """
    A scheme, a host and a port that may be asked.

    Attributes:
        base: ``https://api.example.com``: lower case, no slash at the end, no default port.

        address: The only address that may answer, for a host that is an IP literal.

        confidential: Credentials may be sent to it.
    """

    base: str
    host: str
    port: int
    address: IPv4Address | IPv6Address | None
    confidential: bool

    def admits(self, address: str) -> bool:
        """Tell whether *address* may answer for this host."""
        return public(address) if self.address is None else _parsed(address) == self.address


class Hosts:
    """
    The base URLs that may be asked: scheme, host and port, matched exactly.

    Args:
        own: Base URLs of the providers' modules.

        allowed: Base URLs from the operator's ``AllowedHosts``. An IP literal there may be an
            internal one; a host name always has to lead to a public address.

    Raises:
        Misconfigured: An entry is no base URL.
    """

    def __init__(self, own: Iterable[str], allowed: Iterable[str] = ()) -> None:
        self._origins: dict[str, Origin] = {}
        self._normal: dict[str, str] = {}  # Every account of a shard asks for the same two.
        for where, bases in (("the provider's hosts", own), ("AllowedHosts", allowed)):
            for position, base in enumerate(bases, 1):
                origin = _origin(base, f"{where}, entry {position}", where == "AllowedHosts")
                self._origins[origin.base] = origin

    def require(self, base_url: str) -> str:
        """
        Return *base_url* in its normal form.

        Raises:
            Misconfigured: It may not be asked, or is no base URL.
        """
        if base_url in self._normal:
            return self._normal[base_url]
        origin = _origin(base_url, "host", operator=False)
        if origin.base not in self._origins:
            raise Misconfigured(
                f"host {origin.host!r} is not allowed as {origin.base!r};"
                " add it to the AllowedHosts parameter"
            )
        self._normal[base_url] = origin.base
        return origin.base

    def admit(self, request: Request) -> Origin:
        """
        Find the origin that a request goes to.

        Raises:
            Misconfigured: The request may not be sent.
        """
        url = request.url
        slash = url.find("/", 8)  # behind https://
        origin = self._origins.get(url if slash < 0 else url[:slash])
        if origin is None:
            raise Misconfigured(
                "host: the request's is not allowed; see the AllowedHosts parameter"
            )
        if not (url.isascii() and url.isprintable()) or " " in url or "\\" in url or "#" in url:
            raise Misconfigured(f"{origin.host}: the path has characters that must be quoted")
        if ("/." in url or "/%" in url) and _DOTS.search(url):
            raise Misconfigured(f"{origin.host}: the path has a part '.' or '..'")
        if request.secret and not origin.confidential:
            raise Misconfigured(
                f"{origin.host}: a credential is not sent over plain http; allow it as https://"
            )
        if request.method != "GET" and request.method != "POST":
            raise Misconfigured("method: only GET and POST are sent")
        if request.form is not None and request.method == "GET":
            raise Misconfigured("form: a GET has none; use POST")
        if request.headers:
            _require_fields(request.headers)
        return origin


#: What a client or a server would take out of a path, to ask for something else.
_DOTS: Final = re.compile(r"/(?:\.|%2e){1,2}(?:[/?]|$)", re.ASCII | re.IGNORECASE)

_FIELD_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)


def _require_fields(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not _FIELD_NAME.fullmatch(name) or not (value.isascii() and value.isprintable()):
            raise Misconfigured("headers: one has characters that no header may have")


def full_url(request: Request) -> str:
    """Return the URL of an admitted request with its query."""
    if not request.query:
        return request.url
    return f"{request.url}{'&' if '?' in request.url else '?'}{urlencode(request.query)}"


#: A scheme, a host and perhaps a port; no user, no path, nothing that two parsers could read in
#: two ways.
_BASE: Final = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::([0-9]{1,5}))?", re.ASCII)
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_PORTS: Final = {"http": 80, "https": 443}


def _origin(base: str, where: str, operator: bool) -> Origin:
    # The entry itself stays out of the message: a malformed one may hold a password.
    remedy = f"{where}: is not written as https://host or https://host:port, without a path"
    match = _BASE.fullmatch(base.lower()) if base.isascii() else None
    if match is None:
        raise Misconfigured(remedy)
    scheme, host, digits = match.groups()
    port = int(digits) if digits else _PORTS[scheme]
    address = _literal(host)
    if not 0 < port < 65536 or (address is None and not _is_name(host)):
        raise Misconfigured(remedy)
    if address is not None:
        host = f"[{address}]" if address.version == 6 else str(address)
    return Origin(
        base=f"{scheme}://{host}" + ("" if port == _PORTS[scheme] else f":{port}"),
        host=host,
        port=port,
        address=address,
        confidential=scheme == "https"
        or (operator and address is not None and address.is_loopback),
    )


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(address)
    except ValueError:
        return None


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    address = _parsed(host.strip("[]"))
    # There is one way to write an address: a mapped one is an IPv4 one in disguise.
    if isinstance(address, IPv6Address):
        return address if host[0] == "[" and address.ipv4_mapped is None else None
    return address if host[0] != "[" else None


def _is_name(host: str) -> bool:
    labels = host.split(".")
    # 127.1, 2130706433 and 0x7f000001 are addresses to a resolver, whatever they look like.
    numeric = labels[-1].isdigit() or labels[-1].startswith("0x")
    return len(host) <= 253 and not numeric and all(map(_LABEL.fullmatch, labels))


#: Global to Python's ipaddress, and yet no public host: they wrap an IPv4 address, or are reserved.
_WRAPPED: Final = tuple(
    ip_network(network)
    for network in (
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64, local use
        "2001::/23",  # Teredo, ORCHID and other protocol assignments
        "2002::/16",  # 6to4
        "192.0.0.0/24",  # protocol assignments
        "192.88.99.0/24",  # 6to4 relays
        "100.64.0.0/10",  # shared, behind carrier NAT
    )
)
_UNICAST: Final = ip_network("2000::/3")  # all of IPv6 that is handed out


def public(address: str) -> bool:
    """Tell whether an address, as a resolver gives it, belongs to a host on the public internet."""
    ip = _parsed(address)
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip.scope_id is not None or ip not in _UNICAST:
            return False
    return (
        ip is not None
        and ip.is_global
        and not (ip.is_multicast or ip.is_reserved)
        and not any(ip in network for network in _WRAPPED)
    )
