"""template.yaml as CloudFormation sees it: loops unrolled, mappings looked up, Globals merged."""

from __future__ import annotations

from typing import Any

from tests.stack import ROOT, load

__all__ = ["ROOT", "template"]


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


def _look_up(node: Any, mappings: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_look_up(item, mappings) for item in node]
    if not isinstance(node, dict):
        return node
    match {key: _look_up(value, mappings) for key, value in node.items()}:
        case {"Fn::FindInMap": [name, key, field]}:
            return mappings[name][key][field]
        case {"Fn::Sub": [text, dict(variables)]}:
            for name, value in variables.items():
                text = text.replace(f"${{{name}}}", value)
            return {"Fn::Sub": text}
        case looked_up:
            return looked_up
