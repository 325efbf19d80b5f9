"""What ``pollwire connections`` promises."""

from __future__ import annotations

import json

import pytest
from pollwire.items import Newcomer, connection_item
from pollwire.model import Connection
from pollwire.registry import FOREVER_MS

from tests.cli.conftest import CANARY, CREDENTIAL


def test_a_connection_is_added_as_it_was_described(operator):
    words = ["--interval", "30", "--slowest", "600", "--requests-per-second", "7.5"]
    words += ["--host", "api=https://api.example.com", "--setting", "fields=a,b=c"]

    operator.done("connections", "add", "shop", "--provider", "youmail", *words)

    assert operator.connection() == Connection(
        "shop",
        "youmail",
        hosts={"api": "https://api.example.com"},
        interval_s=30,
        slowest_s=600,
        requests_per_second=7.5,
        settings={"fields": "a,b=c"},
    )


def test_what_is_not_said_is_as_the_model_has_it(operator):
    answer = operator.done("connections", "add", "shop", "--provider", "intelli", "--json")

    assert answer.json == {"connection": "shop", "done": "added"}
    assert operator.connection() == Connection("shop", "intelli")


def test_a_credential_for_all_is_sealed_for_the_connection(operator):
    words = ["connections", "add", "shop", "--provider", "youmail", "--credential", "-"]

    operator.done(*words, stdin=json.dumps(CREDENTIAL))

    assert operator.opened("") == CREDENTIAL


def test_a_credential_for_all_can_be_asked_for(operator, terminal):
    words = ["connections", "add", "office", "--provider", "kirimdev", "--ask-credential"]

    answer = operator.done(*words, "--json", stdin=f"{CANARY}\n")

    assert answer.json["done"] == "added"
    assert operator.opened("", "office") == {"api_key": CANARY}


def test_an_update_changes_what_is_given(operator):
    sealed = operator.sealer.seal(CREDENTIAL, "shop", "")
    operator.connect(interval_s=30, settings={"fields": "a"}, credential=sealed)
    operator.register("1", "2")
    operator.state.pause_connection("shop", 123)
    before = operator.connection()

    operator.done("connections", "add", "shop", "--update", "--slowest", "300")

    after = operator.connection()
    assert after.slowest_s == 300
    assert (after.interval_s, after.settings, after.credential) == (30, {"fields": "a"}, sealed)
    assert (after.accounts, after.shards, after.paused_until_ms) == (2, before.shards, 123)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["--provider", "acme"], "provider acme: there is none", id="provider"),
        pytest.param(["--provider", "youmail", "--interval", "0"], "interval_s", id="interval"),
        pytest.param(
            ["--provider", "youmail", "--interval", "60", "--slowest", "59"],
            "connection.slowest_s",
            id="slowest",
        ),
        pytest.param(
            ["--provider", "youmail", "--requests-per-second", "nan"],
            "requests_per_second",
            id="rate",
        ),
        pytest.param(
            ["--provider", "youmail", "--setting", "backfill=True"],
            'connection.settings.backfill: "true" or "false"',
            id="backfill",
        ),
        pytest.param(
            ["--provider", "youmail", "--host", "web=https://a.example"],
            "connection.hosts.web: youmail has poll, api",
            id="role",
        ),
        pytest.param(
            ["--provider", "youmail", "--host", "api=https://user:pw@a.example"],
            "connection.hosts.api: https://host",
            id="host",
        ),
    ],
)
def test_a_word_that_is_wrong_is_named(operator, words, said):
    assert said in operator.refused("connections", "add", "shop", *words, code=2)

    assert operator.state.connections() == ([], [])


@pytest.mark.parametrize(
    ("update", "said"),
    [
        pytest.param(["--interval", "0"], "connection.interval_s", id="interval"),
        pytest.param(["--setting", "backfill=1"], "connection.settings.backfill", id="backfill"),
        pytest.param(["--host", "web=https://a.example"], "connection.hosts.web", id="role"),
    ],
)
def test_a_word_that_is_wrong_of_a_change_is_named(operator, update, said):
    before = operator.connect()

    assert said in operator.refused("connections", "add", "shop", "--update", *update, code=2)

    assert operator.connection() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(
            ["--provider", "youmail", "--credential", "/nowhere/file"],
            "/nowhere/file: No such file",
            id="no such file",
        ),
        pytest.param(
            ["--provider", "youmail", "--ask-credential"], "no terminal", id="nobody to ask"
        ),
        pytest.param(["--update"], "connection shop: there is none", id="nothing to update"),
    ],
)
def test_what_cannot_be_added_is_named(operator, words, said):
    assert said in operator.refused("connections", "add", "shop", *words)

    assert operator.state.connections() == ([], [])


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(CANARY, id="no JSON"),
        pytest.param(json.dumps([CANARY]), id="no object"),
        pytest.param(json.dumps({"username": CANARY}), id="a field is missing"),
        pytest.param(json.dumps({**CREDENTIAL, "username": ""}), id="a field is empty"),
        pytest.param(json.dumps({**CREDENTIAL, "username": [CANARY]}), id="a field is no text"),
        pytest.param(json.dumps({**CREDENTIAL, CANARY: ""}), id="a field too many"),
        pytest.param(json.dumps({**CREDENTIAL, "username": CANARY * 400}), id="too long"),
        pytest.param("[" * 100_000, id="too deep"),
        pytest.param(b"\xff" + CANARY.encode(), id="no UTF-8"),
        pytest.param("", id="nothing"),
    ],
)
def test_a_credential_that_is_none_is_refused_and_never_shown(operator, written):
    words = ["connections", "add", "shop", "--provider", "youmail", "--credential", "-"]

    operator.refused(*words, stdin=written)

    assert operator.state.connection("shop") is None


def test_a_connection_is_not_added_twice(operator):
    operator.connect(interval_s=30)

    assert "--update" in operator.refused("connections", "add", "shop", "--provider", "youmail")

    assert operator.connection().interval_s == 30


def test_the_provider_of_a_connection_stays(operator):
    operator.connect()

    words = ["connections", "add", "shop", "--update", "--provider", "intelli"]

    assert "it stays youmail" in operator.refused(*words)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param([], id="no provider"),
        pytest.param(["--provider", "youmail", "--interval", "soon"], id="no number"),
        pytest.param(["--provider", "youmail", "--setting", "fields"], id="no pair"),
        pytest.param(["--provider", "youmail", "--setting", "a=1", "--setting", "a=2"], id="twice"),
        pytest.param(
            ["--provider", "youmail", "--credential", "-", "--ask-credential"], id="two sources"
        ),
        pytest.param(["--password", CANARY[:6]], id="no such option"),
    ],
)
def test_wrong_words_are_wrong_usage(operator, words):
    operator.misused("connections", "add", "shop", *words)


def test_all_connections_are_listed(operator):
    operator.connect("a", requests_per_second=1)
    operator.connect("b", "intelli", outages=3)
    operator.state.pause_connection("a", FOREVER_MS)
    operator.clients("dynamodb").put_item(
        TableName=operator.state._table, Item={"pk": {"S": "connection"}, "sk": {"S": "c"}}
    )

    answers = operator.done("connections", "list", "--json").lines
    table = operator.done("connections", "list").out

    assert [one["connection"] for one in answers] == ["a", "b", "c"]
    assert answers[2] == {"connection": "c", "broken": True}
    assert [line.split() for line in table.splitlines()][1:] == [
        ["a", "youmail", "0", "1", "paused"],
        ["b", "intelli", "0", "1", "3", "outages"],
        ["c", "?", "?", "?", "cannot", "be", "read"],
    ]


def test_a_connection_is_shown_without_its_credential(operator):
    sealed = operator.sealer.seal(CREDENTIAL, "shop", "")
    operator.connect(credential=sealed, hosts={"api": "https://a.example"}, settings={"a": "b"})
    operator.register("1")

    assert operator.done("connections", "show", "shop", "--json").json == {
        "connection": "shop",
        "provider": "youmail",
        "hosts": {"api": "https://a.example"},
        "interval_s": 60,
        "slowest_s": 900,
        "requests_per_second": 50.0,
        "accounts": 1,
        "shards": 1,
        "outages": 0,
        "paused": False,
        "paused_until": None,
        "settings": {"a": "b"},
        "has_credential": True,
        "notified": False,
    }
    shown = operator.done("connections", "show", "shop").out
    assert "api=https://a.example" in shown
    assert "yes, for all accounts" in shown


def test_what_steers_a_terminal_is_not_shown(operator):
    operator.connect(settings={"a": "\x1b[31m\x07red"})

    assert r"a=\x1b[31m\x07red" in operator.done("connections", "show", "shop").out


def test_a_connection_is_paused_until_it_is_resumed(operator):
    operator.connect()

    operator.done("connections", "pause", "shop")
    paused = operator.connection().paused_until_ms
    shown = operator.done("connections", "show", "shop").out
    answer = operator.done("connections", "resume", "shop", "--json").json

    assert paused == FOREVER_MS
    assert "until it is resumed" in shown
    assert answer == {"connection": "shop", "done": "resumed"}
    assert operator.connection().paused_until_ms == 0


def test_a_connection_is_removed_with_its_accounts(operator):
    operator.connect(shards=4)
    operator.connect("other")
    operator.register(*(str(number) for number in range(60)))
    operator.register("1", connection="other")
    operator.state.put_token("shop", "1", b"sealed")

    operator.done("connections", "remove", "shop", "--yes")

    assert operator.state.connection("shop") is None
    assert operator.state.token("shop", "1") is None
    assert operator.accounts("other").keys() == {"1"}
    operator.connect(shards=4)
    assert operator.accounts() == {}


def test_nothing_is_removed_unasked(operator):
    operator.connect()
    operator.register("1")

    assert "--yes" in operator.refused("connections", "remove", "shop")

    assert operator.accounts().keys() == {"1"}


@pytest.mark.parametrize(("word", "left"), [("y", 0), ("n", 1)])
def test_a_removal_is_asked_about(operator, terminal, word, left):
    operator.connect()
    operator.register("1")

    answer = operator.run("connections", "remove", "shop", "--json", stdin=f"{word}\n")

    assert "all of its accounts (1)?" in answer.err
    assert answer.code == left
    assert len(operator.state.connections()[0]) == left
    assert (answer.out == "") is bool(left)


@pytest.mark.parametrize("word", ["show", "pause", "resume", "remove"])
def test_a_connection_that_is_not_there_is_named(operator, word):
    words = [word, "shop", "--yes"] if word == "remove" else [word, "shop"]
    odd = [word, "a b", "--yes"] if word == "remove" else [word, "a b"]

    assert "connection shop: there is none" in operator.refused("connections", *words)
    assert "connection: 1 to 64 letters" in operator.refused("connections", *odd, code=2)
    operator.misused("connections", word)


@pytest.mark.parametrize(
    "written",
    [
        pytest.param({"shards": {"S": "two"}}, id="shards that are no number"),
        pytest.param({"settings": {"S": "[]"}}, id="settings that are a list"),
        pytest.param({"hosts": {"S": "null"}}, id="hosts that are nothing"),
        pytest.param({"hosts": {"S": "[" * 5_000}}, id="hosts that nest too deep"),
    ],
)
def test_one_that_cannot_be_read_is_named(operator, written):
    item = connection_item(operator.connect()) | written
    operator.clients("dynamodb").put_item(TableName=operator.state._table, Item=item)

    assert "cannot be read" in operator.refused("connections", "show", "shop")


def test_an_account_that_moves_while_it_is_paused_stays_paused(operator):
    """A move takes the item as it was read; what an operator wrote since must not be lost."""
    over = operator.connect(shards=2)
    operator.state.add_accounts(over, [Newcomer("1")])
    (found,) = operator.state.accounts(over)
    transact = operator.state._client.transact_write_items

    class Client:
        def __getattr__(self, name):
            return getattr(operator.clients("dynamodb"), name)

        def transact_write_items(self, **words):
            assert operator.state.set_paused(over, "1", True)
            return transact(**words)

    moving = type(operator.state)(operator.clients("dynamodb"), operator.state._table)
    moving._client = Client()

    assert not moving.move_account("shop", "1", found.shard, 1 - found.shard)
    assert operator.accounts()["1"].paused


@pytest.mark.parametrize(("option", "form"), [("--host", "ROLE=URL"), ("--setting", "NAME=VALUE")])
def test_what_is_no_pair_is_told_the_form_of_its_option(operator, option, form):
    said = operator.misused("connections", "add", "shop", "--provider", "youmail", option, "x")

    assert f"{option}: {form} is expected" in said
