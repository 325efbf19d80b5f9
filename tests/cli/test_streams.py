"""What ``pollwire streams show`` shows, and that it shows no secret."""

from __future__ import annotations

import pytest
from pollwire import marks
from pollwire.events import iso
from pollwire.items import Drain, StreamState, key
from pollwire.marks import Step
from pollwire.model import DeltaJob, Event, Record, Seen
from pollwire.wiring import clock
from pollwire_cli.streams import COUNTED_MAX, REASONS_MAX

JOB = DeltaJob("shop", 0, "7", "entry", (), 1_700_000_000_000)
LONG = "token-that-opens-a-list-for-whoever-has-it"
MARKS = "11,22,33,44,55,66,77,88"

#: Accounts, and what they are polled over.
SEVEN = ("7", "--connection", "shop")
INBOX = ("106540352242901", "--connection", "inbox")


@pytest.fixture
def shop(operator):
    operator.connect()
    operator.register("7")
    return operator


def shown(operator, *words, stream="entry"):
    found = operator.done("streams", "show", *SEVEN, *words, "--json").lines
    return next(one for one in found if one["stream"] == stream)


def commit(operator, state=None, records=(), bad_rows=None, job=JOB):
    before = operator.state.stream(job)
    operator.state.commit(job, before, state or before, records, bad_rows or {})


def test_all_streams_are_shown(shop):
    found = shop.done("streams", "show", *SEVEN, "--json").lines

    assert [one["stream"] for one in found] == [
        *("history", "entry", "contact", "entitlement"),
        *("greeting", "account", "settings", "ecommerce"),
    ]
    assert {one["why"] for one in found} == {"it was never read: no check has reported it yet"}


def test_how_far_a_stream_has_come_is_shown(shop):
    now_ms = clock()
    state = StreamState(
        reached_ms=now_ms - 3000,
        previous_ms=now_ms - 4000,
        drained_ms=now_ms - 2000,
        reconciled_ms=now_ms - 5000,
        seq=7,
        told_ms=now_ms - 2500,
        outbox=(Event("u", "{}", {}, "g", "e"),),
    )
    commit(shop, state, [Record("m1", rev=1), Record("m2", gone=True)], {"x": "id: is missing"})
    shop.state.note_step("shop", 0, "7", Step(Seen(MARKS), (marks.element("entry", "22", 5),)))

    found = shown(shop, "entry")

    assert found["cursor"] == {
        "reached": iso(now_ms - 3000),
        "previous": iso(now_ms - 4000),
        "place": None,
    }
    assert found["mark"] == "22"
    assert (found["sequence"], found["records"], found["outbox"]) == (7, 2, 1)
    assert found["last_change"] == iso(now_ms - 2500)
    assert found["last_drain"] == iso(now_ms - 2000)
    assert found["last_listing"] == iso(now_ms - 5000)
    assert (found["bad_rows"], found["bad_row_reasons"]) == (1, ["id: is missing"])
    assert found["lag_s"] >= (now_ms - 5) // 1000
    assert found["why"].startswith("decided and not published yet: 1;")


def test_what_is_pending_is_shown_with_its_age(shop):
    now_ms = clock()
    pending = (
        marks.element("entry", "22", now_ms - 20_000),
        marks.element("entry", marks.FULL, now_ms - 10_000),
        marks.element("entry", marks.replay(1_700_000_000_000), now_ms),
        marks.element("contact", "33", now_ms - 99_000),
    )
    shop.state.note_step("shop", 0, "7", Step(Seen(MARKS), pending))

    found = shown(shop)

    assert sorted(one["asks"] for one in found["pending"]) == [
        "list everything",
        "look at what changed",
        "tell again what was told since 2023-11-14T22:13:20.000Z",
    ]
    assert 20 <= found["lag_s"] < 80


def test_a_list_that_is_being_read_is_shown(shop):
    now_ms = clock()
    drain = Drain("live", now_ms - 9000, "", LONG, 0, now_ms, pages=3, full=True, repeated=4)
    commit(shop, StreamState(drained_ms=now_ms, drain=drain))

    found = shown(shop)

    assert found["drain"] == {
        "mode": "live",
        "began": iso(now_ms),
        "since": iso(now_ms - 9000),
        "full": True,
        "pages": 3,
        "resume": "token-that-opens...",
        "repeated": 4,
    }


@pytest.mark.parametrize("words", [["--json"], ["entry"], ["entry", "--json"], []])
def test_no_token_is_shown_whole(shop, words):
    drain = Drain("live", None, LONG, LONG, 0, 5)
    commit(shop, StreamState(drained_ms=5, place=LONG, drain=drain))
    shop.state.note_step("shop", 0, "7", Step(Seen(f"1{LONG}"), (f"entry@5@{LONG}",)))

    answer = shop.done("streams", "show", *SEVEN, *words)

    assert LONG not in answer.out


def test_a_mark_of_each_provider_is_read(operator):
    operator.connect("inbox", "kirimdev")
    operator.register("106540352242901", connection="inbox")
    raw = '{"conversations":"abc","messages":{}}'
    operator.state.note_step("inbox", 0, "106540352242901", Step(Seen(raw), ()))

    words = ["streams", "show", *INBOX, "--json"]
    found = {one["stream"]: one["mark"] for one in operator.done(*words).lines}

    assert found == {"conversations": "abc", "message-status": None}


def test_trouble_is_shown(shop):
    shop.state.note_trouble(JOB, "Malformed: sim: entries: a list is expected", 1000, clock() * 2)

    found = shown(shop)

    assert found["trouble"] == "Malformed: sim: entries: a list is expected"
    assert found["trouble_at"] == "1970-01-01T00:00:01.000Z"
    assert found["failures"] == 1
    assert found["why"].startswith("the provider's answer cannot be read")


def test_one_stream_is_a_field_a_line(shop):
    commit(shop, StreamState(drained_ms=clock()), [Record("m1")], {"x": "id: is missing"})

    said = shop.done("streams", "show", *SEVEN, "entry").out

    assert "records          1\n" in said
    assert "id: is missing" in said


def test_many_streams_are_a_line_each(shop):
    lines = shop.done("streams", "show", *SEVEN).out.splitlines()

    assert len(lines) == 9
    assert lines[0].split() == ["stream", "lag", "last", "change", "last", "drain", *(
        "records", "outbox", "why"
    )]  # fmt: skip


@pytest.mark.parametrize(
    "attributes",
    [
        {"drained_at": {"S": "now"}},
        {"outbox": {"B": b"no events"}},
        {"version": {"N": "1.5"}},
        {"outbox": {"S": "x"}},
    ],
    ids=str,
)
def test_a_stream_that_cannot_be_read_is_shown(shop, attributes):
    put(shop, "stream#shop#7#entry", "cursor", attributes)

    assert shown(shop)["broken"]
    assert "cannot be read" in shop.done("streams", "show", *SEVEN).out
    assert "cannot be read" in shop.done("streams", "show", *SEVEN, "entry").out


def test_an_account_that_cannot_be_read_is_shown(shop):
    put(shop, "shard#shop#0", "7", {"settings": {"S": "{"}})

    assert shown(shop)["why"].startswith("the account's item cannot be read")


def put(operator, pk, sk, attributes):
    operator.clients("dynamodb").put_item(
        TableName=operator.state._table, Item={**key(pk, sk), **attributes}
    )


def test_what_is_counted_has_an_end(shop, monkeypatch):
    monkeypatch.setattr("pollwire.registry.COUNTED_MAX", 3)
    reasons = {f"k{number}": f"reason {number:02}" for number in range(REASONS_MAX + 5)}
    for number in range(5):
        commit(shop, StreamState(drained_ms=5), [Record(f"m{number}")])
    commit(shop, bad_rows=reasons)

    found = shown(shop)

    assert (found["records"], found["bad_rows"]) == (3, 3)
    assert found["counted_at_most"] == COUNTED_MAX


def test_a_terminal_is_not_steered(shop):
    shop.state.note_trouble(JOB, "Malformed: \x1b[2J\nnext", 1000, 2000)
    commit(shop, bad_rows={"x": "\x1b[31mred"})

    for words in ([], ["entry"]):
        assert "\x1b" not in shop.done("streams", "show", *SEVEN, *words).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(
            ["7", "--connection", "nowhere"], "connection nowhere: there is none", id="connection"
        ),
        pytest.param(["8", "--connection", "shop"], "account shop/8: there is none", id="account"),
    ],
)
def test_what_is_not_there_is_named(shop, words, said):
    assert said in shop.refused("streams", "show", *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(
            ["7", "--connection", "a b"], "connection: 1 to 64 letters", id="odd connection"
        ),
        pytest.param(
            ["a#b", "--connection", "shop"], "account: 1 to 200 letters", id="odd account"
        ),
        pytest.param([*SEVEN, "fax"], "stream: youmail has history, entry", id="stream"),
        pytest.param([*SEVEN, "\x1b"], "stream: youmail has", id="odd stream"),
    ],
)
def test_a_word_that_is_wrong_is_named(shop, words, said):
    assert said in shop.refused("streams", "show", *words, code=2)


@pytest.mark.parametrize("words", [[], ["--connection", "shop"], [*SEVEN, "entry", "contact"]])
def test_wrong_words_are_wrong_usage(shop, words):
    shop.misused("streams", "show", *words)
