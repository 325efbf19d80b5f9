"""What ``pollwire accounts import`` promises."""

from __future__ import annotations

import json
import threading

import pytest
from botocore.exceptions import ClientError
from pollwire_cli import importing, session

from tests.cli.conftest import CANARY, CREDENTIAL

IMPORT = ("accounts", "import", "-", "--connection", "shop")
HEADER = "account,setting.phone,credential.username,credential.password\n"


@pytest.fixture
def shop(operator):
    operator.connect()
    return operator


def csv_of(accounts, header=HEADER):
    return header + "".join(f"{one},425,4255550100,{CANARY}\n" for one in accounts)


def numbers(count):
    return [str(number) for number in range(1, count + 1)]


def reasons(answer):
    return {one["line"]: one["reason"] for one in answer.json["refused"]}


def test_a_csv_file_is_imported(shop, tmp_path):
    path = tmp_path / "accounts.csv"
    path.write_text("\ufeff" + csv_of(["1", "2"]) + "3,,,\n\n", encoding="utf-8")

    answer = shop.done("accounts", "import", str(path), "--connection", "shop")

    assert answer.out == "registered: 3, registered already: 0, refused: 0\n"
    assert answer.err.splitlines() == [
        "registered without a credential: 1; connection shop has none for all, "
        "so set it: pollwire accounts credential"
    ]
    assert shop.accounts()["1"].settings == {"phone": "425"}
    assert [shop.opened(one) for one in "123"] == [CREDENTIAL, CREDENTIAL, None]
    assert shop.accounts()["3"].settings == {}


def test_json_lines_are_imported(shop):
    lines = [
        {"account": "1", "settings": {"phone": "1"}, "credential": CREDENTIAL},
        {
            "account": 2,
            "setting.phone": "2",
            "credential.username": "u",
            "credential.password": "p",
        },
        {"account": "3", "settings": {"phone": "\u2028"}},
    ]

    text = "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    answer = shop.done(*IMPORT, "--json", stdin=text)

    assert answer.json == {
        "connection": "shop",
        "registered": 3,
        "registered_already": [],
        "refused": [],
        "left": 0,
    }
    assert {one: standing.settings["phone"] for one, standing in shop.accounts().items()} == {
        "1": "1",
        "2": "2",
        "3": "\u2028",
    }
    assert shop.opened("1") == CREDENTIAL
    assert shop.opened("2") == {"username": "u", "password": "p"}


def test_whole_objects_may_stand_in_cells(shop):
    text = 'account,settings,credential\n1,"{""phone"": ""425""}","{credential}"\n'
    text = text.replace("{credential}", json.dumps(CREDENTIAL).replace('"', '""'))

    shop.done(*IMPORT, stdin=text)

    assert shop.accounts()["1"].settings == {"phone": "425"}
    assert shop.opened("1") == CREDENTIAL


@pytest.mark.parametrize("closed", ["", '5,425,"u",p\n'], ids=["never", "by another"])
def test_a_quote_that_is_not_closed_costs_its_own_line_only(shop, closed):
    text = HEADER + f'2,425,u,p\n3,425,"u,{CANARY}\n4,425,u,p\n{closed}'

    answer = shop.run(*IMPORT, "--json", stdin=text)

    assert answer.code == 1
    assert shop.accounts().keys() == {"2", "4", *(["5"] if closed else [])}
    assert reasons(answer).keys() == {3}


def test_a_name_that_is_given_twice_in_a_line_of_json_refuses_it(shop):
    text = '{"account": "1", "account": "2"}\n{"account": "3", "settings": {"phone": "1"}}\n'

    answer = shop.run(*IMPORT, "--json", stdin=text)

    assert reasons(answer) == {1: "a name is given twice"}
    assert shop.accounts().keys() == {"3"}


def test_settings_that_no_check_can_read_at_every_poll_cost_their_own_line_only(shop):
    large = {"account": "1", "settings": {"phone": "4" * 500_000}}
    text = "\n".join(json.dumps(line) for line in (large, {"account": "2"}))

    answer = shop.run(*IMPORT, "--json", stdin=text)

    assert reasons(answer) == {1: "account.settings: 4000 characters at most; shorten them"}
    assert list(shop.accounts()) == ["2"]


def test_bad_lines_are_reported_by_number_and_the_good_ones_kept(shop):
    text = HEADER + "\n".join(
        [
            f"1,425,u,{CANARY}",
            f"{CANARY} x,425,u,p",
            f"3,425,u,{CANARY},more",
            f"4,425,,{CANARY}",
            f"1,425,u,{CANARY}",
            f'"6\n{CANARY}",425,u,p',
            f'8,4"2"5,u,"{CANARY}" ',
            "9,425,u,p",
        ]
    )

    answer = shop.run(*IMPORT, "--json", stdin=text)
    told = shop.run(*IMPORT, stdin=text)

    assert answer.code == told.code == 1
    assert shop.accounts().keys() == {"1", "9"}
    assert answer.json["registered"] == 2
    found = reasons(answer)
    assert found.keys() == {3, 4, 5, 6, 7, 9}
    assert found[3].startswith("account: 1 to 200 letters")
    assert found[4] == "5 cells, and the header has 4"
    assert found[5].startswith("credential.username is missing")
    assert found[6] == "account 1 is in line 2 already"
    assert found[9].startswith("no CSV: ")
    assert told.err.splitlines() == [
        *(f"line {line}: {reason}" for line, reason in found.items()),
        "line 2: registered already",
        "line 10: registered already",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param("{", "no JSON: Expecting property name", id="no JSON"),
        pytest.param('{"account', "no JSON: Unterminated string starting at character 2", id="cut"),
        pytest.param(f'["{CANARY}"]', "one JSON object is expected", id="no object"),
        pytest.param(f'{{"password": "{CANARY}"}}', "account is missing", id="no account"),
        pytest.param('{"account": true}', "account: 1 to 200", id="no id"),
        pytest.param('{"account": "2", "name": "x"}', "unknown column name", id="unknown"),
        pytest.param('{"account": "2", "settings": []}', "settings: a JSON object", id="settings"),
        pytest.param('{"account": "2", "settings": {"a": 1}}', "settings.a: a text", id="setting"),
        pytest.param(
            '{"account": "2", "settings": {"backfill": "yes"}}',
            'account.settings.backfill: "true" or "false"',
            id="backfill",
        ),
        pytest.param(
            '{"account": "2", "settings": {"a": "1"}, "setting.a": "2"}',
            "setting.a is given twice",
            id="setting twice",
        ),
        pytest.param(
            f'{{"account": "2", "credential": "{CANARY}"}}',
            "credential: a JSON object",
            id="credential",
        ),
        pytest.param(
            f'{{"account": "2", "credential": {{"username": "{CANARY}"}}}}',
            "credential.password is missing",
            id="half a credential",
        ),
        pytest.param(
            f'{{"account": "2", "credential": {{"username": "{CANARY}", "password": 7}}}}',
            "credential.password: a text",
            id="credential no text",
        ),
        pytest.param(
            json.dumps({"account": "2", "credential": {**CREDENTIAL, "username": "x" * 5000}}),
            "more than 4096 bytes",
            id="credential too long",
        ),
        pytest.param('{"account": ' + "[" * 100_000, "cannot be read", id="too deep"),
    ],
)
def test_a_bad_line_of_json_is_named(shop, line, said):
    answer = shop.run(*IMPORT, "--json", stdin=f'{{"account": "1"}}\n{line}\n{{"account": "3"}}')

    assert answer.code == 1
    assert reasons(answer).keys() == {2}
    assert said in reasons(answer)[2]
    assert shop.accounts().keys() == {"1", "3"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "no column is named account", id="nothing"),
        pytest.param(HEADER, "the file has no accounts", id="header only"),
        pytest.param(f"7,{CANARY}\n8,x\n", "no column is named account", id="no header"),
        pytest.param(
            "account,phone,credential.pin\n1,2,3\n",
            "unknown column phone, credential.pin",
            id="unknown columns",
        ),
        pytest.param("account,account\n1,2\n", "column account is there twice", id="column twice"),
        pytest.param("account,setting.\n1,2\n", "unknown column setting.", id="no name"),
        pytest.param(b"account\n\xff\n", "is no UTF-8", id="no UTF-8"),
        pytest.param('"account\n1\n', "line 1: no CSV", id="header open"),
    ],
)
def test_a_file_that_is_none_is_refused_as_a_whole(shop, text, said):
    assert said in shop.refused(*IMPORT, stdin=text)

    assert shop.accounts() == {}


def test_a_file_that_is_not_there_is_named(shop):
    words = ["accounts", "import", "/nowhere/accounts.csv", "--connection", "shop"]

    assert "/nowhere/accounts.csv: No such file" in shop.refused(*words)


def test_there_is_room_before_the_first_account(shop, monkeypatch):
    """An account that is put into its last shard at once is moved by no check."""
    rooms = []
    make_room, add = shop.state.make_room, type(shop.state).add_accounts
    monkeypatch.setattr(importing, "BATCH", 50)
    monkeypatch.setattr("pollwire.state.SHARD_ACCOUNTS", 40)

    def noted(state, connection, newcomers):
        rooms.append(shop.connection().shards)
        return add(state, connection, newcomers)

    monkeypatch.setattr(type(shop.state), "add_accounts", noted)

    shop.done(*IMPORT, stdin="account\n" + "\n".join(numbers(150)))

    assert make_room("shop", 0) == 4
    assert rooms == [4, 4, 4]
    assert shop.connection().accounts == len(shop.accounts()) == 150


def test_secrets_are_sealed_in_several_threads(shop, monkeypatch):
    threads = set()
    seal = session.Sealer.seal
    together = threading.Barrier(4, timeout=30)

    def noted(sealer, secret, connection, account):
        threads.add(threading.get_ident())
        together.wait()
        return seal(sealer, secret, connection, account)

    monkeypatch.setattr(session.Sealer, "seal", noted)

    shop.done(*IMPORT, stdin=csv_of(numbers(8)))

    assert len(threads) >= 4
    assert shop.opened("5") == CREDENTIAL


def test_clients_are_made_by_one_thread(shop, monkeypatch):
    """boto3 makes clients in one thread at a time only; those made may be shared."""
    made = []
    client = session.Session._client

    def noted(self, service):
        made.append((service, threading.current_thread() is threading.main_thread()))
        return client(self, service)

    monkeypatch.setattr(session.Session, "_client", noted)

    shop.done(*IMPORT, stdin=csv_of(numbers(8)))

    assert sorted(made) == [("dynamodb", True), ("kms", True)]


@pytest.fixture
def broken(shop, monkeypatch):
    """DynamoDB refuses the third batch of an import, once."""
    monkeypatch.setattr(importing, "BATCH", 10)
    add, calls = type(shop.state).add_accounts, []

    def refusing(state, connection, newcomers):
        calls.append(1)
        if len(calls) == 3:
            refusal = {"Error": {"Code": "ThrottlingException", "Message": "slow\ndown"}}
            raise ClientError(refusal, "TransactWriteItems")
        return add(state, connection, newcomers)

    monkeypatch.setattr(type(shop.state), "add_accounts", refusing)
    return shop


def test_an_import_that_was_broken_off_goes_on(broken, monkeypatch):
    text = csv_of(numbers(45)) + "x y,425,u,p\n"
    sealed = []
    seal = session.Sealer.seal

    first = broken.run(*IMPORT, "--json", stdin=text)
    monkeypatch.setattr(
        session.Sealer, "seal", lambda *words: sealed.append(words[-1]) or seal(*words)
    )
    second = broken.run(*IMPORT, "--json", stdin=text)
    third = broken.run(*IMPORT, stdin=text)

    assert (first.code, first.json["registered"], first.json["left"]) == (1, 20, 25)
    assert first.err.splitlines() == [
        "broken off with 25 lines left; the same command goes on from there",
        "pollwire: AWS refused TransactWriteItems: ThrottlingException: slow down",
    ]
    assert (second.json["registered"], second.json["left"]) == (25, 0)
    assert second.json["registered_already"] == [
        {"line": number + 1, "account": str(number)} for number in range(1, 21)
    ]
    assert set(sealed) == set(numbers(45)[20:])
    assert reasons(first) == reasons(second)
    assert third.err.splitlines()[1:] == ["lines 2 to 46: registered already"]
    assert broken.connection().accounts == len(broken.accounts()) == 45


def test_running_it_again_is_no_failure(shop):
    shop.done(*IMPORT, stdin=csv_of(numbers(3)))

    answer = shop.done(*IMPORT, stdin=csv_of(numbers(3)))

    assert answer.out == "registered: 0, registered already: 3, refused: 0\n"


def test_one_that_somebody_else_registers_meanwhile_is_reported(shop, monkeypatch):
    monkeypatch.setattr(type(shop.state), "known_accounts", lambda *_: set())
    shop.register("2")

    answer = shop.done(*IMPORT, "--json", stdin=csv_of(["1", "2"]))

    assert answer.json["registered"] == 1
    assert answer.json["registered_already"] == [{"line": 3, "account": "2"}]


def test_a_key_that_does_not_seal_ends_it(shop):
    words = ["--key-arn", "arn:aws:kms:us-east-1:123456789012:key/none"]

    answer = shop.run(*IMPORT, *words, stdin=csv_of(numbers(3)))

    assert answer.code == 1
    assert "the stack's key does not seal" in answer.err.splitlines()[-1]
    assert shop.accounts() == {}


def test_progress_is_told_now_and_then(shop, monkeypatch):
    monkeypatch.setattr(importing, "PROGRESS_S", 0)
    monkeypatch.setattr(importing, "BATCH", 10)

    answer = shop.done(*IMPORT, "--json", stdin=csv_of(numbers(25)))

    assert answer.err.splitlines()[-2:] == ["20 of 25 lines", "25 of 25 lines"]
    assert answer.json["registered"] == 25
