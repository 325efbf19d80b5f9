"""
Does a provider that never answers hold up another one?

    python -m tests.bench.neighbours             all cases side by side, each a process of its own
    python -m tests.bench.neighbours provider    one of them

The stages run in threads in real time, as many for each queue as the template lets Lambda run, over
real sockets. AWS is a stand-in in memory. Who hangs takes connections and never answers, so that
each request to it costs its deadline.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache, partial
from statistics import quantiles
from threading import Event, Lock, Thread
from types import SimpleNamespace
from typing import Any
from unittest import mock

import boto3
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from pollwire import pipeline, wiring
from pollwire.due import MINUTE_MS
from pollwire.errors import PollwireError
from pollwire.http.limits import Limits
from pollwire.items import Newcomer
from pollwire.model import CheckJob, Connection
from pollwire.queues import read_check, read_delta
from pollwire.registry import Registry
from pollwire.world import World

from local.server import serve
from local.simulators.youmail import YouMail
from tests.bench.aws import ENVIRONMENT
from tests.bench.children import child, line
from tests.simulation.aws import Aws
from tests.simulation.deployed import deployed
from tests.simulation.specs import FunctionSpec

#: Who hangs, by the word of the command.
CASES = {
    "nobody": "nobody hangs",
    "provider": "another provider hangs",
    "connection": "another connection of the same provider hangs",
    "large": "one with 16 shards of the same provider hangs",
}

SHARDS, ACCOUNTS = 4, 200

#: Shards of one that has more of them, of the same size, than there are workers for its provider.
LARGE = 16

INTERVAL_S = 5
PASSWORD = "a-password"

#: First everything is read once; then things change; then what is still to come may come.
WARM_S, CHANGING_S, REST_S = 8, 20, 8
CHANGES_PER_S = 10

#: An idle worker looks for messages this often.
LOOK_S = 0.05


class Cloud:
    """
    What the stages work with, for many threads.

    Attributes:
        published_s: When each record's event was published, by its id.
    """

    def __init__(self) -> None:
        self.deployed = deployed()
        self.published_s: dict[str, float] = {}
        self._aws = Aws(self.deployed, wiring.clock)
        self._lock = Lock()

    def call(self, client: Any, operation: str, params: Mapping[str, Any]) -> Any:
        """Stand in for a client's method that calls AWS."""
        service = client.meta.service_model.service_name
        if operation == "PublishBatch":
            for one in params["PublishBatchRequestEntries"]:
                record = json.loads(one["Message"])["body"]["recordId"]
                self.published_s.setdefault(record, time.monotonic())
        try:
            with self._lock:
                return self._aws.call(service, operation, params)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            raise client.exceptions.from_code(code)(error.response, operation) from None

    def receive(self, url: str) -> Mapping[str, Any] | None:
        with self._lock:
            asked = {"QueueUrl": url, "MaxNumberOfMessages": 1}
            messages = self._aws.call("sqs", "ReceiveMessage", asked).get("Messages")
        return messages[0] if messages else None

    def delete(self, url: str, message: Mapping[str, Any]) -> None:
        with self._lock:
            self._aws.delete(url, message["ReceiptHandle"])


class Case:
    """A deployment with a connection that is looked at, and perhaps one that hangs."""

    def __init__(self, stack: ExitStack, hangs: str) -> None:
        self.cloud = Cloud()
        self.provider = YouMail()
        url = stack.enter_context(serve({"": self.provider})).url
        # Nobody ever accepts: connections are made, and nothing is said.
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
        silent_url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        self._enter(stack, f"{url},{silent_url}")
        self._stop = Event()
        #: How long each check took of who hangs.
        self.hung_s: list[float] = []
        self.ids = [str(10**10 + number) for number in range(ACCOUNTS)]
        self._connect("shop", "youmail", {"poll": url, "api": url})
        for account in self.ids:
            self.provider.add_account(account, account, PASSWORD, account)
        if hangs == "provider":
            self._connect("silent", "kirimdev", {"api": silent_url})
        elif hangs in ("connection", "large"):
            shards = SHARDS if hangs == "connection" else LARGE
            self._connect("silent", "youmail", {"poll": silent_url, "api": silent_url}, shards)

    def _enter(self, stack: ExitStack, hosts: str) -> None:
        environment = dict(next(iter(self.cloud.deployed.functions.values())).environment)
        os.environ |= {**ENVIRONMENT, **environment, "ALLOWED_HOSTS": hosts}
        cloud = self.cloud
        session = SimpleNamespace(client=cache(partial(_client, boto3.Session())))
        stack.enter_context(mock.patch.object(wiring.boto3, "Session", return_value=session))
        stack.enter_context(
            mock.patch.object(
                BaseClient,
                "_make_api_call",
                lambda client, operation, params: cloud.call(client, operation, params),
            )
        )
        self.world = self._built()

    def _built(self) -> World:
        return wiring.build(wiring.Settings.read(os.environ))

    def _connect(
        self, name: str, provider: str, hosts: Mapping[str, str], shards: int = SHARDS
    ) -> None:
        connection = Connection(
            name,
            provider,
            hosts,
            interval_s=INTERVAL_S,
            slowest_s=INTERVAL_S,
            requests_per_second=2_000,
            shards=shards,
        )
        client = wiring.boto3.Session().client("dynamodb", config=wiring.AWS)
        registry = Registry(client, os.environ["TABLE_NAME"])
        registry.put_connection(connection)
        newcomers = []
        for account in [str(10**10 + number) for number in range(shards * ACCOUNTS // SHARDS)]:
            credential = {"username": account, "password": PASSWORD, "api_key": "kdv_live_bench"}
            sealed = self.world.sealer.seal(credential, name, account)
            settings = {"phone": account, "fields": "history"}
            newcomers.append(Newcomer(account, settings, sealed))
        assert not registry.add_accounts(connection, newcomers)

    def run(self) -> dict[str, Any]:
        """Let things change for a while; return how long each took to be published."""
        # All cases begin at the same place of the interval; nobody is asked in vain before.
        begins_s = time.time() + WARM_S
        begins_s += INTERVAL_S - begins_s % INTERVAL_S
        if self.world.state.connection("silent"):
            self.world.state.pause_connection("silent", round(begins_s * 1000))
        workers = [
            Thread(target=self._work, args=(spec,), daemon=True)
            for spec in self.cloud.deployed.functions.values()
            if spec.stage == "check" or spec.stream == "history"
            for _ in range(spec.concurrency)
        ]
        workers.append(Thread(target=self._tick, daemon=True))
        for one in workers:
            one.start()
        self._stop.wait(begins_s - time.time())
        changed_s = self._change()
        self._stop.wait(REST_S)
        self._stop.set()
        published_s = dict(self.cloud.published_s)
        ages = [published_s[row] - at for row, at in changed_s.items() if row in published_s]
        hundredths = quantiles(ages, n=100)
        return {
            "changes": len(changed_s),
            "lost": len(changed_s) - len(ages),
            "p50_s": hundredths[49],
            "p99_s": hundredths[98],
            "hung": len(self.hung_s),
            "hung_s": sum(self.hung_s),
        }

    def _change(self) -> dict[str, float]:
        chance, changed_s = random.Random(1), {}
        began_s = time.monotonic()
        for number in range(CHANGING_S * CHANGES_PER_S):
            self._stop.wait(began_s + number / CHANGES_PER_S - time.monotonic())
            at_s = time.monotonic()
            changed_s[self.provider.call(chance.choice(self.ids))] = at_s
        return changed_s

    def _tick(self) -> None:
        world, minute_ms = self._built(), 0
        while not self._stop.is_set():
            now_ms = wiring.clock()
            if now_ms - now_ms % MINUTE_MS > minute_ms:
                minute_ms = now_ms - now_ms % MINUTE_MS
                pipeline.schedule(world, minute_ms)
            self._stop.wait(LOOK_S)

    def _work(self, spec: FunctionSpec) -> None:
        """Be one worker of a queue."""
        world, url = self._built(), self.cloud.deployed.queues[spec.queue].url
        while not self._stop.is_set():
            message = self.cloud.receive(url)
            if message is None:
                self._stop.wait(LOOK_S)
                continue
            try:
                if spec.stage == "check":
                    self._check(world, read_check(message["Body"]))
                else:
                    ends_s = time.monotonic() + spec.timeout_s
                    left_ms = partial(_left_ms, ends_s)
                    pipeline.delta(world, read_delta(message["Body"]), left_ms)
            except PollwireError:
                continue  # It is handed out again when its time is over.
            self.cloud.delete(url, message)

    def _check(self, world: World, job: CheckJob) -> None:
        began_s = time.monotonic()
        counts = pipeline.check(world, job)
        if job.connection == "silent" and counts["polled"]:
            self.hung_s.append(time.monotonic() - began_s)


def _client(session: boto3.Session, service: str, config: Any = None) -> Any:
    return session.client(service)


def _left_ms(ends_s: float) -> int:
    return round((ends_s - time.monotonic()) * 1000)


def main() -> int:
    if sys.argv[1:]:
        with ExitStack() as stack:
            print(json.dumps(Case(stack, sys.argv[1]).run()), flush=True)
        os._exit(0)  # Whoever still waits for an answer that never comes need not.
    with ExitStack() as stack:
        cases = {name: stack.enter_context(child("neighbours", name)) for name in CASES}
        found = {name: json.loads(line(case)) for name, case in cases.items()}
    print(
        f"A connection of {SHARDS} shards, {ACCOUNTS} accounts polled every {INTERVAL_S} s, beside "
        "one as large that\nceases to answer when the first thing changes (a request's deadline: "
        f"{Limits().request_s:.0f} s), in real time.\nFrom change to event, seconds:\n"
    )
    print(f"{'':48}{'changes':>8}{'lost':>6}{'p50':>7}{'p99':>7}   checks that hung")
    for name, one in found.items():
        print(
            f"  {CASES[name]:46}{one['changes']:8}{one['lost']:6}{one['p50_s']:7.2f}"
            f"{one['p99_s']:7.2f}{one['hung']:6}, {one['hung_s']:.0f} s in all"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
