"""
The engine of the deltas: a requests session, with sockets of our own under it.

requests and urllib3 have no deadline for a whole request and no cap of what they read, and connect
to whatever address a name leads to. So their connections get a socket from :func:`_connect`, and
read and write through :class:`_Wire`, which both know the call that is under way.

Import only when there is something to fetch.
"""

from __future__ import annotations

import io
import logging
import queue
import socket
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, IncompleteRead
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final

import certifi
import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from pollwire.errors import Malformed, PollwireError, Unavailable
from pollwire.exchange import Request, Response
from pollwire.http import answers
from pollwire.http.hosts import Origin, full_url
from pollwire.http.limits import USER_AGENT, Limits

#: All that the libraries raise; requests' own exceptions are OSErrors.
_FAILURES: Final = (OSError, ValueError, HTTPException, HTTPError)

#: Loggers of urllib3 that put the path and the query into their records.
_TALKATIVE: Final = ("connection", "connectionpool", "poolmanager", "response", "util.retry")


@dataclass(slots=True)
class _Call:
    """
    The request under way in this thread; its sockets find it in :data:`_CALL`.

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
            raise Unavailable(f"{self.origin.host}: {answers.LATE}")
        return remaining_s

    def count(self, received: int) -> None:
        self.received += received
        if self.received > self.limits.wire_bytes + self.limits.header_bytes:
            raise Malformed(f"{self.origin.host}: {answers.TOO_LARGE}")


_CALL: Final[ContextVar[_Call | None]] = ContextVar("pollwire_call", default=None)


def _current() -> _Call:
    call = _CALL.get()
    assert call is not None, "a provider's connection is used outside of fetch"
    return call


class Deltas:
    """Sends one request at a time and thread. See :meth:`pollwire.http.Http.fetch`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._session = _session()
        for name in _TALKATIVE:
            logging.getLogger(f"urllib3.{name}").addFilter(_quiet)

    def fetch(self, request: Request, origin: Origin) -> Response:
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
            return answers.bare(error)
        except _FAILURES as error:
            return _translated(error, call.origin.host)

    def _exchange(self, request: Request, call: _Call) -> Response:
        prepared = self._session.prepare_request(
            requests.Request(
                request.method,
                full_url(request),
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


def _quiet(record: logging.LogRecord) -> bool:
    """Drop what is logged about our own requests; others in the process may use urllib3 too."""
    return _CALL.get() is None


def _read(
    status: int, headers: Mapping[str, str], raw: Any, request: Request, call: _Call
) -> Response:
    host, most_bytes = call.origin.host, call.limits.body_bytes
    retry_after = headers.get("retry-after", "")
    failure = answers.failure_of(status, request.expect, host, retry_after, time.time())
    if failure is not None:
        raise failure
    if status in (204, 304):
        # Not even an end is read: it may have sent a body nevertheless, for the next to stumble on.
        return Response(status, headers)
    encoding = answers.require_encoding(status, headers, ("gzip", "identity"), host)
    # _Call.count ends an endless one.
    body = b"".join(iter(lambda: raw.read(64 * 1024, decode_content=False), b""))
    if body and encoding == "gzip":
        body = answers.unpacked(body, most_bytes, host)
    if len(body) > most_bytes:
        raise Malformed(f"{host}: {answers.TOO_LARGE}")
    return answers.complete(status, headers, body, host)


def _translated(error: BaseException, host: str) -> PollwireError:
    cause: BaseException | None = error
    while cause is not None:
        broken = isinstance(cause, HTTPException)
        if broken and not isinstance(cause, IncompleteRead | ConnectionError):
            return Malformed(f"{host}: {answers.NOT_HTTP}")
        cause = cause.__cause__ or cause.__context__
    return Unavailable(f"{host}: no complete answer")


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        # Even with allow_redirects=False, requests reads and unpacks the whole body of a redirect
        # to prepare the next request. There is none.
        return None


def _session() -> requests.Session:
    """Make a session that takes nothing from the environment and keeps nothing but connections."""
    session = _Session()
    session.trust_env = False
    session.verify = certifi.where()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.clear()
    session.headers.update({"User-Agent": USER_AGENT, "Accept": "application/json"})
    session.headers["Accept-Encoding"] = "gzip, identity"
    for prefix in ("http://", "https://"):
        adapter = HTTPAdapter(max_retries=0)
        adapter.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
        session.mount(prefix, adapter)
    return session


class _Answer(HTTPResponse):
    def _read_status(self) -> tuple[str, int, str]:
        # http.client skips a 100 only; no other word before the answer is the answer, either.
        version, status, reason = super()._read_status()  # type: ignore[misc]
        return version, 100 if 101 < status < 200 else status, reason


class _Plain(HTTPConnection):
    """A connection to an admitted address, whose every wait ends at the call's deadline."""

    response_class = _Answer

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
        return time.monotonic() - wire.used_s < call.limits.idle_s and super().is_connected


class _Tls(_Plain, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _Tls


class _Wire:
    """What urllib3 and http.client need of a socket, with a timeout that shrinks."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self.used_s = time.monotonic()

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(_current().remaining_s())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return _Lines(_Reader(self._sock, self))

    def settimeout(self, timeout: float | None) -> None:
        """Ignore urllib3's timeout, which is one per read."""

    def fileno(self) -> int:
        return int(self._sock.fileno())

    def close(self) -> None:
        self._sock.close()


class _Reader(io.RawIOBase):
    def __init__(self, sock: Any, wire: _Wire) -> None:
        # The socket's own file keeps the descriptor open until it is closed as well.
        self._raw = sock.makefile("rb", buffering=0)
        self._sock, self._wire = sock, wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        call = _current()
        self._sock.settimeout(call.remaining_s())
        received = int(self._raw.readinto(buffer))
        self._wire.used_s = time.monotonic()
        call.count(received)
        return received

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


def _connect(call: _Call) -> socket.socket:
    """Connect to the first admitted address that answers; no other is even tried."""
    ends_s = time.monotonic() + min(call.limits.connect_s, call.remaining_s())
    call.opened = True
    reason = answers.UNREACHABLE
    for family, kind, protocol, _, address in _resolve(call.origin, ends_s):
        if not call.origin.admits(str(address[0])):
            reason = answers.NOT_PUBLIC
            continue
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError:  # No IPv6 here, say.
            continue
        try:
            sock.settimeout(_left_s(ends_s))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            sock.close()
            continue
        # A TLS handshake follows at once; its timeout is one for the whole of it.
        sock.settimeout(_left_s(ends_s))
        return sock
    raise Unavailable(f"{call.origin.host}: {reason}")


def _left_s(ends_s: float) -> float:
    return max(ends_s - time.monotonic(), 0.001)  # 0 would mean: do not wait at all


#: Lookups that may hang at once. A hanging one cannot be stopped, only left behind: its thread ends
#: when the resolver gives up, after half a minute or so.
_LOOKUPS: Final = threading.BoundedSemaphore(8)


def _resolve(origin: Origin, ends_s: float) -> list[Any]:
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
        return found.get(timeout=_left_s(ends_s))
    except queue.Empty:
        raise Unavailable(f"{origin.host}: the name lookup hangs") from None
