"""
Dead-letter queues: which there are, what lies in them, and the way back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError
from pollwire.errors import Misconfigured, NotPublished

from pollwire_cli.queues import (
    Queue,
    QueueArn,
    dead_letters,
    dead_queue,
    find_queue,
    job_queues,
    waiting,
)
from pollwire_cli.session import Session
from pollwire_cli.subscribers import Subscribers, Subscription

JOBS, EVENTS = "jobs", "events"

#: SQS's limits of a batch; it takes more bytes by now, but not everywhere.
BATCH_MAX = 10
BATCH_BYTES_MAX = 256 * 1024

#: Seconds that a batch has until its messages show up again; it takes one or two.
HIDDEN_S = 120

#: Seconds to look for a message before a queue counts as empty.
LOOK_S = 2


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """
    A dead-letter queue.

    Attributes:
        kind: What lies in it, ``jobs`` or ``events``.

        queue: The queue itself.

        back: Where its messages belong; more than one if nobody can tell.
    """

    kind: str
    queue: Queue
    back: tuple[QueueArn, ...]

    def target(self) -> QueueArn:
        """
        Say where its messages belong.

        Raises:
            Misconfigured: Nobody can tell.
        """
        if len(self.back) > 1:
            raise Misconfigured(
                f"queue {self.queue.arn.name} has the dead letters of "
                f"{', '.join(one.name for one in self.back)}, and nothing tells them apart; give "
                "each a queue of its own, and move these yourself"
            )
        return self.back[0]


@dataclass(slots=True)
class Moved:
    """
    What became of a queue's messages.

    Attributes:
        moved: Back where they belong.

        left: Where they were: of another queue, or dead again already.
    """

    moved: int = 0
    left: int = 0
    _sent: set[str] = field(default_factory=set)
    _held: set[str] = field(default_factory=set)

    def run(self, sqs: Any, dead: DeadLetters) -> None:
        """
        Move messages back until there are none; each is sent before it is deleted.

        A message that is sent twice, because this was interrupted, has the same deduplication id.

        Raises:
            NotPublished: SQS refused one, which stays where it was.
        """
        target = dead.target()
        url = Queue(sqs, target).url
        try:
            while messages := receive(sqs, dead.queue.url, HIDDEN_S):
                self._held |= {one["ReceiptHandle"] for one in messages}
                wanted = [one for one in messages if self._is_wanted(one, target)]
                for batch in _batches([_entry(one, target) for one in wanted]):
                    self._move(sqs, dead.queue.url, url, batch)
        finally:
            for handle in self._held:
                with suppress(ClientError):  # It shows up by itself, only later.
                    sqs.change_message_visibility(
                        QueueUrl=dead.queue.url, ReceiptHandle=handle, VisibilityTimeout=0
                    )

    def _is_wanted(self, message: Mapping[str, Any], target: QueueArn) -> bool:
        source = message["Attributes"].get("DeadLetterQueueSourceArn", str(target))
        # A message keeps its id when it dies: this one was sent by us, and failed again.
        if message["MessageId"] not in self._sent and source == str(target):
            return True
        self.left += 1
        return False

    def _move(
        self, sqs: Any, source: str, target: str, batch: Sequence[tuple[str, dict[str, Any]]]
    ) -> None:
        entries = [{"Id": str(number), **entry} for number, (_, entry) in enumerate(batch)]
        answer = sqs.send_message_batch(QueueUrl=target, Entries=entries)
        taken = answer.get("Successful", [])
        self._sent |= {one["MessageId"] for one in taken}
        handles = [{"Id": one["Id"], "ReceiptHandle": batch[int(one["Id"])][0]} for one in taken]
        kept = self._delete(sqs, source, handles) if handles else 0
        self.moved += len(handles) - kept
        if kept:  # Whoever went on would find them, and send them once more.
            raise NotPublished(f"SQS kept {kept} messages that were sent; they lie in both queues")
        if len(taken) < len(batch):
            raise NotPublished(f"SQS refused {len(batch) - len(taken)} messages; they stay")

    def _delete(self, sqs: Any, source: str, handles: Sequence[dict[str, str]]) -> int:
        """Delete what was sent; return how many messages stay all the same."""
        answer = sqs.delete_message_batch(QueueUrl=source, Entries=handles)
        kept = {one["Id"] for one in answer.get("Failed", [])}
        self._held -= {one["ReceiptHandle"] for one in handles if one["Id"] not in kept}
        return len(kept)


def found(session: Session) -> list[DeadLetters]:
    """Find the dead-letter queues of a stack's jobs, and of those that receive its events."""
    sqs = session.client("sqs")
    queues: list[DeadLetters] = []
    for name in job_queues(session.name):
        dead = dead_queue(session.name, name)
        arn, back = (QueueArn.named(one, session.topic_arn) for one in (dead, name))
        queue = find_queue(sqs, arn)
        queues += [DeadLetters(JOBS, queue, (back,))] if queue else []
    back_of: dict[QueueArn, list[QueueArn]] = {}
    for one in Subscribers(session).all():
        for arn in _dead_of(session, one):
            back_of.setdefault(arn, []).extend([one.queue] if one.queue else [])
    for arn, backs in back_of.items():
        queue = find_queue(sqs, arn)
        queues += [DeadLetters(EVENTS, queue, tuple(dict.fromkeys(backs)))] if queue else []
    return queues


def depth(dead: DeadLetters) -> int:
    """Count what lies in a queue, about."""
    return waiting(dead.queue.attributes())


def oldest_ms(sqs: Any, dead: DeadLetters) -> int:
    """Say when the oldest message that is found at once was sent; 0 if none is."""
    messages = receive(sqs, dead.queue.url, 0)
    return min((int(one["Attributes"]["SentTimestamp"]) for one in messages), default=0)


def receive(sqs: Any, url: str, hidden_s: int) -> list[dict[str, Any]]:
    """Receive ten messages at most, which others do not see for so many seconds."""
    answer = sqs.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=BATCH_MAX,
        VisibilityTimeout=hidden_s,
        WaitTimeSeconds=LOOK_S,
        AttributeNames=["All"],
        MessageAttributeNames=["All"],
    )
    messages: list[dict[str, Any]] = answer.get("Messages", [])
    return messages


def _dead_of(session: Session, one: Subscription) -> Iterator[QueueArn]:
    """Name where goes what SNS cannot deliver to a queue, and what its consumer cannot digest."""
    undelivered = dead_letters(one.attributes)
    if undelivered:
        yield undelivered
    if one.queue and one.queue.beside(session.topic_arn):
        queue = find_queue(session.client("sqs"), one.queue)
        undigested = dead_letters(queue.attributes()) if queue else None
        if undigested:
            yield undigested


def _entry(message: Mapping[str, Any], target: QueueArn) -> tuple[str, dict[str, Any]]:
    """Write a message as it is to be sent; with the handle that deletes it."""
    entry = {"MessageBody": message["Body"]}
    attributes = {
        name: {
            part: value[part]
            for part in ("DataType", "StringValue", "BinaryValue")
            if part in value
        }
        for name, value in message.get("MessageAttributes", {}).items()
    }
    if attributes:
        entry["MessageAttributes"] = attributes
    if target.is_fifo:
        entry["MessageGroupId"] = message["Attributes"].get("MessageGroupId", "redriven")
        # Its own would be swallowed if it was sent less than five minutes ago.
        entry["MessageDeduplicationId"] = f"redriven-{message['MessageId']}"
    return message["ReceiptHandle"], entry


def _batches(
    entries: Sequence[tuple[str, dict[str, Any]]],
) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    batch: list[tuple[str, dict[str, Any]]] = []
    total = 0
    for handle, entry in entries:
        size = _size(entry)
        if batch and (len(batch) == BATCH_MAX or total + size > BATCH_BYTES_MAX):
            yield batch
            batch, total = [], 0
        batch.append((handle, entry))
        total += size
    if batch:
        yield batch


def _size(entry: Mapping[str, Any]) -> int:
    attributes = entry.get("MessageAttributes", {})
    parts = [entry["MessageBody"], *attributes]
    parts += [part for value in attributes.values() for part in value.values()]
    return sum(len(one.encode() if isinstance(one, str) else one) for one in parts)
