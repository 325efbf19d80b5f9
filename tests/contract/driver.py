"""
What drives a provider's module in a test: a simulator in place of the network, and no sockets.

``Wire`` answers requests as ``pollwire.http`` does: a status that a request does not expect is an
error before the module sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit

from pollwire.errors import Malformed, RateLimited, Rejected, Unavailable
from pollwire.model import (
    Account,
    Checking,
    Fetch,
    Page,
    Request,
    Response,
    Row,
    Seen,
    Start,
    Token,
)
from pollwire.providers import Provider


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
    if status in request.expect:
        return Response(status, {name.lower(): value for name, value in headers.items()}, body)
    if status in (401, 403):
        raise Rejected(f"{status}")
    if status == 429:
        raise RateLimited("429", retry_after_s=int(headers.get("retry-after", 0)))
    if status >= 500:
        raise Unavailable(f"{status}")
    raise Malformed(f"unexpected status {status}")


def run(checking: Checking, fetch: Fetch) -> Seen:
    """Drive one check to its end."""
    try:
        request = next(checking)
        while True:
            request = checking.send(fetch(request))
    except StopIteration as stop:
        seen = stop.value
        assert isinstance(seen, Seen)
        return seen


def fresh(account: Account, token: str = "") -> Account:
    """Return the account with *token* as the stored one, and nothing of earlier calls."""
    return replace(account, token=Token(lambda: token))


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
