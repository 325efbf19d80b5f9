"""
AWS below botocore: canned bodies in the place of its HTTP client.

Everything above is real and is measured: signing, the client, and the parsing of answers.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from threading import Lock
from typing import Any

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.httpsession import URLLib3Session
from pollwire.items import connection_item
from pollwire.model import Connection

from tests.bench import accounts

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_SESSION_TOKEN": "bench",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "TABLE_NAME": "state",
    "CHECKS_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/123456789012/checks",
    "DELTAS_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/123456789012/deltas-{stream}.fifo",
    "EVENTS_TOPIC_ARN": "arn:aws:sns:us-east-1:123456789012:events.fifo",
    "KEY_ARN": "arn:aws:kms:us-east-1:123456789012:key/bench",
    "ALLOWED_HOSTS": "",
    "POWERTOOLS_METRICS_NAMESPACE": "Pollwire",
    "POWERTOOLS_SERVICE_NAME": "check",
}


class Transport:
    """
    What stands in for the network.

    Args:
        latency_s: How long each call waits for its answer.

    Attributes:
        calls: How often each operation was called.

        stand_in_s: Processor time that went into standing in for AWS.
    """

    def __init__(self, latency_s: float = 0) -> None:
        self.calls: Counter[str] = Counter()
        self.stand_in_s = 0.0
        self._latency_s = latency_s
        self._lock = Lock()

    def install(self) -> None:
        """Answer all AWS clients of this process."""
        URLLib3Session.send = lambda _, request: self._send(request)

    def answer(self, operation: str, body: bytes) -> bytes:
        """Answer a call, given and returned as JSON."""
        raise NotImplementedError

    def _send(self, request: AWSPreparedRequest) -> AWSResponse:
        began_s = time.thread_time()
        target = request.headers["X-Amz-Target"]
        operation = (target.decode() if isinstance(target, bytes) else target).partition(".")[2]
        body = self.answer(operation, request.body)
        headers = {
            "Content-Type": "application/x-amz-json-1.0",
            "Content-Length": str(len(body)),
            "x-amzn-RequestId": "BENCH",
            "x-amz-crc32": str(zlib.crc32(body)),
        }
        response = AWSResponse(request.url, 200, headers, _Raw(body))
        with self._lock:
            self.calls[operation] += 1
            self.stand_in_s += time.thread_time() - began_s
        if self._latency_s:
            time.sleep(self._latency_s)
        return response


class Aws(Transport):
    """A table that holds one connection and its shards of idle accounts, each in a file."""

    def __init__(self, host: str, number: int, *, validated: bool, shards: int = 1) -> None:
        super().__init__()
        connection = Connection(
            "bench",
            "youmail",
            {"poll": host, "api": host},
            # Checks of one shard each are then too far apart to share the connection's rate.
            interval_s=60 * shards,
            slowest_s=60 * shards,
            requests_per_second=100_000,
            shards=shards,
        )
        self._connection = connection_item(connection)
        self._number, self._shards, self._validated = number, shards, validated
        # Bodies lie in a file: memory that is measured is the check's.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this lives
        self._places: dict[bytes, tuple[int, int]] = {}

    def answer(self, operation: str, body: bytes) -> bytes:
        if body not in self._places:
            found = json.dumps(self._found(operation, json.loads(body)), separators=(",", ":"))
            self._places[body] = (self._file.seek(0, os.SEEK_END), len(found))
            self._file.write(found.encode())
            self._file.flush()
        first, length = self._places[body]
        return os.pread(self._file.fileno(), length, first)

    def _found(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        if operation == "GetItem":
            return {"Item": self._connection}
        if operation != "Query":
            raise AssertionError(f"an idle shard needs no {operation}")
        names = [one.strip() for one in asked.get("ProjectionExpression", "").split(",")]
        shard = int(asked["ExpressionAttributeValues"][":pk"]["S"].rpartition("#")[2])
        kept = [
            {name: value for name, value in item.items() if names == [""] or name in names}
            for item in self._items(shard)
        ]
        return {"Items": kept, "Count": len(kept), "ScannedCount": len(kept)}

    def _items(self, shard: int) -> Iterator[dict[str, Any]]:
        now_ms = time.time_ns() // 1_000_000
        for one in accounts.of_shard(self._number, shard, self._shards):
            yield accounts.item(one, now_ms, shard=shard, validated=self._validated)


class _Raw(BytesIO):
    def stream(self, **_: Any) -> Any:
        yield self.read()
