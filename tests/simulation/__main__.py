"""
The simulation, for as long as it is let.

    python -m tests.simulation --seconds 60 --seed 1
    python -m tests.simulation --replay swarm:31337
    python -m tests.simulation --replay swarm:31337:41=crash_after,57=duplicate
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Mapping
from multiprocessing import get_context

from tests.simulation import scenario
from tests.simulation.report import Report, perform
from tests.simulation.scenario import Run
from tests.simulation.world import FAULTS

#: Families of scenarios, and how many of eight runs are of them.
MIX = ("swarm", "swarm", "swarm", "swarm", "swarm", "swarm", "calm", "neighbours")

#: Failures that are printed; the others are counted.
SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate", description="Look for a lost event.")
    parser.add_argument("--seconds", type=_seconds, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", default="")
    asked = parser.parse_args()
    return _replay(asked.replay) if asked.replay else _explore(asked.seconds, asked.seed)


def _seconds(text: str) -> float:
    seconds = float(text or 60)
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError("SECONDS: more than 0, at most 86400")
    return seconds


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
    _print(total, workers, seconds)
    return 1 if total.failures else 0


def _work(first: int, stride: int, end_s: float) -> Report:
    gc.disable()
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
        f"({report.runs / report.cpu_s:.0f} a second of a core), {report.steps} side effects, "
        f"{faults} faults injected, {report.events} events, {report.repeats} repeated, "
        f"{len(report.failures)} failures"
    )
    for kind, number in sorted(report.injected.items()):
        print(f"  {number:>9} {kind}")
    for replay, reason in report.failures[:SHOWN]:
        print(f"FAILED make simulate REPLAY='{replay}'\n       {reason}")


def _replay(text: str) -> int:
    family, _, rest = text.partition(":")
    seed, _, faults = rest.partition(":")
    if family not in set(MIX) or not seed.isdecimal():
        print(f"REPLAY: {', '.join(sorted(set(MIX)))}, a colon, a seed", file=sys.stderr)
        return 2
    run = Run(getattr(scenario, family)(int(seed)), _plan(faults))
    print(run.scenario)
    try:
        run.go()
    except BaseException as error:  # noqa: BLE001 - whatever it was, it is shown
        print("\n".join(run.world.trace))
        print(run.lambdas.logs.getvalue())
        print(f"FAILED {type(error).__name__}: {error}")
        return 1
    print(f"nothing was broken in {run.world.steps} steps")
    return 0


def _plan(text: str) -> Mapping[int, str] | None:
    if not text:
        return None
    pairs = [one.partition("=") for one in text.split(",")]
    wrong = [fault for _, _, fault in pairs if fault not in FAULTS]
    if wrong:
        raise SystemExit(f"REPLAY: {wrong[0]} is none of {', '.join(FAULTS)}")
    return {int(step): fault for step, _, fault in pairs}


if __name__ == "__main__":
    sys.exit(main())
