"""
The topic's subscriptions: found, made, changed, ended.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError
from pollwire.errors import Misconfigured
from pollwire.filters import Policy, filter_paths
from pollwire.providers import registered

from pollwire_cli.queues import (
    FIFO,
    NAME_CHARS_MAX,
    RETENTION_S,
    SNS,
    Queue,
    QueueArn,
    find_queue,
    make_fifo,
)
from pollwire_cli.session import Session

#: AWS's own key for SQS; its policy cannot be changed, and does not let SNS in.
AWS_KEY = "alias/aws/sqs"

#: How SNS speaks of a subscription that its queue's owner has not confirmed.
PENDING = "PendingConfirmation"

STREAMS = {name: provider.streams for name, provider in registered().items()}


@dataclass(frozen=True, slots=True)
class Subscription:
    """
    A subscription of the topic.

    Attributes:
        arn: Its ARN, or another text while it is pending.

        endpoint: ARN of its queue.

        attributes: What SNS says of it; nothing while it is pending.
    """

    arn: str
    endpoint: str
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_pending(self) -> bool:
        """Tell whether its queue's owner has yet to confirm it."""
        return not self.arn.startswith("arn:") or self.attributes.get(PENDING) == "true"

    @property
    def queue(self) -> QueueArn | None:
        """Its queue, if it has one."""
        try:
            return QueueArn.read(self.endpoint)
        except Misconfigured:
            return None

    @property
    def policy(self) -> dict[str, Any]:
        """Its filter policy, empty if it lets everything through."""
        found = json.loads(self.attributes.get("FilterPolicy") or "{}")
        return found if isinstance(found, dict) else {}

    @property
    def filters(self) -> list[str] | None:
        """Its filter as paths; ``None`` if no path says what its policy does, or it is unknown."""
        scope = self.attributes.get("FilterPolicyScope", "MessageAttributes")
        if not self.attributes or scope != "MessageAttributes":
            return None
        return filter_paths(self.policy, STREAMS)


class Subscribers:
    """The subscriptions of a stack's topic."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._sns = session.client("sns")
        self.topic_arn = session.topic_arn

    def all(self) -> Iterator[Subscription]:
        """Read all subscriptions, each with its attributes."""
        for one in self.listed():
            yield self._read(one)

    def listed(self) -> Iterator[Subscription]:
        """Read all subscriptions, without their attributes."""
        pages = self._sns.get_paginator("list_subscriptions_by_topic")
        for page in pages.paginate(TopicArn=self.topic_arn):
            for one in page["Subscriptions"]:
                yield Subscription(one["SubscriptionArn"], one["Endpoint"])

    def find(self, arn: QueueArn) -> Subscription | None:
        """Read a queue's subscription; there is one at most."""
        for one in self.listed():
            if one.endpoint == str(arn):
                return self._read(one)
        return None

    def put(
        self, arn: QueueArn, policy: Policy, known: Subscription | None, redrive: QueueArn | None
    ) -> Subscription:
        """
        Subscribe a queue, or change its subscription.

        Args:
            known: The one it has.

            redrive: Where goes what cannot be delivered.

        Raises:
            Misconfigured: SNS does not take the policy.
        """
        try:
            return self._put(arn, policy, known, redrive)
        except self._sns.exceptions.InvalidParameterException as error:
            if "FilterPolicy" not in str(error):
                raise
            # It counts a choice in a way that is not documented.
            raise Misconfigured(
                "filter: SNS finds the policy of these filters too complex; leave one of them "
                "out, or parts of them open, or subscribe several queues"
            ) from None

    def _put(
        self, arn: QueueArn, policy: Policy, known: Subscription | None, redrive: QueueArn | None
    ) -> Subscription:
        wanted = {"RawMessageDelivery": "true", "FilterPolicyScope": "MessageAttributes"}
        if redrive:
            wanted["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": str(redrive)})
        if known and not known.is_pending:
            self._change(known, wanted, policy)
            return self._read(known)
        if policy:
            wanted["FilterPolicy"] = json.dumps(policy)
        answer = self._sns.subscribe(
            TopicArn=self.topic_arn,
            Protocol="sqs",
            Endpoint=str(arn),
            Attributes=wanted,
            ReturnSubscriptionArn=True,
        )
        return self._read(Subscription(answer["SubscriptionArn"], str(arn)))

    def end(self, subscription: Subscription) -> None:
        """End a subscription; one that has ended is no error."""
        self._sns.unsubscribe(SubscriptionArn=subscription.arn)

    def _change(self, known: Subscription, wanted: Mapping[str, str], policy: Policy) -> None:
        def put(name: str, value: str) -> None:
            self._sns.set_subscription_attributes(
                SubscriptionArn=known.arn, AttributeName=name, AttributeValue=value
            )

        scope = known.attributes.get("FilterPolicyScope", "MessageAttributes")
        if known.policy and scope != "MessageAttributes":
            put("FilterPolicy", "{}")  # One that is not of the new scope.
        for name, value in wanted.items():
            if known.attributes.get(name) != value:
                put(name, value)
        if known.policy != policy or scope != "MessageAttributes":
            put("FilterPolicy", json.dumps(policy))

    def _read(self, one: Subscription) -> Subscription:
        if not one.arn.startswith("arn:"):
            return one
        try:
            answer = self._sns.get_subscription_attributes(SubscriptionArn=one.arn)
        except self._sns.exceptions.NotFoundException:  # It has ended meanwhile.
            return one
        return Subscription(one.arn, one.endpoint, answer["Attributes"])


def made_dead_letters(session: Session, arn: QueueArn) -> QueueArn:
    """Name the queue that is made for what cannot be delivered to another one."""
    stem = f"{session.name}-undelivered-{arn.name.removesuffix(FIFO)}"
    if not arn.beside(session.topic_arn):  # Other accounts may have a queue of the same name.
        stem += f"-{arn.account}"
    if len(stem) + len(FIFO) > NAME_CHARS_MAX:
        hashed = hashlib.sha256(stem.encode()).hexdigest()[:8]
        stem = f"{stem[: NAME_CHARS_MAX - len(FIFO) - 9]}-{hashed}"
    return QueueArn.named(stem + FIFO, session.topic_arn)


def make_dead_letters(session: Session, arn: QueueArn) -> QueueArn:
    """Make that queue, or have it let the topic in if it is there."""
    sqs, made = session.client("sqs"), made_dead_letters(session, arn)
    if found := find_queue(sqs, made):
        found.open_to(session.topic_arn)
    else:
        kept = {"MessageRetentionPeriod": str(RETENTION_S)}
        make_fifo(sqs, made, session.topic_arn, Attributes=kept)
    return made


def require_readable_key(session: Session, queue: Queue) -> str:
    """
    Look whether SNS may use the key of a queue.

    Returns:
        A warning, or nothing.

    Raises:
        Misconfigured: It never may.
    """
    key = queue.attributes().get("KmsMasterKeyId", "")
    if not key:
        return ""
    described = _described_key(session, key)
    if key.endswith(AWS_KEY) or described.get("KeyManager") == "AWS":
        raise Misconfigured(
            f"queue {queue.arn.name} is encrypted with AWS's own key {AWS_KEY}, which never lets "
            "SNS in; encrypt it with SqsManagedSseEnabled or with a key of yours"
        )
    if _lets_sns_in(session, described.get("KeyId", key)):
        return ""
    return (
        f"queue {queue.arn.name} is encrypted with the key {key}: its policy has to allow "
        f"kms:GenerateDataKey* and kms:Decrypt to the service {SNS}, or nothing arrives"
    )


def _described_key(session: Session, key: str) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = session.client("kms").describe_key(KeyId=key)["KeyMetadata"]
    except ClientError:  # It may not be ours to read.
        return {}
    return found


def _lets_sns_in(session: Session, key: str) -> bool:
    try:
        answer = session.client("kms").get_key_policy(KeyId=key, PolicyName="default")
        statements = json.loads(answer["Policy"])["Statement"]
    except (ClientError, KeyError, TypeError, ValueError):
        return False
    texts = [json.dumps(one) for one in statements if one.get("Effect") == "Allow"]
    return any(
        SNS in text and "kms:GenerateDataKey" in text and "Decrypt" in text for text in texts
    )
