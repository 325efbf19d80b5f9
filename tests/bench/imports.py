"""
What it takes to register a hundred thousand accounts.

    python -m tests.bench.imports

``Registry.add_accounts`` with a real boto3 client: it serialises, signs and parses all it does.
First all of them in one import, answered at once, for the processor time; then in several imports
side by side, each call waiting for its answer.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import boto3
from pollwire.items import Newcomer, connection_item
from pollwire.model import Connection
from pollwire.pipeline import SHARD_MAX
from pollwire.registry import Registry
from pollwire.wiring import AWS

from tests.bench import accounts
from tests.bench.aws import ENVIRONMENT, Transport
from tests.bench.metered import WRITE_BYTES, sent_bytes

ACCOUNTS = 100_000

#: Until DynamoDB has answered a call from outside its region.
LATENCY_S = 0.01

#: Imports side by side.
SEVERAL = 8

#: What a new table takes, on demand; it takes more when it has had as much for a while.
WRITE_UNITS_PER_S = 4_000

TABLE = ENVIRONMENT["TABLE_NAME"]


class Aws(Transport):
    """
    A table that nobody is registered in, and that counts who comes.

    Attributes:
        registered: Accounts by the key of their shard.

        largest_bytes: Size of the largest item, as it is charged.
    """

    def __init__(self, connection: Connection, latency_s: float) -> None:
        super().__init__(latency_s)
        self.registered: Counter[str] = Counter()
        self.largest_bytes = 0
        self._connection = connection_item(connection)

    def answer(self, operation: str, body: bytes) -> bytes:
        asked = json.loads(body)
        with self._lock:
            return json.dumps(getattr(self, f"_{operation}")(asked)).encode()

    def _GetItem(self, _: Any) -> dict[str, Any]:
        return {"Item": self._connection}

    def _BatchGetItem(self, _: Any) -> dict[str, Any]:
        return {"Responses": {TABLE: []}, "UnprocessedKeys": {}}

    def _UpdateItem(self, asked: dict[str, Any]) -> dict[str, Any]:
        values = asked["ExpressionAttributeValues"]
        if ":shards" in values:
            self._connection["shards"] = values[":shards"]
        else:
            known = int(self._connection.get("accounts", {"N": "0"})["N"])
            self._connection["accounts"] = {"N": str(known + int(values[":more"]["N"]))}
        return {"Attributes": self._connection}

    def _TransactWriteItems(self, asked: dict[str, Any]) -> dict[str, Any]:
        items = [action["Put"]["Item"] for action in asked["TransactItems"]]
        self.registered.update(item["pk"]["S"] for item in items)
        self.largest_bytes = max(self.largest_bytes, *map(sent_bytes, items))
        return {}


def main() -> int:
    os.environ |= ENVIRONMENT
    cpu_s, _, aws = _imported(1, 0)
    calls = aws.calls.total()
    _, wall_s, _ = _imported(SEVERAL, LATENCY_S)
    counts = aws.registered.values()
    each = ", ".join(f"{count:,} {name}" for name, count in sorted(aws.calls.items()))
    units = 2 * math.ceil(aws.largest_bytes / WRITE_BYTES) * ACCOUNTS  # In a transaction: twice.
    print(
        f"{ACCOUNTS:,} accounts, each with settings and a sealed credential.\n"
        f"  {calls:,} calls: {each}\n"
        f"  {cpu_s:.1f} s of CPU: {cpu_s / ACCOUNTS * 1e6:.0f} us an account\n"
        f"  DynamoDB answering in {LATENCY_S * 1000:.0f} ms: {cpu_s + calls * LATENCY_S:.0f} s in "
        f"one import (arithmetic), {wall_s:.0f} s in {SEVERAL} side by side (waited for)\n"
        f"  {units:,} write units: {units / WRITE_UNITS_PER_S:.0f} s at least with the "
        f"{WRITE_UNITS_PER_S:,} a second of a new table\n"
        f"  {len(counts)} shards; the fullest has {max(counts)} accounts, of {SHARD_MAX:,} that it "
        "may have"
    )
    return 0


def _imported(imports: int, latency_s: float) -> tuple[float, float, Aws]:
    """Register all accounts; return processor time without the stand-in's, time, and the table."""
    connection = Connection("bench", "youmail")
    aws = Aws(connection, latency_s)
    aws.install()
    table = Registry(boto3.client("dynamodb", config=AWS), TABLE)
    sealed = bytes(range(230))
    newcomers = [
        Newcomer(one, {"phone": f"4255{one[-6:]}"}, sealed) for one in accounts.ids(ACCOUNTS)
    ]
    parts = [newcomers[first::imports] for first in range(imports)]
    began_s, began_wall_s = time.process_time(), time.monotonic()
    table.make_room(connection.name, ACCOUNTS)
    with ThreadPoolExecutor(imports) as pool:
        refused = list(pool.map(partial(table.add_accounts, connection), parts))
    wall_s = time.monotonic() - began_wall_s
    cpu_s = time.process_time() - began_s - aws.stand_in_s
    if any(refused) or aws.registered.total() != ACCOUNTS:
        raise AssertionError(f"{aws.registered.total()} of {ACCOUNTS} were registered")
    return cpu_s, wall_s, aws


if __name__ == "__main__":
    sys.exit(main())
