"""
The engine of the checks: many requests at once, on pycurl's multi interface.

What to ask, and when, is decided in :mod:`pollwire.http.runs`. CPU time is what a check costs, so
handles are used again, and only what differs from the last request is set. Importing this imports
pycurl.
"""

from __future__ import annotations

import io
import select
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlencode

import certifi
import pycurl

from pollwire.errors import Malformed, PollwireError, Unavailable
from pollwire.exchange import Request, Response
from pollwire.http import answers
from pollwire.http.hosts import full_url
from pollwire.http.limits import USER_AGENT, Limits
from pollwire.http.poll import Poll

#: Lines that each request has, by names that it may give itself instead.
_FIXED_LINES: Final = {
    "accept": "Accept: application/json",
    # A check's answer is small: what gzip would save is less than what unpacking costs.
    "accept-encoding": "Accept-Encoding: identity",
}

#: What libcurl's codes mean, where one says more than that there is no answer.
_MEANINGS: Final[dict[int, tuple[type[Malformed | Unavailable], str]]] = {
    pycurl.E_FILESIZE_EXCEEDED: (Malformed, answers.TOO_LARGE),
    100: (Malformed, answers.TOO_LARGE),  # E_TOO_LARGE, of headers; pycurl has no name for it
    pycurl.E_UNSUPPORTED_PROTOCOL: (Malformed, answers.NOT_HTTP),
    8: (Malformed, answers.NOT_HTTP),  # E_WEIRD_SERVER_REPLY; nor for this one
    pycurl.E_OPERATION_TIMEDOUT: (Unavailable, answers.LATE),
    pycurl.E_COULDNT_RESOLVE_HOST: (Unavailable, answers.UNREACHABLE),
    pycurl.E_COULDNT_CONNECT: (Unavailable, answers.UNREACHABLE),
}

#: What tells one connection from another: peer, own address, and their ports.
_Ends = tuple[Any, ...]

#: Connections whose descriptor is remembered, closed ones among them. One that is forgotten is
#: replaced when it is used next, no more.
DESCRIPTORS_MAX: Final = 1024


class Checks:
    """
    A pycurl multi handle with its connections, and easy handles that are used again and again.

    Attributes:
        idle: Easy handles that do nothing.

        busy: The others, by their pycurl handle.

        claimed: A run is under way.
    """

    def __init__(self, limits: Limits) -> None:
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, limits.connections)
        descriptors: dict[_Ends, select.poll] = {}
        self.idle = [_Slot(limits, descriptors) for _ in range(limits.connections)]
        self.busy: dict[pycurl.Curl, _Slot] = {}
        self.claimed = False

    def begin(self, poll: Poll[Any]) -> None:
        slot = self.idle[-1]
        slot.prepare(poll)
        self.idle.pop()
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

    def abandon(self) -> list[Poll[Any]]:
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


class _Slot:
    """
    An easy handle with its buffers. Only what differs from the last request is set.

    Attributes:
        poll: What it is used for.

        was_disturbed: The kept connection had bytes waiting that nobody asked for. Nothing was
            sent; the request has to begin again.
    """

    poll: Poll[Any]

    def __init__(self, limits: Limits, descriptors: dict[_Ends, select.poll]) -> None:
        self._limits = limits
        self._descriptors = descriptors
        self._head: list[bytes] = []
        self._body: list[bytes] = []
        self._headers: Mapping[str, str] | None = None
        self._posts = False
        self._opened: list[int] = []
        self._was_refused = False
        self.was_disturbed = False
        self.handle = pycurl.Curl()
        for option, value in self._options():
            self.handle.setopt(option, value)

    def _options(self) -> tuple[tuple[int, Any], ...]:
        limits = self._limits
        return (
            (pycurl.USERAGENT, USER_AGENT),
            (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
            (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
            (pycurl.FOLLOWLOCATION, 0),
            (pycurl.PROXY, ""),  # and none from the environment
            (pycurl.NETRC, pycurl.NETRC_IGNORED),
            (pycurl.NOSIGNAL, 1),
            (pycurl.CAINFO, certifi.where()),
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
        if not self.poll.origin.admits(str(address.addr[0])):
            self._was_refused = True
            return pycurl.SOCKET_BAD
        try:
            return _Lent(address.family, address.socktype, address.protocol)
        except OSError:  # no more descriptors, or no such family here
            return pycurl.SOCKET_BAD

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
                    self._descriptors[ends] = poller = select.poll()
                    poller.register(descriptor, select.POLLIN)
            return pycurl.PREREQFUNC_OK
        kept = self._descriptors.get(ends)
        self.was_disturbed = kept is None or bool(kept.poll(0))
        return pycurl.PREREQFUNC_ABORT if self.was_disturbed else pycurl.PREREQFUNC_OK

    def prepare(self, poll: Poll[Any]) -> None:
        self.poll = poll
        self._was_refused = self.was_disturbed = False
        self._opened.clear()
        self._head.clear()
        self._body.clear()
        request = poll.request
        self.handle.setopt(pycurl.URL, full_url(request))
        if request.headers is not self._headers:
            self._set_headers(request.headers)
        if self._posts or request.method != "GET":
            self._set_form(request)

    def _set_headers(self, headers: Mapping[str, str]) -> None:
        fixed, lines = _FIXED_LINES, []
        for name, text in headers.items():
            lines.append(f"{name}: {text}" if text else f"{name};")
            if name.lower() in fixed:
                fixed = {other: line for other, line in fixed.items() if other != name.lower()}
        lines += fixed.values()
        # Without a value, libcurl leaves its own out: a form need not be announced.
        lines.append("Expect:")
        self.handle.setopt(pycurl.HTTPHEADER, lines)
        self._headers = headers

    def _set_form(self, request: Request) -> None:
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
        try:
            return self._answer(code, self.poll.origin.host, self.poll.request.expect)
        except PollwireError as error:
            return answers.bare(error)

    def _answer(self, code: int, host: str, expect: frozenset[int]) -> Response:
        if self._was_refused and code:
            raise Unavailable(f"{host}: {answers.NOT_PUBLIC}")
        if code:
            otherwise = (Unavailable, f"no complete answer (libcurl {code})")
            error, reason = _MEANINGS.get(code, otherwise)
            raise error(f"{host}: {reason}")
        status = self.handle.getinfo(pycurl.RESPONSE_CODE)
        headers = answers.kept_headers(self._head, self._limits)
        # After a status that nobody expects, the real answer may still be on its way, and the next
        # request, that of another account, would get it.
        if headers is None or not (status in expect or 400 <= status < 600):
            self._drop_connection()
        if headers is None:
            raise Malformed(f"{host}: {status} with headers cut short, or larger than the cap")
        if status not in expect:
            self._fail(status, expect, host, headers.get("retry-after", ""))
        if self._body and "content-encoding" in headers:  # Some servers name that of a 304, too.
            answers.require_encoding(status, headers, ("identity",), host)
        return answers.complete(status, headers, b"".join(self._body), host)

    def _fail(self, status: int, expect: frozenset[int], host: str, retry_after: str) -> None:
        failure = answers.failure_of(status, expect, host, retry_after, time.time())
        if failure is not None:
            raise failure

    def _drop_connection(self) -> None:
        # FORBID_REUSE would have had to be set before. A connection that is shut down is found
        # dead when it is looked at for the next request.
        descriptor = self.handle.getinfo(pycurl.ACTIVESOCKET)  # -1 if it is closed already
        with (
            suppress(OSError),
            socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as sock,
        ):
            sock.shutdown(socket.SHUT_RDWR)


def _local_port(descriptor: int) -> int:
    # Of two sockets that raced to connect, the loser may be closed by now.
    with suppress(OSError), socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as sock:
        return int(sock.getsockname()[1])
    return -1


class _Lent(socket.socket):
    """A socket that pycurl duplicates; ours is closed as soon as it lets go of it."""

    def __del__(self) -> None:
        self.close()
