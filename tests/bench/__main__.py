"""
Everything that is measured, part by part.

    python -m tests.bench --only scale,import --accounts 1000 --rounds 5

Nothing is asserted: machines differ, only ratios within one run can be compared. Each part is a
process of its own, so that none finds another's memory, threads or clocks.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from tests.bench.accounts import CONNECTIONS
from tests.bench.children import refuse, whole

#: Module by the name of each part, in the order in which they are run.
PARTS = {
    "idle": "idle",
    "package": "package",
    "scale": "scale",
    "schedule": "minute",
    "import": "imports",
    "backlog": "backlog",
    "neighbours": "neighbours",
}

#: No part takes longer, unless more than the usual was asked for.
PART_S = 600


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description="What Pollwire takes.")
    parser.add_argument("--only", default="")
    parser.add_argument("--accounts", default="")
    parser.add_argument("--rounds", default="")
    asked = parser.parse_args()
    number = whole("ACCOUNTS", asked.accounts or "1000", CONNECTIONS, 2000)
    rounds = whole("ROUNDS", asked.rounds or "5", 1, 100)
    names = _names(asked.only)
    if not hasattr(os, "sched_setaffinity"):
        refuse("it pins processes to cores, which needs Linux; run it there")
    print(f"{os.cpu_count()} cores ({_model()}), Python {platform.python_version()}.")
    for name in names:
        words = [str(number), str(rounds)] if name == "idle" else []
        print(f"\n== {name}", flush=True)
        try:
            _run(PARTS[name], words)
        except subprocess.SubprocessError as error:
            print(f"make bench: {name}: {type(error).__name__}: {error}", file=sys.stderr)
            return 1
    return 0


def _names(said: str) -> list[str]:
    """Read which parts are asked for; none named is all of them."""
    asked = [one for one in re.split("[, ]+", said) if one]
    for one in asked:
        if one not in PARTS:
            refuse(f"ONLY={one:.40}: one or more of {','.join(PARTS)} are expected")
    return [one for one in PARTS if one in asked or not asked]


def _run(module: str, words: list[str]) -> None:
    command = [sys.executable, "-W", "ignore", "-m", f"tests.bench.{module}", *words]
    subprocess.run(command, check=True, timeout=PART_S)


def _model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
