"""``pollwire status`` on moto: the template's table and queues, lines as functions write them."""

from __future__ import annotations

import contextlib
import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from aws_lambda_powertools import Logger
from botocore.exceptions import ClientError
from pollwire import batches, marks
from pollwire.model import CheckJob, DeltaJob
from pollwire.providers import registered
from pollwire.wiring import clock
from pollwire.world import Counts
from pollwire_cli import logs, status
from pollwire_cli.session import Session

STREAMS = [stream for one in registered().values() for stream in one.streams]


class Functions:
    """What the stages' functions tell, put where Lambda puts it."""

    def __init__(self, client):
        self.client = client
        self.now_ms = clock()
        for name in [f"check-{one}" for one in registered()] + [f"delta-{one}" for one in STREAMS]:
            group = f"/aws/lambda/pollwire-{name}"
            client.create_log_group(logGroupName=group)
            client.create_log_stream(logGroupName=group, logStreamName="1")

    def put(self, name, *lines, ago_s=60):
        self.client.put_log_events(
            logGroupName=f"/aws/lambda/pollwire-{name}",
            logStreamName="1",
            logEvents=[
                {"timestamp": self.now_ms - ago_s * 1000, "message": line} for line in lines
            ],
        )

    def check(self, shard=0, connection="shop", provider="youmail", ago_s=60, **counts):
        job = CheckJob(connection, shard, self.now_ms - ago_s * 1000, 60)
        told = Counts(counts)
        told.provider = provider
        self.put(f"check-{provider}", *_lines("check", batches.tell_check, job, told), ago_s=ago_s)

    def delta(self, stream="entry", provider="youmail", lags_ms=(), **counts):
        job = DeltaJob("shop", 0, "7", stream, (f"{stream}@1@1",), self.now_ms)
        told = Counts(counts)
        told.provider, told.lags_ms = provider, tuple(lags_ms)
        self.put(f"delta-{stream}", *_lines("delta", batches.tell_delta, job, told))


def _lines(service, tell, job, counts):
    logger = Logger(service=service, stream=io.StringIO())
    metrics = batches.Metrics(namespace="Pollwire", service=service)
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        tell(logger, metrics, job, counts)
        batches.count(metrics, {"failed_jobs": 0})
        metrics.flush_metrics()
    return ["START RequestId: 1\n", *written.getvalue().splitlines(), "END RequestId: 1\n"]


@pytest.fixture
def functions(operator):
    return Functions(operator.clients("logs"))


def written(operator, account, connection="shop", **values):
    """Write attributes of an account as the stages do."""
    names = {f"#{name}": name for name in values}
    operator.clients("dynamodb").update_item(
        TableName=operator.state._table,
        Key={"pk": {"S": f"shard#{connection}#0"}, "sk": {"S": account}},
        UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in values),
        ExpressionAttributeNames=names,
        ExpressionAttributeValues={f":{name}": value for name, value in values.items()},
    )


def found(operator, *words):
    return operator.done("status", "--json", *words).json


def provider(operator, name="youmail"):
    return {one["provider"]: one for one in found(operator)["providers"]}[name]


def hooked(monkeypatch, event, hook):
    """Have something called at an event of the operator's clients."""
    real = Session._client

    def client(session, service):
        made = real(session, service)
        made.meta.events.register(event, hook)
        return made

    monkeypatch.setattr(Session, "_client", client)


def refusing(monkeypatch, operation, code):
    """Have AWS refuse one call to the operator."""

    def refuse(**_):
        raise ClientError({"Error": {"Code": code, "Message": "no"}}, operation)

    hooked(monkeypatch, f"before-call.*.{operation}", refuse)


def test_a_stack_with_nothing_in_it_says_what_to_do(operator, functions):
    said = operator.done("status").out

    assert "nothing is registered yet; see pollwire connections add" in said
    assert found(operator)["providers"] == []
    assert "37 of 37 queues are empty." in said


def test_what_nobody_told_is_not_known(operator, functions):
    operator.connect()
    operator.register("7")

    one = provider(operator)

    assert (one["accounts"], one["due"], one["overdue"], one["polls"]) == (1, 0, 1, 0)
    assert (one["lag_p50_ms"], one["lag_p99_ms"]) == (None, None)
    assert "no function told anything in the last 15 minutes" in operator.done("status").out


def test_lag_polls_and_changes_are_of_the_last_minutes(operator, functions):
    operator.connect()
    functions.check(polled=10, unchanged=8, unasked=2)
    functions.check(polled=10, unchanged=9, ago_s=120)
    functions.delta(lags_ms=range(1, 101), created=90, updated=10, rejected=1)
    functions.delta("contact", lags_ms=[5_000], deleted=1)

    one = provider(operator)

    assert (one["due"], one["overdue"]) == (10, 2)
    assert (one["polls"], one["unchanged"], one["changes"]) == (20, 17, 101)
    assert (one["lag_p50_ms"], one["lag_p99_ms"]) == (51, 100)
    assert one["errors"] == {"rejected": 1, "unasked": 2}
    said = [line.split() for line in operator.done("status").out.splitlines()]
    assert ["youmail", "rejected", "1"] in said


def test_what_is_older_is_not_read(operator, functions):
    operator.connect()
    functions.check(polled=10, ago_s=20 * 60)

    assert provider(operator)["polls"] == 0
    ((one,),) = [found(operator, "--minutes", "30")["providers"]]
    assert one["polls"] == 10


def test_providers_are_told_apart(operator, functions):
    operator.connect()
    operator.connect("inbox", "kirimdev")
    functions.check(polled=10)
    functions.check(connection="inbox", provider="kirimdev", polled=3)

    polls = {one["provider"]: one["polls"] for one in found(operator)["providers"]}

    assert polls == {"youmail": 10, "kirimdev": 3}


def test_who_is_paused_fails_or_is_pending_is_in_the_table(operator, functions):
    operator.connect()
    operator.register("1", "2", "3", "4", "5", "6")
    now_ms = clock()
    operator.done("accounts", "pause", "1", "--connection", "shop")
    for account, trouble in (("2", "Rejected: host: 401"), ("3", "Rejected: other: 403")):
        written(operator, account, failures={"N": "2"}, trouble={"S": trouble})
    written(operator, "4", settings={"S": "no JSON"})
    old, new = (marks.element("entry", "1", now_ms - ago_s * 1000) for ago_s in (300, 10))
    written(operator, "5", pending={"SS": [old, new]})
    written(operator, "6", pending={"SS": [new, "no element"]})

    one = provider(operator)

    assert (one["accounts"], one["read"]) == (6, 6)
    assert (one["paused"], one["failing"], one["pending"]) == (1, 3, 2)
    assert one["reasons"] == {"Rejected": 2, "cannot be read": 1}
    assert 300 <= one["oldest_pending_s"] < 400
    said = operator.done("status").out
    assert [line.split() for line in said.splitlines() if "Rejected" in line] == [
        ["youmail", "Rejected", "2"]
    ]


def test_a_connection_that_is_paused_is_named_and_nobody_of_it_is_overdue(operator, functions):
    operator.connect()
    operator.register("7")
    operator.done("connections", "pause", "shop")

    assert provider(operator)["overdue"] == 0
    assert "connection shop: paused until 9999" in operator.done("status").out


def test_a_provider_that_does_not_answer_is_named(operator, functions):
    operator.connect("down", outages=4, paused_until_ms=clock() + 600_000)

    said = operator.done("status").out

    assert "connection down: 4 checks in a row had no answer; paused until " in said


def test_a_connection_that_cannot_be_read_is_named(operator, functions):
    operator.connect()
    operator.clients("dynamodb").put_item(
        TableName=operator.state._table,
        Item={"pk": {"S": "connection"}, "sk": {"S": "odd\x1b[2J"}},
    )

    said = operator.done("status").out

    assert "connection odd" in said
    assert "its item cannot be read" in said
    assert "\x1b" not in said


def test_a_provider_of_another_version_stops_nothing(operator, functions):
    operator.connect("old", "telex")
    operator.connect()
    functions.check(polled=10)

    assert [one["provider"] for one in found(operator)["providers"]] == ["telex", "youmail"]
    assert provider(operator)["polls"] == 10


def test_of_very_many_accounts_some_are_looked_at(operator, functions, monkeypatch):
    monkeypatch.setattr(status, "ACCOUNTS_MAX", 4)
    monkeypatch.setattr(status, "ACCOUNTS_MIN", 2)
    operator.connect()
    operator.connect("office")
    operator.register(*"123456")
    operator.register("7", connection="office")

    one = provider(operator)

    assert (one["accounts"], one["read"]) == (7, 3)
    said = operator.done("status").out
    assert "connection shop: 2 of its 6 accounts were looked at" in said
    assert "connection office" not in said


def test_of_very_many_lines_the_latest_are_read(operator, functions, monkeypatch):
    """A line a minute, each of them on a page of its own."""
    monkeypatch.setattr(logs, "PAGES_MAX", 5)
    operator.connect()
    for ago_s in range(30, 600, 60):
        functions.check(polled=1, ago_s=ago_s)
    asked = []

    def one_a_page(params, **_):
        asked.append(params)
        params["limit"] = 1

    hooked(monkeypatch, "provide-client-params.*.FilterLogEvents", one_a_page)

    answer = found(operator)

    assert answer["log"]["lines"] < 10
    assert any("/aws/lambda/pollwire-check-youmail: lines before" in n for n in answer["notes"])
    groups = [params["logGroupName"] for params in asked]
    assert groups.count("/aws/lambda/pollwire-check-youmail") == 5
    assert max(groups.count(group) for group in groups) == 5
    assert answer["log"]["calls"] == len(groups)
    # What was not read tells nothing: who is overdue would be a guess.
    assert answer["providers"][0]["overdue"] is None


@pytest.mark.parametrize(
    ("operation", "code", "said"),
    [
        ("FilterLogEvents", "AccessDeniedException", "lag, polls, due and overdue: not known"),
        ("ListQueues", "AccessDenied", "the queues: not known"),
        ("GetQueueAttributes", "AccessDenied", "the queues: not known"),
        ("GetMetricData", "AccessDenied", "the age of messages: not known"),
    ],
)
def test_what_is_not_allowed_is_named_and_the_rest_is_shown(
    operator, functions, monkeypatch, operation, code, said
):
    operator.connect()
    operator.register("7")
    functions.check(polled=10)
    refusing(monkeypatch, operation, code)

    told = operator.done("status").out
    answer = found(operator)

    assert f"{said}, since {operation} is not allowed ({code})" in told
    assert answer["providers"][0]["accounts"] == 1
    assert (answer["log"] is None) == (operation == "FilterLogEvents")
    assert (answer["queues"] is None) == ("Queue" in operation)


def test_what_else_aws_refuses_is_said_in_one_line(operator, functions, monkeypatch):
    operator.connect()
    refusing(monkeypatch, "FilterLogEvents", "InternalServerError")

    assert "AWS refused FilterLogEvents: InternalServerError" in operator.refused("status")


def test_a_log_group_that_is_not_there_is_named(operator, functions):
    operator.connect()
    operator.clients("logs").delete_log_group(logGroupName="/aws/lambda/pollwire-check-youmail")
    functions.delta(lags_ms=[7], created=1)

    answer = found(operator)

    assert "/aws/lambda/pollwire-check-youmail: there is no such log group" in answer["notes"]
    assert answer["providers"][0]["changes"] == 1


def test_depths_are_told_and_dead_letters_named(operator, functions):
    sqs = operator.clients("sqs")
    for queue, group in (
        ("pollwire-dead-deltas-entry.fifo", {"MessageGroupId": "1", "MessageDeduplicationId": "1"}),
        ("pollwire-checks-youmail", {}),
        ("pollwire-undelivered.fifo", {"MessageGroupId": "1", "MessageDeduplicationId": "1"}),
    ):
        url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
        sqs.send_message(QueueUrl=url, MessageBody="canary", **group)

    queues = {one["queue"]: one for one in found(operator)["queues"]}
    said = operator.done("status").out

    filled = {name for name, one in queues.items() if one["waiting"]}
    assert {name: queues[name]["dead"] for name in filled} == {
        "pollwire-dead-deltas-entry.fifo": True,
        "pollwire-checks-youmail": False,
        "pollwire-undelivered.fifo": True,
    }
    assert "34 of 37 queues are empty." in said
    assert "canary" not in said


def test_the_oldest_message_is_as_old_as_cloudwatch_says(operator, functions, monkeypatch):
    sqs = operator.clients("sqs")
    url = sqs.get_queue_url(QueueName="pollwire-checks-youmail")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="{}")
    operator.clients("cloudwatch").put_metric_data(
        Namespace="AWS/SQS",
        MetricData=[
            {
                "MetricName": "ApproximateAgeOfOldestMessage",
                "Dimensions": [{"Name": "QueueName", "Value": name}],
                "Value": 77,
                "Timestamp": datetime.now(UTC) - timedelta(seconds=90),
            }
            for name in ("pollwire-checks-youmail", "pollwire-checks-intelli")
        ],
    )

    ages = {one["queue"]: one["oldest_s"] for one in found(operator)["queues"]}

    assert ages["pollwire-checks-youmail"] == 77
    assert ages["pollwire-checks-intelli"] is None  # Nothing is in it any more.


def test_a_queue_that_is_missing_is_named(operator, functions):
    sqs = operator.clients("sqs")
    sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName="pollwire-deltas-entry.fifo")["QueueUrl"])

    answer = found(operator)

    assert (
        "queue pollwire-deltas-entry.fifo: it is missing; deploy the stack again"
        in (answer["notes"])
    )
    assert len(answer["queues"]) == 36


def test_a_stack_without_the_default_subscriber_misses_nothing(operator, functions):
    sqs = operator.clients("sqs")
    for name in ("subscriber", "dead-subscriber", "undelivered"):
        url = sqs.get_queue_url(QueueName=f"pollwire-{name}.fifo")["QueueUrl"]
        sqs.delete_queue(QueueUrl=url)

    assert not [note for note in found(operator)["notes"] if "missing" in note]


def test_anothers_queues_are_not_counted(operator, functions):
    operator.clients("sqs").create_queue(QueueName="pollwire-two-checks-youmail")

    assert len(found(operator)["queues"]) == 37


@pytest.mark.parametrize("minutes", ["0", "1441", "-1", "soon", "1.5"])
def test_a_wrong_time_is_refused(operator, minutes):
    assert "--minutes" in operator.misused("status", "--minutes", minutes)


def test_a_stack_that_is_not_there_is_named(operator):
    assert "--stack or POLLWIRE_STACK" in operator.refused("status", "--stack", "nowhere")


def test_the_answer_is_one_document_of_plain_values(operator, functions):
    operator.connect()
    functions.check(polled=10)

    answer = operator.done("status", "--json").out

    assert len(answer.splitlines()) == 1
    assert json.loads(answer)["stack"] == "pollwire"
