"""
The only package that talks to providers: deadlines, caps, hosts, redaction.

    Http.fetch    one request, with requests (deltas.py)
    Http.run      the checks of a whole shard at once (runs.py), with pycurl (checks.py)

Both engines send to the same hosts, refuse the same addresses before they connect, and read an
answer the same way. Neither follows redirects, keeps cookies, or looks at proxies and netrc files
of the environment. Both speak HTTP/1.1 only, so that one set of framing rules, and of tests, holds
for both. Each is imported when it is first needed: a cold check never pays for requests, a cold
delta never for pycurl.

No error text, no exception chain and no log record holds a URL, a header or a body.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from pollwire.errors import PollwireError
from pollwire.exchange import Request, Response
from pollwire.http.answers import failure_of, retry_after_s, spent
from pollwire.http.hosts import Hosts, Origin, public
from pollwire.http.limits import SILENT_MIN, Limits
from pollwire.http.runs import Pace, Run
from pollwire.model import Checking, Seen

if TYPE_CHECKING:
    from pollwire.http.checks import Checks
    from pollwire.http.deltas import Deltas

__all__ = [
    "SILENT_MIN",
    "Hosts",
    "Http",
    "Limits",
    "Origin",
    "Pace",
    "failure_of",
    "public",
    "retry_after_s",
    "spent",
]

K = TypeVar("K")

#: What is left of a run's time when the last request may start: this, or a share if that is less.
GRACE_S = 1.0
GRACE_SHARE = 0.2


class Http:
    """
    Asks providers.

    Keeps its connections for as long as it lives, one object a container. ``fetch`` may be called
    from any thread; one ``run`` at a time.

    Attributes:
        tally: ``requests`` so far, and those of runs that were ``not_modified``: answered with 304.
    """

    def __init__(self, hosts: Hosts, *, limits: Limits | None = None) -> None:
        self.tally: Counter[str] = Counter()
        self._hosts = hosts
        self._limits = limits or Limits()
        self._deltas: Deltas | None = None
        self._checks: Checks | None = None

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
            from pollwire.http.deltas import Deltas

            self._deltas = Deltas(self._limits)
        origin = self._hosts.admit(request)
        self.tally["requests"] += 1
        return self._deltas.fetch(request, origin)

    def run(
        self,
        checks: Iterable[tuple[K, Checking]],
        *,
        requests_per_second: float,
        deadline_s: float,
        shared: bool = False,
        spent: dict[K, int] | None = None,
    ) -> Iterator[tuple[K, Seen | PollwireError]]:
        """
        Run many checks side by side, over kept connections.

        An error of transport or status is thrown into the check, which may handle it; what a check
        raises becomes its result and stops no other. A check whose next request is not sent (a rate
        budget is used up, the time is over) gets ``Unasked`` in the place of an answer, and may end
        with what it has learned so far.

        Args:
            checks: Taken one by one, as connections become free.

            requests_per_second: How fast requests may be started, all of them together.

            deadline_s: Seconds from this call until whatever is unfinished becomes
                ``Unavailable``. The time that the caller takes between two results counts.

            shared: All checks share one rate budget at the provider: once an answer says that it is
                used up, what was not asked yet becomes ``Unasked``.

            spent: Gets, by key, for how many seconds a check's answers asked it to be left alone
                (:attr:`~pollwire.exchange.Response.spent_s`), before its result.

        Returns:
            The result of each check under its key, in the order in which they end.

        Raises:
            Misconfigured: *requests_per_second* is not positive.
        """
        pace = Pace(requests_per_second)
        ends_s = time.monotonic() + deadline_s
        if self._checks is None:
            from pollwire.http.checks import Checks

            self._checks = Checks(self._limits)
        run = Run(self._checks, self._hosts, iter(checks), pace, ends_s, shared=shared)
        run.grace_s = min(GRACE_S, deadline_s * GRACE_SHARE)
        run.tally = self.tally
        if spent is not None:
            run.spent = spent
        return run.results()

    def close(self) -> None:
        """Close all connections. The object opens new ones when it is used again."""
        if self._deltas is not None:
            self._deltas.close()
        if self._checks is not None:
            self._checks.close()
        self._deltas = self._checks = None
