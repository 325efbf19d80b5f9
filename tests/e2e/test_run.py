"""
What `make run` does, once: the template built and deployed to MiniStack with IAM enforced.

It takes one or two minutes, most of it `sam deploy` and the providers' pace.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from pollwire.registry import Registry
from pollwire.secrets import PUSH, Sealer
from pollwire_cli.app import app
from typer.testing import CliRunner

from local.board import EVENTS_MAX, Board
from local.demo import ACCOUNTS, NEW_ACCOUNT, SEED_ACCOUNT, Activity, now_ms
from local.ledger import record_of
from local.page import Page
from local.processes import Stop
from local.run import Customer, Follower, Ledger, Stack
from local.stack import ACCOUNT, PYTHON, REGION, ROOT, SECRET, STACK
from tests.pushing import TOKEN, told

#: All changes have arrived after 20 to 30 s; a busy machine may take longer.
ARRIVED_S = 90

KNOWN_ACCOUNT = "200000001"
#: Those that are not the simulators' own: they have something from before.
INTELLI, RINGCENTRAL, KIRIMDEV = (
    ACCOUNTS[name][-1] for name in ("intelli", "ringcentral", "kirimdev")
)


def test_every_change_arrives_once_as_its_event_and_a_filter_lets_its_part_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with Stack(tmp_path, Stop(), _say) as stack:
        customer = Customer(stack)
        customer.register()
        contacts = Follower(stack, _subscribe(stack, "/pollwire/v1/~/account/~/contact"))
        everything = Follower(stack, stack.outputs["SubscriberQueueUrl"])
        stack.schedule_now()
        customer.await_baseline(Stop())
        ledger = Ledger()
        board = Board(ledger, now_ms)
        activity = Activity(stack.simulators, ledger, _say, "1", customer.watch)
        with subprocess.Popen(
            **_command(stack, "tail", "--count", "1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as tail:
            assert tail.stderr
            assert "watching" in tail.stderr.readline()
            _change_youmail(activity)
            _change_others(activity)
            received = _receive_all(everything, board)
            watched, _ = tail.communicate(timeout=ARRIVED_S)
        answered = {name: one.answered() for name, one in stack.simulators.items()}
        board.stand(customer.accounts(), answered)
        shown = _shown(board)
        wanted = [event for event in received if event["body"]["stream"] == "contact"]
        filtered = _receive(contacts, len(wanted))
        changes = Counter(event["body"]["provider"] for event in received)
        status = _status(stack, monkeypatch, changes)
        dashboard = stack.client("cloudwatch").get_dashboard(DashboardName=STACK)
        _see_what_operators_see(stack)
        _notify(stack)
        _see_what_is_refused(stack)

    assert not any(_answers(url) for url in _urls(stack))
    assert ledger.outstanding() == []
    assert ledger.repeated == 0
    latest = [*map(_identity, reversed(received))][:EVENTS_MAX]
    assert [one["uuid"] for one in shown["events"]] == latest
    registered = {one["provider"]: one["registered"] for one in shown["providers"]}
    assert registered == {name: len(accounts) for name, accounts in ACCOUNTS.items()}
    assert [one["provider"] for one in shown["providers"] if one["failing"] or one["paused"]] == []
    assert all(one["changes"] and one["p99_s"] is not None for one in shown["providers"])
    assert _told(received) >= {
        (KNOWN_ACCOUNT, "entry", "created"),
        (KNOWN_ACCOUNT, "history", "created"),
        (KNOWN_ACCOUNT, "contact", "created"),
        (SEED_ACCOUNT, "contact", "created"),
        (SEED_ACCOUNT, "ecommerce", "created"),
        (SEED_ACCOUNT, "settings", "updated"),
        (SEED_ACCOUNT, "account", "updated"),
        (SEED_ACCOUNT, "entitlement", "updated"),
        (NEW_ACCOUNT, "greeting", "created"),
        (INTELLI, "messages", "created"),
        (RINGCENTRAL, "message-store", "created"),
        (RINGCENTRAL, "message-store", "deleted"),
        (RINGCENTRAL, "presence", "created"),
        (RINGCENTRAL, "presence", "updated"),
        (KIRIMDEV, "conversations", "created"),
        (KIRIMDEV, "conversations", "updated"),
        (KIRIMDEV, "message-status", "created"),
    }
    # What was there before is known, and no news; a new user's all is.
    before = {"On holiday", "From before"}
    told = [record_of(event["body"]) for event in received if event["body"]["change"] == "created"]
    assert not [one for one in told if before & {one.get("name"), one.get("subject")}]
    assert _identity(json.loads(watched)) in map(_identity, received)
    seen = {one["provider"]: one for one in status["providers"]}
    assert seen.keys() == stack.simulators.keys()
    for name, one in seen.items():
        assert 0 < one["lag_p50_ms"] <= one["lag_p99_ms"] < 1000 * ARRIVED_S, name
        assert one["unchanged"] <= one["polls"], name
    assert {name: one["changes"] for name, one in seen.items()} == changes
    assert not [note for note in status["notes"] if "not allowed" in note or "missing" in note]
    assert json.loads(dashboard["DashboardBody"])["widgets"]
    assert stack.outputs["DashboardUrl"].endswith(f"#dashboards/dashboard/{STACK}")
    # SNS keeps the order of an account, not that of accounts.
    assert len(wanted) == 2
    assert sorted(map(_identity, filtered)) == sorted(map(_identity, wanted))


def _change_youmail(activity: Activity) -> None:
    make = partial(activity.make, "youmail")
    at_ms = now_ms()
    make("leave_voicemail", account=KNOWN_ACCOUNT)
    make("call", account=KNOWN_ACCOUNT, at_ms=at_ms)
    make("call", account=KNOWN_ACCOUNT, at_ms=at_ms)
    make("leave_voicemail", account=KNOWN_ACCOUNT, visible_at_ms=at_ms + 8_000)
    for account in (KNOWN_ACCOUNT, SEED_ACCOUNT):
        make("add_contact", {"firstName": "Eve"}, account=account, firstName="Eve")
    make("order", {"status": 1}, account=SEED_ACCOUNT, product="Premium")
    make("change_settings", {"timeZone": "CET"}, account=SEED_ACCOUNT, timeZone="CET")
    make("change_profile", {"firstName": "Zoe"}, account=SEED_ACCOUNT, firstName="Zoe")
    make("change_entitlements", {"entitlements": ["FAX"]}, account=SEED_ACCOUNT, names=["FAX"])
    make("record_greeting", account=NEW_ACCOUNT, name="At work")


def _change_others(activity: Activity) -> None:
    activity.make("intelli", "receive", {"subject": "Hi"}, account=INTELLI, text="Hi")

    _, known = next(
        one for one in activity.known("ringcentral", "message-store") if one[0] == RINGCENTRAL
    )
    activity.make("ringcentral", "delete", message=known)
    activity.make("ringcentral", "receive_sms", account=RINGCENTRAL)
    activity.make("ringcentral", "ring", {"telephonyStatus": "Ringing"}, account=RINGCENTRAL)
    busy: dict[str, Any] = {"dndStatus": "DoNotAcceptAnyCalls"}
    activity.make("ringcentral", "set_presence", busy, account=RINGCENTRAL, **busy)

    activity.make("kirimdev", "new_conversation", account=KIRIMDEV)
    _, conversation = next(
        one for one in activity.known("kirimdev", "conversations") if one[0] == KIRIMDEV
    )
    message = activity.make("kirimdev", "send", conversation=conversation)
    activity.watch("kirimdev", KIRIMDEV, message)
    status: dict[str, Any] = {"status": "delivered"}
    activity.make("kirimdev", "set_message_status", status, message=message, **status)


def _shown(board: Board) -> Any:
    """Read what a run's page shows of it."""
    board.refresh()
    with Page(board) as page:
        connection = http.client.HTTPConnection(urlsplit(page.url).netloc, timeout=5)
        connection.request("GET", "/state.json")
        return json.load(connection.getresponse())


def _receive_all(follower: Follower, board: Board) -> list[dict[str, Any]]:
    events = []
    deadline_s = time.monotonic() + ARRIVED_S
    while board.ledger.outstanding() and time.monotonic() < deadline_s:
        for text in follower.receive():
            events.append(json.loads(text))
            board.received(events[-1])
    return events


def _receive(follower: Follower, count: int) -> list[dict[str, Any]]:
    """Receive until there are so many, and then whatever else is there."""
    events: list[dict[str, Any]] = []
    deadline_s = time.monotonic() + ARRIVED_S
    while len(events) < count and time.monotonic() < deadline_s:
        events += map(json.loads, follower.receive())
    return [*events, *map(json.loads, follower.receive())]


def _status(stack: Stack, monkeypatch: pytest.MonkeyPatch, told: Mapping[str, int]) -> Any:
    """Ask `pollwire status`, as an operator does, until the last function's log is there."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", stack.endpoint)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCOUNT)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    deadline_s = time.monotonic() + ARRIVED_S
    while True:
        answer = CliRunner().invoke(app, ["status", "--json", "--stack", STACK])
        assert answer.exit_code == 0, answer.output
        found = json.loads(answer.stdout)
        counted = {one["provider"]: one["changes"] for one in found["providers"]}
        if counted == told or time.monotonic() > deadline_s:
            return found


def _notify(stack: Stack) -> None:
    """Somebody without an account at AWS sends a notification; only the provider's is heard."""
    name, table = "demo-ringcentral", stack.outputs["StateTableName"]
    sealer = Sealer(stack.client("kms"), stack.outputs["KeyArn"], now_ms)
    sealed = sealer.seal({"secret": TOKEN}, name, PUSH)
    Registry(stack.client("dynamodb"), table).set_push_secret(name, sealed)

    assert _post(stack, f"/{name}", {"Verification-Token": "forged"}) == 401
    assert _post(stack, "/nowhere", {"Verification-Token": TOKEN}) == 404
    key = {"pk": {"S": f"shard#{name}#0"}, "sk": {"S": RINGCENTRAL}}
    found = partial(stack.client("dynamodb").get_item, TableName=table, Key=key)
    assert "pushed_at" not in found()["Item"]

    assert _post(stack, f"/{name}", {"Verification-Token": TOKEN}) == 200
    assert "pushed_at" in found()["Item"]


def _post(stack: Stack, path: str, headers: dict[str, str]) -> int:
    """Send a notification to the function URL, whose host the emulator knows by its name only."""
    connection = http.client.HTTPConnection(urlsplit(stack.endpoint).netloc, timeout=30)
    host = urlsplit(stack.outputs["PushUrl"]).netloc
    try:
        body = told(now_ms(), RINGCENTRAL)
        connection.request("POST", path, body, {**headers, "Host": host})
        return connection.getresponse().status
    finally:
        connection.close()


def _see_what_is_refused(stack: Stack) -> None:
    """The template's own roles and policies are enforced, and let through what they should."""
    check = _as_role(stack, "CheckYoumailRole")
    table, topic = stack.outputs["StateTableName"], stack.outputs["EventsTopicArn"]
    key = {"pk": {"S": "connection"}, "sk": {"S": "demo"}}
    message = {
        "TopicArn": topic,
        "Message": "{}",
        "MessageGroupId": "forged",
        "MessageDeduplicationId": "forged",
    }

    # That the roles of delta may publish, every event has shown.
    assert "Item" in check("dynamodb").get_item(TableName=table, Key=key)
    assert _refusal(lambda: check("dynamodb").scan(TableName=table))
    delta = _as_role(stack, "DeltaEntryRole")
    assert _refusal(lambda: delta("dynamodb").delete_item(TableName=table, Key=key))
    assert _refusal(lambda: check("sns").publish(**message))
    # The topic's policy, as everything else is root's.
    assert _refusal(lambda: stack.client("sns").publish(**message))
    assert "Attributes" in stack.client("sns").get_topic_attributes(TopicArn=topic)


def _as_role(stack: Stack, logical_id: str) -> Callable[[str], Any]:
    """Take a function's role, as its worker does: root lets root have it, and changes no more."""
    found = stack.client("cloudformation").describe_stack_resource(
        StackName=STACK, LogicalResourceId=logical_id
    )
    name = found["StackResourceDetail"]["PhysicalResourceId"]
    iam = stack.client("iam")
    arn = iam.get_role(RoleName=name)["Role"]["Arn"]
    root = {"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [root]})
    iam.update_assume_role_policy(RoleName=name, PolicyDocument=document)
    session = stack.client("sts").assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]

    def client(service: str) -> Any:
        made: Any = boto3.Session(
            aws_access_key_id=session["AccessKeyId"],
            aws_secret_access_key=session["SecretAccessKey"],
            aws_session_token=session["SessionToken"],
            region_name=REGION,
        )
        return made.client(service, endpoint_url=stack.endpoint, config=Config(proxies={}))

    return client


def _refusal(call: Callable[[], object]) -> bool:
    """Tell whether a call is refused for who makes it, and not for what it asks."""
    try:
        call()
    except ClientError as error:
        refusals = ("AccessDenied", "AccessDeniedException", "AuthorizationError")
        return error.response["Error"]["Code"] in refusals
    return False


def _urls(stack: Stack) -> list[str]:
    return [stack.endpoint, *(simulated.url for simulated in stack.simulators.values())]


def _answers(url: str) -> bool:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except ConnectionError:
        return False
    finally:
        connection.close()
    return True


def _subscribe(stack: Stack, path: str) -> str:
    """Add a queue as an operator does; return its URL."""
    url: str = stack.client("sqs").create_queue(
        QueueName="contacts.fifo", Attributes={"FifoQueue": "true"}
    )["QueueUrl"]
    arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:contacts.fifo"
    assert _pollwire(stack, "subscribe", arn, path)["filters"] == [path]
    return url


def _see_what_operators_see(stack: Stack) -> None:
    states = _pollwire(stack, "subscriptions")
    assert [one["state"] for one in states] == ["the stack's", "confirmed"]
    assert {one["messages"] for one in _pollwire(stack, "redrive")} == {0}
    found = _pollwire(stack, "doctor")
    assert {one["check"]: one["says"] for one in found if one["state"] != "ok"} == {}


def _pollwire(stack: Stack, *words: str) -> Any:
    """Run the command; return what it answers, a list if that is several lines."""
    command = _command(stack, *words)
    ended = subprocess.run(**command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    return lines if len(lines) != 1 else lines[0]


def _command(stack: Stack, *words: str) -> dict[str, Any]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT / 'cli'}{os.pathsep}{ROOT / 'layers/pollwire'}",
        "AWS_ENDPOINT_URL": stack.endpoint,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": ACCOUNT,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "NO_PROXY": "127.0.0.1",
    }
    return {"args": [PYTHON, "-m", "pollwire_cli", *words, "--json"], "env": environment}


def _told(events: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {
        (event["ownerId"], event["body"]["stream"], event["body"]["change"]) for event in events
    }


def _identity(event: dict[str, Any]) -> str:
    return str(event["uuid"])


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
