"""
What a deployment costs a month on AWS.

    python -m tests.bench.cost                                        a table, idle and busy
    python -m tests.bench.cost ACCOUNTS=1000000 CHANGES_PER_DAY=20    position by position

What it uses is worked out in :mod:`tests.bench.month`; what that costs says prices.json.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from pollwire.http.limits import Limits
from pollwire.model import Connection

from tests.bench.month import AWS_MS, CPU_MB, DAY_S, PROVIDER, SHARD, Load, Month, function, month
from tests.bench.pieces import Pieces, measure

PRICES: dict[str, Any] = json.loads(Path(__file__).with_name("prices.json").read_text())

#: CPU time is the median of so many measurements. The whole takes this long at most.
ROUNDS, LIMIT_S = 9, 300

#: The table's rows.
SIZES = (1_000, 100_000, 1_000_000)

#: Changes a day of an account that is busy.
BUSY = 20

NAMES = ("ACCOUNTS", "INTERVAL", "SLOWEST", "CHANGES_PER_DAY", "LATENCY_MS")

SERVICES = {
    "lambda": "Lambda",
    "dynamodb": "DynamoDB",
    "sqs": "SQS",
    "sns": "SNS",
    "kms": "KMS",
    "scheduler": "EventBridge Scheduler",
    "logs": "CloudWatch Logs",
    "metrics": "CloudWatch",
}


class Position(NamedTuple):
    """One line of a bill."""

    service: str
    unit: str
    amount: float
    usd: float


def bill(found: Month) -> list[Position]:
    """Price what was used."""
    return [
        Position(
            SERVICES[name.partition(".")[0]],
            price["unit"],
            found.amounts.get(name, 0.0),
            found.amounts.get(name, 0.0) * price["usd"] / price["per"],
        )
        for name, price in PRICES["prices"].items()
    ]


# -- printing --------------------------------------------------------------------------------------


def _usd(usd: float) -> str:
    return f"{usd:,.0f}" if usd >= 1000 else f"{usd:,.2f}"


def _number(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:,.3g}"


def print_one(pieces: Pieces, load: Load) -> None:
    """Print one deployment, position by position."""
    found = month(pieces, load)
    positions = bill(found)
    total = sum(one.usd for one in positions)
    positions += [Position("S3", "nothing is kept there", 0, 0), Position("sum", "", 0, total)]
    print(
        f"{load.accounts:,} accounts, {load.changes_per_day:g} changes a day each; "
        f"shards: {load.shards:,}\n\n"
        f"{'service':<22}{'calls a month':>18}  {'unit':<30}{'USD':>12}"
    )
    for service, unit, amount, usd in positions:
        shown = _number(amount) if unit else ""
        print(f"{service:<22}{shown:>18}  {unit:<30}{_usd(usd):>12}")
    print(
        f"\n{total / found.polls * 1e6:.3g} USD per million polls ({found.polls:,.0f} a month), "
        f"{total / load.accounts:.3g} USD per account and month"
    )
    print(
        f"schedule: {found.busy_s['schedule']:.1f} s for a minute's checks, of the "
        f"{function('schedule')['Timeout']} s that it may take"
    )
    for stage, parameter in (("check", "CheckConcurrency"), ("delta", "DeltaConcurrency")):
        if found.at_work[stage]:
            print(
                f"{stage}: {found.busy_s[stage] * 1000:.0f} ms each, {found.at_work[stage]:.2g} of "
                f"them at work on average; {parameter} has to be more than that"
            )
    print(_assumptions(load))


def print_table(pieces: Pieces, load: Load) -> None:
    """Print deployments of several sizes, idle and busy."""
    print(_line("", "changes", "polls", "", "", "", "", "logs,", "", "per million", "per account"))
    names = ("Lambda", "DynamoDB", "SQS, SNS", "KMS", "metrics", "sum")
    print(_line("accounts", "a day", "a month", *names, "polls", "and month"))
    for accounts in SIZES:
        for changes in sorted({0.0, load.changes_per_day}):
            found = month(pieces, replace(load, accounts=accounts, changes_per_day=changes))
            by: Counter[str] = Counter()
            for one in bill(found):
                by[one.service] += one.usd  # type: ignore[assignment]
            sums = (
                by["Lambda"] + by["EventBridge Scheduler"],
                by["DynamoDB"],
                by["SQS"] + by["SNS"],
                by["KMS"],
                by["CloudWatch Logs"] + by["CloudWatch"],
                by.total(),
            )
            each = (by.total() / found.polls * 1e6, by.total() / accounts)
            heads = (f"{accounts:,}", f"{changes:g}", f"{found.polls:,.0f}")
            print(_line(*heads, *map(_usd, sums), *(f"{usd:.3g}" for usd in each)))
    print(_assumptions(load))


def _line(*texts: str) -> str:
    widths = (9, 9, 16, 8, 10, 10, 8, 9, 9, 13, 13)
    return "".join(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))


def _assumptions(load: Load) -> str:
    """Say what the figures stand on."""
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    lines = (
        f"USD a month of 730 hours. Prices of {PRICES['region']}, {PRICES['date']}, on demand, ",
        "first tier; free tiers are ignored.",
        f"Measured in this run ({machine}): calls, sizes and CPU time of the real handlers.",
        f"Pace: every {load.interval_s} s after a change, more and more rarely when quiet, every ",
        f"{load.rarest_s} s in the end. Shards of {SHARD} on average.",
        f"A change is a new call: one row, one event, {1 + load.follow_ups} jobs, at a random ",
        "instant. A token lasts an hour.",
        f"Assumed: {CPU_MB} MB of Lambda are as fast as a core here; AWS answers in {AWS_MS} ms, ",
        f"the provider in {load.latency_ms:g} ms;",
        f"a check asks {Limits().connections} accounts at a time, over new connections; ",
        "requests_per_second holds none of them back.",
        "Stored is what there is after a month. Not counted: cold starts, failures, your ",
        "consumers, and data transfer: answers",
        "come in for nothing, and what leaves (some 200 bytes a poll) is charged as traffic to ",
        "the internet.",
    )
    # Those that go on have a space at their end.
    return "\n" + "".join(line if line.endswith(" ") else f"{line}\n" for line in lines).rstrip()


# -- what was asked for ----------------------------------------------------------------------------


def _refuse(reason: str) -> NoReturn:
    print(f"cost: {reason}", file=sys.stderr)
    raise SystemExit(2)


def _read(name: str, given: dict[str, str], otherwise: float, least: float, most: float) -> float:
    """Read a number; the remedy is an example that will do."""
    text = given.get(name, "").strip()
    try:
        number = float(text) if text else otherwise
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        _refuse(f"{name} is a number from {least:,.0f} to {most:,.0f}, as in {name}={otherwise:g}")
    return number


def _read_whole(name: str, given: dict[str, str], otherwise: int, least: int, most: int) -> int:
    number = _read(name, given, otherwise, least, most)
    if number != int(number):
        _refuse(f"{name} is a whole number, as in {name}={otherwise}")
    return int(number)


def asked(words: Sequence[str]) -> tuple[Load, bool]:
    """Read what is asked for; is it one deployment?"""
    given = {name: text for name, _, text in (word.partition("=") for word in words)}
    for name in given.keys() - set(NAMES):
        _refuse(f"{name:.40} is none of {', '.join(NAMES)}; name one of them, as in ACCOUNTS=1000")
    interval_s = _read_whole("INTERVAL", given, 60, 1, DAY_S)
    slowest_s = max(Connection("any", PROVIDER).slowest_s, interval_s)
    load = Load(
        accounts=_read_whole("ACCOUNTS", given, 100_000, 1, 10_000_000),
        interval_s=interval_s,
        slowest_s=_read_whole("SLOWEST", given, slowest_s, interval_s, DAY_S),
        changes_per_day=_read("CHANGES_PER_DAY", given, BUSY, 0, 1_000),
        latency_ms=_read("LATENCY_MS", given, 50, 1, 10_000),
    )
    return load, bool(given.get("ACCOUNTS", "").strip())


def _give_up(*_: object) -> NoReturn:
    print(f"cost: not done after {LIMIT_S} s; try again on a machine less busy", file=sys.stderr)
    os._exit(1)


def main(words: Sequence[str]) -> int:
    load, is_one = asked(words)
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(LIMIT_S)
    if is_one:
        print_one(measure(math.ceil(load.accounts / load.shards), ROUNDS), load)
    else:
        print_table(measure(SHARD, ROUNDS), load)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
