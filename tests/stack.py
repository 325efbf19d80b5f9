"""
template.yaml as data, and its table, key, queues and topic made in moto.

No key schema, no visibility timeout and no queue's name is written twice.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "template.yaml"

NAME = "pollwire"

#: What moto makes of the template; the rest (functions, roles, alarms) is nothing to these tests.
MADE = frozenset(
    {
        "AWS::DynamoDB::Table",
        "AWS::KMS::Key",
        "AWS::SNS::Topic",
        "AWS::SQS::Queue",
    }
)


class _Loader(yaml.SafeLoader):
    """Reads ``!Ref`` and its like as what they are short for."""


def _intrinsic(loader: _Loader, tag: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.MappingNode):
        value = loader.construct_mapping(node, deep=True)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_scalar(node)
    if tag == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {tag if tag in ("Ref", "Condition") else f"Fn::{tag}": value}


_Loader.add_multi_constructor("!", _intrinsic)


def load(path: Path = TEMPLATE) -> dict[str, Any]:
    """Read a template, its loops unrolled as ``AWS::LanguageExtensions`` does."""
    template: dict[str, Any] = copy.deepcopy(_parsed(path))
    template["Resources"] = unroll(template["Resources"])
    return template


@cache
def _parsed(path: Path) -> dict[str, Any]:
    with path.open() as text:
        parsed: dict[str, Any] = yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    return parsed


def unroll(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Write out each ``Fn::ForEach`` of a mapping."""
    written: dict[str, Any] = {}
    for key, value in mapping.items():
        if not key.startswith("Fn::ForEach::"):
            written[key] = value
            continue
        variable, names, body = value
        for name in names:
            written |= _put(unroll(body), variable, name)
    return written


def _put(value: Any, variable: str, name: str) -> Any:
    """Put a loop's value wherever its variable is named."""
    if isinstance(value, str):
        return value.replace(f"${{{variable}}}", name)
    if isinstance(value, list):
        return [_put(one, variable, name) for one in value]
    if not isinstance(value, dict):
        return value
    if value == {"Ref": variable}:
        return name
    put = {_put(key, variable, name): _put(one, variable, name) for key, one in value.items()}
    said = put.get("Fn::Sub")
    # Nothing is left to put in: a plain text, which Ref and GetAtt can take.
    return said if isinstance(said, str) and "${" not in said else put


def create(clients: Callable[[str], Any]) -> dict[str, str]:
    """
    Make the stack's data resources.

    Args:
        clients: Gives the boto3 client of a service.

    Returns:
        The environment of its functions, and the subscriber queue's URL as ``SUBSCRIBER_URL``.
    """
    template = load()
    resources = {
        identity: {key: value for key, value in resource.items() if key != "DependsOn"}
        for identity, resource in template["Resources"].items()
        if resource["Type"] in MADE
    }
    variables = template["Globals"]["Function"]["Environment"]["Variables"]
    outputs = {name.replace("_", ""): {"Value": value} for name, value in variables.items()}
    outputs["SUBSCRIBERURL"] = {"Value": {"Ref": "Subscriber"}}
    outputs |= {
        name: output
        for name, output in template["Outputs"].items()
        if not isinstance(output["Value"], dict) or _named(output["Value"]) in resources
    }
    made = {
        "Parameters": template["Parameters"],
        "Mappings": template["Mappings"],
        "Conditions": template["Conditions"],
        "Resources": resources,
        "Outputs": outputs,
    }
    cloudformation = clients("cloudformation")
    cloudformation.create_stack(StackName=NAME, TemplateBody=json.dumps(made))
    stack = cloudformation.describe_stacks(StackName=NAME)["Stacks"][0]
    found = {output["OutputKey"]: output.get("OutputValue", "") for output in stack["Outputs"]}
    environment = {name: found[name.replace("_", "")] for name in (*variables, "SUBSCRIBER_URL")}
    _subscribe(clients, template["Resources"]["Subscription"]["Properties"], environment)
    return environment


def _named(value: Mapping[str, Any]) -> str:
    """Name the resource that a ``Ref`` or a ``GetAtt`` is of, whatever it depends on."""
    ((function, named),) = value.items()
    if function == "Fn::If":
        return _named(named[1])
    return str(named if isinstance(named, str) else named[0])


def _subscribe(
    clients: Callable[[str], Any], properties: Mapping[str, Any], environment: Mapping[str, str]
) -> None:
    # moto's CloudFormation knows no subscriptions.
    dead = properties["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0]
    found = clients("cloudformation").describe_stack_resource(
        StackName=NAME, LogicalResourceId=dead
    )
    queues = (environment["SUBSCRIBER_URL"], found["StackResourceDetail"]["PhysicalResourceId"])
    queue, dead = (
        clients("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])[
            "Attributes"
        ]["QueueArn"]
        for url in queues
    )
    clients("sns").subscribe(
        TopicArn=environment["EVENTS_TOPIC_ARN"],
        Protocol=properties["Protocol"],
        Endpoint=queue,
        Attributes={
            "RawMessageDelivery": str(properties["RawMessageDelivery"]).lower(),
            "RedrivePolicy": json.dumps({"deadLetterTargetArn": dead}),
        },
    )
