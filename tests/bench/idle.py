"""
What an idle account costs.

    python -m tests.bench.idle ACCOUNTS ROUNDS

Pollwire's check stage and three plain clients poll the same accounts of the same provider, each in
a process of its own on one core, in turns. What is measured is the processor time of the client,
all threads, user and system. Nothing is asserted: machines differ, only ratios can be compared.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from tests.bench.accounts import CONNECTIONS
from tests.bench.children import child, cores, go, line
from tests.bench.clients import CLIENTS

TITLES = {"200": "200, the text that is stored", "304": "304, to its ETag"}
BARE, THREADS = "pycurl, bare", "requests, 16 threads"

Sample = dict[str, Any]


def main() -> int:
    number, rounds = map(int, sys.argv[1:])
    print(
        f"{number} idle accounts, one shard, {CONNECTIONS} kept connections, YouMail's composite "
        f"poll.\nMedians of {rounds} rounds."
    )
    measured = _measured(number, rounds)
    for status, samples in measured.items():
        _print(status, samples)
    _print_calls(measured["200"], number)
    return 0


# Polling


def _measured(number: int, rounds: int) -> dict[str, dict[str, list[Sample]]]:
    """Have all clients poll in turns; return what each round took, by status and client."""
    client, server = cores()
    samples: dict[str, dict[str, list[Sample]]] = {
        status: {name: [] for name in CLIENTS} for status in TITLES
    }
    with ExitStack() as stack:
        provider = stack.enter_context(child("provider", server, number))
        host = f"http://127.0.0.1:{line(provider)}"
        workers = {}
        for status in TITLES:
            for name in CLIENTS:
                worker = stack.enter_context(child("worker", client, host, number, status, name))
                line(worker)  # Ready: nobody starts up while another is measured.
                workers[status, name] = worker
        for _ in range(rounds):
            for (status, name), worker in workers.items():
                samples[status][name].append(json.loads(go(worker)))
    return samples


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


if __name__ == "__main__":
    sys.exit(main())
