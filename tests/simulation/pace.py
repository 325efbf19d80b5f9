"""
I11 at the provider's side: who asks for what and when, and who was to leave it alone.

    rests       after a refusal with Retry-After, a rate budget that is used up, or a failure,
                nobody asks before it is over who could have known of it
    outages     where nobody answers a check, all of its connection rests, longer each time
    rates       deltas of a connection keep to their share of its rate, a check to the others'
    rounds      one check asks so often for one account, and no more checks do than are due
    reasons     where nothing goes wrong, a stream is fetched only if something happened in it
                lately
    tokens      one credential gets no second access token while the first is young
    pushes      whatever is sent, an account gets no second check for it within five seconds
    pauses      all of a connection rest for a budget of all or an outage, not for one account
    marks       what asks for a stream is not done with before a drain that began late enough
    drains      what a stream answers for was there before it was asked for

Who could have known: an invocation that began when the one that was refused had ended, if no fault
struck that one while it wrote and no stale read misled this one.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pollwire import marks
from pollwire.errors import PollwireError, RateLimited, Unavailable
from pollwire.exchange import Request, Response

from tests.simulation.lambdas import NEVER_MS
from tests.simulation.upstream import Upstream
from tests.simulation.world import Broken, Process

if TYPE_CHECKING:
    from tests.simulation.scenario import Run

#: Requests of one account that one check sends, at most: RingCentral's, whose token and whose sync
#: token are refused. What is watched comes on top.
CHECK_MAX = 6

#: What the product promises, in numbers of our own: a change of its constants is to be noticed.
BACKOFF_MS_MAX = 900_000
RENEWAL_MS = 15_000 - 100  # What claims the right to it was sent before.
PENDING_MAX, PENDING_MAX_SMALL = 8, 2

#: Marks of one stream that workers at the same time, or that die, may add beyond the limit.
PENDING_MORE = 8

#: Between two checks of one account that notifications ask for.
PUSHED_MS = 5_000

#: A row shows up so long after it was made, and a tick comes so long after that, at most.
LATELY_MS = 100_000

#: Of a connection's rate, what its deltas may use; and how many of their requests are measured.
DELTAS_SHARE, MEASURED = 0.2, 5

#: A request is sent so long after its place in the rate, at most.
TURN_MS = 200

#: Connection, account and stream that something holds for; an empty text for any.
Scope = tuple[str, str, str]


@dataclass(slots=True)
class Visit:
    """
    What one invocation has asked of one account.

    Attributes:
        asked_ms: When the last request was sent.

        contested: Another was at work on the same stream: what it writes may end a rest.
    """

    asked: int = 0
    succeeded: bool = False
    error: PollwireError | None = None
    asked_ms: int = 0
    at_ms: int = 0
    contested: bool = False


@dataclass(slots=True)
class Rest:
    """What is to be left alone until an instant, and the invocation that was told so."""

    scope: Scope
    until_ms: int
    why: str
    of: Process
    visit: Visit


@dataclass
class Pace:
    """
    Watches the requests of a run.

    Attributes:
        checks: Invocations that checked an account, by connection and account.

        fetched: Requests of deltas, but for those of who is sick.
    """

    run: Run
    checks: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    fetched: int = 0
    _rests: list[Rest] = field(default_factory=list)
    _visits: dict[Process, dict[Scope, Visit]] = field(default_factory=dict)
    _failed: dict[Scope, list[int]] = field(default_factory=lambda: defaultdict(list))
    _tokens: dict[Scope, int] = field(default_factory=dict)
    _outages: dict[Scope, int] = field(default_factory=dict)
    _pushed: dict[tuple[str, str], int] = field(default_factory=dict)
    _paused: dict[str, int] = field(default_factory=dict)
    _pending: dict[tuple[str, str], frozenset[str]] = field(
        default_factory=lambda: defaultdict(frozenset)
    )
    _asked: dict[str, deque[int]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=MEASURED))
    )

    def ask(self, request: Request, process: Process) -> Visit:
        """
        Note a request before it is sent.

        Raises:
            Broken: Nobody may send it now.
        """
        connection, account = process.job.connection, account_of(process)
        upstream = self.run.upstream_of(connection)
        scope = (connection, account, process.spec.stream)
        if request.url.endswith(("/oauth/token", "/authenticate")):
            shared = self.run.shares(upstream)
            self._token(upstream, (connection, "" if shared else account, ""))
        self._require_rested(scope, request, process)
        if process not in self._visits:
            process.leaving = self._leave
        visit = self._visits.setdefault(process, {}).setdefault(scope, Visit())
        visit.asked, visit.asked_ms = visit.asked + 1, self.run.world.now_ms
        visit.contested |= self._is_contested(scope, process)
        if process.spec.stage == "check":
            self.checks[scope[:2]] += visit.asked == 1
            self._require_on_time(process)
            if visit.asked > CHECK_MAX + upstream.watched:
                raise Broken(f"{scope} was asked for {visit.asked} times by a check")
        else:
            self.fetched += account not in self.run.excused
            if not request.budget:
                self._require_paced(connection)
            if self.run.is_faultless:
                self._require_reason(upstream, scope)
        return visit

    def note(
        self, visit: Visit, request: Request, process: Process, answer: Response | PollwireError
    ) -> None:
        """Note how a request was answered, as far as the one who asked got to know."""
        ((scope, _),) = (one for one in self._visits[process].items() if one[1] is visit)
        visit.at_ms = self.run.world.now_ms
        if isinstance(answer, Response):
            visit.error, visit.succeeded = None, True
            wait_s, why = answer.spent_s, "its budget is used up"
        else:
            # That one message is not told of says nothing of the next.
            is_one = "/messages/" in request.url and not getattr(answer, "retry_after_s", 0)
            visit.error = None if is_one else answer
            wait_s, why = getattr(answer, "retry_after_s", 0), str(answer)
        if wait_s and not request.budget:
            widest = self._widest(scope, answer)
            self._rest(widest, wait_s * 1000, why, process, visit)

    def drained(self, stream: str, began_ms: int) -> None:
        """I4: a drain answers for what was seen before it began, not while it was at work."""
        process = self.run.world.current
        _, connection, account, name = stream.split("#")
        visit = self._visits.get(process, {}).get((connection, account, name)) if process else None
        holds = not visit or began_ms <= visit.asked_ms
        require(holds, f"{stream} was read from {began_ms} on, and asked for before that")

    def settle(self, item: Mapping[str, Any]) -> None:
        """Check what was written of an account, a stream or a connection."""
        now_ms = self.run.world.now_ms
        for name in ("not_before", "paused_until"):
            until_ms = int(item[name]["N"]) if name in item else 0
            if BACKOFF_MS_MAX < until_ms - now_ms < NEVER_MS - now_ms:
                wait_ms = until_ms - now_ms
                raise Broken(f"{name} is {wait_ms} ms ahead: a provider is forgotten")
        kind, _, of = item["pk"]["S"].partition("#")
        if kind == "shard":
            at_ms = int(item["pushed_at"]["N"]) if "pushed_at" in item else 0
            self._settle_pushed((of.partition("#")[0], item["sk"]["S"]), at_ms)
        if kind == "connection":
            self._settle_paused(item)
        elements = item.get("pending", {}).get("SS", ())
        if kind == "shard":
            self._settle_pending(of.partition("#")[0], item["sk"]["S"], elements)
            self._settle_listed(of.partition("#")[0], item)
        if not elements:
            return
        most = PENDING_MAX_SMALL if self.run.scenario.small else PENDING_MAX
        for stream, group in marks.by_stream(elements).items():
            require(
                len(group) <= most + PENDING_MORE, f"{len(group)} marks of {stream} are pending"
            )

    def _settle_paused(self, item: Mapping[str, Any]) -> None:
        """Let nothing pause all accounts of a connection but a budget of all, or an outage."""
        name, until_ms = item["sk"]["S"], int(item.get("paused_until", {"N": "0"})["N"])
        before_ms, self._paused[name] = self._paused.get(name, 0), until_ms
        reason = item.get("outages", {"N": "0"})["N"] != "0" or self.run.shares_rate(name)
        holds = reason or until_ms <= max(before_ms, self.run.world.now_ms) or until_ms == NEVER_MS
        require(holds, f"{name} is paused for the trouble of one account")

    def _settle_pending(self, connection: str, account: str, elements: Iterable[str]) -> None:
        """I13: what asks for a stream is there until a drain that began late enough answers it."""
        before, now = self._pending[connection, account], frozenset(elements)
        self._pending[connection, account] = now
        process, world = self.run.world.current, self.run.world
        if before <= now or process is None or process.spec.stage != "delta":
            return
        streams = self.run.providers[self.run.upstream_of(connection).name].streams
        for one in before - now:
            stream, least_ms, mark = marks.split(one)
            if not mark.startswith("replay:"):
                least_ms += streams[stream].overlap_s * 1000
            item = world.aws.items.get((f"stream#{connection}#{account}#{stream}", "cursor"), {})
            drained_ms = int(item.get("drained_at", {"N": "0"})["N"])
            holds = drained_ms >= least_ms
            require(holds, f"{one} is done with, by what was read from {drained_ms} on")

    def _settle_listed(self, connection: str, item: Mapping[str, Any]) -> None:
        """What is said to have been listed from end to end was."""
        for name in [name for name in item if name.startswith("listed_")]:
            stream = name.removeprefix("listed_").replace("_", "-")
            pk = f"stream#{connection}#{item['sk']['S']}#{stream}"
            listed_at = self.run.world.aws.items[pk, "cursor"]["reconciled_at"]
            holds = int(item[name]["N"]) <= int(listed_at["N"])
            require(holds, f"{pk} is said to have been listed from end to end, and was not")

    def _settle_pushed(self, whose: tuple[str, str], at_ms: int) -> None:
        apart_ms = at_ms - self._pushed.get(whose, 0) if at_ms else 0
        enough = apart_ms == 0 or apart_ms >= PUSHED_MS
        require(enough, f"{whose} is checked again after {apart_ms} ms, for a notification")
        self._pushed[whose] = at_ms

    def turn(self, connection: str, per_second: float) -> None:
        """Check how fast a check is going to ask: what is left is for deltas."""
        most = self.run.scenario.rate * (1 - DELTAS_SHARE) + 1e-6
        require(per_second <= most, f"a check of {connection} asks {per_second} times a second")

    def forget(self, connection: str) -> None:
        """Nothing of a connection is to be left alone any more: an operator had a hand in it."""
        self._rests = [one for one in self._rests if one.scope[0] != connection]
        self._pushed = {of: at_ms for of, at_ms in self._pushed.items() if of[0] != connection}
        for of in [one for one in self._pending if one[0] == connection]:
            del self._pending[of]

    def _require_on_time(self, process: Process) -> None:
        began_ms, job = process.deadline_ms - process.spec.timeout_s * 1000, process.job
        late_ms = began_ms - job.due_ms
        if late_ms > job.interval_s * 1000:
            raise Broken(f"{job} is done, and is {late_ms} ms late")

    def _require_paced(self, connection: str) -> None:
        asked, now_ms = self._asked[connection], self.run.world.now_ms
        asked.append(now_ms)
        apart_ms = (len(asked) - 1) * 1000 / (self.run.scenario.rate * DELTAS_SHARE)
        took_ms = now_ms - asked[0]
        enough = took_ms + TURN_MS >= apart_ms
        require(enough, f"{len(asked)} requests of deltas of {connection} within {took_ms} ms")

    # Rests

    def _widest(self, scope: Scope, answer: Response | PollwireError) -> Scope:
        """Say what a request to wait is about: all of a connection, an account, or a stream."""
        connection, account, stream = scope
        if stream and isinstance(answer, Unavailable):
            return scope
        if self.run.shares_rate(connection) and not isinstance(answer, Unavailable):
            return (connection, "", "")
        return (connection, account, "")

    def _rest(self, scope: Scope, wait_ms: int, why: str, process: Process, visit: Visit) -> None:
        now_ms = self.run.world.now_ms
        self._rests = [one for one in self._rests if one.until_ms > now_ms]
        self._rests.append(Rest(scope, visit.at_ms + wait_ms, why, process, visit))

    def _is_contested(self, scope: Scope, process: Process) -> bool:
        _, account, stream = scope
        return bool(stream) and any(
            one is not process and one.spec.stream == stream and account in one.accounts
            for one in self.run.world.processes
        )

    def _require_rested(self, scope: Scope, request: Request, process: Process) -> None:
        now_ms = self.run.world.now_ms
        for one in self._rests:
            if one.until_ms <= now_ms or not all(a in ("", b) for a, b in _pairs(one.scope, scope)):
                continue
            if one.scope[2] and one.visit.contested:
                continue
            if one.of is process:
                knew = not process.struck and not request.budget
            else:
                knew = one.of.ended_step >= 0 and one.of.is_whole
                knew = knew and one.of.ended_step <= process.began_step and not process.misled
            left_ms = one.until_ms - now_ms
            require(not knew, f"{scope} was asked for {left_ms} ms too early: {one.why}")

    def _leave(self, process: Process) -> None:
        """Note what an invocation that has ended will have its accounts left alone for."""
        visits = self._visits.pop(process)
        if self._is_outage(process, visits):
            self._note_outage(process, *visits.values())
            return
        if process.spec.stage == "check":
            self._failed[process.job.connection, "", ""].clear()
        # What was refused with an old token is no failure where there was no time to get a new one.
        cut_short = process.unasked and process.spec.stage == "delta"
        for scope, visit in visits.items():
            visit.contested |= self._is_contested(scope, process)
            known = process.is_whole and not process.misled and not cut_short
            if visit.succeeded or not known:
                for one in (scope, (*scope[:2], "")):
                    self._failed[one].clear()
            if visit.error is None or not known:
                continue
            blamed = self._blamed(scope, visit.error)
            before = self._failed_before(blamed, visit, process)
            least_ms = self._interval_ms() * 2 ** min(before, 10)
            wait_ms = min(least_ms, BACKOFF_MS_MAX) // 2
            wait_ms = max(wait_ms, getattr(visit.error, "retry_after_s", 0) * 1000)
            why = f"it failed {before + 1} times: {visit.error}"
            self._rest(blamed, wait_ms, why, process, visit)

    def _failed_before(self, blamed: Scope, visit: Visit, process: Process) -> int:
        """Note a failure; return how many had been noted in a row by who began this one."""
        failed = self._failed[blamed]
        before = [step for step in failed if step <= process.began_step]
        if visit.contested:
            failed.clear()  # The other may have done well since, and have ended before.
        else:
            failed.append(process.ended_step)
        if any(blamed[:2] == one[:2] for of in self._visits.values() for one in of):
            return 0  # Another is at work there, and may forget what failed.
        return len(before)

    def _is_outage(self, process: Process, visits: Mapping[Scope, Visit]) -> bool:
        """Tell whether nobody has answered a check: that is a failure of nobody."""
        return (
            self.run.scenario.silence
            and process.spec.stage == "check"
            and all(isinstance(one.error, Unavailable) for one in visits.values())
        )

    def _note_outage(self, process: Process, visit: Visit, *others: Visit) -> None:
        scope = (process.job.connection, "", "")
        known = process.is_whole and not process.misled
        beside = any(one[0] == scope[0] for of in self._visits.values() for one in of)
        # Of several that notice it at the same time, one counts it.
        if known and not beside and self._outages.get(scope, 0) <= process.began_step:
            before = self._failed[scope]
            longest_ms = min(self._interval_ms() * 2 ** min(len(before), 10), BACKOFF_MS_MAX)
            asked_s = [getattr(one.error, "retry_after_s", 0) for one in (visit, *others)]
            wait_ms = max(longest_ms // 2, *(1000 * one for one in asked_s))
            self._rest(scope, wait_ms, f"outage {len(before) + 1}", process, visit)
            before.append(process.ended_step)
        else:
            self._failed[scope].clear()
        self._outages[scope] = process.ended_step

    def _blamed(self, scope: Scope, error: PollwireError | None) -> Scope:
        """Say what is left alone after a failure: a check's account, a delta's stream."""
        return (*scope[:2], "") if isinstance(error, RateLimited) else scope

    def _interval_ms(self) -> int:
        # Looks at what is watched are five seconds apart.
        return 5_000 if self.run.scenario.watches else self.run.scenario.interval_s * 1000

    # Where nothing goes wrong

    def _token(self, upstream: Upstream, scope: Scope) -> None:
        now_ms = self.run.world.now_ms
        last_ms = self._tokens.get(scope, 0)
        apart_ms = now_ms - last_ms
        least_ms = RENEWAL_MS if upstream.name == "ringcentral" else 0
        if self.run.is_faultless and upstream.revoked_ms < last_ms:
            least_ms = int(upstream.simulator.token_s * 500)
        require(apart_ms >= least_ms, f"{scope} gets another token after {apart_ms} ms")
        self._tokens[scope] = now_ms

    def _require_reason(self, upstream: Upstream, scope: Scope) -> None:
        """Let a stream be fetched only if it is new, or something happened in it lately."""
        _, account, stream = scope
        run = self.run
        overlap_ms = run.providers[upstream.name].streams[stream].overlap_s * 1000
        lately_ms = run.world.now_ms - overlap_ms - 3000 * run.scenario.interval_s - LATELY_MS
        happened = (one.at_ms for one in upstream.stirred if (one.account, one.stream) == scope[1:])
        last_ms = max(happened, default=run.began_ms)
        require(
            max(last_ms, run.began_ms) >= lately_ms,
            f"{stream} of {account} is fetched though nothing happened since {last_ms}",
        )


def require(holds: object, promise: str) -> None:
    if not holds:
        raise Broken(f"I11: {promise}")


def _pairs(wide: Scope, narrow: Scope) -> Iterator[tuple[str, str]]:
    return zip(wide, narrow, strict=True)


def account_of(process: Process) -> str:
    """Say whose account an invocation asks for right now."""
    return process.account or str(getattr(process.job, "account", ""))
