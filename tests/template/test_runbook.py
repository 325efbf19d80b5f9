"""The runbook, beside the alarms that lead to it and the commands that it names."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer
from pollwire_cli.app import app

from tests.stack import ROOT
from tests.template.expand import template
from tests.template.rules import of_type

RUNBOOK = (ROOT / "docs/runbook.md").read_text()
PARAGRAPHS = dict(
    re.findall(r"^## (\w+)\n\n(.+?)(?=\n\n## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
)
TEMPLATE = template()


def description(alarm: dict[str, Any]) -> str:
    """An alarm's own text, as CloudFormation writes it."""
    text = alarm["AlarmDescription"]
    return str(text["Fn::Sub"]) if isinstance(text, dict) else str(text)


def led_to() -> dict[str, str]:
    """Name the paragraph that each alarm's text ends with."""
    return {
        name: description(alarm).rpartition(" See docs/runbook.md: ")[2]
        for name, alarm in of_type(TEMPLATE, "CloudWatch::Alarm").items()
    }


def test_every_alarm_has_a_paragraph_and_every_paragraph_an_alarm() -> None:
    assert sorted(set(led_to().values())) == sorted(PARAGRAPHS)
    assert RUNBOOK.count("\n## ") == len(PARAGRAPHS)


def test_an_alarm_leads_to_the_paragraph_of_its_name() -> None:
    kinds = TEMPLATE["Mappings"]["Providers"] | TEMPLATE["Mappings"]["Streams"]
    of_a_kind = re.compile(f"^(Checks?|Deltas?)(?:{'|'.join(kinds)})(?=[A-Z])")
    for name, paragraph in led_to().items():
        assert of_a_kind.sub(r"\1", name) == f"{paragraph}Alarm"


def test_an_alarms_text_says_something_and_ends_with_its_paragraph() -> None:
    for name, alarm in of_type(TEMPLATE, "CloudWatch::Alarm").items():
        says, led, _ = description(alarm).partition(" See docs/runbook.md: ")
        assert led, name
        assert says.endswith("."), name
        assert "${" not in description(alarm), name


@pytest.mark.parametrize("name", PARAGRAPHS)
def test_a_paragraph_says_what_it_means_what_to_do_and_how_to_know_it_worked(name: str) -> None:
    assert "worked" in PARAGRAPHS[name]
    assert len(PARAGRAPHS[name].split(". ")) >= 2


def test_the_commands_that_it_names_are_there() -> None:
    known = {" ".join(words) for words in _commands(typer.main.get_command(app), ())}
    found = re.findall(r"`pollwire\s+([a-z]+(?:\s+[a-z]+)?)", RUNBOOK)
    named = {" ".join(words.split()) for words in found}

    assert named
    assert named - known == set()


def _commands(command: Any, words: tuple[str, ...]) -> list[tuple[str, ...]]:
    below = getattr(command, "commands", None)
    if below is None:
        return [words]
    return [found for name, one in below.items() for found in _commands(one, (*words, name))]
