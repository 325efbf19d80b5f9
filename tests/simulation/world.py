"""
The deployed system in one process: its time, its chance and every side effect are the world's.

The real handlers run as greenlets. Every call to AWS or to a provider is a numbered step: there
the others may go on, and there a fault may strike: the process dies before or after the effect, the
call fails before or after it, is made twice, or takes until the function's time is up. One seed is
one run; ``plan`` puts faults at chosen steps instead of drawing them.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from botocore.exceptions import ClientError
from greenlet import getcurrent, greenlet

from tests.simulation.aws import Aws
from tests.simulation.deployed import Need, needs, refused, service_needs
from tests.simulation.specs import Deployed, FunctionSpec, ScheduleSpec

#: 2027-01-15T08:00:00Z, the start of a minute.
START_MS = 1_800_000_000_000

CRASH_BEFORE, ERROR_BEFORE, TIMEOUT = "crash_before", "error_before", "timeout"
CRASH_AFTER, ERROR_AFTER, DUPLICATE = "crash_after", "error_after", "duplicate"
FAULTS = (CRASH_BEFORE, ERROR_BEFORE, CRASH_AFTER, ERROR_AFTER, DUPLICATE, TIMEOUT)

#: What AWS says when it does not do what it is asked for, or does not say that it did.
THROTTLED = {
    "dynamodb": "ProvisionedThroughputExceededException",
    "sqs": "RequestThrottled",
    "sns": "Throttled",
    "kms": "ThrottlingException",
}


#: Where a batch has its entries, each of which is taken or refused alone.
ENTRIES = {
    "ChangeMessageVisibilityBatch": "Entries",
    "PublishBatch": "PublishBatchRequestEntries",
    "SendMessageBatch": "Entries",
}

NONE: frozenset[str] = frozenset()
NOTHING: Mapping[Any, Any] = {}

#: Calls that may write the cursor of a stream.
WRITES = ("UpdateItem", "TransactWriteItems")

#: A message that is no job of ours.
POISON = "{}"

#: Who needed something, and what: action, resource, and the context as pairs.
Used = tuple[str, str, str, tuple[tuple[str, Any], ...]]

#: What was worked out of deployed policies: who needs which actions, and what of them is refused.
_PERMITTED: dict[int, tuple[Deployed, dict[Any, tuple[set[Used], list[Need]]]]] = {}


#: One of so many runs logs what goes well, too.
TALKATIVE = 24

#: One of so many planned runs has all of its calls validated.
VALIDATED = 8

#: One of so many runs is let go on when it is at rest, and its numbers read.
SILENT = 12


def chosen(what: str, seed: object, one_of: int) -> bool:
    """Choose one of so many seeds or plans, whatever else they are drawn or counted for."""
    return not zlib.crc32(f"{what} {seed}".encode()) % one_of


def is_silent(seed: int) -> bool:
    """Tell whether a run is let go on when it is at rest, to see that it has nothing to say."""
    return chosen("silence", seed, SILENT)


class Died(BaseException):
    """The process is gone: no ``except Exception`` sees it, and nothing it does has an effect."""


class Broken(BaseException):
    """A promise does not hold. No handler may take it for a failure of its own."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What the push function is at work for: something that was sent to a connection's URL."""

    connection: str
    account: str


@dataclass(eq=False, slots=True)
class Process:
    """
    One invocation.

    Attributes:
        accounts: Those that its jobs are about; empty for any.

        job: That it is at work for. account: Of a check, the one that is asked for right now.

        wake_ms: It goes on then, not before.

        ended: Called with itself and its answer, or ``None`` if it failed as a whole.

        held: A fault holds it until its time is up.

        tried: Jobs that its stage was given. done: Those that it did.

        unasked: Somebody was not asked for, as it was not the time.

        began_step, ended_step: Steps that there had been by then; -1 if it is still at work.

        struck: A fault has struck one of its calls to AWS.

        misled: It has read what was before.

        is_whole: It has ended, and nothing was in the way of what it wrote.

        leaving: Called when it has ended.
    """

    spec: FunctionSpec
    deadline_ms: int
    wake_ms: int
    accounts: frozenset[str]
    ended: Callable[[Process, Any], None]
    dead: bool = False
    job: Any = None
    account: str = ""
    held: bool = False
    tried: list[Any] = field(default_factory=list)
    done: list[Any] = field(default_factory=list)
    unasked: bool = False
    body: Callable[[], None] | None = None
    thread: greenlet | None = None
    began_step: int = 0
    ended_step: int = -1
    struck: bool = False
    misled: bool = False
    is_whole: bool = False
    leaving: Callable[[Process], None] | None = None


@dataclass
class Knobs:
    """
    What one run is like.

    Attributes:
        fault: Probability of a fault at a step.

        weights: Of the kinds of faults.

        stale: Probability that an eventually consistent read is of what was before.

        twice: Probability that a batch is handed out twice, or one message of it.

        lost, doubled, late: Probabilities of what becomes of a tick.

        refused: Probability that one entry of a batch is refused, or said to be.

        poison: Probability that a batch of jobs is followed by a message that is none, once a run.

        left: Probability that a batch of reads leaves some keys unread, or all.

        undelivered: Probability that SNS cannot deliver to a queue.

        slow: Probability that a provider takes seconds to answer.

        page_bytes: A page of a query is over with the item that passes this size; 0 for AWS's own.
    """

    fault: float = 0.0
    weights: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(FAULTS, 1.0))
    stale: float = 0.0
    twice: float = 0.0
    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    refused: float = 0.0
    poison: float = 0.0
    left: float = 0.0
    undelivered: float = 0.0
    slow: float = 0.0
    page_bytes: int = 0


class World:
    """
    Time, chance, faults and processes of one run.

    Args:
        plan: Fault by number of a step; ``None`` to draw them with *knobs*.

    Attributes:
        healthy: No more faults.

        is_terse: Only what goes wrong is logged.

        calls: To AWS, from anywhere on: each of all may be one that is looked at.

        validates: The parameters of each call are looked at as botocore does.

        reached: How often each thing of note happened.

        touched: Queues that something was done to, so that there may be messages to hand out.

        others_ms: Asked for the next instant at which something else is to be done than to go on
            with a process.

        permitted: Who was allowed what by now.

        vanished: Is told of a record that is taken to be deleted and was not missing before.

        turns, faults: Where it is drawn from who goes on and when, and what goes wrong.
        poisoned: The queue that has a message that is no job; empty for none.
    """

    def __init__(
        self, seed: int, deployed: Deployed, knobs: Knobs, plan: Mapping[int, str] | None = None
    ) -> None:
        self.deployed, self.knobs, self.plan = deployed, knobs, plan
        self.now_ms = START_MS
        # Two streams, and none of what happens at the providers: one more fault changes no turn,
        # and another turn no fault.
        self.turns = random.Random(f"turns {seed}")
        self.faults = random.Random(f"faults {seed}")
        self.aws = Aws(deployed, self.clock)
        self.aws.stale = self._is_stale
        self.aws.leave = self._left
        self.aws.delivers = self._delivers
        self.aws.page_bytes = knobs.page_bytes or self.aws.page_bytes
        self.steps = 0
        self.calls = zlib.crc32(b"%d" % seed)
        self.healthy = False
        self.injected: Counter[str] = Counter()
        self.reached: Counter[str] = Counter()
        self.trace: list[str] = []
        self.processes: list[Process] = []
        self.touched: set[str] = set()
        self.poisoned = ""
        self.current: Process | None = None
        self.witnesses: list[Callable[[Process | None, str, str, Mapping[str, Any]], None]] = []
        self.watchers: list[Callable[[str, str, tuple[int, ...], tuple[int, ...]], None]] = []
        self.written: Callable[[Mapping[str, Any]], None] = lambda item: None
        self.others_ms: Callable[[], int] = lambda: 0
        # Writing what goes well takes a good part of a run's time.
        of = seed if plan is None else f"{seed} {sorted(plan.items())}"
        self.is_terse = not chosen("talkative", of, TALKATIVE)
        self.validates = plan is not None and chosen("validated", of, VALIDATED)
        self.vanished: Callable[[str, str], None] = lambda pk, sk: None
        self._missing: set[tuple[str, str]] = set()
        self._outboxes: dict[tuple[str, str], Process | None] = {}
        self._main = getcurrent()
        self._permissions = _permissions(deployed)
        self.permitted: set[tuple[str, object]] = set()
        # As its `randrange` draws, which looks at its arguments each time.
        self._below_39 = partial(self.turns._randbelow, 39)  # type: ignore[attr-defined]
        self._kinds = list(knobs.weights)
        self._weights = list(knobs.weights.values())

    def clock(self) -> int:
        return self.now_ms

    # Side effects

    def step(
        self,
        kind: str,
        effect: Callable[[], Any],
        error: Callable[[], Exception],
        takes_ms: int = 0,
    ) -> Any:
        """
        Have a side effect of the process at work, or one of the faults.

        Args:
            error: Makes what is raised for a call that fails.

            takes_ms: How long it takes, beside what every call does.
        """
        process = self.current
        if process is None:
            return effect()
        fault = self._turn(process, kind, takes_ms)
        return self._have(process, fault, effect, error) if fault else effect()

    def _turn(self, process: Process, kind: str, takes_ms: int = 0) -> str:
        """Let the others go on before a side effect; return the fault that strikes it, if any."""
        if process.dead:
            raise Died
        number, self.steps = self.steps, self.steps + 1
        fault = "" if self.healthy else self._fault(number)
        process.wake_ms = self.now_ms + self._below_39() + 1 + takes_ms
        if fault:
            self.injected[fault] += 1
            process.struck |= kind != "http"
            self.trace.append(f"{number} {process.spec.name} {kind} {fault}")
        self._wait(process)
        return fault

    def sleep(self, seconds: float) -> None:
        """Have the process at work wait; the others go on."""
        process = self.current
        if process is not None:
            process.wake_ms = self.now_ms + int(seconds * 1000)
            self._wait(process)

    def _have(
        self,
        process: Process,
        fault: str,
        effect: Callable[[], Any],
        error: Callable[[], Exception],
    ) -> Any:
        if fault == TIMEOUT:
            process.held = True
            process.wake_ms = process.deadline_ms + 1
            self._wait(process)
        if fault == CRASH_BEFORE:
            self._die(process)
        if fault == ERROR_BEFORE:
            raise error()
        found = effect()
        if fault == CRASH_AFTER:
            self._die(process)
        if fault == ERROR_AFTER:
            raise error()
        # A call that was repeated though it had succeeded: the second answer is what comes back.
        return effect() if fault == DUPLICATE else found

    def _fault(self, number: int) -> str:
        if self.plan is not None:
            return self.plan.get(number, "")
        if self.faults.random() >= self.knobs.fault:
            return ""
        return self.faults.choices(self._kinds, self._weights)[0]

    def _wait(self, process: Process) -> None:
        if self._is_next(process):
            self.now_ms = process.wake_ms
        else:
            self._main.switch()
        if self.now_ms > process.deadline_ms:
            if not process.held:
                raise Broken(f"I11: {process.spec.name} is not done in {process.spec.timeout_s} s")
            self.reached["timed out"] += 1
            self._die(process)

    def _is_next(self, process: Process) -> bool:
        """Tell whether a process would be the next to go on: then nobody need be asked to."""
        if self.touched:
            return False
        wake_ms = process.wake_ms
        for one in self.processes:
            if one.wake_ms <= wake_ms and one is not process:
                return False
        return wake_ms < self.others_ms()

    def _die(self, process: Process) -> None:
        process.dead = True
        raise Died

    def _is_stale(self) -> bool:
        if self.current is None or self.healthy:
            return False
        is_stale = self.faults.random() < self.knobs.stale
        self.current.misled |= is_stale
        return is_stale

    def _strikes(self, probability: float) -> bool:
        """Draw what happens now and then, while anything may go wrong."""
        if not probability or self.current is None or self.healthy:
            return False
        return self.faults.random() < probability

    def _left(self, keys: int) -> int:
        """Say how many keys of a batch are left unread: the half of them, or all."""
        if not self._strikes(self.knobs.left):
            return 0
        self.injected["left unread"] += 1
        return keys // 2 if keys > 1 and self.faults.random() < 0.7 else keys

    def _delivers(self) -> bool:
        fails = self._strikes(self.knobs.undelivered)
        self.injected["undelivered"] += fails
        return not fails

    def takes_ms(self, most_s: float) -> int:
        """Say how long a provider takes to answer, beside what every call does."""
        if not self._strikes(self.knobs.slow):
            return 0
        self.injected["slow"] += 1
        return int(self.faults.choice((0.3, 0.7, 1.0)) * most_s * 1000)

    def call(self, service: str, operation: str, params: Mapping[str, Any]) -> Any:
        """
        Do what an AWS client is asked for, as the role at work.

        Raises:
            ClientError: AWS's own, or a fault's.
        """

        self.calls += 1
        process = self.current
        if process is None:
            return self._effect(service, operation, params)
        fault = self._turn(process, operation)
        if not fault:
            return self._effect(service, operation, params)
        done = False

        def error() -> ClientError:
            conflicts = operation == "TransactWriteItems" and not done
            if conflicts and self.faults.random() < 0.5:
                return _conflict(params)
            code = THROTTLED[service]
            return ClientError({"Error": {"Code": code, "Message": code}}, operation)

        def effect() -> Any:
            nonlocal done
            answer = self._effect(service, operation, params)
            done = True
            return answer

        return self._have(process, fault, effect, error)

    def _effect(self, service: str, operation: str, params: Mapping[str, Any]) -> Any:
        """Do a call, and have everybody look at it."""
        self._authorize(service, operation, params)
        for witness in self.witnesses:
            witness(self.current, service, operation, params)
        written = _cursors(operation, params) if operation in WRITES else ()
        cursors = {at: self._progress(at) for at in written} if written else NOTHING
        answer = self._fenced(service, operation, params, cursors)
        for at, before in cursors.items():
            for watcher in self.watchers:
                watcher(*at, before, self._progress(at))
        self._note(operation, params)
        if service == "sqs":
            self._touch(operation, params["QueueUrl"])
        return answer

    def _touch(self, operation: str, url: str) -> None:
        self.touched.add(url.rpartition("/")[2])
        if operation == "SendMessageBatch":
            self._poison(url)

    def _fenced(
        self, service: str, operation: str, params: Mapping[str, Any], cursors: Collection[Any]
    ) -> Any:
        try:
            answer = self._answer(service, operation, params)
        except ClientError as error:
            conflicts = ("ConditionalCheckFailedException", "TransactionCanceledException")
            if cursors and error.response["Error"]["Code"] in conflicts:
                self.reached["conflict of versions"] += 1
            raise
        for at in cursors:
            if "outbox" in self.aws.items[at]:
                self._outboxes.setdefault(at, self.current)
            elif self._outboxes.pop(at, self.current) is not self.current:
                self.reached["outbox published by another"] += 1
        return answer

    def require_told(self, pk: str) -> None:
        """I10: whoever did a job of a stream has told all that was decided before."""
        process, left_by = self.current, self._outboxes.get((pk, "cursor"))
        if not process or not left_by:
            return
        if left_by is process or -1 < left_by.ended_step <= process.began_step:
            raise Broken(f"I10: what was decided of {pk} waits for another job to be told")

    def _note(self, operation: str, params: Mapping[str, Any]) -> None:
        """Count what is worth to have been reached, and have looked at what was written."""
        if operation == "UpdateItem":
            self.written(self.aws.items[params["Key"]["pk"]["S"], params["Key"]["sk"]["S"]])
        elif operation == "PublishBatch":
            self.reached["published"] += len(params["PublishBatchRequestEntries"])
        elif operation == "TransactWriteItems":
            self._note_decision(params["TransactItems"])

    def _note_decision(self, actions: Iterable[Mapping[str, Any]]) -> None:
        for action in actions:
            item = action.get("Put", {}).get("Item", {})
            if "missing_at" in item or "gone" in item:
                self._note_missing(item)
            for name in ("back_digest", "missing_at", "gone", "reason"):
                self.reached[f"record: {name}"] += name in item
            self.reached["drain saved"] += (
                "drain"
                in action.get("Update", {}).get("UpdateExpression", "").partition("REMOVE")[0]
            )

    def _note_missing(self, item: Mapping[str, Any]) -> None:
        key = item["pk"]["S"], item["sk"]["S"]
        if "missing_at" in item:
            self._missing.add(key)
        elif key not in self._missing:
            self.vanished(*key)

    def _progress(self, at: tuple[str, str]) -> tuple[int, ...]:
        """Read what must never go down of a stream."""
        item = self.aws.items.get(at, {})
        names = ("version", "reached", "seq", "drained_at")
        return tuple([int(item[name]["N"]) if name in item else 0 for name in names])

    def _authorize(self, service: str, operation: str, params: Mapping[str, Any]) -> None:
        process = self.current
        if process is None:
            return
        # What a call needs follows from these; of a transaction, from the kinds of its parts.
        parts = context = NONE
        if service == "kms":
            context = frozenset(params.get("EncryptionContext", ()))
        elif operation == "TransactWriteItems":
            parts = frozenset([kind for one in params["TransactItems"] for kind in one])
        known = (service, operation, params.get("QueueUrl"), parts, context)
        if (process.spec.name, known) in self.permitted:
            return

        def wanted() -> list[Need]:
            own = needs(service, operation, params, self.deployed)
            return [*own, *service_needs(service, self.deployed)]

        self.require(process.spec.name, process.spec, known, wanted)

    def require(
        self,
        name: str,
        caller: FunctionSpec | ScheduleSpec,
        known: object,
        wanted: Callable[[], list[Need]],
    ) -> None:
        """
        I12: whatever is needed is allowed, also where the one that is refused would go on.

        Args:
            known: What is wanted follows from it.
        """
        if (name, known) in self.permitted:
            return
        permissions = self._permissions
        if (name, known) not in permissions:
            every = wanted()
            used = {(name, action, resource, _frozen(more)) for action, resource, more in every}
            permissions[name, known] = used, refused(caller, every, self.deployed)
        for action, resource, _ in permissions[name, known][1]:
            raise Broken(f"I12: {name} may not {action} on {resource}")
        self.permitted.add((name, known))

    def _answer(self, service: str, operation: str, params: Mapping[str, Any]) -> Any:
        """Do a call; of a batch, one entry may be refused, or be said to be though it was taken."""
        name = ENTRIES.get(operation)
        if not name or self.healthy or self.current is None:
            return self.aws.call(service, operation, params)
        if self.faults.random() >= self.knobs.refused:
            return self.aws.call(service, operation, params)
        entries, self.current.struck = params[name], True
        unlucky = entries[self.faults.randrange(len(entries))]
        others = [one for one in entries if one is not unlucky]
        failed = {"Id": unlucky["Id"], "Code": "InternalError", "SenderFault": False}
        if self.faults.random() < 0.5:
            self.injected["refused"] += 1
            answer = self.aws.call(service, operation, {**params, name: others}) if others else {}
        else:
            self.injected["refused though taken"] += 1
            answer = self.aws.call(service, operation, params)
        taken = [one for one in answer.get("Successful", ()) if one["Id"] != unlucky["Id"]]
        return {"Successful": taken, "Failed": [*answer.get("Failed", ()), failed]}

    def _poison(self, url: str) -> None:
        """Put a message that is no job beside jobs."""
        if self.poisoned or not self._strikes(self.knobs.poison):
            return
        self.injected["poison"] += 1
        self.poisoned = url.rpartition("/")[2]
        fifo = {"MessageGroupId": "poison", "MessageDeduplicationId": "poison"}
        of_queue = fifo if self.deployed.queues[self.poisoned].fifo else {}
        message = {"QueueUrl": url, "MessageBody": POISON, **of_queue}
        self.aws.call("sqs", "SendMessage", message)

    def used(self) -> set[Used]:
        """Say what was needed, by function or role: action, resource, context."""
        return set().union(*(self._permissions[one][0] for one in self.permitted))

    # Processes

    def start(
        self,
        spec: FunctionSpec,
        work: Callable[[Process], Any],
        ended: Callable[[Process, Any], None],
        accounts: Iterable[str] = (),
    ) -> Process:
        """Start an invocation; it runs when :meth:`run` lets it."""
        deadline_ms = self.now_ms + spec.timeout_s * 1000
        process = Process(
            spec, deadline_ms, self.now_ms, frozenset(accounts), ended, began_step=self.steps
        )

        def body() -> None:
            answer = None
            try:
                answer = work(process)
            except Died:
                pass
            except Exception as error:  # noqa: BLE001 - the function failed as a whole
                self.reached[f"failed: {type(error).__name__}"] += 1
                self.trace.append(f"{spec.name} failed: {error!r}")
            self.processes.remove(process)
            failed = answer is None or answer.get("batchItemFailures")
            process.is_whole = not (failed or process.dead or process.struck)
            process.ended_step = self.steps
            if process.leaving:
                process.leaving(process)
            # What a process that is gone would have answered reaches nobody.
            process.ended(process, None if process.dead else answer)

        process.body = body
        self.processes.append(process)
        return process

    def resume(self, process: Process) -> None:
        if process.thread is None:
            process.thread = _idle.pop() if _idle else greenlet(_serve)
        self.current = process
        try:
            process.thread.switch(process.body)  # It heeds the first of these only.
        finally:
            self.current = None

    def abandon(self) -> None:
        """End all that is still at work, as when a test is over."""
        for process in list(self.processes):
            process.dead = True
            if process.thread:
                process.thread.throw(Died)


#: Those that have nothing to do: the stack of a new one takes longer than much of what is done.
_idle: list[greenlet] = []


def _serve(body: Callable[[], None]) -> None:
    """Do what a greenlet is given, one after the other."""
    here = getcurrent()
    assert here.parent
    while True:
        body()
        del body  # It holds on to all of its run.
        _idle.append(here)
        body = here.parent.switch()


def _cursors(operation: str, params: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name the cursor items that a call may write."""
    writes: list[Mapping[str, Any]] = []
    if operation == "UpdateItem":
        writes = [params]
    elif operation == "TransactWriteItems":
        writes = [one["Update"] for one in params["TransactItems"] if "Update" in one]
    keys = [(one["Key"]["pk"]["S"], one["Key"]["sk"]["S"]) for one in writes]
    return [one for one in keys if one[1] == "cursor"]


def _conflict(params: Mapping[str, Any]) -> ClientError:
    """Make what AWS says of a transaction that met another one."""
    code, conflict = "TransactionCanceledException", {"Code": "TransactionConflict"}
    reasons = [conflict, *({"Code": "None"} for _ in params["TransactItems"][1:])]
    response: Any = {"Error": {"Code": code, "Message": code}, "CancellationReasons": reasons}
    return ClientError(response, "TransactWriteItems")


def _frozen(context: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (key, tuple(one) if isinstance(one, list) else one) for key, one in context.items()
    )


def _permissions(deployed: Deployed) -> dict[Any, tuple[set[Used], list[Need]]]:
    """Find what was worked out of these policies before."""
    return _PERMITTED.setdefault(id(deployed), (deployed, {}))[1]
