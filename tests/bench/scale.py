"""
Does a poll cost more where there are more accounts? And what do a million need?

    python -m tests.bench.scale

The check stage polls every shard of a connection in turn, one process for each number of accounts,
all three in turns on one core. Nothing changes.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from pollwire import due
from pollwire.http.limits import Limits
from pollwire.model import Connection
from pollwire.state import shards_for

from tests.bench import accounts
from tests.bench.children import child, cores, go, line
from tests.bench.metered import READ_BYTES, sent_bytes
from tests.bench.month import AWS_MS, CPU_MB, function
from tests.template.expand import template

SIZES = (1_000, 10_000, 100_000)
ROUNDS = 11

#: By so much a poll may become dearer from the fewest to the most accounts.
GROWTH_PERCENT = 10

MILLION = 1_000_000
INTERVAL_S = 60

#: Until the provider has answered, as in make cost.
LATENCY_S = 0.05

#: What an operator may set.
RATE_MAX = 100_000


@dataclass(frozen=True)
class Size:
    """What was measured of so many accounts: medians of all rounds."""

    accounts: int
    shards: int
    fullest: int
    poll_us: float
    rss_mb: float
    calls: dict[str, float]


def main() -> int:
    found = _measured()
    print("The check stage, all shards of one connection in turn, YouMail's composite poll,")
    print(f"{accounts.CONNECTIONS} kept connections. Medians of {ROUNDS} rounds in turns.\n")
    print(f"{'accounts':>10}{'shards':>8}{'fullest':>9}{'us a poll':>11}{'MB':>6}")
    for one in found:
        print(
            f"{one.accounts:10,}{one.shards:8}{one.fullest:9,}{one.poll_us:11.1f}{one.rss_mb:6.0f}"
        )
    growth = (found[-1].poll_us / found[0].poll_us - 1) * 100
    print(
        f"\nFrom {found[0].accounts:,} to {found[-1].accounts:,} accounts a poll's cost changes by "
        f"{growth:+.1f} % (aim: less than +{GROWTH_PERCENT} %)."
    )
    _print_million(found[-1])
    return 0


def _measured() -> list[Size]:
    measured, server = cores()
    with ExitStack() as stack:
        provider = stack.enter_context(child("provider", server, SIZES[-1]))
        host = f"http://127.0.0.1:{line(provider)}"
        workers = []
        for number in SIZES:
            worker = stack.enter_context(child("sharded", measured, host, number))
            workers.append((number, worker, json.loads(line(worker))))
        samples: dict[int, list[dict[str, Any]]] = {number: [] for number in SIZES}
        for _ in range(ROUNDS):
            for number, worker, _ in workers:
                samples[number].append(json.loads(go(worker)))
        return [_size(number, said, samples[number]) for number, _, said in workers]


def _size(number: int, said: dict[str, int], rounds: list[dict[str, Any]]) -> Size:
    costs = [one["cpu_s"] / one["polls"] * 1e6 for one in rounds]
    largest_mb = max(one["rss_mb"] for one in rounds)
    return Size(
        number,
        said["shards"],
        said["fullest"],
        statistics.median(costs),
        largest_mb,
        rounds[-1]["calls"],
    )


def _print_million(size: Size) -> None:
    """Say what a million accounts need: what was measured, and the product's own arithmetic."""
    shards = shards_for(MILLION)
    each = MILLION / shards
    checks = shards * 60 / INTERVAL_S
    rate = MILLION / INTERVAL_S
    needed = math.ceil(rate / (1 - due.DELTAS_SHARE))
    cpu_s = each * size.poll_us / 1e6
    item = accounts.item(accounts.ids(1)[0], time.time_ns() // 1_000_000, validated=True)
    units = shards * (1 + math.ceil(each * sent_bytes(item) / READ_BYTES) / 2)
    calls = sum(size.calls.values())
    print(
        f"\nOf 1,000,000 accounts in one connection, each polled every {INTERVAL_S} s (arithmetic):"
        f"\n  {shards:,} shards of {each:.0f}; {checks:,.0f} checks a minute, "
        f"{cpu_s * 1000:.0f} ms of CPU each: {checks * cpu_s / 60:.2f} cores like this one"
        f"\n  {rate:,.0f} requests a second; requests_per_second {needed:,} or more "
        f"({Connection('any', 'youmail').requests_per_second:g} unless set)"
        f"\n  reads a minute: {checks * calls:,.0f} calls, {units * 60 / INTERVAL_S:,.0f} units; "
        "no write"
        f"\n  checks at work at once, the provider answering in {LATENCY_S * 1000:.0f} ms; each "
        "keeps to its share of the\n  rate:"
    )
    for requests_per_second in (needed, 3 * needed, RATE_MAX):
        busy_s = _busy_s(each, cpu_s, calls, shards, requests_per_second)
        print(
            f"    requests_per_second {requests_per_second:>7,}: {busy_s:5.1f} s each, "
            f"{busy_s * checks / 60:7,.0f} at once"
        )
    limit = template()["Parameters"]["CheckConcurrency"]
    print(f"  CheckConcurrency is {limit['Default']} unless set, {limit['MaxValue']:,} at most.")
    print("Dollars: make cost ACCOUNTS=1000000")


def _busy_s(each: float, cpu_s: float, calls: float, shards: int, rate: float) -> float:
    """Say how long a check takes: the slowest of its processor, its connections and its pace."""
    connection = Connection(
        "any", "youmail", interval_s=INTERVAL_S, requests_per_second=rate, shards=shards
    )
    slowest_s = max(
        cpu_s * CPU_MB / float(function("check")["MemorySize"]),
        each / Limits().connections * LATENCY_S,
        each / due.requests_per_second(connection, accounts=round(each)),
    )
    return slowest_s + calls * AWS_MS / 1000


if __name__ == "__main__":
    sys.exit(main())
