"""
AWS below botocore: canned bodies in the place of its HTTP client.

Everything above is real and is measured: signing, the client, and the parsing of answers.
"""

from __future__ import annotations

import json
import time
import zlib
from collections import Counter
from io import BytesIO
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


class Aws:
    """
    A table that holds one connection and one shard of idle accounts.

    Attributes:
        calls: How often each operation was called.
    """

    def __init__(self, host: str, number: int, *, validated: bool) -> None:
        self.calls: Counter[str] = Counter()
        connection = Connection(
            "bench",
            "youmail",
            {"poll": host, "api": host},
            interval_s=60,
            slowest_s=60,
            requests_per_second=100_000,
        )
        self._connection = connection_item(connection)
        now_ms = time.time_ns() // 1_000_000
        self._items = [
            accounts.item(one, now_ms, validated=validated) for one in accounts.ids(number)
        ]
        self._bodies: dict[bytes, bytes] = {}

    def install(self) -> None:
        """Answer all AWS clients of this process."""
        URLLib3Session.send = lambda _, request: self._send(request)

    def _send(self, request: AWSPreparedRequest) -> AWSResponse:
        operation = request.headers["X-Amz-Target"].decode().partition(".")[2]
        self.calls[operation] += 1
        body = self._bodies.get(request.body)
        if body is None:
            found = self._answer(operation, json.loads(request.body))
            body = self._bodies[request.body] = json.dumps(found, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/x-amz-json-1.0",
            "Content-Length": str(len(body)),
            "x-amzn-RequestId": "BENCH",
            "x-amz-crc32": str(zlib.crc32(body)),
        }
        return AWSResponse(request.url, 200, headers, _Raw(body))

    def _answer(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        if operation == "GetItem":
            return {"Item": self._connection}
        if operation != "Query":
            raise AssertionError(f"an idle shard needs no {operation}")
        names = [one.strip() for one in asked.get("ProjectionExpression", "").split(",")]
        kept = [
            {name: value for name, value in item.items() if names == [""] or name in names}
            for item in self._items
        ]
        return {"Items": kept, "Count": len(kept), "ScannedCount": len(kept)}


class _Raw(BytesIO):
    def stream(self, **_: Any) -> Any:
        yield self.read()
