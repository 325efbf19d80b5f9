"""
template.yaml as it is deployed to AWS: every queue, function, role and policy, with its numbers.

:func:`deployed` reads it. :func:`needs` tells which permissions a call needs, :func:`refused` which
of them a function has not; both as AWS documents it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

from tests.simulation.specs import (
    Deployed,
    FunctionSpec,
    QueueSpec,
    ScheduleSpec,
    Statement,
    SubscriptionSpec,
)
from tests.template.expand import template
from tests.template.rules import as_list

ACCOUNT = "123456789012"
REGION = "us-east-1"
PARTITION = "aws"
STACK = "pollwire"

#: Parameters that are given.
GIVEN = {"Push": "true"}

#: What a call needs: action, ARN of the resource, context that conditions look at.
Need = tuple[str, str, Mapping[str, Any]]

#: Stands for ``AWS::NoValue``; lists and mappings leave it out.
_NOTHING = object()

_PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::NoValue": _NOTHING,
    "AWS::Partition": PARTITION,
    "AWS::Region": REGION,
    "AWS::StackName": STACK,
}

#: Property that names a resource. One that has none is called ``<stack>-<logical id>``.
_NAMES = {
    "AWS::IAM::Role": "RoleName",
    "AWS::Logs::LogGroup": "LogGroupName",
    "AWS::SNS::Topic": "TopicName",
    "AWS::SQS::Queue": "QueueName",
    "AWS::Scheduler::ScheduleGroup": "Name",
    "AWS::Serverless::Function": "FunctionName",
}

#: How an ARN goes on after partition, region and account.
_ARNS = {
    "AWS::DynamoDB::Table": "dynamodb:table/{name}",
    "AWS::KMS::Key": "kms:key/{name}",
    "AWS::Logs::LogGroup": "logs:log-group:{name}:*",
    "AWS::SNS::Topic": "sns:{name}",
    "AWS::SQS::Queue": "sqs:{name}",
    "AWS::Scheduler::ScheduleGroup": "scheduler:schedule-group/{name}",
    "AWS::Serverless::Function": "lambda:function:{name}",
}

#: What the simulation knows of an event source mapping; more would be silently left out of it.
_MAPPING = {"Queue", "BatchSize", "FunctionResponseTypes", "ScalingConfig"}

#: The same of a queue.
_QUEUE = {
    "DeduplicationScope",
    "FifoQueue",
    "FifoThroughputLimit",
    "KmsMasterKeyId",
    "MessageRetentionPeriod",
    "QueueName",
    "RedrivePolicy",
    "SqsManagedSseEnabled",
    "VisibilityTimeout",
}

#: And of a schedule.
_SCHEDULE = {
    "FlexibleTimeWindow",
    "GroupName",
    "Input",
    "OmitName",
    "RetryPolicy",
    "RoleArn",
    "ScheduleExpression",
}

#: What it knows of a policy's statement.
_STATEMENT = {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}


def arn(service: str, rest: str) -> str:
    """Write the ARN of something in the stack's account and region."""
    return f"arn:{PARTITION}:{service}:{REGION}:{ACCOUNT}:{rest}"


def queue_url(name: str) -> str:
    """Write the URL of a queue."""
    return f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{name}"


@cache
def deployed() -> Deployed:
    """Read template.yaml, once, with all that can be asked for."""
    return read(template())


def read(document: Mapping[str, Any]) -> Deployed:
    """
    Read a template that :func:`tests.template.expand.template` has expanded.

    Every parameter has its default, but for those of ``GIVEN``.
    """
    stack = _Stack(document)
    queues = {queue.name: queue for queue in map(_queue, stack.of_type("AWS::SQS::Queue").items())}
    functions = {one.name: one for one in _functions(stack)}
    ((topic_id, topic),) = stack.of_type("AWS::SNS::Topic").items()
    (table,) = stack.of_type("AWS::DynamoDB::Table")
    (key,) = stack.of_type("AWS::KMS::Key")
    policies = _policies(stack)
    for function in functions.values():
        assert not function.queue or function.queue in queues, f"{function.name}: no such queue"
    return Deployed(
        queues=queues,
        functions=functions,
        topic=stack.attribute(topic_id, "Arn"),
        deduplicates_by_group=topic.get("FifoThroughputScope") == "MessageGroup",
        subscriptions=tuple(_subscriptions(stack, policies, queues)),
        table=stack.name(table),
        key_arn=stack.attribute(key, "Arn"),
        schedules=tuple(_schedules(stack)),
        policies=policies,
    )


# -- intrinsic functions ---------------------------------------------------------------------------


class _Stack:
    """A template whose intrinsic functions are worked out on demand."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._conditions = document["Conditions"]
        defaults = {name: one["Default"] for name, one in document["Parameters"].items()}
        self._parameters = defaults | GIVEN
        self._functions: dict[str, Callable[[Any], Any]] = {
            "Condition": self._holds,
            "Ref": self._ref,
            "Fn::Equals": lambda pair: self.resolve(pair[0]) == self.resolve(pair[1]),
            "Fn::GetAtt": lambda path: self.attribute(*path),
            "Fn::If": lambda parts: self.resolve(parts[1 if self._holds(parts[0]) else 2]),
            "Fn::Join": lambda parts: parts[0].join(self.resolve(parts[1])),
            "Fn::Not": lambda parts: not self.resolve(parts[0]),
            "Fn::Split": lambda parts: self.resolve(parts[1]).split(parts[0]),
            "Fn::Sub": self._sub,
        }
        self._resources = {
            name: one
            for name, one in document["Resources"].items()
            if "Condition" not in one or self._holds(one["Condition"])
        }

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """Properties of all resources of a type that are made, by logical id."""
        found = (name for name, one in self._resources.items() if one["Type"] == kind)
        return {name: self.properties(name) for name in found}

    def properties(self, logical_id: str) -> dict[str, Any]:
        properties: dict[str, Any] = self.resolve(self._resources[logical_id].get("Properties", {}))
        return properties

    def name(self, logical_id: str) -> str:
        resource = self._resources[logical_id]
        named = resource.get("Properties", {}).get(_NAMES.get(resource["Type"], ""))
        return str(self.resolve(named)) if named is not None else f"{STACK}-{logical_id}"

    def attribute(self, logical_id: str, attribute: str) -> str:
        kind, name = self._resources[logical_id]["Type"], self.name(logical_id)
        if attribute == _NAMES.get(kind):
            return name
        if attribute != "Arn":
            raise ValueError(f"{logical_id}.{attribute}: the simulation does not know it")
        if kind == "AWS::IAM::Role":
            path = self.resolve(self._resources[logical_id]["Properties"].get("Path", "/"))
            return f"arn:{PARTITION}:iam::{ACCOUNT}:role{path}{name}"
        service, _, rest = _ARNS[kind].format(name=name).partition(":")
        return arn(service, rest)

    def resolve(self, node: Any) -> Any:
        """Work out every intrinsic function in a node."""
        if isinstance(node, list):
            return [one for one in map(self.resolve, node) if one is not _NOTHING]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((function, argument),) = node.items()
            if function in self._functions and not (
                function == "Condition" and isinstance(argument, dict)  # Of a statement.
            ):
                return self._functions[function](argument)
            assert not function.startswith("Fn::"), f"{function}: the simulation does not know it"
        resolved = {key: self.resolve(one) for key, one in node.items()}
        return {key: one for key, one in resolved.items() if one is not _NOTHING}

    def _holds(self, condition: str) -> bool:
        return bool(self.resolve(self._conditions[condition]))

    def _ref(self, name: str) -> Any:
        if name in _PSEUDO:
            return _PSEUDO[name]
        if name in self._parameters:
            return self._parameters[name]
        kind = self._resources[name]["Type"]
        if kind == "AWS::SQS::Queue":
            return queue_url(self.name(name))
        return self.attribute(name, "Arn") if kind == "AWS::SNS::Topic" else self.name(name)

    def _sub(self, text: str) -> str:
        def put(found: re.Match[str]) -> str:
            name, _, attribute = found[1].partition(".")
            return str(self.attribute(name, attribute) if attribute else self._ref(name))

        return re.sub(r"\$\{([A-Za-z0-9:.]+)\}", put, text)


# -- resources -------------------------------------------------------------------------------------


def _queue(item: tuple[str, Mapping[str, Any]]) -> QueueSpec:
    """Read a queue; what it does not say is SQS's default."""
    _, queue = item
    redrive = queue.get("RedrivePolicy", {})
    name, key = queue["QueueName"], queue.get("KmsMasterKeyId", "")
    assert queue.keys() <= _QUEUE, f"{name}: {queue.keys() - _QUEUE}"
    return QueueSpec(
        name=name,
        arn=arn("sqs", name),
        url=queue_url(name),
        fifo=queue.get("FifoQueue", False),
        visibility_s=int(queue.get("VisibilityTimeout", 30)),
        retention_s=int(queue.get("MessageRetentionPeriod", 345_600)),
        dead_letters=_last(redrive.get("deadLetterTargetArn", "")),
        receives=int(redrive.get("maxReceiveCount", 0)),
        deduplicates_by_group=queue.get("DeduplicationScope") == "messageGroup",
        key_arn=_key_arn(key) if key else "",
    )


def _key_arn(key: str) -> str:
    """A key is named by its ARN or its id."""
    return key if key.startswith("arn:") else arn("kms", f"key/{key}")


def _functions(stack: _Stack) -> Iterator[FunctionSpec]:
    """Read the functions; what one does not say is Lambda's default."""
    roles = _roles(stack)
    for function in stack.of_type("AWS::Serverless::Function").values():
        variables = {key: str(value) for key, value in function["Environment"]["Variables"].items()}
        unknown = {"Policies", "ReservedConcurrentExecutions"} & function.keys()
        if "FunctionUrlConfig" in function:
            # It bounds what comes from outside: there, the simulation does as it likes.
            unknown.discard("ReservedConcurrentExecutions")
        assert not unknown, f"{function['FunctionName']}: {unknown}"
        spec = FunctionSpec(
            name=function["FunctionName"],
            stage=function["CodeUri"].rpartition("/")[2],
            stream="",
            timeout_s=int(function.get("Timeout", 3)),
            environment=variables,
            statements=roles[function["Role"]],
            retries=int(function.get("EventInvokeConfig", {}).get("MaximumRetryAttempts", 2)),
            role=function["Role"],
            log_group=function["LoggingConfig"]["LogGroup"],
        )
        yield _mapped(spec, function.get("Events", {}))


def _mapped(function: FunctionSpec, events: Mapping[str, Any]) -> FunctionSpec:
    """Add a function's event source mapping, if it has one, and the stream of its queue."""
    found = [one["Properties"] for one in events.values() if one["Type"] == "SQS"]
    if not found:
        return function
    (mapping,) = found
    assert mapping.keys() <= _MAPPING, f"{function.name}: {mapping.keys() - _MAPPING}"
    queue = _last(mapping["Queue"])
    before, _, after = function.environment["DELTAS_QUEUE_URL"].partition("{stream}")
    url = queue_url(queue)
    of_stream = url.startswith(before) and url.endswith(after)
    return replace(
        function,
        stream=url.removeprefix(before).removesuffix(after) if of_stream else "",
        queue=queue,
        batch=int(mapping.get("BatchSize", 10)),
        partial="ReportBatchItemFailures" in mapping.get("FunctionResponseTypes", ()),
        concurrency=int(mapping.get("ScalingConfig", {}).get("MaximumConcurrency", 0)),
    )


def _schedules(stack: _Stack) -> Iterator[ScheduleSpec]:
    roles = _roles(stack)
    for function in stack.of_type("AWS::Serverless::Function").values():
        for event in function.get("Events", {}).values():
            if event["Type"] != "ScheduleV2":
                continue
            schedule = event["Properties"]
            assert schedule.keys() <= _SCHEDULE, f"{schedule.keys() - _SCHEDULE}"
            assert schedule.get("FlexibleTimeWindow", {}).get("Mode", "OFF") == "OFF"
            yield ScheduleSpec(
                function=function["FunctionName"],
                expression=schedule["ScheduleExpression"],
                input=schedule["Input"],
                retries=int(schedule.get("RetryPolicy", {}).get("MaximumRetryAttempts", 185)),
                role=schedule["RoleArn"],
                group=arn("scheduler", f"schedule-group/{schedule['GroupName']}"),
                statements=roles[schedule["RoleArn"]],
            )


def _subscriptions(
    stack: _Stack,
    policies: Mapping[str, tuple[Statement, ...]],
    queues: Mapping[str, QueueSpec],
) -> Iterator[SubscriptionSpec]:
    for subscription in stack.of_type("AWS::SNS::Subscription").values():
        assert subscription["Protocol"] == "sqs"
        assert subscription.get("FilterPolicyScope", "MessageAttributes") == "MessageAttributes"
        dead = subscription.get("RedrivePolicy", {}).get("deadLetterTargetArn", "")
        topic, endpoint = subscription["TopicArn"], subscription["Endpoint"]
        yield SubscriptionSpec(
            queue=_last(endpoint),
            policy=subscription.get("FilterPolicy"),
            raw=subscription.get("RawMessageDelivery", False),
            dead_letters=_last(dead),
            senders=_senders(policies, queues.get(_last(endpoint)), topic),
            dead_letter_senders=_senders(policies, queues.get(_last(dead)), topic),
        )


def _senders(
    policies: Mapping[str, tuple[Statement, ...]], queue: QueueSpec | None, topic: str
) -> frozenset[str]:
    """Tell whether a topic may send to a queue, and seal what it sends with the queue's key."""
    context = {"aws:SourceArn": topic, "aws:SourceAccount": ACCOUNT, "aws:SecureTransport": "true"}
    if queue is None:
        return frozenset()
    wanted = [("sqs:SendMessage", queue.arn, context)]
    wanted += [(action, key, context) for action, key, _ in _sealing(queue, "Send")]
    may = all(
        allowed(_naming(policies.get(resource, ()), "sns.amazonaws.com"), action, resource, given)
        for action, resource, given in wanted
    )
    return frozenset([topic] if may else [])


def _last(of_arn: str) -> str:
    return of_arn.rpartition(":")[2]


# -- policies --------------------------------------------------------------------------------------


def _roles(stack: _Stack) -> dict[str, tuple[Statement, ...]]:
    """Read what each role may, by the role's ARN: its own policies, then those attached to it."""
    attached = list(stack.of_type("AWS::IAM::Policy").values())
    roles = {}
    for logical_id, role in stack.of_type("AWS::IAM::Role").items():
        # X-Ray's is the only one; it says nothing of what the simulation does.
        managed = [one for one in role.get("ManagedPolicyArns", ()) if "XRayDaemon" not in one]
        assert not managed, f"{logical_id}: {managed}"
        found = [*role.get("Policies", ())]
        found += [one for one in attached if stack.name(logical_id) in one["Roles"]]
        roles[stack.attribute(logical_id, "Arn")] = tuple(
            statement for policy in found for statement in _statements(policy["PolicyDocument"])
        )
    return roles


def _policies(stack: _Stack) -> dict[str, tuple[Statement, ...]]:
    """Read the policies of resources, by the resource's ARN."""
    found: dict[str, tuple[Statement, ...]] = {}
    documents = [
        (one["Queues"], one["PolicyDocument"])
        for one in stack.of_type("AWS::SQS::QueuePolicy").values()
    ]
    documents += [
        (one["Topics"], one["PolicyDocument"])
        for one in stack.of_type("AWS::SNS::TopicPolicy").values()
    ]
    for kind, document in (("KMS::Key", "KeyPolicy"), ("IAM::Role", "AssumeRolePolicyDocument")):
        documents += [
            ([stack.attribute(logical_id, "Arn")], one[document])
            for logical_id, one in stack.of_type(f"AWS::{kind}").items()
        ]
    for resources, document in documents:
        for resource in resources:
            # A queue is named by its URL.
            known = arn("sqs", resource.rpartition("/")[2]) if "://" in resource else resource
            found[known] = found.get(known, ()) + _statements(document)
    return found


def _statements(document: Mapping[str, Any]) -> tuple[Statement, ...]:
    read_ = []
    for one in document["Statement"]:
        assert one.keys() <= _STATEMENT, f"a statement's {one.keys() - _STATEMENT}"
        principal = one.get("Principal", [])
        if isinstance(principal, dict):
            principal = [name for names in principal.values() for name in as_list(names)]
        statement = Statement(
            effect=one["Effect"],
            actions=tuple(as_list(one["Action"])),
            resources=tuple(as_list(one.get("Resource", "*"))),  # A role's trust names none.
            conditions=one.get("Condition", {}),
            principals=tuple(as_list(principal)),
        )
        read_.append(statement)
    return tuple(read_)


def allowed(
    statements: Iterable[Statement], action: str, resource: str, context: Mapping[str, Any]
) -> bool:
    """
    Evaluate statements as IAM does: one has to allow, none may deny.

    Args:
        context: Condition key -> value, or values.

    Raises:
        ValueError: A condition's operator is unknown.
    """
    effects = _effects(statements, action, resource, context)
    return "Allow" in effects and "Deny" not in effects


def _effects(
    statements: Iterable[Statement], action: str, resource: str, context: Mapping[str, Any]
) -> set[str]:
    given = {key.lower(): value for key, value in context.items()}
    return {
        statement.effect
        for statement in statements
        if any(_like(pattern.lower(), action.lower()) for pattern in statement.actions)
        and any(_like(pattern, resource) for pattern in statement.resources)
        and _met(statement.conditions, given)
    }


def _met(conditions: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    # All are looked at: an unknown operator is told even if another condition is not met.
    results = {
        _holds(operator, _texts(values), given.get(key.lower()))
        for operator, keys in conditions.items()
        for key, values in keys.items()
    }
    return False not in results


def _holds(operator: str, values: list[str], given: Any) -> bool:
    """Compare what a request brings for one key with the values of a condition."""
    if operator == "Null":
        return (given is None) == (values == ["true"])
    scope, _, name = operator.rpartition(":")
    compare = _COMPARISONS.get(name.replace("Not", ""))
    if compare is None or scope not in _SCOPES:
        raise ValueError(f"{operator}: the simulation does not know this condition")
    negated = "Not" in name
    found = [] if given is None else _texts(given)
    hits = [any(compare(value, one) for value in values) != negated for one in found]
    if scope:
        return _SCOPES[scope](hits)
    if len(hits) > 1:
        raise ValueError(f"{operator}: a key with several values needs ForAllValues or ForAnyValue")
    return hits[0] if hits else negated


def _texts(values: Any) -> list[str]:
    """Write values as a policy does: a boolean is ``true`` or ``false``."""
    listed = values if isinstance(values, list | tuple | set | frozenset) else [values]
    return [str(one).lower() if isinstance(one, bool) else str(one) for one in listed]


@lru_cache(maxsize=65_536)
def _like(pattern: str, text: str) -> bool:
    """Match ``*`` and ``?``; nothing else in a pattern is special."""
    expression = "".join({"*": ".*", "?": "."}.get(one, re.escape(one)) for one in pattern)
    return re.fullmatch(expression, text, re.DOTALL) is not None


def _arn_like(pattern: str, text: str) -> bool:
    """Match each of an ARN's six parts for itself."""
    patterns, parts = pattern.split(":", 5), text.split(":", 5)
    return len(patterns) == len(parts) == 6 and all(map(_like, patterns, parts))


_SCOPES: dict[str, Callable[[Iterable[bool]], bool]] = {
    "": any,
    "ForAllValues": all,
    "ForAnyValue": any,
}

_COMPARISONS: dict[str, Callable[[str, str], bool]] = {
    "ArnEquals": _arn_like,  # IAM makes no difference between these two.
    "ArnLike": _arn_like,
    "Bool": lambda value, one: value.lower() == one.lower(),
    "StringEquals": str.__eq__,
    "StringLike": _like,
}


# -- what a call needs -----------------------------------------------------------------------------

#: A transaction has no action of its own: its parts need theirs.
_PARTS = {
    "ConditionCheck": "ConditionCheckItem",
    "Delete": "DeleteItem",
    "Get": "GetItem",
    "Put": "PutItem",
    "Update": "UpdateItem",
}

_ONE_TABLE = {"DeleteItem", "GetItem", "PutItem", "Query", "Scan", "UpdateItem"}
_MANY_TABLES = {"BatchGetItem", "BatchWriteItem"}
_TRANSACTIONS = {"TransactGetItems", "TransactWriteItems"}

#: A batch needs what a single message needs.
_MESSAGES = {
    "ChangeMessageVisibility": "sqs:ChangeMessageVisibility",
    "ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
    "DeleteMessage": "sqs:DeleteMessage",
    "DeleteMessageBatch": "sqs:DeleteMessage",
    "GetQueueAttributes": "sqs:GetQueueAttributes",
    "ReceiveMessage": "sqs:ReceiveMessage",
    "SendMessage": "sqs:SendMessage",
    "SendMessageBatch": "sqs:SendMessage",
}


def needs(
    service: str, operation: str, params: Mapping[str, Any], deployed: Deployed
) -> list[Need]:
    """
    Tell which permissions a call needs.

    Args:
        service: botocore's name of it, such as ``dynamodb``.

        operation: As the API spells it, such as ``TransactWriteItems``.

    Raises:
        ValueError: The simulation does not know the operation.
    """
    known = {"dynamodb": _dynamodb, "kms": _kms, "sns": _sns, "sqs": _sqs}
    found = known[service](operation, params, deployed) if service in known else []
    if not found:
        raise ValueError(f"{service}:{operation}: the simulation does not know its permissions")
    return list(found)


def _dynamodb(operation: str, params: Mapping[str, Any], _: Deployed) -> list[Need]:
    if operation in _ONE_TABLE:
        index = f"/index/{params['IndexName']}" if "IndexName" in params else ""
        return [(f"dynamodb:{operation}", _table(params["TableName"]) + index, {})]
    if operation in _MANY_TABLES:
        return [(f"dynamodb:{operation}", _table(name), {}) for name in params["RequestItems"]]
    if operation in _TRANSACTIONS:
        parts = {
            (_PARTS[kind], _table(part["TableName"])): None
            for action in params["TransactItems"]
            for kind, part in action.items()
        }
        return [(f"dynamodb:{action}", table, {}) for action, table in parts]
    return []


def _table(name: str) -> str:
    return name if name.startswith("arn:") else arn("dynamodb", f"table/{name}")


def _sqs(operation: str, params: Mapping[str, Any], deployed: Deployed) -> list[Need]:
    if operation not in _MESSAGES:
        return []
    account, name = params["QueueUrl"].split("/")[-2:]
    own = (_MESSAGES[operation], f"arn:{PARTITION}:sqs:{REGION}:{account}:{name}", {})
    return [own, *_sealing(deployed.queues.get(name), operation)]


def _sealing(queue: QueueSpec | None, operation: str) -> list[Need]:
    """Tell what a queue's own key is needed for, by whoever sends or receives."""
    if queue is None or not queue.key_arn or not operation.startswith(("Send", "Receive")):
        return []
    via = {"kms:ViaService": f"sqs.{REGION}.amazonaws.com"}
    context = via | encryption_context({"aws:sqs:arn": queue.arn})
    actions = ("kms:Decrypt", "kms:GenerateDataKey")[: 2 if operation.startswith("Send") else 1]
    return [(action, queue.key_arn, context) for action in actions]


def _sns(operation: str, params: Mapping[str, Any], _: Deployed) -> list[Need]:
    if operation not in {"Publish", "PublishBatch"}:
        return []
    return [("sns:Publish", params["TopicArn"], {})]


def _kms(operation: str, params: Mapping[str, Any], deployed: Deployed) -> list[Need]:
    if operation not in {"Decrypt", "Encrypt"}:
        return []
    key = params.get("KeyId", deployed.key_arn)  # Decrypt finds it in what was sealed.
    context = encryption_context(params.get("EncryptionContext", {}))
    return [(f"kms:{operation}", _key_arn(key), context)]


def encryption_context(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Write an encryption context as conditions see it; an empty one has no keys at all."""
    context: dict[str, Any] = {f"kms:EncryptionContext:{key}": one for key, one in pairs.items()}
    return context | ({"kms:EncryptionContextKeys": sorted(pairs)} if pairs else {})


def service_needs(service: str, deployed: Deployed) -> list[Need]:
    """
    Tell what a service does with the stack's key in its caller's name: table and topic have it.

    The key's own policy allows it, not the caller's role.
    """
    via = {"kms:ViaService": f"{service}.{REGION}.amazonaws.com"}
    if service == "dynamodb":
        pairs = {"aws:dynamodb:subscriberId": ACCOUNT, "aws:dynamodb:tableName": deployed.table}
        return [("kms:Decrypt", deployed.key_arn, via | encryption_context(pairs))]
    if service == "sns":
        context = via | encryption_context({"aws:sns:topicArn": deployed.topic})
        actions = ("kms:GenerateDataKey", "kms:Decrypt")
        return [(action, deployed.key_arn, context) for action in actions]
    return []


def mapping_needs(function: FunctionSpec, deployed: Deployed) -> list[Need]:
    """Tell what Lambda does with a function's queue, in the name of the function's role."""
    if not function.queue:
        return []
    operations = ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes")
    url = {"QueueUrl": queue_url(function.queue)}
    return [need for operation in operations for need in _sqs(operation, url, deployed)]


_CRON = re.compile(r"cron\((\*|\*/[0-9]+|[0-9]+) \* \* \* \? \*\)")
_RATE = re.compile(r"rate\(([0-9]+) (minute|hour|day)s?\)")


def fires(expression: str, minute: int) -> bool:
    """
    Tell whether a schedule fires in a minute.

    Args:
        minute: Its number since the epoch.

    Raises:
        ValueError: The expression is none that the simulation knows.
    """
    if rate := _RATE.fullmatch(expression):
        return minute % (int(rate[1]) * {"minute": 1, "hour": 60, "day": 1440}[rate[2]]) == 0
    cron = _CRON.fullmatch(expression)
    if not cron:
        raise ValueError(f"{expression}: the simulation does not know this schedule")
    every = int(cron[1].removeprefix("*/")) if cron[1].startswith("*/") else 1
    at = minute % 60
    return at == int(cron[1]) if cron[1].isdecimal() else at % every == 0


def schedule_needs(schedule: ScheduleSpec) -> list[Need]:
    """Tell what the scheduler does in the name of its role."""
    return [("lambda:InvokeFunction", arn("lambda", f"function:{schedule.function}"), {})]


def log_needs(function: FunctionSpec) -> list[Need]:
    """Tell what Lambda does, in the name of the function's role, to write what is logged."""
    stream = arn("logs", f"log-group:{function.log_group}:log-stream:2027/01/15/[$LATEST]0")
    return [("logs:CreateLogStream", stream, {}), ("logs:PutLogEvents", stream, {})]


# -- who may ---------------------------------------------------------------------------------------


def refused(
    caller: FunctionSpec | ScheduleSpec, wanted: Iterable[Need], deployed: Deployed
) -> list[Need]:
    """Tell which needs neither the caller's role nor the resource's own policy fulfils."""
    return [need for need in wanted if not permitted(caller, need, deployed)]


def permitted(caller: FunctionSpec | ScheduleSpec, need: Need, deployed: Deployed) -> bool:
    """
    Evaluate a role's policy together with the resource's own, as within one account.

    Either may allow and either may deny; for a key, the role's counts only if the key's policy
    leaves it to the account. Calls go over TLS.
    """
    action, resource, context = need
    context = {
        "aws:PrincipalArn": caller.role,
        "aws:PrincipalAccount": ACCOUNT,
        "aws:SecureTransport": "true",
        "kms:CallerAccount": ACCOUNT,
        **context,
    }
    stated = deployed.policies.get(resource, ())
    root = f"arn:{PARTITION}:iam::{ACCOUNT}:root"
    by_role = _effects(caller.statements, action, resource, context)
    by_resource = _effects(_naming(stated, caller.role), action, resource, context)
    by_account = _effects(_naming(stated, root), action, resource, context)
    if "Deny" in by_role | by_resource | by_account:
        return False
    left_to_role = not action.startswith("kms:") or "Allow" in by_account
    return "Allow" in by_resource or ("Allow" in by_role and left_to_role)


def refused_to_services(deployed: Deployed) -> list[str]:
    """
    Tell what AWS's services may not do themselves, of what has to be done for the stack to run.

    They act in their own name, by the policy of the role, key or queue alone.
    """
    lambda_, scheduler = "lambda.amazonaws.com", "scheduler.amazonaws.com"
    acts: list[tuple[str, Need]] = []
    for function in deployed.functions.values():
        acts.append((lambda_, ("sts:AssumeRole", function.role, {})))
        group = arn("logs", f"log-group:{function.log_group}")
        context = encryption_context({"aws:logs:arn": group})
        for action in ("Encrypt", "Decrypt", "GenerateDataKey", "ReEncryptFrom", "DescribeKey"):
            need = (f"kms:{action}", deployed.key_arn, context)
            acts.append((f"logs.{REGION}.amazonaws.com", need))
    for schedule in deployed.schedules:
        source = {"aws:SourceAccount": ACCOUNT, "aws:SourceArn": schedule.group}
        acts.append((scheduler, ("sts:AssumeRole", schedule.role, source)))
    return [
        f"{service} may not {need[0]} on {need[1]}"
        for service, need in acts
        if not allowed(_naming(deployed.policies.get(need[1], ()), service), *need)
    ]


def _naming(statements: Iterable[Statement], principal: str) -> list[Statement]:
    return [one for one in statements if {"*", principal} & set(one.principals)]
