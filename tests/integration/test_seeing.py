"""What an operator sees: the dashboard and the alarms, beside what the real handlers emit."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial

import pytest
from botocore.exceptions import ClientError
from pollwire import errors
from pollwire.batches import BY
from pollwire.model import CheckJob, Connection
from pollwire.providers import registered

from local.simulators.kirimdev import Kirimdev
from tests import stack
from tests.integration.system import ANN, BOB, CAL, SHOP
from tests.integration.test_crashes import countdown
from tests.integration.test_push import by_kirimdev, let_push
from tests.pushing import SECRET
from tests.template.expand import template

OFFICE = Connection("office", "kirimdev", interval_s=60, slowest_s=60)
PHONE = "106540352242922"

#: What a check's request can be answered with, and a delta's.
CHECK_FAILS = ("Unavailable", "RateLimited", "Unasked", "Rejected", "Malformed", "Misconfigured")
DELTA_FAILS = (*CHECK_FAILS, "Forbidden", "Restart")

NAME = "a-stack"
SUBSTITUTES = {
    "AWS::StackName": NAME,
    "AWS::Region": "us-east-1",
    "Table": "a-table",
}


def widgets():
    """The dashboard's widgets, as CloudWatch gets them."""
    text, _ = template()["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    body = re.sub(r"\$\{([^}]+)\}", lambda found: SUBSTITUTES[found[1]], text)
    return json.loads(body)["widgets"]


def shown():
    """Metrics of the dashboard: namespace, name, and dimensions with their values if it says so."""
    for widget in widgets():
        for metric in widget["properties"]["metrics"]:
            if not isinstance(metric[0], dict):
                words = [word for word in metric if isinstance(word, str)]
                dimensions = dict(zip(words[2::2], words[3::2], strict=True))
                yield words[0], words[1], dimensions
            elif "SEARCH" in metric[0]["expression"]:
                found = re.fullmatch(
                    r"""SEARCH\('\{(\w+),([\w,]+)\} MetricName="(\w+)"', '\w+', 300\)""",
                    metric[0]["expression"],
                )
                assert found, metric
                yield found[1], found[3], dict.fromkeys(found[2].split(","))


def emitted(capsys):
    """Custom metrics that were emitted since the last look: name, and dimensions."""
    found = set()
    for line in capsys.readouterr().out.splitlines():
        said = json.loads(line)
        for directive in said.get("_aws", {}).get("CloudWatchMetrics", ()):
            assert directive["Namespace"] == "Pollwire"
            (names,) = directive["Dimensions"]
            where = frozenset((name, said[name]) for name in names)
            found |= {(metric["Name"], where) for metric in directive["Metrics"]}
    return found


def raising(name, path, request):
    """Answer a request with an error, if it is for this path."""
    if path in request.url:
        raise vars(errors)[name]("as the test wants it")


def forget_failures(system):
    """Let all be asked again at once, as after a long time."""
    table = system.environment["TABLE_NAME"]
    for (pk, sk), item in system.table().items():
        gone = [name for name in ("failures", "not_before", "paused_until") if name in item]
        if gone:
            system.dynamodb.update_item(
                TableName=table,
                Key={"pk": {"S": pk}, "sk": {"S": sk}},
                UpdateExpression=f"REMOVE {', '.join(gone)}",
            )


def fail_each_way(system):
    """Have every error that a provider's answer can be happen to a check, and to a delta."""
    for name in CHECK_FAILS:
        system.http.on_request = partial(raising, name, "/vm/poll")
        system.poll()
        forget_failures(system)
    for name in DELTA_FAILS:
        system.http.on_request = lambda request: None
        system.simulator.add_contact(ANN)
        # Refused anywhere but where it signs in, a credential may still be good.
        path = "/api/v4/authenticate" if name == "Rejected" else "/api/v4/contacts"
        system.simulator.expire_tokens()
        system.http.on_request = partial(raising, name, path)
        system.poll()
        forget_failures(system)
    system.http.on_request = lambda request: None
    system.rest()


def break_what_is_ours(system):
    """Have happen what is AWS's or an operator's fault."""
    table = system.environment["TABLE_NAME"]
    system.connect(replace(SHOP, name="broken"))
    for pk, sk, expression in (
        ("connection", "broken", "REMOVE interval_s"),
        ("shard#shop#0", BOB, "SET settings = :odd"),
    ):
        values = {":odd": {"S": "no JSON"}} if ":odd" in expression else {}
        system.dynamodb.update_item(
            TableName=table,
            Key={"pk": {"S": pk}, "sk": {"S": sk}},
            UpdateExpression=expression,
            **({"ExpressionAttributeValues": values} if values else {}),
        )
    system.tick()
    system.run_checks()

    def refuse(call, **arguments):
        failed = [{"Id": one["Id"]} for one in arguments["PublishBatchRequestEntries"]]
        return {"Failed": failed, "Successful": []}

    def outrun(call, **arguments):
        answer = {
            "Error": {"Code": "TransactionCanceledException"},
            "CancellationReasons": [{"Code": "ConditionalCheckFailed"}],
        }
        client = system.clients("dynamodb")
        raise client.exceptions.TransactionCanceledException(answer, "TransactWriteItems")

    for name, fault in (("publish_batch", refuse), ("transact_write_items", outrun)):
        system.simulator.add_contact(ANN)
        system.faults[name] = fault
        assert system.poll() == 1
        del system.faults[name]
        system.poll()
    stale = CheckJob("shop", 0, system.clock() - 60_001, 60)
    system.world.queues.send_checks("youmail", [stale], system.clock())
    system.run_checks()


def fall_silent(system):
    """Have a provider answer nobody, over a connection that has been silent before."""
    down = replace(SHOP, name="down", outages=1)
    system.connect(down)
    system.add_account(CAL, down)
    system.http.on_request = partial(raising, "Unavailable", CAL)
    system.check(down)
    system.http.on_request = lambda request: None


def notify_wrongly(system):
    """Have a connection notified of what is not its provider's, cannot be read or not be opened."""
    inbox = replace(OFFICE, name="inbox")
    system.connect(inbox)
    let_push(system, inbox, SECRET)
    assert by_kirimdev(system, signature="forged")["statusCode"] == 401
    assert by_kirimdev(system, body="no JSON")["statusCode"] == 400
    sealed = system.world.sealer.seal({"secret": SECRET}, "inbox", "another")
    system.registry.set_push_secret("inbox", sealed)
    system.clock.advance(3_600)
    assert by_kirimdev(system)["statusCode"] == 503


@pytest.fixture
def seen(ann, capsys):
    """All that is emitted while everything happens that can."""
    kirimdev = ann.attach("kirimdev", Kirimdev(lambda: ann.clock() / 1000))
    kirimdev.add_organisation("org", "canary-key")
    kirimdev.add_account(PHONE, "org")
    ann.connect(OFFICE)
    sealed = ann.world.sealer.seal({"api_key": "canary-key"}, OFFICE.name, PHONE)
    ann.registry.add_account(OFFICE, PHONE, credential=sealed)
    ann.add_account(BOB, fields="history,entry,contact")
    ann.check(OFFICE)
    ann.rest()
    contact = ann.simulator.add_contact(ANN)
    ann.poll()
    ann.simulator.update_contact(contact, firstName="Eve")
    ann.poll()
    ann.simulator.delete_contact(contact)
    ann.rest()
    fail_each_way(ann)
    break_what_is_ours(ann)
    fall_silent(ann)
    notify_wrongly(ann)
    return emitted(capsys)


def test_every_metric_of_the_dashboard_and_of_the_alarms_is_really_emitted(seen):
    alarms = [
        resource["Properties"]
        for resource in template()["Resources"].values()
        if resource["Type"] == "AWS::CloudWatch::Alarm"
    ]
    rung = {
        (alarm["MetricName"], frozenset((one["Name"], one["Value"]) for one in alarm["Dimensions"]))
        for alarm in alarms
        if alarm["Namespace"] == "Pollwire"
    }
    looked_at = [(name, where) for space, name, where in shown() if space == "Pollwire"]

    assert len(rung) == 15
    assert rung - seen == set()
    assert len(looked_at) > 30
    for name, where in looked_at:
        found = [dict(dimensions) for metric, dimensions in seen if metric == name]
        alike = [one for one in found if one.keys() == where.keys()]
        assert [one for one in alike if None in where.values() or one == where], (name, where)


def test_the_dashboard_shows_every_error_by_its_remedy(seen):
    remedies = {name.lower() for name, one in vars(errors).items() if isinstance(one, type)}
    counted = {(name, where) for name, where in seen if name in remedies}
    looked_at = {
        (name, frozenset(where.items())) for _, name, where in shown() if None not in where.values()
    }

    assert counted - looked_at == set()


def test_the_dashboard_shows_what_else_there_is_of_the_stack():
    resources = template()["Resources"]
    _, put_in = resources["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    dead = {
        resource["Properties"]["QueueName"]["Fn::Sub"].replace("${AWS::StackName}", NAME)
        for name, resource in resources.items()
        if resource["Type"] == "AWS::SQS::Queue" and name.endswith(("Dead", "Undelivered"))
    }
    of_queues = [where for space, _, where in shown() if space == "AWS/SQS"]
    of_tables = {(name, where["TableName"]) for s, name, where in shown() if s == "AWS/DynamoDB"}

    assert {space for space, *_ in shown()} == {"Pollwire", "AWS/SQS", "AWS/DynamoDB"}
    assert [where.keys() for where in of_queues] == [{"QueueName"}] * len(dead)
    assert {where["QueueName"] for where in of_queues} == dead
    assert {table for _, table in of_tables} == {SUBSTITUTES["Table"]}
    assert put_in == {"Table": stack.load()["Outputs"]["StateTableName"]["Value"]}


def test_the_dashboard_has_a_place_for_each_widget():
    titles = [widget["properties"]["title"] for widget in widgets()]
    places = {
        (x, y)
        for widget in widgets()
        for x in range(widget["x"], widget["x"] + widget["width"])
        for y in range(widget["y"], widget["y"] + widget["height"])
    }

    assert len(set(titles)) == len(titles)
    assert max(x for x, _ in places) < 24
    assert len(places) == sum(widget["width"] * widget["height"] for widget in widgets())


def test_a_metric_has_no_more_dimensions_than_are_shown(seen):
    """Each value of one is a metric to be paid for: never an account or a connection."""
    extra = {(name, *(where.keys() - {"service"})) for name, where in map(as_dict, seen)}
    streams = {stream for one in registered().values() for stream in one.streams}
    values = {dict(where)[kind] for _, where in seen for kind in dict(where) if kind != "service"}

    assert {one for one in extra if len(one) > 1} == set(BY.items())
    assert values <= {*registered(), *streams}


def as_dict(metric):
    name, where = metric
    return name, dict(where)


def test_the_stack_tells_where_its_dashboard_is():
    outputs = stack.load()["Outputs"]

    assert outputs["DashboardUrl"]["Value"]["Fn::Sub"].endswith(
        "#dashboards/dashboard/${Dashboard}"
    )


def times(capsys):
    """Values of the metrics that measure time, by name and provider."""
    found = {}
    for line in capsys.readouterr().out.splitlines():
        said = json.loads(line)
        for name in ("lag_ms", "publish_ms"):
            if name in said:
                found.setdefault((name, said["provider"]), []).extend(said[name])
    return found


def test_freshness_is_from_the_change_and_publish_latency_from_its_sighting(ann, capsys):
    ann.clock.advance(60)
    ann.simulator.add_contact(ANN)
    ann.clock.advance(7)
    ann.check()
    ann.clock.advance(3)

    ann.run_deltas()

    assert times(capsys) == {
        ("lag_ms", "youmail"): [10_000],
        ("publish_ms", "youmail"): [3_000],
    }


def test_what_was_deleted_is_as_old_as_its_sighting(ann, capsys):
    contact = ann.simulator.add_contact(ANN)
    ann.rest()
    ann.simulator.delete_contact(contact)
    capsys.readouterr()
    ann.clock.advance(60)
    ann.check()
    ann.clock.advance(3)

    ann.run_deltas()

    assert ann.said() == [("contact", "created", contact), ("contact", "deleted", contact)]
    assert times(capsys)["lag_ms", "youmail"] == [3_000]


@pytest.mark.parametrize("act", ["mark_read", "restore"])
def test_what_leaves_the_providers_time_where_it_was_is_as_old_as_its_sighting(ann, capsys, act):
    voicemail = ann.simulator.leave_voicemail(ANN)
    ann.rest()
    if act == "restore":
        ann.simulator.trash(voicemail)
        ann.rest()
    ann.clock.advance(86_400)
    getattr(ann.simulator, act)(voicemail)
    capsys.readouterr()
    ann.check()
    ann.clock.advance(3)

    ann.run_deltas()

    kind = {"mark_read": "updated", "restore": "created"}[act]
    assert ann.said()[-1] == ("entry", kind, voicemail)
    assert times(capsys)["lag_ms", "youmail"] == [3_000]


def test_what_there_was_at_first_is_as_old_as_its_sighting(system, capsys):
    system.connect()
    system.add_account(ANN, fields="contact", backfill="true")
    system.simulator.add_contact(ANN)
    system.clock.advance(86_400)
    system.check()
    system.clock.advance(2)

    system.run_deltas()

    assert len(system.said()) == 1
    assert times(capsys)["lag_ms", "youmail"] == [2_000]


def test_what_a_crash_held_up_is_measured_to_its_publication(ann, capsys):
    ann.simulator.add_contact(ANN)

    def refuse(call, **arguments):
        raise ClientError({"Error": {"Code": "InternalError"}}, "PublishBatch")

    ann.faults["publish_batch"] = refuse
    assert ann.poll(60) == 1
    assert times(capsys) == {}
    ann.faults.clear()

    ann.poll(60)

    assert times(capsys)["publish_ms", "youmail"] == [60_000]
    assert times(capsys) == {}


def test_a_line_leads_to_its_events_and_an_event_to_its_line(ann, logs):
    for _ in range(3):
        ann.simulator.add_contact(ANN)
    ann.poll()
    ann.simulator.add_contact(ANN)
    ann.poll()

    events = [one.event["body"] for one in ann.deliveries()]
    published = [line for line in logs() if "last_sequence" in line]

    spans = [
        (line["account"], line["stream_name"], line["first_sequence"], line["last_sequence"])
        for line in published
    ]
    first, _, third, alone = (event["sequence"] for event in events)
    assert spans == [(ANN, "contact", first, third), (ANN, "contact", alone, alone)]
    assert {(event["accountId"], event["stream"]) for event in events} == {(ANN, "contact")}


def test_one_name_leads_from_the_check_to_its_deltas(ann, logs):
    ann.simulator.add_contact(ANN)
    before = len(logs())

    ann.poll()

    lines = [(line["message"], line.get("correlation_id")) for line in logs()[before:]]
    assert lines == [
        ("checked", f"shop/0/{ann.clock()}"),
        ("drained", f"shop/0/{ann.clock()}"),
    ]


def test_a_job_that_failed_is_named_too(ann, logs):
    ann.simulator.add_contact(ANN)

    def refuse(call, **arguments):
        raise ClientError({"Error": {"Code": "InternalError"}}, "PublishBatch")

    ann.faults["publish_batch"] = refuse
    ann.poll()

    (failed,) = [line for line in logs() if line["message"] == "failed"]
    assert failed["correlation_id"] == f"shop/0/{ann.clock()}"


def test_a_long_list_names_the_job_that_goes_on_with_it(ann, logs):
    start_ms = ann.clock()
    for number in range(150):
        ann.simulator.call(ANN, at_ms=start_ms + number)
    ann.remaining_ms = countdown(60_000, 10_000)
    ann.poll()

    first, second = [line for line in logs() if line["message"] == "drained"][-2:]
    assert first["counts"]["unfinished"] == 1
    assert first["rest"] == second["correlation_id"] != first["correlation_id"]
    assert "rest" not in second


def test_the_schedule_says_which_minute(system, logs):
    system.connect()

    system.tick(time="2027-01-15T08:00:10Z")

    (line,) = logs()
    assert (line["message"], line["minute"]) == ("scheduled", "2027-01-15T08:00:00.000Z")


def test_a_check_says_which_it_was_whatever_is_logged(ann, capsys):
    ann.poll()

    (line,) = [one for one in capsys.readouterr().out.splitlines() if '"polled"' in one]
    said = json.loads(line)
    told = {name: said[name] for name in ("connection", "shard", "due_ms", "provider")}
    assert told == {
        "connection": "shop", "shard": 0, "due_ms": ann.clock(), "provider": "youmail",
    }  # fmt: skip
