"""
What a deployment uses in a month.

What each thing that happens uses is measured (:mod:`tests.bench.pieces`). How often it happens
follows from the number of accounts, their pace and their changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from pollwire import due
from pollwire.http.limits import Limits
from pollwire.providers import registered
from pollwire.queues import BATCH_MAX
from pollwire.secrets import OPENED_MS_MAX
from pollwire.state import SHARD_ACCOUNTS, shards_for

from tests.bench.metered import GB, Usage
from tests.bench.pieces import Pieces, combined
from tests.template.expand import template

MONTH_S = 730 * 3600
DAY_S = 86_400

#: Accounts of a shard, on average: it is split before there are more than so many.
SHARD = SHARD_ACCOUNTS * 3 // 4

#: A call to AWS from within its region.
AWS_MS = 5

#: Memory of a function that has one whole processor.
CPU_MB = 1769

#: Lambda has so many receives waiting on a queue, for so long, when there is nothing to receive.
POLLERS, POLL_S = 5, 20

#: DynamoDB and SNS ask KMS for the same data key again after so long, for each role.
DATA_KEY_S = 300

#: What a change is here: a call in YouMail's history.
PROVIDER, STREAM = "youmail", "history"

#: How long an access token is taken to live.
TOKEN_S = 3600


@dataclass(frozen=True)
class Load:
    """
    What there is to do.

    Attributes:
        accounts: All of one connection.

        interval_s: Between two polls of an account that changed lately.

        slowest_s: Between two polls of an account that has been quiet for long.

        changes_per_day: Of each account, at random instants.

        latency_ms: Until a provider has answered.
    """

    accounts: int
    interval_s: int
    slowest_s: int
    changes_per_day: float
    latency_ms: float

    @property
    def shards(self) -> int:
        return shards_for(self.accounts)

    @property
    def changes_per_s(self) -> float:
        """Of one account."""
        return self.changes_per_day / DAY_S

    @property
    def follow_ups(self) -> int:
        """Checks after a change until a delta has begun late enough to settle its mark."""
        overlap_s = registered()[PROVIDER].streams[STREAM].overlap_s
        return max(math.ceil(overlap_s / self.interval_s), 1)

    @property
    def polls_per_s(self) -> float:
        """Of one account. The longer it has been quiet, the more rarely it is polled."""
        rate, left, stride = 0.0, 1.0, 1
        while True:
            quiet_s = due.QUIET_SHARE * self.interval_s * stride * 2
            pace = (self.interval_s, self.slowest_s)
            if due.stride_of(quiet_s * 1000 + 1000, *pace) == stride:
                return (rate + left / stride) / self.interval_s
            still = math.exp(-self.changes_per_s * quiet_s)
            rate += (left - still) / stride
            left, stride = still, stride * 2

    @property
    def rarest_s(self) -> int:
        """Seconds between two polls of an account that never changes."""
        stride = due.stride_of(10**12, self.interval_s, self.slowest_s)
        return stride * self.interval_s


@dataclass(frozen=True)
class Work:
    """
    How often each of the pieces happens; see :mod:`tests.bench.pieces`.

    Attributes:
        poll: Accounts that were asked for.

        step: Accounts that a check found changed.

        send: Batches of jobs.

        again: Jobs beside the first and the last one of a change. A job that is both of two changes
            was counted twice, so this may be less than nothing.
    """

    tick: float = 0
    batch: float = 0
    check: float = 0
    poll: float = 0
    step: float = 0
    send: float = 0
    invocation: float = 0
    news: float = 0
    more: float = 0
    again: float = 0
    last: float = 0
    opens: float = 0
    renewal: float = 0
    row: float = 0


def monthly(load: Load, workers: int) -> Work:
    """
    Work out what happens in a month.

    Args:
        workers: Containers that the jobs of a stream are spread over.
    """
    ticks = MONTH_S / 60
    checks = load.shards * MONTH_S / load.interval_s
    changes = load.accounts * load.changes_per_s * MONTH_S
    # What changes between two checks is found together, and jobs of changes that follow each other
    # closely are the same ones.
    instants = load.accounts * MONTH_S / load.interval_s
    found = instants * _any(load.changes_per_s * load.interval_s)
    jobs = instants * _any(load.changes_per_s * load.interval_s * (1 + load.follow_ups))
    stream = registered()[PROVIDER].streams[STREAM]
    return Work(
        tick=ticks,
        batch=min(ticks * math.ceil(checks / ticks / BATCH_MAX), checks),
        check=checks,
        poll=load.accounts * load.polls_per_s * MONTH_S,
        step=found,
        # All jobs that a check queues wait together: they fill batches.
        send=checks * batches(jobs / checks, BATCH_MAX),
        invocation=checks * batches(jobs / checks, delta_batch()),
        news=found,
        more=changes - found,
        again=jobs - 2 * found,
        last=found,
        opens=found * opened(load, workers),
        # A token is got at the first change after the last one has ended.
        renewal=found / (1 + load.changes_per_s * TOKEN_S),
        row=jobs * load.changes_per_s * max(stream.reread_s, stream.overlap_s),
    )


def _any(mean: float) -> float:
    """Say how probable it is that anything happens, of what happens so often on average."""
    return -math.expm1(-mean)


def opened(load: Load, workers: int) -> float:
    """
    Count the jobs of a change that open their account's credential.

    The first one does. A later one does not if one of those before it ran in the same container,
    not too long ago.
    """
    remembered = load.interval_s * 1000 < OPENED_MS_MAX
    elsewhere = 1 - 1 / workers if remembered else 1.0
    return sum(elsewhere**job for job in range(1 + load.follow_ups))


def batches(mean: float, size: int) -> float:
    """Expect how many batches it takes, of a number that is distributed as Poisson has it."""
    if mean > 30 * size:
        return mean / size + 0.5  # Half of the last one is empty.
    expected, left, chance = 0.0, 1.0, math.exp(-mean)
    for number in range(int(mean + 12 * math.sqrt(mean) + 20)):
        if number % size == 0:
            expected += left - chance  # More than *number*: one batch more.
        left -= chance
        chance *= mean / (number + 1)
    return expected


@cache
def resources() -> Mapping[str, Mapping[str, Any]]:
    """Read what the template deploys."""
    found: Mapping[str, Mapping[str, Any]] = template()["Resources"]
    return found


def function(stage: str) -> Mapping[str, Any]:
    """Find a stage's function in the template; all deltas are alike."""
    name = {"schedule": "ScheduleFunction", "check": "CheckYoumailFunction"}.get(stage)
    properties: Mapping[str, Any] = resources()[name or "DeltaHistoryFunction"]["Properties"]
    return properties


def delta_batch() -> int:
    """Read from the template how many jobs an invocation takes."""
    return int(function("delta")["Events"]["Deltas"]["Properties"]["BatchSize"])


def used(pieces: Pieces, work: Work) -> Usage:
    """Multiply each piece by how often it happens, and add them up."""
    names = [field.name for field in fields(work)]
    return combined(*((getattr(work, name), getattr(pieces, name)) for name in names))


@dataclass(frozen=True)
class Month:
    """
    What is used in a month.

    Attributes:
        amounts: By name of the price list.

        busy_s: Seconds that an invocation takes, by stage.

        at_work: Invocations at the same time, on average, by stage.

        polls: Of all accounts.
    """

    amounts: Mapping[str, float]
    busy_s: Mapping[str, float]
    at_work: Mapping[str, float]
    polls: float


def month(pieces: Pieces, load: Load) -> Month:
    """Work out what a deployment uses in a month."""
    workers = 1
    while True:
        work = monthly(load, workers)
        usage = used(pieces, work)
        invocations = {"schedule": work.tick, "check": work.check, "delta": work.invocation}
        busy_s = {stage: _busy_s(stage, usage, n, load) for stage, n in invocations.items()}
        at_work = {stage: n * busy_s[stage] / MONTH_S for stage, n in invocations.items()}
        needed = math.ceil(at_work["delta"])
        if needed <= workers:
            break
        workers = needed  # More containers open more credentials, which takes longer.
    kept_gb = (
        load.accounts * pieces.account_bytes + (work.news + work.more) * pieces.record_bytes
    ) / GB
    triggered = {
        "lambda.requests": sum(invocations.values()),
        "lambda.gb_s": sum(n * busy_s[one] * _memory_gb(one) for one, n in invocations.items()),
        # Lambda receives each batch, and deletes it.
        "sqs.requests": 2 * work.check,
        "sqs.fifo_requests": 2 * work.invocation,
        "scheduler.invocations": work.tick,
        "logs.kept_gb": usage["logs.gb"],
        "dynamodb.gb": kept_gb,
        "dynamodb.backup_gb": kept_gb,
    }
    amounts = combined((1, usage), (1, triggered), (1, _fixed(pieces, load)))
    return Month(amounts, busy_s, at_work, work.poll)


def _memory_gb(stage: str) -> float:
    return float(function(stage)["MemorySize"]) / 1024


def _busy_s(stage: str, usage: Usage, times: float, load: Load) -> float:
    """
    Say how long an invocation takes.

    A check computes while it waits for many answers at once; the others do one thing after another.
    """
    if not times:
        return 0.0
    cpu_s = usage[f"{stage}.cpu_s"] / times * CPU_MB / 1024 / _memory_gb(stage)
    calls_s = usage[f"{stage}.aws_calls"] / times * AWS_MS / 1000
    asked, latency_s = usage.get(f"{stage}.requests", 0) / times, load.latency_ms / 1000
    if stage != "check":
        return cpu_s + calls_s + asked * latency_s
    # The last of them wait as long as those that have all connections.
    in_a_row = max(asked / Limits().connections, min(asked, 1))
    return max(cpu_s, in_a_row * latency_s) + calls_s


def _fixed(pieces: Pieces, load: Load) -> Usage:
    """Name what is paid for however much happens. Without changes, no delta is ever at work."""
    # What is there only if providers notify the stack is left out.
    made = [one for one in resources().values() if one.get("Condition") != "Pushed"]
    kinds = [resource["Type"] for resource in made]
    mapped = [function for function in resources() if function.endswith("Function")]
    checks = sum(name.startswith("Check") for name in mapped)
    deltas = sum(name.startswith("Delta") for name in mapped)
    working = deltas if load.changes_per_day else 0
    stages = ("schedule", "check", "delta") if working else ("schedule", "check")
    receives = POLLERS * MONTH_S / POLL_S
    return {
        "sqs.requests": receives * checks,
        "sqs.fifo_requests": receives * deltas,
        # DynamoDB's for each role; SNS's twice for each that publishes.
        "kms.requests": (2 + working + 2 * working) * MONTH_S / DATA_KEY_S,
        "kms.keys": kinds.count("AWS::KMS::Key"),
        "metrics.metrics": sum(where[0] in stages for _, *where in pieces.metrics),
        "metrics.alarms": kinds.count("AWS::CloudWatch::Alarm"),
    }
