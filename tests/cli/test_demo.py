"""What an operator does to the accounts of `make run` is what its page counts."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from local.board import Accounts
from local.demo import ACCOUNTS, Customer


@pytest.fixture
def customer(operator):
    names = {"StateTableName": "POLLWIRE_TABLE_NAME", "KeyArn": "POLLWIRE_KEY_ARN"}
    stack = SimpleNamespace(
        client=operator.clients,
        outputs={output: os.environ[name] for output, name in names.items()},
        simulators={name: SimpleNamespace(url="http://127.0.0.1:1") for name in ACCOUNTS},
    )
    return Customer(stack)


def test_there_is_nothing_to_count(customer):
    assert customer.accounts() == {}


def test_accounts_of_all_connections_are_counted_by_provider(customer, operator):
    operator.connect("shop", "youmail")
    operator.connect("office", "youmail")
    operator.connect("empty", "kirimdev")
    operator.register("1", "2", "3", connection="shop")
    operator.register("1", connection="office")

    assert customer.accounts() == {"youmail": Accounts(4), "kirimdev": Accounts(0)}


def test_what_an_operator_paused_is_paused(customer, operator):
    operator.connect("shop", "youmail")
    operator.connect("office", "ringcentral")
    operator.register("1", "2", connection="shop")
    operator.register("1", "2", connection="office")
    operator.done("accounts", "pause", "1", "--connection", "shop")
    operator.done("connections", "pause", "office")
    assert customer.accounts() == {"youmail": Accounts(2, 1), "ringcentral": Accounts(2, 2)}

    operator.done("accounts", "resume", "1", "--connection", "shop")
    operator.done("connections", "resume", "office")
    operator.done("accounts", "remove", "2", "--connection", "office", "--yes")
    assert customer.accounts() == {"youmail": Accounts(2), "ringcentral": Accounts(1)}


def test_what_fails_is_failing_until_it_does_not(customer, operator):
    operator.connect("shop", "youmail")
    operator.register("1", "2", "3")
    operator.state.note_failure("shop", 0, "1", 1_000, "a refused credential")
    operator.state.note_failure("shop", 0, "1", 2_000, "a refused credential")
    table = operator.state._table
    spoilt = {"pk": {"S": "shard#shop#0"}, "sk": {"S": "x"}, "failures": {"S": "many"}}
    operator.clients("dynamodb").put_item(TableName=table, Item=spoilt)
    assert customer.accounts() == {"youmail": Accounts(4, 0, 2)}

    operator.state.note_success("shop", 0, "1", 2_000)
    assert customer.accounts() == {"youmail": Accounts(4, 0, 1)}
