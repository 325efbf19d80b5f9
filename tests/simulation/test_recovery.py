"""
Walks of docs/recovery.md, with every provider and the whole system at work.
"""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from tests.simulation import oracle
from tests.simulation.scenario import Run, Scenario
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
    news = [(walk.scenario.seed, one["text"]) for walk in walks for one in walk.news]
    assert news == []
    for walk in walks:
        numbers = [one["body"]["sequence"] for one in walk.lost]
        assert all(one["body"]["sequence"] > max(numbers, default=0) for one in walk.again)
