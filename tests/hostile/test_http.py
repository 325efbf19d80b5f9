"""
The transport against servers that do what servers should not.

Everything that both engines promise is tried on both. No test measures a duration: limits are
short, and an alarm of the harness fails what does not end by itself.
"""

from __future__ import annotations

import gzip
import logging
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import tracemalloc
import zlib
from collections import Counter
from contextlib import suppress
from http.client import HTTPConnection

import certifi
import pytest
from pollwire import due
from pollwire.errors import (
    Forbidden,
    Malformed,
    Misconfigured,
    PollwireError,
    RateLimited,
    Rejected,
    Unasked,
    Unavailable,
)
from pollwire.exchange import Request, Response
from pollwire.http import (
    SILENT_MIN,
    Hosts,
    Http,
    Limits,
    Pace,
    failure_of,
    public,
    retry_after_s,
)
from pollwire.model import Connection, Seen

from tests.hostile.servers import Server, Talk, answer, make_certificate, says

#: Short, so that a hanging server costs a test half a second.
SHORT = Limits(connect_s=0.4, request_s=0.5)

NOW_S = 1_700_000_000.0


class Engine:
    """One of the two ways to send a request, behind one method."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.http: Http | None = None

    def allow(self, *bases: str, own: tuple[str, ...] = (), limits: Limits | None = None) -> Engine:
        self.close()
        self.http = Http(Hosts(own, bases), limits=limits or Limits())
        return self

    def ask(self, request: Request) -> Response:
        assert self.http is not None
        if self.name == "requests":
            return self.http.fetch(request)
        answers: list[Response] = []

        def check():
            answers.append((yield request))
            return Seen()

        run = self.http.run([("key", check())], requests_per_second=10_000, deadline_s=60)
        [(_, result)] = run
        if isinstance(result, PollwireError):
            raise result
        return answers[0]

    def close(self) -> None:
        if self.http is not None:
            self.http.close()


class Stuck(BaseException):
    """The code under test did not end by itself."""


@pytest.fixture(autouse=True)
def alarm():
    def ring(signum, frame):
        raise Stuck

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 20)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=["requests", "pycurl"])
def engine(request):
    engine = Engine(request.param)
    yield engine
    engine.close()


@pytest.fixture
def pycurl_engine():
    engine = Engine("pycurl")
    yield engine
    engine.close()


@pytest.fixture
def requests_engine():
    engine = Engine("requests")
    yield engine
    engine.close()


def get(server: Server, path: str = "/a", **rest) -> Request:
    return Request(server.base + path, **rest)


# ----- A. status and headers -----


def test_a_200_is_passed_on_whatever_its_body(engine):
    html = b"<html>please log in</html>"
    with Server(says(answer(html, "Content-Type: text/html", 'ETag: W/"1"'))) as server:
        response = engine.allow(server.base).ask(get(server))

    assert (response.status, response.body) == (200, html)
    assert response.headers["content-type"] == "text/html"
    assert response.headers["etag"] == 'W/"1"'


def test_query_form_and_headers_arrive(engine):
    with Server(says(answer())) as server:
        engine.allow(server.base)
        engine.ask(get(server, "/a?x=1", query={"y": "ü &"}, headers={"If-None-Match": '"e"'}))
        engine.ask(get(server, method="POST", form={"password": "p w"}, secret=True))
        engine.ask(get(server, "/b"))

    first, second, third = server.requests
    assert first.startswith(b"GET /a?x=1&y=%C3%BC+%26 HTTP/1.1\r\n")
    assert b'if-none-match: "e"' in first.lower()
    assert second.startswith(b"POST /a HTTP/1.1\r\n")
    assert second.endswith(b"\r\n\r\npassword=p+w")
    assert b"content-type: application/x-www-form-urlencoded\r\n" in second.lower()
    assert third.startswith(b"GET /b HTTP/1.1\r\n")
    assert third.endswith(b"\r\n\r\n")
    assert b"if-none-match" not in (second + third).lower()
    assert b"expect:" not in second.lower()


@pytest.mark.parametrize(
    ("reply", "close"),
    [
        pytest.param(answer(b""), False, id="length 0"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", True, id="closed"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False, id="chunked"
        ),
        pytest.param(answer(gzip.compress(b""), "Content-Encoding: gzip"), False, id="gzip"),
    ],
)
def test_a_200_with_nothing_in_it_is_no_answer(engine, reply, close):
    with Server(says(reply, close=close)) as server, pytest.raises((Unavailable, Malformed)):
        engine.allow(server.base).ask(get(server))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (204, Malformed),
        (202, Malformed),
        (206, Malformed),
        (304, Malformed),
        (400, Malformed),
        (401, Rejected),
        (403, Forbidden),
        (404, Malformed),
        (408, Unavailable),
        (429, RateLimited),
        (500, Unavailable),
        (502, Unavailable),
        (599, Unavailable),
        (600, Malformed),
        (999, Malformed),
    ],
)
def test_an_unexpected_status_becomes_an_error(engine, status, error):
    body = b"" if status in (204, 304) else b"{}"
    with (
        Server(says(answer(body, status=f"{status} No"))) as server,
        pytest.raises(error) as caught,
    ):
        engine.allow(server.base).ask(get(server))

    assert type(caught.value) is error
    assert "127.0.0.1" in str(caught.value)


@pytest.mark.parametrize("status", [304, 401, 403, 404, 429, 503])
def test_an_expected_status_is_an_answer(engine, status):
    body = b"" if status == 304 else b"no"
    with Server(says(answer(body, status=f"{status} So"))) as server:
        response = engine.allow(server.base).ask(get(server, expect=frozenset({200, status})))

    assert (response.status, response.body) == (status, body)


def test_a_304_with_a_body_has_none(engine):
    """And what it sent nevertheless is no part of the next answer."""
    slip = answer(b"slip", status="304 Not Modified")

    def script(talk: Talk, request: bytes) -> None:
        talk.send(slip if b"/first" in request else answer(b"new"))

    with Server(script) as server:
        engine.allow(server.base)
        first = engine.ask(get(server, "/first", expect=frozenset({200, 304})))
        second = engine.ask(get(server, "/second"))

    assert (first.status, first.body) == (304, b"")
    assert second.body == b"new"


def test_a_connection_is_not_used_again_after_a_304(requests_engine):
    """A body that comes late would be the next answer. Checks, where 304 is common, look first."""
    with Server(says(answer(b"", status="304 Not Modified"))) as server:
        requests_engine.allow(server.base)
        for _ in range(2):
            requests_engine.ask(get(server, expect=frozenset({304})))

    assert server.connections == 2


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("0", 1),
        ("", 30),
        ("-5", 30),
        ("1.5", 30),
        ("soon", 30),
        ("٣", 30),
        ("999999999", 3600),
        ("9" * 5000, 3600),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30),
        ("Tue, 14 Nov 2023 22:14:20 -0000", 60),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 1),
        ("Thu, 99 Jan 1970 00:00:00 GMT", 30),
    ],
)
def test_retry_after(value, seconds):
    assert retry_after_s(value, NOW_S) == seconds


@pytest.mark.parametrize(
    ("status", "header", "error", "seconds"),
    [
        (429, "", RateLimited, 30),
        (429, "12", RateLimited, 12),
        (503, "", Unavailable, 0),
        (503, "12", Unavailable, 12),
        (500, "12", Unavailable, 0),
    ],
)
def test_how_long_to_wait(status, header, error, seconds):
    failure = failure_of(status, frozenset({200}), "h", header, NOW_S)

    assert type(failure) is error
    assert failure.retry_after_s == seconds


def test_retry_after_arrives(engine):
    reply = answer(b"slow down", "rEtRy-AfTeR: 77", status="429 Too Many Requests")
    with Server(says(reply)) as server, pytest.raises(RateLimited) as caught:
        engine.allow(server.base).ask(get(server))

    assert caught.value.retry_after_s == 77


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(engine, status):
    with Server(says(answer())) as other:
        bomb = gzip.compress(bytes(30_000_000))
        headers = (f"Location: {other.base}/stolen", "Content-Encoding: gzip")
        with Server(says(answer(bomb, *headers, status=f"{status} Moved"))) as server:
            engine.allow(server.base, other.base)
            tracemalloc.start()
            with pytest.raises(Malformed, match="redirects are not followed"):
                engine.ask(get(server, headers={"X-API-Key": "canary"}))
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()

    assert (other.connections, len(server.requests)) == (0, 1)
    assert peak < 10_000_000


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(b"".join(b"X-%d: y\r\n" % n for n in range(300)), id="300 headers"),
        pytest.param(b"X: " + b"y" * 200_000 + b"\r\n", id="one of 200 KB"),
        pytest.param(b"X: " + b"y" * 70_000 + b"\r\n", id="one of 70 KB"),
        pytest.param(b"X: y\r\n" * 2_000_000, id="12 MB of them"),
        pytest.param(b"y" * 12_000_000, id="a line without an end"),
    ],
)
def test_header_floods_end(engine, flood):
    def script(talk: Talk, request: bytes) -> None:
        talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", flood, b"\r\n{}")

    with Server(script) as server, pytest.raises((Malformed, Unavailable)):
        engine.allow(server.base).ask(get(server))


def test_cookies_are_not_sent_back(engine):
    with Server(says(answer(b"{}", "Set-Cookie: account=first; Path=/"))) as server:
        engine.allow(server.base)
        engine.ask(get(server))
        engine.ask(get(server))

    assert len(server.requests) == 2
    assert b"cookie" not in b"".join(server.requests).lower()


# ----- B. transport: time -----

OPEN = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

DRIPS = {
    "silence": (b"", b""),
    "body": (OPEN, b"1"),
    "chunk line": (CHUNKED, b"1"),
    "chunks": (CHUNKED, b"1\r\nx\r\n"),
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\n", b"X: y\r\n"),
    "status line": (b"", b"H"),
    "header lines": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "one header line": (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "103 Early Hints": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "gzip": (OPEN.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"), b"\x1f"),
}


def dripping(kind: str):
    start, part = DRIPS[kind]

    def script(talk: Talk, request: bytes) -> None:
        if start:
            talk.send(start)
        talk.drip(part) if part else talk.hang()

    return script


@pytest.mark.parametrize("kind", DRIPS)
def test_a_drip_ends_at_the_deadline(engine, kind):
    with Server(dripping(kind)) as server, pytest.raises((Unavailable, Malformed)):
        engine.allow(server.base, limits=SHORT).ask(get(server))


@pytest.mark.parametrize("kind", ["body", "header lines"])
def test_the_deadline_holds_on_any_thread(requests_engine, kind):
    caught: list[PollwireError] = []

    def work() -> None:
        try:
            requests_engine.ask(get(server))
        except PollwireError as error:
            caught.append(error)

    with Server(dripping(kind)) as server:
        requests_engine.allow(server.base, limits=SHORT)
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(15)

        assert not thread.is_alive()
    assert [type(error) for error in caught] == [Unavailable]


def test_a_stalled_tls_handshake_ends(engine):
    with Server(says(b""), silent=True) as server:
        base = server.base.replace("http:", "https:")
        engine.allow(base, limits=SHORT)
        with pytest.raises(Unavailable):
            engine.ask(Request(base + "/a"))


def test_a_hanging_name_lookup_ends(requests_engine, monkeypatch):
    over = threading.Event()

    def hang(*args, **rest):
        over.wait(15)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    base = "https://provider.example"
    with pytest.raises(Unavailable, match="lookup"):
        requests_engine.allow(own=(base,), limits=SHORT).ask(Request(base))
    lookups = [thread for thread in threading.enumerate() if thread.name == "pollwire-lookup"]
    over.set()
    for thread in lookups:
        thread.join(10)

    assert len(lookups) == 1


def test_hanging_name_lookups_do_not_pile_up(requests_engine, monkeypatch):
    over = threading.Event()

    def hang(*args, **rest):
        over.wait(15)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    base = "https://provider.example"
    requests_engine.allow(own=(base,), limits=Limits(connect_s=0.01))
    for _ in range(20):
        with pytest.raises(Unavailable):
            requests_engine.ask(Request(base))
    lookups = [thread for thread in threading.enumerate() if thread.name == "pollwire-lookup"]
    over.set()
    for thread in lookups:
        thread.join(10)

    assert 0 < len(lookups) <= 8


@pytest.mark.parametrize("failure", [socket.gaierror(-2, "canary"), UnicodeError("canary")])
def test_a_name_that_does_not_exist(requests_engine, monkeypatch, failure):
    def fail(*args, **rest):
        raise failure

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    base = "https://provider.example"
    with pytest.raises(Unavailable, match="cannot be reached"):
        requests_engine.allow(own=(base,)).ask(Request(base))


def test_nobody_listens(engine):
    with Server(says(answer())) as server:
        pass
    with pytest.raises(Unavailable):
        engine.allow(server.base).ask(get(server))


# ----- B. transport: cuts -----


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="before the answer"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="in a header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", id="between headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1,2", id="in the body"),
        pytest.param(CHUNKED + b"5\r\n1,2", id="in a chunk"),
        pytest.param(CHUNKED + b"3\r\n1,2\r\n", id="between chunks"),
        pytest.param(CHUNKED + b"3\r\n1,2\r\n0\r\n", id="in the trailers"),
    ],
)
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_an_answer_cut_short_is_none(engine, sent, reset):
    def script(talk: Talk, request: bytes) -> bool:
        talk.send(sent)
        return talk.reset() if reset else True

    with Server(script) as server, pytest.raises((Unavailable, Malformed)):
        engine.allow(server.base).ask(get(server))


def test_headers_cut_short_are_not_an_account_without_data(engine):
    """404 means "known, and empty" to a provider: a cut one must not."""
    cut = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n"
    with Server(says(cut, close=True)) as server, pytest.raises((Unavailable, Malformed)):
        engine.allow(server.base).ask(get(server, expect=frozenset({200, 404})))


def test_a_reset_after_the_answer_harms_nobody(engine):
    def script(talk: Talk, request: bytes) -> bool:
        talk.send(answer(b"new"))
        return talk.reset()

    with Server(script) as server:
        engine.allow(server.base)
        bodies = []
        for _ in range(3):
            # The reset may overtake the answer; a whole answer is never wrong.
            with suppress(Unavailable):
                bodies.append(engine.ask(get(server)).body)

    assert set(bodies) <= {b"new"}


def test_chunks_are_put_together(engine):
    reply = CHUNKED + b"2\r\n1,\r\n1;ext=1\r\n2\r\n0\r\nRetry-After: 9\r\nETag: no\r\n\r\n"
    with Server(says(reply)) as server:
        engine.allow(server.base)
        responses = [engine.ask(get(server)) for _ in range(2)]

    assert [response.body for response in responses] == [b"1,2", b"1,2"]
    assert "etag" not in responses[0].headers
    assert server.connections == 1


# ----- B. transport: size and encodings -----


def test_gzip_is_unpacked(requests_engine):
    with Server(says(answer(gzip.compress(b"{}"), "Content-Encoding: GZip"))) as server:
        response = requests_engine.allow(server.base).ask(get(server))

    assert response.body == b"{}"
    assert b"accept-encoding: gzip, identity\r\n" in server.requests[0].lower()


def test_checks_do_not_ask_for_gzip(pycurl_engine):
    with Server(says(answer())) as server:
        pycurl_engine.allow(server.base).ask(get(server))

    assert b"accept-encoding: identity\r\n" in server.requests[0].lower()


def test_a_gzip_bomb_does_not_go_off(engine):
    bomb = gzip.compress(bytes(300_000_000), 9)
    with Server(says(answer(bomb, "Content-Encoding: gzip"))) as server:
        engine.allow(server.base)
        tracemalloc.start()
        with pytest.raises(Malformed):
            engine.ask(get(server))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert peak < 30_000_000


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        pytest.param(b"plain", "gzip", id="plain text"),
        pytest.param(gzip.compress(b"1,2")[:-4], "gzip", id="gzip cut short"),
        pytest.param(gzip.compress(b"1,2") + b"more", "gzip", id="more behind"),
        pytest.param(b"\x0b\x01\x801,2\x03", "br", id="br"),
        pytest.param(zlib.compress(b"1,2"), "deflate", id="deflate"),
        pytest.param(gzip.compress(gzip.compress(b"1,2")), "gzip, gzip", id="twice"),
        pytest.param(gzip.compress(b"1,2"), ", ".join(["gzip"] * 12), id="12 times"),
        pytest.param(b"1,2", "zstd", id="zstd"),
    ],
)
def test_an_encoding_that_was_not_asked_for(engine, body, encoding):
    with (
        Server(says(answer(body, f"Content-Encoding: {encoding}"))) as server,
        pytest.raises(Malformed),
    ):
        engine.allow(server.base).ask(get(server))


@pytest.mark.parametrize(
    ("start", "part"),
    [
        pytest.param(CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n", id="chunks"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536, id="no length"),
        pytest.param(answer(b"", length=50_000_000), b"x" * 65536, id="50 MB"),
        pytest.param(
            CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"),
            b"%x\r\n%b\r\n" % (20 * 4096, gzip.compress(b"") * 4096),
            id="nothing, packed",
        ),
    ],
)
def test_an_endless_body_ends_at_the_cap(engine, start, part):
    def script(talk: Talk, request: bytes) -> None:
        talk.send(start)
        while not talk.server.stopping.is_set():
            talk.send(part)

    with Server(script) as server, pytest.raises(Malformed):
        engine.allow(server.base, limits=Limits(request_s=15)).ask(get(server))


# ----- B. transport: 1xx and answers that slip to another request -----


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n" + answer(), id="101"
        ),
        pytest.param(b"1,2,3,4,5,6,7,8", id="HTTP/0.9"),
        pytest.param(b"ICY 200 OK\r\n\r\n1,2", id="another protocol"),
        pytest.param(b"HTTP/1.1 2x0 OK\r\nContent-Length: 1\r\n\r\n1", id="no number"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", id="negative length"),
        pytest.param(b"\x16\x03\x01\x00\x00\r\n\r\n", id="TLS"),
    ],
)
def test_an_answer_that_is_not_http(engine, reply):
    with Server(says(reply, close=True)) as server, pytest.raises((Malformed, Unavailable)):
        engine.allow(server.base).ask(get(server))


def test_a_flood_of_1xx_ends(engine):
    def script(talk: Talk, request: bytes) -> None:
        while not talk.server.stopping.is_set():
            talk.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

    with Server(script) as server, pytest.raises((Malformed, Unavailable)):
        engine.allow(server.base, limits=SHORT).ask(get(server))


@pytest.mark.parametrize("early", [100, 102, 103, 199])
def test_a_1xx_is_no_answer(engine, early):
    hints = answer(b"", 'ETag: "early"', status=f"{early} Early", length=9)
    with Server(says(hints * 2 + answer(b"1,2", 'ETag: "late"'))) as server:
        response = engine.allow(server.base).ask(get(server))
        assert (response.body, response.headers["etag"]) == (b"1,2", '"late"')


@pytest.mark.parametrize("early", [100, 102, 103])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
def test_the_answer_after_a_1xx_is_nobody_elses(engine, early, late):
    """Otherwise one account gets the data of another (performance.md, section 3)."""
    asked_again = threading.Event()

    def script(talk: Talk, request: bytes) -> None:
        if b"/second" in request:
            asked_again.set()
            talk.send(answer(b"second"))
            return
        hints = b"HTTP/1.1 %d Early\r\nLink: </x>\r\n\r\n" % early
        if late:
            talk.send(hints)
            asked_again.wait(0.3)
            talk.send(answer(b"first"))
        else:
            talk.send(hints, answer(b"first"))

    with Server(script) as server:
        engine.allow(server.base)
        with suppress(Malformed):
            assert engine.ask(get(server, "/first")).body == b"first"
        second = engine.ask(get(server, "/second"))

    assert second.body == b"second"


@pytest.mark.parametrize("status", [204, 304, 101, 302, 700])
def test_after_an_unexpected_status_the_connection_is_not_used_again(engine, status):
    def script(talk: Talk, request: bytes) -> None:
        if b"/first" in request:
            talk.send(answer(b"", status=f"{status} Odd"))
        else:
            talk.send(answer(b"%d" % talk.connection))

    with Server(script) as server:
        engine.allow(server.base, limits=Limits(request_s=1))
        with pytest.raises(PollwireError):
            engine.ask(get(server, "/first"))
        second = engine.ask(get(server, "/second"))

    assert second.body == b"1"


@pytest.mark.parametrize(
    "extra", [answer(b"slip"), answer(b"slip", status="408 Request Timeout")], ids=["200", "408"]
)
def test_an_answer_that_nobody_asked_for_is_not_used(engine, extra):
    def script(talk: Talk, request: bytes) -> None:
        talk.send(answer(b"first"), extra) if b"/first" in request else talk.send(answer(b"second"))

    with Server(script) as server:
        engine.allow(server.base)
        first, second = (engine.ask(get(server, path)) for path in ("/first", "/second"))

    assert (first.body, second.body) == (b"first", b"second")


@pytest.mark.parametrize("status", ["200 OK", "408 Request Timeout"])
def test_an_answer_that_comes_while_nobody_asks_is_not_used(engine, status):
    answered, slipped = threading.Event(), threading.Event()

    def script(talk: Talk, request: bytes) -> None:
        if b"/first" not in request:
            talk.send(answer(b"second"))
            return
        talk.send(answer(b"first"))
        answered.wait(10)
        talk.send(answer(b"slip", status=status))
        slipped.set()

    with Server(script) as server:
        engine.allow(server.base)
        assert engine.ask(get(server, "/first")).body == b"first"
        answered.set()
        slipped.wait(10)

        assert engine.ask(get(server, "/second")).body == b"second"


# ----- TLS -----


def test_a_self_signed_certificate_is_refused(engine, tmp_path):
    certificate = make_certificate(tmp_path / "server.pem")
    with Server(says(answer()), certificate=certificate) as server, pytest.raises(Unavailable):
        engine.allow(server.base).ask(get(server))

    assert server.received == 0


def test_a_certificate_of_another_host_is_refused(engine, tmp_path, monkeypatch):
    certificate = make_certificate(tmp_path / "server.pem", "127.0.0.2")
    monkeypatch.setattr(certifi, "where", lambda: str(certificate))
    with Server(says(answer()), certificate=certificate) as server, pytest.raises(Unavailable):
        engine.allow(server.base).ask(get(server))

    assert server.received == 0


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_certificates_of_the_environment_are_not_trusted(engine, name, tmp_path, monkeypatch):
    certificate = make_certificate(tmp_path / "server.pem")
    monkeypatch.setenv(name, str(certificate))
    with Server(says(answer()), certificate=certificate) as server, pytest.raises(Unavailable):
        engine.allow(server.base).ask(get(server))

    assert server.received == 0


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(("newest", "good"), [("TLSv1_1", False), ("TLSv1_2", True)])
def test_tls_is_of_1_2_at_least(engine, newest, good, tmp_path, monkeypatch):
    """And the server that is refused does speak TLS 1.1, as who does not ask for more can see."""
    certificate = make_certificate(tmp_path / "server.pem")
    monkeypatch.setattr(certifi, "where", lambda: str(certificate))
    version = ssl.TLSVersion[newest]
    with Server(says(answer(b"new")), certificate=certificate, newest=version) as server:
        old = ssl.create_default_context(cafile=certificate)
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version = ssl.TLSVersion.TLSv1
        with (
            socket.create_connection(("127.0.0.1", server.port)) as raw,
            old.wrap_socket(raw, server_hostname="127.0.0.1") as wrapped,
        ):
            assert wrapped.version() == newest.replace("_", ".")
        if good:
            assert engine.allow(server.base).ask(get(server)).body == b"new"
            return
        with pytest.raises(Unavailable):
            engine.allow(server.base).ask(get(server))

    assert server.received == 0


def test_tls_connections_are_kept(engine, tmp_path, monkeypatch):
    certificate = make_certificate(tmp_path / "server.pem")
    monkeypatch.setattr(certifi, "where", lambda: str(certificate))
    with Server(says(answer(b"new")), certificate=certificate) as server:
        engine.allow(server.base)
        bodies = [engine.ask(get(server, secret=True)).body for _ in range(3)]

    assert bodies == [b"new"] * 3
    assert server.connections == 1


def test_a_drip_over_tls_ends_at_the_deadline(engine, tmp_path, monkeypatch):
    certificate = make_certificate(tmp_path / "server.pem")
    monkeypatch.setattr(certifi, "where", lambda: str(certificate))
    with Server(dripping("body"), certificate=certificate) as server, pytest.raises(Unavailable):
        engine.allow(server.base, limits=SHORT).ask(get(server))


# ----- hosts and addresses -----


def test_proxies_and_netrc_of_the_environment_are_ignored(engine, monkeypatch, tmp_path):
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login canary password canary\n")
    netrc.chmod(0o600)
    with Server(says(answer(b"proxy"))) as proxy, Server(says(answer(b"real"))) as server:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NETRC", str(netrc))
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
            monkeypatch.setenv(name, proxy.base)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        response = engine.allow(server.base).ask(get(server))

    assert response.body == b"real"
    assert proxy.connections == 0
    assert b"authorization" not in server.requests[0].lower()


def test_a_name_that_leads_to_loopback_is_refused(engine):
    with Server(says(answer())) as server:
        base = f"http://localhost:{server.port}"
        with pytest.raises(Unavailable, match="not public"):
            engine.allow(base).ask(Request(base + "/a"))

    assert (server.connections, server.received) == (0, 0)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "::ffff:127.0.0.1"]
)
def test_a_name_rebound_to_an_internal_address_is_refused(engine, monkeypatch, address):
    def resolve(host, port, *args, **rest):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]

    with Server(says(answer())) as server:
        base = f"http://provider.example:{server.port}"
        engine.allow(base)
        if engine.name == "requests":
            monkeypatch.setattr(socket, "getaddrinfo", resolve)
        else:
            rebind(engine.http, f"provider.example:{server.port}:[{address}]")
        with pytest.raises(Unavailable, match="not public"):
            engine.ask(Request(base + "/a"))

    assert server.connections == 0


def rebind(http: Http, entry: str) -> None:
    """Give libcurl an answer of DNS."""
    import pycurl

    assert list(http.run([], requests_per_second=1, deadline_s=1)) == []
    for slot in http._checks.idle:
        slot.handle.setopt(pycurl.RESOLVE, [entry.replace("[", "").replace("]", "")])


def test_an_ip_literal_is_answered_by_that_address_only():
    hosts = Hosts([], ["http://10.1.2.3", "http://[::1]:8080"])
    four = hosts.admit(Request("http://10.1.2.3/a"))
    six = hosts.admit(Request("http://[::1]:8080/a"))

    assert [four.admits(peer) for peer in ("10.1.2.3", "10.1.2.4", "8.8.8.8", "x")] == [
        True,
        False,
        False,
        False,
    ]
    assert [six.admits(peer) for peer in ("::1", "::2", "127.0.0.1")] == [True, False, False]


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "::ffff:8.8.8.8", "2606:4700:4700::1111", "2a00:1450:4001:80b::200e"],
)
def test_public_addresses(address):
    assert public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1"),  # noqa: S104
        *("169.254.169.254", "100.64.0.1", "192.0.0.8", "192.0.0.170", "192.0.2.1", "192.88.99.1"),
        *("198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::169.254.169.254"),
        *("::8.8.8.8", "64:ff9b::a9fe:a9fe", "64:ff9b::808:808", "64:ff9b:1::1", "100::1"),
        *("2002:a9fe:a9fe::", "2002:808:808::1", "2001::1", "2001:0:808:808::1", "2001:db8::1"),
        *("fe80::1", "fe80::1%eth0", "2606:4700::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254"),
        *("ff02::1", "ff0e::1", "5f00::1", "4000::1"),
        *("", "x", "8.8.8", "0x8.8.8.8", "8.8.8.8 ", "2130706433", "/socket"),
    ],
)
def test_addresses_that_are_not_public(address):
    assert not public(address)


@pytest.mark.parametrize(
    ("base", "normal"),
    [
        ("https://api.example.com", "https://api.example.com"),
        ("HTTPS://API.Example.COM:443", "https://api.example.com"),
        ("http://api.example.com:80", "http://api.example.com"),
        ("https://api.example.com:8443", "https://api.example.com:8443"),
        ("http://127.0.0.1:8555", "http://127.0.0.1:8555"),
        ("http://[0:0::1]:80", "http://[::1]"),
    ],
)
def test_base_urls_have_one_normal_form(base, normal):
    hosts = Hosts([base], [])

    assert hosts.require(base) == normal
    assert hosts.require(normal) == normal


@pytest.mark.parametrize(
    "base",
    [
        *(
            "",
            "api.example.com",
            "//api.example.com",
            "ftp://api.example.com",
            "file:///etc/passwd",
        ),
        *("https://", "https:///", "https://api.example.com/", "https://api.example.com/v1"),
        *("https://api.example.com?x", "https://api.example.com#x", "https://api.example.com."),
        *("https://good@evil.com", "https://good:canary@evil.com", "https://good\\@evil.com"),
        *("https://api.example.com:0", "https://api.example.com:65536", "https://api.example.com:"),
        *(
            "https://api.example.com:\u0661",
            "https://api .example.com",
            "https://api.example.com\n",
        ),
        *("\thttps://api.example.com", "https://api.example.com\x00", "https://api..example.com"),
        *("https://-a.com", "https://a-.com", "https://.a.com", f"https://{'a' * 64}.com"),
        *("https://\u0430pi.example.com", "https://api.example。com", "https://ⓐpi.example.com"),
        *("http://0x7f000001", "http://0x7f.1", "http://2130706433", "http://127.1"),
        *("http://127.0.0.01", "http://0177.0.0.1", "http://127.0.0.1.", "http://1.2.3.4.5"),
        *("http://[::ffff:127.0.0.1]", "http://[::1", "http://[fe80::1%25eth0]", "http://::1"),
        *(
            "http://[127.0.0.1]",
            "http://[]",
            "https://api_x.example.com",
            "https://%61pi.example.com",
        ),
    ],
)
def test_what_is_no_base_url(base):
    with pytest.raises(Misconfigured, match="AllowedHosts, entry 2") as caught:
        Hosts([], ["https://fine.example.com", base])
    with pytest.raises(Misconfigured):
        Hosts([], ["https://api.example.com", "http://127.0.0.1"]).require(base)

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "base",
    [
        "https://evil.com",
        "http://api.example.com",
        "https://api.example.com:444",
        "https://api.example.com.evil.com",
        "https://evil.api.example.com",
        "https://example.com",
        "https://xn--pi-6kc.example.com",
        "http://127.0.0.1",
        "http://169.254.169.254",
    ],
)
def test_hosts_that_are_not_allowed(base):
    with pytest.raises(Misconfigured, match="add it to the AllowedHosts parameter"):
        Hosts(["https://api.example.com"], ["http://127.0.0.1:8555"]).require(base)


@pytest.mark.parametrize(
    "url",
    [
        *("https://evil.com/a", "https://good.example.com@evil.com/a", "https://good.example.com."),
        *("https://good.example.com\\@evil.com/a", "https://good.example.com:1/a", "/a", ""),
        *("https://good.example.com?@evil.com/a", "https://good.example.com#@evil.com/a"),
        *("HTTPS://good.example.com/a", "http://good.example.com/a", "https:/good.example.com/a"),
        *("https://good.example.com/a b", "https://good.example.com/a\r\nX: y"),
        *(
            "https://good.example.com/a\\b",
            "https://good.example.com/ü",
            "https://good.example.com/#",
        ),
        *("https://good.example.com/\x00", "https://good.example.com/\x7f"),
        *(
            "https://good.example.com/a/../b",
            "https://good.example.com/..",
            "https://good.example.com/./",
        ),
        *("https://good.example.com/a/%2E%2e/b", "https://good.example.com/.%2e?x=y"),
    ],
)
def test_requests_that_are_not_sent(engine, url):
    with pytest.raises(Misconfigured):
        engine.allow("https://good.example.com").ask(Request(url))


@pytest.mark.parametrize("path", ["/...", "/a..b", "/..a", "/a.", "/.well-known", "/a?x=.."])
def test_dots_that_are_part_of_a_name_are_sent(path):
    assert Hosts(["https://a.example.com"]).admit(Request(f"https://a.example.com{path}"))


@pytest.mark.parametrize(
    ("own", "allowed", "sent"),
    [
        ("https://a.example.com", "https://b.example.com", True),
        ("http://a.example.com", "https://b.example.com", False),
        ("https://b.example.com", "http://a.example.com", False),
        ("https://b.example.com", "http://127.0.0.1:1", True),
        ("https://b.example.com", "http://[::1]:1", True),
        ("https://b.example.com", "http://localhost:1", False),
        ("https://b.example.com", "http://10.0.0.1", False),
        ("http://127.0.0.1:1", "https://b.example.com", False),
    ],
)
def test_where_a_credential_may_go(own, allowed, sent):
    hosts = Hosts([own], [allowed])
    base = own if "b.example.com" in allowed else allowed
    assert hosts.admit(Request(base + "/a"))
    if sent:
        assert hosts.admit(Request(base + "/a", secret=True))
        return
    with pytest.raises(Misconfigured, match="plain http"):
        hosts.admit(Request(base + "/a", secret=True))


def test_a_credential_over_plain_http_is_not_sent(engine):
    with Server(says(answer())) as server, pytest.raises(Misconfigured):
        engine.allow(own=(server.base,)).ask(get(server, secret=True))

    assert server.connections == 0


@pytest.mark.parametrize(
    ("method", "form"),
    [("PUT", None), ("GET", {"a": "b"}), ("GET / HTTP/1.1\r\nX: y\r\n\r\n", None)],
)
def test_methods_that_are_not_sent(engine, method, form):
    with pytest.raises(Misconfigured):
        engine.allow("http://127.0.0.1:1").ask(
            Request("http://127.0.0.1:1/a", method=method, form=form)
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X", "canary\r\nY: z"),
        ("X", "canary\n"),
        ("X", "\x00canary"),
        ("X", "canaryü"),
        ("X: y\r\nZ", "canary"),
        ("", "canary"),
        ("X ", "canary"),
    ],
)
def test_headers_that_are_not_sent(engine, name, value):
    with Server(says(answer())) as server, pytest.raises(Misconfigured) as caught:
        engine.allow(server.base).ask(get(server, headers={name: value}))

    assert server.connections == 0
    assert "canary" not in str(caught.value)


# ----- secrets -----

#: Not spelled out, because tracebacks show the lines of this file.
CANARY = "-".join(["ca", "na", "ry"])


def failing(kind: str):
    secret = CANARY.encode()
    replies = {
        "500": answer(status=f"500 {CANARY}"),
        "401": answer(status=f"401 {CANARY}"),
        "302": answer(b"", f"Location: http://x.example/?{CANARY}", status="302 Found"),
        "not http": secret + b" " + secret + b"\r\n\r\n",
        "too many headers": b"HTTP/1.1 200 OK\r\n" + b"X: %b\r\n" % secret * 300 + b"\r\n",
        "bad header": b"HTTP/1.1 200 OK\r\n%b\r\nContent-Length: 2\r\n\r\n{}" % secret,
        "cut": OPEN + secret,
        "encoding": answer(secret, "Content-Encoding: gzip"),
        "empty": answer(b""),
        "nothing": b"",
        "fine": answer(secret),
        "refused": answer(secret),
        "tls": answer(secret),
    }
    return says(replies[kind], close=True)


@pytest.mark.parametrize(
    "kind",
    [
        *("500", "401", "302", "not http", "too many headers", "bad header", "cut", "encoding"),
        *("empty", "nothing", "fine", "refused", "tls"),
    ],
)
def test_no_secret_shows_in_errors_and_logs(engine, kind, caplog, capfd, monkeypatch):
    caplog.set_level(logging.DEBUG)
    for name in ("urllib3", "urllib3.connectionpool", "requests", "http.client", "pycurl"):
        caplog.set_level(logging.DEBUG, name)
    monkeypatch.setattr(HTTPConnection, "debuglevel", 1)
    error = None
    with Server(failing(kind)) as server:
        base = server.base.replace("http:", "https:") if kind == "tls" else server.base
        request = Request(
            f"{base}/{CANARY}?password={CANARY}",
            method="POST",
            query={"token": CANARY},
            headers={"Authorization": f"Bearer {CANARY}"},
            form={"password": CANARY},
            secret=True,
        )
        if kind == "refused":
            server.__exit__()
        engine.allow(base, limits=SHORT)
        try:
            response = engine.ask(request)
        except PollwireError as caught:
            error = caught
    printed = "".join(capfd.readouterr())

    assert CANARY not in printed
    assert CANARY not in caplog.text
    assert not [record for record in caplog.records if CANARY in repr(record.__dict__)]
    if error is None:
        assert kind in ("fine", "bad header")
        assert CANARY not in repr(response)
        return
    assert CANARY not in "".join(traceback.format_exception(error)) + repr(error.__dict__)
    assert (error.__cause__, error.__context__) == (None, None)


def test_other_users_of_urllib3_keep_their_log(requests_engine, caplog):
    import urllib3

    caplog.set_level(logging.DEBUG)
    with Server(says(answer())) as server:
        requests_engine.allow(server.base).ask(get(server, "/ours"))
        with urllib3.PoolManager() as pool:
            pool.request("GET", server.base + "/theirs")

    assert "/theirs" in caplog.text
    assert "/ours" not in caplog.text


# ----- connections -----


def test_connections_are_kept(engine):
    with Server(says(answer(b"new"))) as server:
        engine.allow(server.base)
        for _ in range(5):
            assert engine.ask(get(server)).body == b"new"

    assert (server.connections, len(server.requests)) == (1, 5)


@pytest.mark.parametrize("status", [404, 429, 500])
def test_an_error_status_does_not_break_the_next_request(engine, status):
    def script(talk: Talk, request: bytes) -> None:
        if b"/first" in request:
            talk.send(answer(b"x" * 5000, status=f"{status} No"))
        else:
            talk.send(answer(b"second"))

    with Server(script) as server:
        engine.allow(server.base)
        with pytest.raises(PollwireError):
            engine.ask(get(server, "/first"))

        assert engine.ask(get(server, "/second")).body == b"second"


def closing(announce: threading.Event | None = None):
    """Answer a connection's first request; close at the second one, or right after the first."""
    seen: set[int] = set()

    def script(talk: Talk, request: bytes) -> bool:
        if talk.connection in seen:
            return True
        seen.add(talk.connection)
        talk.send(answer(b"new"))
        return announce is not None

    return script


def test_a_kept_connection_closed_meanwhile_is_replaced(engine):
    with Server(closing(threading.Event())) as server:
        engine.allow(server.base)
        bodies = [engine.ask(get(server)).body for _ in range(3)]

    assert bodies == [b"new"] * 3
    assert server.connections == 3


def test_a_get_on_a_connection_that_turns_out_dead_is_sent_once_more(engine):
    with Server(closing()) as server:
        engine.allow(server.base)
        bodies = [engine.ask(get(server)).body for _ in range(2)]

    assert bodies == [b"new"] * 2
    assert (server.connections, len(server.requests)) == (2, 3)


def test_a_post_is_never_sent_twice(engine):
    with Server(closing()) as server:
        engine.allow(server.base)
        engine.ask(get(server))
        with pytest.raises(Unavailable):
            engine.ask(get(server, method="POST", form={"a": "b"}))

    assert (server.connections, len(server.requests)) == (1, 2)


def test_a_fresh_connection_that_fails_is_not_tried_again(engine):
    with Server(says(b"", close=True)) as server, pytest.raises(Unavailable):
        engine.allow(server.base).ask(get(server))

    assert (server.connections, len(server.requests)) == (1, 1)


def test_an_idle_connection_is_not_used_again(requests_engine):
    with Server(says(answer(b"new"))) as server:
        requests_engine.allow(server.base, limits=Limits(idle_s=0))
        for _ in range(3):
            requests_engine.ask(get(server))

    assert server.connections == 3


def test_each_engine_is_imported_when_it_is_needed():
    with Server(says(answer(b"new"))) as server:
        program = textwrap.dedent(f"""
            import sys
            from pollwire.http import Hosts, Http
            from pollwire.exchange import Request
            from pollwire.model import Seen

            def check():
                yield Request("{server.base}/a")
                return Seen()

            def loaded():
                return [name for name in ("requests", "urllib3", "pycurl") if name in sys.modules]

            http = Http(Hosts([], ["{server.base}"]))
            none = loaded()
            if sys.argv[1] == "run":
                list(http.run([(1, check())], requests_per_second=9, deadline_s=9))
            else:
                http.fetch(Request("{server.base}/a"))
            print(none, loaded())
        """)
        printed = [
            subprocess.run(  # noqa: S603 - our own interpreter
                [sys.executable, "-c", program, engine],
                env={"PYTHONPATH": "layers/pollwire"},
                capture_output=True,
                text=True,
                check=True,
                timeout=15,
            ).stdout.strip()
            for engine in ("run", "fetch")
        ]

    assert printed == ["[] ['pycurl']", "[] ['requests', 'urllib3']"]


# ----- run -----


@pytest.fixture
def http_to():
    made: list[Http] = []

    def make(server: Server, **limits) -> Http:
        made.append(Http(Hosts([], [server.base]), limits=Limits(**limits)))
        return made[-1]

    yield make
    for http in made:
        http.close()


def polling(url: str, closed: list[str] | None = None):
    try:
        response = yield Request(url)
        return Seen(raw=response.body.decode())
    finally:
        if closed is not None:
            closed.append(url)


def run(http: Http, checks, per_second: float = 10_000, deadline_s: float = 15) -> dict:
    return dict(http.run(checks, requests_per_second=per_second, deadline_s=deadline_s))


def echo(talk: Talk, request: bytes) -> None:
    talk.send(answer(request.split()[1]))


def test_every_check_gets_its_own_answer(http_to):
    with Server(echo) as server:
        http = http_to(server, connections=7)
        for _ in range(2):
            found = run(http, ((n, polling(f"{server.base}/{n}")) for n in range(500)))

            assert found == {n: Seen(raw=f"/{n}") for n in range(500)}

    assert server.connections <= 7


def test_a_check_may_ask_several_times(http_to):
    def check(name: str):
        texts = []
        for step in range(3):
            response = yield Request(f"{server.base}/{name}/{step}")
            texts.append(response.body.decode())
        return Seen(raw=" ".join(texts))

    with Server(echo) as server:
        found = run(http_to(server, connections=2), ((name, check(name)) for name in "abcde"))

    assert found == {name: Seen(raw=f"/{name}/0 /{name}/1 /{name}/2") for name in "abcde"}


def test_a_check_may_answer_without_asking(http_to):
    def check():
        return Seen(raw="known")
        yield

    with Server(echo) as server:
        assert run(http_to(server), [(n, check()) for n in range(100)])[99] == Seen(raw="known")


def test_a_check_may_handle_an_error(http_to):
    def script(talk: Talk, request: bytes) -> None:
        talk.send(answer(status="403 No") if b"/old" in request else answer(b"new"))

    def check():
        with suppress(Rejected):
            yield Request(f"{server.base}/old")
            raise AssertionError
        response = yield Request(f"{server.base}/new")
        return Seen(raw=response.body.decode())

    with Server(script) as server:
        assert run(http_to(server), [("a", check())]) == {"a": Seen(raw="new")}


def test_a_request_that_cannot_be_written_stops_no_other_and_keeps_no_connection(http_to):
    def check(text: str):
        response = yield Request(f"{server.base}/a", query={"token": text})
        return Seen(raw=response.body.decode())

    with Server(says(answer(b"fine"))) as server:
        http = http_to(server, connections=2)
        for _ in range(4):
            found = run(http, {"odd": check("\ud800"), "good": check("t")}.items())

            assert isinstance(found["odd"], Malformed)
            assert found["good"] == Seen(raw="fine")


def budget(remaining: int, window_s: int = 9) -> tuple[str, str]:
    return f"X-Rate-Limit-Remaining: {int(remaining)}", f"X-Rate-Limit-Window: {window_s}"


def test_what_counts_against_a_budget_that_is_used_up_is_not_asked(http_to):
    def script(talk: Talk, request: bytes) -> None:
        talk.send(answer(request.split()[1], *budget(b"/last" not in request)))

    def check(*paths: str):
        for path in paths:
            yield Request(f"{server.base}/{path}", budget=path[0])
        return Seen(raw="done")

    with Server(script) as server:
        found = run(
            http_to(server),
            {
                "same": check("last", "lost"),
                "other": check("last", "more", "more"),
                "plenty": check("some", "some"),
            }.items(),
        )
        asked = b"".join(server.requests)

    assert type(found["same"]) is Unasked
    assert (found["other"], found["plenty"]) == (Seen(raw="done"), Seen(raw="done"))
    assert b"/lost" not in asked


def test_a_check_that_goes_on_asking_when_its_budget_is_used_up_is_over(http_to):
    def check():
        yield Request(server.base + "/last")
        with suppress(Unasked):
            yield Request(server.base + "/lost")
        yield Request(server.base + "/lost")

    with Server(says(answer(b"{}", *budget(0)))) as server:
        found = run(http_to(server), [("a", check())])

    assert isinstance(found["a"], Unasked)
    assert not any(b"/lost" in request for request in server.requests)


def test_a_run_tells_who_used_its_budget_up(http_to):
    def script(talk: Talk, request: bytes) -> None:
        talk.send(answer(b"{}", *budget(b"/last" not in request)))

    spent: dict[str, int] = {}
    with Server(script) as server:
        checks = {"a": polling(f"{server.base}/some"), "b": polling(f"{server.base}/last")}
        run = http_to(server).run(
            checks.items(), requests_per_second=10_000, deadline_s=15, spent=spent
        )
        assert dict(run) == {"a": Seen(raw="{}"), "b": Seen(raw="{}")}

    assert spent == {"b": 9}


@pytest.mark.parametrize(
    "last", [answer(b"{}", *budget(0)), answer(status="429 No")], ids=["used up", "refused"]
)
def test_a_shared_budget_that_is_used_up_stops_all_that_was_not_asked(http_to, last):
    def script(talk: Talk, request: bytes) -> None:
        talk.send(last if b"/3 " in request else answer(b"{}"))

    with Server(script) as server:
        checks = ((number, polling(f"{server.base}/{number}")) for number in range(100))
        found = dict(
            http_to(server, connections=1).run(
                checks, requests_per_second=10_000, deadline_s=15, shared=True
            )
        )

    assert len(server.requests) == 4
    assert {type(found[number]) for number in range(4, 100)} == {Unasked}
    assert found.keys() == set(range(100))


def test_one_bad_check_stops_no_other(http_to):
    def raises(error: BaseException):
        yield Request(f"{server.base}/a")
        raise error

    def yields(value: object):
        yield value

    def returns(value: object):
        yield Request(f"{server.base}/a")
        return value

    def stubborn():
        try:
            yield Request("http://elsewhere.example/a")
        except GeneratorExit:
            raise KeyError("canary") from None

    with Server(echo) as server:
        found = run(
            http_to(server, connections=2),
            [
                ("bug", raises(KeyError("canary"))),
                ("stop", raises(StopIteration())),
                ("named", raises(Malformed("fields"))),
                ("host", yields(Request("http://elsewhere.example/a"))),
                ("header", yields(Request(f"{server.base}/a", headers={"X": "a\nb"}))),
                ("no request", yields("canary")),
                ("no result", returns(None)),
                ("stubborn", stubborn()),
                *((n, polling(f"{server.base}/{n}")) for n in range(20)),
            ],
        )

    named = {key: type(result) for key, result in found.items() if isinstance(key, str)}
    assert named == {
        "bug": Malformed,
        "stop": Malformed,
        "named": Malformed,
        "host": Misconfigured,
        "header": Misconfigured,
        "no request": Malformed,
        "no result": Malformed,
        "stubborn": Misconfigured,
    }
    assert "canary" not in repr(found)
    assert [found[n] for n in range(20)] == [Seen(raw=f"/{n}") for n in range(20)]


def test_one_hanging_account_stops_no_other(http_to):
    def script(talk: Talk, request: bytes) -> None:
        talk.hang() if b"/hang" in request else echo(talk, request)

    with Server(script) as server:
        names = ["hang", *map(str, range(50))]
        checks = [(name, polling(f"{server.base}/{name}")) for name in names]
        http = http_to(server, connections=3, request_s=0.5)
        order = list(http.run(checks, requests_per_second=10_000, deadline_s=60))

    assert order[-1][0] == "hang"
    assert isinstance(order[-1][1], Unavailable)
    assert all(isinstance(result, Seen) for _, result in order[:-1])


def test_what_is_unfinished_at_the_end_is_unavailable(http_to):
    closed: list[str] = []
    with Server(lambda talk, request: talk.hang()) as server:
        urls = [f"{server.base}/{n}" for n in range(10)]
        http = http_to(server, connections=3)
        found = run(http, [(url, polling(url, closed)) for url in urls], deadline_s=0.3)

    assert [type(found[url]) for url in urls] == [Unavailable] * 3 + [Unasked] * 7
    assert len(server.requests) == 3
    # The others were never begun, and have nothing to close.
    assert sorted(closed) == urls[:3]


def test_an_abandoned_run_leaves_nothing_behind(http_to):
    closed: list[str] = []
    with Server(echo) as server:
        http = http_to(server, connections=4)
        urls = [f"{server.base}/{n}" for n in range(20)]
        results = http.run(
            [(url, polling(url, closed)) for url in urls], requests_per_second=1e6, deadline_s=9
        )
        first, _ = next(results)
        results.close()
        again = run(http, [(n, polling(f"{server.base}/{n}")) for n in range(20)])

    assert first in closed
    assert again == {n: Seen(raw=f"/{n}") for n in range(20)}


def test_one_run_at_a_time(http_to):
    with Server(echo) as server:
        http = http_to(server)
        checks = [(n, polling(f"{server.base}/{n}")) for n in range(3)]
        first = http.run(checks, requests_per_second=1e6, deadline_s=9)
        next(first)
        with pytest.raises(RuntimeError):
            next(http.run([], requests_per_second=1e6, deadline_s=9))

        assert len(list(first)) == 2


def test_no_more_requests_at_a_time_than_connections(http_to):
    lock, crowd = threading.Lock(), threading.Barrier(3)
    inside, most = 0, 0

    def script(talk: Talk, request: bytes) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        crowd.wait(10)  # three at a time do get here
        with lock:
            inside -= 1
        echo(talk, request)

    with Server(script) as server:
        http = http_to(server, connections=3)
        found = run(http, [(n, polling(f"{server.base}/{n}")) for n in range(9)])

    assert most == 3
    assert all(isinstance(result, Seen) for result in found.values())


def test_requests_are_paced(http_to):
    """Only the least time is asserted: a slow machine may take longer."""
    begun: list[float] = []

    def script(talk: Talk, request: bytes) -> None:
        begun.append(time.monotonic())
        echo(talk, request)

    with Server(script) as server:
        run(http_to(server), [(n, polling(f"{server.base}/{n}")) for n in range(6)], per_second=20)

    assert len(begun) == 6
    assert begun[-1] - begun[0] > 0.15


def starts(pace: Pace, until_s: float, step_s: float) -> list[float]:
    """Start whenever *pace* lets us, in a loop that wakes up every *step_s*."""
    found, steps = [], round(until_s / step_s)
    for now_s in (1000 + step * step_s for step in range(steps)):
        while pace.wait_s(now_s) <= 0:
            pace.take(now_s)
            found.append(now_s)
    return found


@pytest.mark.parametrize("per_second", [1, 7, 50, 400, 3000])
@pytest.mark.parametrize("step_s", [0.0005, 0.004])
def test_the_pace_is_kept_in_every_window(per_second, step_s):
    found = starts(Pace(per_second), until_s=3, step_s=step_s)

    assert per_second * 3 * 0.98 - 1 <= len(found) <= per_second * 3.02 + 1
    for begin in range(0, 20):
        since = 1000 + begin / 10
        inside = [now for now in found if since <= now < since + 1]
        assert len(inside) <= per_second * 1.02 + 1


def test_time_that_passed_is_not_made_up_for():
    pace = Pace(10)
    pace.take(1000)
    late = 2000

    assert pace.wait_s(late) <= 0
    pace.take(late)
    assert pace.wait_s(late) > 0


@pytest.mark.parametrize("per_second", [0, -1, float("nan")])
def test_a_pace_is_positive(per_second):
    with pytest.raises(Misconfigured, match="requests_per_second"):
        Pace(per_second)


def test_a_provider_that_answers_nobody_is_not_asked_by_all(http_to):
    """Its share of a check's time would be the others' in the queue."""
    with Server(says(answer(status="503 No"))) as server:
        checks = ((number, polling(f"{server.base}/{number}")) for number in range(200))
        found = dict(
            http_to(server, connections=4).run(checks, requests_per_second=10_000, deadline_s=15)
        )

    assert SILENT_MIN <= len(server.requests) < SILENT_MIN + 4
    assert Counter(type(one) for one in found.values()) == {
        Unavailable: len(server.requests),
        Unasked: 200 - len(server.requests),
    }


def test_one_answer_shows_that_a_provider_is_there(http_to):
    def script(talk: Talk, request: bytes) -> None:
        talk.send(answer(b"{}") if b"/0 " in request else answer(status="503 No"))

    with Server(script) as server:
        checks = ((number, polling(f"{server.base}/{number}")) for number in range(100))
        found = dict(
            http_to(server, connections=1).run(checks, requests_per_second=10_000, deadline_s=15)
        )

    assert len(server.requests) == 100
    assert {type(found[number]) for number in range(1, 100)} == {Unavailable}


def test_all_workers_of_a_connection_together_keep_to_its_rate(http_to):
    """Four checks at work, and a delta beside them, as the provider sees them."""
    one = Connection("x", "youmail", interval_s=40, shards=4, requests_per_second=50)
    times: list[float] = []

    def script(talk: Talk, request: bytes) -> None:
        times.append(time.monotonic())
        talk.send(answer(b"{}"))

    def check(http: Http) -> None:
        checks = ((n, polling(f"{server.base}/{n}")) for n in range(1_000))
        per_second = due.requests_per_second(one)
        dict(http.run(checks, requests_per_second=per_second, deadline_s=3))

    def delta(http: Http) -> None:
        # What the table does for deltas of all workers, each of which waits for its turn.
        for n in range(int(3 * due.deltas_per_second(one))):
            at_s = began_s + n / due.deltas_per_second(one)
            ended.wait(max(0, at_s - time.monotonic()))
            http.fetch(Request(f"{server.base}/delta"))

    with Server(script) as server:
        ended, began_s = threading.Event(), time.monotonic()
        work = [threading.Thread(target=check, args=(http_to(server),)) for _ in range(4)]
        work.append(threading.Thread(target=delta, args=(http_to(server),)))
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()

    lasted_s = max(times) - began_s
    assert len(times) > 50
    # Each of the five may be ahead of an even spacing by one.
    assert len(times) <= one.requests_per_second * lasted_s + 5
