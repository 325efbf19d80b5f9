"""
What an idle account costs.

    python -m tests.bench --accounts 1000 --rounds 5

Pollwire's check stage and three plain clients poll the same accounts of the same provider, each in
a process of its own on one core, in turns. What is measured is the processor time of the client,
all threads, user and system. Nothing is asserted: machines differ, only ratios can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import select
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

from tests.bench import package
from tests.bench.accounts import CONNECTIONS
from tests.bench.clients import CLIENTS

TITLES = {"200": "200, the text that is stored", "304": "304, to its ETag"}
BARE, THREADS = "pycurl, bare", "requests, 16 threads"

#: A child that has not answered for so long never will.
PATIENCE_S = 120

Sample = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description="What an idle account costs.")
    parser.add_argument("--accounts", default="")
    parser.add_argument("--rounds", default="")
    asked = parser.parse_args()
    number = _whole("ACCOUNTS", asked.accounts or "1000", CONNECTIONS, 2000)
    rounds = _whole("ROUNDS", asked.rounds or "5", 1, 100)
    if not hasattr(os, "sched_setaffinity"):
        _refuse("it pins processes to cores, which needs Linux; run it there")
    _introduce(number, rounds)
    measured = _measured(number, rounds)
    for status, samples in measured.items():
        _print(status, samples)
    _print_calls(measured["200"], number)
    _print_package()
    return 0


def _whole(name: str, said: str, least: int, most: int) -> int:
    if re.fullmatch("[0-9]{1,9}", said) and least <= int(said) <= most:
        return int(said)
    _refuse(f"{name}={said:.40}: a whole number from {least} to {most} is expected")


def _refuse(reason: str) -> NoReturn:
    print(f"make bench: {reason}", file=sys.stderr)
    raise SystemExit(2)


def _introduce(number: int, rounds: int) -> None:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    print(
        f"{number} idle accounts, one shard, {CONNECTIONS} kept connections, YouMail's composite "
        f"poll.\nMedians of {rounds} rounds on one of {os.cpu_count()} cores ({model}), "
        f"Python {platform.python_version()}."
    )


# Polling


def _measured(number: int, rounds: int) -> dict[str, dict[str, list[Sample]]]:
    """Have all clients poll in turns; return what each round took, by status and client."""
    # The provider and the clients may not share a core, if there are two.
    client, server = (sorted(os.sched_getaffinity(0)) * 2)[-1:-3:-1]
    samples: dict[str, dict[str, list[Sample]]] = {
        status: {name: [] for name in CLIENTS} for status in TITLES
    }
    with ExitStack() as stack:
        provider = stack.enter_context(_child("provider", server, number))
        host = f"http://127.0.0.1:{_line(provider)}"
        workers = {}
        for status in TITLES:
            for name in CLIENTS:
                worker = stack.enter_context(_child("worker", client, host, number, status, name))
                _line(worker)  # Ready: nobody starts up while another is measured.
                workers[status, name] = worker
        for _ in range(rounds):
            for (status, name), worker in workers.items():
                _stdin(worker).write("go\n")
                _stdin(worker).flush()
                samples[status][name].append(json.loads(_line(worker)))
    return samples


@contextmanager
def _child(module: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    """Run one of our modules until its standard input is closed."""
    command = [sys.executable, "-W", "ignore", "-m", f"tests.bench.{module}", *map(str, words)]
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    try:
        yield child
        _stdin(child).close()
        child.wait(PATIENCE_S)
    finally:
        child.kill()
        child.wait()


def _stdin(child: subprocess.Popen[str]) -> IO[str]:
    assert child.stdin is not None
    return child.stdin


def _line(child: subprocess.Popen[str]) -> str:
    """Read one line; each child prints one at a time, so none is left in a buffer."""
    assert child.stdout is not None
    if not select.select([child.stdout], [], [], PATIENCE_S)[0]:
        raise TimeoutError(f"{child.args}: silent for {PATIENCE_S} s")
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"{child.args}: ended with status {child.wait(PATIENCE_S)}")
    return line.strip()


# Printing


def _print(status: str, samples: Mapping[str, list[Sample]]) -> None:
    costs = {name: statistics.median(map(_cost_us, found)) for name, found in samples.items()}
    print(f"\n{TITLES[status]:30}{'us':>8}{'x bare':>9}{'requests x':>12}{'polls/s':>10}{'MB':>7}")
    for name, cost in costs.items():
        size = max(one["rss_mb"] for one in samples[name])
        print(
            f"  {name:28}{cost:8.1f}{cost / costs[BARE]:9.1f}{costs[THREADS] / cost:12.1f}"
            f"{1_000_000 / cost:10,.0f}{size:7.0f}"
        )


def _cost_us(sample: Sample) -> float:
    return float(sample["cpu_s"]) / int(sample["polls"]) * 1_000_000


def _print_calls(samples: Mapping[str, list[Sample]], number: int) -> None:
    calls: dict[str, float] = samples["Pollwire"][-1]["calls"]
    reads = " and ".join(f"{count:g} {name}" for name, count in sorted(calls.items()))
    print(
        f"\nAWS, for one check of {number} accounts: {reads} (DynamoDB); no write, no message sent."
        "\nThe queue's mapping receives and deletes one message."
    )


def _print_package() -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            layers = package.build(Path(folder))
        except package.Unbuilt as error:
            print(f"\nmake bench: {error}", file=sys.stderr)
            return
        sizes = {f"layer {name}": package.size_bytes(path) for name, path in layers.items()}
        for stage in package.STAGES:
            source = package.ROOT / "functions" / stage / "app.py"
            sizes[f"function {stage}"] = source.stat().st_size
        print("\nUnzipped, with byte code for this interpreter:")
        for name, size in sizes.items():
            print(f"  {name:28}{size / 1024:10,.0f} KB")
        print("\nProcessor time of a cold start: imports, clients, HTTP engine")
        for stage in package.STAGES:
            print(f"  {stage:28}{package.start_s(stage, layers) * 1000:10.0f} ms")


if __name__ == "__main__":
    sys.exit(main())
