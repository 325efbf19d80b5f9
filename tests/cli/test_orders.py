"""What ``pollwire reconcile``, ``replay`` and ``watch`` promise."""

from __future__ import annotations

import json

import pytest
from pollwire import marks
from pollwire.events import iso
from pollwire.items import StreamState
from pollwire.marks import Step
from pollwire.model import DeltaJob, Record, Seen
from pollwire.registry import FOREVER_MS, ORDERS_MAX, WATCHED_MAX
from pollwire.state import shard_of
from pollwire.wiring import clock
from pollwire_cli import orders

from tests.cli.conftest import CANARY

HOUR_MS = 3_600_000
NUMBER, MESSAGE = "106540352242901", "msg_01J8ZK3V9Q"

#: Accounts, and what they are polled over.
SEVEN = ("7", "--connection", "shop")
INBOX = (NUMBER, "--connection", "inbox")


@pytest.fixture
def shop(operator):
    operator.connect(shards=4)
    operator.register("7")
    return operator


@pytest.fixture
def inbox(operator):
    operator.connect("inbox", "kirimdev")
    operator.register(NUMBER, connection="inbox")
    return operator


def pending(operator, account="7", connection="shop"):
    return operator.accounts(connection)[account].pending


def asked(operator, account="7", connection="shop"):
    """What is asked for: stream and mark, without the instants."""
    found = map(marks.split, pending(operator, account, connection))
    return sorted((stream, mark) for stream, _, mark in found)


def checks(operator, provider="youmail"):
    """Take the checks off their queue."""
    sqs = operator.clients("sqs")
    (url,) = sqs.list_queues(QueueNamePrefix=f"pollwire-checks-{provider}")["QueueUrls"]
    messages = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    return [json.loads(one["Body"]) for one in messages]


def record(operator, *records, stream="entry", connection="shop", account="7"):
    job = DeltaJob(connection, 0, account, stream, (), 5)
    operator.state.commit(job, operator.state.stream(job), StreamState(), records)


# reconcile


def test_all_streams_are_listed_at_once(shop):
    answer = shop.done("reconcile", *SEVEN, "--json").json

    streams = ["history", "entry", "contact", "entitlement"]
    streams += ["greeting", "account", "settings", "ecommerce"]
    assert answer == {
        "connection": "shop", "account": "7", "streams": streams,
        "done": "ordered", "at_once": True, "why": None,
    }  # fmt: skip
    assert asked(shop) == sorted((one, marks.FULL) for one in streams)
    (check,) = checks(shop)
    assert (check["account"], check["shard"]) == ("7", shard_of("7", 4))
    assert abs(check["due_ms"] - clock()) < 60_000


def test_what_no_check_reports_is_not_listed_unless_it_is_named(shop):
    seen = Seen("11,22")
    shop.state.note_step("shop", shard_of("7", 4), "7", Step(seen, ()))

    assert shop.done("reconcile", *SEVEN, "--json").json["streams"] == [
        "history",
        "entry",
    ]
    assert shop.done("reconcile", *SEVEN, "contact", "--json").json["streams"] == ["contact"]


def test_some_streams_are_listed(shop):
    said = shop.done("reconcile", *SEVEN, "contact", "greeting", "contact").out

    assert said == "contact, greeting of shop/7: to be listed from end to end now\n"
    assert asked(shop) == [("contact", marks.FULL), ("greeting", marks.FULL)]


@pytest.mark.parametrize(
    ("hinder", "said"),
    [
        (
            lambda one: one.state.set_paused(one.connection(), "7", True),
            "paused: pollwire accounts",
        ),
        (lambda one: one.state.pause_connection("shop", FOREVER_MS), "connection paused: "),
        (
            lambda one: one.state.rest("shop", shard_of("7", 4), "7", clock() + HOUR_MS),
            "rate budget used up",
        ),
        (
            lambda one: one.state.note_failure(
                "shop", shard_of("7", 4), "7", clock() + HOUR_MS, "Rejected: 401"
            ),
            "credential refused: 401",
        ),
        (
            lambda one: one.state.note_outage(one.connection(), clock() + HOUR_MS),
            "provider does not answer",
        ),
    ],
    ids=["paused", "connection paused", "budget", "refused", "outage"],
)
def test_what_cannot_be_done_now_waits_and_says_why(shop, hinder, said):
    hinder(shop)

    answer = shop.done("reconcile", *SEVEN, "contact", "--json").json
    text = shop.done("reconcile", *SEVEN, "entry").out

    assert (answer["at_once"], said in answer["why"]) == (False, True)
    assert f"when it is polled again ({answer['why']})" in text
    assert asked(shop) == [("contact", marks.FULL), ("entry", marks.FULL)]
    assert checks(shop) == []


def test_an_order_stands_though_no_check_can_be_queued(shop, monkeypatch):
    def refuse(self, *words):
        raise orders.NotPublished("SQS refused 1 of 1 messages")

    monkeypatch.setattr(orders.Queues, "send_checks", refuse)

    answer = shop.done("reconcile", *SEVEN, "contact").out

    assert "at its next regular check" in answer
    assert asked(shop) == [("contact", marks.FULL)]


def test_a_stack_without_the_queue_takes_no_order(shop, monkeypatch):
    monkeypatch.setenv("POLLWIRE_STACK", "another")

    said = shop.refused("reconcile", *SEVEN)

    assert "stack another" in said
    assert asked(shop) == []


def test_no_more_is_ordered_than_an_item_bears(shop):
    shop.state.set_paused(shop.connection(), "7", True)
    elements = [marks.element("contact", marks.FULL, number) for number in range(ORDERS_MAX)]
    shop.state.order(shop.connection(), "7", elements)

    assert "stream contact: it is to be listed 8 times" in shop.refused("reconcile", *SEVEN)
    shop.done("reconcile", *SEVEN, "entry")


# replay


@pytest.fixture
def told(shop):
    """Two events of the last hour, one of yesterday, and what was never told."""
    now_ms = clock()
    record(
        shop,
        Record("m1", 1, told="created", told_ms=now_ms - 1000, sequence=2),
        Record("m2", 2, told="updated", told_ms=now_ms - 2000, sequence=3),
        Record("m3", 1, told="created", told_ms=now_ms - 24 * HOUR_MS, sequence=1),
        Record("m4"),
    )
    return shop


def test_a_stream_is_told_again(told):
    answer = told.done("replay", *SEVEN, "entry", "--since", "2h", "--yes", "--json").json

    assert (answer["done"], answer["events"], answer["at_once"]) == ("ordered", 2, True)
    ((stream, mark),) = asked(told)
    assert (stream, iso(int(mark.removeprefix("replay:")))) == ("entry", answer["since"])
    assert len(checks(told)) == 1


@pytest.mark.parametrize(
    ("since", "events"),
    [("90m", 2), ("3d", 3), ("1w", 3), ("7200s", 2), ("2020-01-01T00:00:00Z", 3)],
)
def test_since_is_an_instant_or_how_long_ago(told, since, events):
    answer = told.done("replay", *SEVEN, "entry", "--since", since, "--yes", "--json")

    assert answer.json["events"] == events


@pytest.mark.parametrize("since", ["1s", "0h"])
def test_nothing_told_is_nothing_to_tell_again(told, since):
    words = ["replay", *SEVEN, "contact", "--since", since]

    assert "nothing was told since" in told.done(*words).out
    assert told.done(*words, "--json").json["done"] == "nothing to tell again"
    assert asked(told) == []
    assert checks(told) == []


@pytest.mark.parametrize(
    ("since", "said"),
    [
        ("2999-01-01T00:00:00Z", "in the future"),
        ("2026-11-22", "an instant with its zone"),
        ("2026-11-22T20:00:00", "an instant with its zone"),
        ("yesterday", "an instant with its zone"),
        ("-2h", "an instant with its zone"),
        ("1.5h", "an instant with its zone"),
        ("2h ago", "an instant with its zone"),
        ("9999999999d", "an instant with its zone"),
        ("", "an instant with its zone"),
        ("٣d", "an instant with its zone"),
    ],
)
def test_an_odd_since_is_wrong_usage(told, since, said):
    answer = told.misused("replay", *SEVEN, "entry", "--since", since, "--yes")

    assert said in " ".join(answer.replace("│", " ").split())
    assert asked(told) == []


def test_it_asks_before_it_floods(told, terminal):
    words = ["replay", *SEVEN, "entry", "--since", "2h"]

    no = told.run(*words, stdin="n\n")
    assert (no.code, asked(told)) == (1, [])
    assert "tell 2 events again" in no.err
    assert "nothing is told again" in no.err

    assert told.done(*words, stdin="y\n").code == 0
    assert len(asked(told)) == 1


def test_without_somebody_to_ask_it_refuses(told):
    said = told.refused("replay", *SEVEN, "entry", "--since", "2h")

    assert "give --yes" in said
    assert asked(told) == []


def test_many_are_not_counted_to_their_end(told, monkeypatch):
    monkeypatch.setattr(orders, "COUNTED_MAX", 2)

    said = told.done("replay", *SEVEN, "entry", "--since", "1w", "--yes").out

    assert "2 or more events" in said


def test_what_an_older_version_recorded_counts_as_well(shop):
    record(shop, Record("m1", 3, at_ms=clock() - 1000))

    assert shop.done("replay", *SEVEN, "entry", "--since", "2h", "--yes", "--json").json[
        "events"
    ] == 1  # fmt: skip


# watch


@pytest.fixture
def naps(monkeypatch):
    """What happens while somebody waits: called one after the other, instead of waiting."""
    happens = []
    monkeypatch.setattr(orders, "sleep", lambda seconds: happens.pop(0)())
    return happens


def test_a_message_is_watched(inbox):
    answer = inbox.done("watch", *INBOX, MESSAGE, "--hours", "2", "--json").json

    assert (answer["id"], answer["done"], answer["at_once"]) == (MESSAGE, "watched", True)
    (element,) = inbox.accounts("inbox")[NUMBER].watched
    until_ms, _, identity = element.partition("@")
    assert (identity, iso(int(until_ms))) == (MESSAGE, answer["until"])
    assert 0 <= int(until_ms) - clock() + 60_000 - 2 * HOUR_MS <= 120_000
    assert inbox.connection("inbox").watched_until_ms == int(until_ms)
    assert [one["account"] for one in checks(inbox, "kirimdev")] == [NUMBER]


def test_a_message_is_followed_until_it_is_final(inbox, naps):
    def status(rev, words, **more):
        record(
            inbox,
            Record(MESSAGE, rev, updated_at=words, told="updated", told_ms=1000 * rev, **more),
            stream="message-status", connection="inbox", account=NUMBER,
        )  # fmt: skip

    def read():
        status(2, "read 2026-11-22")
        job = DeltaJob("inbox", 0, NUMBER, "message-status", (), 0)
        inbox.state.unwatch(job, inbox.accounts("inbox")[NUMBER].watched)

    naps += [lambda: status(1, "sent 2026-11-21"), lambda: None]
    naps += [lambda: status(1, "sent 2026-11-21", back_ms=1), read]

    lines = inbox.done("watch", *INBOX, MESSAGE, "--follow", "--json").lines

    assert [(one.get("status"), one.get("revision")) for one in lines[1:-1]] == [
        ("sent", 1),
        ("read", 2),
    ]
    assert lines[-1] == {"id": MESSAGE, "done": "final"}
    assert naps == []


def test_following_ends_with_the_time(inbox, naps, monkeypatch):
    later = []
    monkeypatch.setattr(orders, "clock", lambda: clock() + sum(later))
    naps += [lambda: None, lambda: later.append(2 * HOUR_MS)]

    answer = inbox.run("watch", *INBOX, MESSAGE, "--hours", "1", "--follow")

    assert answer.code == 1
    assert answer.err == f"pollwire: {MESSAGE}: its time is over, and its status is not final\n"


def test_following_ends_with_the_account(inbox, naps):
    naps += [lambda: inbox.state.remove_account(inbox.connection("inbox"), NUMBER)]

    answer = inbox.run("watch", *INBOX, MESSAGE, "--follow")

    assert answer.code == 1
    assert f"account inbox/{NUMBER}: there is none" in answer.err


@pytest.mark.parametrize(
    "identity",
    ["", "hello", "msg_", f"msg_{'x' * 65}", "msg_1\n", "msg_1@2", "x" * 5000, "\x1b[2J"],
)
def test_an_odd_message_id_is_refused(inbox, identity):
    said = inbox.refused("watch", *INBOX, identity, code=2)

    assert "message id: kirimdev's are of the form msg_" in said
    assert inbox.accounts("inbox")[NUMBER].watched == frozenset()


def test_an_account_has_so_many_messages_watched_and_no_more(inbox):
    for number in range(WATCHED_MAX):
        inbox.state.watch(inbox.connection("inbox"), NUMBER, f"msg_{number}", 2_000_000_000_000)

    said = inbox.refused("watch", *INBOX, MESSAGE)

    assert f"account inbox/{NUMBER}: {WATCHED_MAX} ids are watched" in said
    assert len(inbox.accounts("inbox")[NUMBER].watched) == WATCHED_MAX


def test_a_provider_without_messages_to_watch_says_so(shop):
    said = shop.refused("watch", *SEVEN, MESSAGE)

    assert "connection shop: youmail has no messages to be watched" in said


# All of them


EACH = [
    pytest.param(["reconcile", "{}", "--connection", "{}"], id="reconcile"),
    pytest.param(
        ["replay", "{}", "--connection", "{}", "entry", "--since", "2h", "--yes"], id="replay"
    ),
    pytest.param(["watch", "{}", "--connection", "{}", MESSAGE], id="watch"),
]


@pytest.mark.parametrize("words", EACH)
def test_what_is_not_there_is_named(shop, words):
    def refused(connection, account, code=1):
        filled = iter((account, connection))
        filled_in = (next(filled) if word == "{}" else word for word in words)
        return shop.refused(*filled_in, code=code)

    assert "connection nowhere: there is none" in refused("nowhere", "7")
    assert "connection: 1 to 64 letters" in refused("a b", "7", code=2)
    assert "account shop/8: there is none" in refused("shop", "8")
    assert "account: 1 to 200 letters" in refused("shop", "a#b", code=2)
    assert asked(shop) == []


@pytest.mark.parametrize("word", ["reconcile", "replay"])
def test_a_stream_that_is_not_there_is_named(shop, word):
    more = ["--since", "2h", "--yes"] if word == "replay" else []

    assert "stream: youmail has history" in shop.refused(word, *SEVEN, "fax", *more, code=2)
    assert asked(shop) == []


@pytest.mark.parametrize(
    "words",
    [
        ["reconcile", "--connection", "shop"],
        ["replay", *SEVEN, "entry"],
        ["replay", *SEVEN, "--since", "2h"],
        ["watch", *SEVEN],
        ["watch", *SEVEN, MESSAGE, "--hours", "0"],
        ["watch", *SEVEN, MESSAGE, "--hours", "1000"],
        ["watch", *SEVEN, MESSAGE, "--hours", "x"],
        ["reconcile", *SEVEN, "--password", CANARY[:6]],
    ],
    ids=" ".join,
)
def test_wrong_words_are_wrong_usage(shop, words):
    shop.misused(*words)

    assert asked(shop) == []


def test_an_account_that_goes_meanwhile_is_named(shop, monkeypatch):
    monkeypatch.setattr(type(shop.state), "order", lambda *words: False)

    assert "account shop/7: there is none" in shop.refused("reconcile", *SEVEN)
