"""
template.yaml as CloudFormation sees it: loops unrolled, mappings looked up, Globals merged.

    python -m tests.template.expand     print what SAM makes of that, as JSON
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any
from unittest import mock

from samtranslator.translator.transform import transform

from tests.stack import ROOT, load

__all__ = ["ROOT", "deployable", "template"]


def template() -> dict[str, Any]:
    document = load()
    document["Resources"] = _look_up(document["Resources"], document["Mappings"])
    shared = document["Globals"]["Function"]
    for resource in document["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            own = resource["Properties"]
            variables = shared["Environment"]["Variables"] | own["Environment"]["Variables"]
            resource["Properties"] = shared | own | {"Environment": {"Variables": variables}}
    return document


class _NoPolicies:
    """SAM's managed policies by name: nothing here names one."""

    def load(self) -> dict[str, str]:
        return {}


def deployable(document: dict[str, Any] | None = None) -> dict[str, Any]:
    """Have SAM make functions, roles, mappings and schedules of its own resource types."""
    document = document or template()
    for resource in document["Resources"].values():
        for name in resource["Properties"].keys() & {"CodeUri", "ContentUri"}:
            resource["Properties"][name] = "s3://bucket/key"
    with mock.patch.dict(os.environ, {"AWS_DEFAULT_REGION": "us-east-1"}):
        made: dict[str, Any] = transform(document, {}, _NoPolicies())
    return made


def _look_up(node: Any, mappings: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_look_up(item, mappings) for item in node]
    if not isinstance(node, dict):
        return node
    match {key: _look_up(value, mappings) for key, value in node.items()}:
        case {"Fn::FindInMap": [name, key, field]}:
            return mappings[name][key][field]
        case {"Fn::Sub": [text, dict(variables)]} if all(
            isinstance(value, str) for value in variables.values()
        ):
            for name, value in variables.items():
                text = text.replace(f"${{{name}}}", value) if isinstance(value, str) else text
            later = {name: value for name, value in variables.items() if not isinstance(value, str)}
            return {"Fn::Sub": [text, later] if later else text}
        case looked_up:
            return looked_up


if __name__ == "__main__":
    json.dump(deployable(), sys.stdout)
