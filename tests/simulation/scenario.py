"""
One run: faults while things happen at the providers, then healing, then the promises are checked.

    safety    some minutes of ticks, mutations and faults, all interleaved
    healing   no faults, no mutations, until nothing is left to do; what is dead is redriven
    check     invariants.py
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from operator import attrgetter, itemgetter
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from pollwire import decide, drain, due, items, marks, pipeline
from pollwire.errors import (
    Conflict,
    Malformed,
    PollwireError,
    RateLimited,
    Rejected,
    Unasked,
    Unavailable,
)
from pollwire.http import Hosts
from pollwire.http.limits import Limits
from pollwire.items import record_sk
from pollwire.model import Checking, Connection, Request, Response, Seen, Stream
from pollwire.providers import intelli, kirimdev, registered, ringcentral, youmail
from pollwire.secrets import PUSH
from pollwire.world import World as Pollwire

from tests import pushing
from tests.integration.system import Http
from tests.simulation.aws import Message
from tests.simulation.custody import Custody, is_probed
from tests.simulation.deployed import deployed
from tests.simulation.lambdas import MINUTE_MS, NEVER_MS, Lambda
from tests.simulation.pace import Pace, account_of
from tests.simulation.specs import Deployed
from tests.simulation.upstream import CANARY, UPSTREAMS, Member, Told, Upstream
from tests.simulation.world import (
    FAULTS,
    START_MS,
    Broken,
    Knobs,
    Process,
    Sent,
    World,
    chosen,
    is_silent,
)

#: Messages are watched so long after the last of them may have changed.
WATCHED_MS = 150_000

#: How often it is tried that something happens at all.
TRIES = 5

#: Rows show up so long after they were made, at most.
LATE_MS = 100_000

#: Healing must be over after so many minutes that anything was done in.
HEALING_MAX = 120


#: One of so many runs heals with a tick each minute; the others where a tick may do something.
PATIENT = 36

#: One of so many runs, at least, goes on until nothing is to be read once more.
SETTLED = 9

#: One of so many runs with notifications has nothing else for long, and nothing goes wrong.
PROMPT = 4

#: In one of so many of these, something happens when all else has been read for good.
ALONE = 8

#: How far a provider's clock is ahead of ours.
SKEWS = (0, 0, 0, 0, -600, 90)

#: An account is asked without a validator once in that time.
HOUR_MS = 3_600_000

#: SNS drops what has an id that it was given so long ago at most.
DEDUPLICATED_MS = 301_000


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

        listed_s: So often, instead of what the provider's module has; 0 for that.

        backfill: What there is at first is told.

        sick: What becomes of every request of one account: one of ``SICKNESSES``; empty for an
            account that is well.

        everywhere: It becomes of all accounts of the first provider.

        fetches: It becomes of the requests of deltas only, and checks do well.

        recovers: Who is sick is well again when healing begins, and every promise holds then.

        silence: A check that nobody answers is an outage, however few were asked.

        rate: Requests a second of a connection.

        tight: What a provider lets an account ask is used up soon, until healing begins.

        removes: One account is removed in the midst of it all.

        interrupts: What becomes of one account for a while: ``removed``, ``paused`` or
            ``suspended``, which is its whole connection; empty for nothing.

        replays: Everything is told again, in the midst of it all and at the end.

        shards: Of each connection.

        splits: There are twice as many of them at some time.

        connections: Of each provider, each of them with all of its accounts.

        shared: The credential is the connection's, where the provider lets accounts share one.

        slowest_s: Between two checks of a quiet account; 0 for no longer than *interval_s*.

        sleeps: Minutes after the first in which nothing is scheduled at all.

        hostile: Some answers are none for a while.

        skew_s: How far a provider's clock is ahead of ours.

        lying: Every validator is confirmed, whatever changed.

        watches: Messages are sent and watched.

        flips: What happens is mostly back where it was soon after.

        small: Pages, decisions, transactions and pending sets are full after a few things.

        pushes: Probability that a provider notifies of what happens there; others try to, then.

        prompt: What a provider notifies of is told soon, though nothing is scheduled.

        hurried: A drain of several pages takes more than one invocation, so that it shows nothing
            that is missing.
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
    listed_s: int = 0
    backfill: bool = True
    sick: str = ""
    removes: bool = False
    interrupts: str = ""
    replays: bool = False
    shards: int = 1
    splits: bool = False
    connections: int = 1
    shared: bool = False
    slowest_s: int = 0
    sleeps: int = 0
    hostile: bool = False
    skew_s: int = 0
    lying: bool = False
    watches: bool = False
    flips: bool = False
    small: bool = False
    hurried: bool = False
    everywhere: bool = False
    fetches: bool = False
    recovers: bool = False
    tight: bool = False
    silence: bool = False
    pushes: float = 0.0
    prompt: bool = False
    rate: float = 50.0
    knobs: Knobs = field(default_factory=Knobs)

    @property
    def is_calm(self) -> bool:
        """
        Nothing is listed by the clock, and who is well has no trouble: what happens to them must be
        told soon.
        """
        knobs = self.knobs
        troubled = knobs.fault or knobs.lost or knobs.late or knobs.refused
        troubled = troubled or knobs.left or knobs.slow
        odd = self.interrupts or self.hostile or self.lying or self.replays
        odd = odd or self.splits or (self.sleeps and not self.prompt)
        return not (troubled or odd or self.tight or self.recovers or self.reconciles)


def calm(seed: int) -> Scenario:
    """Draw a scenario without faults and listings by the clock: everything is told soon."""
    chance = random.Random(f"calm {seed}")  # not what the run itself draws from
    names = [upstream.name for upstream in UPSTREAMS]
    return Scenario(
        seed,
        upstreams=(chance.choice(names),),
        minutes=chance.choice((1, 2, 2)),
        mutations=chance.randrange(1, 5),
        streams=1,
        moving=chance.choice((0.0, 0.3)),
        reconciles=False,
        backfill=chance.random() < 0.5,
        watches=chance.random() < 0.5,
        skew_s=chance.choice(SKEWS),
        knobs=Knobs(page_bytes=platform(seed)["page_bytes"]),
    )


def hour(seed: int) -> Scenario:
    """Draw a scenario of validators that lie: it is told within the hour nevertheless."""
    return replace(calm(seed), minutes=4, mutations=4, moving=0.0, watches=False, lying=True)


def fleet(seed: int) -> Scenario:
    """Draw a scenario of several accounts that share shards, connections and credentials."""
    chance = random.Random(f"fleet {seed}")  # not what the run itself draws from
    is_quiet = chance.random() < 0.1
    rate = random.Random(f"rate {seed}").choice((50.0, 50.0, 5.0, 1.0))
    return replace(
        swarm(seed),
        accounts=chance.choice((2, 2, 2, 3)),
        shards=chance.choice((1, 2, 2, 4)),
        splits=random.Random(f"splits {seed}").random() < 0.15,
        connections=chance.choice((1, 1, 1, 1, 1, 1, 1, 2)),
        shared=chance.random() < 0.5,
        interrupts=chance.choice(("", "removed", "paused", "suspended")),
        minutes=chance.choice((1, 1, 2)),
        mutations=chance.randrange(2, 5),
        interval_s=20 if is_quiet else 60,
        slowest_s=120 if is_quiet else 0,
        rate=rate,
        sleeps=12 if is_quiet else 0,
    )


def platform(seed: int) -> dict[str, Any]:
    """Draw what AWS and providers do now and then that is no fault."""
    chance = random.Random(f"platform {seed}")  # not what the run itself draws from
    return {
        "page_bytes": chance.choice((0, 0, 1, 600)),
        "left": chance.choice((0.0, 0.3, 0.6)),
        "poison": chance.choice((0.0, 0.0, 0.0, 0.3)),
        "undelivered": chance.choice((0.0, 0.0, 0.2)),
        "slow": chance.choice((0.0, 0.0, 0.3, 1.0)),
    }


def pushed(seed: int) -> Scenario:
    """Draw a scenario in which providers notify of what happens, or somebody in their name."""
    chance = random.Random(f"pushed {seed}")  # not what the run itself draws from
    if chosen("prompt", seed, PROMPT):
        return prompt(seed)
    given = (swarm if chance.random() < 0.7 else fleet)(seed)
    return replace(
        given,
        upstreams=(chance.choice(("ringcentral", "kirimdev")),),
        pushes=chance.choice((0.5, 1.0)),
        mutations=given.mutations + 2,
        rate=chance.choice((50.0, 5.0, 1.0)),
    )


def prompt(seed: int) -> Scenario:
    """Draw a scenario in which nobody looks for what happens but when he is notified."""
    return replace(
        calm(seed),
        upstreams=("ringcentral",),
        moving=0.0,
        watches=False,
        prompt=True,
        pushes=1.0,
        sleeps=40,
        slowest_s=240,
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
    # Not even where one that nobody answers would be enough for an outage: the other is answered.
    silence = given.is_calm and sick in ("later", "silent")
    watches = given.watches and not silence
    return replace(given, accounts=2, sick=sick, removes=not sick, silence=silence, watches=watches)


def outage(seed: int) -> Scenario:
    """Draw a scenario in which a provider fails for long, and is well again."""
    chance = random.Random(f"outage {seed}")  # not what the run itself draws from
    return replace(
        calm(seed),
        minutes=chance.choice((4, 4, 4, 4, 8, 8, 8, 16, 40)),
        sick=chance.choice(tuple(SICKNESSES)),
        everywhere=True,
        recovers=True,
        accounts=chance.choice((1, 2)),
        shards=chance.choice((1, 1, 2)),
        silence=chance.random() < 0.7,
        fetches=random.Random(f"fetches {seed}").random() < 0.2,
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
        **platform(seed),
    )
    is_large = chance.random() < 0.002
    given = Scenario(
        seed,
        upstreams=tuple(chance.sample(names, chance.choice((1, 2)) if is_large else 1)),
        accounts=chance.choice((1, 2)) if is_large else 1,
        streams=3 if is_large else 1,
        minutes=chance.randrange(2, 6) if is_large else chance.choice((1, 1, 1, 1, 1, 1, 1, 2)),
        mutations=chance.randrange(2, 9) if is_large else chance.choice((1, 1, 2, 2, 3)),
        interval_s=20 if is_large else 60,
        moving=sometimes(0.2),
        reconciles=chance.random() < 0.09,
        listed_s=chance.choice((0, 60)),
        backfill=chance.random() < 0.6,
        watches=chance.random() < 0.1,
        hostile=chance.random() < 0.15,
        skew_s=chance.choice(SKEWS),
        replays=random.Random(f"replays {seed}").random() < 0.06,
        knobs=knobs,
    )
    if chance.random() < 0.01:
        names = [chance.choice(("ringcentral", "kirimdev"))]
        small = {"accounts": 2, "interval_s": 20, "minutes": 2}
        return replace(given, tight=True, upstreams=tuple(names), watches=False, **small)
    if random.Random(f"flips {seed}").random() < 0.006:
        flips = {"flips": True, "upstreams": ("ringcentral",), "knobs": Knobs()}
        return replace(given, interval_s=20, minutes=3, mutations=6, **flips)
    return given


def paged(seed: int) -> Scenario:
    """Draw a scenario in which everything that has a size is full soon."""
    chance = random.Random(seed ^ 0x9A6ED)
    reconciles = chance.random() < 0.3
    return replace(
        swarm(seed),
        small=True,
        # Full listings that show what is missing take one invocation and some minutes; and what
        # moves while they are turned looks as if it were gone.
        hurried=not reconciles and chance.random() < 0.6,
        minutes=chance.randrange(2 if reconciles else 1, 4),
        mutations=chance.randrange(3, 9),
        interval_s=chance.choice((20, 60)),
        moving=chance.choice((0.1, 0.4) if reconciles else (0.0, 0.1, 0.4)),
        reconciles=reconciles,
        listed_s=60,
    )


#: What is small in a small scenario, so that a few things fill it.
SIZES = (
    (youmail, "PAGE_LENGTH", 2),
    (kirimdev, "LIMIT", 2),
    (kirimdev, "CHECK_QUERY", {**kirimdev.CHECK_QUERY, "limit": "2"}),
    (ringcentral, "RECORDS", 2),
    (intelli, "ROWS_MAX", 4),
    (drain, "ROWS_MAX", 3),
    (drain, "PUTS_MAX", 2),
    (marks, "PENDING_PER_STREAM_MAX", 2),
    (decide, "MISSING_MAX", 0),
)

#: Time is up for a delta that has taken as little of its minute as a few requests do.
HURRIED_MS = 59_700

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


VALIDATORS = {"If-None-Match", "If-Modified-Since"}


def verifier_of(upstream: Upstream) -> str:
    """Name what verifies the notifications of a provider."""
    return f"{CANARY}-{upstream.name}-push"


def notification(upstream: Upstream, sent: Sent, now_ms: int, secret: str) -> dict[str, Any]:
    """Make what a provider sends when something happened to an account."""
    path = f"/{sent.connection}"
    if upstream.name == "ringcentral":
        body = pushing.told(now_ms, sent.account)
        return pushing.request(path, body, {"verification-token": secret})
    body = pushing.received(sent.account)
    signature = pushing.signed(body, now_ms // 1000, secret)
    return pushing.request(path, body, {"x-kirim-signature": signature})


class Asking(Http):
    """What a container asks providers with: each request is a step of the world."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.hosts, None, run.world.clock)  # type: ignore[arg-type]
        self.simulators = run.simulators
        self._run_ = run
        self._ends_ms = NEVER_MS

    def run(
        self,
        checks: Iterable[tuple[str, Checking]],
        *,
        requests_per_second: float,
        deadline_s: float,
        **more: Any,
    ) -> Iterator[tuple[str, Seen | PollwireError]]:
        process = self._run_.world.current
        assert process
        self._run_.pace.turn(process.job.connection, requests_per_second)
        more["requests_per_second"] = requests_per_second
        self._ends_ms = self._run_.world.now_ms + round(deadline_s * 1000)
        try:
            yield from super().run(checks, deadline_s=max(deadline_s, 0.001), **more)
        finally:
            self._ends_ms = NEVER_MS

    def _run(self, key: str, checking: Checking, spent: dict[str, int]) -> Seen | PollwireError:
        process = self._run_.world.current
        assert process
        process.account = key
        try:
            return super()._run(key, checking, spent)
        finally:
            process.account = ""

    def fetch(self, request: Request) -> Response:
        run, left_ms = self._run_, self._ends_ms - self._run_.world.now_ms
        process = run.world.current
        if process is None:
            return self._answer(request)
        if left_ms <= 0:
            raise Unasked("the time is over")
        visit = run.pace.ask(request, process)
        try:
            found: Response = run.world.step(
                "http", lambda: self._answer(request), run.failure, self._takes_ms(left_ms)
            )
        except PollwireError as error:
            run.pace.note(visit, request, process, error)
            raise
        run.pace.note(visit, request, process, found)
        return found

    def _answer(self, request: Request) -> Response:
        run = self._run_
        run.requests[urlsplit(request.url).netloc] += 1
        run.custody.request(request)
        run.require_wanted(request)
        if run.ails(run.world.current):
            return self._fail(run.scenario.sick)
        if run.scenario.lying and VALIDATORS & request.headers.keys():
            return Response(304, {})
        if not run.world.healthy and run.moving.random() < run.scenario.moving:
            run.mutate("moving")
        run.note_empty(request)
        response = super().fetch(request)
        run.world.reached[f"status {response.status}"] += 1
        run.world.reached["page 2"] += any(
            request.query.get(name, "1") != "1" for name in ("pageNumber", "cursor", "dateTo")
        )
        self.asked.clear()
        return response

    def _takes_ms(self, left_ms: int) -> int:
        """Say how long an answer takes, beside what every call does; we wait no longer."""
        run = self._run_
        if run.scenario.sick == "silent" and run.ails(run.world.current):
            return min(DEADLINE_MS, left_ms)
        return min(run.world.takes_ms(DEADLINE_MS / 1000), left_ms)

    def _fail(self, sick: str) -> Response:
        """Answer as one that is sick does."""
        answer = SICKNESSES[sick]
        if isinstance(answer, bytes):
            return Response(200, {"content-type": "application/json"}, answer)
        raise answer


@cache
def _hosts(*own: str) -> Hosts:
    """Make them once: all that is remembered is how each is written."""
    return Hosts(own)


class Run:
    """
    One run of a scenario.

    Attributes:
        harmed: Steps until healing began, which was at *healing_ms*.

        redriven: Dead jobs that were sent once more.

        baselines: What a stream's first complete drain recorded, by its key: hashes by record.
    """

    def __init__(
        self,
        scenario: Scenario,
        plan: Mapping[int, str] | None = None,
        of: Deployed | None = None,
    ) -> None:
        self.scenario = scenario
        self.world = World(scenario.seed, of or deployed(), scenario.knobs, plan)
        self.moving = self._chance("moving")
        self.upstreams: list[Upstream] = [
            one(lambda: self.world.now_ms / 1000, self._chance(one.name), scenario)
            for one in UPSTREAMS
            if one.name in scenario.upstreams
        ]
        self.providers = {
            name: provider for name, provider in registered().items() if name in scenario.upstreams
        }
        for provider in self.providers.values():
            provider.streams = dict(self._paced(provider.streams))
        own = [host for one in self.providers.values() for host in one.hosts.values()]
        self.hosts = _hosts(*own)
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
        self.redriven = 0
        self.pace = Pace(self)
        self.began_ms = START_MS
        self.healing_ms = 0
        self.world.written = self.pace.settle
        self.world.others_ms = self._others_ms
        self.baselines: dict[str, dict[str, str]] = {}
        self.baselines_ms: dict[str, int] = {}
        self.lambdas = Lambda(self.world, self.providers, self.hosts, lambda: Asking(self))
        self.custody = Custody(self)
        self.world.witnesses.append(self.custody.call)
        self.lambdas.is_loud = is_probed(scenario.seed)
        self.world.watchers.append(self._watch)
        self.world.vanished = self._require_missed
        self._ticks: list[tuple[int, int]] = []
        self._mutations: list[int] = []
        self._mutated_ms = START_MS
        #: Accounts that were there before there was anything in them.
        self.empty: set[str] = set()
        #: Ids of what was delivered after everything was to be told again.
        self.again: frozenset[str] = frozenset()
        #: What an operator does, and when.
        self._acts: list[tuple[int, Callable[[], None]]] = []
        #: Since when nobody may ask for something, by what is in each such request.
        self.unwanted: dict[str, int] = {}
        self._happened: Counter[str] = Counter()
        self._delivered: dict[str, dict[str, object]] = {}
        self._at_hand: Pollwire | None = None
        #: The last of what providers told by themselves.
        self.notified: list[tuple[dict[str, Any], Sent]] = []

    def _chance(self, name: str) -> random.Random:
        """Make a stream of this run that nothing else draws from."""
        return random.Random(f"{name} {self.scenario.seed}")

    def _paced(self, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Stream]]:
        """List streams from end to end as often as the scenario has it."""
        given = self.scenario
        for name, stream in streams.items():
            period_s = given.listed_s or stream.reconcile_s if given.reconciles else 0
            yield name, replace(stream, reconcile_s=period_s if stream.reconcile_s else 0)

    def go(self) -> Run:
        """Run it and check every promise."""
        from tests.simulation import invariants

        with ExitStack() as stack:
            stack.enter_context(self.lambdas.installed())
            for module, name, size in SIZES if self.scenario.small else ():
                stack.enter_context(mock.patch.object(module, name, size))
            if self.scenario.hurried:
                stack.enter_context(mock.patch.object(drain, "PAGE_MS", HURRIED_MS))
            if self.scenario.silence:
                stack.enter_context(mock.patch.object(pipeline, "SILENT_MIN", 1))
            self._register()
            self._harm()
            self.heal()
            invariants.check(self)
        return self

    # Phases

    def _register(self) -> None:
        pollwire = self.pollwire()
        for upstream in self.upstreams:
            upstream.watch = self._watching(upstream)
            for connection in upstream.connections():
                if self.shares(upstream):
                    credential = upstream.members[0].credential or {}
                    sealed = pollwire.sealer.seal(credential, connection.name, "")
                    connection = replace(connection, credential=sealed)
                self.lambdas.registry().put_connection(connection)
                if self.scenario.pushes:
                    verifier = {"secret": verifier_of(upstream)}
                    sealed = pollwire.sealer.seal(verifier, connection.name, PUSH)
                    self.lambdas.registry().set_push_secret(connection.name, sealed)
                for member in upstream.members:
                    self._add(upstream, connection, member)

    def shares(self, upstream: Upstream) -> bool:
        return self.scenario.shared and upstream.name in ("ringcentral", "kirimdev")

    def _add(self, upstream: Upstream, connection: Connection, member: Member) -> None:
        pollwire, sealed = self.pollwire(), None
        if not self.shares(upstream):
            sealed = pollwire.sealer.seal(member.credential or {}, connection.name, member.id)
        settings = dict(member.settings)
        if self.scenario.backfill:
            settings["backfill"] = "true"
        self.lambdas.registry().add_account(
            connection, member.id, settings=settings, credential=sealed
        )

    def _harm(self) -> None:
        world, chance, knobs = self.world, self.world.faults, self.scenario.knobs
        slept_ms = self.scenario.sleeps * MINUTE_MS
        end_ms = START_MS + self.scenario.minutes * MINUTE_MS + slept_ms
        instants = self._chance("instants")
        self._mutations = sorted(
            instants.randrange(START_MS, end_ms) for _ in range(self.scenario.mutations)
        )
        if self.scenario.prompt:
            # What is told right after a check waits for the next.
            self._mutations = sorted([*self._mutations, *(one + 2000 for one in self._mutations)])
        self._acts = sorted(self._operator(instants, end_ms), key=itemgetter(0))
        for minute_ms in range(START_MS, end_ms, MINUTE_MS):
            if START_MS < minute_ms <= START_MS + slept_ms:
                continue
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

    def _operator(
        self, instants: random.Random, end_ms: int
    ) -> Iterator[tuple[int, Callable[[], None]]]:
        """Name what an operator does, and when."""
        upstream, given = self.upstreams[0], self.scenario
        if given.removes:
            self.removed = upstream.members[0].id
            yield instants.randrange(START_MS, end_ms), lambda: self._remove(upstream)
        if given.interrupts:
            member = upstream.members[0]
            begin_ms, again_ms = sorted(instants.randrange(START_MS, end_ms) for _ in range(2))
            do, undo = {
                "removed": (self._remove, lambda one: self._return(one, member)),
                "paused": (self._pause, self._unpause),
                "suspended": (self._suspend, self._unsuspend),
            }[given.interrupts]
            yield begin_ms, lambda: do(upstream)
            yield again_ms, lambda: undo(upstream)
        if given.replays:
            yield instants.randrange(START_MS, end_ms), self._replay
        if given.splits:
            yield instants.randrange(START_MS, end_ms), self._split

    def heal(self) -> None:
        """Run until nothing is left to do, faults and mutations being over."""
        self._recover()
        self.harmed, self.healing_ms = self.world.steps, self.world.now_ms
        for minute_ms in [minute for _, minute in self._ticks]:
            self._ticks = [one for one in self._ticks if one[1] != minute_ms]
        while self._mutations:
            self._mutations.pop()
            self.mutate()
        self._rest()
        if self.is_alone:
            self.mutate("alone")
            self._rest()
        if self._redrive():
            self._skip()
            if not self.is_quiet():
                self.settle()
        # Where few are many, what is missing is believed after an hour.
        for later_ms in (0, HOUR_MS) if self.scenario.small else (0,):
            self._list_all(self.world.now_ms + later_ms)
        for at_ms in self._doubts() if self.scenario.lying else ():
            self.run_until(max(self.world.now_ms, at_ms))
            self.minute()
            self.settle()
        self._have_it_told_again()

    def _rest(self) -> None:
        for upstream in self.upstreams:
            upstream.recover()
        self._skip()
        self.settle()
        for upstream in self.upstreams:
            upstream.rest()

    def _have_it_told_again(self) -> None:
        if not self.scenario.replays:
            return
        # What SNS was given before that it drops.
        self.run_until(self.world.now_ms + DEDUPLICATED_MS)
        before = len(self.deliveries())
        self._replay()
        self.settle()
        self.again = frozenset(str(one["uuid"]) for one in self.deliveries()[before:])

    def _list_all(self, begin_ms: int) -> None:
        """Have everything listed that is listed by the clock."""
        if self.scenario.reconciles:
            self.run_until(begin_ms)
            for at_ms in self._listings():
                self.run_until(max(self.world.now_ms, at_ms))
                self.settle()

    def _recover(self) -> None:
        self.world.healthy = True
        if self.scenario.recovers:
            self.sick = frozenset()
        for upstream in self.upstreams if self.scenario.tight else ():
            upstream.unbind()

    def _doubts(self) -> list[int]:
        """Name the minutes from which on an account is asked without a validator once."""
        found = []
        for _, member in self._members():
            after_ms = (due.stable_hash(member.id) - self.world.now_ms) % HOUR_MS
            at_ms = self.world.now_ms + after_ms
            found.append(at_ms - at_ms % MINUTE_MS)
        return sorted(found)

    def settle(self) -> None:
        # A quiet account is due only then, and one that is moved a minute later.
        patience = self.scenario.slowest_s // 60 + self.scenario.splits
        for number in range(HEALING_MAX):
            # Who gives way to what is pending, and who rests, is asked a minute later.
            is_out = self._is_out() or (self.scenario.tight and not self.is_quiet())
            is_out = is_out or any(at_ms > self.world.now_ms for _, at_ms in self._rests())
            self.minute()
            is_over, left = number >= patience and not is_out, self.unrest()
            if is_over and not left:
                return
            self._skip()
            if is_over and self._was_only_queued(left):
                return
        raise Broken(f"I10: not at rest after {HEALING_MAX} minutes: {self.unrest()}")

    def _is_out(self) -> bool:
        """Tell whether of some connection one shard is asked for all."""
        return any(
            pk == "connection" and "outages" in one and one["outages"] != {"N": "0"}
            for (pk, _), one in self._items()
        )

    def minute(self) -> None:
        """Have one minute that is scheduled as it should be."""
        minute_ms = -(-self.world.now_ms // MINUTE_MS) * MINUTE_MS
        self._ticks.append((minute_ms, minute_ms))
        self.run_until(minute_ms + MINUTE_MS)

    def _was_only_queued(self, left: list[str]) -> bool:
        """Tell whether messages were all that was left to do, and are no more."""
        return all(one.endswith(" messages") for one in left) and self.is_quiet()

    def _skip(self) -> None:
        """Let time pass without ticks until nothing waits for an instant any more."""
        if self.scenario.is_calm or self.is_patient:
            return
        while (until_ms := max(self._waits())) > self.world.now_ms:
            self.run_until(until_ms)

    def _waits(self) -> Iterator[int]:
        """Name the instants that something waits for."""
        yield self._mutated_ms + LATE_MS
        yield from self.lambdas.held_ms()
        for _, at_ms in self._rests():
            yield at_ms
        for (pk, _), item in self._items():
            for one in item.get("pending", {}).get("SS", ()) if pk.startswith("shard#") else ():
                stream, seen_ms, _ = marks.split(one)
                yield seen_ms + self._overlap_ms(pk, stream)

    def _overlap_ms(self, pk: str, stream: str) -> int:
        provider = self.providers[pk.split("#")[1].partition("-")[0]]
        return provider.streams[stream].overlap_s * 1000 if stream in provider.streams else 0

    def _redrive(self) -> int:
        """Do what an operator does with dead jobs: send them once more; return how many."""
        aws = self.world.aws
        for name, queue in self.world.deployed.queues.items():
            if queue.dead_letters and "subscriber" not in name:
                moved = aws.move_messages(queue.dead_letters, name)
                self.world.reached["redriven"] += moved
                self.world.touched.add(name)
                self.redriven += moved
        return self.redriven

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
                world.resume(ready[0] if len(ready) == 1 else world.turns.choice(ready))
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
        while self._acts and self._acts[0][0] <= now_ms:
            # What is done from outside is no step of the process that happens to be at work.
            current, self.world.current = self.world.current, None
            self._acts.pop(0)[1]()
            self.world.current = current

    # What an operator does

    def shards(self, connection: str, account: str) -> list[int]:
        """Say where an account lies: in one shard, or in another one."""
        places = [pk.rpartition("#") for pk, sk in self.world.aws.items if sk == account]
        return [int(number) for of, _, number in places if of == f"shard#{connection}"]

    def _write(self, operation: str, pk: str, sk: str, **params: Any) -> None:
        if (pk, sk) not in self.world.aws.items:
            raise Broken(f"an operator looks for {pk} {sk} in vain")
        where = {"TableName": self.world.deployed.table, "Key": items.key(pk, sk)}
        self.world.aws.call("dynamodb", operation, {**where, **params})

    def _known(self, connection: Connection) -> Connection:
        """Read a connection as it is by now."""
        found = self.lambdas.registry().connection(connection.name)
        assert found
        return found

    def _accounts(self, upstream: Upstream) -> Iterator[tuple[str, str]]:
        """Name the keys of its first account, one for each connection."""
        account = upstream.members[0].id
        for connection in upstream.connections():
            for shard in self.shards(connection.name, account) or [0]:
                yield f"shard#{connection.name}#{shard}", account

    def _remove(self, upstream: Upstream) -> None:
        self.unwanted[upstream.members[0].id] = self.world.now_ms
        for pk, sk in self._accounts(upstream):
            self._write("DeleteItem", pk, sk)

    def _return(self, upstream: Upstream, member: Member) -> None:
        self.unwanted.clear()
        for connection in upstream.connections():
            self._add(upstream, connection, member)
        self._forget(upstream)

    def _forget(self, upstream: Upstream) -> None:
        for connection in upstream.connections():
            self.pace.forget(connection.name)

    def _pause(self, upstream: Upstream) -> None:
        self.unwanted[upstream.members[0].id] = self.world.now_ms
        values = {":paused": items.text("paused")}
        for pk, sk in self._accounts(upstream):
            self._write(
                "UpdateItem",
                pk,
                sk,
                UpdateExpression="SET standing = :paused",
                ExpressionAttributeValues=values,
            )

    def _replay(self) -> None:
        order = marks.replay(START_MS)
        for upstream, connection in self.connections():
            streams = self.providers[upstream.name].streams
            looked_at = [name for name, one in streams.items() if one.watch_s]
            names = [*upstream.streams, *looked_at]
            elements = [marks.element(name, order, self.world.now_ms) for name in names]
            for member in self.well(upstream):
                # One that was removed meanwhile is told of nothing.
                with suppress(Conflict):
                    found = self.lambdas.registry().order(
                        self._known(connection), member.id, elements
                    )
                    if found != bool(self.shards(connection.name, member.id)):
                        raise Broken(f"{member.id} is looked for in vain")

    def _split(self) -> None:
        for _, connection in self.connections():
            self.lambdas.registry().grow(connection.name, 2 * connection.shards)

    def _unpause(self, upstream: Upstream) -> None:
        self.unwanted.clear()
        for pk, sk in self._accounts(upstream):
            self._write("UpdateItem", pk, sk, UpdateExpression="REMOVE standing")

    def _suspend(self, upstream: Upstream, until_ms: int = NEVER_MS) -> None:
        for host in self.providers[upstream.name].hosts.values():
            self.unwanted[host] = self.world.now_ms
        for connection in upstream.connections():
            self._write(
                "UpdateItem",
                "connection",
                connection.name,
                UpdateExpression="SET paused_until = :until",
                ExpressionAttributeValues={":until": items.number(until_ms)},
            )

    def _unsuspend(self, upstream: Upstream) -> None:
        self._suspend(upstream, 0)
        self._forget(upstream)
        self.unwanted.clear()

    def _next_ms(self, end_ms: int) -> int:
        """Name the next instant at which something is to be done."""
        instants = [process.wake_ms for process in self.world.processes]
        instants += [at_ms for at_ms, _ in self._ticks[:1]] + self._mutations[:1]
        instants += [at_ms for at_ms, _ in self._acts[:1]]
        if self.lambdas.soonest_ms > self.world.now_ms:
            instants.append(self.lambdas.soonest_ms)
        return max(min(instants, default=end_ms), self.world.now_ms)

    def _others_ms(self) -> int:
        """Name the next instant at which something but a process goes on."""
        next_ms = self.lambdas.soonest_ms
        for waiting in (self._ticks, self._acts):
            if waiting and waiting[0][0] < next_ms:
                next_ms = waiting[0][0]
        return min(next_ms, self._mutations[0]) if self._mutations else next_ms

    def mutate(self, why: str = "planned") -> None:
        """
        Let something happen at one of the providers.

        Each draws from a seed of its own: what the first one is does not change the second.
        """
        self._happened[why] += 1
        chance = self._chance(f"{why} {self._happened[why]}")
        self._mutated_ms = self.world.now_ms
        # What is done from outside is no step of the process that happens to be at work.
        current, self.world.current = self.world.current, None
        for _ in range(TRIES):
            chance.choice(self.upstreams).mutate(chance)
            # At first there may be nothing yet that it could happen to.
            if any(one.journal for one in self.upstreams):
                break
        if self.scenario.pushes:
            self._notify(self._chance(f"notify {why} {self._happened[why]}"))
        self.world.current = current

    def _notify(self, chance: random.Random) -> None:
        """Let a provider tell of what happened, and somebody else send what he likes."""
        if self.world.healthy or chance.random() >= self.scenario.pushes:
            return
        for upstream, connection in self.connections():
            account = chance.choice(upstream.journal or upstream.members)
            sent = Sent(connection.name, getattr(account, "account", "") or account.id)
            now_ms = self.world.now_ms
            told = notification(upstream, sent, now_ms, verifier_of(upstream))
            # Others send it without what verifies it, or what was sent before once more.
            again = chance.sample(self.notified, min(len(self.notified), chance.choice((0, 0, 2))))
            forged = notification(upstream, sent, now_ms, "somebody's"), {**told, "headers": {}}
            for event, of in ((told, sent), *again, *((one, sent) for one in forged)):
                push = partial(self.lambdas.push, event, of, refused=event in forged)
                self._acts.append((now_ms, push))
            self.notified = [*self.notified, (told, sent)][-3:]
        self._acts.sort(key=itemgetter(0))

    def _watching(self, upstream: Upstream) -> Callable[[str, str], None]:
        minutes = self.scenario.minutes + self.scenario.sleeps
        end_ms = START_MS + minutes * MINUTE_MS + WATCHED_MS
        registry = self.lambdas.registry()

        def watch(account: str, identity: str) -> None:
            for connection in upstream.connections():
                # One that was removed meanwhile is watched no more.
                with suppress(Conflict):
                    registry.watch(self._known(connection), account, identity, end_ms)

        return watch

    # What goes on

    def failure(self) -> PollwireError:
        """Make what a provider's failure to answer is."""
        return self.world.faults.choice(
            (
                Unavailable("sim: no complete answer"),
                Unavailable("sim: 503", retry_after_s=100),
                RateLimited("sim: 429", retry_after_s=150),
                Malformed("sim: the answer is none"),
            )
        )

    def note_empty(self, request: Request) -> None:
        """Note an account that a check finds to be empty: whatever comes is news."""
        process = self.world.current
        if not self.scenario.is_calm or process is None or process.spec.stage != "check":
            return
        sent = f"{request.url}{request.form}"
        for upstream, member in self._members():
            if member.id in sent and upstream.knows_nothing(member.id):
                self.empty.add(member.id)

    def require_wanted(self, request: Request) -> None:
        """What an operator paused or removed is not asked for by whoever begins after that."""
        process = self.world.current
        if process is None or not self.unwanted or self.scenario.knobs.stale:
            return
        began_ms = process.deadline_ms - process.spec.timeout_s * 1000
        sent = f"{request.url}{request.form}"
        for text, since_ms in self.unwanted.items():
            if since_ms < began_ms and text in sent:
                raise Broken(f"{text!r} was asked for though it was to be left alone")

    def _watch(self, pk: str, sk: str, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        """I4: version, cursor and sequence of a stream never go down."""
        if any(old > new for old, new in zip(before, after, strict=True)):
            raise Broken(f"I4: {pk} went from {before} to {after}")
        if after[3] > before[3]:
            self.pace.drained(pk, after[3])
        if after[3] and not before[3]:
            self.baselines_ms[pk] = self.world.now_ms
            self.baselines[pk] = {
                sk: item.get("digest", {}).get("S", "")
                for (of, sk), item in self.world.aws.items.items()
                if of == pk and sk != "cursor"
            }

    def _require_missed(self, pk: str, sk: str) -> None:
        """I1: what leaves without a trace is believed to be gone when it is missing twice."""
        _, connection, *of = pk.split("#")
        thing = (of[0], of[1], sk.removeprefix("r#"))
        states = self.upstream_of(connection).states.get(thing, [])
        shown = any(one.deleted and not one.missing for one in states)
        if states and not shown and of[1] != "message-status":
            raise Broken(f"I1: {thing} is taken to be deleted though it was missing once only")

    def baselined(self, thing: tuple[str, str, str, str]) -> bool:
        """Tell whether a thing was recorded when its stream was first read to its end."""
        recorded = self.baselines.get("stream#{}#{}#{}".format(*thing[:3]), {})
        return record_sk(thing[3]) in recorded

    @property
    def is_patient(self) -> bool:
        """It heals with a tick each minute, as it is in life."""
        return chosen("patient", self.scenario.seed, PATIENT)

    @property
    def is_hasty(self) -> bool:
        """It is over when all was read that there is, whether it is to be read once more or not."""
        given = self.scenario
        slow = given.is_calm or given.lying or given.reconciles
        slow = slow or self.is_patient or is_silent(given.seed)
        return not (slow or self.world.plan is not None or chosen("settled", given.seed, SETTLED))

    @property
    def is_alone(self) -> bool:
        """Something happens that no mark from before has read once more: its own has to do."""
        given = self.scenario
        watched = given.watches or given.prompt or self.world.plan is not None
        return not (self.is_hasty or watched) and chosen("alone", given.seed, ALONE)

    @property
    def is_faultless(self) -> bool:
        """Nobody has had any trouble, no two do the same thing, and everything has its size."""
        given = self.scenario
        twice = given.knobs.twice or given.knobs.doubled or given.knobs.stale
        unlike = given.sick or given.small or given.pushes or twice
        unlike = unlike or any(self.world.injected.values())
        return given.is_calm and not unlike

    def ails(self, process: Process | None) -> bool:
        """Tell whether what an invocation asks for is at a provider, or of an account, that is."""
        if not self.sick or process is None or process.job is None:
            return False
        if self.scenario.fetches and process.spec.stage == "check":
            return False
        if self.scenario.everywhere:
            return self.upstream_of(process.job.connection) is self.upstreams[0]
        return account_of(process) in self.sick

    def shares_rate(self, connection: str) -> bool:
        """Tell whether the accounts of a connection share one rate budget."""
        upstream = self.upstream_of(connection)
        return upstream.name == "kirimdev" or self.shares(upstream)

    def upstream_of(self, connection: str) -> Upstream:
        name = connection.partition("-")[0]
        return next(one for one in self.upstreams if one.name == name)

    @property
    def out(self) -> frozenset[str]:
        """Name the accounts that the promises do not hold for."""
        return self.excused | ({self.removed} if self.removed else frozenset())

    def connections(self) -> Iterator[tuple[Upstream, Connection]]:
        for upstream in self.upstreams:
            for connection in upstream.connections():
                yield upstream, connection

    # Rest

    def is_quiet(self) -> bool:
        return not self.unrest()

    def _items(self) -> Iterator[tuple[tuple[str, str], Any]]:
        """Read the table, but for what is of accounts that need not come to rest."""
        out = set(self.out)
        if out and self.scenario.everywhere:
            out |= {one.name for one in self.upstreams[0].connections()}
        for (pk, sk), item in self.world.aws.items.items():
            parts = {sk, *pk.split("#")}
            if not parts & out:
                yield (pk, sk), item

    def _members(self) -> Iterator[tuple[Upstream, Member]]:
        for upstream in self.upstreams:
            for member in upstream.members:
                yield upstream, member

    def well(self, upstream: Upstream) -> list[Member]:
        """Name the accounts that every promise holds for."""
        return [one for one in upstream.members if one.id not in self.out]

    def unrest(self) -> list[str]:
        """Name what there is still to do."""
        found = [name for name, _ in self._rests()]
        if self.world.now_ms < self._mutated_ms + LATE_MS:
            found.append("late rows")
        for (pk, sk), item in self._items():
            if pk.startswith("shard#"):
                pending = item.get("pending", {}).get("SS", ())
                found += [f"{sk}: {one}" for one in pending if not self._is_read(pk, sk, one)]
            if sk == "cursor":
                found += [f"{pk}: {one}" for one in ("outbox", "drain") if one in item]
        # Who is in a hurry has nobody left out whose check is yet to come.
        depths = self.lambdas.depths(held=self.is_hasty)
        found += [f"{name}: {n} messages" for name, n in depths.items() if n]
        return found

    def _is_read(self, pk: str, account: str, element: str) -> bool:
        """Tell whether a mark waits to be read once more, in a run that need not see it."""
        if not self.is_hasty or marks.replayed_ms(element) is not None:
            return False
        stream = f"stream#{pk.split('#')[1]}#{account}#{element.partition('@')[0]}"
        cursor = self.world.aws.items.get((stream, "cursor"), {})
        if int(cursor.get("drained_at", {"N": "0"})["N"]) < self._mutated_ms + LATE_MS:
            return False
        if cursor.get("place", {}).get("S") and cursor["drained_at"] == cursor["reconciled_at"]:
            return False  # All was listed; what was deleted is said where the changes go on.
        # What went back or is missing is believed the second time.
        kept = (item for (of, _), item in self._items() if of == stream)
        return not any("back_digest" in item or "missing_at" in item for item in kept)

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
        """Read what the subscriber was sent, what did not reach its queue at once in its place."""
        (subscription,) = self.world.deployed.subscriptions
        names = [one for one in (subscription.queue, subscription.dead_letters) if one]
        messages = [one for name in names for one in self.world.aws.messages(name)]
        found = []
        for message in sorted(messages, key=attrgetter("sequence")):
            event = self._delivered.get(message.id) or self._delivery(message)
            event["place"] = len(found)
            found.append(event)
        return found

    def _delivery(self, message: Message) -> dict[str, object]:
        event: dict[str, object] = json.loads(message.body)
        event["arrived_ms"] = message.sent_ms
        event["text"] = message.body
        event["group"], event["dedup"] = message.group, message.dedup
        said = message.attributes.items()
        event["attributes"] = {name: one["StringValue"] for name, one in said}
        self._delivered[message.id] = event
        return event

    def changes(self) -> list[tuple[Upstream, Told]]:
        return [(one, told) for one in self.upstreams for told in one.journal]

    def pollwire(self) -> Pollwire:
        """Give what is at hand to an operator, and to who looks at what became of it all."""
        self._at_hand = self._at_hand or self.lambdas.pollwire()
        return self._at_hand
