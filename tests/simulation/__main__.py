"""
The simulation, for as long as it is let.

    python -m tests.simulation --seconds 60 --seed 1
    python -m tests.simulation --replay swarm:31337
    python -m tests.simulation --replay story:48:3=crash_after,9=duplicate
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import sys
import time
from contextlib import suppress
from multiprocessing import get_context
from typing import NoReturn

from tests.simulation import scenario
from tests.simulation.report import Report, perform
from tests.simulation.scenario import Run
from tests.simulation.stories import BY_SEED
from tests.simulation.world import FAULTS

#: Families of scenarios, and how many of 120 runs are of them. Small ones find nearly
#: everything, and much sooner.
MIX = (
    *["swarm"] * 109, *["calm"] * 4, *["neighbours"] * 2, "paged", "fleet", "hour", "outage",
    "pushed",
)  # fmt: skip

#: Failures that are printed; the others are counted.
SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate", description="Look for a lost event.")
    parser.add_argument("--seconds", type=_seconds, default=60.0)
    parser.add_argument("--seed", type=_seed, default=1)
    parser.add_argument("--replay", default="")
    asked = parser.parse_args()
    return _replay(asked.replay) if asked.replay else _explore(asked.seconds, asked.seed)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        seconds = float(text or 60)
        if 0 < seconds <= 86_400:
            return seconds
    raise argparse.ArgumentTypeError("SECONDS: a number, more than 0, at most 86400")


def _seed(text: str) -> int:
    if re.fullmatch("-?[0-9]{1,12}", text):
        return int(text)
    raise argparse.ArgumentTypeError("SEED: a whole number, of 12 digits at most")


def _explore(seconds: float, seed: int) -> int:
    workers = os.cpu_count() or 1
    end_s = time.monotonic() + seconds
    context = get_context("fork")
    with context.Pool(workers) as pool:
        tasks = [
            pool.apply_async(_work, (seed * 1_000_000 + worker, workers, end_s))
            for worker in range(workers)
        ]
        total = Report()
        for task in tasks:
            total.add(task.get())
        pool.close()
        pool.join()
    # Starting, forking, reporting: all of it, of this process and of those that have ended.
    total.cpu_s = sum(os.times()[:4])
    _print(total, workers, seconds)
    return 1 if total.failures else 0


def _work(first: int, stride: int, end_s: float) -> Report:
    gc.disable()
    gc.freeze()  # All there is by now stays.
    report, seed = Report(), first
    while time.monotonic() < end_s:
        family = MIX[seed % len(MIX)]
        perform(report, family, getattr(scenario, family)(seed))
        seed += stride
    return report


def _print(report: Report, workers: int, seconds: float) -> None:
    faults = sum(report.injected.values())
    print(
        f"{report.runs} runs in {seconds:.0f} s on {workers} cores "
        f"({report.runs / report.cpu_s:.0f} a second of a core), {report.idle} of them idle, "
        f"{report.steps} side effects, "
        f"{faults} faults injected, {report.events} events, {report.repeats} repeated, "
        f"{len(report.failures)} failures"
    )
    for kind, number in sorted(report.injected.items()):
        print(f"  {number:>9} {kind}")
    for replay, reason in report.failures[:SHOWN]:
        print(f"FAILED make simulate REPLAY='{replay}'\n       {reason}")


def _replay(text: str) -> int:
    run = _asked(text)
    print(run.scenario)
    try:
        run.go()
    except BaseException as error:  # noqa: BLE001 - whatever it was, it is shown
        print("\n".join(run.world.trace))
        print(run.lambdas.logs.getvalue())
        print(f"FAILED {type(error).__name__}: {error}")
        return 1
    beyond = [step for step in run.world.plan or () if step >= run.harmed]
    if beyond:
        print(f"REPLAY: it heals after {run.harmed} steps; {beyond[0]} is none", file=sys.stderr)
        return 2
    print(f"nothing was broken in {run.world.steps} steps")
    return 0


def _asked(text: str) -> Run:
    """Read what is to be replayed: family, seed and, for planned faults, steps."""
    family, _, rest = text.partition(":")
    seed, _, faults = rest.partition(":")
    families = ("story", *dict.fromkeys(MIX))
    if family not in families or not re.fullmatch("-?[0-9]{1,18}", seed):
        _refuse(f"{text!r:.60} is no family ({', '.join(families)}), a colon and a seed")
    plan: dict[int, str] = {}
    for one in faults.split(",") if faults else ():
        step, _, fault = one.partition("=")
        if not re.fullmatch("[0-9]{1,9}", step) or fault not in FAULTS:
            _refuse(f"{one!r:.60} is no step with a fault, as 41=crash_after; {', '.join(FAULTS)}")
        plan[int(step)] = fault
    if family == "story":
        stories = ", ".join(map(str, BY_SEED))
        found = BY_SEED.get(int(seed)) or _refuse(f"there are the stories {stories}")
        return Run(found, plan or None)
    if plan:
        _refuse(f"{family}: its faults are drawn; those of a story only are planned")
    return Run(getattr(scenario, family)(int(seed)))


def _refuse(reason: str) -> NoReturn:
    print(f"REPLAY: {reason}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    sys.exit(main())
