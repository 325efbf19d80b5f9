"""
Pollwire on moto: the real handlers, the template's table, queues and topic, a simulated provider.

moto is no oracle for FIFO: its topics do not deduplicate, its queues forget what they saw as soon
as it is deleted, and all of it runs on real time. So nothing here relies on deduplication, and the
clock that Pollwire sees is the test's own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from pollwire import wiring
from pollwire.errors import PollwireError, RateLimited, Unasked, Unavailable
from pollwire.exchange import Request, Response
from pollwire.http import Hosts, failure_of
from pollwire.model import Checking, CheckJob, Connection, DeltaJob, Seen
from pollwire.pipeline import World
from pollwire.providers.youmail import FIELDS
from pollwire.registry import Registry
from pollwire.state import shard_of

from local.simulators.youmail import YouMail

#: 2027-01-15T08:00:00Z, the start of a minute.
START_MS = 1_800_000_000_000

ANN, BOB, CAL = "10000000001", "10000000002", "10000000003"
PASSWORD = "canary-password"
SHOP = Connection("shop", "youmail", interval_s=60, slowest_s=60)


class Clock:
    """Milliseconds since the epoch, as the test says."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)

    def sleep(self, seconds: float) -> None:
        """Take no time: few tests are about that."""


class Http:
    """
    Stands in for :class:`pollwire.http.Http`: the same rules, and a simulator for a network.

    Attributes:
        asked: Every request that was sent.

        tally: As the real one's.

        simulators: Of other providers, by their host.

        on_request: Called with each before it is answered; what it raises is the answer.
    """

    def __init__(self, hosts: Hosts, simulator: YouMail, clock: Clock) -> None:
        self.asked: list[Request] = []
        self.tally: Counter[str] = Counter()
        self.on_request: Callable[[Request], None] = lambda request: None
        self.simulators: dict[str, Any] = {}
        self._hosts = hosts
        self._simulator = simulator
        self._clock = clock

    def fetch(self, request: Request) -> Response:
        host = self._hosts.admit(request).host
        self.asked.append(request)
        self.tally["requests"] += 1
        self.on_request(request)
        url = urlsplit(request.url)
        query = {**dict(parse_qsl(url.query) if url.query else ()), **request.query}
        headers = {name.lower(): value for name, value in request.headers.items()}
        form = urlencode(request.form).encode() if request.form else b""
        if request.form is not None:
            headers["content-type"] = "application/x-www-form-urlencoded"
        simulator = self.simulators.get(host, self._simulator)
        status, found, body = simulator.handle(request.method, url.path, query, headers, form)
        failure = failure_of(
            status, request.expect, host, found.get("retry-after", ""), self._clock() / 1000
        )
        if failure:
            raise failure
        if status == 200 and not body:
            raise Unavailable(f"{host}: nothing in it")
        return Response(status, {name.lower(): text for name, text in found.items()}, body)

    def run(
        self,
        checks: Iterable[tuple[str, Checking]],
        *,
        requests_per_second: float,
        deadline_s: float,
        shared: bool = False,
        spent: dict[str, int],
    ) -> Iterator[tuple[str, Seen | PollwireError]]:
        assert requests_per_second > 0 < deadline_s
        for key, checking in checks:
            if shared and spent:
                yield key, Unasked("the budget that all share is used up")
            else:
                yield key, self._run(key, checking, spent)

    def _run(self, key: str, checking: Checking, spent: dict[str, int]) -> Seen | PollwireError:
        used_up: dict[str, int] = {}
        try:
            request = next(checking)
            while True:
                try:
                    answer = self._ask(request, used_up)
                except PollwireError as error:
                    if isinstance(error, RateLimited) and not request.budget:
                        spent[key] = error.retry_after_s
                    request = checking.throw(error)
                else:
                    if "" in used_up:
                        spent[key] = used_up[""]
                    request = checking.send(answer)
        except StopIteration as stop:
            seen: Seen = stop.value
            return seen
        except PollwireError as error:
            return error

    def _ask(self, request: Request, used_up: dict[str, int]) -> Response:
        if request.budget in used_up:
            raise Unasked("the budget is used up")
        answer = self.fetch(request)
        if answer.status == 304:
            self.tally["not_modified"] += 1
        if answer.spent_s:
            used_up[request.budget] = answer.spent_s
        return answer


class Client:
    """
    An AWS client whose calls can be made to fail.

    Args:
        faults: By name of the call, what is called in its place: with the call itself, and with
            its arguments. All clients of a system share them.
    """

    def __init__(self, client: Any, faults: Mapping[str, Callable[..., Any]]) -> None:
        self._client = client
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)
        return partial(self._faults[name], call) if name in self._faults else call


@dataclass
class Context:
    """What Lambda tells a function of its invocation."""

    function_name: str
    remaining_ms: Callable[[], int] = lambda: 60_000
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:pollwire"
    aws_request_id: str = "00000000-0000-0000-0000-000000000000"

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining_ms()


@dataclass
class Delivery:
    """One event on a subscriber's queue."""

    event: dict[str, Any]
    attributes: dict[str, str]
    group: str

    @property
    def said(self) -> tuple[str, str, str]:
        """Its stream, its change, and its record's id."""
        body = self.event["body"]
        return body["stream"], body["change"], body["record"]["id"]


@dataclass
class System:
    """
    The deployed system in one process.

    Attributes:
        clients: AWS clients by service, without faults.

        apps: The functions' modules by stage.

        faults: What AWS does instead of what it is asked for; see :class:`Client`.

        failed: URL and receipt handle of the messages that were reported failed.

        streams: Those whose deltas are run.
    """

    clients: Callable[[str], Any]
    environment: Mapping[str, str]
    apps: Mapping[str, ModuleType]
    clock: Clock
    simulator: YouMail
    faults: dict[str, Callable[..., Any]]
    remaining_ms: Callable[[], int] = lambda: 60_000
    failed: list[tuple[str, str]] = field(default_factory=list)
    streams: tuple[str, ...] = FIELDS
    providers: tuple[str, ...] = ("youmail",)

    def __post_init__(self) -> None:
        self.sqs = self.clients("sqs")
        self.sns = self.clients("sns")
        self.dynamodb = self.clients("dynamodb")

    @property
    def world(self) -> World:
        return wiring.world()

    @property
    def http(self) -> Http:
        http = self.world.http
        assert isinstance(http, Http)
        return http

    def attach(self, name: str, simulator: Any) -> Any:
        """Put another provider's simulator beside YouMail's; return it."""
        provider = self.world.providers[name]
        self.http.simulators[urlsplit(provider.hosts["api"]).netloc] = simulator
        self.streams += tuple(provider.streams)
        self.providers += (name,)
        return simulator

    # What an operator does.

    @property
    def registry(self) -> Registry:
        session: Any = wiring.boto3.Session()
        return Registry(session.client("dynamodb", wiring.AWS), self.environment["TABLE_NAME"])

    def connect(self, connection: Connection = SHOP) -> None:
        self.registry.put_connection(connection)

    def add_account(
        self,
        account: str,
        connection: Connection = SHOP,
        *,
        password: str = PASSWORD,
        new_user: bool = False,
        **settings: str,
    ) -> None:
        """Make an account at the provider, whose own password is ``PASSWORD``, and register it."""
        phone = f"4255{account[-6:]}"
        self.simulator.add_account(account, phone, PASSWORD, phone, new_user=new_user)
        credential = {"username": phone, "password": password}
        sealed = self.world.sealer.seal(credential, connection.name, account)
        self.registry.add_account(connection, account, settings=settings, credential=sealed)

    def remove_account(self, account: str, connection: Connection = SHOP) -> None:
        assert self.registry.remove_account(connection, account)

    # What AWS does.

    def invoke(self, stage: str, event: Mapping[str, Any]) -> Any:
        context = Context(f"pollwire-{stage}", lambda: self.remaining_ms())
        return self.apps[stage].handler(event, context)

    def tick(self, **event: str) -> None:
        self.invoke("schedule", event)

    def pump(self, stage: str, url: str, batch: int) -> int:
        """Hand a queue's messages to a function until none can be had; return how many failed."""
        failed = 0
        while messages := self.receive(url, batch):
            records = [_record(message, url) for message in messages]
            response = self.invoke(stage, {"Records": records})
            assert set(response) == {"batchItemFailures"}
            refused = {failure["itemIdentifier"] for failure in response["batchItemFailures"]}
            for message in messages:
                receipt = message["ReceiptHandle"]
                if message["MessageId"] in refused:
                    self.failed.append((url, receipt))
                    failed += 1
                else:
                    self.sqs.delete_message(QueueUrl=url, ReceiptHandle=receipt)
        return failed

    def receive(self, url: str, batch: int = 10) -> list[dict[str, Any]]:
        answer = self.sqs.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=batch,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        return list(answer.get("Messages", []))

    def redeliver(self) -> None:
        """Let the time pass after which messages that failed are handed out again."""
        for url, receipt in self.failed:
            self.sqs.change_message_visibility(
                QueueUrl=url, ReceiptHandle=receipt, VisibilityTimeout=0
            )
        self.failed.clear()

    def run_checks(self) -> int:
        return sum(self.pump("check", self.checks_url(name), 1) for name in self.providers)

    def run_deltas(self) -> int:
        return sum(self.pump("delta", self.deltas_url(stream), 5) for stream in self.streams)

    def check(self, connection: Connection = SHOP) -> None:
        """Check every shard, due at this instant."""
        for shard in range(connection.shards):
            job = CheckJob(connection.name, shard, self.clock(), connection.interval_s)
            self.world.queues.send_checks(connection.provider, [job], self.clock())
        assert not self.run_checks()

    def poll(self, seconds: float = 60) -> int:
        """Let time pass, check all there is, run what that queues; return how many jobs failed."""
        self.clock.advance(seconds)
        self.redeliver()
        self.check()
        return self.run_deltas()

    def rest(self) -> None:
        """Poll until every mark is settled."""
        for _ in range(6):
            self.poll()
            if not self.pending():
                return
        raise AssertionError(f"pending for ever: {self.pending()}")

    # What there is.

    def checks_url(self, provider: str = "youmail") -> str:
        return self.environment["CHECKS_QUEUE_URL"].format(provider=provider)

    def deltas_url(self, stream: str) -> str:
        return self.environment["DELTAS_QUEUE_URL"].format(stream=stream)

    def deliveries(self, url: str = "") -> list[Delivery]:
        """Take all events off a subscriber's queue."""
        url = url or self.environment["SUBSCRIBER_URL"]
        found = []
        while messages := self.receive(url):
            for message in messages:
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                attributes = {
                    name: attribute["StringValue"]
                    for name, attribute in message.get("MessageAttributes", {}).items()
                }
                group = message["Attributes"]["MessageGroupId"]
                found.append(Delivery(json.loads(message["Body"]), attributes, group))
        return found

    def said(self) -> list[tuple[str, str, str]]:
        """Take all events off the subscriber's queue: stream, change and id of each."""
        return [delivery.said for delivery in self.deliveries()]

    def table(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Read every item."""
        items: list[dict[str, Any]] = []
        query: dict[str, Any] = {"TableName": self.environment["TABLE_NAME"]}
        while True:
            answer = self.dynamodb.scan(**query)
            items += answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return {(item["pk"]["S"], item["sk"]["S"]): item for item in items}
            query["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def standing(self, account: str = ANN, connection: Connection = SHOP) -> Any:
        shard = shard_of(account, connection.shards)
        return self.world.state.account(connection.name, shard, account)

    def pending(self, account: str = ANN) -> set[str]:
        """Name the streams that have marks pending."""
        return {element.partition("@")[0] for element in self.standing(account).pending}

    def stream_state(self, stream: str, account: str = ANN) -> Any:
        return self.world.state.stream(self.job(stream, account))

    def records(self, stream: str, account: str = ANN) -> dict[str, Any]:
        return self.world.state.all_records(self.job(stream, account))

    def job(self, stream: str, account: str = ANN) -> DeltaJob:
        """Make the delta job that a check would queue now."""
        pending = tuple(
            sorted(
                element
                for element in self.standing(account).pending
                if element.startswith(f"{stream}@")
            )
        )
        return DeltaJob("shop", 0, account, stream, pending, self.clock())

    def depths(self) -> dict[str, int]:
        """Count the messages of every queue that is not empty, in flight and delayed ones too."""
        names = ("", "NotVisible", "Delayed")
        kinds = [f"ApproximateNumberOfMessages{name}" for name in names]
        depths = {}
        for url in self.sqs.list_queues()["QueueUrls"]:
            answer = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=kinds)
            depth = sum(int(count) for count in answer["Attributes"].values())
            if depth:
                depths[url.rpartition("/")[2]] = depth
        return depths

    def _delete(self, pk: str, sk: str) -> None:
        key = {"pk": {"S": pk}, "sk": {"S": sk}}
        self.dynamodb.delete_item(TableName=self.environment["TABLE_NAME"], Key=key)


def at_call(number: int, fault: Callable[..., Any]) -> Callable[..., Any]:
    """Let one call fail, counted from 1."""
    calls = 0

    def counted(call: Callable[..., Any], **arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return fault(call, **arguments) if calls == number else call(**arguments)

    return counted


def uuids(deliveries: Iterable[Delivery]) -> list[str]:
    return [one.event["uuid"] for one in deliveries]


def _record(message: Mapping[str, Any], url: str) -> dict[str, Any]:
    """Write a message as Lambda hands it to a function."""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": dict(message["Attributes"]),
        "messageAttributes": {},
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:123456789012:{url.rpartition('/')[2]}",
        "awsRegion": "us-east-1",
    }
