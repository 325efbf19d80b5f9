"""What the page's server answers, and what it does not."""

from __future__ import annotations

import json
import re
import socket
import threading
from contextlib import suppress

import pytest

from local import page as page_module
from local.board import Board
from local.ledger import Ledger
from local.page import FILES, HERE, STATE, Page
from local.processes import Failed, Stopped

CANARY = "canary-3f9a"
LIMIT_S = 20


@pytest.fixture
def board():
    board = Board(Ledger(), lambda: 1_795_377_600_000)
    board.say(CANARY)
    return board


@pytest.fixture
def page(board, monkeypatch):
    monkeypatch.setattr(page_module, "LOOKING_S", 0)
    with Page(board) as page:
        yield page


def port_of(page):
    return int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", page.url)[1])


def send(page, request):
    """Send bytes; return status, headers by name in lower case, and body."""
    with socket.create_connection(("127.0.0.1", port_of(page)), timeout=LIMIT_S) as client:
        client.sendall(request)
        answer = b""
        while part := client.recv(1 << 16):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body


def ask(page, path="/", method="GET", host=None, more=""):
    host = f"127.0.0.1:{port_of(page)}" if host is None else host
    return send(page, f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode())


@pytest.mark.parametrize(("path", "file"), sorted(FILES.items()))
def test_the_page_has_three_files(page, path, file):
    name, type_ = file
    status, headers, body = ask(page, path)

    assert (status, headers["content-type"]) == (200, type_)
    assert body == (HERE / name).read_bytes()


def test_and_one_object(page, board):
    status, headers, body = ask(page, STATE)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body)["text"] == CANARY

    board.say("something else")
    assert json.loads(ask(page, STATE)[2])["text"] == "something else"


def test_nothing_but_its_own_files_is_loaded_or_run():
    texts = [path.read_text() for path in HERE.iterdir() if path.suffix in (".html", ".css", ".js")]
    text = "\n".join(texts)

    assert len(texts) == 3
    assert sorted(re.findall(r'(?:src|href)="([^"]*)"', text)) == ["data:,", "page.css", "page.js"]
    # Which is a name, and not fetched.
    assert re.findall(r"[a-z]+://[^\"'\s)]+", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"url\(|@import|\bimport\b", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)


@pytest.mark.parametrize("path", [*FILES, STATE, "/nothing"])
def test_every_answer_keeps_other_sites_out(page, path):
    _, headers, _ = ask(page, path)

    policy = dict(
        part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert not {"access-control-allow-origin", "set-cookie", "server"} & {*headers}


@pytest.mark.parametrize(
    "path",
    [
        "/index.html",
        "/state.json?",
        "/state.json?x=1",
        "/x//state.json",
        "/./state.json",
        "/../board.py",
        "/..%2fboard.py",
        "/%73tate.json",
        "/page.js/",
        "/page.js%00",
        "/__init__.py",
        "/favicon.ico",
        "http://127.0.0.1/state.json",
        "*",
        "state.json",
        "/" + "a" * 60_000,
    ],
    ids=lambda path: path[:20],
)
def test_there_is_nothing_else(page, path):
    status, _, body = ask(page, path)

    assert (status, body) == (404, b"Not Found")


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "X"]
)
@pytest.mark.parametrize("path", [STATE, "/nothing"])
def test_only_get_is_answered(page, method, path):
    status, headers, body = ask(page, path, method)

    assert (status, headers["allow"], body) == (405, "GET", b"Method Not Allowed")


def test_head_is_refused_without_a_body(page):
    status, headers, body = ask(page, STATE, "HEAD")

    assert (status, headers["allow"], body) == (405, "GET", b"")


def test_what_is_sent_is_read_before_it_is_refused(page):
    """Or the client sees its connection reset, and no answer."""
    sent = b"x" * 50_000
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(sent)}\r\n\r\n"

    assert send(page, head.encode() + sent)[0] == 405


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1", "localhost", "LocalHost:8060"])
def test_its_own_names(page, host):
    assert ask(page, STATE, host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:8060",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost.",
        "evil.example/localhost",
        "127.0.0.1:80@evil.example",
        "localhost, evil.example",
        "localhost:port",
        "127.0.0.2",
        "0.0.0.0",  # noqa: S104
        "[::1]",
        "2130706433",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_name_that_only_leads_here_is_refused(page, method, host):
    for path in (STATE, "/", "/nothing"):
        status, _, body = ask(page, path, method, host)
        assert (status, body) == (403, b"Forbidden")


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /state.json HTTP/1.1\r\n\r\n",
        b"GET /state.json HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET /state.json HTTP/1.1\r\nHost: evil.example\r\nHost: localhost\r\n\r\n",
        b"GET http://localhost/state.json HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ],
)
def test_a_request_for_nobody_in_particular_is_refused(page, request_):
    assert send(page, request_)[0] == 403


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"<script>alert(1)</script>\r\n\r\n", 400),
        (b"GET / HTTP/9.9<script>\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\n\r\n", 505),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
    ],
    ids=["no request", "no version", "another version", "long", "many headers"],
)
def test_nothing_of_a_request_comes_back(page, request_, status):
    answered, headers, body = send(page, request_)

    assert answered == status
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert b"<" not in body
    assert b"script" not in body


def test_it_listens_to_this_machine_only(page):
    with socket.socket() as elsewhere:
        # Another address of the loopback interface, as any address of the machine.
        assert elsewhere.connect_ex(("127.0.0.2", port_of(page))) != 0


def test_a_port_that_is_taken_is_told_with_the_remedy(board):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Failed) as failure:
            Page(board, port)

    assert f"port {port} cannot be used" in str(failure.value)
    assert f"'make run PAGE_PORT={port + 1}', or none" in str(failure.value)


def test_it_ends_although_somebody_holds_a_connection(board):
    before = threading.active_count()
    with Page(board) as page:
        port = port_of(page)
        idle = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
        half = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
        half.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        assert ask(page, "/")[0] == 200  # By then both have been accepted.

    with idle, half:
        assert idle.recv(1) == b""
    assert threading.active_count() == before
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize(
    ("error", "phase", "text"),
    [
        (Failed("the disk is full\n    a line of a log"), "failed", "the disk is full"),
        (Stopped(), "ended", "It was stopped."),
        (KeyError(CANARY), "failed", "KeyError; the terminal says more."),
        (None, "ended", "It was stopped."),
    ],
    ids=["failed", "stopped", "a mistake of ours", "no end"],
)
def test_how_a_run_ended_that_has_no_summary(board, error, phase, text):
    with suppress(Failed, Stopped, KeyError), Page(board):
        if error:
            raise error

    state = json.loads(board.shown)
    assert (state["phase"], state["text"]) == (phase, text)


def test_who_is_looking_gets_to_see_the_end(board, monkeypatch):
    """What asks once a second is answered once more after the last change."""
    waited = []
    monkeypatch.setattr(page_module.time, "sleep", lambda seconds: waited.append(seconds))
    with Page(board):
        board.end("0 lost", 0)
    assert waited == []  # Nobody was.

    with Page(board) as page:
        ask(page, STATE)
    assert waited == [page_module.LOOKING_S]


def test_its_port_is_free_when_it_has_ended(board):
    with Page(board) as page:
        ask(page, "/")
        port = port_of(page)
    with Page(board, port) as again:
        assert again.url == page.url
