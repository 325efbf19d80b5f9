"""
SQS queues as an operator handles them: named by ARN, opened to the topic, measured.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pollwire.errors import Misconfigured
from pollwire.providers import registered

#: SQS's limit of a queue's name, its ending included.
NAME_CHARS_MAX = 80

FIFO = ".fifo"
SNS = "sns.amazonaws.com"
RETENTION_S = 14 * 24 * 3600  # The longest there is.

#: A queue's messages, about: those that can be had, those in flight, those that are delayed.
WAITING = tuple(f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed"))

_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):sqs:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12})"
    r":(?P<name>[A-Za-z0-9_-]+(?:\.fifo)?)"
)


@dataclass(frozen=True, slots=True)
class QueueArn:
    """A queue's ARN, taken apart."""

    partition: str
    region: str
    account: str
    name: str

    def __str__(self) -> str:
        return f"arn:{self.partition}:sqs:{self.region}:{self.account}:{self.name}"

    @classmethod
    def read(cls, text: str) -> QueueArn:
        """
        Take an ARN apart.

        Raises:
            Misconfigured: It is no queue's.
        """
        found = _ARN.fullmatch(text)
        if not found or len(found["name"]) > NAME_CHARS_MAX:
            raise Misconfigured(
                f"{text!r:.100} is no ARN of a queue: arn:aws:sqs:REGION:ACCOUNT:NAME is expected"
            )
        return cls(**found.groupdict())

    @classmethod
    def named(cls, name: str, topic_arn: str) -> QueueArn:
        """Name a queue in the account and region of a topic."""
        _, partition, _, region, account, _ = topic_arn.split(":")
        return cls(partition, region, account, name)

    @property
    def is_fifo(self) -> bool:
        """Tell whether it keeps the order."""
        return self.name.endswith(FIFO)

    def beside(self, topic_arn: str) -> bool:
        """Tell whether it lies in the account of a topic."""
        return self.account == topic_arn.split(":")[4]

    def near(self, topic_arn: str) -> bool:
        """Tell whether it lies in the region of a topic."""
        return [self.partition, self.region] == topic_arn.split(":")[1:4:2]


class Queue:
    """
    A queue that is there.

    Attributes:
        arn: Its ARN.

        url: Its URL.
    """

    def __init__(self, sqs: Any, arn: QueueArn, url: str = "") -> None:
        """
        Look a queue up, unless its URL is known.

        Raises:
            Misconfigured: There is none.
        """
        self._sqs = sqs
        self.arn = arn
        self.url = url
        if not url:
            self.url = self._found()

    def _found(self) -> str:
        sqs, arn = self._sqs, self.arn
        try:
            found = sqs.get_queue_url(QueueName=arn.name, QueueOwnerAWSAccountId=arn.account)
        except sqs.exceptions.QueueDoesNotExist:
            raise Misconfigured(
                f"queue {arn.name}: there is none in account {arn.account}, region {arn.region}"
            ) from None
        return str(found["QueueUrl"])

    def attributes(self) -> Mapping[str, str]:
        """Read all of its attributes."""
        found = self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["All"])
        attributes: Mapping[str, str] = found["Attributes"]
        return attributes

    def open_to(self, topic_arn: str) -> None:
        """Let a topic send; what else its policy says stays."""
        document = self._policy()
        ours = statement(self.arn, topic_arn)
        statements = _statements(document)
        if ours in statements:
            return
        kept = [one for one in statements if one.get("Sid") != ours["Sid"]]
        self._put(document, [*kept, ours])

    def close_to(self, topic_arn: str) -> None:
        """Let a topic send no more, if that was allowed by :meth:`open_to`."""
        document = self._policy()
        statements = _statements(document)
        kept = [one for one in statements if one.get("Sid") != sid(topic_arn)]
        if kept != statements:
            self._put(document, kept)

    def is_open_to(self, topic_arn: str) -> bool:
        """Tell whether a statement of its policy lets a topic send."""
        return any(
            one.get("Effect") == "Allow"
            and any(who in json.dumps(one.get("Principal")) for who in (SNS, '"*"'))
            and topic_arn in json.dumps(one.get("Condition"))
            for one in _statements(self._policy())
        )

    def _policy(self) -> dict[str, Any]:
        try:
            document = json.loads(self.attributes().get("Policy") or "{}")
            assert isinstance(document, dict)
        except (ValueError, AssertionError):
            raise Misconfigured(
                f"queue {self.arn.name}: its policy is no JSON object; correct it there"
            ) from None
        return document

    def _put(self, document: Mapping[str, Any], statements: list[dict[str, Any]]) -> None:
        written = {"Version": "2012-10-17", **document, "Statement": statements}
        text = json.dumps(written) if statements else ""  # An empty text removes it.
        self._sqs.set_queue_attributes(QueueUrl=self.url, Attributes={"Policy": text})


def find_queue(sqs: Any, arn: QueueArn) -> Queue | None:
    """Look a queue up, or return ``None`` if there is none."""
    try:
        return Queue(sqs, arn)
    except Misconfigured:
        return None


def make_fifo(sqs: Any, arn: QueueArn, topic_arn: str, **wanted: Any) -> Queue:
    """
    Make an encrypted FIFO queue that a topic may send to, and that takes no call without TLS.

    Args:
        wanted: More parameters of CreateQueue; its attributes are added to.
    """
    statements = [statement(arn, topic_arn)]
    if str(sqs.meta.endpoint_url).startswith("https:"):  # An emulator speaks plain http.
        statements.append(
            {
                "Sid": "OnlyTls",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "sqs:*",
                "Resource": str(arn),
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        )
    attributes = {
        "FifoQueue": "true",
        "SqsManagedSseEnabled": "true",  # SNS may write to it without a key of ours.
        "Policy": json.dumps({"Version": "2012-10-17", "Statement": statements}),
    }
    attributes |= wanted.pop("Attributes", {})
    made = sqs.create_queue(QueueName=arn.name, Attributes=attributes, **wanted)
    return Queue(sqs, arn, made["QueueUrl"])  # Looked up so soon it might not be found.


def statement(arn: QueueArn, topic_arn: str) -> dict[str, Any]:
    """Write what a queue's policy has to say for a topic to send to it."""
    return {
        "Sid": sid(topic_arn),
        "Effect": "Allow",
        "Principal": {"Service": SNS},
        "Action": "sqs:SendMessage",
        "Resource": str(arn),
        "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
    }


def sid(topic_arn: str) -> str:
    """Name our statement in a policy: one a topic, the same at every time."""
    return f"PollwireEvents{hashlib.sha256(topic_arn.encode()).hexdigest()[:8]}"


def waiting(attributes: Mapping[str, str]) -> int:
    """Count a queue's messages, about: those in flight and those that are delayed among them."""
    return sum(int(attributes.get(name, 0)) for name in WAITING)


def dead_letters(attributes: Mapping[str, str]) -> QueueArn | None:
    """Read where a queue's or a subscription's dead letters go, if they go anywhere."""
    try:
        return QueueArn.read(str(json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"]))
    except (KeyError, TypeError, ValueError, Misconfigured):
        return None


def job_queues(stack: str) -> list[str]:
    """Name the queues of a stack's checks and deltas."""
    providers = registered()
    streams = [name for provider in providers.values() for name in provider.streams]
    checks = [f"{stack}-checks-{provider}" for provider in providers]
    return checks + [f"{stack}-deltas-{stream}{FIFO}" for stream in streams]


def dead_queue(stack: str, name: str) -> str:
    """Name the dead-letter queue of one of a stack's queues of jobs."""
    return f"{stack}-dead{name.removeprefix(stack)}"


def _statements(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = document.get("Statement", [])
    return [found] if isinstance(found, dict) else list(found)
