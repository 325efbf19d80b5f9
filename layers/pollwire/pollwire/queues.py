"""
SQS and SNS, in batches of ten. A batch that succeeds in part is a failure: nothing is lost here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from pollwire import marks
from pollwire.due import delay_s
from pollwire.errors import Malformed, NotPublished
from pollwire.events import group_id
from pollwire.model import ACCOUNT_ID, NAME, CheckJob, DeltaJob, Event

if TYPE_CHECKING:
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient

BATCH_MAX = 10  # SQS and SNS

#: So many batches are sent side by side: what takes time is to wait for the answers.
MANY, THREADS = 20, 8

#: SNS takes 256 KiB a batch; the rest is for attributes.
BATCH_BYTES_MAX = 255 * 1024
ATTRIBUTE_BYTES = 1024

#: No number of a job is larger, be it an instant in milliseconds.
NUMBER_MAX = 10**15


class Queues:
    """
    The queues between the stages.

    Args:
        checks_url: URL of a provider's queue of checks, with ``{provider}`` in it.

        deltas_url: URL of a stream's queue of delta jobs, with ``{stream}`` in it.
    """

    def __init__(self, client: SQSClient, checks_url: str, deltas_url: str) -> None:
        self._client = client
        self._checks_url = checks_url
        self._deltas_url = deltas_url

    def send_checks(self, provider: str, jobs: Iterable[CheckJob], now_ms: int) -> int:
        """
        Queue checks of a provider's accounts, each for the instant it is due; return how many.

        Raises:
            NotPublished: Some were refused, after all others were sent.
        """
        entries = (
            {"MessageBody": _message(job), "DelaySeconds": delay_s(job, now_ms)} for job in jobs
        )
        return self._send(self._checks_url.format(provider=provider), entries)

    def send_deltas(self, jobs: Iterable[DeltaJob]) -> int:
        """
        Queue delta jobs, each on its stream's queue; return how many.

        A job queued twice for one stream and one instant is taken once.

        Raises:
            NotPublished: Some were refused, after all others were sent.
        """
        streams: dict[str, list[DeltaJob]] = {}
        for job in jobs:
            streams.setdefault(job.stream, []).append(job)
        sent, refused = 0, None
        for stream, queued in streams.items():
            try:
                url = self._deltas_url.format(stream=stream)
                sent += self._send(url, map(_delta_entry, queued))
            except NotPublished as error:
                refused = error
        if refused:
            raise refused
        return sent

    def _send(self, url: str, entries: Iterable[dict[str, Any]]) -> int:
        try:
            return self._sent(url, entries)
        except (BotoCoreError, ClientError) as error:
            # What goes to other queues is sent nevertheless.
            queue, reason = url.rpartition("/")[2], type(error).__name__
            raise NotPublished(f"SQS does not take what {queue} is sent: {reason}") from error

    def _sent(self, url: str, entries: Iterable[dict[str, Any]]) -> int:
        def send(batch: list[dict[str, Any]]) -> tuple[int, int]:
            numbered: Any = [{"Id": str(number), **entry} for number, entry in enumerate(batch)]
            answer = self._client.send_message_batch(QueueUrl=url, Entries=numbered)
            return len(answer.get("Successful", ())), len(answer.get("Failed", ()))

        batches = list(_batches(entries))
        if len(batches) < MANY:
            answers = list(map(send, batches))
        else:
            with ThreadPoolExecutor(THREADS) as pool:
                answers = list(pool.map(send, batches))
        sent = sum(taken for taken, _ in answers)
        refused = sum(left for _, left in answers)
        if refused:
            raise NotPublished(f"SQS refused {refused} of {refused + sent} messages")
        return sent

    def hasten(self, records: Iterable[Mapping[str, Any]]) -> None:
        """
        Make messages that failed visible again sooner than after the queue's whole timeout.

        Until then nothing else of their group is handed out. The wait grows with every failure.

        Args:
            records: Of an SQS event, as Lambda hands them over.
        """
        queues: dict[str, list[dict[str, Any]]] = {}
        for record in records:
            url = self._url(record["eventSourceARN"])
            wait_s = retry_s(int(record["attributes"]["ApproximateReceiveCount"]))
            entry = {"ReceiptHandle": record["receiptHandle"], "VisibilityTimeout": wait_s}
            queues.setdefault(url, []).append(entry)
        for url, entries in queues.items():
            for batch in _batches(entries):
                numbered: Any = [{"Id": str(number), **entry} for number, entry in enumerate(batch)]
                # One that cannot be changed comes back after the queue's own timeout.
                self._client.change_message_visibility_batch(QueueUrl=url, Entries=numbered)

    def _url(self, arn: str) -> str:
        base, _, _ = self._deltas_url.rpartition("/")
        return f"{base}/{arn.rpartition(':')[2]}"


class Topic:
    """The topic that events are published to."""

    def __init__(self, client: SNSClient, arn: str) -> None:
        self._client = client
        self.arn = arn

    def publish(self, events: Sequence[Event]) -> int:
        """
        Publish events in order, ten at a time; return how many.

        Entries of a batch succeed or fail singly, so no batch holds two events of one record.

        Raises:
            NotPublished: SNS refused one. Nothing after its batch was published.
        """
        for batch in event_batches(events):
            entries: Any = [
                {
                    "Id": str(number),
                    "Message": event.body,
                    "MessageGroupId": event.group,
                    "MessageDeduplicationId": event.uuid,
                    "MessageAttributes": {
                        name: {"DataType": "String", "StringValue": value}
                        for name, value in event.attributes.items()
                    },
                }
                for number, event in enumerate(batch)
            ]
            answer = self._client.publish_batch(
                TopicArn=self.arn, PublishBatchRequestEntries=entries
            )
            if answer.get("Failed"):
                codes = sorted({failure.get("Code", "?") for failure in answer["Failed"]})
                raise NotPublished(f"SNS refused {len(answer['Failed'])} events: {codes}")
        return len(events)


def retry_s(receives: int) -> int:
    """Say how long a message that failed stays invisible: 2 s, 8 s, 32 s, ... at most 5 minutes."""
    return int(min(2 * 4 ** min(max(receives, 1) - 1, 5), 300))


def event_batches(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Cut a sequence of events into batches that SNS takes and that keep each record's order."""
    batch: list[Event] = []
    size = 0
    for event in events:
        event_size = len(event.body) + ATTRIBUTE_BYTES
        repeated = any(event.entity == other.entity for other in batch)
        if batch and (len(batch) == BATCH_MAX or repeated or size + event_size > BATCH_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += event_size
    if batch:
        yield batch


def read_check(body: str) -> CheckJob:
    """
    Read a check from a message.

    Raises:
        Malformed: It is none.
    """
    kinds: dict[str, type] = {
        "connection": str,
        "shard": int,
        "due_ms": int,
        "interval_s": int,
        "after_s": int,
        "account": str,
    }
    return CheckJob(**_fields(body, kinds, after_s=0, account=""))  # An older version did not say.


def read_delta(body: str) -> DeltaJob:
    """
    Read a delta job from a message.

    Raises:
        Malformed: It is none.
    """
    kinds = {
        "connection": str,
        "shard": int,
        "account": str,
        "stream": str,
        "pending": list,
        "due_ms": int,
        "full": bool,
    }
    fields = _fields(body, kinds, full=False)  # An older version did not say.
    pending = fields["pending"]
    if not (pending or fields["full"]):
        raise Malformed("job.pending: it is empty, so nothing asks for this job")
    if not all(isinstance(one, str) and marks.ELEMENT.match(one) for one in pending):
        raise Malformed("job.pending: a list of stream@ms@mark is expected")
    return DeltaJob(**{**fields, "pending": tuple(pending)})


def read_job(body: str) -> CheckJob | DeltaJob | None:
    """Read a job of either kind from a message; ``None`` if it is none."""
    for read in (read_delta, read_check):
        with suppress(Malformed):
            return read(body)
    return None


def _fields(body: str, kinds: dict[str, type], **otherwise: Any) -> dict[str, Any]:
    try:
        job = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed("job: the message is no JSON") from error
    if not isinstance(job, dict):
        raise Malformed("job: the message is no JSON object")
    job = {**otherwise, **job}
    for name, kind in kinds.items():
        if type(job.get(name)) is not kind:
            raise Malformed(f"job.{name}: {kind.__name__} is expected")
    for name in kinds:
        if job[name] != otherwise.get(name):
            _require_sane(name, job[name])
    return {name: job[name] for name in kinds}


def _message(job: CheckJob | DeltaJob) -> str:
    return json.dumps({name: getattr(job, name) for name in job.__slots__})


def _require_sane(name: str, value: object) -> None:
    """Check what becomes part of a key, of an expression or of a line of the log."""
    if isinstance(value, str):
        pattern = ACCOUNT_ID if name == "account" else NAME
        if not pattern.fullmatch(value):
            raise Malformed(f"job.{name}: it is empty, or has characters that none has")
    elif isinstance(value, int) and not 0 <= value <= NUMBER_MAX:
        raise Malformed(f"job.{name}: from 0 to 10**15 is expected")


def _delta_entry(job: DeltaJob) -> dict[str, Any]:
    group = group_id(job.connection, job.account, job.stream)
    return {
        "MessageBody": _message(job),
        "MessageGroupId": group,
        "MessageDeduplicationId": f"{group}-{job.due_ms}",
    }


def _batches(entries: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for entry in entries:
        batch.append(entry)
        if len(batch) == BATCH_MAX:
            yield batch
            batch = []
    if batch:
        yield batch
