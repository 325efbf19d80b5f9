"""
What drives a provider's module in a test: a simulator in place of the network, and no sockets.

``Wire`` answers requests as ``pollwire.http`` does: a status that a request does not expect is an
error before the module sees it. A delta has it raised by its ``fetch``, a check has it thrown in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit

from pollwire.errors import PollwireError
from pollwire.exchange import Fetch, Request, Response
from pollwire.http import failure_of
from pollwire.model import Account, Checking, Page, Row, Seen, Start
from pollwire.providers import Provider
from pollwire.tokens import Grant, Token


class Handler(Protocol):
    """What a simulator offers."""

    def handle(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> tuple[int, Mapping[str, str], bytes]: ...


class Wire:
    """
    Carries requests to one simulator, whatever their host.

    Attributes:
        sent: Every request so far.
    """

    def __init__(self, simulator: Handler, hosts: Iterable[str]) -> None:
        self.simulator = simulator
        self.hosts = tuple(hosts)
        self.sent: list[Request] = []

    def __call__(self, request: Request) -> Response:
        self.sent.append(request)
        assert request.url.startswith(tuple(f"{host}/" for host in self.hosts)), request.url
        assert not request.secret or request.url.startswith("https://"), "a secret over plain http"
        for value in request.headers.values():
            assert value.isprintable(), "a header that ends early"
        url = urlsplit(request.url)
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = b""
        if request.form is not None:
            headers["content-type"] = "application/x-www-form-urlencoded"
            body = urlencode(request.form).encode()
        query = dict(parse_qsl(url.query, keep_blank_values=True)) | dict(request.query)
        answer = self.simulator.handle(request.method, url.path, query, headers, body)
        return _response(request, *answer)


class Canned:
    """Answers with given bodies, one after the other and the last for ever."""

    def __init__(self, *answers: bytes, status: int = 200, **headers: str) -> None:
        self.answers = list(answers)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def handle(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> tuple[int, Mapping[str, str], bytes]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return self.status, self.headers, answer


def _response(request: Request, status: int, headers: Mapping[str, str], body: bytes) -> Response:
    headers = {name.lower(): value for name, value in headers.items()}
    host = urlsplit(request.url).netloc
    failure = failure_of(status, request.expect, host, headers.get("retry-after", ""), now_s=0)
    if failure:
        raise failure
    return Response(status, headers, body)


def run(checking: Checking, fetch: Fetch) -> Seen:
    """
    Drive one check to its end, as :meth:`pollwire.http.Http.run` does.

    Raises:
        PollwireError: The check raised it, or was thrown it and does not handle it.
    """
    try:
        request = next(checking)
        while True:
            assert isinstance(request, Request)
            try:
                response = fetch(request)
            except PollwireError as error:
                request = checking.throw(error)
            else:
                request = checking.send(response)
    except StopIteration as stop:
        seen = stop.value
        assert isinstance(seen, Seen)
        return seen


def fresh(account: Account, token: str = "") -> Account:
    """Return the account with *token* as the stored one, and nothing of earlier calls."""
    return replace(account, token=Token(lambda: Grant(token)))


def pages(
    provider: Provider,
    account: Account,
    stream: str,
    fetch: Fetch,
    start: Start | None = None,
    token: str = "",
) -> list[Page]:
    """Fetch every page of a delta."""
    return list(provider.delta(fresh(account, token), stream, start or Start(), fetch))


def rows(
    provider: Provider,
    account: Account,
    stream: str,
    fetch: Fetch,
    start: Start | None = None,
    token: str = "",
) -> list[Row]:
    """Fetch every row of a delta."""
    found = pages(provider, account, stream, fetch, start, token)
    return [row for page in found for row in page.rows]
