"""
A small deployment in one process, whose every invocation is metered.

The functions, boto3, pycurl and requests are the real ones; AWS is :mod:`tests.bench.metered`, the
provider a simulated YouMail on a port of this machine. The clock that Pollwire sees is moved by
hand. What an invocation used is measured in the thread that it runs in, so the provider's threads
do not count.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import asdict, replace
from types import ModuleType
from typing import Any
from unittest import mock

from pollwire import wiring
from pollwire.events import iso
from pollwire.model import CheckJob, Connection
from pollwire.registry import Registry

from local.server import serve
from local.simulators.youmail import YouMail
from tests.bench.metered import Metered, Usage
from tests.integration.system import Clock, Context
from tests.simulation.aws import Aws
from tests.simulation.deployed import deployed
from tests.simulation.expressions import item_bytes

STAGES = ("schedule", "check", "delta")

#: What Lambda itself logs of every invocation.
PLATFORM_LINES = (
    "START RequestId: 00000000-0000-0000-0000-000000000000 Version: $LATEST\n",
    "END RequestId: 00000000-0000-0000-0000-000000000000\n",
    "REPORT RequestId: 00000000-0000-0000-0000-000000000000\tDuration: 100.00 ms\t"
    "Billed Duration: 100 ms\tMemory Size: 512 MB\tMax Memory Used: 100 MB\t\n",
)

#: CloudWatch charges for each log event's text and this much.
LOG_EVENT_BYTES = 26

#: DynamoDB charges for each stored item's content and this much.
ITEM_BYTES = 100

#: Accounts that are registered as an operator does. All others of a shard are their copies.
ORIGINALS = 5

#: One check of a shard a minute. What a check uses does not depend on it.
INTERVAL_S = 60

PASSWORD = "a-password"
CHECKS = "pollwire-checks-youmail"
GB = 1e9


class Deployment:
    """
    One connection with its accounts, deployed, recorded and at rest.

    Args:
        accounts: Of its only shard.

        api: Base URL of another provider that connections may name.

    Attributes:
        metrics: Custom metrics that were written so far: name and dimensions.
    """

    def __init__(self, stack: ExitStack, accounts: int = ORIGINALS, api: str = "") -> None:
        self.clock = Clock()
        self.provider = YouMail(lambda: self.clock() / 1000)
        self.deployed = deployed()
        self.aws = Aws(self.deployed, self.clock)
        self.metered = Metered(self.deployed, self.aws)
        self.metrics: set[tuple[str, ...]] = set()
        url = stack.enter_context(serve({"": self.provider})).url
        self._enter(stack, f"{url},{api}")
        self.ids = [f"{10**10 + number}" for number in range(max(accounts, ORIGINALS))]
        self.connection = Connection(
            "shop",
            "youmail",
            hosts={"poll": url, "api": url},
            interval_s=INTERVAL_S,
            slowest_s=INTERVAL_S,
            requests_per_second=100_000,
        )
        self._populate()

    def _enter(self, stack: ExitStack, hosts: str) -> None:
        """Have the functions talk to this deployment, and nobody else, until *stack* is left."""
        environment = dict(next(iter(self.deployed.functions.values())).environment)
        environment |= {"ALLOWED_HOSTS": hosts, "LOG_LEVEL": "INFO"}
        stack.enter_context(mock.patch.dict(os.environ, environment))
        stack.enter_context(mock.patch.object(wiring, "clock", self.clock))
        session = self.metered.session()
        stack.enter_context(mock.patch.object(wiring.boto3, "Session", return_value=session))
        self._log = io.StringIO()
        stack.enter_context(redirect_stdout(self._log))
        self._apps = {stage: self._load(stack, stage) for stage in STAGES}
        stack.callback(wiring.world.cache_clear)
        self.cold()
        stack.callback(lambda: wiring.world().http.close())

    def _load(self, stack: ExitStack, stage: str) -> ModuleType:
        """Import a function's module as a cold start does: Powertools reads its settings then."""
        name = f"functions.{stage}.app"
        # This module only: what it imports for the first time has to stay, or is imported twice.
        stack.callback(_put_back, name, sys.modules.pop(name, None))
        with mock.patch.dict(os.environ, {"POWERTOOLS_SERVICE_NAME": stage}):
            module = importlib.import_module(name)
        for handler in module.logger.handlers:
            stack.callback(handler.setStream, handler.setStream(self._log) or sys.__stdout__)
        return module

    def _populate(self) -> None:
        for account in self.ids:
            self.provider.add_account(account, _phone(account), PASSWORD, _phone(account))
        registry, sealer = self._registry(), wiring.world().sealer
        registry.put_connection(self.connection)
        for account in self.ids[:ORIGINALS]:
            phone = _phone(account)
            sealed = sealer.seal({"username": phone, "password": PASSWORD}, "shop", account)
            registry.add_account(
                self.connection, account, settings={"phone": phone}, credential=sealed
            )
        self.rest()
        #: Bytes that the table holds for each account before anything happens to it.
        self.account_bytes = self.table_bytes() / ORIGINALS
        found = dict(self.aws.items["shard#shop#0", self.ids[0]])
        for account in self.ids[ORIGINALS:]:
            item = {**found, "sk": {"S": account}}
            self.aws.call("dynamodb", "PutItem", {"TableName": self.deployed.table, "Item": item})

    def table_bytes(self) -> int:
        """Measure what is stored, connections left out."""
        return sum(
            item_bytes(item) + ITEM_BYTES
            for (pk, _), item in self.aws.items.items()
            if pk != "connection"
        )

    def cold(self) -> None:
        """Go on in a new container: nothing is in memory, nothing connected."""
        wiring.world.cache_clear()
        wiring.world()

    def pace(self, slowest_s: int) -> None:
        """Let quiet accounts be polled as rarely as this."""
        self._put(replace(self.connection, slowest_s=slowest_s))

    def _put(self, connection: Connection) -> None:
        self._registry().put_connection(connection)

    def _registry(self) -> Registry:
        client = wiring.boto3.Session().client("dynamodb", config=wiring.AWS)
        return Registry(client, self.deployed.table)

    def forget(self) -> None:
        """Forget what a container has in memory of credentials, as if it were another one."""
        wiring.world().tokens.clear()
        wiring.world().sealer._opened.clear()

    def _forget_shards(self) -> None:
        """Delete the connection: putting it again does not change its shards."""
        key = {"pk": {"S": "connection"}, "sk": {"S": "shop"}}
        self.aws.call("dynamodb", "DeleteItem", {"TableName": self.deployed.table, "Key": key})

    # Invocations

    def schedule(self, shards: int) -> Usage:
        """Have one minute scheduled, of a connection with so many shards that each have a check."""
        self._forget_shards()
        self._put(replace(self.connection, shards=shards))
        self.clock.now_ms += 60_000 - self.clock.now_ms % 60_000
        used = self.invoke("schedule", {"time": iso(self.clock())})
        self._forget_shards()
        self._put(self.connection)
        return used

    def check(self, *, fresh: bool = True) -> Usage:
        """
        Check the shard once, now.

        Args:
            fresh: No connection to the provider is left of the check before.
        """
        if fresh:
            wiring.world().http.close()
        polls = self.provider.requests["poll"]
        job = CheckJob("shop", 0, self.clock(), INTERVAL_S)
        message = {"MessageId": "1", "Body": json.dumps(asdict(job)), "ReceiptHandle": "1"}
        used = dict(self.invoke("check", {"Records": [_record(message, CHECKS)]}))
        return used | {"check.polls": self.provider.requests["poll"] - polls}

    def deltas(self, batch: int = 1) -> list[Usage]:
        """Run all delta jobs there are, so many at once at most."""
        return [
            self.invoke("delta", {"Records": records})
            for spec in self.deployed.functions.values()
            if spec.stage == "delta"
            for records in iter(lambda: self._receive(self._url(spec.queue), batch), [])  # noqa: B023
        ]

    def _url(self, queue: str) -> str:
        return self.deployed.queues[queue].url

    def _receive(self, url: str, batch: int) -> list[dict[str, Any]]:
        """Receive and delete, which is not metered here: it is Lambda that does it."""
        asked = {"QueueUrl": url, "MaxNumberOfMessages": batch}
        asked |= {"MessageSystemAttributeNames": ["All"]}
        messages = self.aws.call("sqs", "ReceiveMessage", asked).get("Messages", [])
        for message in messages:
            self.aws.delete(url, message["ReceiptHandle"])
        return [_record(message, url.rpartition("/")[2]) for message in messages]

    def invoke(self, stage: str, event: Mapping[str, Any]) -> Usage:
        """Invoke a function; return what that used."""
        self._log.seek(0)
        self._log.truncate()
        before, asked = dict(self.metered.usage), self.provider.requests.total()
        stood_in_s, began_s = self.metered.stand_in_s, time.thread_time()
        answer = self._apps[stage].handler(event, Context(f"pollwire-{stage}", self.remaining_ms))
        cpu_s = time.thread_time() - began_s - (self.metered.stand_in_s - stood_in_s)
        assert not (answer or {}).get("batchItemFailures"), self._log.getvalue()
        used: dict[str, float] = defaultdict(float)
        for name, amount in self.metered.usage.items():
            used[name] = amount - before.get(name, 0)
        calls = sum(amount for name, amount in used.items() if name.startswith("calls."))
        used |= {f"{stage}.cpu_s": cpu_s, f"{stage}.aws_calls": calls}
        used[f"{stage}.requests"] = self.provider.requests.total() - asked
        used["logs.gb"] = self._logged() / GB
        return used

    def remaining_ms(self) -> int:
        """Say how much time the invocation at work has left."""
        return 60_000

    def _logged(self) -> int:
        """Measure what was logged, and note the metrics in it."""
        lines = self._log.getvalue().splitlines(keepends=True)
        for line in lines:
            said = json.loads(line)
            for one in said.get("_aws", {}).get("CloudWatchMetrics", ()):
                (names,) = one["Dimensions"]
                where = [said[name] for name in names]
                self.metrics.update((metric["Name"], *where) for metric in one["Metrics"])
        lines += PLATFORM_LINES
        return sum(len(line.encode()) + LOG_EVENT_BYTES for line in lines)

    # What happens

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def pending(self) -> Sequence[str]:
        """Name what is pending of the originals."""
        items = (self.aws.items["shard#shop#0", account] for account in self.ids[:ORIGINALS])
        return [one for item in items for one in item.get("pending", {}).get("SS", ())]

    def rest(self) -> None:
        """Check and drain until nothing is pending."""
        self.check()
        self.deltas(5)
        while self.pending():
            self.advance(INTERVAL_S)
            self.check()
            self.deltas(5)


def _put_back(name: str, module: ModuleType | None) -> None:
    """Have a module be the one that is imported by this name, or none."""
    sys.modules.pop(name, None)
    if module is not None:
        sys.modules[name] = module


def _phone(account: str) -> str:
    return f"4255{account[-6:]}"


def _record(message: Mapping[str, Any], queue: str) -> dict[str, Any]:
    """Write a message as Lambda hands it to a function."""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message.get("Attributes", {"ApproximateReceiveCount": "1"}),
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:123456789012:{queue}",
        "awsRegion": "us-east-1",
    }
