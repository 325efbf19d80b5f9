"""
Walks of docs/recovery.md, with every provider and the whole system at work.
"""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from tests.simulation import invariants, oracle
from tests.simulation.scenario import Run, Scenario
from tests.simulation.stories import steps
from tests.simulation.upstream import UPSTREAMS

pytestmark = pytest.mark.filterwarnings("ignore")

PROVIDERS = [one.name for one in UPSTREAMS]

#: Runs of each provider.
SEEDS = 25

#: What happens in the hour that is lost, and afterwards.
LOST, LATER = 8, 5


class Consumer:
    """Drops what it had, by its id, and what is late, by its sequence."""

    def __init__(self):
        self.ids = set()
        self.told = defaultdict(list)

    def take(self, events):
        """Return the events that are no repeats."""
        news = [one for one in events if one["uuid"] not in self.ids]
        for event in news:
            self.ids.add(event["uuid"])
            body = event["body"]
            thing = (body["connection"], event["ownerId"], body["stream"], body["recordId"])
            if not self.told[thing] or body["sequence"] > self.told[thing][-1]["body"]["sequence"]:
                self.told[thing].append(event)
        return news


class Restoring(Run):
    """
    A run in which the table is restored.

    Attributes:
        lost: What was told after the instant that the table is restored to.

        again: What was told since then of what had happened before, and news of it, whose ids
            nobody has seen.

        later: What was told of what happened after that.
    """

    def go(self):
        self.consumer, self.taken = Consumer(), 0
        with self.lambdas.installed():
            self._register()
            self._harm()
            self.world.healthy = True
            self.rest()
            self.take()
            kept = self.world.aws.snapshot()
            self.lost = self.happen(LOST)
            self.put_back(kept)
            self.rest()
            self.again = self.arrived()
            self.news = self.take()
            self.require_ends()
            self.later = self.happen(LATER)
            self.require_ends()
        return self

    def happen(self, times):
        """Let things happen; return what is told of them."""
        for _ in range(times):
            self.mutate()
            self.settle()
        self.rest()
        return self.take()

    def rest(self):
        self.settle()
        self._list_all(self.world.now_ms + 1)
        self.settle()

    def put_back(self, kept):
        """Restore the table: its name is not the one that its streams were written under."""
        home = {"home": {"S": "the-former-table"}}
        self.world.aws.restore(
            {key: {**item, **home} if "home" in item else item for key, item in kept.items()}
        )

    def arrived(self):
        return self.deliveries()[self.taken :]

    def take(self):
        events = self.arrived()
        self.taken += len(events)
        return self.consumer.take(events)

    def went_back(self, event):
        """Tell whether a thing's own time went backwards: a restored table does not know of it."""
        body = event["body"]
        states = self.upstreams[0].states[event["ownerId"], body["stream"], body["recordId"]]
        times_ms = [one.at_ms for one in states if one.at_ms]
        return times_ms != sorted(times_ms)

    def require_ends(self):
        for upstream, connection in self.connections():
            told = {
                thing: found
                for thing, found in self.consumer.told.items()
                if thing[0] == connection.name
            }
            oracle.ends(self, connection.name, upstream, told)


def scenario(provider, seed):
    chance = random.Random(f"restore {provider} {seed}")
    return Scenario(
        seed,
        upstreams=(provider,),
        streams=1,
        minutes=3,
        mutations=4,
        moving=0.0,
        reconciles=True,
        listed_s=60,
        backfill=chance.random() < 0.5,
    )


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_was_told_is_told_once_more_under_its_id_and_nothing_is_lost(provider):
    walks = [Restoring(scenario(provider, seed)).go() for seed in range(SEEDS)]

    assert sum(len(walk.again) for walk in walks) > SEEDS
    assert sum(len(walk.later) for walk in walks) > SEEDS
    news = [
        (walk.scenario.seed, one["text"], walk.went_back(one))
        for walk in walks
        for one in walk.news
    ]
    assert [one for one in news if not one[2]] == []
    assert len(news) < SEEDS / 5
    for walk in walks:
        numbers = [one["body"]["sequence"] for one in walk.lost]
        assert all(one["body"]["sequence"] > max(numbers, default=0) for one in walk.again)


class Meanwhile(Run):
    """
    A run without faults, in which an operator does something while jobs are at work.

    Args:
        step: The first call to AWS with this number or a later one is preceded by it.
    """

    def __init__(self, given, step):
        super().__init__(given, {})
        self._step = step
        self.world.witnesses.append(self._meanwhile)

    def _meanwhile(self, process, service, operation, params):
        if process is None or self._step is None or self.world.steps <= self._step:
            return
        self._step = None
        self.world.injected["operator"] += 1
        self.aside(self.act)

    def aside(self, act):
        """Do what is no step of the process that happens to be at work."""
        world = self.world
        before = world.current, world.written
        # Nor is what an operator writes a stage's: a pause may be for ever.
        world.current, world.written = None, lambda item: None
        act()
        world.current, world.written = before
        self.pace._tokens.clear()  # Who may get one is the operator's doing now.

    def later(self, seconds, act):
        self._acts.append((self.world.now_ms + seconds * 1000, act))

    def act(self):
        raise NotImplementedError


class Rotating(Meanwhile):
    """The credential is changed at the provider, its tokens end; Pollwire is told 90 s later."""

    refused = 0

    def act(self):
        self.upstream = self.upstreams[0]
        (self.member,) = self.upstream.members
        self.old = dict(self.member.credential)
        field = {"ringcentral": "jwt", "kirimdev": "api_key"}.get(self.upstream.name, "password")
        self.new = {**self.old, field: f"{self.old[field]}2"}
        self.of_the_old = self.old[field]
        self.change_at_the_provider()
        request = self.custody.request
        self.custody.request = lambda asked: (self.count(asked), request(asked))
        self.later(90, self.rotate)

    def change_at_the_provider(self):
        simulator, account = self.upstream.simulator, self.member.id
        if self.upstream.name == "kirimdev":
            simulator.add_key("org", self.new["api_key"])
            simulator.revoke_key(self.of_the_old)
        elif self.upstream.name == "ringcentral":
            simulator._accounts[account].secrets = tuple(self.new.values())
        else:
            simulator._accounts[account].password = self.new["password"]
        if self.upstream.name in ("youmail", "ringcentral"):
            simulator.expire_tokens()

    def count(self, request):
        """Count what is sent with the credential that is no good any more."""
        sent = [*request.headers.values(), *(request.form or {}).values()]
        self.refused += any(one.removeprefix("Bearer ") == self.of_the_old for one in sent)

    def rotate(self):
        pollwire = self.pollwire()
        for connection in self.upstream.connections():
            sealed = pollwire.sealer.seal(self.new, connection.name, self.member.id)
            assert self.lambdas.registry().replace_credential(connection, self.member.id, sealed)


def story(provider, seed):
    return Scenario(
        seed, (provider,), streams=1, minutes=4, mutations=4, moving=0.0, reconciles=False
    )


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_credential_that_is_rotated_at_any_step_loses_nothing_and_locks_nobody_out(provider):
    given = story(provider, 3)

    for step in range(0, steps(given), 5):
        run = Rotating(given, step).go()
        assert run.refused <= 5, step


class Removing(Meanwhile):
    """An account is removed while its job is at work, and registered again later."""

    def act(self):
        (member,) = self.upstreams[0].members
        self.removed = member.id
        for connection in self.upstreams[0].connections():
            assert self.lambdas.registry().remove_account(connection, member.id)

    def come_back(self):
        """Let things happen that nobody asks for, then register the account once more."""
        upstream = self.upstreams[0]
        with self.lambdas.installed():
            for _ in range(3):
                self.mutate("absent")
            self.minute()
            self.stayed_away = not any(sk == self.removed for _, sk in self.kept("shard"))
            self._return(upstream, upstream.members[0])
            self.removed = ""
            self.settle()
            self.rest()
            invariants.histories(self)

    def rest(self):
        self._list_all(self.world.now_ms + 1)
        self.settle()

    def kept(self, *kinds):
        return [key for key in self.world.aws.items if key[0].partition("#")[0] in kinds]


class Leaving(Removing):
    """The same with the whole connection."""

    def act(self):
        (self.connection,) = self.upstreams[0].connections()
        self.removed = self.upstreams[0].members[0].id
        self.lambdas.registry().remove_connection(self.connection)

    def _return(self, upstream, member):
        self.lambdas.registry().put_connection(self.connection)
        super()._return(upstream, member)


@pytest.mark.parametrize("kind", [Removing, Leaving])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_is_removed_at_any_step_stays_away_and_goes_on_when_it_is_back(provider, kind):
    given = story(provider, 3)

    for step in range(0, steps(given), 7):
        run = kind(given, step).go()
        assert not [key for key in run.kept("shard") if key[1] == run.removed], step
        if kind is Leaving:
            assert run.kept("connection", "shard") == [], step
        run.come_back()
        assert run.stayed_away, step
