"""
What is compared: each tool runs cycles, and tells what they took and what they delivered.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Protocol

import boto3
from pollwire.events import iso
from pollwire.items import Newcomer
from pollwire.model import Connection
from pollwire.registry import Registry
from pollwire.secrets import Sealer

from local.environments import ROOT, WORK
from tests.bench.peers.aws import Service
from tests.simulation.aws import Aws
from tests.simulation.deployed import deployed
from tests.simulation.lambdas import ENVIRONMENT, _failed, _record
from tests.simulation.specs import FunctionSpec

HERE = Path(__file__).parent
FOLDER = WORK / "peers"

MINUTE_MS = 60_000
KEY = "kdv_live_benchBENCHbenchBENCHbench"

#: What is measured begins two days ago, so that nobody takes a row for one of the future.
BEGIN_MS = -2 * 24 * 60 * MINUTE_MS


class Late(Exception):
    """A step took longer than it may."""


class Ended(Exception):
    """A process that should have stayed did not."""


@dataclass(frozen=True, slots=True)
class Figures:
    """
    What a cycle took.

    Attributes:
        state: Bytes that were written to remember where to go on.

        items: Written to a table, for the tool that has one.

        error: What it failed with; empty if it did not.
    """

    wall_s: float
    cpu_s: float
    rss_mb: float
    state: int
    items: int = 0
    error: str = ""


class Clock:
    """The time at the provider, and Pollwire's: the machine's, moved on between cycles."""

    def __init__(self, moved: Callable[[int], object]) -> None:
        self.offset_ms = BEGIN_MS
        self._moved = moved
        moved(self.offset_ms)

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.offset_ms

    def move_to(self, at_ms: int) -> None:
        self.offset_ms += max(at_ms - self.now_ms(), 0)
        self._moved(self.offset_ms)


class Upstream:
    """The provider, in its process."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._connection = HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, what: str, *arguments: Any) -> Any:
        self._connection.request("POST", f"/admin/{what}", json.dumps(arguments))
        return json.loads(self._connection.getresponse().read())

    def wait_held(self, child: subprocess.Popen[Any], deadline_s: float) -> bool:
        """Wait until a request is held back; false if the one that asks ended before."""
        while child.poll() is None:
            if self.ask("counts")["held"]:
                return True
            if time.monotonic() > deadline_s:
                raise Late
            time.sleep(0.01)
        return False


@contextmanager
def upstream() -> Iterator[Upstream]:
    """Run the provider."""
    with child([sys.executable, str(HERE / "provider.py")], os.environ) as process:
        assert process.stdout
        yield Upstream(int(process.stdout.readline()))


@contextmanager
def child(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a child that is spoken to, and end it."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(FOLDER / "children.log").open("ab"),
        text=True,
        cwd=ROOT,
        env=dict(environment),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class Tool(Protocol):
    """One way to poll."""

    name: str

    def begin(self, upstream: Upstream, clock: Clock, accounts: list[str]) -> None:
        """Start from nothing."""

    def cycle(self, deadline_s: float) -> Figures:
        """Ask for every account once, a minute after the last time."""

    def killed(self, deadline_s: float) -> bool:
        """Run a cycle that is killed when the provider holds a request back; false if none was."""

    def delivered(self) -> list[str]:
        """Name the rows that were delivered so far, each as often as it was."""

    def end(self) -> None:
        """End what is still running."""


@dataclass
class Peer:
    """
    A framework in an environment of its own; one process a cycle.

    Attributes:
        script: Name of its program here, and of its environment.

        variant: What its program is told to do differently.
    """

    name: str
    script: str
    variant: str = ""
    folder: Path = field(default=FOLDER, init=False)

    def begin(self, upstream: Upstream, clock: Clock, accounts: list[str]) -> None:
        self._upstream, self._clock = upstream, clock
        self.folder = FOLDER / f"{self.script}{self.variant}"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        asked = {"url": upstream.url, "key": KEY, "accounts": accounts, "variant": self.variant}
        (self.folder / "asked.json").write_text(json.dumps({**asked, "folder": str(self.folder)}))
        self._read, self._delivered = 0, list[str]()

    def cycle(self, deadline_s: float) -> Figures:
        self._clock.move_to(self._clock.now_ms() + MINUTE_MS)
        began_ns, figures = time.time_ns(), self.folder / "figures.json"
        figures.unlink(missing_ok=True)
        with self._started() as process:
            try:
                process.communicate(timeout=max(deadline_s - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                raise Late from None
        state = self._take_state()
        own = self.folder / "dlt" / "peers" / "state.json"
        if own.exists() and own.stat().st_mtime_ns >= began_ns:
            state += own.stat().st_size
        if not figures.exists():
            return Figures(0, 0, 0, state, error=f"ended with status {process.returncode}")
        return Figures(**json.loads(figures.read_text()), state=state)

    def killed(self, deadline_s: float) -> bool:
        self._clock.move_to(self._clock.now_ms() + MINUTE_MS)
        with self._started() as process:
            found = self._upstream.wait_held(process, deadline_s)
        self._take_state()
        return found

    def delivered(self) -> list[str]:
        return self._delivered

    def end(self) -> None:
        """Nothing runs between cycles."""

    @contextmanager
    def _started(self) -> Iterator[subprocess.Popen[str]]:
        python = ROOT / f".venv-peers-{self.script}" / "bin" / "python"
        program = HERE / f"with_{self.script}.py"
        environment = {"HOME": str(self.folder), "PATH": os.environ["PATH"]}
        environment |= {"RUNTIME__DLTHUB_TELEMETRY": "false", "DO_NOT_TRACK": "1"}
        command = [str(python), str(program), str(self.folder / "asked.json")]
        with child(command, environment) as process:
            yield process

    def _take_state(self) -> int:
        """Read what came out since the last time; keep the last state, as a platform does."""
        written = 0
        out = self.folder / "out.jsonl"
        out.touch()
        with out.open() as lines:
            lines.seek(self._read)
            for line in iter(lines.readline, ""):
                if not line.endswith("\n"):
                    break  # It was killed while it wrote this.
                self._read = lines.tell()
                written += self._take(line)
        return written

    def _take(self, line: str) -> int:
        message = json.loads(line)
        kind = message.get("type", "RECORD")
        if kind == "STATE":
            state = message["value"] if "value" in message else [message["state"]]
            (self.folder / "state.json").write_text(json.dumps(state))
            return len(line)
        if kind == "RECORD":
            record = message.get("record", message)
            self._delivered.append(record.get("data", record)["id"])
        return 0


class Pollwire:
    """
    Pollwire's functions in one process; what Lambda and AWS do is done in this one.

    One invocation at a time. Messages are waited for by moving the clock on.
    """

    name = "Pollwire"

    def __init__(self) -> None:
        self._worker: Any = None
        self._served: Any = None

    def begin(self, upstream: Upstream, clock: Clock, accounts: list[str]) -> None:
        self.end()
        self._upstream, self._clock = upstream, clock
        self._deployed = deployed()
        self._aws = Aws(self._deployed, clock.now_ms)
        self._service = Service(self._aws)
        self._served = self._service.served()
        endpoint = self._served.__enter__()
        functions = self._deployed.functions.values()
        self._schedule = next(one for one in functions if one.stage == "schedule")
        streams = ("", "conversations", "message-status")
        self._mapped = [one for one in functions if one.queue and one.stream in streams]
        self._environment = {
            **ENVIRONMENT,
            **self._mapped[0].environment,
            "ALLOWED_HOSTS": upstream.url,
            "AWS_ENDPOINT_URL": endpoint,
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}:{ROOT / 'layers' / 'pollwire'}",
            "POWERTOOLS_SERVICE_NAME": "check",
        }
        self._register(endpoint, accounts)
        self._start()
        self._service.calls.clear()

    def _register(self, endpoint: str, accounts: list[str]) -> None:
        session = boto3.Session("testing", "testing", region_name="us-east-1")
        state = Registry(session.client("dynamodb", endpoint_url=endpoint), self._deployed.table)
        kms = session.client("kms", endpoint_url=endpoint)
        sealer = Sealer(kms, self._deployed.key_arn, self._clock.now_ms)
        connection = Connection(
            "bench",
            "kirimdev",
            {"api": self._upstream.url},
            interval_s=60,
            slowest_s=60,
            requests_per_second=100_000,
            settings={"backfill": "true"},
            credential=sealer.seal({"api_key": KEY}, "bench", ""),
        )
        state.put_connection(connection)
        assert state.add_accounts(connection, [Newcomer(account) for account in accounts]) == []

    def _start(self) -> None:
        command = [sys.executable, "-m", "tests.bench.peers.with_pollwire"]
        self._running = child(command, self._environment)
        self._worker = self._running.__enter__()
        if self._worker.stdout.readline() != "ready\n":
            raise Ended("the functions do not start; see .local/peers/children.log")
        self._cpu_s = self._rss_mb = 0.0

    def end(self) -> None:
        if self._worker:
            self._running.__exit__(None, None, None)
            self._served.__exit__(None, None, None)
        self._worker = None

    def cycle(self, deadline_s: float) -> Figures:
        calls, cpu_s = self._service.calls.copy(), self._cpu_s
        written = self._service.written_bytes
        self._next_minute()
        began_s = time.perf_counter()
        self._minute(lambda spec, event: self._invoke(spec, event, deadline_s))
        return Figures(
            time.perf_counter() - began_s,
            self._cpu_s - cpu_s,
            self._rss_mb,
            self._service.written_bytes - written,
            self._service.calls["items"] - calls["items"],
        )

    def killed(self, deadline_s: float) -> bool:
        self._next_minute()

        def invoke(spec: FunctionSpec, event: dict[str, Any]) -> Any:
            self._say(spec, event)
            while not select.select([self._worker.stdout], [], [], 0.01)[0]:
                if self._upstream.ask("counts")["held"]:
                    raise _Killed
                if time.monotonic() > deadline_s:
                    raise Late
            return self._hear()

        try:
            self._minute(invoke)
        except _Killed:
            self._running.__exit__(None, None, None)
            self._start()
            return True
        return False

    def delivered(self) -> list[str]:
        (subscription,) = self._deployed.subscriptions
        bodies = (json.loads(one.body) for one in self._aws.messages(subscription.queue))
        return [one["body"]["recordId"] for one in bodies]

    def _next_minute(self) -> None:
        now_ms = self._clock.now_ms()
        self._clock.move_to(now_ms - now_ms % MINUTE_MS + MINUTE_MS)

    def _minute(self, invoke: Callable[[FunctionSpec, dict[str, Any]], Any]) -> None:
        """Do what Lambda does in one minute: the tick, and what is queued until the next one."""
        ends_ms = self._clock.now_ms() + MINUTE_MS - 1_000
        invoke(self._schedule, {"time": iso(ends_ms - ends_ms % MINUTE_MS)})
        while True:
            while sum(self._handed_over(spec, invoke) for spec in self._mapped):
                pass
            queued = [one for spec in self._mapped for one in self._aws.messages(spec.queue)]
            # One that is visible already waits for another of its group, that is in flight.
            now_ms = self._clock.now_ms()
            later = [one.visible_ms for one in queued if now_ms < one.visible_ms <= ends_ms]
            if not later:
                return
            self._clock.move_to(min(later))

    def _handed_over(
        self, spec: FunctionSpec, invoke: Callable[[FunctionSpec, dict[str, Any]], Any]
    ) -> bool:
        """Hand what one queue has over to its function, a batch at a time."""
        queue, handed = self._deployed.queues[spec.queue], False
        if not self._aws.messages(spec.queue):
            return False
        asked = {"QueueUrl": queue.url, "MaxNumberOfMessages": min(spec.batch, 10)}
        asked["MessageSystemAttributeNames"] = ["All"]
        while True:
            with self._service.lock:
                found = self._aws.call("sqs", "ReceiveMessage", asked).get("Messages", [])
            if not found:
                return handed
            handed = True
            records = [_record(message, queue.arn) for message in found]
            answer = invoke(spec, {"Records": records})
            ids = [record["messageId"] for record in records]
            failed = _failed(answer or {}, ids, spec.partial)
            with self._service.lock:
                for message in found:
                    if message["MessageId"] not in failed:
                        self._aws.delete(queue.url, message["ReceiptHandle"])

    def _invoke(self, spec: FunctionSpec, event: dict[str, Any], deadline_s: float) -> Any:
        self._say(spec, event)
        patience_s = max(deadline_s - time.monotonic(), 0)
        if not select.select([self._worker.stdout], [], [], patience_s)[0]:
            raise Late
        return self._hear()

    def _say(self, spec: FunctionSpec, event: dict[str, Any]) -> None:
        asked = {"stage": spec.stage, "event": event, "offset_ms": self._clock.offset_ms}
        self._worker.stdin.write(json.dumps(asked) + "\n")
        self._worker.stdin.flush()

    def _hear(self) -> Any:
        line = self._worker.stdout.readline()
        if not line:
            raise Ended("a function ended; see .local/peers/children.log")
        said = json.loads(line)
        self._cpu_s, self._rss_mb = said["cpu_s"], said["rss_mb"]
        return said["answer"]


class _Killed(Exception):
    """The provider holds a request back: the function is to be killed now."""
