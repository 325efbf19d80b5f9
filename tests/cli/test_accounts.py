"""What ``pollwire accounts`` promises of one account."""

from __future__ import annotations

import json

import pytest
from pollwire.marks import Step
from pollwire.model import DeltaJob
from pollwire.state import shard_of

from tests.cli.conftest import CANARY, CREDENTIAL

OVER = ("--connection", "shop")


@pytest.fixture
def shop(operator):
    """A connection with shards, which accounts have to be found in."""
    operator.connect(shards=4)
    return operator


def test_an_account_is_added_with_its_credential_sealed(shop, credential_file):
    words = ["accounts", "add", "7", *OVER, "--setting", "phone=425", "--credential"]

    answer = shop.done(*words, credential_file, "--json")

    assert answer.json == {"connection": "shop", "account": "7", "done": "added"}
    assert shop.accounts()["7"].settings == {"phone": "425"}
    assert shop.opened("7") == CREDENTIAL


def test_a_credential_is_asked_for(shop, terminal):
    answer = shop.done("accounts", "add", "7", *OVER, stdin=f"4255550100\n{CANARY}\n")

    assert "username" in answer.err
    assert "4255550100" not in answer.err
    assert shop.opened("7") == CREDENTIAL


def test_an_account_may_have_no_credential(shop):
    shop.done("accounts", "add", "7", *OVER, "--no-credential")

    assert shop.opened("7") is None


def test_one_that_shares_its_connections_credential_is_asked_for_none(operator, terminal):
    sealed = operator.sealer.seal({"api_key": CANARY}, "office", "")
    operator.connect("office", "kirimdev", credential=sealed)

    operator.done("accounts", "add", "7", "--connection", "office")

    assert operator.opened("7", "office") is None


def test_the_connection_may_stand_in_the_environment(shop, monkeypatch):
    monkeypatch.setenv("POLLWIRE_CONNECTION", "shop")

    shop.done("accounts", "add", "7", "--no-credential")

    assert "7" in shop.accounts()


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        pytest.param(2, ["a b", "--no-credential"], "account: 1 to 200 letters", id="id"),
        pytest.param(2, ["", "--no-credential"], "account: 1 to 200 letters", id="empty id"),
        pytest.param(1, ["7"], "give --credential FILE", id="nobody to ask"),
        pytest.param(
            2,
            ["7", "--setting", "backfill=yes"],
            'account.settings.backfill: "true" or "false"',
            id="backfill",
        ),
        pytest.param(1, ["7", "--credential", "-"], "credential: one JSON object", id="no JSON"),
    ],
)
def test_what_cannot_be_added_is_named(shop, code, words, said):
    assert said in shop.refused("accounts", "add", *words, *OVER, stdin=CANARY, code=code)

    assert shop.accounts() == {}


def test_an_account_is_not_added_twice(shop):
    shop.register("7")

    said = shop.refused("accounts", "add", "7", *OVER, "--credential", "-", stdin="{}")

    assert "registered already" in said
    assert shop.opened("7") is None


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["add", "7"], id="no connection"),
        pytest.param(["add", *OVER], id="no account"),
        pytest.param(["add", "7", *OVER, "--setting", "=x"], id="no pair"),
        pytest.param(
            ["add", "7", *OVER, "--credential", "-", "--no-credential"], id="two credentials"
        ),
        pytest.param(["add", "7", *OVER, "--password", "x"], id="a secret as an argument"),
        pytest.param(["import", *OVER], id="no file"),
        pytest.param(["list"], id="list of no connection"),
        pytest.param(["show", *OVER], id="show nothing"),
        pytest.param(["pause", *OVER], id="pause nothing"),
        pytest.param(["resume", *OVER], id="resume nothing"),
        pytest.param(["remove", *OVER], id="remove nothing"),
        pytest.param(["credential", *OVER], id="credential of nothing"),
        pytest.param(["rename", "7", *OVER], id="no such command"),
    ],
)
def test_wrong_words_are_wrong_usage(shop, words):
    shop.misused("accounts", *words)


@pytest.mark.parametrize("word", ["show", "pause", "resume", "remove", "credential"])
def test_an_account_that_is_not_there_is_named(shop, word):
    words = ["--yes"] if word == "remove" else []

    said = shop.refused("accounts", word, "7", *OVER, *words)
    odd = shop.refused("accounts", word, "7 8", *OVER, *words, code=2)
    nowhere = shop.refused("accounts", word, "7", "--connection", "mill", *words)

    assert "account shop/7: there is none" in said
    assert "account: 1 to 200 letters" in odd
    assert "connection mill: there is none" in nowhere


def test_accounts_of_all_shards_are_listed(shop):
    accounts = [str(number) for number in range(20)]
    shop.register(*accounts)
    shop.state.set_paused(shop.connection(), "3", True)
    shop.state.note_failure("shop", shard_of("5", 4), "5", 1, "Rejected: \x1b[1mno")
    broken = {"pk": {"S": "shard#shop#1"}, "sk": {"S": "x"}, "settings": {"S": "{"}}
    shop.clients("dynamodb").put_item(TableName=shop.state._table, Item=broken)

    found = {one["account"]: one for one in shop.done("accounts", "list", *OVER, "--json").lines}
    failing = shop.done("accounts", "list", *OVER, "--json", "--failing").lines
    paused = shop.done("accounts", "list", *OVER, "--json", "--paused").lines
    table = shop.done("accounts", "list", *OVER).out.splitlines()

    assert found.keys() == {*accounts, "x"}
    assert {one["shard"] for one in found.values()} == {0, 1, 2, 3}
    assert found["x"] == {"connection": "shop", "account": "x", "shard": 1, "broken": True}
    assert {one["account"] for one in failing} == {"5", "x"}
    assert [one["account"] for one in paused] == ["3"]
    assert len(table) == 22
    assert [line.endswith(r"Rejected: \x1b[1mno") for line in table].count(True) == 1


def test_an_account_is_failing_if_one_of_its_streams_is(shop):
    shop.register("7", "8")
    for account in ("7", "8"):
        shard = shard_of(account, 4)
        shop.state.note_step("shop", shard, account, Step(None, ("contact@5@a", "entry@5@a")))
    job = DeltaJob("shop", shard_of("7", 4), "7", "entry", ("entry@5@a",), 5)
    shop.state.note_trouble(job, "Forbidden: 403", 5, 6)

    (found,) = shop.done("accounts", "list", *OVER, "--json", "--failing").lines

    assert (found["account"], found["failures"]) == ("7", 0)
    assert found["trouble"] == "entry: Forbidden: 403"


def test_an_account_is_shown(shop):
    over, shard = shop.connection(), shard_of("7", 4)
    sealed = shop.sealer.seal(CREDENTIAL, "shop", "7")
    shop.state.add_account(over, "7", settings={"phone": "425"}, credential=sealed)
    shop.state.note_step("shop", shard, "7", Step(seen=None, pending=("entry@5@a,b",)))
    shop.state.note_failure("shop", shard, "7", 4_000_000_000_000, "Rejected: credential")
    for until_ms in (1_800_000_000_000, 1_700_000_000_000):
        shop.state.watch(shop.connection(), "7", "wamid", until_ms)

    answer = shop.done("accounts", "show", "7", *OVER, "--json")
    shown = shop.done("accounts", "show", "7", *OVER).out

    assert answer.json == {
        "connection": "shop",
        "account": "7",
        "shard": shard,
        "settings": {"phone": "425"},
        "paused": False,
        "failures": 1,
        "trouble": "Rejected: credential",
        "not_before": "2096-10-02T07:06:40.000Z",
        "pending": ["entry@5@a,b"],
        "watched": [{"id": "wamid", "until": "2027-01-15T08:00:00.000Z"}],
        "credential": "its own",
    }
    for word in ("phone=425", "Rejected: credential", "until 2096", "its own"):
        assert word in shown
    assert "pending     entry\n" in shown  # How long, and for what, is for "streams show" to say.


def test_an_account_that_cannot_be_read_is_named(shop):
    item = {"pk": {"S": "shard#shop#0"}, "sk": {"S": "7"}, "settings": {"S": "{"}}
    shop.clients("dynamodb").put_item(TableName=shop.state._table, Item=item)

    assert "cannot be read" in shop.refused("accounts", "show", "7", *OVER)


def test_an_account_is_paused_wherever_it_lies(shop):
    """In the shard of an earlier number of shards, until a check moves it."""
    shop.register("1", "2", "3")
    shop.state.grow("shop", 16)

    for account in "123":
        shop.done("accounts", "pause", account, *OVER)
    paused = [one.paused for one in shop.accounts().values()]
    answers = [shop.done("accounts", "resume", one, *OVER, "--json").json for one in "123"]

    assert paused == [True] * 3
    assert [one["done"] for one in answers] == ["resumed"] * 3
    assert not any(one.paused for one in shop.accounts().values())
    assert len(shop.accounts()) == 3


def test_a_credential_is_replaced_wherever_the_account_lies(shop):
    old = shop.sealer.seal({"username": "a", "password": "b"}, "shop", "7")
    shop.state.add_account(shop.connection(), "7", credential=old, settings={"phone": "425"})
    shop.state.grow("shop", 16)
    words = ["accounts", "credential", "7", *OVER, "--credential", "-"]

    answer = shop.done(*words, stdin=json.dumps(CREDENTIAL))
    told = shop.done(*words, "--json", stdin=json.dumps(CREDENTIAL)).json

    assert answer.out.endswith("every worker uses it in 5 minutes at the latest\n")
    assert told["taken_up_within_s"] == 300
    assert shop.opened("7") == CREDENTIAL
    assert shop.accounts()["7"].settings == {"phone": "425"}


def test_an_account_that_is_left_alone_waits_for_its_new_credential(shop, credential_file):
    shop.register("7")
    shop.state.note_failure("shop", shard_of("7", 4), "7", 4_000_000_000_000, "Rejected: no")
    words = ["accounts", "credential", "7", *OVER, "--credential", credential_file]

    assert "left alone until 2096-10-02T07:06:40.000Z" in shop.done(*words).out
    assert shop.done(*words, "--json").json["not_before"] == "2096-10-02T07:06:40.000Z"


def test_a_credential_to_replace_is_asked_for(shop, terminal):
    shop.register("7")

    shop.done("accounts", "credential", "7", *OVER, stdin=f"4255550100\n{CANARY}\n")

    assert shop.opened("7") == CREDENTIAL


def test_a_bad_credential_leaves_the_one_there_is(shop):
    sealed = shop.sealer.seal(CREDENTIAL, "shop", "7")
    shop.state.add_account(shop.connection(), "7", credential=sealed)
    written = json.dumps({"password": CANARY})

    said = shop.refused("accounts", "credential", "7", *OVER, "--credential", "-", stdin=written)

    assert "credential.username is missing" in said
    assert shop.accounts()["7"].credential == sealed


def test_an_account_is_removed(shop):
    shop.register("1", "2")

    answer = shop.done("accounts", "remove", "1", *OVER, "--yes", "--json")

    assert answer.json["done"] == "removed"
    assert shop.accounts().keys() == {"2"}
    assert shop.connection().accounts == 1


def test_nothing_is_removed_unasked(shop, monkeypatch):
    shop.register("1")

    assert "--yes" in shop.refused("accounts", "remove", "1", *OVER)

    assert shop.accounts().keys() == {"1"}


@pytest.mark.parametrize(("word", "left"), [("y", 0), ("n", 1)])
def test_a_removal_is_asked_about(shop, terminal, word, left):
    shop.register("1")

    answer = shop.run("accounts", "remove", "1", *OVER, stdin=f"{word}\n")

    assert answer.code == left
    assert len(shop.accounts()) == left
