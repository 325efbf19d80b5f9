"""AWS at its worst, with the real handlers: what comes twice, late, half, or never."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from dataclasses import asdict, replace

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from pollwire.events import group_id, iso
from pollwire.model import CheckJob

from tests import stack
from tests.hostile import test_upstream
from tests.hostile.pipeline import case, says
from tests.integration.system import ANN, BOB, PASSWORD, SHOP, _record, at_call

MINUTE_MS = 60_000


class Crash(Exception):
    """The worker is gone."""


class Timeout(BaseException):
    """Lambda ends the invocation: nothing in it can catch that."""


def dies(error):
    def fault(call, **arguments):
        raise error

    return fault


def dies_after(error):
    """What was asked for is done, and its answer lost."""

    def fault(call, **arguments):
        call(**arguments)
        raise error

    return fault


def refusal(code, operation="X"):
    return ClientError({"Error": {"Code": code, "Message": "canary"}}, operation)


# The schedule


def tick(scene, minutes=1, event=...):
    """Let the scheduler tick for the minute that is about to end: nothing of it lies ahead."""
    scene.system.clock.now_ms = (scene.system.clock() // MINUTE_MS + minutes) * MINUTE_MS - 1
    minute = {"time": iso(scene.system.clock() // MINUTE_MS * MINUTE_MS)}
    scene.system.invoke("schedule", minute if event is ... else event)


def run(scene):
    assert scene.system.run_checks() == 0
    assert scene.run_deltas() == 0


@case("F59-tick-twice")
def test_a_tick_that_comes_twice_tells_nothing_twice(shop):
    mine = shop.change(ANN)
    tick(shop, 2)
    shop.system.tick(time=iso(shop.system.clock() // MINUTE_MS * MINUTE_MS))
    run(shop)
    assert shop.said() == [shop.created(ANN, mine)]


@case("F59-tick-late")
def test_a_tick_that_comes_late_harms_nothing(shop):
    mine = shop.change(ANN)
    minute_ms = shop.system.clock() // MINUTE_MS * MINUTE_MS
    shop.system.clock.advance(170)
    shop.system.tick(time=iso(minute_ms))
    run(shop)
    tick(shop)
    run(shop)
    assert shop.said() == [shop.created(ANN, mine)]


@case("F59-tick-missing")
def test_ticks_that_never_come_delay_and_lose_nothing(shop):
    mine = shop.change(ANN)
    tick(shop, 30)
    run(shop)
    assert shop.said() == [shop.created(ANN, mine)]


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(None, id="X23-nothing"),
        pytest.param([], id="X23-list"),
        pytest.param({"time": ["canary"]}, id="X23-time-list"),
        pytest.param({"time": "0001-01-01T00:00:00+14:00"}, id="X23-time-before-year-1"),
        pytest.param({"time": "2100-01-01T00:00:00Z"}, id="X23-time-to-come"),
    ],
)
def test_a_tick_that_does_not_say_when_is_for_this_minute(shop, event):
    mine = shop.change(ANN)
    tick(shop, 2, event)
    run(shop)
    assert shop.said() == [shop.created(ANN, mine)]


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        pytest.param(1, dies(Crash()), id="F60-before-the-first"),
        pytest.param(2, dies(Crash()), id="F60-after-10-of-30"),
        pytest.param(2, dies_after(Crash()), id="F60-after-20-of-30"),
    ],
)
@pytest.mark.filterwarnings("ignore:No application metrics to publish")
def test_a_schedule_that_dies_is_run_again(shop, number, fault):
    system = shop.system
    system.connect(replace(SHOP, interval_s=2))
    mine = shop.change(ANN)
    system.faults["send_message_batch"] = at_call(number, fault)
    system.clock.now_ms += -system.clock() % MINUTE_MS
    with pytest.raises(Crash):
        system.tick(time=iso(system.clock()))
    system.faults.clear()

    system.tick(time=iso(system.clock() // MINUTE_MS * MINUTE_MS))

    assert system.depths()["pollwire-checks-youmail"] >= 30
    system.connect(SHOP)
    system.run_checks()
    shop.run_deltas()
    shop.poll()
    assert shop.said() == [shop.created(ANN, mine)]


# Jobs


def job(scene, account=ANN):
    pending = tuple(sorted(scene.standing(account).pending))
    return scene.system.job(scene.stream, account).__class__(
        scene.connection.name, 0, account, scene.stream, pending, scene.system.clock()
    )


def records(scene, *bodies):
    """Write jobs as Lambda hands them to a function."""
    arn = f"arn:aws:sqs:us-east-1:123456789012:pollwire-deltas-{scene.stream}.fifo"
    attributes = {"MessageGroupId": "g", "ApproximateReceiveCount": "1"}
    return {
        "Records": [
            {
                "messageId": f"message-{number}",
                "receiptHandle": "canary",
                "body": body if isinstance(body, str) else json.dumps(asdict(body)),
                "attributes": {**attributes, "MessageGroupId": f"g{number}"},
                "eventSource": "aws:sqs",
                "eventSourceARN": arn,
            }
            for number, body in enumerate(bodies)
        ]
    }


@pytest.fixture
def twin(shop, monkeypatch):
    """The delta function once more, as in another container at the same time."""
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Pollwire")
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "delta")
    path = stack.ROOT / "functions/delta/app.py"
    spec = importlib.util.spec_from_file_location("delta_twin", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shop.system.apps = {**shop.system.apps, "twin": module}
    return lambda event: shop.system.invoke("twin", event)


@case("F61-twice")
def test_a_job_that_comes_twice_tells_nothing_twice(shop):
    mine = shop.change(ANN)
    shop.system.clock.advance(60)
    assert shop.check() == 0
    event = records(shop, job(shop))
    assert shop.system.invoke("delta", event) == {"batchItemFailures": []}
    assert shop.system.invoke("delta", event) == {"batchItemFailures": []}
    assert shop.run_deltas() == 0
    assert shop.said() == [shop.created(ANN, mine)]


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("lookup", id="F61-while-it-asks"),
        pytest.param("transact_write_items", id="F61-while-it-writes"),
        pytest.param("publish_batch", id="F61-while-it-publishes"),
    ],
)
def test_a_job_that_runs_twice_at_once_is_decided_once(shop, twin, moment):
    mine = shop.change(ANN)
    shop.system.clock.advance(60)
    assert shop.check() == 0
    event, answers = records(shop, job(shop)), []

    def enter(call=None, **arguments):
        if not answers:
            answers.append("under way")
            answers.append(twin(event))
        return call(**arguments) if call else None

    if moment == "lookup":
        shop.lie(lambda real: (enter(), real)[1], "delta")
    else:
        shop.system.faults[moment] = enter
    shop.system.invoke("delta", event)
    shop.system.faults.clear()
    for _ in range(3):
        shop.poll()

    assert len(answers) == 2
    delivered = shop.system.deliveries()
    assert {one.said for one in delivered} == {("contact", "created", mine)}
    assert len({one.event["uuid"] for one in delivered}) == 1
    assert len(delivered) == 1 or moment == "publish_batch"  # one id: the topic tells it once


POISON = {
    "F62-no-json": "canary",
    "F62-deep": "[" * 100_000,
    "F62-list": "[]",
    "F62-nothing": "{}",
    "F62-old-schema": '{"connection": "shop", "account": "10000000001", "kind": "contact"}',
    "F62-wrong-types": '{"connection": 1, "shard": "0", "due_ms": true, "interval_s": 60}',
}


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in POISON.items()])
def test_poison_ends_in_the_dead_letter_queue_and_frees_its_group(shop, body):
    system = shop.system
    mine, others = shop.change(ANN), shop.change(BOB)
    url = system.deltas_url("contact")
    group = _group(shop)
    sent = {"MessageGroupId": group, "MessageDeduplicationId": "x"}
    system.sqs.send_message(QueueUrl=url, MessageBody=body, **sent)
    system.sqs.send_message(QueueUrl=system.checks_url(), MessageBody=body)
    system.clock.advance(60)

    assert shop.check() == 1
    shop.run_deltas()
    for _ in range(4):
        system.redeliver()
        system.run_checks()
        shop.run_deltas()

    # What stood behind it in its group may have gone with it: the next check asks for it again.
    assert shop.said()[0] == shop.created(BOB, others)
    shop.poll()
    assert shop.said() == [shop.created(ANN, mine)]
    assert system.depths().keys() == {
        "pollwire-dead-checks-youmail",
        "pollwire-dead-deltas-contact.fifo",
    }


def _group(scene):
    return group_id(scene.connection.name, ANN, scene.stream)


@case("F62-unknown-account")
def test_a_job_of_an_account_that_is_none_is_done_with(shop):
    shop.change(ANN)
    shop.system.clock.advance(60)
    shop.check()
    unknown = replace(job(shop), account="nobody")
    before = shop.system.table()
    assert shop.system.invoke("delta", records(shop, unknown)) == {"batchItemFailures": []}
    assert shop.system.table() == before


@case("F63-timeout-in-3-of-5")
def test_a_batch_that_runs_out_of_time_is_repeated_without_harm(shop):
    system = shop.system
    accounts = [ANN, BOB, "10000000003", "10000000004", "10000000005"]
    for account in accounts[2:]:
        system.add_account(account, SHOP, fields=",,contact")
    shop.poll()
    shop.poll(180)
    rows = {account: shop.change(account) for account in accounts}
    asked = Counter()

    def stop(real):
        asked["all"] += 1
        if asked["all"] == 3:
            raise Timeout
        return real

    system.clock.advance(60)
    assert shop.check() == 0
    shop.hostile.on("/contacts/query", reply=stop, times=99)
    url = system.deltas_url("contact")
    messages = system.receive(url, 5)
    assert len(messages) == 5
    with pytest.raises(Timeout):
        system.invoke("delta", {"Records": [_record(one, url) for one in messages]})
    first = shop.said()
    system.failed += [(url, one["ReceiptHandle"]) for one in messages]
    system.redeliver()
    assert shop.run_deltas() == 0

    assert len(first) == 2
    again = [*first, *shop.said()]
    assert sorted(again) == sorted(shop.created(*one) for one in rows.items())


@pytest.mark.parametrize(
    ("bodies", "failed"),
    [
        pytest.param((), [], id="F64-all-well"),
        pytest.param(("canary",), ["message-1"], id="F64-one-of-two"),
        pytest.param(("canary", "{}"), ["message-1", "message-2"], id="F64-two-of-three"),
    ],
)
def test_what_a_function_returns_is_what_lambda_reads(shop, bodies, failed):
    shop.change(ANN)
    shop.system.clock.advance(60)
    shop.check()
    shop.system.sqs.purge_queue(QueueUrl=shop.system.deltas_url("contact"))
    answer = shop.system.invoke("delta", records(shop, job(shop), *bodies))
    assert json.loads(json.dumps(answer)) == {
        "batchItemFailures": [{"itemIdentifier": one} for one in failed]
    }
    assert all(type(one["itemIdentifier"]) is str for one in answer["batchItemFailures"])


@case("F64-every-check")
def test_what_a_check_returns_is_what_lambda_reads(shop):
    check = CheckJob("shop", 0, shop.system.clock(), 60)
    event = records(shop, check, "canary")
    assert shop.system.invoke("check", event) == {
        "batchItemFailures": [{"itemIdentifier": "message-1"}]
    }


# The table and the topic


THROTTLED = refusal("ProvisionedThroughputExceededException")
LOST = ReadTimeoutError(endpoint_url="https://canary")


@pytest.mark.parametrize(
    "call", ["transact_write_items", "update_item", "batch_get_item", "get_item"]
)
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(dies(THROTTLED), id="F65-throttled"),
        pytest.param(dies_after(LOST), id="F65-answer-lost"),
    ],
)
def test_a_table_that_fails_loses_and_repeats_nothing(shop, call, fault):
    rows = [shop.change(ANN), shop.change(BOB)]
    shop.system.clock.advance(60)
    assert shop.check() == 0
    shop.system.faults[call] = at_call(1, fault)
    shop.run_deltas()
    shop.system.faults.clear()
    for _ in range(3):
        shop.poll()
    delivered = shop.system.deliveries()
    assert {one.said[2] for one in delivered} == set(rows)
    assert len({one.event["uuid"] for one in delivered}) == 2
    assert shop.system.depths() == {}
    assert not shop.standing().pending


@case("F65-keys-left-unread")
def test_a_batch_that_leaves_keys_over_is_gone_on_with(shop):
    def half(call, **params):
        ((table, asked),) = params["RequestItems"].items()
        keys = asked["Keys"]
        taken = {**asked, "Keys": keys[: (len(keys) + 1) // 2]}
        left = {table: {**asked, "Keys": keys[len(taken["Keys"]) :]}} if len(keys) > 1 else {}
        return {**call(RequestItems={table: taken}), "UnprocessedKeys": left}

    rows = [shop.change(ANN) for _ in range(5)]
    shop.system.clock.advance(60)
    shop.system.faults["batch_get_item"] = half
    # None of these has a record yet: that a call finds nothing does not mean that it did nothing.
    shop.poll()
    assert [one.said[2] for one in shop.system.deliveries()] == rows


@pytest.mark.parametrize("call", ["update_item", "query"])
@case("F65-check-throttled")
def test_a_table_that_fails_a_check_loses_nothing(shop, call):
    rows = {shop.change(ANN), shop.change(BOB)}
    shop.system.clock.advance(60)
    shop.system.faults[call] = at_call(1, dies(THROTTLED))
    shop.check()
    shop.system.faults.clear()
    for _ in range(3):
        shop.poll()
    assert {one[3] for one in shop.said()} == rows


@case("X25-answer-lost")
def test_a_table_that_does_not_answer_for_one_account_holds_up_no_other(shop):
    rows = {account: shop.change(account) for account in (ANN, BOB)}
    shop.system.clock.advance(60)
    shop.system.faults["update_item"] = at_call(1, dies_after(LOST))
    assert shop.check() == 0
    shop.system.faults.clear()
    shop.run_deltas()
    first = shop.said()
    assert len(first) == 1
    for _ in range(3):
        shop.poll()
    assert {*first, *shop.said()} == {shop.created(*one) for one in rows.items()}


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        pytest.param("decrypt", dies(LOST), id="X25-kms-silent"),
        pytest.param("decrypt", dies(refusal("KMSInternalException")), id="X25-kms-ill"),
        pytest.param("encrypt", dies(LOST), id="X25-kms-silent-when-a-token-is-shared"),
    ],
)
def test_a_key_that_does_not_answer_is_no_accounts_fault(stage, call, fault):
    scene = stage("ringcentral")
    scene.hostile.simulator.expire_tokens()
    scene.system.faults[call] = fault
    rows = {account: scene.change(account) for account in (scene.bad, scene.good)}
    scene.poll(600)
    assert [scene.standing(account).failures for account in rows] == [0, 0]
    scene.system.faults.clear()
    for _ in range(3):
        scene.poll()
    assert set(scene.said()) == {scene.created(*one) for one in rows.items()}


@case("X25-not-hastened")
def test_a_queue_that_does_not_answer_undoes_nothing(shop):
    shop.system.faults["change_message_visibility_batch"] = dies(LOST)
    assert shop.system.invoke("delta", records(shop, "canary", "{}")) == {
        "batchItemFailures": [{"itemIdentifier": f"message-{n}"} for n in range(2)]
    }


@case("F65-another-was-faster")
def test_a_decision_that_another_overtook_is_not_told(shop):
    mine = shop.change(ANN)
    cancelled = ClientError(
        {
            "Error": {"Code": "TransactionCanceledException", "Message": "canary"},
            "CancellationReasons": [{"Code": "ConditionalCheckFailed"}, {"Code": "None"}],
        },
        "TransactWriteItems",
    )
    error = type(
        shop.system.dynamodb.exceptions.TransactionCanceledException.__name__,
        (shop.system.dynamodb.exceptions.TransactionCanceledException,),
        {},
    )(cancelled.response, "TransactWriteItems")
    shop.system.faults["transact_write_items"] = at_call(1, dies(error))
    shop.system.clock.advance(60)
    shop.check()
    assert shop.run_deltas() == 1
    assert shop.said() == []
    shop.system.redeliver()
    assert shop.run_deltas() == 0
    assert shop.said() == [shop.created(ANN, mine)]


@case("F66-error-after-effect")
def test_what_the_topic_took_is_sent_again_as_it_was(shop):
    rows = [
        shop.hostile.simulator.add_contact(ANN, at_ms=shop.system.clock() + n) for n in range(25)
    ]
    shop.system.faults["publish_batch"] = at_call(2, dies_after(LOST))
    shop.system.clock.advance(60)
    shop.check()
    assert shop.run_deltas() == 1
    before = shop.system.deliveries()
    shop.system.faults.clear()
    shop.system.redeliver()
    assert shop.run_deltas() == 0
    after = shop.system.deliveries()

    assert len(before) == 20  # nothing behind the batch whose fate is not known
    assert [one.said[2] for one in after] == rows
    assert [one.event for one in after[:20]] == [one.event for one in before]


@case("F67-queue-policy-broken")
def test_an_event_that_a_queue_refuses_waits_in_the_subscriptions_dead_letter_queue(shop):
    resources = stack.load()["Resources"]
    target = resources["Subscription"]["Properties"]["RedrivePolicy"]["deadLetterTargetArn"]
    queue = resources[target["Fn::GetAtt"][0]]["Properties"]
    assert queue["FifoQueue"] is True
    policies = [
        json.dumps(one["Properties"])
        for one in resources.values()
        if one["Type"] == "AWS::SQS::QueuePolicy"
    ]
    assert any(target["Fn::GetAtt"][0] in one and "sns.amazonaws.com" in one for one in policies)
    system = shop.system
    dead = next(url for url in system.sqs.list_queues()["QueueUrls"] if "undelivered" in url)

    def refused(call, PublishBatchRequestEntries, **arguments):
        """As SNS does: the publisher sees nothing of it."""
        for entry in PublishBatchRequestEntries:
            system.sqs.send_message(
                QueueUrl=dead,
                MessageBody=entry["Message"],
                MessageGroupId=entry["MessageGroupId"],
                MessageDeduplicationId=entry["MessageDeduplicationId"],
            )
        return {"Successful": [{"Id": one["Id"]} for one in PublishBatchRequestEntries]}

    system.faults["publish_batch"] = refused
    mine = shop.change(ANN)
    shop.poll()
    assert shop.said() == []
    assert [one.said for one in system.deliveries(dead)] == [("contact", "created", mine)]


@case("F68-secret-rotated")
def test_a_password_that_changes_midway_is_tried_once_and_then_left_alone(shop):
    system = shop.system
    simulator = shop.hostile.simulator
    mine, others = shop.change(ANN), shop.change(BOB)
    simulator._accounts[ANN].password = "canary-new"
    simulator.expire_tokens()
    asked = len(shop.hostile.asked)
    shop.poll()
    logins = [one for one in shop.hostile.asked[asked:] if "/authenticate" in one]
    lookups = [one for one in shop.hostile.asked[asked:] if "/contacts/" in one]
    assert sum("4255000001" in one for one in logins) == 1
    assert sum("4255000001" in one for one in lookups) == 1
    assert shop.said() == [shop.created(BOB, others)]
    assert shop.standing().failures == 1

    credential = {"username": "4255000001", "password": "canary-new"}
    sealed = system.world.sealer.seal(credential, "shop", ANN)
    system.dynamodb.update_item(
        TableName=system.environment["TABLE_NAME"],
        Key={"pk": {"S": "shard#shop#0"}, "sk": {"S": ANN}},
        UpdateExpression="SET credential = :sealed",
        ExpressionAttributeValues={":sealed": {"B": sealed}},
    )
    shop.recovers(mine)
    assert PASSWORD not in shop.logged()


@case("F68-token-ends-midway")
def test_a_token_that_ends_between_two_pages_is_renewed_once(shop):
    rows = {shop.change(ANN) for _ in range(130)}
    simulator = shop.hostile.simulator
    simulator.on_page = lambda stream, number: number == 1 and simulator.expire_tokens()
    shop.poll()
    simulator.on_page = None
    shop.poll()
    assert {one[3] for one in shop.said()} == rows
    assert shop.standing().failures == 0


@pytest.mark.parametrize("at", [pytest.param(at, id=f"F69-{at}") for at in ("check", "delta")])
@pytest.mark.parametrize("reply", [lambda real: real, says(b"", 503)])
def test_an_account_that_is_removed_while_its_job_runs_stays_removed(shop, at, reply):
    shop.change(ANN)
    others = shop.change(BOB)

    def remove(real):
        shop.system.remove_account(ANN, shop.connection)
        return reply(real)

    shop.lie(remove, at)
    shop.poll()
    shop.hostile.heal()
    shop.system.redeliver()
    shop.run_deltas()
    shop.poll()

    assert shop.standing() is None
    assert shop.created(BOB, others) in shop.said()
    assert shop.system.depths() == {}


# Items that nobody of this version has written


def rewrite(scene, pk, sk, **attributes):
    """Change an item of the table by hand; a new one is like that of the scene."""
    like = scene.connection.name if pk == "connection" else sk
    item = scene.system.table()[(pk, like)]
    item |= {"sk": {"S": sk}} | {name: {"S": text} for name, text in attributes.items()}
    scene.system.dynamodb.put_item(TableName=scene.system.environment["TABLE_NAME"], Item=item)


DEEP = '{"fields": ' + "[" * 5_000


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("settings", "[]", id="X19-settings-list"),
        pytest.param("settings", '{"fields": 7}', id="X19-settings-number"),
        pytest.param("settings", DEEP, id="X19-settings-deep"),
        pytest.param("hosts", "null", id="X19-hosts-null"),
        pytest.param("hosts", '{"api": 7}', id="X19-hosts-number"),
        pytest.param("hosts", DEEP, id="X19-hosts-deep"),
    ],
)
def test_a_connection_that_cannot_be_read_stops_no_other(shop, name, text):
    rewrite(shop, "connection", "odd", **{name: text})
    mine = shop.change(ANN)
    tick(shop, 2)
    assert shop.logs()[-1]["counts"]["broken"] == 1
    run(shop)
    assert shop.said() == [shop.created(ANN, mine)]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[]", id="X20-list"),
        pytest.param('{"fields": 7}', id="X20-number"),
        pytest.param('{"fields": null}', id="X20-null"),
        pytest.param(DEEP, id="X20-deep"),
    ],
)
def test_an_account_whose_settings_are_odd_stops_no_other(shop, text):
    rewrite(shop, "shard#shop#0", ANN, settings=text)
    shop.change(ANN)
    others = shop.change(BOB)
    shop.poll()
    assert shop.said() == [shop.created(BOB, others)]


# The list itself


def numbers(module):
    """Read the number of every hostile input that a module's tests are about."""
    marks = [
        mark
        for test in vars(module).values()
        for mark in getattr(test, "pytestmark", [])
        if callable(test) and mark.name == "parametrize"
    ]
    names = [one if isinstance(one, str) else one.id for mark in marks for one in _cases(mark)]
    groups = [name.partition("-")[0] for name in names if name and name[0] in "ABCDEF"]
    return Counter(int(group[1:]) for group in groups if group[1:].isdigit())


def _cases(mark):
    return [one for one in mark.args[1] if isinstance(one, str) or getattr(one, "id", None)]


def test_every_hostile_input_has_a_case():
    found = numbers(test_upstream) + numbers(sys.modules[__name__])
    assert sorted(found) == list(range(1, 70))
