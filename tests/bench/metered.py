"""
AWS under real boto3 clients, in this process, with everything counted that AWS charges for.

A client does all it does for AWS: it validates, serialises, signs, and parses the answer that lies
in the place of one from the network. What stands behind is the simulation's :class:`Aws`.
"""

from __future__ import annotations

import base64
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape

import boto3
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.exceptions import ClientError

from tests.simulation.aws import Aws
from tests.simulation.expressions import item_bytes
from tests.simulation.specs import Deployed

#: Amounts by name: of what is charged for, of calls, of CPU time.
Usage = Mapping[str, float]

READ_BYTES, WRITE_BYTES = 4096, 1024
REQUEST_BYTES = 64 * 1024
GB = 1e9

#: By so much KMS's blobs are longer than their text, and by so much those of the stand-in.
BLOB_BYTES, STAND_IN_BLOB_BYTES = 152, 48
PADDING = bytes(BLOB_BYTES - STAND_IN_BLOB_BYTES)


class Metered:
    """
    AWS, metered.

    Attributes:
        usage: All that was used so far: ``calls.<service>.<operation>``, and the names of the
            price list.

        stand_in_s: CPU time that went into standing in for AWS.

        largest_bytes: Size of the largest item that was written.

        watch: Called with service, operation and parameters of each call; what it returns, if
            anything, is the answer.
    """

    def __init__(self, deployed: Deployed, aws: Aws) -> None:
        self.usage: defaultdict[str, float] = defaultdict(float)
        self.stand_in_s = 0.0
        self.largest_bytes = 0
        self.watch: Callable[[str, str, Mapping[str, Any]], Mapping[str, Any] | None] = _nothing
        self._deployed, self._aws = deployed, aws
        self._params: Mapping[str, Any] = {}

    def session(self) -> boto3.Session:
        """Make a session whose clients talk to this."""
        session = boto3.Session("testing", "testing", region_name="us-east-1")
        session.events.register("before-parameter-build", self._note_params)
        session.events.register("before-send", self._answer)
        return session

    def _note_params(self, params: Mapping[str, Any], **rest: Any) -> None:
        self._params = params

    def _answer(self, request: AWSPreparedRequest, event_name: str, **rest: Any) -> AWSResponse:
        began_s = time.thread_time()
        _, service, operation = event_name.split(".")
        try:
            status, body = 200, _written(service, operation, self._call(service, operation))
        except ClientError as error:
            said = error.response["Error"]
            status, body = 400, _json({"__type": said["Code"], "message": said["Message"]})
        response = AWSResponse(request.url, status, {"content-length": str(len(body))}, None)
        response._content = body
        self.stand_in_s += time.thread_time() - began_s
        return response

    def _call(self, service: str, operation: str) -> Mapping[str, Any]:
        params = dict(self._params)
        watched = self.watch(service, operation, params)
        if watched is not None:
            self.usage[f"calls.{service}.{operation}"] += 1
            return watched
        keys = list(_written_keys(params)) if service == "dynamodb" else []
        before = [self._size(key) for key in keys]
        if operation == "Decrypt":
            params["CiphertextBlob"] = params["CiphertextBlob"].removesuffix(PADDING)
        answer: dict[str, Any] = {}
        try:
            answer = self._aws.call(service, operation, params)
        finally:
            self.usage[f"calls.{service}.{operation}"] += 1
            after = [self._size(key) for key in keys]
            self.largest_bytes = max(self.largest_bytes, *after, 0)
            self._charge(service, operation, params, answer, map(max, before, after))
        if operation == "Encrypt":
            answer = {**answer, "CiphertextBlob": answer["CiphertextBlob"] + PADDING}
        return answer

    def _size(self, key: tuple[str, str]) -> int:
        item = self._aws.items.get(key)
        return item_bytes(item) if item else 0

    def _charge(
        self,
        service: str,
        operation: str,
        params: Mapping[str, Any],
        answer: Mapping[str, Any],
        sizes: Iterable[int],
    ) -> None:
        if service == "kms":
            self.usage["kms.requests"] += 1
        elif service == "sqs":
            self._charge_sent(params)
        elif service == "sns":
            self._charge_published(params["PublishBatchRequestEntries"])
        else:
            each = 2 if operation == "TransactWriteItems" else 1
            self.usage["dynamodb.write_units"] += each * sum(_units(n, WRITE_BYTES) for n in sizes)
            self.usage["dynamodb.read_units"] += _read_units(operation, params, answer)

    def _charge_sent(self, params: Mapping[str, Any]) -> None:
        size = sum(len(one["MessageBody"].encode()) for one in params["Entries"])
        kind = "sqs.fifo_requests" if params["QueueUrl"].endswith(".fifo") else "sqs.requests"
        self.usage[kind] += _units(size, REQUEST_BYTES)

    def _charge_published(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Charge for messages, for each delivery of the template, and for SNS's sends to SQS."""
        for entry in entries:
            size = len(entry["Message"].encode()) + sum(
                len(name) + len(one["DataType"]) + len(one["StringValue"].encode())
                for name, one in entry["MessageAttributes"].items()
            )
            deliveries = len(self._deployed.subscriptions)
            self.usage["sns.published"] += 1
            self.usage["sns.published_gb"] += size / GB
            self.usage["sns.delivered"] += deliveries
            self.usage["sns.delivered_gb"] += deliveries * size / GB
            self.usage["sqs.fifo_requests"] += deliveries * _units(size, REQUEST_BYTES)


def _nothing(service: str, operation: str, params: Mapping[str, Any]) -> None:
    pass


def sent_bytes(item: Mapping[str, Any]) -> int:
    """Measure an item that is written as it is sent: base64 in the place of bytes."""
    return item_bytes(
        {
            name: {"B": base64.b64decode(value["B"])} if "B" in value else value
            for name, value in item.items()
        }
    )


def _units(size: int, of: int) -> int:
    """Count what is charged in steps, the first of which is charged for nothing, too."""
    return max(math.ceil(size / of), 1)


def _read_units(operation: str, params: Mapping[str, Any], answer: Mapping[str, Any]) -> float:
    """Count read units: a query is charged by all its bytes, a batch by those of each item."""
    if operation == "GetItem":
        units = _units(item_bytes(answer.get("Item", {})), READ_BYTES)
        return units if params.get("ConsistentRead") else units / 2
    if operation == "Query":
        units = _units(sum(map(item_bytes, answer.get("Items", ()))), READ_BYTES)
        return units if params.get("ConsistentRead") else units / 2
    if operation == "BatchGetItem":
        ((table, asked),) = params["RequestItems"].items()
        found = answer.get("Responses", {}).get(table, [])
        units = sum(_units(item_bytes(item), READ_BYTES) for item in found)
        units += len(asked["Keys"]) - len(found)  # A key without an item costs as well.
        return units if asked.get("ConsistentRead") else units / 2
    return 0


def _written_keys(params: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name the items that a call writes."""
    for action in params.get("TransactItems", ()):
        for part in action.values():
            yield from _written_keys(part)
    if "Item" in params or "UpdateExpression" in params:
        key = params.get("Item") or params["Key"]
        yield key["pk"]["S"], key["sk"]["S"]


def _written(service: str, operation: str, answer: Mapping[str, Any]) -> bytes:
    """Write an answer as AWS sends it: SNS speaks XML, the others JSON."""
    if service != "sns":
        return _json(answer)
    entries = "".join(
        "<member>" + "".join(f"<{name}>{escape(one[name])}</{name}>" for name in one) + "</member>"
        for one in answer["Successful"]
    )
    return (
        f'<{operation}Response xmlns="http://sns.amazonaws.com/doc/2010-03-31/">'
        f"<{operation}Result><Failed/><Successful>{entries}</Successful></{operation}Result>"
        f"<ResponseMetadata><RequestId>0</RequestId></ResponseMetadata></{operation}Response>"
    ).encode()


def _json(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer, default=lambda blob: base64.b64encode(blob).decode()).encode()
