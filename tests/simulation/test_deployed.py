"""
What the simulation reads out of template.yaml, and whether each call has exactly its permissions.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from pollwire.providers import registered

from tests.simulation.deployed import (
    allowed,
    deployed,
    fires,
    mapping_needs,
    needs,
    permitted,
    read,
    refused,
    schedule_needs,
    service_needs,
)
from tests.simulation.specs import Deployed, FunctionSpec, Statement
from tests.template.expand import template

CHECKS, CHECK = "pollwire-checks-youmail", "pollwire-check-youmail"
PROVIDERS = sorted(registered())
STREAMS = {stream for provider in registered().values() for stream in provider.streams}
FUNCTIONS = list(deployed().functions.values())

# -- numbers and names -----------------------------------------------------------------------------


def test_is_read_once_and_quickly() -> None:
    began = time.perf_counter()
    read(template())

    assert time.perf_counter() - began < 1
    assert deployed() is deployed()


def test_a_message_is_hidden_for_six_invocations() -> None:
    mapped = [function for function in FUNCTIONS if function.queue]
    assert {function.stage for function in mapped} == {"check", "delta"}

    for function in mapped:
        assert deployed().queues[function.queue].visibility_s >= 6 * function.timeout_s
        assert function.partial
        assert 1 <= function.batch <= 10
        assert function.concurrency >= 2
    schedule, push = (function for function in FUNCTIONS if not function.queue)
    assert (schedule.stage, schedule.retries) == ("schedule", 0)
    assert (push.stage, push.stream) == ("push", "")


def test_every_stream_has_a_function_and_a_queue() -> None:
    deltas = {function.stream: function for function in FUNCTIONS if function.stage == "delta"}

    assert deltas.keys() == STREAMS
    for stream, function in deltas.items():
        assert function.name.endswith(f"-delta-{stream}")
        queue = deployed().queues[function.queue]
        assert queue.url == function.environment["DELTAS_QUEUE_URL"].format(stream=stream)
        assert queue.fifo
        assert queue.deduplicates_by_group


def test_dead_letters_have_a_queue_and_it_outlasts_the_others() -> None:
    queues = deployed().queues
    dead = {one.dead_letters for one in [*queues.values(), *deployed().subscriptions]} - {""}
    assert dead < queues.keys()

    for queue in queues.values():
        assert bool(queue.dead_letters) == (queue.name not in dead)
        if queue.dead_letters:
            letters = queues[queue.dead_letters]
            assert queue.receives >= 3
            assert letters.fifo == queue.fifo == queue.name.endswith(".fifo")
            assert letters.retention_s > queue.retention_s > queue.receives * queue.visibility_s


def test_the_environment_leads_to_what_there_is() -> None:
    urls = {queue.url for queue in deployed().queues.values()}
    for function in FUNCTIONS:
        environment = function.environment
        assert {environment["CHECKS_QUEUE_URL"].format(provider=one) for one in PROVIDERS} < urls
        assert {environment["DELTAS_QUEUE_URL"].format(stream=one) for one in STREAMS} < urls
        assert environment["EVENTS_TOPIC_ARN"] == deployed().topic
        assert environment["TABLE_NAME"] == deployed().table
        assert environment["KEY_ARN"] == deployed().key_arn
        assert environment["POWERTOOLS_SERVICE_NAME"] == function.stage


def test_subscribed_queues_admit_the_topic() -> None:
    (subscription,) = deployed().subscriptions

    assert {subscription.queue, subscription.dead_letters} < deployed().queues.keys()
    assert subscription.senders == subscription.dead_letter_senders == {deployed().topic}
    assert subscription.raw
    assert subscription.policy is None


def test_no_intrinsic_function_is_left() -> None:
    assert not re.findall(r"Fn::|'Ref'|\$\{|AWS::", repr(deployed()))


@pytest.mark.parametrize(
    ("expression", "minutes"),
    [
        ("cron(* * * * ? *)", [0, 1, 2, 3, 4, 5, 59, 60]),
        ("cron(*/5 * * * ? *)", [0, 5, 60]),
        ("cron(3 * * * ? *)", [3]),
        ("rate(1 minute)", [0, 1, 2, 3, 4, 5, 59, 60]),
        ("rate(5 minutes)", [0, 5, 60]),
        ("rate(1 hour)", [0, 60]),
    ],
)
def test_a_schedule_fires(expression: str, minutes: list[int]) -> None:
    assert [one for one in (0, 1, 2, 3, 4, 5, 59, 60) if fires(expression, one)] == minutes


def test_a_schedule_that_the_simulation_does_not_know_is_told() -> None:
    with pytest.raises(ValueError, match="does not know this schedule"):
        fires("cron(0 9 * * ? *)", 0)


def test_every_minute_is_scheduled() -> None:
    (schedule,) = deployed().schedules

    assert all(fires(schedule.expression, minute) for minute in range(60))


CHANGES: list[tuple[str, Any, Callable[[Deployed], Any], Any]] = [
    # path into Resources, value there (None: taken away), what is read then
    ("ChecksYoumail.VisibilityTimeout", 7, lambda is_: is_.queues[CHECKS].visibility_s, 7),
    ("ChecksYoumail.VisibilityTimeout", None, lambda is_: is_.queues[CHECKS].visibility_s, 30),
    ("ChecksYoumail.RedrivePolicy", None, lambda is_: is_.queues[CHECKS].dead_letters, ""),
    ("CheckYoumailFunction.Timeout", 5, lambda is_: is_.functions[CHECK].timeout_s, 5),
    ("CheckYoumailFunction.Events.Checks.Properties.BatchSize", 9,
     lambda is_: is_.functions[CHECK].batch, 9),
    ("CheckYoumailFunction.Events.Checks.Properties.FunctionResponseTypes", None,
     lambda is_: is_.functions[CHECK].partial, False),
    ("CheckYoumailFunction.Events.Checks.Properties.ScalingConfig", None,
     lambda is_: is_.functions[CHECK].concurrency, 0),
    ("ScheduleFunction.EventInvokeConfig", None,
     lambda is_: is_.functions["pollwire-schedule"].retries, 2),
    ("ScheduleFunction.Events.EveryMinute.Properties.RetryPolicy", None,
     lambda is_: is_.schedules[0].retries, 185),
    ("Events.FifoThroughputScope", None, lambda is_: is_.deduplicates_by_group, False),
    ("SubscriberPolicy.PolicyDocument.Statement.0.Condition.ArnEquals",
     {"aws:SourceArn": "arn:aws:sns:us-east-1:123456789012:other.fifo"},
     lambda is_: is_.subscriptions[0].senders, frozenset()),
    ("SubscriberPolicy.PolicyDocument.Statement.0.Resource",
     {"Fn::GetAtt": ["Subscriber", "Arn"]},
     lambda is_: is_.subscriptions[0].dead_letter_senders, frozenset()),
    ("Subscriber.KmsMasterKeyId", {"Ref": "Key"},
     lambda is_: is_.subscriptions[0].senders, frozenset()),
    ("ChecksYoumail.KmsMasterKeyId", {"Ref": "Key"},
     lambda is_: is_.queues[CHECKS].key_arn, deployed().key_arn),
    ("ChecksYoumail.KmsMasterKeyId", {"Ref": "Key"},
     lambda is_: [action for action, *_ in mapping_needs(is_.functions[CHECK], is_)],
     ["sqs:ReceiveMessage", "kms:Decrypt", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "look", "found"), CHANGES)
def test_a_change_of_the_template_is_seen(
    path: str, value: Any, look: Callable[[Deployed], Any], found: Any
) -> None:
    assert look(deployed()) != found

    assert look(read(_changed(path, value))) == found


@pytest.mark.parametrize(
    "path",
    [
        "CheckYoumailFunction.Events.Checks.Properties.FilterCriteria",
        "CheckYoumailRole.Policies.0.PolicyDocument.Statement.1.NotAction",
        "CheckYoumailFunction.ReservedConcurrentExecutions",
        "ChecksYoumail.DelaySeconds",
        "ScheduleFunction.Events.EveryMinute.Properties.State",
        "ScheduleFunction.Policies",
    ],
)
def test_what_the_simulation_does_not_know_is_told(path: str) -> None:
    with pytest.raises(AssertionError):
        read(_changed(path, ["x"]))


def _changed(path: str, value: Any) -> dict[str, Any]:
    changed = deepcopy(template())
    resource, *steps, last = path.split(".")
    node = changed["Resources"][resource]["Properties"]
    for step in steps:
        node = node[int(step) if isinstance(node, list) else step]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return changed


# -- evaluation ------------------------------------------------------------------------------------

QUEUE = "arn:aws:sqs:us-east-1:123456789012:q"


def stated(
    actions: str = "sqs:SendMessage",
    resource: str = QUEUE,
    effect: str = "Allow",
    **conditions: Any,
) -> Statement:
    """Make a statement; the first ``__`` of a condition's name is a colon."""
    spelled = {name.replace("__", ":", 1): keys for name, keys in conditions.items()}
    return Statement(effect, tuple(actions.split()), (resource,), spelled)


EVALUATED: list[tuple[list[Statement], Mapping[str, Any], bool]] = [
    # statements, context, whether sqs:SendMessage on QUEUE is allowed
    ([], {}, False),
    ([stated()], {}, True),
    ([stated("sqs:ReceiveMessage")], {}, False),
    ([stated("sqs:ReceiveMessage sqs:SendMessage")], {}, True),
    ([stated("SQS:sendmessage")], {}, True),
    ([stated("sqs:Send*")], {}, True),
    ([stated("sqs:SendMessag?")], {}, True),
    ([stated("sqs:SendMessage?")], {}, False),
    ([stated("*")], {}, True),
    ([stated("sqs:[A-Z]endMessage")], {}, False),
    ([stated(resource="*")], {}, True),
    ([stated(resource=QUEUE[:-1] + "?")], {}, True),
    ([stated(resource="arn:aws:sqs:*:q")], {}, True),
    ([stated(resource=QUEUE.upper())], {}, False),
    ([stated(resource=QUEUE + "2")], {}, False),
    # A denial wins, wherever it stands.
    ([stated(), stated("sqs:*", effect="Deny")], {}, False),
    ([stated("sqs:*", "*", "Deny"), stated()], {}, False),
    ([stated(), stated(resource=QUEUE + "2", effect="Deny")], {}, True),
    ([stated(), stated(effect="Deny", Bool={"aws:SecureTransport": "false"})],
     {"aws:SecureTransport": "true"}, True),
    ([stated(), stated(effect="Deny", Bool={"aws:SecureTransport": "false"})],
     {"aws:SecureTransport": False}, False),
    ([stated(), stated(effect="Deny", Bool={"aws:SecureTransport": "false"})], {}, True),
    # Conditions: all of them, one of the values.
    ([stated(StringEquals={"k": "v"})], {"k": "v"}, True),
    ([stated(StringEquals={"K": "v"})], {"k": "v"}, True),
    ([stated(StringEquals={"k": "V"})], {"k": "v"}, False),
    ([stated(StringEquals={"k": ["u", "v"]})], {"k": "v"}, True),
    ([stated(StringEquals={"k": "v", "l": "w"})], {"k": "v"}, False),
    ([stated(StringEquals={"k": "v"}, Bool={"l": "true"})], {"k": "v", "l": "false"}, False),
    ([stated(StringEquals={"k": "*"})], {"k": "v"}, False),
    ([stated(StringEquals={"k": "v"})], {}, False),
    ([stated(StringLike={"k": "v*"})], {"k": "vw"}, True),
    ([stated(StringLike={"k": "v*"})], {"k": "w"}, False),
    ([stated(StringNotEquals={"k": ["u", "v"]})], {"k": "v"}, False),
    ([stated(StringNotEquals={"k": ["u", "v"]})], {"k": "w"}, True),
    ([stated(StringNotEquals={"k": "v"})], {}, True),
    ([stated(ArnLike={"k": "arn:aws:sns:*:1:t*"})], {"k": "arn:aws:sns:r:1:topic"}, True),
    ([stated(ArnLike={"k": "arn:aws:sns:*"})], {"k": "arn:aws:sns:r:1:topic"}, False),
    ([stated(ArnEquals={"k": "arn:aws:sns:r:1:t*"})], {"k": "arn:aws:sns:r:1:topic"}, True),
    ([stated(ArnEquals={"k": "arn:aws:sns:r:1:t"})], {"k": "arn:aws:sns:r:1:topic"}, False),
    ([stated(ArnNotLike={"k": "arn:aws:iam::1:r/d/*"})], {"k": "arn:aws:iam::1:r/d/x"}, False),
    ([stated(ArnNotLike={"k": "arn:aws:iam::1:r/d/*"})], {"k": "arn:aws:iam::1:r/x"}, True),
    ([stated(Null={"k": "false"})], {"k": "v"}, True),
    ([stated(Null={"k": "false"})], {}, False),
    ([stated(Null={"k": True})], {}, True),
    # Keys with several values.
    ([stated(ForAllValues__StringEquals={"k": ["u", "v"]})], {"k": ["v"]}, True),
    ([stated(ForAllValues__StringEquals={"k": ["u", "v"]})], {"k": ["u", "w"]}, False),
    ([stated(ForAllValues__StringEquals={"k": ["u", "v"]})], {}, True),
    ([stated(ForAnyValue__StringEquals={"k": ["u", "v"]})], {"k": ["u", "w"]}, True),
    ([stated(ForAnyValue__StringEquals={"k": ["u", "v"]})], {"k": ["w"]}, False),
    ([stated(ForAnyValue__StringEquals={"k": ["u", "v"]})], {}, False),
]  # fmt: skip


@pytest.mark.parametrize(("statements", "context", "expected"), EVALUATED)
def test_statements_are_evaluated_as_iam_does(
    statements: list[Statement], context: Mapping[str, Any], expected: bool
) -> None:
    assert allowed(statements, "sqs:SendMessage", QUEUE, context) is expected


@pytest.mark.parametrize(
    "conditions",
    [
        {"NumericEquals": {"k": "1"}},
        {"StringEqualsIfExists": {"k": "v"}},
        {"ForSomeValues__StringEquals": {"k": "v"}},
        {"StringEquals": {"other": "v"}, "NumericEquals": {"k": "1"}},
        {"StringEquals": {"several": "v"}},
    ],
)
def test_a_condition_that_is_not_known_is_told(conditions: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"condition|several"):
        allowed([stated(**conditions)], "sqs:SendMessage", QUEUE, {"several": ["v", "w"]})


# -- who may ---------------------------------------------------------------------------------------

Call = tuple[str, str, dict[str, Any]]

CONTEXT = {"connection": "c", "account": "a"}


def test_the_scheduler_may_invoke_what_it_does() -> None:
    (schedule,) = deployed().schedules

    assert deployed().functions[schedule.function].stage == "schedule"
    assert refused(schedule, schedule_needs(schedule), deployed()) == []
    bare = replace(schedule, statements=())
    assert refused(bare, schedule_needs(schedule), deployed()) == schedule_needs(schedule)


def test_an_emulator_asks_for_batches_by_their_names_and_differs_in_nothing_else() -> None:
    emulated = template()
    emulated["Parameters"]["Emulator"]["Default"] = "true"
    doubles = {
        "sns:PublishBatch": "sns:Publish",
        "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
        "sqs:SendMessageBatch": "sqs:SendMessage",
    }
    found: set[str] = set()
    for function in read(emulated).functions.values():
        own = deployed().functions[function.name].statements
        for statement, on_aws in zip(function.statements, own, strict=True):
            actions = tuple(doubles.get(action, action) for action in statement.actions)
            # It knows no encryption context in a condition.
            unknown = ("Null", "StringEquals")
            conditions = {k: v for k, v in on_aws.conditions.items() if k not in unknown}
            assert replace(statement, actions=actions) == replace(on_aws, conditions=conditions)
            found |= doubles.keys() & set(statement.actions)

    assert found == doubles.keys()


def test_what_belongs_to_another_is_refused() -> None:
    check = deployed().functions[CHECK]
    history, entry = (
        next(function for function in FUNCTIONS if function.stream == stream)
        for stream in ("history", "entry")
    )
    dead = deployed().queues[history.queue].dead_letters
    (messages,) = (function.queue for function in FUNCTIONS if function.stream == "messages")
    push = next(function for function in FUNCTIONS if function.stage == "push")
    credential = {"KeyId": deployed().key_arn, "EncryptionContext": CONTEXT}
    sealed = {"KeyId": deployed().key_arn, "EncryptionContext": {"aws:dynamodb:tableName": "t"}}
    others: list[tuple[FunctionSpec, Call]] = [
        (check, ("sns", "Publish", {"TopicArn": deployed().topic})),
        (check, ("sqs", "SendMessage", {"QueueUrl": deployed().queues[dead].url})),
        (history, ("dynamodb", "DeleteItem", {"TableName": deployed().table})),
        (check, ("dynamodb", "Query", {"TableName": deployed().table, "IndexName": "i"})),
        (check, ("dynamodb", "Query", {"TableName": "other"})),
        (check, ("sqs", "SendMessage", {"QueueUrl": deployed().queues[messages].url})),
        (check, ("kms", "Decrypt", {"EncryptionContext": CONTEXT})),
        (history, ("kms", "Decrypt", sealed)),
        # A condition for all values of a key holds where there are none.
        (history, ("kms", "Decrypt", {"KeyId": deployed().key_arn})),
        (history, ("kms", "Encrypt", {"KeyId": deployed().key_arn, "EncryptionContext": {}})),
        (history, ("kms", "Decrypt", {"EncryptionContext": {"connection": "c"}})),
        (history, ("kms", "Decrypt", {"EncryptionContext": {**CONTEXT, "more": "m"}})),
        (push, ("kms", "Decrypt", credential)),
        (push, ("dynamodb", "PutItem", {"TableName": deployed().table})),
        (push, ("sqs", "SendMessage", {"QueueUrl": deployed().queues[history.queue].url})),
        (history, ("sqs", "DeleteMessage", {"QueueUrl": deployed().queues[entry.queue].url})),
    ]
    for function, call in others:
        assert refused(function, needs(*call, deployed()), deployed()), call


# -- policies of the topic and the key -------------------------------------------------------------


def test_the_topic_takes_events_of_deltas_only() -> None:
    check = deployed().functions[CHECK]
    delta = next(function for function in FUNCTIONS if function.stage == "delta")
    (publish,) = needs("sns", "PublishBatch", {"TopicArn": deployed().topic}, deployed())
    generous = replace(check, statements=(stated("*", "*"),))

    assert permitted(delta, publish, deployed())
    assert allowed(generous.statements, *publish)
    assert not permitted(generous, publish, deployed())
    assert not permitted(replace(delta, role=check.role), publish, deployed())
    plain = (*publish[:2], {"aws:SecureTransport": "false"})
    assert not permitted(delta, plain, deployed())


def test_the_key_serves_callers_through_table_and_topic() -> None:
    bare = replace(FUNCTIONS[0], statements=())
    for service in ("dynamodb", "sns"):
        through = service_needs(service, deployed())
        assert through
        assert refused(bare, through, deployed()) == []
        keyless = replace(deployed(), policies={})
        assert refused(FUNCTIONS[0], through, keyless) == through
    assert service_needs("sqs", deployed()) == []


def test_a_role_may_use_the_key_only_as_its_policy_leaves_it_to_the_account() -> None:
    delta = next(function for function in FUNCTIONS if function.stage == "delta")
    sealed = {"KeyId": deployed().key_arn, "EncryptionContext": CONTEXT}
    (opening,) = needs("kms", "Decrypt", sealed, deployed())

    assert permitted(delta, opening, deployed())
    assert not permitted(delta, opening, replace(deployed(), policies={}))


# -- needs -----------------------------------------------------------------------------------------


def test_a_transaction_needs_what_its_parts_need() -> None:
    part = {"TableName": "t"}
    kinds = ("Put", "Put", "Update", "Delete", "ConditionCheck")
    items = {"TransactItems": [{kind: part} for kind in kinds]}

    assert [need[0] for need in needs("dynamodb", "TransactWriteItems", items, deployed())] == [
        "dynamodb:PutItem",
        "dynamodb:UpdateItem",
        "dynamodb:DeleteItem",
        "dynamodb:ConditionCheckItem",
    ]


def test_an_encryption_context_is_a_condition() -> None:
    both = {"KeyId": "k", "EncryptionContext": CONTEXT}

    assert needs("kms", "Encrypt", both, deployed()) == [
        (
            "kms:Encrypt",
            "arn:aws:kms:us-east-1:123456789012:key/k",
            {
                "kms:EncryptionContextKeys": ["account", "connection"],
                "kms:EncryptionContext:connection": "c",
                "kms:EncryptionContext:account": "a",
            },
        )
    ]
    assert needs("kms", "Decrypt", {}, deployed()) == [("kms:Decrypt", deployed().key_arn, {})]


@pytest.mark.parametrize(
    ("service", "operation"),
    [
        ("dynamodb", "ExecuteStatement"),
        ("kms", "Sign"),
        ("s3", "GetObject"),
        ("sns", "Subscribe"),
        ("sqs", "PurgeQueue"),
    ],
)
def test_an_operation_that_is_not_known_is_told(service: str, operation: str) -> None:
    with pytest.raises(ValueError, match=f"{service}:{operation}"):
        needs(service, operation, {}, deployed())
