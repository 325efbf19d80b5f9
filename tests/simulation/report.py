"""
What many runs were, added up.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.simulation import scenario
from tests.simulation.scenario import Run, Scenario
from tests.simulation.world import Broken

#: Runs between two looks for garbage that is older than the last run.
OLDER_EVERY = 64


@dataclass
class Report:
    """
    What became of some runs.

    Attributes:
        idle: Runs in which nothing happened at any provider; they prove little.

        cpu_s: Of all that was done for them, by all processes.

        reached: How often each thing of note happened.

        failures: Replay and reason of each run in which a promise was broken.
    """

    runs: int = 0
    idle: int = 0
    cpu_s: float = 0.0
    steps: int = 0
    events: int = 0
    repeats: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: Report) -> None:
        self.runs += other.runs
        self.idle += other.idle
        self.steps += other.steps
        self.events += other.events
        self.repeats += other.repeats
        self.injected += other.injected
        self.reached += other.reached
        self.failures += other.failures

    def note(self, run: Run, replay: str, failure: BaseException | None) -> None:
        """Add a run, broken or not."""
        world = run.world
        self.runs += 1
        self.idle += not run.changes()
        self.steps += world.steps
        self.injected += world.injected
        self.reached += world.reached
        told = [str(event.get("uuid")) for event in run.deliveries()]
        self.events += len(set(told))
        self.repeats += len(told) - len(set(told))
        swallowed = world.reached["published"] - len(told)
        self.reached["published again within 5 minutes"] += max(swallowed, 0)
        if failure is not None:
            self.failures.append((replay, f"{type(failure).__name__}: {failure}"))


def perform(
    report: Report, family: str, given: Scenario, plan: Mapping[int, str] | None = None
) -> None:
    """Do one run and add it to a report; what breaks a promise becomes a failure in it."""
    # What runs leave behind is in circles. What is kept until the next is older by then.
    gc.collect(report.runs % OLDER_EVERY == 0)
    run, failure = Run(given, plan), None
    try:
        run.go()
    except Broken as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - a bug in the simulation is to be seen as one
        failure = error
    planned = ",".join(f"{step}={fault}" for step, fault in (plan or {}).items())
    report.note(run, f"{family}:{given.seed}" + (f":{planned}" if planned else ""), failure)


def many(family: str, seeds: Iterable[int]) -> Report:
    """Do the runs of a family with some seeds."""
    report = Report()
    for seed in seeds:
        perform(report, family, getattr(scenario, family)(seed))
    return report
