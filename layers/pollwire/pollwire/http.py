"""
The only module that talks to providers: deadlines, caps, hosts, redaction.

    Hosts         which base URLs may be asked, and which addresses may answer for them
    Http.fetch    one request, with requests: the deltas
    Http.run      the checks of a whole shard at once, with pycurl's multi interface

Both engines send to the same hosts, refuse the same addresses before they connect, and read a
status the same way (:func:`failure_of`). Neither follows redirects, keeps cookies, or looks at
proxies and netrc files of the environment. Both speak HTTP/1.1 only, so that one set of framing
rules, and of tests, holds for both. Each is imported when it is first needed: a cold check never
pays for requests, a cold delta never for pycurl.

No error text, no exception chain and no log record holds a URL, a header or a body.
"""

from __future__ import annotations

import io
import ipaddress
import logging
import queue
import re
import select
import socket
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from urllib.parse import urlencode

from pollwire.errors import (
    Malformed,
    Misconfigured,
    PollwireError,
    RateLimited,
    Rejected,
    Unavailable,
)
from pollwire.model import Checking, Request, Response, Seen

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection as _Connection
else:
    _Connection = object  # urllib3 is imported with requests, by the first delta

K = TypeVar("K")

#: Short: request bytes are paid for at every poll (performance.md, section 5).
USER_AGENT: Final = "Pollwire"

#: What a provider asks for when it says 429 without saying how long, or says nonsense:
#: RingCentral documents 30 s as the least, and punishes who comes back earlier.
RETRY_AFTER_S: Final = 30

#: An hour: whatever a provider says, an account is not forgotten for longer.
RETRY_AFTER_LONGEST_S: Final = 3600

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What one request may take at most.

    Attributes:
        connect_s: Name lookup, TCP and TLS together. Three round trips to the far side of the
            world take less than a second; a third of the whole leaves time for the answer.

        request_s: All of one request, from the name lookup to the last byte of the body. A third
            of the shortest function timeout, so that a hanging provider cannot use it up.

        body_bytes: Decoded body of a delta. A full page of the largest provider is below 1 MiB.

        wire_bytes: Everything received for a delta, as it came: an endless stream that decodes to
            nothing must end too.

        check_bytes: Body of a check. Smaller, because :attr:`connections` of them are in memory at
            once, and together they must fit into a function of 256 MB.

        header_bytes: Status line and headers. What urllib3 reads of one line, and eight times
            what any of the providers sends.

        header_lines: As many as http.client reads.

        connections: Requests of one run at a time. A new TLS connection costs as much as 35 polls,
            so few that are kept are cheaper than many (performance.md, section 7).

        idle_s: Connections idle for longer are not used again: load balancers forget them after a
            minute, a NAT or a frozen function environment without telling.
    """

    connect_s: float = 3.0
    request_s: float = 10.0
    body_bytes: int = 5 * MIB
    wire_bytes: int = 5 * MIB
    check_bytes: int = 2 * MIB
    header_bytes: int = 64 * 1024
    header_lines: int = 100
    connections: int = 64
    idle_s: int = 20


class Http:
    """
    Asks providers.

    Keeps its connections for as long as it lives, one object a container. ``fetch`` may be called
    from any thread; one ``run`` at a time.
    """

    def __init__(self, hosts: Hosts, *, limits: Limits | None = None) -> None:
        self._hosts = hosts
        self._limits = limits or Limits()
        self._deltas: _Deltas | None = None
        self._checks: _Checks | None = None

    def fetch(self, request: Request) -> Response:
        """
        Send one request and wait for its complete answer.

        A GET on a kept connection that the provider had closed meanwhile is sent once more, on a
        fresh one. Nothing else is ever repeated here.

        Raises:
            Unavailable: No complete answer within the limits, or 408 or 5xx.

            RateLimited: 429.

            Rejected: 401 or 403.

            Malformed: Any other status that the request does not expect, or an answer that breaks
                HTTP or a size cap.

            Misconfigured: The request may not be sent. Nothing was.
        """
        if self._deltas is None:
            self._deltas = _Deltas(self._limits)
        return self._deltas.fetch(request, self._hosts.admit(request))

    def run(
        self,
        checks: Iterable[tuple[K, Checking]],
        *,
        requests_per_second: float,
        deadline_s: float,
    ) -> Iterator[tuple[K, Seen | PollwireError]]:
        """
        Run many checks side by side, over kept connections.

        An error of transport or status is thrown into the check, which may handle it; what a check
        raises becomes its result and stops no other.

        Args:
            checks: Taken one by one, as connections become free.

            requests_per_second: How fast requests may be started, all of them together.

            deadline_s: Seconds from this call until whatever is unfinished becomes
                ``Unavailable``. The time that the caller takes between two results counts.

        Returns:
            The result of each check under its key, in the order in which they end.

        Raises:
            Misconfigured: *requests_per_second* is not positive.
        """
        pace = Pace(requests_per_second)
        ends_s = time.monotonic() + deadline_s
        if self._checks is None:
            self._checks = _Checks(self._limits)
        return _Run(self._checks, self._hosts, checks, pace, ends_s).results()

    def close(self) -> None:
        """Close all connections. The object opens new ones when it is used again."""
        if self._deltas is not None:
            self._deltas.close()
        if self._checks is not None:
            self._checks.close()
        self._deltas = self._checks = None


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
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None
    confidential: bool

    def admits(self, address: str) -> bool:
        """Tell whether *address* may answer for this host."""
        if self.address is None:
            return public(address)
        return _same(self.address, address)


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
        origin = _origin(base_url, "host", operator=False)
        if origin.base not in self._origins:
            raise Misconfigured(
                f"host {origin.host!r} is not allowed as {origin.base!r};"
                " add it to the AllowedHosts parameter"
            )
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
        if request.secret and not origin.confidential:
            raise Misconfigured(
                f"{origin.host}: a credential is not sent over plain http; allow it as https://"
            )
        if request.method != "GET" and request.method != "POST":
            raise Misconfigured("method: only GET and POST are sent")
        if request.form is not None and request.method == "GET":
            raise Misconfigured("form: a GET has none; use POST")
        return origin


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


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    # There is one way to write an address: a mapped one is an IPv4 one in disguise.
    if isinstance(address, ipaddress.IPv6Address):
        return address if host[0] == "[" and address.ipv4_mapped is None else None
    return address if host[0] != "[" else None


def _is_name(host: str) -> bool:
    labels = host.split(".")
    # 127.1, 2130706433 and 0x7f000001 are addresses to a resolver, whatever they look like.
    numeric = labels[-1].isdigit() or labels[-1].startswith("0x")
    return len(host) <= 253 and not numeric and all(map(_LABEL.fullmatch, labels))


#: Global to Python's ipaddress, and yet no public host: they wrap an IPv4 address, or are reserved.
_WRAPPED: Final = tuple(
    ipaddress.ip_network(network)
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
_UNICAST: Final = ipaddress.ip_network("2000::/3")  # all of IPv6 that is handed out


def public(address: str) -> bool:
    """Tell whether an address, as a resolver gives it, belongs to a host on the public internet."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip.scope_id is not None or ip not in _UNICAST:
            return False
    return (
        ip.is_global
        and not (ip.is_multicast or ip.is_reserved)
        and not any(ip in network for network in _WRAPPED)
    )


def _same(wanted: ipaddress.IPv4Address | ipaddress.IPv6Address, address: str) -> bool:
    try:
        return ipaddress.ip_address(address) == wanted
    except ValueError:
        return False


class Pace:
    """
    When the next request may start; time comes in as an argument.

    Args:
        per_second: Requests per second.

        slack_s: How far starts may run ahead of an even spacing. It makes up for a loop that wakes
            up late, and lets 50 requests a second start in pairs, no more.

    Raises:
        Misconfigured: *per_second* is not positive.
    """

    def __init__(self, per_second: float, slack_s: float = 0.02) -> None:
        if not per_second > 0:
            raise Misconfigured(
                "requests_per_second: must be more than 0; set it on the connection"
            )
        self._interval_s = 1 / per_second
        self._slack_s = slack_s
        self._due_s = float("-inf")

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until the next start; 0 or less for now."""
        return self._due_s - self._slack_s - now_s

    def take(self, now_s: float) -> None:
        """Count one start at *now_s*. Time that passed without one is not made up for."""
        self._due_s = max(self._due_s, now_s) + self._interval_s


def retry_after_s(value: str, now_s: float) -> int:
    """
    Read a ``Retry-After``: a number of seconds, or a date.

    Args:
        now_s: Seconds since the epoch, for a date.

    Returns:
        1 to 3,600; 30 for anything that cannot be read.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        # More digits than eight are out of range anyway, and int() refuses 5,000 of them.
        seconds = float(value[:8]) if len(value) <= 8 else float(RETRY_AFTER_LONGEST_S)
    else:
        try:
            date = parsedate_to_datetime(value)
            seconds = date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now_s
        except (ValueError, TypeError, IndexError, OverflowError):
            return RETRY_AFTER_S
    return int(min(max(seconds, 1), RETRY_AFTER_LONGEST_S))


def failure_of(
    status: int, expect: frozenset[int], host: str, retry_after: str, now_s: float
) -> PollwireError | None:
    """
    Name what a status means, or return ``None`` for one that the request expects.

    Args:
        retry_after: The header of that name; empty if there is none.

        now_s: Seconds since the epoch.
    """
    if status in expect:
        return None
    if status in (401, 403):
        return Rejected(f"{host}: {status}")
    if status == 429:
        return RateLimited(f"{host}: {status}", retry_after_s=retry_after_s(retry_after, now_s))
    if status == 408 or 500 <= status < 600:
        wait_s = retry_after_s(retry_after, now_s) if status == 503 and retry_after else 0
        return Unavailable(f"{host}: {status}", retry_after_s=wait_s)
    if 300 <= status < 400 and status != 304:
        return Malformed(f"{host}: {status}; redirects are not followed")
    return Malformed(f"{host}: {status} is no answer to this request")


def _keeps(status: int, expect: frozenset[int]) -> bool:
    """
    Tell whether the connection may be used again after an answer with this status.

    After any other, the real answer may still be on its way, and the next request, that of another
    account, would get it (performance.md, section 3).
    """
    return status in expect or 400 <= status < 600


def _address(request: Request) -> str:
    if not request.query:
        return request.url
    return f"{request.url}{'&' if '?' in request.url else '?'}{urlencode(request.query)}"


_FIELD_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)


def _require_fields(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not _FIELD_NAME.fullmatch(name) or not (value.isascii() and value.isprintable()):
            raise Misconfigured("headers: one has characters that no header may have")


# ----- deltas: requests -----


@dataclass(slots=True)
class _Call:
    """
    The delta request under way in this thread; its sockets find it in :data:`_CALL`.

    Attributes:
        ends_s: Its deadline, on the monotonic clock.

        fresh: Kept connections must not be used: one of them was stale.

        opened: It opened a connection, so that a failure is no stale one.

        received: Bytes received.
    """

    origin: Origin
    limits: Limits
    ends_s: float
    fresh: bool = False
    opened: bool = False
    received: int = 0

    def remaining_s(self) -> float:
        remaining_s = self.ends_s - time.monotonic()
        if remaining_s <= 0:
            raise Unavailable(f"{self.origin.host}: no complete answer in time")
        return remaining_s

    def count(self, received: int) -> None:
        self.received += received
        if self.received > self.limits.wire_bytes + self.limits.header_bytes:
            raise Malformed(f"{self.origin.host}: the answer is larger than the cap")


_CALL: Final[ContextVar[_Call | None]] = ContextVar("pollwire_call", default=None)


class _Deltas:
    """One requests session, with sockets of our own under it."""

    def __init__(self, limits: Limits) -> None:
        import http.client

        import urllib3.exceptions

        self._limits = limits
        self._session = _session()
        self._failures = (
            OSError,  # requests' own exceptions are of this kind
            ValueError,
            http.client.HTTPException,
            urllib3.exceptions.HTTPError,
        )
        for name in _TALKATIVE:
            logging.getLogger(name).addFilter(_quiet)

    def fetch(self, request: Request, origin: Origin) -> Response:
        _require_fields(request.headers)
        call = _Call(origin, self._limits, time.monotonic() + self._limits.request_s)
        token = _CALL.set(call)
        try:
            answer = self._attempt(request, call)
            stale = isinstance(answer, Unavailable) and not call.opened and not call.received
            if stale and request.method == "GET":
                call.fresh = True
                answer = self._attempt(request, call)
        finally:
            _CALL.reset(token)
        if isinstance(answer, PollwireError):
            raise answer
        return answer

    def _attempt(self, request: Request, call: _Call) -> Response | PollwireError:
        # Errors are returned, and raised outside of every except block: what requests raises holds
        # the URL, and a chained exception would carry it along.
        try:
            return self._exchange(request, call)
        except PollwireError as error:
            error.__cause__ = error.__context__ = None
            return error.with_traceback(None)
        except self._failures as error:
            return _translated(error, call)

    def _exchange(self, request: Request, call: _Call) -> Response:
        import requests

        prepared = self._session.prepare_request(
            requests.Request(
                request.method,
                _address(request),
                headers=dict(request.headers),
                data=None if request.form is None else dict(request.form),
            )
        )
        answer = self._session.send(
            prepared, stream=True, allow_redirects=False, timeout=call.remaining_s(), proxies={}
        )
        try:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return _read(answer.status_code, headers, answer.raw, request, call)
        finally:
            # A body that was read to its end has given the connection back to the pool before;
            # after anything else, the connection is closed with the answer.
            answer.raw.close()

    def close(self) -> None:
        self._session.close()


def _session() -> Any:
    """Make a session that takes nothing from the environment and keeps nothing but connections."""
    import http.cookiejar

    import certifi
    import requests
    import requests.adapters
    import urllib3.connection
    import urllib3.connectionpool

    class Plain(_Guarded, urllib3.connection.HTTPConnection):
        pass

    class Tls(_Guarded, urllib3.connection.HTTPSConnection):
        pass

    class PlainPool(urllib3.connectionpool.HTTPConnectionPool):
        ConnectionCls = Plain

    class TlsPool(urllib3.connectionpool.HTTPSConnectionPool):
        ConnectionCls = Tls

    class Session(requests.Session):
        def get_redirect_target(self, resp: requests.Response) -> None:
            # Even with allow_redirects=False, requests reads and unpacks the whole body of a
            # redirect to prepare the next request. There is none.
            return None

    session = Session()
    session.trust_env = False
    session.verify = certifi.where()
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    session.headers.clear()
    session.headers.update({"User-Agent": USER_AGENT, "Accept": "application/json"})
    session.headers["Accept-Encoding"] = "gzip, identity"
    for prefix in ("http://", "https://"):
        adapter = requests.adapters.HTTPAdapter(max_retries=0)
        adapter.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": TlsPool}
        session.mount(prefix, adapter)
    return session


class _Guarded(_Connection):
    """A urllib3 connection to an admitted address, whose every wait ends at the call's deadline."""

    #: http.client prints what it sends and gets when this is set, even if set for the base class.
    debuglevel = 0

    def _new_conn(self) -> socket.socket:
        return _connect(_current())

    def connect(self) -> None:
        super().connect()
        self.sock = _Wire(self.sock)

    @property
    def is_connected(self) -> bool:
        # urllib3 asks before it takes a connection from its pool.
        call = _current()
        wire: Any = self.sock
        if wire is None or call.fresh:
            return False
        return wire.idle_s() < call.limits.idle_s and super().is_connected


class _Wire:
    """What http.client needs of a socket, with a timeout that shrinks."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._used_s = time.monotonic()

    def idle_s(self) -> float:
        return time.monotonic() - self._used_s

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(_current().remaining_s())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return _Lines(_Reader(self._sock, self))

    def read_some(self, raw: Any, buffer: Any) -> int:
        call = _current()
        self._sock.settimeout(call.remaining_s())
        received = int(raw.readinto(buffer))
        self._used_s = time.monotonic()
        call.count(received)
        return received

    def settimeout(self, timeout: float | None) -> None:
        """Ignore urllib3's timeout, which is one per read."""

    def fileno(self) -> int:
        return int(self._sock.fileno())

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def close(self) -> None:
        self._sock.close()


class _Reader(io.RawIOBase):
    def __init__(self, sock: Any, wire: _Wire) -> None:
        # The socket's own file keeps the descriptor open until it is closed as well.
        self._raw = sock.makefile("rb", buffering=0)
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.read_some(self._raw, buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Lines(io.BufferedReader):
    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if not line:
            # http.client takes the end of the stream for the end of the headers, and makes
            # "200, nothing in it" of an answer that was cut.
            raise ConnectionResetError("closed where a line should follow")
        return line


def _current() -> _Call:
    call = _CALL.get()
    assert call is not None, "a provider's connection is used outside of fetch"
    return call


def _connect(call: _Call) -> socket.socket:
    """Connect to the first admitted address that answers; no other is even tried."""
    ends_s = time.monotonic() + min(call.limits.connect_s, call.remaining_s())
    call.opened = True
    refused = False
    for family, kind, protocol, _, address in _resolve(call, ends_s):
        if not call.origin.admits(str(address[0])):
            refused = True
            continue
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(max(ends_s - time.monotonic(), 0.001))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            sock.close()
            continue
        # A TLS handshake follows at once; its timeout is one for the whole of it.
        sock.settimeout(max(ends_s - time.monotonic(), 0.001))
        return sock
    raise _refused(call.origin) if refused else _unreachable(call.origin)


#: Lookups that may hang at once. A hanging one cannot be stopped, only left behind: its thread ends
#: when the resolver gives up, after half a minute or so.
_LOOKUPS: Final = threading.BoundedSemaphore(8)


def _resolve(call: _Call, ends_s: float) -> list[Any]:
    origin = call.origin
    if origin.address is not None:
        family = socket.AF_INET6 if origin.address.version == 6 else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 0, "", (str(origin.address), origin.port))]
    if not _LOOKUPS.acquire(blocking=False):
        raise Unavailable(f"{origin.host}: too many name lookups hang")
    found: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(list(socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError):
            found.put([])
        finally:
            _LOOKUPS.release()

    threading.Thread(target=look_up, name="pollwire-lookup", daemon=True).start()
    try:
        return found.get(timeout=max(ends_s - time.monotonic(), 0.001))
    except queue.Empty:
        pass
    raise Unavailable(f"{origin.host}: the name lookup hangs")


def _refused(origin: Origin) -> Unavailable:
    return Unavailable(
        f"{origin.host}: the name leads to an address that is not public;"
        " an internal host is allowed by its IP address in AllowedHosts"
    )


def _unreachable(origin: Origin) -> Unavailable:
    return Unavailable(f"{origin.host}: cannot be reached")


def _read(
    status: int, headers: Mapping[str, str], raw: Any, request: Request, call: _Call
) -> Response:
    host = call.origin.host
    retry_after = headers.get("retry-after", "")
    failure = failure_of(status, request.expect, host, retry_after, time.time())
    if failure is not None:
        raise failure
    if status in (204, 304):
        # Not even an end is read: it may have sent a body nevertheless, for the next to stumble on.
        return Response(status, headers)
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("gzip", "identity"):
        raise Malformed(f"{host}: {status} in an encoding that was not asked for")
    parts = []
    while part := raw.read(64 * 1024, decode_content=False):  # _Call.count ends an endless one
        parts.append(part)
    body = b"".join(parts)
    if body and encoding == "gzip":
        body = _unpacked(body, call)
    if len(body) > call.limits.body_bytes:
        raise Malformed(f"{host}: the answer is larger than the cap")
    if status == 200 and not body:
        raise Unavailable(f"{host}: {status} with nothing in it")
    return Response(status, headers, body)


def _unpacked(body: bytes, call: _Call) -> bytes:
    """Unpack one gzip member, no further than the cap. urllib3 accepts one that was cut."""
    host = call.origin.host
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    plain = None
    with suppress(zlib.error):
        plain = unpacker.decompress(body, call.limits.body_bytes + 1)
    if plain is None:
        raise Malformed(f"{host}: the answer says gzip and is not")
    if len(plain) > call.limits.body_bytes:
        raise Malformed(f"{host}: the answer is larger than the cap")
    if not unpacker.eof or unpacker.unused_data:
        raise Malformed(f"{host}: the answer is not one complete gzip member")
    return plain


def _translated(error: BaseException, call: _Call) -> PollwireError:
    import http.client

    cause: BaseException | None = error
    while cause is not None:
        broken = isinstance(cause, http.client.HTTPException)
        if broken and not isinstance(cause, http.client.IncompleteRead | ConnectionError):
            return Malformed(f"{call.origin.host}: the answer is not HTTP as it should be")
        cause = cause.__cause__ or cause.__context__
    return Unavailable(f"{call.origin.host}: no complete answer")


#: Loggers of urllib3 that put the path and the query into their records.
_TALKATIVE: Final = (
    "urllib3.connection",
    "urllib3.connectionpool",
    "urllib3.poolmanager",
    "urllib3.response",
    "urllib3.util.retry",
)


def _quiet(record: logging.LogRecord) -> bool:
    """Drop what is logged about our own requests; others in the process may use urllib3 too."""
    return _CALL.get() is None


# ----- checks: pycurl -----

#: The headers that anyone reads after a check, by their names on the wire.
_KEPT: Final = {
    name.encode(): name
    for name in (
        "content-encoding",
        "content-type",
        "date",
        "etag",
        "last-modified",
        "retry-after",
    )
}

_FIXED_FIELDS: Final = {
    "Accept": "application/json",
    # A check's answer is small: what gzip would save is less than what unpacking costs.
    "Accept-Encoding": "identity",
}


@dataclass(slots=True, eq=False)
class _Poll(Generic[K]):
    """One check under way, and the request it waits for."""

    key: K
    checking: Checking
    request: Request = field(default_factory=lambda: Request(""))
    origin: Origin | None = None


class _Run(Generic[K]):
    """One run over many checks. See :meth:`Http.run`."""

    def __init__(
        self,
        engine: _Checks,
        hosts: Hosts,
        checks: Iterable[tuple[K, Checking]],
        pace: Pace,
        ends_s: float,
    ) -> None:
        self._engine = engine
        self._hosts = hosts
        self._checks = iter(checks)
        self._more = True
        self._waiting: deque[_Poll[K]] = deque()
        self._pace = pace
        self._ends_s = ends_s

    def results(self) -> Iterator[tuple[K, Seen | PollwireError]]:
        engine = self._engine
        engine.claim()
        try:
            while True:
                yield from self._start()
                if not (engine.busy or self._waiting or self._more):
                    return
                now_s = time.monotonic()
                if now_s >= self._ends_s:
                    break
                engine.wait(self._patience_s(now_s))
                yield from self._settle()
            yield from self._expire()
        finally:
            polls = engine.abandon()
            engine.free()
            for poll in (*polls, *self._waiting):
                _closed(poll.checking)

    def _patience_s(self, now_s: float) -> float:
        patience_s = self._ends_s - now_s
        if self._engine.idle and (self._waiting or self._more):
            patience_s = min(patience_s, max(self._pace.wait_s(now_s), 0))
        return patience_s

    def _start(self) -> Iterator[tuple[K, Seen | PollwireError]]:
        engine = self._engine
        while engine.idle:
            now_s = time.monotonic()
            if now_s >= self._ends_s or self._pace.wait_s(now_s) > 0:
                return
            if not self._waiting:
                found = next(self._checks, None)
                if found is None:
                    self._more = False
                    return
                result = self._advance(_Poll(*found), None)
                if result is not None:
                    yield result
                continue
            self._pace.take(now_s)
            engine.begin(self._waiting.popleft())

    def _settle(self) -> Iterator[tuple[K, Seen | PollwireError]]:
        for slot, code in self._engine.ended():
            poll: _Poll[K] = slot.poll
            if slot.was_disturbed:  # nothing was sent, and the connection is closed
                self._engine.release(slot)
                self._engine.begin(poll)
                continue
            answer = slot.answer(code)
            self._engine.release(slot)
            result = self._advance(poll, answer)
            if result is not None:
                yield result

    def _advance(
        self, poll: _Poll[K], answer: Response | PollwireError | None
    ) -> tuple[K, Seen | PollwireError] | None:
        """Let a check go on. Returns its result, or ``None`` if it waits for another answer."""
        step = _resumed(poll.checking, answer)
        if not isinstance(step, Request):
            return poll.key, step
        try:
            poll.origin = self._hosts.admit(step)
            if step.headers:
                _require_fields(step.headers)
        except Misconfigured as error:
            _closed(poll.checking)
            return poll.key, error
        poll.request = step
        self._waiting.append(poll)
        return None

    def _expire(self) -> Iterator[tuple[K, Seen | PollwireError]]:
        """Give up on all that is not finished, begun or not."""
        begun = [*self._engine.abandon(), *self._waiting]
        self._waiting.clear()
        for poll in begun:
            _closed(poll.checking)
            yield poll.key, Unavailable("the run's time was up before the answer came")
        for key, checking in self._checks:
            _closed(checking)
            yield key, Unavailable("the run's time was up before this was asked")


def _resumed(
    checking: Checking, answer: Response | PollwireError | None
) -> Request | Seen | PollwireError:
    """Run a check up to its next request or its end. It is foreign code, and runs among others."""
    try:
        if isinstance(answer, Response):
            step: object = checking.send(answer)
        elif answer is None:
            step = next(checking)
        else:
            step = checking.throw(answer)
    except StopIteration as end:
        step = end.value
    except PollwireError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a bug in one account's check must not stop others
        return Malformed(f"the check failed with {type(error).__name__}")
    if isinstance(step, Request | Seen):
        return step
    return Malformed(f"the check gave a {type(step).__name__}")


def _closed(checking: Checking) -> None:
    # It has its result already; what it still does may not hurt the others.
    with suppress(Exception):
        checking.close()


class _Checks:
    """
    A pycurl multi handle with its connections, and easy handles that are used again and again.

    Attributes:
        idle: Easy handles that do nothing.

        busy: The others, by their pycurl handle.
    """

    def __init__(self, limits: Limits) -> None:
        import certifi
        import pycurl

        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, limits.connections)
        authorities = certifi.where()
        descriptors: dict[_Ends, int] = {}
        self.idle = [
            _Slot(pycurl, limits, authorities, descriptors) for _ in range(limits.connections)
        ]
        self.busy: dict[Any, _Slot] = {}
        self._claimed = False

    def claim(self) -> None:
        if self._claimed:
            raise RuntimeError("one run at a time")
        self._claimed = True

    def free(self) -> None:
        self._claimed = False

    def begin(self, poll: _Poll[Any]) -> None:
        slot = self.idle.pop()
        slot.prepare(poll)
        self.busy[slot.handle] = slot
        self._multi.add_handle(slot.handle)

    def wait(self, patience_s: float) -> None:
        """Move all transfers on, then wait until one of them can, at most *patience_s*."""
        multi = self._multi
        if not self.busy:
            time.sleep(patience_s)
            return
        running = multi.perform()[1]
        if running < len(self.busy):
            return  # some ended already
        timer_ms = multi.timeout()  # of libcurl: -1 for none
        if 0 <= timer_ms < patience_s * 1000:
            patience_s = timer_ms / 1000
        if multi.select(patience_s) < 0:
            # Nothing to wait for but time, as between two tries to connect.
            time.sleep(min(patience_s, 0.005))
        multi.perform()

    def ended(self) -> Iterator[tuple[_Slot, int]]:
        """Yield the transfers that ended, with libcurl's code: 0 for a complete answer."""
        more = 1
        while more:
            more, complete, failed = self._multi.info_read()
            for handle in complete:
                yield self.busy[handle], 0
            for handle, code, _ in failed:
                yield self.busy[handle], code

    def release(self, slot: _Slot) -> None:
        del self.busy[slot.handle]
        self._multi.remove_handle(slot.handle)
        self.idle.append(slot)

    def abandon(self) -> list[_Poll[Any]]:
        """Break off all transfers; their connections are closed with that."""
        slots = list(self.busy.values())
        for slot in slots:
            self.release(slot)
        return [slot.poll for slot in slots]

    def close(self) -> None:
        self.abandon()
        self._multi.close()
        for slot in self.idle:
            slot.handle.close()


#: What tells one connection from another: peer, own address, and their ports.
_Ends = tuple[Any, ...]

#: Connections whose descriptor is remembered, closed ones among them. One that is forgotten is
#: replaced when it is used next, no more.
DESCRIPTORS_MAX: Final = 1024


class _Slot:
    """
    An easy handle with its buffers. Only what differs from the last request is set.

    Attributes:
        poll: What it is used for.

        was_disturbed: The kept connection had bytes waiting that nobody asked for. Nothing was
            sent; the request has to begin again.
    """

    def __init__(
        self, pycurl: Any, limits: Limits, authorities: str, descriptors: dict[_Ends, int]
    ) -> None:
        self._pycurl = pycurl
        self._limits = limits
        self._head: list[bytes] = []
        self._body: list[bytes] = []
        self._headers: Mapping[str, str] | None = None
        self._posts = False
        self._go, self._abort = int(pycurl.PREREQFUNC_OK), int(pycurl.PREREQFUNC_ABORT)
        self._descriptors = descriptors
        self._opened: list[int] = []
        self._was_refused = False
        self.was_disturbed = False
        self.poll: _Poll[Any]
        self.handle = pycurl.Curl()
        for option, value in self._options(authorities):
            self.handle.setopt(option, value)

    def _options(self, authorities: str) -> tuple[tuple[int, Any], ...]:
        pycurl, limits = self._pycurl, self._limits
        return (
            (pycurl.USERAGENT, USER_AGENT),
            (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
            (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
            (pycurl.FOLLOWLOCATION, 0),
            (pycurl.PROXY, ""),  # and none from the environment
            (pycurl.NETRC, pycurl.NETRC_IGNORED),
            (pycurl.NOSIGNAL, 1),
            (pycurl.CAINFO, authorities),
            (pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2),
            (pycurl.CONNECTTIMEOUT_MS, int(limits.connect_s * 1000)),
            (pycurl.TIMEOUT_MS, int(limits.request_s * 1000)),
            (pycurl.MAXFILESIZE_LARGE, limits.check_bytes),
            (pycurl.MAXAGE_CONN, limits.idle_s),
            (pycurl.OPENSOCKETFUNCTION, self._open_socket),
            (pycurl.SOCKOPTFUNCTION, self._note_socket),
            (pycurl.PREREQFUNCTION, self._look_at_connection),
            # Straight into lists, in C. libcurl itself stops headers at 300 KB an answer.
            (pycurl.HEADERFUNCTION, self._head.append),
            (pycurl.WRITEFUNCTION, self._body.append),
        )

    def _open_socket(self, purpose: int, address: Any) -> Any:
        origin = self.poll.origin
        if origin is not None and origin.admits(str(address.addr[0])):
            with suppress(OSError):  # no more descriptors, or no such family here
                return _Lent(address.family, address.socktype, address.protocol)
        else:
            self._was_refused = True
        return self._pycurl.SOCKET_BAD

    def _note_socket(self, descriptor: int, purpose: int) -> int:
        self._opened.append(descriptor)
        return 0

    def _look_at_connection(self, *ends: Any) -> int:
        """
        Abort before the request is sent if a kept connection has something to read.

        It would be taken for the answer, whosever it is; libcurl looks once a second only.
        """
        if self._opened:  # new: over TLS, session tickets may wait to be read
            if len(self._descriptors) > DESCRIPTORS_MAX:
                self._descriptors.clear()
            for descriptor in self._opened:
                if _local_port(descriptor) == ends[3]:
                    self._descriptors[ends] = descriptor
            return self._go
        kept = self._descriptors.get(ends)
        self.was_disturbed = kept is None or _readable(kept)
        return self._abort if self.was_disturbed else self._go

    def prepare(self, poll: _Poll[Any]) -> None:
        self.poll = poll
        self._was_refused = self.was_disturbed = False
        self._opened.clear()
        self._head.clear()
        self._body.clear()
        request = poll.request
        self.handle.setopt(self._pycurl.URL, _address(request))
        if request.headers is not self._headers:
            self._set_headers(request.headers)
        if self._posts or request.method != "GET":
            self._set_form(request)

    def _set_headers(self, headers: Mapping[str, str]) -> None:
        given = {name.lower() for name in headers}
        fields = {name: text for name, text in _FIXED_FIELDS.items() if name.lower() not in given}
        fields.update(headers)
        lines = [f"{name}: {text}" if text else f"{name};" for name, text in fields.items()]
        # Without a value, libcurl leaves its own out: a form need not be announced.
        self.handle.setopt(self._pycurl.HTTPHEADER, [*lines, "Expect:"])
        self._headers = headers

    def _set_form(self, request: Request) -> None:
        pycurl = self._pycurl
        self._posts = request.method == "POST"
        if not self._posts:
            self.handle.setopt(pycurl.HTTPGET, 1)
            return
        form = urlencode(request.form or {}).encode()
        self.handle.setopt(pycurl.POST, 1)
        self.handle.setopt(pycurl.POSTFIELDSIZE_LARGE, len(form))
        # Read through a function, a form cannot be rewound: on a stale connection libcurl then
        # fails, where it would silently send a POST twice.
        self.handle.setopt(pycurl.READFUNCTION, io.BytesIO(form).read)

    def answer(self, code: int) -> Response | PollwireError:
        """Make an answer, or the error that it is, of what libcurl brought."""
        poll = self.poll
        assert poll.origin is not None
        host = poll.origin.host
        if code:
            return self._failure(code, poll.origin)
        status = self.handle.getinfo(self._pycurl.RESPONSE_CODE)
        expect = poll.request.expect
        if not _keeps(status, expect):
            self._drop_connection()
        headers = _read_head(self._head, self._limits)
        if headers is None:
            self._drop_connection()
            return Malformed(f"{host}: {status} with headers cut short, or larger than the cap")
        if status not in expect:
            retry_after = headers.get("retry-after", "")
            failure = failure_of(status, expect, host, retry_after, time.time())
            assert failure is not None
            return failure
        if headers.get("content-encoding", "identity").lower() != "identity":
            return Malformed(f"{host}: {status} in an encoding that was not asked for")
        body = b"".join(self._body)
        if status == 200 and not body:
            return Unavailable(f"{host}: {status} with nothing in it")
        return Response(status, headers, body)

    def _failure(self, code: int, origin: Origin) -> PollwireError:
        pycurl = self._pycurl
        if self._was_refused:
            return _refused(origin)
        if code in (pycurl.E_FILESIZE_EXCEEDED, 100):  # 100: too large headers
            return Malformed(f"{origin.host}: the answer is larger than the cap")
        if code in (pycurl.E_UNSUPPORTED_PROTOCOL, 8):  # 8: a weird reply
            return Malformed(f"{origin.host}: the answer is not HTTP as it should be")
        if code == pycurl.E_OPERATION_TIMEDOUT:
            return Unavailable(f"{origin.host}: no complete answer in time")
        if code in (pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_CONNECT):
            return _unreachable(origin)
        return Unavailable(f"{origin.host}: no complete answer (libcurl {code})")

    def _drop_connection(self) -> None:
        # FORBID_REUSE would have had to be set before. A connection that is shut down is found
        # dead when it is looked at for the next request.
        descriptor = self.handle.getinfo(self._pycurl.ACTIVESOCKET)
        if descriptor < 0:
            return
        sock = socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM)
        with sock, suppress(OSError):  # closed by the other side already
            sock.shutdown(socket.SHUT_RDWR)


def _readable(descriptor: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))


def _local_port(descriptor: int) -> int:
    # Of two sockets that raced to connect, the loser may be closed by now.
    with suppress(OSError), socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as sock:
        return int(sock.getsockname()[1])
    return -1


class _Lent(socket.socket):
    """A socket that pycurl duplicates; ours is closed as soon as it lets go of it."""

    def __del__(self) -> None:
        self.close()


def _read_head(lines: list[bytes], limits: Limits) -> dict[str, str] | None:
    """
    Read the headers of the last answer in *lines*, which may follow some with a status of 1xx.

    Returns:
        The kept ones in lower case, or ``None`` if they do not end, or there are too many.
    """
    headers: dict[str, str] = {}
    complete = False
    if len(lines) > limits.header_lines or sum(map(len, lines)) > limits.header_bytes:
        return None
    for line in lines:
        name, colon, value = line.partition(b":")
        if line.startswith(b"HTTP/"):
            headers, complete = {}, False
        elif not colon:
            complete = complete or not line.strip()
        elif not complete:  # what follows is a trailer, of no meaning to us
            kept = _KEPT.get(name.lower())
            if kept is not None:
                text = value.strip().decode("latin-1")
                headers[kept] = f"{headers[kept]}, {text}" if kept in headers else text
    return headers if complete else None
