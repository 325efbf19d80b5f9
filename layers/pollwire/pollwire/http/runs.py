"""
One run over many checks: lets each go on with its answers, starts their requests at a pace.

What a check does, it does here; how requests are sent is the engine's business (checks.py).
"""

from __future__ import annotations

import inspect
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from pollwire.errors import (
    Malformed,
    Misconfigured,
    PollwireError,
    RateLimited,
    Unasked,
    Unavailable,
)
from pollwire.exchange import Request, Response
from pollwire.http import answers
from pollwire.http.hosts import Hosts
from pollwire.http.limits import SILENT_MIN
from pollwire.http.poll import Poll
from pollwire.model import Checking, Seen

if TYPE_CHECKING:
    from pollwire.http.checks import Checks

K = TypeVar("K")

NOTHING_SPENT: Final[Mapping[str, int]] = MappingProxyType({})


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


@dataclass(slots=True, eq=False)
class Run(Generic[K]):
    """
    One run over many checks. See :meth:`pollwire.http.Http.run`.

    Attributes:
        ends_s: Its deadline, on the monotonic clock.

        more: There may be checks that were not begun.

        waiting: Those whose next request may start as soon as the pace allows.

        shared: All checks share one budget: when it is used up, none of them asks any more.

        spent: By key, the seconds that a check's answers asked to be left alone for.

        halted: Why nothing more is asked: the shared budget is used up, or nobody answers.

        silent: Requests that nobody answered, as long as none was answered.

        grace_s: Time that the last answers have.

        ended: Results that were not handed over yet.

        tally: See :class:`pollwire.http.Http`.
    """

    engine: Checks
    hosts: Hosts
    checks: Iterator[tuple[K, Checking]]
    pace: Pace
    ends_s: float
    more: bool = True
    waiting: deque[Poll[K]] = field(default_factory=deque)
    shared: bool = False
    spent: dict[K, int] = field(default_factory=dict)
    halted: str = ""
    silent: int | None = 0
    grace_s: float = 0.0
    ended: list[tuple[K, Seen | PollwireError]] = field(default_factory=list)
    tally: Counter[str] = field(default_factory=Counter)

    @property
    def last_start_s(self) -> float:
        """When nothing more is asked: an answer needs some time, or its lack says nothing."""
        return self.ends_s - self.grace_s

    def results(self) -> Iterator[tuple[K, Seen | PollwireError]]:
        engine = self.engine
        if engine.claimed:
            raise RuntimeError("one run at a time")
        engine.claimed = True
        try:
            while True:
                self._start()
                yield from self._handed_over()
                if not (engine.busy or self.waiting or self.more):
                    return
                now_s = time.monotonic()
                if now_s >= self.ends_s or (not engine.busy and now_s >= self.last_start_s):
                    break
                engine.wait(self._patience_s(now_s))
                self._settle()
                yield from self._handed_over()
            self._expire()
            yield from self._handed_over()
        finally:
            polls = engine.abandon()
            engine.claimed = False
            for poll in (*polls, *self.waiting):
                _closed(poll.checking)

    def _patience_s(self, now_s: float) -> float:
        patience_s = self.ends_s - now_s
        if self.engine.idle and (self.waiting or self.more):
            patience_s = min(patience_s, max(self.pace.wait_s(now_s), 0))
        return patience_s

    def _handed_over(self) -> list[tuple[K, Seen | PollwireError]]:
        ended, self.ended = self.ended, []
        return ended

    def _start(self) -> None:
        if self.halted:
            self._unasked(self.halted)
        while self.engine.idle:
            now_s = time.monotonic()
            if now_s >= self.last_start_s or self.pace.wait_s(now_s) > 0:
                return
            if not self.waiting:
                found = next(self.checks, None)
                if found is None:
                    self.more = False
                    return
                self._advance(*found, None)
            if self.waiting:
                self.pace.take(now_s)
                self.tally["requests"] += 1
                self._begin(self.waiting.popleft())

    def _begin(self, poll: Poll[K]) -> None:
        try:
            self.engine.begin(poll)
        except Exception as error:  # noqa: BLE001 - what it asks for is made of foreign texts
            reason = Malformed(f"the request cannot be sent: {type(error).__name__}")
            self.ended.append((poll.key, _ended(poll.checking, reason)))

    def _settle(self) -> None:
        for slot, code in self.engine.ended():
            poll: Poll[K] = slot.poll
            if slot.was_disturbed:  # nothing was sent, and the connection is closed
                self.engine.release(slot)
                self._begin(poll)
                continue
            answer = slot.answer(code)
            self.engine.release(slot)
            spent = self._note(poll, answer)
            self._advance(poll.key, poll.checking, answer, spent)

    def _note(self, poll: Poll[K], answer: Response | PollwireError) -> Mapping[str, int]:
        """Note what an answer says of rate budgets; return those that this check has used up."""
        if not isinstance(answer, Response):
            self._listen(answer)
            if isinstance(answer, RateLimited) and not poll.request.budget:
                # Whether the check makes an error of it or not.
                self._spend(poll.key, answer.retry_after_s)
            return poll.spent
        self.silent = None
        if answer.status == 304:
            self.tally["not_modified"] += 1
        spent_s = answer.spent_s
        if not spent_s:
            return poll.spent
        if not poll.request.budget:
            self._spend(poll.key, spent_s)
        return {**poll.spent, poll.request.budget: spent_s}

    def _spend(self, key: K, wait_s: int) -> None:
        self.spent[key] = wait_s
        if self.shared:
            self.halted = "the budget that all share is used up"

    def _listen(self, answer: PollwireError) -> None:
        """Ask no more of a provider that does not answer at all: its turn is others' time."""
        if not isinstance(answer, Unavailable):
            self.silent = None
        elif self.silent is not None:
            self.silent += 1
            if self.silent >= SILENT_MIN:
                self.halted = "nobody answers"

    def _advance(
        self,
        key: K,
        checking: Checking,
        answer: Response | PollwireError | None,
        spent: Mapping[str, int] = NOTHING_SPENT,
    ) -> None:
        """Let a check go on, to its result or to its next request."""
        step = _resumed(checking, answer)
        if isinstance(step, Request) and step.budget in spent:
            step = _ended(checking, Unasked(answers.SPENT))
        if not isinstance(step, Request):
            self.ended.append((key, step))
            return
        try:
            origin = self.hosts.admit(step)
        except Misconfigured as error:
            _closed(checking)
            self.ended.append((key, error))
            return
        self.waiting.append(Poll(key, checking, step, origin, spent))

    def _expire(self) -> None:
        """Give up on all that is not finished, begun or not."""
        for poll in self.engine.abandon():
            late = Unavailable("the run's time was up before the answer came")
            self.ended.append((poll.key, _ended(poll.checking, late)))
        self._unasked("the run's time was up before this was asked")

    def _unasked(self, reason: str) -> None:
        """Ask nothing more."""
        waiting, self.waiting = self.waiting, deque()
        for key, checking in chain(((one.key, one.checking) for one in waiting), self.checks):
            self.ended.append((key, _ended(checking, Unasked(reason))))
        self.more = False


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
    if isinstance(step, (Request, Seen)):
        return step
    return Malformed(f"the check gave a {type(step).__name__}")


def _ended(checking: Checking, error: PollwireError) -> Seen | PollwireError:
    """Have a check end without another answer: with what it has learned, or with the error."""
    if inspect.getgeneratorstate(checking) == inspect.GEN_CREATED:
        _closed(checking)
        return error
    step = _resumed(checking, error)
    if not isinstance(step, Request):
        return step
    _closed(checking)
    return error


def _closed(checking: Checking) -> None:
    # It has its result already; what it still does may not hurt the others.
    with suppress(Exception):
        checking.close()
