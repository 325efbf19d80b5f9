"""The command on moto: the template's table and key, made anew for each test."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import boto3
import pytest
from moto import mock_aws
from pollwire.items import Newcomer
from pollwire.model import Connection
from pollwire.registry import Registry
from pollwire.secrets import Sealer
from pollwire.wiring import clock
from pollwire_cli import connections, deadletters, secret, tail
from pollwire_cli.app import app
from typer.testing import CliRunner

from tests import stack
from tests.canaries import holds_canary

#: Whatever is printed, no part of this is in it.
CANARY = "canary-password"
CREDENTIAL = {"username": "4255550100", "password": CANARY}

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_SESSION_TOKEN": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    "COLUMNS": "120",
}
CLEARED = (
    "AWS_ENDPOINT_URL",
    "AWS_PROFILE",
    "POLLWIRE_STACK",
    "POLLWIRE_CONNECTION",
    "FORCE_COLOR",
)


@dataclass
class Answer:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass
class Operator:
    """
    Somebody at a shell.

    Attributes:
        state: The table, as the product has it.

        answers: All that was printed so far.
    """

    state: Registry
    sealer: Sealer
    clients: Any
    answers: list[Answer]

    def run(self, *words: str, stdin: str | bytes = "") -> Answer:
        result = CliRunner().invoke(app, list(words), input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result
        answer = Answer(result.exit_code, result.stdout, result.stderr)
        self.answers.append(answer)
        assert not holds_canary(answer.out + answer.err)
        assert "Traceback" not in answer.err
        return answer

    def done(self, *words: str, stdin: str | bytes = "") -> Answer:
        answer = self.run(*words, stdin=stdin)
        assert answer.code == 0, answer
        return answer

    def refused(self, *words: str, stdin: str | bytes = "", code: int = 1) -> str:
        """Run what cannot be done, or with 2 what is no word; return the one line that says why."""
        answer = self.run(*words, stdin=stdin)
        assert answer.code == code, answer
        assert answer.out == ""
        (line,) = answer.err.splitlines()
        assert line.startswith("pollwire: ")
        return line

    def misused(self, *words: str, stdin: str | bytes = "") -> str:
        """Run what no command understands; return what it says."""
        answer = self.run(*words, stdin=stdin)
        assert answer.code == 2, answer
        assert answer.out == ""
        return answer.err

    def connect(self, name: str = "shop", provider: str = "youmail", **fields: Any) -> Connection:
        self.state.put_connection(Connection(name, provider, **fields))
        return self.connection(name)

    def connection(self, name: str = "shop") -> Connection:
        found = self.state.connection(name)
        assert found
        return found

    def register(self, *accounts: str, connection: str = "shop") -> None:
        over = self.connection(connection)
        assert not self.state.add_accounts(over, [Newcomer(one) for one in accounts])

    def accounts(self, connection: str = "shop") -> dict[str, Any]:
        return {
            one.account: one.standing for one in self.state.accounts(self.connection(connection))
        }

    def opened(self, account: str, connection: str = "shop") -> Any:
        """Open an account's credential, or its connection's if it is no account."""
        holder = self.accounts(connection)[account] if account else self.connection(connection)
        return holder.credential and self.sealer.open(holder.credential, connection, account)


@pytest.fixture(scope="session")
def clients():
    session = boto3.Session(region_name="us-east-1")
    return cache(lambda service: session.client(service))


@pytest.fixture
def operator(monkeypatch, clients):
    """A deployed stack with nothing in it, and somebody without a terminal."""
    for name in CLEARED:
        monkeypatch.delenv(name, raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for module, name in ((deadletters, "LOOK_S"), (tail, "WAIT_S")):
        monkeypatch.setattr(module, name, 0)  # moto really waits.
    with mock_aws():
        made = stack.create(clients)
        monkeypatch.setenv("POLLWIRE_TABLE_NAME", made["TABLE_NAME"])
        monkeypatch.setenv("POLLWIRE_KEY_ARN", made["KEY_ARN"])
        state = Registry(clients("dynamodb"), made["TABLE_NAME"])
        yield Operator(state, Sealer(clients("kms"), made["KEY_ARN"], clock), clients, [])


@pytest.fixture
def terminal(monkeypatch):
    """Somebody can be asked."""
    monkeypatch.setattr(secret, "interactive", lambda: True)
    monkeypatch.setattr(connections, "interactive", lambda: True)


@pytest.fixture
def credential_file(tmp_path):
    path = tmp_path / "credential.json"
    path.write_text(json.dumps(CREDENTIAL))
    return str(path)
