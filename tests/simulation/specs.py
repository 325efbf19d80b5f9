"""
What is deployed, as the simulation needs to know it; read from template.yaml by ``deployed.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """
    A queue.

    Attributes:
        dead_letters: Name of the queue that takes what was received too often; empty for none.

        receives: How often a message is handed out before that.

        deduplicates_by_group: The queue forgets within a message group only.

        key_arn: Of the KMS key that it is encrypted with; empty for SQS's own.
    """

    name: str
    arn: str
    url: str
    fifo: bool
    visibility_s: int
    retention_s: int
    dead_letters: str = ""
    receives: int = 0
    deduplicates_by_group: bool = False
    key_arn: str = ""


@dataclass(frozen=True, slots=True)
class SubscriptionSpec:
    """
    A subscription of a queue to the topic.

    Attributes:
        policy: Filter policy over message attributes; ``None`` for every event.

        dead_letters: Name of the queue that takes what could not be delivered; empty for none.

        senders: ARNs of topics that the queue's own policy lets send.

        dead_letter_senders: The same of the queue *dead_letters*.
    """

    queue: str
    policy: Mapping[str, Any] | None
    raw: bool
    dead_letters: str
    senders: frozenset[str]
    dead_letter_senders: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Statement:
    """
    A statement of a policy, its intrinsic functions worked out.

    Attributes:
        conditions: As in the policy: operator -> key -> values.

        principals: ``*``, ARNs and names of services; none in a role's policy.
    """

    effect: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: Mapping[str, Any]
    principals: tuple[str, ...] = ()


@dataclass(frozen=True)
class FunctionSpec:
    """
    A function.

    Attributes:
        stage: ``schedule``, ``push``, ``check`` or ``delta``.

        queue: Name of the queue that triggers it; empty for the first two.

        batch: Messages an invocation at most.

        partial: Its answer about single messages is heeded (``ReportBatchItemFailures``).

        concurrency: Invocations at once at most, of its queue; 0 for no limit of its own.

        statements: What its role may.

        retries: Of an asynchronous invocation that failed.

        role: ARN of its role, with the role's path.

        log_group: Name of where it logs.
    """

    name: str
    stage: str
    stream: str
    timeout_s: int
    environment: Mapping[str, str]
    statements: tuple[Statement, ...]
    queue: str = ""
    batch: int = 0
    partial: bool = False
    concurrency: int = 0
    retries: int = 0
    role: str = ""
    log_group: str = ""

    @cached_property
    def kind(self) -> tuple[Any, ...]:
        """What tells its code from another's: its stage, and the variables of its environment."""
        return (self.stage, *sorted(self.environment.items()))


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """
    A schedule.

    Attributes:
        function: Name of the function that it invokes.

        input: Event, before the scheduler puts in the time.

        retries: Of an invocation that Lambda did not take.

        role: ARN of the scheduler's role, and *statements* what it may.

        group: ARN of its schedule group.
    """

    function: str
    expression: str
    input: str
    retries: int
    role: str
    statements: tuple[Statement, ...]
    group: str


@dataclass(frozen=True, slots=True)
class Deployed:
    """
    Everything that is deployed.

    Attributes:
        queues: By name. functions: By name.

        deduplicates_by_group: The topic forgets within a message group only.

        policies: Statements of the queues', the topic's and the key's own policies, by ARN.
    """

    queues: Mapping[str, QueueSpec]
    functions: Mapping[str, FunctionSpec]
    topic: str
    deduplicates_by_group: bool
    subscriptions: tuple[SubscriptionSpec, ...]
    table: str
    key_arn: str
    schedules: tuple[ScheduleSpec, ...] = ()
    policies: Mapping[str, tuple[Statement, ...]] = field(default_factory=dict)
