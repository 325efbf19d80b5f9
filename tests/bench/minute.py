"""
What the schedule takes to queue a minute's checks of ten thousand shards.

    python -m tests.bench.minute

The Lambda handler, its boto3 clients included; each call to AWS waits for its answer, in its
thread, as it would in Lambda.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import resource
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

from pollwire.events import iso
from pollwire.items import connection_item
from pollwire.model import Connection
from pollwire.providers import registered
from pollwire.queues import BATCH_MAX, THREADS

from tests.bench.aws import ENVIRONMENT, Transport
from tests.bench.month import CPU_MB, function
from tests.integration.system import Context

#: 10,000 in all; each number is a power of two.
SHARDS = (8_192, 1_024, 512, 256, 16)

#: Until AWS has answered a call.
LATENCY_S = 0.008


class Aws(Transport):
    """
    A table of connections, and queues that take everything.

    Attributes:
        queued: Messages.
    """

    def __init__(self) -> None:
        super().__init__(LATENCY_S)
        self.queued = 0
        providers = sorted(registered())
        self._connections = [
            connection_item(
                Connection(
                    f"connection-{number}", providers[number % len(providers)], shards=shards
                )
            )
            for number, shards in enumerate(SHARDS)
        ]

    def answer(self, operation: str, body: bytes) -> bytes:
        if operation == "Query":
            items = self._connections
            return json.dumps({"Items": items, "Count": len(items)}).encode()
        entries = json.loads(body)["Entries"]
        self.queued += len(entries)
        sent = [
            {"Id": one["Id"], "MessageId": f"{self.queued}-{one['Id']}", "MD5OfMessageBody": "0"}
            for one in entries
        ]
        return json.dumps({"Successful": sent, "Failed": []}).encode()


@dataclass
class Taken:
    """What a minute took, the stand-in's own part left out."""

    cpu_s: float
    wall_s: float
    peak_mb: float
    calls: int


def main() -> int:
    os.environ |= {**ENVIRONMENT, "POWERTOOLS_SERVICE_NAME": "schedule"}
    os.environ["CHECKS_QUEUE_URL"] += "-{provider}"
    aws = Aws()
    aws.install()
    taken = _taken(aws)
    properties = function("schedule")
    memory_mb, timeout_s = (float(properties[name]) for name in ("MemorySize", "Timeout"))
    share = memory_mb / CPU_MB
    slow_s = max(taken.cpu_s / share, taken.wall_s)
    print(
        f"{sum(SHARDS):,} shards of {len(SHARDS)} connections, a check each in one minute; "
        f"AWS answers in {LATENCY_S * 1000:.0f} ms.\n"
        f"  {taken.calls:,} calls, {BATCH_MAX} checks each, {THREADS} side by side\n"
        f"  {taken.cpu_s:.2f} s of CPU, {taken.wall_s:.2f} s in all, on a whole core\n"
        f"  {slow_s:.1f} s with the {share:.2f} of one that {memory_mb:.0f} MB have (CPU time over "
        f"that); it may take {timeout_s:.0f} s\n"
        f"  {taken.peak_mb:.0f} MB, of {memory_mb:.0f} MB"
    )
    return 0


def _taken(aws: Aws) -> Taken:
    with redirect_stdout(io.StringIO()):
        handler = importlib.import_module("functions.schedule.app").handler
        event: dict[str, Any] = {"time": iso(time.time_ns() // 1_000_000)}
        handler(event, Context("pollwire-schedule"))  # What is loaded late is loaded.
        aws.queued, stood_in_s = 0, aws.stand_in_s
        aws.calls.clear()
        began_s, began_wall_s = time.process_time(), time.monotonic()
        handler(event, Context("pollwire-schedule"))
        cpu_s = time.process_time() - began_s - (aws.stand_in_s - stood_in_s)
        wall_s = time.monotonic() - began_wall_s
    if aws.queued < sum(SHARDS):
        raise AssertionError(f"{aws.queued} checks were queued")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Taken(cpu_s, wall_s, peak_mb, aws.calls.total())


if __name__ == "__main__":
    sys.exit(main())
