"""Which stack a command works on, and what it says when it cannot."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import tomllib

import pollwire
import pytest
import typer
from botocore.exceptions import EndpointConnectionError
from pollwire.errors import Misconfigured
from pollwire_cli.app import app
from pollwire_cli.session import Session

from tests import stack
from tests.cli.conftest import CANARY

OUTPUTS = {
    name: output["Value"]
    for name, output in stack.load()["Outputs"].items()
    if name
    in ("StateTableName", "KeyArn", "ChecksQueueUrl", "EventsTopicArn", "ScheduleFunctionName")
}


def deploy(operator, monkeypatch, **outputs):
    """Make a stack with these outputs, and forget what was given directly."""
    found = {
        "StateTableName": operator.state._table,
        "KeyArn": operator.sealer._key,
        "EventsTopicArn": "arn:aws:sns:us-east-1:123456789012:events",
        "ScheduleFunctionName": "pollwire-schedule",
    } | outputs
    template = {
        "Parameters": {"AllowedHosts": {"Type": "String"}},
        "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
        "Outputs": {name: {"Value": value} for name, value in found.items() if value},
    }
    operator.clients("cloudformation").create_stack(
        StackName="mine",
        TemplateBody=json.dumps(template),
        Parameters=[
            {"ParameterKey": "AllowedHosts", "ParameterValue": "https://api.example.com:8443"}
        ],
    )
    monkeypatch.delenv("POLLWIRE_TABLE_NAME")
    monkeypatch.delenv("POLLWIRE_KEY_ARN")


def test_the_version_is_said(operator):
    assert operator.done("--version").out == f"{pollwire.__version__}\n"


def test_the_template_has_the_outputs_that_are_looked_up():
    assert OUTPUTS.keys() == {
        "StateTableName",
        "KeyArn",
        "ChecksQueueUrl",
        "EventsTopicArn",
        "ScheduleFunctionName",
    }


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_stack_is_found_by_its_name(operator, monkeypatch, credential_file, by):
    deploy(operator, monkeypatch)
    words = ["--stack", "mine"] if by == "option" else []
    if by == "environment":
        monkeypatch.setenv("POLLWIRE_STACK", "mine")

    operator.done("connections", "add", "shop", "--provider", "youmail", *words)
    account = ["accounts", "add", "7", "--connection", "shop"]
    operator.done(*account, "--credential", credential_file, *words)

    assert operator.opened("7")["password"] == CANARY


def test_a_host_has_to_be_allowed_by_the_stack(operator, monkeypatch):
    deploy(operator, monkeypatch)
    words = ["connections", "add", "shop", "--provider", "youmail", "--stack", "mine", "--host"]

    said = operator.refused(*words, "api=https://other.example")
    operator.done(
        *words, "api=https://api.example.com:8443", "--host", "poll=http://apipoll.youmail.com"
    )

    assert "add it to the AllowedHosts parameter" in said
    assert operator.connection().hosts["api"] == "https://api.example.com:8443"


@pytest.mark.parametrize("name", ["nowhere", "a b", ""])
def test_a_stack_that_is_not_there_is_named(operator, monkeypatch, name):
    deploy(operator, monkeypatch)

    said = operator.refused("connections", "list", "--stack", name)

    assert "--stack or POLLWIRE_STACK" in said or "check --stack" in said


def test_a_stack_of_something_else_is_named(operator, monkeypatch):
    deploy(operator, monkeypatch, StateTableName="")

    assert "no output StateTableName" in operator.refused("connections", "list", "--stack", "mine")


def test_a_table_that_is_not_there_is_named(operator):
    said = operator.refused("connections", "list", "--table-name", "nowhere")

    assert "AWS refused Query: ResourceNotFoundException" in said


@pytest.mark.parametrize(
    ("cleared", "said"),
    [
        pytest.param(["AWS_REGION", "AWS_DEFAULT_REGION"], "set AWS_REGION", id="region"),
        pytest.param(["AWS_ACCESS_KEY_ID"], "log in", id="credentials"),
    ],
)
def test_what_the_environment_lacks_is_named(operator, monkeypatch, tmp_path, cleared, said):
    for name in cleared:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    assert said in operator.refused("connections", "list")


def test_a_profile_that_is_not_there_is_named(operator, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")

    assert "nobody" in operator.refused("connections", "list")


def test_an_endpoint_that_does_not_answer_is_named(operator, monkeypatch):
    def unreachable(self, service):
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:9")

    monkeypatch.setattr(Session, "_client", unreachable)

    assert "http://127.0.0.1:9" in operator.refused("connections", "list")


def commands():
    def walk(command, words):
        subcommands = getattr(command, "commands", None)
        if subcommands is None:
            yield words
            return
        for name, one in subcommands.items():
            yield from walk(one, (*words, name))

    return sorted(walk(typer.main.get_command(app), ()))


def test_these_are_the_commands():
    connections = {"add", "list", "show", "pause", "resume", "remove"}
    accounts = {*connections, "import", "credential"}

    assert set(commands()) == {
        *(("connections", word) for word in (*connections, "push")),
        *(("accounts", word) for word in accounts),
        ("reconcile",),
        ("replay",),
        ("streams", "show"),
        ("watch",),
        ("doctor",),
        ("redrive",),
        ("status",),
        ("subscribe",),
        ("subscriptions",),
        ("tail",),
        ("unsubscribe",),
    }


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example_and_json(operator, words):
    said = operator.done(*words, "--help").out

    assert "--json" in said
    assert "--stack" in said
    assert f"pollwire {' '.join(words)}" in said.partition("Examples:")[2]


@pytest.mark.parametrize("words", [one for one in commands() if one != ("status",)], ids=" ".join)
def test_help_breaks_its_lines_where_the_terminal_ends(operator, monkeypatch, words):
    """The one that is left out has a list, a line each."""
    monkeypatch.setenv("COLUMNS", "80")

    said = operator.done(*words, "--help").out.partition("\u256d")[0]

    lines = [line.strip() for line in said.splitlines()]
    for line, after in itertools.pairwise(lines):
        assert not (line and after) or len(f" {line} {after.split()[0]}") > 79


def test_a_list_in_a_help_keeps_its_lines(operator):
    said = [line.strip() for line in operator.done("status", "--help").out.splitlines()]

    assert "due: accounts whose turn it was at the last check of their shard" in said


def test_the_command_is_installed_with_what_the_tests_run_with():
    written = tomllib.loads((stack.ROOT / "pyproject.toml").read_text())
    project, packages = written["project"], written["tool"]["setuptools"]["packages"]["find"]
    pinned = set((stack.ROOT / "local/requirements.txt").read_text().splitlines())

    assert packages["where"] == ["cli", "layers/pollwire"]
    assert project["scripts"]["pollwire"] == "pollwire_cli.app:app"
    assert set(project["dependencies"]) <= pinned
    for one in project["dependencies"]:
        name, _, version = one.partition("==")
        assert importlib.metadata.version(name) == version


def test_a_reason_is_one_line(operator, monkeypatch):
    def failing(session):
        raise Misconfigured("first\n\tsecond\x1b[1m")

    monkeypatch.setattr(Session, "state", property(failing))

    assert operator.refused("connections", "list") == "pollwire: first second\\x1b[1m"
