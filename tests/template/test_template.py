"""The template, as far as it can be wrong without a linter noticing."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields
from typing import Any

import pytest
from pollwire.providers import registered
from pollwire.wiring import Settings

from tests.stack import load
from tests.template import rules
from tests.template.expand import ROOT, deployable, template

TEMPLATE = template()

FOR_POWERTOOLS = {"LOG_LEVEL", "POWERTOOLS_SERVICE_NAME", "POWERTOOLS_METRICS_NAMESPACE"}


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_rule_is_kept(rule: Callable[[rules.Template], rules.Complaints]) -> None:
    assert list(rule(TEMPLATE)) == []


CONSUMER = load(ROOT / "examples/consumer/template.yaml")

#: Those of a consumer's template; the others are about what it does not have.
CONSUMER_RULES = [
    rules.mappings_are_safe,
    rules.queues_have_dead_letters,
    rules.fifo_is_fast_and_named,
    rules.queue_policies_admit_only_the_topic,
    rules.queues_refuse_plain_http,
    rules.subscriptions_lose_nothing,
    rules.roles_are_least,
    rules.every_function_has_its_own_role,
    rules.services_act_for_this_account_only,
    rules.logs_end,
]


@pytest.mark.parametrize("rule", CONSUMER_RULES, ids=lambda rule: rule.__name__)
def test_the_example_of_a_consumer_keeps_the_rule(
    rule: Callable[[rules.Template], rules.Complaints],
) -> None:
    assert list(rule(CONSUMER)) == []


def test_the_example_of_a_consumer_has_an_alarm_for_all_that_may_stand_still() -> None:
    alarms = rules.of_type(CONSUMER, "CloudWatch::Alarm").values()
    watched = {(one["MetricName"], rules.target(one["Dimensions"][0]["Value"])) for one in alarms}
    assert watched == {
        ("ApproximateNumberOfMessagesVisible", "Dead"),
        ("ApproximateNumberOfMessagesVisible", "Undelivered"),
        ("ApproximateAgeOfOldestMessage", "Queue"),
        ("Errors", "Consumer"),
    }
    assert {one["TreatMissingData"] for one in alarms} == {"notBreaching"}
    assert all(one["AlarmActions"]["Fn::If"][0] == "Alarmed" for one in alarms)


def test_the_example_of_a_consumer_runs_what_pollwire_runs() -> None:
    def pins(path: str) -> set[str]:
        lines = (ROOT / path).read_text().splitlines()
        return {line for line in lines if line and not line.startswith("#")}

    assert pins("examples/consumer/consumer/requirements.txt") <= pins(
        "layers/dependencies/requirements.txt"
    )


WRONG: list[tuple[Callable[[rules.Template], rules.Complaints], str, Any]] = [
    # rule that has to complain, path into Resources or Parameters, value there (None: taken away)
    (rules.mappings_are_safe, "ChecksYoumail.Properties.VisibilityTimeout", 359),
    (rules.mappings_are_safe, "DeltaEntryFunction.Properties.Timeout", 61),
    (rules.mappings_are_safe,
     "DeltaEntryFunction.Properties.Events.Deltas.Properties.BatchSize", 11),
    (rules.mappings_are_safe,
     "CheckYoumailFunction.Properties.Events.Checks.Properties.FunctionResponseTypes", None),
    (rules.mappings_are_safe,
     "CheckYoumailFunction.Properties.Events.Checks.Properties.ScalingConfig", None),
    (rules.mappings_are_safe, "CheckYoumailFunction.Properties.ReservedConcurrentExecutions", 5),
    (rules.queues_have_dead_letters, "DeltasEntry.Properties.RedrivePolicy", None),
    (rules.queues_have_dead_letters, "DeltasEntryDead.Properties.FifoQueue", None),
    (rules.queues_have_dead_letters, "ChecksYoumail.Properties.MessageRetentionPeriod", 900),
    (rules.queues_have_dead_letters, "Undelivered.Properties.MessageRetentionPeriod", 345600),
    (rules.fifo_is_fast_and_named, "DeltasEntry.Properties.DeduplicationScope", "queue"),
    (rules.fifo_is_fast_and_named, "ChecksYoumail.Properties.QueueName", "checks"),
    (rules.queues_refuse_plain_http, "DeltasEntryPolicy.Properties.Queues", []),
    (rules.queue_policies_admit_only_the_topic,
     "SubscriberPolicy.Properties.PolicyDocument.Statement.0.Condition", {}),
    (rules.queue_policies_admit_only_the_topic,
     "SubscriberPolicy.Properties.PolicyDocument.Statement.0.Principal", "*"),
    (rules.queues_refuse_plain_http,
     "ChecksYoumailPolicy.Properties.PolicyDocument.Statement.0.Effect", "Allow"),
    (rules.topic_takes_events_of_deltas_only, "Events.Properties.ContentBasedDeduplication", True),
    (rules.topic_takes_events_of_deltas_only, "CheckYoumailRole.Properties.Path", "/x/delta/"),
    (rules.topic_takes_events_of_deltas_only, "DeltaEntryRole.Properties.Path", "/x/"),
    (rules.topic_takes_events_of_deltas_only,
     "EventsPolicy.Properties.PolicyDocument.Statement.0.Condition", {}),
    (rules.subscriptions_lose_nothing, "Subscription.Properties.RedrivePolicy", None),
    (rules.subscriptions_lose_nothing, "Subscription.Properties.RawMessageDelivery", None),
    (rules.roles_are_least,
     "CheckYoumailRole.Properties.Policies.0.PolicyDocument.Statement.1.Action", "sqs:*"),
    (rules.roles_are_least,
     "DeltaEntryRole.Properties.Policies.0.PolicyDocument.Statement.1.Resource", "*"),
    (rules.roles_are_least,
     "DeltasEntryQueuer.Properties.PolicyDocument.Statement.0.Resource",
     {"Fn::Sub": "arn:${AWS::Partition}:sqs:${AWS::Region}:${AWS::AccountId}:*"}),
    (rules.roles_are_least, "ScheduleRole.Properties.ManagedPolicyArns",
     ["arn:aws:iam::aws:policy/service-role/AWSLambdaSQSQueueExecutionRole"]),
    (rules.every_function_has_its_own_role,
     "CheckYoumailFunction.Properties.Role", {"Ref": "ScheduleRole"}),
    (rules.services_act_for_this_account_only,
     "SchedulerRole.Properties.AssumeRolePolicyDocument.Statement.0.Condition", None),
    (rules.jobs_are_queued_by_the_stage_before,
     "ScheduleRole.Properties.Policies.0.PolicyDocument.Statement.2.Resource",
     {"Fn::GetAtt": ["ChecksYoumail", "Arn"]}),
    (rules.jobs_are_queued_by_the_stage_before,
     "DeltasEntryQueuer.Properties.Roles", [{"Ref": "CheckIntelliRole"}]),
    (rules.jobs_are_queued_by_the_stage_before,
     "DeltaEntryGoesOn.Properties.PolicyDocument.Statement.0.Resource",
     {"Fn::GetAtt": ["DeltasEntryDead", "Arn"]}),
    (rules.credentials_are_opened_where_they_are_needed,
     "CheckIntelliOpens.Properties.PolicyDocument.Statement.0.Condition", None),
    (rules.credentials_are_opened_where_they_are_needed,
     "DeltaEntryRole.Properties.Policies.0.PolicyDocument.Statement.5.Condition.Null", None),
    (rules.credentials_are_opened_where_they_are_needed,
     "CheckIntelliOpens.Properties.Roles", [{"Ref": "CheckYoumailRole"}]),
    (rules.credentials_are_opened_where_they_are_needed,
     "CheckKirimdevOpens.Properties.PolicyDocument.Statement.0.Action",
     ["kms:Decrypt", "kms:Encrypt"]),
    (rules.credentials_are_opened_where_they_are_needed,
     "ScheduleRole.Properties.Policies.0.PolicyDocument.Statement.1.Action", ["kms:Decrypt"]),
    (rules.what_is_public_is_asked_for_and_bounded, "PushFunction.Condition", None),
    (rules.what_is_public_is_asked_for_and_bounded,
     "PushFunction.Properties.ReservedConcurrentExecutions", None),
    (rules.what_is_public_is_asked_for_and_bounded,
     "PushFunction.Properties.FunctionUrlConfig.Cors", {"AllowOrigins": ["*"]}),
    (rules.what_is_public_is_asked_for_and_bounded, "Push.Default", "true"),
    (rules.what_is_public_may_do_little,
     "PushRole.Properties.Policies.0.PolicyDocument.Statement.1.Action", "dynamodb:DeleteItem"),
    (rules.what_is_public_may_do_little,
     "PushRole.Properties.Policies.0.PolicyDocument.Statement.3.Condition.StringEquals", None),
    (rules.everything_is_encrypted, "DeltasEntryDead.Properties.SqsManagedSseEnabled", None),
    (rules.everything_is_encrypted, "Events.Properties.KmsMasterKeyId", None),
    (rules.everything_is_encrypted, "State.Properties.SSESpecification", None),
    (rules.everything_is_encrypted, "DeltaEntryLogs.Properties.KmsKeyId", None),
    (rules.state_outlives_the_stack, "State.DeletionPolicy", None),
    (rules.state_outlives_the_stack, "Key.UpdateReplacePolicy", "Delete"),
    (rules.state_outlives_the_stack, "State.Properties.PointInTimeRecoverySpecification", None),
    (rules.state_outlives_the_stack, "State.Properties.TableName", "state"),
    (rules.state_outlives_the_stack, "State.Properties.TimeToLiveSpecification", {"Enabled": True}),
    (rules.a_table_and_a_key_can_be_adopted, "State.Condition", None),
    (rules.a_table_and_a_key_can_be_adopted, "Key.Condition", "OwnState"),
    (rules.a_table_and_a_key_can_be_adopted, "Events.Properties.KmsMasterKeyId", {"Ref": "Key"}),
    (rules.a_table_and_a_key_can_be_adopted,
     "DeltaEntryFunction.Properties.Environment.Variables.TABLE_NAME",
     {"Fn::If": ["OwnState", {"Ref": "State"}, {"Ref": "AWS::NoValue"}]}),
    (rules.the_key_is_ours, "Key.Properties.EnableKeyRotation", None),
    (rules.the_key_is_ours, "Key.Properties.KeyPolicy.Statement.1.Condition", None),
    (rules.the_key_is_ours, "Key.Properties.KeyPolicy.Statement.2.Condition", None),
    (rules.logs_end, "CheckYoumailLogs.Properties.RetentionInDays", None),
    (rules.logs_end, "CheckYoumailLogs.Properties.LogGroupName", {"Fn::Sub": "/aws/lambda/check"}),
    (rules.schedules_are_not_repeated,
     "ScheduleFunction.Properties.Events.EveryMinute.Properties.OmitName", None),
    (rules.schedules_are_not_repeated, "ScheduleFunction.Properties.EventInvokeConfig", None),
    (rules.alarms_see_everything, "DeltasEntryDeadAlarm.Properties.MetricName", "Other"),
    (rules.alarms_see_everything, "DeltaEntryErrorsAlarm.Properties.AlarmActions", None),
    (rules.alarms_see_everything, "ChecksYoumailAgeAlarm.Properties.TreatMissingData", None),
    (rules.parameters_are_described, "LogLevel.Description", None),
    (rules.parameters_are_described, "LogLevel.AllowedValues", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "path", "value"), WRONG, ids=lambda part: getattr(part, "__name__", None)
)
def test_rule_notices(
    rule: Callable[[rules.Template], rules.Complaints], path: str, value: object
) -> None:
    wrong = deepcopy(TEMPLATE)
    *steps, last = path.split(".")
    node = wrong["Resources"] | wrong["Parameters"]
    for step in steps:
        node = node[int(step) if isinstance(node, list) else step]
    if value is None:
        del node[last]
    else:
        node[last] = value

    assert list(rule(wrong)) != []


def test_every_rule_is_known_to_notice() -> None:
    assert {rule for rule, *_ in WRONG} == set(rules.RULES)


def test_environment_is_what_settings_read() -> None:
    wanted = {field.name.upper() for field in fields(Settings)}
    for function in rules.of_type(TEMPLATE, "Serverless::Function").values():
        assert function["Environment"]["Variables"].keys() - FOR_POWERTOOLS == wanted
        assert function["Environment"]["Variables"].keys() >= FOR_POWERTOOLS


def test_deltas_url_is_a_queue_url_with_the_stream_left_open() -> None:
    url = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]["DELTAS_QUEUE_URL"]
    glue, split = url["Fn::Join"]
    ending, queue = split["Fn::Split"]
    name = TEMPLATE["Resources"][queue["Ref"]]["Properties"]["QueueName"]["Fn::Sub"]

    assert glue.format(stream="history") == ending
    assert name.endswith(f"-deltas-{ending}")


def test_every_folder_is_a_function_and_every_function_a_folder() -> None:
    functions = rules.of_type(TEMPLATE, "Serverless::Function").values()
    folders = {f"functions/{path.parent.name}" for path in ROOT.glob("functions/*/app.py")}

    assert {function["CodeUri"] for function in functions} == folders


def test_nothing_of_the_push_function_is_there_unless_it_is_asked_for() -> None:
    parts = {**TEMPLATE["Resources"], **TEMPLATE["Outputs"]}
    found = {name for name in parts if "Push" in name}

    assert {name for name, one in parts.items() if one.get("Condition") == "Pushed"} == found
    assert {"PushFunction", "PushRole", "PushLogs", "PushUrl"} < found


def test_every_stream_of_every_provider_has_its_queue_and_its_function() -> None:
    streams = {stream for provider in registered().values() for stream in provider.streams}
    mapped = [entry["Name"] for entry in TEMPLATE["Mappings"]["Streams"].values()]
    queues = [
        queue["QueueName"]["Fn::Sub"] for queue in rules.of_type(TEMPLATE, "SQS::Queue").values()
    ]
    functions = rules.of_type(TEMPLATE, "Serverless::Function").values()
    names = [function["FunctionName"]["Fn::Sub"] for function in functions]

    assert sorted(mapped) == sorted(streams)
    for stream in streams:
        assert f"${{AWS::StackName}}-deltas-{stream}.fifo" in queues
        assert f"${{AWS::StackName}}-delta-{stream}" in names
    assert sum("-delta-" in name for name in names) == len(streams)


def test_mappings_hold_texts_under_plain_names() -> None:
    """A comma ends a text that is not quoted, and the rest of it becomes a name."""
    for rows in TEMPLATE["Mappings"].values():
        for row, columns in rows.items():
            assert row.isalnum()
            assert all(name.isalnum() for name in columns), row
            for value in columns.values():
                assert all(isinstance(text, str) for text in rules.as_list(value)), row


def test_a_function_may_write_traces_if_it_is_to_and_only_then() -> None:
    for name, function in rules.of_type(TEMPLATE, "Serverless::Function").items():
        role = TEMPLATE["Resources"][rules.target(function["Role"])]["Properties"]
        condition, traced, otherwise = role["ManagedPolicyArns"]["Fn::If"]

        assert function["Tracing"] == {"Ref": "Tracing"}, name
        assert condition == "Traced"
        assert [one["Fn::Sub"].rpartition("/")[2] for one in traced] == ["AWSXRayDaemonWriteAccess"]
        assert otherwise == {"Ref": "AWS::NoValue"}
    assert TEMPLATE["Conditions"]["Traced"] == {"Fn::Equals": [{"Ref": "Tracing"}, "Active"]}


def test_two_stages_live_in_one_account() -> None:
    named = re.compile(r"^(FunctionName|TopicName|LogGroupName|QueueName)$")
    for name, resource in TEMPLATE["Resources"].items():
        for key, value in resource["Properties"].items():
            if named.match(key):
                assert "${AWS::StackName}-" in value["Fn::Sub"], f"{name}.{key}"


def test_every_dependency_is_pinned() -> None:
    lines = (ROOT / "layers/dependencies/requirements.txt").read_text().splitlines()

    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9_-]+==[0-9.]+", pin)] == []


def granted_by_sam(document: dict[str, Any]) -> set[str]:
    """Name what SAM would allow beside what the template says itself."""
    made = deployable(deepcopy(document))["Resources"]
    found = set()
    for name, resource in made.items():
        if resource["Type"] == "AWS::Lambda::Permission":
            found.add(name)  # Somebody may invoke a function.
        if resource["Type"].startswith("AWS::IAM::"):
            own = document["Resources"].get(name, {}).get("Properties")
            found |= {name} if resource["Properties"] != own else set()
    return found


#: Everybody, to whom the function URL is public.
PUBLIC = {"PushFunctionUrlPublicPermissions", "PushFunctionURLInvokeAllowPublicAccess"}


def test_sam_adds_no_role_no_policy_and_nobody_who_may_invoke() -> None:
    assert granted_by_sam(TEMPLATE) == PUBLIC


def test_what_sam_would_add_is_noticed() -> None:
    careless = deepcopy(TEMPLATE)
    del careless["Resources"]["CheckYoumailFunction"]["Properties"]["Role"]
    tick = careless["Resources"]["ScheduleFunction"]["Properties"]["Events"]["EveryMinute"]
    tick |= {"Type": "Schedule", "Properties": {"Schedule": "rate(1 minute)"}}

    assert granted_by_sam(careless) - PUBLIC == {
        "CheckYoumailFunctionRole",
        "ScheduleFunctionEveryMinutePermission",
    }


def test_each_exception_from_the_audit_is_argued() -> None:
    text = (ROOT / ".checkov.yaml").read_text()
    skipped = re.findall(r"^  - (CKV\w+)$", text, re.MULTILINE)
    argued = re.findall(r"^  # [A-Z].*\n(?:  # .*\n)*  - (CKV\w+)$", text, re.MULTILINE)

    assert skipped
    assert skipped == argued
