"""What the template has to keep to. A rule yields what is wrong; the linters know none of these."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pollwire.secrets import PUSH

Template = dict[str, Any]
Complaints = Iterator[str]

NO_VALUE = {"Ref": "AWS::NoValue"}

DAYS_14 = 14 * 24 * 3600


def of_type(template: Template, kind: str) -> dict[str, dict[str, Any]]:
    resources = template["Resources"].items()
    found = {name: item["Properties"] for name, item in resources if item["Type"] == f"AWS::{kind}"}
    assert found, f"the template has no {kind}: the rule looks for the wrong thing"
    return found


def target(reference: Any) -> str:
    """Logical id that a Ref or GetAtt leads to; of a choice, the stack's own."""
    if "Fn::If" in reference:
        reference = reference["Fn::If"][1]
    return str(reference["Ref"] if "Ref" in reference else reference["Fn::GetAtt"][0])


def mapped(template: Template, value: Any) -> str:
    """What a value says: itself, what a mapping says for it, or the logical id it leads to."""
    if isinstance(value, str):
        return value
    if "Fn::FindInMap" in value:
        table, row, column = value["Fn::FindInMap"]
        return str(template["Mappings"][table][row][column])
    return target(value)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def dead_letter(queue: dict[str, Any]) -> str | None:
    return (
        target(queue["RedrivePolicy"]["deadLetterTargetArn"]) if "RedrivePolicy" in queue else None
    )


def dead_letters(template: Template) -> set[str]:
    holders = of_type(template, "SQS::Queue") | of_type(template, "SNS::Subscription")
    return {dead for holder in holders.values() if (dead := dead_letter(holder))}


def mappings(template: Template) -> Iterator[tuple[str, dict[str, Any], dict[str, Any], str]]:
    """Yield every event source mapping: function, its properties, the mapping's, the queue."""
    for name, function in of_type(template, "Serverless::Function").items():
        for event in function.get("Events", {}).values():
            if event["Type"] == "SQS":
                yield name, function, event["Properties"], target(event["Properties"]["Queue"])


def statements(document: Any) -> Iterator[dict[str, Any]]:
    """Yield the statements of a policy as on AWS, with a table and a key of the stack's own."""
    yield from _on_aws(document)["Statement"]


def _on_aws(node: Any) -> Any:
    if isinstance(node, list):
        return [one for one in map(_on_aws, node) if one != NO_VALUE]
    if not isinstance(node, dict):
        return node
    if "Fn::If" in node:
        condition, here, _ = node["Fn::If"]
        assert condition in ("OnAws", "OwnState", "OwnKey")
        return _on_aws(here)
    resolved = {key: _on_aws(one) for key, one in node.items()}
    return {key: one for key, one in resolved.items() if one != NO_VALUE}


def denies_plain_http(document: Any) -> bool:
    return any(
        statement["Effect"] == "Deny"
        and statement["Principal"] == "*"
        and statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}
        for statement in statements(document)
    )


# -- queues ----------------------------------------------------------------------------------------


def mappings_are_safe(template: Template) -> Complaints:
    queues = of_type(template, "SQS::Queue")
    for name, function, mapping, queue_name in mappings(template):
        queue = queues[queue_name]
        if queue["VisibilityTimeout"] < 6 * function["Timeout"]:
            yield f"{queue_name}: VisibilityTimeout is below six times the Timeout of {name}"
        if mapping.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            yield f"{name}: a batch fails as a whole"
        if not 1 <= mapping["BatchSize"] <= 10:
            yield f"{name}: BatchSize {mapping['BatchSize']}"
        if "MaximumConcurrency" not in mapping.get("ScalingConfig", {}):
            yield f"{name}: no MaximumConcurrency"
        if "ReservedConcurrentExecutions" in function:
            yield f"{name}: pollers fetch more than a reserved concurrency lets through"


def queues_have_dead_letters(template: Template) -> Complaints:
    queues, dead = of_type(template, "SQS::Queue"), dead_letters(template)
    for name in queues.keys() - dead:
        queue = queues[name]
        if (letters := dead_letter(queue)) is None:
            yield f"{name}: no dead-letter queue"
            continue
        if queue.get("FifoQueue") != queues[letters].get("FifoQueue"):
            yield f"{name}: only one of it and {letters} is FIFO"
        receptions = queue["RedrivePolicy"]["maxReceiveCount"]
        if receptions < 3:
            yield f"{name}: dead after {receptions} receptions"
        if queue["MessageRetentionPeriod"] < receptions * queue["VisibilityTimeout"]:
            yield f"{name}: a message expires before it is dead"
    for name in dead:
        if queues[name]["MessageRetentionPeriod"] != DAYS_14:
            yield f"{name}: dead letters are kept for 14 days"


def fifo_is_fast_and_named(template: Template) -> Complaints:
    dead = dead_letters(template)
    for name, queue in of_type(template, "SQS::Queue").items():
        spelled = json.dumps(queue.get("QueueName", ""))
        if "${AWS::StackName}-" not in spelled:
            yield f"{name}: two stages in one account would share the queue"
        if ('.fifo"' in spelled) != queue.get("FifoQueue", False):
            yield f"{name}: a FIFO queue's name ends with .fifo, and no other's"
        scope = (queue.get("DeduplicationScope"), queue.get("FifoThroughputLimit"))
        if (
            queue.get("FifoQueue")
            and name not in dead
            and scope != ("messageGroup", "perMessageGroupId")
        ):
            yield f"{name}: all groups share one queue's throughput"


def queue_policies_admit_only_the_topic(template: Template) -> Complaints:
    # A consumer's template is told the topic.
    told = "EventsTopicArn" in template["Parameters"]
    topic = {"Ref": "EventsTopicArn" if told else next(iter(of_type(template, "SNS::Topic")))}
    for name, policy in of_type(template, "SQS::QueuePolicy").items():
        for statement in statements(policy["PolicyDocument"]):
            if statement["Effect"] != "Allow":
                continue
            if statement["Principal"] != {"Service": "sns.amazonaws.com"}:
                yield f"{name}: admits {statement['Principal']}"
            if statement.get("Condition") != {"ArnEquals": {"aws:SourceArn": topic}}:
                yield f"{name}: admits topics that are not ours"
            if statement["Action"] != "sqs:SendMessage":
                yield f"{name}: SNS has only to send"


def queues_refuse_plain_http(template: Template) -> Complaints:
    covered = {
        target(queue)
        for policy in of_type(template, "SQS::QueuePolicy").values()
        if denies_plain_http(policy["PolicyDocument"])
        for queue in policy["Queues"]
    }
    for name in of_type(template, "SQS::Queue").keys() - covered:
        yield f"{name}: takes calls over plain http"


# -- topic -----------------------------------------------------------------------------------------


def topic_takes_events_of_deltas_only(template: Template) -> Complaints:
    ((name, topic),) = of_type(template, "SNS::Topic").items()
    ((_, policy),) = of_type(template, "SNS::TopicPolicy").items()
    if not topic.get("FifoTopic") or topic.get("ContentBasedDeduplication") is not False:
        yield f"{name}: a FIFO topic that takes the event's uuid for its deduplication id"
    if not denies_plain_http(policy["PolicyDocument"]):
        yield f"{name}: takes calls over plain http"
    only = [one for one in statements(policy["PolicyDocument"]) if "ArnNotLike" in one["Condition"]]
    roles = of_type(template, "IAM::Role")
    for role_name, role in roles.items():
        may = permissions(template, role_name)
        publishes = any("sns:Publish" in as_list(one["Action"]) for one in may)
        admitted = "/delta/" in json.dumps(role.get("Path", ""))
        if publishes != admitted:
            yield f"{role_name}: its path and its policy differ on whether it publishes"
    if not only or "${AWS::StackName}/delta/*" not in json.dumps(only[0]["Condition"]):
        yield f"{name}: anybody in the account may publish"


def subscriptions_lose_nothing(template: Template) -> Complaints:
    for name, subscription in of_type(template, "SNS::Subscription").items():
        if subscription.get("RawMessageDelivery") is not True:
            yield f"{name}: not raw"
        if dead_letter(subscription) is None:
            yield f"{name}: SNS throws away what it cannot deliver"


# -- permissions -----------------------------------------------------------------------------------


def permissions(template: Template, role: str) -> Iterator[dict[str, Any]]:
    """Yield the statements of a role: its own policies', and those that are attached to it."""
    for policy in of_type(template, "IAM::Role")[role]["Policies"]:
        yield from statements(policy["PolicyDocument"])
    for one in template["Resources"].values():
        if one["Type"] == "AWS::IAM::Policy" and role in map(target, one["Properties"]["Roles"]):
            yield from statements(one["Properties"]["PolicyDocument"])


def roles_are_least(template: Template) -> Complaints:
    for name, role in of_type(template, "IAM::Role").items():
        for statement in permissions(template, name):
            for action in as_list(statement["Action"]):
                if "*" in action:
                    yield f"{name}: {action}"
            for resource in as_list(statement["Resource"]):
                if "*" in json.dumps(resource):
                    yield f"{name}: {statement['Action']} on more than is named: {resource}"
        managed = json.dumps(role.get("ManagedPolicyArns", []))
        if managed.count(":policy/") != managed.count(":policy/AWSXRayDaemonWriteAccess"):
            yield f"{name}: a managed policy"


def every_function_has_its_own_role(template: Template) -> Complaints:
    taken: set[str] = set()
    for name, function in of_type(template, "Serverless::Function").items():
        role = target(function["Role"])
        if role in taken or "Policies" in function:
            yield f"{name}: shares {role}, or brings policies of SAM's"
        taken.add(role)


def services_act_for_this_account_only(template: Template) -> Complaints:
    for name, role in of_type(template, "IAM::Role").items():
        for statement in statements(role["AssumeRolePolicyDocument"]):
            conditions = statement.get("Condition", {}).get("StringEquals", {})
            service = statement["Principal"]["Service"]
            # Lambda checks iam:PassRole and sends no source; for every other service it is needed.
            if service != "lambda.amazonaws.com" and conditions.keys() != {
                "aws:SourceAccount", "aws:SourceArn",
            }:  # fmt: skip
                yield f"{name}: {service} may be talked into it by another account"


#: Providers that notify; the role of what takes their notifications opens what verifies them.
PUSHING = {"Ringcentral", "Kirimdev"}
OPENERS = {"PushRole"}


def jobs_are_queued_by_the_stage_before(template: Template) -> Complaints:
    """Each queue of jobs has one stage before it; a list that is too long queues its own rest."""
    streams = template["Mappings"]["Streams"]
    roles = of_type(template, "IAM::Role")
    for name in of_type(template, "SQS::Queue"):
        senders = {role for role in roles if _sends(template, role, name)}
        kind, of = name[:6], name[6:]
        wanted: set[str] = set()
        if not name.endswith("Dead") and kind == "Checks":
            wanted = {"ScheduleRole"} | ({"PushRole"} if of in PUSHING else set())
        if not name.endswith("Dead") and kind == "Deltas":
            wanted = {streams[of]["Check"]}
            senders -= {f"Delta{of}Role"}
        if senders != wanted:
            yield f"{name}: {senders} send to it, not {wanted}"


def _sends(template: Template, role: str, queue: str) -> bool:
    return any(
        "sqs:SendMessage" in as_list(statement["Action"])
        and queue in map(target, as_list(statement["Resource"]))
        for statement in permissions(template, role)
    )


#: What was sealed for a connection and an account, and nothing else: not what has no context, which
#: a condition for all values of a key would let through.
SEALED = {
    "ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["connection", "account"]},
    "Null": {
        "kms:EncryptionContext:connection": "false",
        "kms:EncryptionContext:account": "false",
    },
}


def credentials_are_opened_where_they_are_needed(template: Template) -> Complaints:
    for name in of_type(template, "IAM::Role"):
        actions: set[str] = set()
        for statement in permissions(template, name):
            found = {one for one in as_list(statement["Action"]) if one.startswith("kms:")}
            if name in OPENERS:
                continue
            if found and statement.get("Condition") != SEALED:
                yield f"{name}: opens more than credentials"
            actions |= found
        # The one authenticates nowhere, the other asks nobody.
        if actions and (name == "CheckYoumailRole" or not name.startswith(("Check", "Delta"))):
            yield f"{name}: has nothing to open"
        if "kms:Encrypt" in actions and not _signs_in(template, name):
            yield f"{name}: has nothing to seal"


def _signs_in(template: Template, role: str) -> bool:
    """Tell whether a role's provider issues access tokens, which workers share."""
    streams = template["Mappings"]["Streams"]
    of = streams.get(role.removeprefix("Delta").removesuffix("Role"), {"Check": role})
    return of["Check"] in {"CheckYoumailRole", "CheckRingcentralRole"}


def public(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the functions that anybody can call."""
    for name, function in of_type(template, "Serverless::Function").items():
        if "FunctionUrlConfig" in function:
            yield name, function


def what_is_public_is_asked_for_and_bounded(template: Template) -> Complaints:
    for name, function in public(template):
        if template["Resources"][name].get("Condition") != "Pushed":
            yield f"{name}: is public without being asked for"
        if "ReservedConcurrentExecutions" not in function:
            yield f"{name}: a flood costs what it wants"
        if "Cors" in function["FunctionUrlConfig"]:
            yield f"{name}: is open to browsers"
    if template["Parameters"]["Push"]["Default"] != "false":
        yield "Push: a URL is public without being asked for"


#: What a function that anybody can call may do at most.
PUBLIC = {
    *("logs:CreateLogStream", "logs:PutLogEvents"),
    *("dynamodb:GetItem", "dynamodb:Query", "dynamodb:UpdateItem"),
    *("sqs:SendMessage", "sqs:SendMessageBatch", "kms:Decrypt"),
}


def what_is_public_may_do_little(template: Template) -> Complaints:
    for name, function in public(template):
        for statement in permissions(template, target(function["Role"])):
            granted = set(as_list(statement["Action"]))
            if more := granted - PUBLIC:
                yield f"{name}: may {sorted(more)}"
            opened = statement.get("Condition", {}).get("StringEquals")
            if "kms:Decrypt" in granted and opened != {"kms:EncryptionContext:account": PUSH}:
                yield f"{name}: opens credentials"


# -- what is kept ----------------------------------------------------------------------------------


def everything_is_encrypted(template: Template) -> Complaints:
    for name, queue in of_type(template, "SQS::Queue").items():
        if queue.get("SqsManagedSseEnabled") is not True:
            yield f"{name}: not encrypted, or with a key that SNS cannot use"
    keyed = {"SNS::Topic": "KmsMasterKeyId", "Logs::LogGroup": "KmsKeyId"}
    for kind, field in keyed.items():
        for name, resource in of_type(template, kind).items():
            if field not in resource or target(resource[field]) != "Key":
                yield f"{name}: not encrypted with our key"
    for name, table in of_type(template, "DynamoDB::Table").items():
        if target(table.get("SSESpecification", {}).get("KMSMasterKeyId", {"Ref": ""})) != "Key":
            yield f"{name}: not encrypted with our key"


def state_outlives_the_stack(template: Template) -> Complaints:
    for kind in ("DynamoDB::Table", "KMS::Key"):
        for name in of_type(template, kind):
            resource = template["Resources"][name]
            if (resource.get("DeletionPolicy"), resource.get("UpdateReplacePolicy")) != (
                "Retain",
            ) * 2:
                yield f"{name}: goes with the stack"
    for name, table in of_type(template, "DynamoDB::Table").items():
        if not table.get("PointInTimeRecoverySpecification", {}).get("PointInTimeRecoveryEnabled"):
            yield f"{name}: no point-in-time recovery"
        if table.get("BillingMode") != "PAY_PER_REQUEST":
            yield f"{name}: not on demand"
        for odd in {"TableName", "TimeToLiveSpecification"} & table.keys():
            yield f"{name}: {odd}: a new stack would collide with it, or it would forget"


#: What may be another stack's, by the condition under which it is our own, and the parameter.
ADOPTED = {"State": ("OwnState", "StateTable"), "Key": ("OwnKey", "StateKeyArn")}


def a_table_and_a_key_can_be_adopted(template: Template) -> Complaints:
    for name, (condition, parameter) in ADOPTED.items():
        if template["Resources"][name].get("Condition") != condition:
            yield f"{name}: is made beside the one that is gone on with"
        if template["Conditions"].get(condition) != {"Fn::Equals": [{"Ref": parameter}, ""]}:
            yield f"{condition}: does not say whether {parameter} is given"
    for section in ("Resources", "Outputs"):
        for name, one in template[section].items():
            if _names_our_own(one):
                yield f"{name}: names our own table or key where another may be gone on with"


def _names_our_own(node: Any) -> bool:
    """Tell whether State or Key is named but as a choice between it and what is adopted."""
    if isinstance(node, list):
        return any(map(_names_our_own, node))
    if not isinstance(node, dict):
        return False
    named = node.get("Ref") or (node.get("Fn::GetAtt") or [""])[0]
    if named in ADOPTED:
        return True
    condition, own, other = node.get("Fn::If") or ("", {}, {})
    for name, (wanted, parameter) in ADOPTED.items():
        if condition == wanted and target(own) == name:
            return f"{parameter}" not in json.dumps(other)
    return any(map(_names_our_own, node.values()))


def the_key_is_ours(template: Template) -> Complaints:
    for name, key in of_type(template, "KMS::Key").items():
        if key.get("EnableKeyRotation") is not True:
            yield f"{name}: never rotates"
        for statement in statements(key["KeyPolicy"]):
            conditions = json.dumps(statement.get("Condition", {}))
            principal = statement["Principal"]
            if principal == {"AWS": "*"} and not (
                "kms:CallerAccount" in conditions and "kms:ViaService" in conditions
            ):
                yield f"{name}: {statement['Sid']} opens it to the world"
            if "Service" in principal and "AWS::AccountId" not in conditions:
                yield f"{name}: {statement['Sid']} serves other accounts"


def logs_end(template: Template) -> Complaints:
    groups = of_type(template, "Logs::LogGroup")
    for name, function in of_type(template, "Serverless::Function").items():
        group = groups[target(function["LoggingConfig"]["LogGroup"])]
        if "RetentionInDays" not in group:
            yield f"{name}: logs are kept forever"
        if group["LogGroupName"]["Fn::Sub"] != f"/aws/lambda/{function['FunctionName']['Fn::Sub']}":
            yield f"{name}: the key's policy does not know its log group"


# -- operation -------------------------------------------------------------------------------------


def schedules_are_not_repeated(template: Template) -> Complaints:
    schedules = [
        (name, function, event["Properties"])
        for name, function in of_type(template, "Serverless::Function").items()
        for event in function.get("Events", {}).values()
        if event["Type"] == "ScheduleV2"
    ]
    assert schedules
    for name, function, schedule in schedules:
        if schedule.get("OmitName") is not True:
            yield f"{name}: two stages in one account would share the schedule's name"
        for retries in (schedule.get("RetryPolicy", {}), function.get("EventInvokeConfig", {})):
            if retries != {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60}:
                yield f"{name}: a minute is scheduled twice"
        if json.loads(schedule["Input"]) != {"time": "<aws.scheduler.scheduled-time>"}:
            yield f"{name}: is not told which minute"


#: What a stage counts and acknowledges: without an alarm nobody would know.
TROUBLES = {
    ("schedule", "broken"),
    ("check", "broken"),
    ("check", "misconfigured"),
    ("check", "failed_jobs"),
    ("check", "rejected"),
    ("check", "malformed"),
    ("delta", "rejected"),
    ("delta", "malformed"),
    ("delta", "misconfigured"),
    ("delta", "bad_rows"),
    ("delta", "held"),
    ("delta", "gaps"),
    ("push", "rejected"),
    ("push", "malformed"),
    ("push", "misconfigured"),
}


def alarms_see_everything(template: Template) -> Complaints:
    watched: set[tuple[str, str]] = set()
    for name, alarm in of_type(template, "CloudWatch::Alarm").items():
        if "Metrics" in alarm:
            yield f"{name}: metric math, which MiniStack does not know"
            continue
        metric = mapped(template, alarm["MetricName"])
        watched.add((metric, mapped(template, alarm["Dimensions"][0]["Value"])))
        missing = "breaching" if metric == "Invocations" else "notBreaching"
        if alarm.get("TreatMissingData") != missing:
            yield f"{name}: missing data is {alarm.get('TreatMissingData')}"
        if alarm.get("AlarmActions", {}).get("Fn::If", [""])[0] != "Alarmed":
            yield f"{name}: rings nowhere, or without a topic"
    wanted = {("ApproximateNumberOfMessagesVisible", dead) for dead in dead_letters(template)}
    wanted |= {("ApproximateAgeOfOldestMessage", queue) for *_, queue in mappings(template)}
    wanted |= {("Errors", name) for name in of_type(template, "Serverless::Function")}
    wanted |= {("Invocations", "ScheduleFunction")}
    wanted |= {(metric, service) for service, metric in TROUBLES}
    for metric, name in sorted(wanted - watched):
        yield f"{name}: no alarm on {metric}"


def parameters_are_described(template: Template) -> Complaints:
    for name, parameter in template["Parameters"].items():
        if not parameter.get("Description", "").endswith("."):
            yield f"{name}: no description"
        if not parameter.keys() & {"AllowedValues", "AllowedPattern", "MinValue"}:
            yield f"{name}: takes anything"
        if "Default" not in parameter:
            yield f"{name}: no default"


RULES = [
    mappings_are_safe,
    queues_have_dead_letters,
    fifo_is_fast_and_named,
    queue_policies_admit_only_the_topic,
    queues_refuse_plain_http,
    topic_takes_events_of_deltas_only,
    subscriptions_lose_nothing,
    roles_are_least,
    every_function_has_its_own_role,
    services_act_for_this_account_only,
    jobs_are_queued_by_the_stage_before,
    credentials_are_opened_where_they_are_needed,
    what_is_public_is_asked_for_and_bounded,
    what_is_public_may_do_little,
    everything_is_encrypted,
    state_outlives_the_stack,
    a_table_and_a_key_can_be_adopted,
    the_key_is_ours,
    logs_end,
    schedules_are_not_repeated,
    alarms_see_everything,
    parameters_are_described,
]
