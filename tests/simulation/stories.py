"""
Small scenarios in which a fault is put at every step, or every pair of faults at every two steps,
and those that broke a promise once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations

from tests.simulation.scenario import Run, Scenario, paged, pushed
from tests.simulation.world import (
    CRASH_AFTER,
    CRASH_BEFORE,
    DUPLICATE,
    ERROR_AFTER,
    ERROR_BEFORE,
    FAULTS,
    Knobs,
)

Plan = Mapping[int, str]

#: Each is of a seed by which much of what can happen does.
STORIES = (
    *(
        Scenario(
            seed,
            upstreams=(name,),
            streams=1,
            minutes=3,
            mutations=3,
            moving=0.0,
            reconciles=False,
            backfill=backfill,
        )
        for name, *seeds in (
            ("youmail", 48, 79),
            ("intelli", 41, 40),
            ("ringcentral", 42, 12),
            ("kirimdev", 2, 44),
        )
        for seed, backfill in zip(seeds, (True, False), strict=True)
    ),
    # Full listings that show a deletion.
    Scenario(1001, ("kirimdev",), streams=1, minutes=4, mutations=4, moving=0.0, listed_s=60),
    # A shard of several accounts.
    Scenario(1062, accounts=3, streams=1, minutes=2, moving=0.0, reconciles=False),
    # Messages that are watched.
    Scenario(1053, ("kirimdev",), streams=1, minutes=2, moving=0.0, reconciles=False, watches=True),
    # A drain of several pages, in parts.
    Scenario(
        1014,
        streams=1,
        minutes=2,
        mutations=8,
        moving=0.0,
        reconciles=False,
        small=True,
        hurried=True,
    ),
)

#: Pairs of faults that have to be survived together.
PAIRS = (
    (CRASH_AFTER, CRASH_BEFORE),
    (ERROR_AFTER, CRASH_AFTER),
    (DUPLICATE, ERROR_BEFORE),
    (CRASH_BEFORE, ERROR_AFTER),
)

#: Small stories of which something is told, and the pairs of faults that are put into them.
PAIRED = {
    name: (
        Scenario(seed, (name,), streams=1, minutes=1, mutations=2, moving=0.0, reconciles=False),
        faults,
    )
    for name, seed, faults in (
        ("youmail", 93, PAIRS),
        ("intelli", 0, PAIRS),
        ("ringcentral", 4, PAIRS[2:3]),
        ("kirimdev", 9, PAIRS),
    )
}

#: Mostly calls that have their effect and seem to fail, or are made twice.
UNSURE = {
    "crash_before": 0.01,
    "error_before": 0.01,
    "crash_after": 0.01,
    "error_after": 4.01,
    "duplicate": 4.01,
    "timeout": 0.01,
}

#: Runs that once broke a promise, by what was wrong.
REGRESSIONS = {
    "a call that ended between a delta and the next check was never closed": Scenario(
        103927, ("ringcentral",), streams=1, mutations=2, moving=0.3, reconciles=False
    ),
    "a call that was on hold for a moment, likewise": Scenario(
        105520, ("ringcentral",), streams=1, mutations=2, moving=0.3, reconciles=False
    ),
    "a deletion was lost to a listing that was ordered, and decided no deletions": Scenario(
        1008576,
        ("ringcentral",),
        streams=1,
        interval_s=20,
        minutes=3,
        mutations=3,
        moving=0.0,
        reconciles=False,
        listed_s=60,
        replays=True,
        small=True,
        hurried=True,
        knobs=Knobs(fault=0.1815778983143807, weights=UNSURE),
    ),
    "what was to be told again as deleted was back, and written twice at once": pushed(9000347),
    "a call that a job saw which came twice was never closed": Scenario(
        101033608,
        ("ringcentral",),
        accounts=2,
        interval_s=20,
        minutes=3,
        mutations=8,
        moving=0.0,
        reconciles=False,
        listed_s=60,
        backfill=False,
        knobs=Knobs(
            stale=0.04389864746965231,
            twice=0.2363882236879602,
            doubled=0.053947954648997355,
            late=0.061268802754129076,
            left=0.3,
            slow=1.0,
        ),
    ),
    "who was out of time when a message was not answered asked on at once": paged(777122755),
    "what changed when nobody notified any more was taken to be late": pushed(42003839),
}

#: All of them by their seeds, as a failure names them.
BY_SEED = {
    one.seed: one
    for one in (*STORIES, *(story for story, _ in PAIRED.values()), *REGRESSIONS.values())
}


def steps(story: Scenario) -> int:
    """Count the steps of a story in which nothing goes wrong."""
    return Run(story, {}).go().harmed


def singles(story: Scenario) -> Iterator[Plan]:
    """Name every way in which one thing goes wrong."""
    for step in range(steps(story)):
        for fault in FAULTS:
            yield {step: fault}


def pairs(story: Scenario, faults: Iterable[tuple[str, str]] = PAIRS) -> Iterator[Plan]:
    """Name every way in which two things go wrong, one after the other."""
    for early, late in combinations(range(steps(story)), 2):
        for one, other in faults:
            yield {early: one, late: other}
