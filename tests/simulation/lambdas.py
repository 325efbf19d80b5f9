"""
What Lambda does: containers, event source mappings with partial batches, and the schedule.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any
from unittest import mock

import boto3
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator
from pollwire.events import iso
from pollwire.http import Hosts
from pollwire.providers import Provider
from pollwire.queues import Queues, Topic
from pollwire.secrets import Sealer
from pollwire.state import State
from pollwire.world import World as Pollwire

from tests.integration.system import Http
from tests.simulation.specs import FunctionSpec
from tests.simulation.world import Broken, Process, World
from tests.stack import ROOT

MINUTE_MS = 60_000

#: One of so many calls has its parameters validated.
VALIDATED = 16
NEVER_MS = 10**15

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    "POWERTOOLS_METRICS_NAMESPACE": "Pollwire",
    "LOG_LEVEL": "INFO",
}

_numbers = itertools.count()


@cache
def client(service: str) -> Any:
    with mock.patch.dict(os.environ, ENVIRONMENT):
        return boto3.Session(region_name="us-east-1").client(service)


def _load(stage: str) -> ModuleType:
    """Import a function's module once more, as a container's cold start does."""
    path = ROOT / "functions" / stage / "app.py"
    found = importlib.util.spec_from_file_location(f"sim_{stage}_{next(_numbers)}", path)
    assert found
    assert found.loader
    module = importlib.util.module_from_spec(found)
    with mock.patch.dict(os.environ, {**ENVIRONMENT, "POWERTOOLS_SERVICE_NAME": stage}):
        found.loader.exec_module(module)
    return module


#: Modules by stage that no container uses at the moment: importing takes longer than a run.
_spare: dict[str, list[ModuleType]] = defaultdict(list)

_validator = ParamValidator()


def _bound(world: World) -> Callable[[BaseClient, str, Any], Any]:
    """Make what takes the place of botocore's way to the network."""

    def call(self: BaseClient, operation: str, params: Any) -> Any:
        model = self.meta.service_model
        # Each of all calls is validated in some of the runs; each call of a run that is planned.
        if world.plan is not None or not world.steps % VALIDATED:
            shape = model.operation_model(operation).input_shape
            report = _validator.validate(params, shape)
            if report.has_errors():
                raise Broken(f"{operation}: {report.generate_report()}")
        try:
            return world.call(model.service_name, operation, params)
        except ClientError as error:
            kind = self.exceptions.from_code(error.response["Error"]["Code"])
            if isinstance(error, kind):
                raise
            raise kind(error.response, operation) from None

    return call


@dataclass
class Context:
    """What Lambda tells a function of its invocation."""

    function_name: str
    remaining_ms: Callable[[], int]
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:pollwire"
    aws_request_id: str = "00000000-0000-0000-0000-000000000000"

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining_ms()


@dataclass(eq=False)
class Container:
    """One instance of a function: its module, and what it keeps between invocations."""

    module: ModuleType
    pollwire: Pollwire


class Lambda:
    """
    Runs the deployed functions in a world.

    Args:
        http: Makes what a container asks providers with.
    """

    def __init__(
        self,
        world: World,
        providers: Mapping[str, Provider],
        hosts: Hosts,
        http: Callable[[], Http],
    ) -> None:
        self.world, self.providers, self.hosts, self._http = world, providers, hosts, http
        self.logs = io.StringIO()
        self.begun = 0
        self._warm: dict[str, list[Container]] = defaultdict(list)
        self._made: list[tuple[str, ModuleType]] = []
        self._busy: dict[str, int] = defaultdict(int)
        self._next_ms: dict[str, int] = {}
        self._mapped = {one.queue: one for one in world.deployed.functions.values() if one.queue}
        self.soonest_ms = NEVER_MS
        (self._schedule,) = (
            one for one in world.deployed.functions.values() if one.stage == "schedule"
        )

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have every AWS client of the process talk to this world."""
        real, stdout = BaseClient._make_api_call, sys.stdout
        BaseClient._make_api_call = _bound(self.world)  # type: ignore[method-assign]
        sys.stdout = self.logs
        try:
            yield
        finally:
            self.world.abandon()
            BaseClient._make_api_call = real  # type: ignore[method-assign]
            sys.stdout = stdout
            for stage, module in self._made:
                _spare[stage].append(module)

    def pollwire(self) -> Pollwire:
        """Build what a container builds at its cold start."""
        deployed = self.world.deployed
        variables = next(iter(deployed.functions.values())).environment
        return Pollwire(
            state=State(client("dynamodb"), deployed.table),
            queues=Queues(
                client("sqs"), variables["CHECKS_QUEUE_URL"], variables["DELTAS_QUEUE_URL"]
            ),
            topic=Topic(client("sns"), deployed.topic),
            sealer=Sealer(client("kms"), deployed.key_arn, self.world.clock),
            http=self._http(),  # type: ignore[arg-type]
            hosts=self.hosts,
            providers=self.providers,
            clock=self.world.clock,
            jitter=lambda: 0.5,
        )

    def _container(self, spec: FunctionSpec) -> Container:
        if self._warm[spec.name]:
            return self._warm[spec.name].pop()
        module = _spare[spec.stage].pop() if _spare[spec.stage] else _load(spec.stage)
        self._made.append((spec.stage, module))
        level = logging.WARNING if self.world.is_terse else logging.INFO
        if module.logger.log_level != level:
            module.logger.setLevel(level)
        for handler in module.logger.handlers:
            handler.setStream(self.logs)
        container = Container(module, self.pollwire())
        module.world = lambda: container.pollwire  # type: ignore[attr-defined]
        return container

    # Invocations

    def _invoke(
        self,
        spec: FunctionSpec,
        event: Mapping[str, Any],
        ended: Callable[[Any], None],
        accounts: frozenset[str] = frozenset(),
    ) -> None:
        container = self._container(spec)

        def work(process: Process) -> Any:
            context = Context(spec.name, lambda: process.deadline_ms - self.world.now_ms)
            try:
                answer = container.module.handler(event, context)
            except BaseException:
                # Nobody goes on with the memory of a process that died, in no other run either.
                self._made.remove((spec.stage, container.module))
                raise
            self._warm[spec.name].append(container)
            return {} if answer is None else answer

        self.world.start(spec, work, ended, accounts)

    def tick(self, minute_ms: int) -> None:
        """Invoke the schedule for a minute; nobody tries again if that fails."""
        self.begun += 1
        event = {"time": iso(minute_ms)}
        assert not self._schedule.retries
        self._invoke(self._schedule, event, lambda answer: None)

    def poll(self) -> None:
        """Hand out messages of every queue that may have some."""
        now_ms, touched = self.world.now_ms, self.world.touched
        if self.soonest_ms <= now_ms:
            touched.update(queue for queue, at_ms in self._next_ms.items() if at_ms <= now_ms)
        elif not touched:
            return
        for queue in sorted(touched):
            spec = self._mapped.get(queue)
            touched.discard(queue)
            while spec and self._busy[spec.name] < spec.concurrency:
                if not self._receive(spec):
                    waiting = (one.visible_ms for one in self.world.aws.messages(queue))
                    later = [at_ms for at_ms in waiting if at_ms > now_ms]
                    self._next_ms[queue] = min(later, default=NEVER_MS)
                    break
            else:
                # It is touched again when one of its invocations ends.
                self._next_ms[queue] = NEVER_MS
        self.soonest_ms = min(self._next_ms.values(), default=NEVER_MS)

    def _receive(self, spec: FunctionSpec) -> bool:
        now_ms = self.world.now_ms
        if not any(one.visible_ms <= now_ms for one in self.world.aws.messages(spec.queue)):
            return False
        url = self.world.deployed.queues[spec.queue].url
        self._mapping_may(spec)
        answer = self.world.aws.call(
            "sqs",
            "ReceiveMessage",
            {
                "QueueUrl": url,
                "MaxNumberOfMessages": min(spec.batch, 10),
                "MessageSystemAttributeNames": ["All"],
            },
        )
        messages = answer.get("Messages", [])
        if not messages:
            return False
        times = 2 if not self.world.healthy and self._by_chance(self.world.knobs.twice) else 1
        self.world.reached["handed out twice"] += times - 1
        for _ in range(times):
            self._hand_over(spec, url, messages)
        return True

    def _mapping_may(self, spec: FunctionSpec) -> None:
        actions, missing = self.world.mapping(spec)
        self.world.used.update((spec.name, action) for action in actions)
        if missing:
            raise Broken(f"I12: {spec.name} cannot be triggered: {missing}")

    def _hand_over(self, spec: FunctionSpec, url: str, messages: list[dict[str, Any]]) -> None:
        arn = self.world.deployed.queues[spec.queue].arn
        records = [_record(message, arn) for message in messages]
        self._busy[spec.name] += 1

        def ended(answer: Any) -> None:
            self._busy[spec.name] -= 1
            self.world.touched.add(spec.queue)
            failed = _failed(answer, [record["messageId"] for record in records], spec.partial)
            for message in messages:
                if message["MessageId"] not in failed:
                    self.world.aws.delete(url, message["ReceiptHandle"])
                else:
                    self.world.reached["job failed"] += 1

        self._invoke(spec, {"Records": records}, ended, _accounts(records))

    def depths(self) -> dict[str, int]:
        """Count what is queued for functions, in flight or not."""
        return {one.queue: len(self.world.aws.messages(one.queue)) for one in self._mapped.values()}

    def _by_chance(self, probability: float) -> bool:
        return probability > 0 and self.world.chance.random() < probability


def _accounts(records: list[dict[str, Any]]) -> frozenset[str]:
    found = set()
    for record in records:
        try:
            found.add(json.loads(record["body"]).get("account", ""))
        except (ValueError, AttributeError):
            return frozenset()
    return frozenset(found - {""})


def _failed(answer: Any, ids: list[str], partial: bool) -> set[str]:
    """Read a function's answer as Lambda does: what cannot be read fails the whole batch."""
    if answer is None:
        return set(ids)
    if not partial or not answer or answer.get("batchItemFailures") in (None, []):
        return set()
    try:
        named = [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]
    except (KeyError, TypeError):
        return set(ids)
    return set(named) if set(named) <= set(ids) else set(ids)


def _record(message: Mapping[str, Any], arn: str) -> dict[str, Any]:
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message.get("Attributes", {}),
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": "us-east-1",
    }
