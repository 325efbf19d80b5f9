"""
One run: faults while things happen at the providers, then healing, then the promises are checked.

    safety    some minutes of ticks, mutations and faults, all interleaved
    healing   no faults, no mutations, until nothing is left to do; what is dead is redriven
    check     invariants.py
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from pollwire import decide, drain, due, marks
from pollwire.errors import (
    Conflict,
    Malformed,
    PollwireError,
    RateLimited,
    Rejected,
    Unavailable,
)
from pollwire.http import Hosts
from pollwire.http.limits import Limits
from pollwire.model import Connection, Request, Response
from pollwire.providers import intelli, kirimdev, registered, ringcentral, youmail
from pollwire.world import World as Pollwire

from tests.integration.system import Http
from tests.simulation.deployed import deployed
from tests.simulation.lambdas import MINUTE_MS, NEVER_MS, Lambda
from tests.simulation.pace import Pace, owner
from tests.simulation.upstream import CANARY, UPSTREAMS, Member, Told, Upstream
from tests.simulation.world import FAULTS, START_MS, Broken, Knobs, World

#: Messages are watched so long after the last of them may have changed.
WATCHED_MS = 150_000

#: How often it is tried that something happens at all.
TRIES = 5

#: Rows show up so long after they were made, at most.
LATE_MS = 100_000

#: Whose credential something is.
OWNERS = re.compile(CANARY + r"-[a-z]+-([^-'\"]+)")

#: Healing must be over after so many minutes that anything was done in.
HEALING_MAX = 120


@dataclass(frozen=True)
class Scenario:
    """
    What is run, all of it drawn from a seed or given.

    Attributes:
        upstreams: Names of the providers.

        accounts: Of each.

        streams: Of each account at a provider that has many.

        interval_s: Between two checks of an account, where the provider lets us.

        minutes: Of the safety phase.

        mutations: In it.

        moving: Probability that something happens at a provider just before it answers.

        reconciles: Streams are listed from end to end by the clock.

        backfill: What there is at first is told.

        sick: What becomes of every request of one account: one of ``SICKNESSES``; empty for an
            account that is well.

        everywhere: It becomes of all accounts of the first provider.

        recovers: Who is sick is well again when healing begins, and every promise holds then.

        tight: What a provider lets an account ask is used up soon, until healing begins.

        removes: One account is removed in the midst of it all.

        watches: Messages are sent and watched.

        small: Pages, decisions, transactions and pending sets are full after a few things, and time
            is short.
    """

    seed: int
    upstreams: tuple[str, ...] = ("youmail",)
    accounts: int = 1
    streams: int = 3
    interval_s: int = 60
    minutes: int = 4
    mutations: int = 6
    moving: float = 0.1
    reconciles: bool = True
    backfill: bool = True
    sick: str = ""
    removes: bool = False
    watches: bool = False
    small: bool = False
    everywhere: bool = False
    recovers: bool = False
    tight: bool = False
    knobs: Knobs = field(default_factory=Knobs)

    @property
    def is_calm(self) -> bool:
        """
        Nothing is listed by the clock, and who is well has no trouble: what happens to them must be
        told soon.
        """
        knobs = self.knobs
        troubled = knobs.fault or knobs.lost or knobs.late or knobs.refused
        return not (troubled or self.tight or self.recovers or self.reconciles)


def calm(seed: int) -> Scenario:
    """Draw a scenario without faults and listings by the clock: everything is told soon."""
    chance = random.Random(f"calm {seed}")  # not what the run itself draws from
    names = [upstream.name for upstream in UPSTREAMS]
    return Scenario(
        seed,
        upstreams=(chance.choice(names),),
        minutes=chance.randrange(2, 5),
        mutations=chance.randrange(1, 5),
        streams=1,
        moving=chance.choice((0.0, 0.3)),
        reconciles=False,
        backfill=chance.random() < 0.5,
        watches=chance.random() < 0.5,
    )


def neighbours(seed: int) -> Scenario:
    """Draw a scenario of neighbours, some of which are sick or one of which is removed."""
    chance = random.Random(f"neighbours {seed}")  # not what the run itself draws from
    sick = chance.choice((*SICKNESSES, ""))
    # One that is sick may be the only trouble that there is.
    given = (calm if sick and chance.random() < 0.5 else swarm)(seed)
    # What is to slow down is a budget, which accounts may share.
    if sick == "slow down" or (sick and chance.random() < 0.5):
        names = [upstream.name for upstream in UPSTREAMS]
        return replace(
            given,
            upstreams=tuple(chance.sample(names, 2)),
            accounts=chance.choice((1, 2)),
            mutations=given.mutations + 2,
            sick=sick,
            everywhere=True,
        )
    return replace(given, accounts=2, sick=sick, removes=not sick)


def outage(seed: int) -> Scenario:
    """Draw a scenario in which a provider fails for long, and is well again."""
    chance = random.Random(f"outage {seed}")  # not what the run itself draws from
    return replace(
        calm(seed),
        minutes=chance.choice((4, 8, 16, 40)),
        sick=chance.choice(tuple(SICKNESSES)),
        everywhere=True,
        recovers=True,
    )


def swarm(seed: int) -> Scenario:
    """Draw a scenario: each knob is off or on, and then as strong as it is drawn."""
    chance = random.Random(f"swarm {seed}")  # not what the run itself draws from

    def sometimes(most: float, probability: float = 0.5) -> float:
        return chance.random() * most if chance.random() < probability else 0.0

    names = [upstream.name for upstream in UPSTREAMS]
    knobs = Knobs(
        fault=sometimes(0.25, 0.85),
        weights={one: chance.choice((0.0, 1.0, 4.0)) + 0.01 for one in FAULTS},
        stale=sometimes(0.3),
        twice=sometimes(0.3),
        lost=sometimes(0.3),
        doubled=sometimes(0.2),
        late=sometimes(0.2),
        refused=sometimes(0.2),
    )
    is_large = chance.random() < 0.01
    given = Scenario(
        seed,
        upstreams=tuple(chance.sample(names, chance.choice((1, 2)) if is_large else 1)),
        accounts=chance.choice((1, 2)) if is_large else 1,
        streams=3 if is_large else 1,
        minutes=chance.randrange(2, 6) if is_large else chance.choice((1, 1, 1, 2)),
        mutations=chance.randrange(2, 9) if is_large else chance.randrange(1, 4),
        interval_s=20 if is_large else 60,
        moving=sometimes(0.2),
        reconciles=chance.random() < 0.12,
        backfill=chance.random() < 0.6,
        watches=chance.random() < 0.1,
        knobs=knobs,
    )
    if chance.random() < 0.1:
        names = [chance.choice(("ringcentral", "kirimdev"))]
        return replace(given, tight=True, upstreams=tuple(names), accounts=2, watches=False)
    return given


def paged(seed: int) -> Scenario:
    """Draw a scenario in which everything that has a size is full soon."""
    chance = random.Random(seed ^ 0x9A6ED)
    return replace(
        swarm(seed),
        small=True,
        minutes=chance.randrange(1, 5),
        mutations=chance.randrange(4, 16),
        interval_s=chance.choice((20, 60)),
    )


#: What is small in a small scenario, so that a few things fill it.
SIZES = (
    (youmail, "PAGE_LENGTH", 2),
    (kirimdev, "LIMIT", 2),
    (ringcentral, "RECORDS", 2),
    (intelli, "ROWS_MAX", 4),
    (drain, "ROWS_MAX", 3),
    (drain, "PUTS_MAX", 2),
    (drain, "PAGE_MS", 59_700),
    (marks, "PENDING_PER_STREAM_MAX", 2),
    (decide, "MISSING_MAX", 0),
)

#: What every request of who is sick ends with. One that is silent takes as long as we wait.
SICKNESSES: dict[str, PollwireError | bytes] = {
    "refused": Rejected("sim: 401"),
    "odd": Malformed("sim: an odd answer"),
    "slow down": RateLimited("sim: 429", retry_after_s=100),
    "later": Unavailable("sim: 503", retry_after_s=100),
    "silent": Unavailable("sim: no answer"),
    "nested": b"[" * 20_000,
    "endless": b"9" * 20_000,
}

#: A request takes so long at most.
DEADLINE_MS = int(Limits().request_s * 1000)


class Asking(Http):
    """What a container asks providers with: each request is a step of the world."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.hosts, None, run.world.clock)  # type: ignore[arg-type]
        self.simulators = run.simulators
        self._run_ = run

    def fetch(self, request: Request) -> Response:
        run, process = self._run_, self._run_.world.current
        if process is None:
            return self._answer(request)
        visit = run.pace.ask(run.upstream_of(request), request, process)
        try:
            found: Response = run.world.step("http", lambda: self._answer(request), run.failure)
        except PollwireError as error:
            run.pace.note(visit, request, process, error)
            raise
        run.pace.note(visit, request, process, found)
        return found

    def _answer(self, request: Request) -> Response:
        run = self._run_
        run.requests[urlsplit(request.url).netloc] += 1
        run.require_own_credential(request)
        if run.ails(request):
            return self._fail(run.scenario.sick)
        if not run.world.healthy and run.world.chance.random() < run.scenario.moving:
            run.mutate()
        response = super().fetch(request)
        run.world.reached[f"status {response.status}"] += 1
        run.world.reached["page 2"] += any(
            request.query.get(name, "1") != "1" for name in ("pageNumber", "cursor", "dateTo")
        )
        self.asked.clear()
        return response

    def _fail(self, sick: str) -> Response:
        """Answer as one that is sick does."""
        if sick == "silent":
            self._run_.world.hold(DEADLINE_MS)
        answer = SICKNESSES[sick]
        if isinstance(answer, bytes):
            return Response(200, {"content-type": "application/json"}, answer)
        raise answer


class Run:
    """
    One run of a scenario.

    Attributes:
        harmed: Steps until healing began.

        baselines: What a stream's first complete drain recorded, by its key: hashes by record.
    """

    def __init__(self, scenario: Scenario, plan: Mapping[int, str] | None = None) -> None:
        self.scenario = scenario
        self.world = World(scenario.seed, deployed(), scenario.knobs, plan)
        chance, clock = self.world.chance, (lambda: self.world.now_ms / 1000)
        self.upstreams: list[Upstream] = [
            one(clock, chance, scenario) for one in UPSTREAMS if one.name in scenario.upstreams
        ]
        self.providers = {
            name: provider for name, provider in registered().items() if name in scenario.upstreams
        }
        for provider in self.providers.values():
            if not scenario.reconciles:
                quiet = {n: replace(one, reconcile_s=0) for n, one in provider.streams.items()}
                provider.streams = quiet
        own = [host for one in self.providers.values() for host in one.hosts.values()]
        self.hosts = Hosts(own)
        self.simulators = {
            urlsplit(host).netloc: upstream.simulator
            for upstream in self.upstreams
            for host in self.providers[upstream.name].hosts.values()
        }
        first = self.upstreams[0]
        sick = first.members if scenario.everywhere else first.members[:1]
        #: Ids of accounts that are sick, and of those that the promises do not hold for.
        self.sick = frozenset(one.id for one in sick if scenario.sick)
        self.excused = frozenset() if scenario.recovers else self.sick
        self.removed = ""
        self.requests: Counter[str] = Counter()
        self.pace = Pace(self)
        self.began_ms = START_MS
        self.world.written = self.pace.settle
        self.baselines: dict[str, dict[str, str]] = {}
        self.lambdas = Lambda(self.world, self.providers, self.hosts, lambda: Asking(self))
        self.world.watchers.append(self._watch)
        self._ticks: list[tuple[int, int]] = []
        self._mutations: list[int] = []
        self._mutated_ms = START_MS
        self._removal_ms = NEVER_MS

    def go(self) -> Run:
        """Run it and check every promise."""
        from tests.simulation import invariants

        with ExitStack() as stack:
            stack.enter_context(self.lambdas.installed())
            for module, name, size in SIZES if self.scenario.small else ():
                stack.enter_context(mock.patch.object(module, name, size))
            self._register()
            self._harm()
            self.heal()
            invariants.check(self)
        return self

    # Phases

    def _register(self) -> None:
        pollwire = self.lambdas.pollwire()
        for upstream in self.upstreams:
            upstream.watch = self._watching(upstream)
            connection = upstream.connection()
            pollwire.state.put_connection(connection)
            for member in upstream.members:
                sealed = pollwire.sealer.seal(member.credential or {}, connection.name, member.id)
                settings = dict(member.settings)
                if self.scenario.backfill:
                    settings["backfill"] = "true"
                pollwire.state.add_account(
                    connection, member.id, settings=settings, credential=sealed
                )

    def _harm(self) -> None:
        world, chance, knobs = self.world, self.world.chance, self.scenario.knobs
        end_ms = START_MS + self.scenario.minutes * MINUTE_MS
        self._mutations = sorted(
            chance.randrange(START_MS, end_ms) for _ in range(self.scenario.mutations)
        )
        if self.scenario.removes:
            self._removal_ms = chance.randrange(START_MS, end_ms)
        for minute_ms in range(START_MS, end_ms, MINUTE_MS):
            if chance.random() < knobs.lost:
                world.injected["tick lost"] += 1
                continue
            late_ms = chance.randrange(150_000) if chance.random() < knobs.late else 0
            self._ticks.append((minute_ms + late_ms, minute_ms))
            if chance.random() < knobs.doubled:
                world.injected["tick doubled"] += 1
                self._ticks.append((minute_ms + chance.randrange(30_000), minute_ms))
        self._ticks.sort()
        self.run_until(end_ms)

    def heal(self) -> None:
        """Run until nothing is left to do, faults and mutations being over."""
        self._recover()
        self.harmed = self.world.steps
        for minute_ms in [minute for _, minute in self._ticks]:
            self._ticks = [one for one in self._ticks if one[1] != minute_ms]
        while self._mutations:
            self._mutations.pop()
            self.mutate()
        self._skip()
        self._settle()
        if self._redrive():
            self._settle()
        if self.scenario.reconciles:
            # Where few are many, what is missing is believed after an hour, and some.
            for _ in range(3 if self.scenario.small else 1):
                for at_ms in self._listings():
                    self.world.now_ms = max(self.world.now_ms, at_ms)
                    self._settle()

    def _recover(self) -> None:
        self.world.healthy = True
        if self.scenario.recovers:
            self.sick = frozenset()
        if self.scenario.tight:
            for upstream in self.upstreams:
                upstream.unbind()

    def _settle(self) -> None:
        for _ in range(HEALING_MAX):
            self.minute()
            if self.is_quiet():
                return
            self._skip()
        raise Broken(f"I10: not at rest after {HEALING_MAX} minutes: {self.unrest()}")

    def minute(self) -> None:
        """Have one minute that is scheduled as it should be."""
        minute_ms = -(-self.world.now_ms // MINUTE_MS) * MINUTE_MS
        self._ticks.append((minute_ms, minute_ms))
        self.run_until(minute_ms + MINUTE_MS)

    def _skip(self) -> None:
        """Let time pass in which nothing would be done: all waits for an instant."""
        if self.scenario.is_calm:
            return
        now_ms, waits = self.world.now_ms, [at_ms for _, at_ms in self._rests()]
        for (pk, _), item in self._items():
            for one in item.get("pending", {}).get("SS", ()) if pk.startswith("shard#") else ():
                stream, seen_ms, _ = marks.split(one)
                waits.append(seen_ms + self._overlap_ms(pk, stream))
        waits.append(self._mutated_ms + LATE_MS)
        if all(at_ms > now_ms for at_ms in waits) or not self._is_busy():
            self.world.now_ms = max(now_ms, *waits)

    def _is_busy(self) -> bool:
        return any(self.lambdas.depths().values()) or any(
            name in item
            for (_, sk), item in self._items()
            for name in ("outbox", "drain")
            if sk == "cursor"
        )

    def _overlap_ms(self, pk: str, stream: str) -> int:
        provider = self.providers[pk.split("#")[1]]
        return provider.streams[stream].overlap_s * 1000 if stream in provider.streams else 0

    def _redrive(self) -> int:
        """Do what an operator does with dead jobs: send them once more; return how many."""
        aws, total = self.world.aws, 0
        for name, queue in self.world.deployed.queues.items():
            if queue.dead_letters and "subscriber" not in name:
                moved = aws.move_messages(queue.dead_letters, name)
                self.world.reached["redriven"] += moved
                self.world.touched.add(name)
                total += moved
        return total

    def is_listed_within(self, span_ms: int) -> bool:
        """Tell whether something is listed by the clock soon."""
        return any(at_ms <= self.world.now_ms + 2 * span_ms for at_ms in self._listings())

    def _listings(self) -> list[int]:
        """Name the instants at which something is listed from end to end by the clock."""
        now_ms, found = self.world.now_ms, []
        for upstream in self.upstreams:
            for name, stream in self.providers[upstream.name].streams.items():
                for member in self.well(upstream) if stream.reconcile_s else ():
                    period_ms = stream.reconcile_s * 1000
                    phase_ms = due.stable_hash(f"{member.id}#{name}") % period_ms
                    at_ms = now_ms - now_ms % period_ms + phase_ms
                    found.append(at_ms + (period_ms if at_ms < now_ms else 0))
        return sorted(found)

    # Time

    def run_until(self, end_ms: int) -> None:
        """Let everything run that is to run before an instant."""
        world = self.world
        while True:
            self._begin_what_is_due()
            self.lambdas.poll()
            ready = [one for one in world.processes if one.wake_ms <= world.now_ms]
            if ready:
                world.resume(ready[0] if len(ready) == 1 else world.chance.choice(ready))
                continue
            next_ms = self._next_ms(end_ms)
            if next_ms >= end_ms and not world.processes:
                world.now_ms = max(world.now_ms, end_ms)
                return
            world.now_ms = next_ms

    def _begin_what_is_due(self) -> None:
        now_ms = self.world.now_ms
        while self._ticks and self._ticks[0][0] <= now_ms:
            self.lambdas.tick(self._ticks.pop(0)[1])
        while self._mutations and self._mutations[0] <= now_ms:
            self._mutations.pop(0)
            self.mutate()
        if self._removal_ms <= now_ms:
            self._removal_ms = NEVER_MS
            self._remove(self.upstreams[0])

    def _remove(self, upstream: Upstream) -> None:
        """Do what an operator does with an account that is no longer wanted."""
        self.removed = upstream.members[0].id
        key = {"pk": {"S": f"shard#{upstream.name}#0"}, "sk": {"S": self.removed}}
        table = self.world.deployed.table
        self.world.aws.call("dynamodb", "DeleteItem", {"TableName": table, "Key": key})

    def _next_ms(self, end_ms: int) -> int:
        """Name the next instant at which something is to be done."""
        instants = [process.wake_ms for process in self.world.processes]
        instants += [at_ms for at_ms, _ in self._ticks[:1]] + self._mutations[:1]
        if self._removal_ms < NEVER_MS:
            instants.append(self._removal_ms)
        if self.lambdas.soonest_ms > self.world.now_ms:
            instants.append(self.lambdas.soonest_ms)
        return max(min(instants, default=end_ms), self.world.now_ms)

    def mutate(self) -> None:
        """Let something happen at one of the providers."""
        self._mutated_ms = self.world.now_ms
        # What is done from outside is no step of the process that happens to be at work.
        current, self.world.current = self.world.current, None
        for _ in range(TRIES):
            self.world.chance.choice(self.upstreams).mutate(self.world.chance)
            # At first there may be nothing yet that it could happen to.
            if any(one.journal for one in self.upstreams):
                break
        self.world.current = current

    def _watching(self, upstream: Upstream) -> Callable[[str, str], None]:
        end_ms = START_MS + self.scenario.minutes * MINUTE_MS + WATCHED_MS
        pollwire = self.lambdas.pollwire()

        def watch(account: str, identity: str) -> None:
            # One that was removed meanwhile is watched no more.
            with suppress(Conflict):
                pollwire.state.watch(upstream.name, 0, account, identity, end_ms)

        return watch

    # What goes on

    def failure(self) -> PollwireError:
        """Make what a provider's failure to answer is."""
        return self.world.chance.choice(
            (
                Unavailable("sim: no complete answer"),
                Unavailable("sim: 503", retry_after_s=100),
                RateLimited("sim: 429", retry_after_s=150),
                Malformed("sim: the answer is none"),
            )
        )

    def require_own_credential(self, request: Request) -> None:
        """I5: a request bears nobody's credential but that of the account it is for."""
        process = self.world.current
        sent = f"{sorted(request.headers.items())}{sorted((request.form or {}).items())}"
        if process is None or CANARY not in sent or not process.accounts:
            return
        for one in OWNERS.findall(sent):
            if one not in {"all", *process.accounts}:
                raise Broken(f"I5: a credential of {one} was sent for {process.accounts}")

    def _watch(self, pk: str, sk: str, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        """I4: version, cursor and sequence of a stream never go down."""
        if any(old > new for old, new in zip(before, after, strict=True)):
            raise Broken(f"I4: {pk} went from {before} to {after}")
        if after[3] and not before[3]:
            self.baselines[pk] = {
                sk: item.get("digest", {}).get("S", "")
                for (of, sk), item in self.world.aws.items.items()
                if of == pk and sk != "cursor"
            }

    @property
    def is_faultless(self) -> bool:
        """Nobody has had any trouble, no two do the same thing, and everything has its size."""
        given = self.scenario
        twice = given.knobs.twice or given.knobs.doubled or given.knobs.stale
        unlike = given.sick or given.small or twice or self.world.injected
        return given.is_calm and not unlike

    def ails(self, request: Request) -> bool:
        """Tell whether a request is to a provider, or for an account, that is sick."""
        if not self.sick:
            return False
        upstream = self.upstream_of(request)
        if self.scenario.everywhere:
            return upstream is self.upstreams[0]
        return owner(upstream, request) in self.sick

    def upstream_of(self, request: Request) -> Upstream:
        simulator = self.simulators[urlsplit(request.url).netloc]
        return next(one for one in self.upstreams if one.simulator is simulator)

    def connections(self) -> Iterator[tuple[Upstream, Connection]]:
        for upstream in self.upstreams:
            yield upstream, upstream.connection()

    # Rest

    def is_quiet(self) -> bool:
        return not self.unrest()

    def _items(self) -> Iterator[tuple[tuple[str, str], Any]]:
        """Read the table, but for what is of accounts that need not come to rest."""
        out = self.excused | ({self.removed} if self.removed else set())
        if out and self.scenario.everywhere:
            out |= {self.upstreams[0].name}
        for (pk, sk), item in self.world.aws.items.items():
            parts = {sk, *pk.split("#")}
            if not parts & out:
                yield (pk, sk), item

    def well(self, upstream: Upstream) -> list[Member]:
        """Name the accounts that every promise holds for."""
        return [one for one in upstream.members if one.id not in {*self.excused, self.removed}]

    def unrest(self) -> list[str]:
        """Name what there is still to do."""
        found = [name for name, _ in self._rests()]
        if self.world.now_ms < self._mutated_ms + LATE_MS:
            found.append("late rows")
        for (pk, sk), item in self._items():
            if pk.startswith("shard#"):
                found += [f"{sk}: {one}" for one in item.get("pending", {}).get("SS", ())]
            if sk == "cursor":
                found += [f"{pk}: {one}" for one in ("outbox", "drain") if one in item]
        found += [f"{name}: {n} messages" for name, n in self.lambdas.depths().items() if n]
        return found

    def _rests(self) -> Iterator[tuple[str, int]]:
        now_ms = self.world.now_ms
        for (pk, sk), item in self._items():
            for name in ("not_before", "paused_until"):
                until_ms = int(item[name]["N"]) if name in item else 0
                failed = "failures" in item and name == "not_before" and sk != "cursor"
                if until_ms > now_ms or failed:
                    yield f"rest {pk} {sk} {name} {item.get('trouble')}", until_ms

    # What was told

    def deliveries(self) -> list[dict[str, object]]:
        """Read what the subscriber's queue was sent, in its order."""
        found = []
        for message in self.world.aws.messages("pollwire-subscriber.fifo"):
            event = json.loads(message.body)
            event["arrived_ms"] = message.sent_ms
            event["text"] = message.body
            found.append(event)
        return found

    def changes(self) -> list[tuple[Upstream, Told]]:
        return [(one, told) for one in self.upstreams for told in one.journal]

    def pollwire(self) -> Pollwire:
        return self.lambdas.pollwire()
