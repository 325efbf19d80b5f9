"""
The simulation's fake of AWS behind HTTP, so that boto3 works as it does in Lambda.

    DynamoDB, SQS and KMS    JSON; bytes are in base64
    SNS                      a form, answered in XML; PublishBatch only
"""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from botocore.exceptions import ClientError

from tests.simulation.aws import Aws

SERVICES = {"DynamoDB_20120810": "dynamodb", "AmazonSQS": "sqs", "TrentService": "kms"}
BLOBS = ("B", "CiphertextBlob", "Plaintext")
WRITES = ("PutItem", "UpdateItem", "DeleteItem", "TransactWriteItems")


class Service:
    """
    Answers boto3.

    Attributes:
        calls: How often each operation was called, and ``items``: written to the table.

        written_bytes: Of the requests that wrote to the table.
    """

    def __init__(self, aws: Aws) -> None:
        self.aws = aws
        self.lock = threading.Lock()
        self.calls: Counter[str] = Counter()
        self.written_bytes = 0

    @contextmanager
    def served(self) -> Iterator[str]:
        """Serve on a free port of the loopback interface; yield the URL."""
        service = self

        class Handler(_Handler):
            answer = service.answer

        with _Server(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()
            thread.join()

    def answer(self, target: str, body: bytes) -> tuple[int, bytes]:
        """Answer one call; without a target it is SNS's."""
        prefix, _, operation = target.partition(".")
        service = SERVICES.get(prefix, "sns")
        params = json.loads(body, object_hook=_bytes) if target else _batch(body)
        operation = operation or "PublishBatch"
        with self.lock:
            self.calls[operation] += 1
            if operation in WRITES:
                self.calls["items"] += len(params.get("TransactItems", [None]))
                self.written_bytes += len(body)
            try:
                found = self.aws.call(service, operation, params)
            except ClientError as error:
                return 400, _error(error)
        return 200, json.dumps(found, default=_text).encode() if target else _published(found)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *args: Any) -> None:
        """Say nothing of a client that was killed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    answer: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        status, answer = self.answer(self.headers.get("x-amz-target", ""), body)
        head = f"HTTP/1.1 {status} -\r\ncontent-length: {len(answer)}\r\n\r\n"
        self.wfile.write(head.encode() + answer)

    def log_message(self, *args: Any) -> None:
        """Say nothing of each call."""


def _bytes(value: dict[str, Any]) -> dict[str, Any]:
    for name in BLOBS:
        if isinstance(value.get(name), str):
            value[name] = base64.b64decode(value[name])
    return value


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _error(error: ClientError) -> bytes:
    said = dict(error.response)
    code = said.pop("Error")
    said.pop("ResponseMetadata", None)
    named = {"__type": code.get("QueryErrorCode", code["Code"]), "message": code["Message"]}
    return json.dumps({**said, **named}, default=_text).encode()


def _batch(body: bytes) -> dict[str, Any]:
    """Read the form of a PublishBatch."""
    entries: dict[str, dict[str, Any]] = {}
    attributes: dict[tuple[str, str], dict[str, str]] = {}
    topic = ""
    for name, value in parse_qsl(body.decode(), keep_blank_values=True):
        words = name.split(".")
        if name == "TopicArn":
            topic = value
        elif len(words) == 4:
            entries.setdefault(words[2], {})[words[3]] = value
        elif len(words) > 4:  # ... MessageAttributes.entry.1.Value.StringValue
            attributes.setdefault((words[2], words[5]), {})[words[-1]] = value
    for (number, _), found in attributes.items():
        name = found.pop("Name")
        entries[number].setdefault("MessageAttributes", {})[name] = found
    return {"TopicArn": topic, "PublishBatchRequestEntries": list(entries.values())}


def _published(found: dict[str, Any]) -> bytes:
    parts = [
        f"<{kind}>{''.join(_member(one) for one in found.get(kind, ()))}</{kind}>"
        for kind in ("Successful", "Failed")
    ]
    result = f"<PublishBatchResult>{''.join(parts)}</PublishBatchResult>"
    space = 'xmlns="http://sns.amazonaws.com/doc/2010-03-31/"'
    return f"<PublishBatchResponse {space}>{result}</PublishBatchResponse>".encode()


def _member(one: dict[str, Any]) -> str:
    fields = (f"<{name}>{escape(str(value))}</{name}>" for name, value in one.items())
    return f"<member>{''.join(fields)}</member>"
