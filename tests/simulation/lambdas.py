"""
What Lambda does: containers, event source mappings with partial batches, and the schedule.
"""

from __future__ import annotations

import inspect
import io
import itertools
import json
import logging
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache, partial
from types import CodeType, ModuleType
from typing import Any

import boto3
from aws_lambda_powertools import Logger
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator
from pollwire import batches, pipeline, push, queues
from pollwire.batches import Metrics
from pollwire.http import Hosts
from pollwire.providers import Provider
from pollwire.queues import Queues, Topic
from pollwire.registry import Registry
from pollwire.secrets import Sealer
from pollwire.state import State, stream_pk
from pollwire.wiring import Settings
from pollwire.world import World as Pollwire

from tests.integration.system import Http
from tests.simulation.deployed import fires, log_needs, mapping_needs, schedule_needs
from tests.simulation.specs import FunctionSpec
from tests.simulation.world import POISON, Broken, Process, Sent, World
from tests.stack import ROOT

MINUTE_MS = 60_000

#: One of so many calls has its parameters validated.
VALIDATED = 256
NEVER_MS = 10**15

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
}

#: What tells one job from another, in the message and in what is read of it.
JOB = ("connection", "shard", "account", "stream", "due_ms", "after_s")

_numbers = itertools.count()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, text in before.items():
            if text is None:
                del os.environ[name]
            else:
                os.environ[name] = text


@cache
def client(service: str) -> Any:
    with _environment(ENVIRONMENT):
        made = boto3.Session(region_name="us-east-1").client(service)
    for name, operation in made.meta.method_to_api_mapping.items():
        setattr(made, name, partial(_called, made, operation))
    return made


def _called(client: BaseClient, operation: str, **params: Any) -> Any:
    """Make a call as a client's own methods do, without what they prepare for the network."""
    return client._make_api_call(operation, params)


@cache
def _state(table: str) -> State:
    """Make it once: it remembers nothing, and has the client remember what it registers there."""
    return State(client("dynamodb"), table)


@cache
def _scheduled(event: str, minute_ms: int) -> Mapping[str, Any]:
    """Make what the schedule invokes its function with in a minute."""
    at = datetime.fromtimestamp(minute_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    made: Mapping[str, Any] = json.loads(event.replace("<aws.scheduler.scheduled-time>", at))
    return made


@cache
def _settings(variables: tuple[tuple[str, str], ...]) -> Settings:
    return Settings.read(dict(variables))


@cache
def _registry(table: str) -> Registry:
    return Registry(client("dynamodb"), table)


@cache
def _code(stage: str) -> CodeType:
    path = ROOT / "functions" / stage / "app.py"
    return compile(path.read_bytes(), str(path), "exec", dont_inherit=True)


def _load(spec: FunctionSpec) -> ModuleType:
    """Import a function's module once more, as a container's cold start does."""
    module = ModuleType(f"sim_{spec.stage}_{next(_numbers)}")
    with _environment({**ENVIRONMENT, **spec.environment}):
        exec(_code(spec.stage), module.__dict__)  # noqa: S102 - the project's own source
    if spec.queue:
        # Powertools looks for it at every batch.
        each = getattr(module, spec.stage)
        each.__signature__ = inspect.signature(each)
    return module


def _unheard(*_: Any, **__: Any) -> None:
    """Take the place of what is said and counted where nobody reads it."""


#: What takes the place of what in a run that nobody reads about.
UNHEARD = (
    (batches, "count", _unheard), (Metrics, "add_metric", _unheard), (Logger, "info", _unheard),
)  # fmt: skip


@contextmanager
def _replaced(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    """Have attributes of modules and classes replaced; ``mock.patch`` takes its time."""
    before = [(owner, name, vars(owner).get(name)) for owner, name, _ in changes]
    for change in changes:
        setattr(*change)
    try:
        yield
    finally:
        for owner, name, value in before:
            if value is None:
                delattr(owner, name)  # It was inherited.
            else:
                setattr(owner, name, value)


#: What a module is used with: its level of logging, its stage and its environment.
Kind = tuple[Any, ...]

#: Modules that no container uses at the moment: importing takes longer than a run.
_spare: dict[Kind, list[ModuleType]] = defaultdict(list)

_validator = ParamValidator()


def _bound(world: World) -> Callable[[BaseClient, str, Any], Any]:
    """Make what takes the place of botocore's way to the network."""

    def call(self: BaseClient, operation: str, params: Any) -> Any:
        model = self.meta.service_model
        # Each of all calls is validated in some of the runs.
        if world.validates or not world.calls % VALIDATED:
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
    handler: Callable[..., Any]


class Lambda:
    """
    Runs the deployed functions in a world.

    Args:
        http: Makes what a container asks providers with.

    Attributes:
        is_loud: Everything is logged, as an operator may set it.
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
        self.is_loud = False
        self.begun = 0
        self._warm: dict[str, list[Container]] = defaultdict(list)
        self._made: list[tuple[Kind, ModuleType]] = []
        self._at_work: set[str] = set()
        self._busy: dict[str, int] = defaultdict(int)
        self._next_ms: dict[str, int] = {}
        self._mapped = {one.queue: one for one in world.deployed.functions.values() if one.queue}
        self.soonest_ms = NEVER_MS

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have every AWS client of the process talk to this world."""
        real, out = BaseClient._make_api_call, (sys.stdout, sys.stderr)
        BaseClient._make_api_call = _bound(self.world)  # type: ignore[method-assign]
        sys.stdout = sys.stderr = self.logs
        product, handler = logging.getLogger("pollwire"), logging.StreamHandler(self.logs)
        root = logging.getLogger()
        level = root.level
        if self.is_loud:
            product.addHandler(handler)
            product.setLevel(logging.DEBUG)
        else:
            # Whoever has all tests talk at DEBUG gets what the loud ones say: it takes long.
            if level < logging.INFO:
                root.setLevel(logging.INFO)
        watched = (
            (pipeline, "check", self._noting(pipeline.check)),
            (pipeline, "delta", self._noting(pipeline.delta)),
            (push, "receive", self._counting(push.receive)),
        )
        try:
            with _replaced(*watched, *(UNHEARD if self._is_plain else ())):
                yield
        finally:
            self.world.abandon()
            BaseClient._make_api_call = real  # type: ignore[method-assign]
            sys.stdout, sys.stderr = out
            if root.level != level:
                root.setLevel(level)
            if self.is_loud:
                product.removeHandler(handler)
                product.setLevel(logging.NOTSET)
            # Once only: two containers that share a module share what it keeps of a batch.
            self._warm.clear()
            while self._made:
                kind, module = self._made.pop()
                _spare[kind].append(module)

    @property
    def _is_plain(self) -> bool:
        """Nobody reads what is logged and counted of what goes well: it takes a tenth of a run."""
        return self.world.is_terse and not self.is_loud

    def _noting(self, stage: Callable[..., Any]) -> Callable[..., Any]:
        """Have a process remember which jobs its stage did."""

        def noting(pollwire: Pollwire, job: Any, *more: Any) -> Any:
            process, known = self.world.current, tuple([getattr(job, name, None) for name in JOB])
            assert process
            process.tried.append(known)
            counts = stage(pollwire, job, *more)
            process.done.append(known)
            process.unasked |= bool(counts["unasked"])
            if counts["jobs"]:
                self.world.require_told(stream_pk(job))
            self._count(counts)
            return counts

        return noting

    def _counting(self, receive: Callable[..., push.Answer]) -> Callable[..., push.Answer]:
        """Count what became of what was sent."""

        def counting(pollwire: Pollwire, event: Mapping[str, Any]) -> push.Answer:
            answer = receive(pollwire, event)
            self._count(answer.counts)
            return answer

        return counting

    def _count(self, counts: Mapping[str, int]) -> None:
        for name, number in counts.items():
            self.world.reached[f"count: {name}"] += number

    def pollwire(self, spec: FunctionSpec | None = None) -> Pollwire:
        """Build what a container builds at its cold start; without a function, what one at hand."""
        of = self.world.deployed
        settings = Settings(of.table, "", "", of.topic, of.key_arn, "")
        if spec:
            settings = _settings(spec.kind[1:])
        return Pollwire(
            state=_state(settings.table_name),
            queues=Queues(client("sqs"), settings.checks_queue_url, settings.deltas_queue_url),
            topic=Topic(client("sns"), settings.events_topic_arn),
            sealer=Sealer(client("kms"), settings.key_arn, self.world.clock),
            http=self._http(),  # type: ignore[arg-type]
            hosts=self.hosts,
            providers=self.providers,
            clock=self.world.clock,
            jitter=lambda: 0.5,
            sleep=self.world.sleep,
        )

    def registry(self) -> Registry:
        """Give what an operator has at hand."""
        return _registry(self.world.deployed.table)

    def _container(self, spec: FunctionSpec) -> Container:
        if self._warm[spec.name]:
            return self._warm[spec.name].pop()
        level = logging.WARNING if self.world.is_terse else logging.INFO
        level = logging.DEBUG if self.is_loud else level
        kind = (level, *spec.kind)
        module = _spare[kind].pop() if _spare[kind] else _load(spec)
        self._made.append((kind, module))
        if module.logger.log_level != level:
            module.logger.setLevel(level)
        for handler in module.logger.handlers:
            handler.setStream(self.logs)
        handler = inspect.unwrap(module.handler) if self._is_plain else module.handler
        container = Container(module, self.pollwire(spec), handler)
        module.world = lambda: container.pollwire  # type: ignore[attr-defined]
        if spec.queue:
            name = f"read_{spec.stage}"
            setattr(module, name, self._reading(getattr(queues, name)))
        return container

    def _reading(self, read: Callable[[str], Any]) -> Callable[[str], Any]:
        """Note which of its jobs an invocation is at work for."""

        def noted(body: str) -> Any:
            job = read(body)
            if self.world.current:
                self.world.current.job, self.world.current.account = job, ""
            return job

        return noted

    # Invocations

    def _log(self, error: BaseException | None) -> None:
        """Log what a handler raised, and why, as the runtime does."""
        while isinstance(error, Exception):
            self.logs.write(f"{error}\n")
            error = error.__cause__ or error.__context__

    def _invoke(
        self,
        spec: FunctionSpec,
        event: Mapping[str, Any],
        ended: Callable[[Process, Any], None],
        accounts: frozenset[str] = frozenset(),
    ) -> Process:
        self.world.require(spec.name, spec, "logs", partial(log_needs, spec))
        container = self._container(spec)

        def work(process: Process) -> Any:
            context = Context(spec.name, lambda: process.deadline_ms - self.world.now_ms)
            try:
                answer = container.handler(event, context)
            except BaseException as error:
                self._log(error)
                # Nobody goes on with the memory of a process that died, in no other run either.
                self._made = [one for one in self._made if one[1] is not container.module]
                raise
            self._warm[spec.name].append(container)
            return {} if answer is None else answer

        return self.world.start(spec, work, ended, accounts)

    def tick(self, minute_ms: int) -> None:
        """Have a minute scheduled, if the schedule fires; nobody tries again if that fails."""
        (schedule,) = self.world.deployed.schedules
        if not fires(schedule.expression, minute_ms // MINUTE_MS):
            return
        self.begun += 1
        wanted = partial(schedule_needs, schedule)
        self.world.require(schedule.role, schedule, "schedule", wanted)
        spec = self.world.deployed.functions[schedule.function]
        assert not spec.retries
        assert not schedule.retries
        event = _scheduled(schedule.input, minute_ms)
        self._invoke(spec, event, lambda process, answer: None)

    def push(self, event: Mapping[str, Any], sent: Sent, *, refused: bool) -> None:
        """Have something taken that was sent to the function URL; nobody waits for the answer."""
        (spec,) = (one for one in self.world.deployed.functions.values() if one.stage == "push")

        def ended(process: Process, answer: Any) -> None:
            if refused and answer and answer["statusCode"] == 200:
                raise Broken(f"I5: somebody notifies in the name of {sent.connection}")

        self._invoke(spec, event, ended).job = sent

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
        waiting = self.world.aws.messages(spec.queue)
        if not waiting or min([one.visible_ms for one in waiting]) > now_ms:
            return False
        url = self.world.deployed.queues[spec.queue].url
        wanted = partial(mapping_needs, spec, self.world.deployed)
        self.world.require(spec.name, spec, "mapping", wanted)
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
        for message in messages:
            if message["MessageId"] in self._at_work:
                raise Broken(f"I8: {spec.queue} hands a job out again that {spec.name} is still at")
        if not self.world.healthy and self._by_chance(self.world.knobs.twice):
            self.world.reached["handed out twice"] += 1
            whole = self.world.faults.random() < 0.5
            again = messages if whole else [self.world.faults.choice(messages)]
            self._hand_over(spec, url, again)
        else:
            # What is handed out twice may be made visible by one that ends before the other.
            self._at_work.update(message["MessageId"] for message in messages)
        self._hand_over(spec, url, messages)
        return True

    def _hand_over(self, spec: FunctionSpec, url: str, messages: list[dict[str, Any]]) -> None:
        arn = self.world.deployed.queues[spec.queue].arn
        records = [_record(message, arn) for message in messages]
        self._busy[spec.name] += 1

        def ended(process: Process, answer: Any) -> None:
            self._busy[spec.name] -= 1
            self.world.touched.add(spec.queue)
            self._at_work.difference_update(record["messageId"] for record in records)
            failed = _failed(answer, [record["messageId"] for record in records], spec.partial)
            if answer is None and not process.dead:
                raise Broken(f"I6: {spec.name} failed as a whole")
            if not process.dead:
                _account(process, records, failed)
            for message in messages:
                if message["MessageId"] not in failed:
                    self.world.aws.delete(url, message["ReceiptHandle"])
                else:
                    self.world.reached["job failed"] += 1

        self._invoke(spec, {"Records": records}, ended, _accounts(records))

    def depths(self, *, held: bool) -> dict[str, int]:
        """Count what is queued for functions, in flight or not; what is held back yet if asked."""
        now_ms = self.world.now_ms
        return {
            one.queue: sum(
                held or message.receives > 0 or message.visible_ms <= now_ms
                for message in self.world.aws.messages(one.queue)
            )
            for one in self._mapped.values()
        }

    def held_ms(self) -> Iterator[int]:
        """Name the instants by which what is held back or in flight was received again."""
        for one in self._mapped.values():
            for message in self.world.aws.messages(one.queue):
                yield message.visible_ms + 1

    def _by_chance(self, probability: float) -> bool:
        return probability > 0 and self.world.faults.random() < probability


def _accounts(records: list[dict[str, Any]]) -> frozenset[str]:
    found = set()
    for record in records:
        try:
            found.add(_fields(record["body"]).get("account", ""))
        except (ValueError, AttributeError):
            return frozenset()
    return frozenset(found - {""})


@lru_cache(maxsize=256)
def _fields(body: str) -> Any:
    """Read a message, to look at only."""
    return json.loads(body)


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


def _job(fields: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple([fields.get(name) for name in JOB])


def _account(process: Process, records: list[dict[str, Any]], failed: set[str]) -> None:
    """I8: a job is deleted if it was done, and only then."""
    jobs = [_job(_fields(record["body"])) for record in records]
    ended = zip(jobs, records, strict=True)
    deleted = [job for job, record in ended if record["messageId"] not in failed]
    if deleted == process.done and len(process.tried) == len(jobs):
        return
    _isolation(process, records, jobs, failed)
    if lost := Counter(deleted) - Counter(process.done):
        raise Broken(f"I8: {process.spec.name} did not do {list(lost)}, and it is deleted")
    if again := Counter(process.done) - Counter(deleted):
        raise Broken(f"I8: {process.spec.name} did {list(again)}, and it is handed out again")


def _isolation(
    process: Process, records: list[dict[str, Any]], jobs: list[Any], failed: set[str]
) -> None:
    """I6: a job is left undone for the failure of one before it in its group, and of no other."""
    groups = set()
    for record, job in zip(records, jobs, strict=True):
        group = record["attributes"].get("MessageGroupId", record["messageId"])
        tried = record["body"] == POISON or job in process.tried
        if not tried and group not in groups:
            raise Broken(f"I6: {process.spec.name} left {record['body']} out")
        if record["messageId"] in failed:
            groups.add(group)
        elif group in groups:
            raise Broken(f"I2: {process.spec.name} did {record['body']} before one that failed")


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
