"""
What it takes to catch up with a hundred thousand changes of one stream.

    python -m tests.bench.backlog

The delta handler drains an account's history from a provider in another process, in a deployment
whose AWS is a stand-in. Its time runs as in Lambda: processor time by the function's memory, and
what AWS and the provider take to answer. So each invocation ends when it has to, and its own queue
resumes it.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from statistics import mean
from typing import Any
from unittest import mock

from pollwire import due
from pollwire.drain import PUTS_MAX
from pollwire.exchange import Request, Response
from pollwire.http import Http
from pollwire.model import Connection
from pollwire.providers.youmail import PAGE_LENGTH
from pollwire.queues import BATCH_MAX

from tests.bench.children import child, cores, line
from tests.bench.deployment import INTERVAL_S, Deployment
from tests.bench.metered import Usage
from tests.bench.month import AWS_MS, CPU_MB, function
from tests.integration.system import START_MS

ROWS = 100_000
APART_MS = 10_000
FIRST_MS = START_MS - ROWS * APART_MS

#: Until the provider has answered, as in make cost.
LATENCY_MS = 50

ITEM_KB_MAX = 400


@dataclass
class Seen:
    """
    What AWS was told.

    Attributes:
        events: Id and provider time of each, as they were published.

        batches: Events of each batch that was published.

        transactions: Rows of each transaction.
    """

    events: list[tuple[str, str]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    transactions: list[int] = field(default_factory=list)

    def watch(
        self, service: str, operation: str, params: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        if operation == "TransactWriteItems":
            self.transactions.append(len(params["TransactItems"]) - 1)  # And the cursor.
        if operation != "PublishBatch":
            return None
        entries = params["PublishBatchRequestEntries"]
        self.batches.append(len(entries))
        for one in entries:
            body = json.loads(one["Message"])["body"]
            self.events.append((body["recordId"], body["record"]["creationTime"]))
        taken = [{"Id": one["Id"], "MessageId": "0", "SequenceNumber": "0"} for one in entries]
        return {"Successful": taken, "Failed": []}


class Backlog(Deployment):
    """A deployment whose clock runs while a delta is at work."""

    def __init__(self, stack: ExitStack, api: str) -> None:
        self.fetched, self.worked_s = 0, 0.0
        self._memory_mb = float(function("delta")["MemorySize"])
        self._timeout_ms = 1000 * int(function("delta")["Timeout"])
        real = Http.fetch

        def fetch(http: Http, request: Request) -> Response:
            self.fetched += 1
            return real(http, request)

        stack.enter_context(mock.patch.object(Http, "fetch", fetch))
        super().__init__(stack, api=api)

    def move_to(self, api: str) -> None:
        """Have deltas ask another provider, as fast as they can."""
        hosts = {**self.connection.hosts, "api": api}
        self._put(replace(self.connection, hosts=hosts, requests_per_second=100_000))

    def invoke(self, stage: str, event: Mapping[str, Any]) -> Usage:
        self._began, self._began_ms = self._now(), self.clock()
        used = super().invoke(stage, event)
        self.remaining_ms()
        if stage == "delta":
            self.worked_s += (self.clock() - self._began_ms) / 1000
        return used

    def remaining_ms(self) -> int:
        """Set the clock, too."""
        cpu_s, calls, fetched = (
            now - then for now, then in zip(self._now(), self._began, strict=True)
        )
        gone_ms = cpu_s * 1000 * CPU_MB / self._memory_mb + calls * AWS_MS + fetched * LATENCY_MS
        self.clock.now_ms = self._began_ms + round(gone_ms)
        return self._timeout_ms - round(gone_ms)

    def _now(self) -> tuple[float, float, int]:
        calls = sum(n for name, n in self.metered.usage.items() if name.startswith("calls."))
        return time.thread_time() - self.metered.stand_in_s, calls, self.fetched


def main() -> int:
    _, server = cores()
    seen = Seen()
    with ExitStack() as stack:
        provider = stack.enter_context(child("history", server, ROWS, FIRST_MS, APART_MS))
        api = f"http://127.0.0.1:{line(provider)}"
        deployment = Backlog(stack, api)
        deployment.move_to(api)
        deployment.provider.call(deployment.ids[0])
        deployment.advance(INTERVAL_S)
        deployment.check()
        deployment.metered.watch, deployment.metered.largest_bytes = seen.watch, 0
        deployment.worked_s = 0
        used = deployment.deltas()
        worked_s = deployment.worked_s
        written, batches = list(seen.transactions), list(seen.batches)
        deployment.rest()  # It is read again until no row can have been missed.
        deployment.worked_s = worked_s
    _print(used, written, batches, deployment, seen)
    return 0


def _print(
    used: Sequence[Usage],
    written: Sequence[int],
    batches: Sequence[int],
    deployment: Backlog,
    seen: Seen,
) -> None:
    cpu_s = sum(one["delta.cpu_s"] for one in used)
    memory_mb = int(function("delta")["MemorySize"])
    default = Connection("any", "youmail")
    pages = math.ceil(ROWS / PAGE_LENGTH)
    ids = [identity for identity, _ in seen.events]
    times = [at for _, at in seen.events]
    print(
        f"{ROWS:,} new calls in one account's history, in pages of {PAGE_LENGTH}.\n"
        f"  {len(used)} invocations, each resumed by its own queue; a second of CPU is "
        f"{CPU_MB / memory_mb:.1f} s in a function of {memory_mb} MB,\n"
        f"  AWS answers in {AWS_MS} ms, the provider in {LATENCY_MS} ms: "
        f"{deployment.worked_s:.0f} s in all\n"
        f"  {cpu_s:.1f} s of CPU: {ROWS / cpu_s:,.0f} rows a second\n"
        f"  {len(written):,} transactions of {mean(written):.1f} rows ({PUTS_MAX} at most), "
        f"{len(batches):,} batches of {mean(batches):.2f} events ({BATCH_MAX} at most)\n"
        f"  largest item: {deployment.metered.largest_bytes / 1024:.0f} KB, of {ITEM_KB_MAX} KB\n"
        f"  {len(seen.events):,} events: {ROWS - len(set(ids)):,} lost, "
        f"{len(ids) - len(set(ids)):,} repeated, "
        f"{'all' if times == sorted(times) else 'not all'} in the order of provider time\n"
        f"  requests_per_second held nothing back; with {default.requests_per_second:g}, unless "
        f"set, {pages:,} pages take {pages / due.deltas_per_second(default):.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
