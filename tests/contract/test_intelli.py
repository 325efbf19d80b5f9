"""Intelli Messaging's module against its simulator: one call, two lists, and whole seconds."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from email.utils import formatdate
from types import SimpleNamespace

import pytest
from pollwire import decide
from pollwire.errors import (
    Malformed,
    Misconfigured,
    RateLimited,
    Rejected,
    Restart,
    Unavailable,
    describe,
)
from pollwire.model import KNOWN_EMPTY, Account, Seen, Start
from pollwire.providers import registered
from pollwire.providers.intelli import Intelli

from local.simulators.intelli import PATH, SAMPLE_ACCOUNT, SAMPLE_PASSWORD
from local.simulators.intelli import Intelli as Simulator
from tests.contract import driver
from tests.contract.driver import Canned, Wire

HOSTS = {"api": "https://api.sim"}
USERNAME = "7654321@canary-reseller"
PASSWORD = "canary-password+&=%ü"
ACCOUNT = Account("shop", "7", HOSTS, credential={"username": USERNAME, "password": PASSWORD})
SAMPLED = replace(ACCOUNT, credential={"username": SAMPLE_ACCOUNT, "password": SAMPLE_PASSWORD})
NOW_S = 1_700_000_000
OVERLAP_S = Intelli.streams["messages"].overlap_s

#: The example of the documentation, as it stands there.
DOCUMENT = """
{
    "newestMessageTimestamp": 1366624802,
    "hasMoreMessages": false,
    "incomingMessages": [
        {
            "documentId": "51750a01e4b0d1406c9c5fdb",
            "text": " ggghhh",
            "timestamp": 1366624769,
            "from": "61555879987",
            "recipient": "61500079987",
            "originDocumentId": "517509fee4b0b1be3f128ef5"
        }
    ],
    "outgoingMessages": [
        {
            "documentId": "517509fee4b0b1be3f128ef5",
            "text": "Reply> ggghhh",
            "timestamp": 1366624766,
            "recipient": "61555879987"
        },
        {
            "documentId": "51750a22e4b0b1be3f128ef6",
            "text": "Hello mommy",
            "timestamp": 1366624802,
            "recipient": "61255588885"
        }
    ],
    "status": 0
}
"""

semantics = pytest.mark.parametrize("inclusive", [True, False], ids=["inclusive", "exclusive"])


@pytest.fixture
def clock():
    return SimpleNamespace(now_s=NOW_S)


@pytest.fixture
def simulator(clock):
    simulator = Simulator(lambda: clock.now_s)
    simulator.add_account(ACCOUNT.id, USERNAME, PASSWORD)
    return simulator


@pytest.fixture
def wire(simulator):
    return Wire(simulator, HOSTS.values())


def check(wire, seen=Seen(), account=ACCOUNT):  # noqa: B008 (it is frozen)
    return driver.run(Intelli().check(account, seen), wire)


def pages(wire, since_ms=None, resume="", account=ACCOUNT):
    return driver.pages(Intelli(), account, "messages", wire, Start(since_ms, resume=resume))


def rows(wire, since_ms=None, account=ACCOUNT):
    return [row for page in pages(wire, since_ms, account=account) for row in page.rows]


def ids(found):
    return {row.id for row in found if not row.body.get("gap")}


def gaps(found):
    return [row for row in found if row.body.get("gap")]


def canned(*answers, **headers):
    bodies = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in answers]
    return Wire(Canned(*bodies, **headers), HOSTS.values())


def answer(incoming=(), outgoing=(), more=False, **fields):
    return {
        "incomingMessages": list(incoming),
        "outgoingMessages": list(outgoing),
        "hasMoreMessages": more,
        "status": 0,
        **fields,
    }


def message(id_, at_s=NOW_S, **fields):
    return {"documentId": id_, "timestamp": at_s, "text": "Hello", **fields}


def block(count, at_s, prefix="m", step_s=0):
    return [message(f"{prefix}{n}", at_s + n * step_s) for n in range(count)]


def sinces(wire):
    return [int(request.form["since"]) for request in wire.sent]


class Rearranged:
    """A server that cuts its lists as the simulator does, and lists what is left otherwise."""

    def __init__(self, simulator, rearrange):
        self.simulator, self.rearrange = simulator, rearrange

    def handle(self, *asked):
        status, headers, body = self.simulator.handle(*asked)
        said = json.loads(body)
        for name in ("incomingMessages", "outgoingMessages"):
            self.rearrange(said[name])
        return status, headers, json.dumps(said).encode()


class Follower:
    """What the stages do with a module: check; if the mark moved, one drain that is decided."""

    def __init__(self, wire, clock, account=ACCOUNT):
        self.wire, self.clock, self.account = wire, clock, account
        self.seen, self.records = Seen(), {}
        self.reached_ms = self.previous_ms = 0
        self.deltas = self.gaps = 0
        self.changes = []

    def poll(self, mode=decide.LIVE):
        seen = check(self.wire, self.seen, self.account)
        moved = Intelli().marks(self.account, seen.raw) != Intelli().marks(
            self.account, self.seen.raw
        )
        self.seen = seen
        if moved:
            self.drain(mode)
        return moved

    def drain(self, mode=decide.LIVE):
        stream = Intelli.streams["messages"]
        start = decide.start(self.reached_ms, self.previous_ms, "", stream)
        found = pages(self.wire, start.since_ms, account=self.account)
        every = [row for page in found for row in page.rows]
        decision = decide.decide(every, self.records, stream, mode, int(self.clock.now_s * 1000))
        self.deltas += 1
        self.gaps += sum(page.gaps for page in found)
        self.changes += decision.changes
        self.records |= decision.records
        newest_ms = max(decide.newest_ms(page.rows, page.date_ms) for page in found)
        self.reached_ms, self.previous_ms = max(self.reached_ms, newest_ms), self.reached_ms

    def told(self):
        return Counter(change.row.id for change in self.changes if not change.row.body.get("gap"))


# What is asked


def test_it_is_registered():
    assert isinstance(registered()["intelli"], Intelli)


def test_the_provider_says_what_it_is():
    assert Intelli.hosts == {"api": "https://mc5.smartmessagingservices.net"}
    assert Intelli.check_needs_credential
    assert not Intelli.shares_rate
    assert Intelli.streams["messages"].path == "message-store"
    assert Intelli.streams["messages"].reconcile_s == 0


@pytest.mark.parametrize("ask", [check, pages], ids=["check", "delta"])
def test_credentials_are_in_the_form_and_never_in_the_url(simulator, wire, ask):
    ask(wire)

    (request,) = wire.sent
    assert request.url == f"https://api.sim{PATH}"
    assert (request.method, request.secret) == ("POST", True)
    assert request.form == {"username": USERNAME, "password": PASSWORD, "since": "0"}
    assert not request.query
    assert not request.headers
    assert "canary" not in repr(request)
    assert simulator.requests == {"messages": 1, "POST": 1}


@pytest.mark.parametrize("missing", ["username", "password"])
@pytest.mark.parametrize("ask", [check, pages], ids=["check", "delta"])
def test_a_missing_credential_is_our_own_mistake(wire, ask, missing):
    credential = {**ACCOUNT.credential, missing: ""}

    with pytest.raises(Misconfigured, match=rf"credential\.{missing}"):
        ask(wire, account=replace(ACCOUNT, credential=credential))

    assert wire.sent == []


@pytest.mark.parametrize(
    "username", ["canary 1@r", " canary@r", "canary@r ", "canary\t@r", "canary\n", "canary\ud800"]
)
@pytest.mark.parametrize("ask", [check, pages], ids=["check", "delta"])
def test_a_username_with_a_space_is_our_own_mistake(wire, ask, username):
    account = replace(ACCOUNT, credential={**ACCOUNT.credential, "username": username})

    with pytest.raises(Misconfigured, match=r"credential\.username.*correct") as caught:
        ask(wire, account=account)

    assert "canary" not in str(caught.value)
    assert wire.sent == []


def test_a_password_that_no_form_can_carry_is_our_own_mistake(wire):
    account = replace(ACCOUNT, credential={**ACCOUNT.credential, "password": "canary\ud800"})

    with pytest.raises(Misconfigured, match=r"credential\.password") as caught:
        pages(wire, account=account)

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("since_ms", "since"),
    [
        pytest.param(None, "0", id="everything"),
        pytest.param(0, "0", id="epoch"),
        pytest.param(999, "0", id="not below 0"),
        pytest.param(NOW_S * 1000, str(NOW_S - 1), id="its own second too"),
        pytest.param(NOW_S * 1000 + 999, str(NOW_S - 1), id="whole seconds"),
    ],
)
def test_since_is_whole_seconds(wire, since_ms, since):
    pages(wire, since_ms)

    assert wire.sent[0].form["since"] == since


# What is answered: the status comes first

STATUSES = [
    pytest.param(1, Misconfigured, "status 1: .*parameter", id="parameter missing"),
    pytest.param(2, Misconfigured, r"status 2: .*credential\.username", id="parameter invalid"),
    pytest.param(3, Rejected, "status 3: .*password", id="authentication"),
    pytest.param(4, Rejected, "status 4: .*blocked", id="blocked"),
    pytest.param(200, Rejected, "status 200: .*no such user", id="no user"),
    pytest.param(220, Rejected, "status 220: .*activate", id="not activated"),
    pytest.param(9999, Unavailable, "status 9999: .*again", id="internal error"),
    pytest.param("1", Misconfigured, "status 1", id="1 as text"),
    pytest.param("3", Rejected, "status 3", id="3 as text"),
    pytest.param("9999", Unavailable, "status 9999", id="9999 as text"),
    pytest.param(5, Malformed, "no known meaning", id="unknown"),
    pytest.param(201, Malformed, "no known meaning", id="of another endpoint"),
    pytest.param(-1, Malformed, "no known meaning", id="negative"),
    pytest.param(None, Malformed, "missing", id="null"),
    pytest.param(False, Malformed, "no known meaning", id="false"),
    pytest.param(True, Malformed, "no known meaning", id="true"),
    pytest.param(0.0, Malformed, "no known meaning", id="fraction"),
    pytest.param("", Malformed, "no known meaning", id="empty"),
    pytest.param("00", Malformed, "no known meaning", id="two zeros"),
    pytest.param("OK", Malformed, "no known meaning", id="word"),
    pytest.param([0], Malformed, "no known meaning", id="list"),
    pytest.param("canary", Malformed, "no known meaning", id="canary"),
]


@pytest.mark.parametrize(("status", "error", "words"), STATUSES)
@pytest.mark.parametrize("lists", [True, False], ids=["beside lists", "alone"])
@pytest.mark.parametrize("ask", [check, pages], ids=["check", "delta"])
def test_a_status_is_an_error_with_a_remedy(ask, lists, status, error, words):
    body = answer([message("1")], status=status) if lists else {"status": status}

    with pytest.raises(error, match=words) as caught:
        ask(canned(body))

    assert "canary" not in describe(caught.value)


@pytest.mark.parametrize("ask", [check, pages], ids=["check", "delta"])
def test_a_missing_status_is_no_success(ask):
    body = answer([message("1")])
    del body["status"]

    with pytest.raises(Malformed, match="status"):
        ask(canned(body))


def test_a_status_of_zero_as_text_is_a_success():
    assert len(rows(canned(answer([message("1")], status="0")))) == 1


@pytest.mark.parametrize("status", [1, 2, 3, 4, 200, 220, 9999])
@pytest.mark.parametrize("ask", [check, pages], ids=["check", "delta"])
def test_every_status_of_the_documentation_comes_with_http_200(simulator, wire, ask, status):
    simulator.set_status(ACCOUNT.id, status)

    with pytest.raises((Misconfigured, Rejected, Unavailable), match=f"status {status}"):
        ask(wire)

    assert len(wire.sent) == 1
    simulator.set_status(ACCOUNT.id, 0)
    ask(wire)


@pytest.mark.parametrize("ask", [check, pages], ids=["check", "delta"])
def test_a_wrong_password_is_rejected_after_one_try(wire, ask):
    account = replace(ACCOUNT, credential={"username": USERNAME, "password": "canary-wrong"})

    with pytest.raises(Rejected, match="status 3") as caught:
        ask(wire, account=account)

    assert "canary" not in describe(caught.value)
    assert len(wire.sent) == 1


def test_an_unknown_user_is_rejected(wire):
    account = replace(ACCOUNT, credential={"username": "nobody@r", "password": "x"})

    with pytest.raises(Rejected, match="status 200"):
        check(wire, account=account)


@pytest.mark.parametrize("name", ["incomingMessages", "outgoingMessages"])
@pytest.mark.parametrize("value", ["absent", None, {}, "", 0])
@pytest.mark.parametrize("ask", [check, pages], ids=["check", "delta"])
def test_an_absent_list_is_not_an_empty_one(ask, name, value):
    body = answer([message("1")], **{name: value})
    if value == "absent":
        del body[name]

    with pytest.raises(Malformed, match=name):
        ask(canned(body))


@pytest.mark.parametrize("ask", [check, pages], ids=["check", "delta"])
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("429", RateLimited),
        ("503", Unavailable),
        ("401", Rejected),
        ("403", Rejected),
        ("404", Malformed),
        ("302", Malformed),
        ("204", Malformed),
        ("html", Malformed),
        ("empty", Malformed),
        ("truncated", Malformed),
        ("error", Unavailable),
        ("no lists", Malformed),
    ],
)
def test_a_failed_answer_is_an_error_with_a_name(simulator, wire, ask, kind, error):
    simulator.receive(ACCOUNT.id)
    simulator.fail_next("/services", kind)

    with pytest.raises(error):
        ask(wire)


@pytest.mark.parametrize("more", [None, 1, 0, "yes", [], "absent"])
def test_more_is_true_or_false(more):
    body = answer([message("1")], more=more)
    if more == "absent":
        del body["hasMoreMessages"]

    with pytest.raises(Malformed, match="hasMoreMessages"):
        pages(canned(body))


@pytest.mark.parametrize(
    "body",
    [b"[]", b"null", b"0", b'{"status": 0, "status": 3}', b'{"status": NaN}', b"[" * 100_000],
    ids=["list", "null", "number", "two statuses", "not a number", "deep"],
)
@pytest.mark.parametrize("ask", [check, pages], ids=["check", "delta"])
def test_a_body_that_is_no_object_is_malformed(ask, body):
    with pytest.raises(Malformed):
        ask(canned(body))


# Rows


def test_the_document_in_our_normal_form():
    found = {row.id: row for row in rows(canned(DOCUMENT.encode()))}

    incoming = found["51750a01e4b0d1406c9c5fdb"]
    assert (incoming.type, incoming.direction) == ("SMS", "Inbound")
    assert (incoming.updated_at, incoming.at_ms) == ("1366624769", 1_366_624_769_000)
    assert incoming.body == {
        "id": "51750a01e4b0d1406c9c5fdb",
        "type": "SMS",
        "direction": "Inbound",
        "creationTime": "2013-04-22T09:59:29.000Z",
        "from": {"phoneNumber": "61555879987"},
        "to": [{"phoneNumber": "61500079987"}],
        "subject": " ggghhh",
        "originDocumentId": "517509fee4b0b1be3f128ef5",
    }
    outgoing = found["51750a22e4b0b1be3f128ef6"]
    assert (outgoing.type, outgoing.direction) == ("SMS", "Outbound")
    assert outgoing.body == {
        "id": "51750a22e4b0b1be3f128ef6",
        "type": "SMS",
        "direction": "Outbound",
        "creationTime": "2013-04-22T10:00:02.000Z",
        "to": [{"phoneNumber": "61255588885"}],
        "subject": "Hello mommy",
    }
    origin = found["517509fee4b0b1be3f128ef5"]
    assert (origin.updated_at, origin.at_ms) == ("1366624766", 1_366_624_766_000)
    assert origin.body == {
        "id": "517509fee4b0b1be3f128ef5",
        "type": "SMS",
        "direction": "Outbound",
        "creationTime": "2013-04-22T09:59:26.000Z",
        "to": [{"phoneNumber": "61555879987"}],
        "subject": "Reply> ggghhh",
    }
    assert len(found) == 3


def test_the_document_is_the_mark_of_its_newest_message():
    wire = canned(DOCUMENT.encode())
    seen = check(wire)

    assert seen.raw.startswith(f"{1_366_624_802 - OVERLAP_S}:")
    assert check(wire, seen) is seen


def test_the_simulator_answers_with_the_document(simulator):
    query = {"username": SAMPLE_ACCOUNT, "password": SAMPLE_PASSWORD, "since": "1364545939"}

    status, _, body = simulator.handle("GET", PATH, query, {}, b"")

    assert (status, json.loads(body)) == (200, json.loads(DOCUMENT))
    assert simulator.requests["GET"] == 1


def test_a_page_of_the_document_is_the_only_one_and_lists_not_everything():
    (page,) = pages(canned(DOCUMENT.encode()))

    assert (page.resume, page.whole, page.gaps, page.bad) == ("", False, 0, ())


def test_older_answers_spell_the_recipient_otherwise_and_name_none_of_what_came_in(simulator, wire):
    simulator.recpipent = True
    simulator.receive(ACCOUNT.id)
    simulator.send(ACCOUNT.id, recipient="61255588885")

    inbound, outbound = rows(wire)

    assert "to" not in inbound.body
    assert outbound.body["to"] == [{"phoneNumber": "61255588885"}]
    assert "recpipent" not in outbound.body


def test_a_row_is_the_same_however_its_recipient_and_its_time_are_spelt():
    one = message("1", NOW_S, recipient="61255588885")
    other = message("1", str(NOW_S), recpipent=61255588885)

    assert rows(canned(answer([], [one]))) == rows(canned(answer([], [other])))


def test_timestamps_and_statuses_may_be_texts(simulator, wire):
    simulator.as_text = True
    simulator.receive(ACCOUNT.id)

    (row,) = rows(wire)

    assert (row.updated_at, row.at_ms) == (str(NOW_S), NOW_S * 1000)


@pytest.mark.parametrize("phone", ["61255588885", "+61255588885", "ACME", "12345"])
def test_a_number_stays_as_it_is(phone):
    (row,) = rows(canned(answer([message("1", **{"from": phone})])))

    assert row.body["from"] == {"phoneNumber": phone}


def test_a_reply_says_what_it_answers_even_if_that_is_not_listed(simulator, wire, clock):
    origin = simulator.send(ACCOUNT.id, recipient="61255588885", at_s=NOW_S - 1000)
    reply = simulator.reply(ACCOUNT.id, origin, "Sure")

    (row,) = rows(wire, since_ms=NOW_S * 1000)

    assert (row.id, row.direction) == (reply, "Inbound")
    assert row.body["originDocumentId"] == origin
    assert row.body["from"] == {"phoneNumber": "61255588885"}


def test_an_unknown_field_passes_through():
    (row,) = rows(canned(answer([message("1", brandNew={"deep": [1, None, "ü"]})])))

    assert row.body["brandNew"] == {"deep": [1, None, "ü"]}


def test_no_secret_is_published():
    (row,) = rows(canned(answer([message("1", password="canary")])))

    assert "canary" not in json.dumps(dict(row.body))


@pytest.mark.parametrize("text", ["", "\x00\ufffe", "\ud800", "😀" * 1000])
def test_a_text_is_the_subject_whatever_it_holds(text):
    (row,) = rows(canned(answer([message("1", text=text)])))

    assert row.body["subject"] == text


def test_a_document_id_may_be_a_large_number():
    (row,) = rows(canned(answer([message(2**63 - 1)])))

    assert row.id == row.body["id"] == "9223372036854775807"


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"documentId": None}, id="no id"),
        pytest.param({"documentId": ""}, id="empty id"),
        pytest.param({"documentId": True}, id="id is true"),
        pytest.param({"documentId": "\ud800"}, id="half a character"),
        pytest.param({"timestamp": None}, id="no time"),
        pytest.param({"timestamp": "yesterday"}, id="word"),
        pytest.param({"timestamp": ""}, id="empty time"),
        pytest.param({"timestamp": "²"}, id="superscript"),
        pytest.param({"timestamp": "+5"}, id="sign"),
        pytest.param({"timestamp": -1}, id="negative"),
        pytest.param({"timestamp": 1.5}, id="fraction"),
        pytest.param({"timestamp": True}, id="true"),
        pytest.param({"timestamp": NOW_S * 1000}, id="milliseconds"),
        pytest.param({"timestamp": "9" * 5000}, id="five thousand digits"),
    ],
)
@pytest.mark.parametrize("root", ["incoming", "outgoing"])
def test_a_bad_row_does_not_stop_its_neighbours(bad, root):
    listed = [message("1"), {**message("canary"), **bad}, message("3")]
    (page,) = pages(canned(answer(**{root: listed})))

    assert [row.id for row in page.rows] == ["1", "3"]
    (bad_row,) = page.bad
    assert "canary" not in bad_row.reason


@pytest.mark.parametrize("bad", [None, 7, "row", []])
def test_a_row_that_is_no_object_does_not_stop_its_neighbours(bad):
    (page,) = pages(canned(answer([message("1"), bad])))

    assert (len(page.rows), len(page.bad)) == (1, 1)


# Pages


@semantics
@pytest.mark.parametrize("order", ["time", "inserted"])
@pytest.mark.parametrize("cut", ["lists", "union"])
@pytest.mark.parametrize("step_s", [0.05, 0.3, 1, 60])
def test_a_long_list_is_read_to_its_end(simulator, wire, inclusive, order, cut, step_s):
    simulator.configure(inclusive=inclusive, order=order, cut=cut)
    made = set()
    for n in range(450):
        at_s = NOW_S - 30_000 + int(n * step_s)
        made.add((simulator.receive if n % 3 else simulator.send)(ACCOUNT.id, at_s=at_s))

    found = pages(wire)

    assert ids(row for page in found for row in page.rows) == made
    assert [page.resume for page in found if not page.resume] == [""]
    assert not any(page.gaps or page.whole for page in found)
    assert len(found) <= 24
    assert sinces(wire) == sorted(set(sinces(wire)))


@semantics
@pytest.mark.parametrize("step_s", [0.05, 1, 60])
def test_a_long_list_newest_first_has_no_gaps(simulator, inclusive, step_s):
    simulator.inclusive = inclusive
    made = {
        simulator.receive(ACCOUNT.id, at_s=NOW_S - 30_000 + int(n * step_s)) for n in range(450)
    }
    wire = Wire(Rearranged(simulator, list.reverse), HOSTS.values())

    found = pages(wire)

    assert ids(row for page in found for row in page.rows) == made
    assert sum(page.gaps for page in found) == 0
    assert len(found) < 24


@semantics
@pytest.mark.parametrize("step_s", [0.3, 1, 60])
def test_a_long_list_in_no_order_has_one_gap_for_all_that_a_page_spans(
    simulator, inclusive, step_s
):
    """Whether older messages were cut off cannot be known."""
    simulator.inclusive = inclusive
    made = {
        simulator.receive(ACCOUNT.id, at_s=NOW_S - 30_000 + int(n * step_s)) for n in range(450)
    }
    wire = Wire(Rearranged(simulator, random.Random(1).shuffle), HOSTS.values())
    resume, found = "", []
    while resume or not found:
        # One page an invocation.
        start = Start(None, resume=resume)
        found.append(next(Intelli().delta(ACCOUNT, "messages", start, wire)))
        resume = found[-1].resume

    every = [row for page in found for row in page.rows]
    assert ids(every) == made
    assert len({row.id for row in gaps(every)}) == sum(page.gaps for page in found) <= 5


@semantics
def test_one_list_is_full_and_the_other_is_newer(simulator, wire, inclusive):
    """The newest of all would skip what is left of the full one."""
    simulator.inclusive = inclusive
    made = {simulator.receive(ACCOUNT.id, at_s=NOW_S - 9000 + 10 * n) for n in range(250)}
    made |= {simulator.send(ACCOUNT.id, at_s=NOW_S - n) for n in range(20)}

    found = pages(wire)

    assert ids(row for page in found for row in page.rows) == made
    assert not any(page.gaps for page in found)


def test_both_lists_are_full_and_the_next_page_is_safe_for_both():
    first = answer(block(100, 1000, "i", 10), block(100, 5000, "o", 10), more=True)
    wire = canned(first, answer())

    pages(wire)

    assert 1000 < sinces(wire)[1] < 1990


@semantics
@pytest.mark.parametrize("before", [60, 99, 100])
def test_a_tie_at_the_border_of_two_pages_is_found(simulator, wire, inclusive, before):
    simulator.inclusive = inclusive
    made = {simulator.receive(ACCOUNT.id, at_s=NOW_S - 2000 + n) for n in range(before)}
    made |= set(simulator.saturate(ACCOUNT.id, 80, at_s=NOW_S - 500))
    made |= {simulator.receive(ACCOUNT.id, at_s=NOW_S - 10)}

    found = pages(wire)

    assert ids(row for page in found for row in page.rows) == made
    assert not any(page.gaps for page in found)


@semantics
@pytest.mark.parametrize("cut", ["lists", "union"])
@pytest.mark.parametrize("before", [0, 1, 99, 150])
@pytest.mark.parametrize("after", [0, 1, 150])
def test_a_saturated_second_is_one_gap_and_is_left_behind(
    simulator, wire, inclusive, cut, before, after
):
    simulator.configure(inclusive=inclusive, cut=cut)
    second = NOW_S - 1000
    made = {simulator.receive(ACCOUNT.id, at_s=second - 1 - n) for n in range(before)}
    crowd = set(simulator.saturate(ACCOUNT.id, 250, at_s=second))
    made |= {simulator.receive(ACCOUNT.id, at_s=second + 1 + n) for n in range(after)}

    found = pages(wire)

    every = [row for page in found for row in page.rows]
    assert ids(every) >= made
    assert len(ids(every) & crowd) == 100
    (gap,) = gaps(every)
    assert sum(page.gaps for page in found) == 1
    assert (gap.id, gap.type, gap.direction) == (f"gap:{second}", "", "")
    assert (gap.updated_at, gap.at_ms) == (str(second), second * 1000)
    assert gap.body == {
        "id": f"gap:{second}",
        "gap": True,
        "second": second,
        "seen": 100,
        "creationTime": "2023-11-14T21:56:40.000Z",
    }
    assert len(found) < 20


@semantics
def test_two_saturated_seconds_in_a_row_are_two_gaps(simulator, wire, inclusive):
    simulator.inclusive = inclusive
    for second in (NOW_S - 11, NOW_S - 10):
        simulator.saturate(ACCOUNT.id, 150, at_s=second)
    last = simulator.send(ACCOUNT.id)

    found = rows(wire)

    assert {row.id for row in gaps(found)} == {f"gap:{NOW_S - 11}", f"gap:{NOW_S - 10}"}
    assert last in ids(found)


@semantics
def test_a_gap_is_the_same_at_every_drain(simulator, wire, clock, inclusive):
    simulator.inclusive = inclusive
    simulator.receive(ACCOUNT.id, at_s=NOW_S - 50)
    simulator.saturate(ACCOUNT.id, 150, at_s=NOW_S - 10)
    follower = Follower(wire, clock)

    for _ in range(4):
        follower.drain()

    assert [c.kind for c in follower.changes if c.row.body.get("gap")] == ["created"]
    assert max(follower.told().values()) == 1


@semantics
def test_a_saturated_second_can_be_left_behind_by_the_next_invocation(simulator, wire, inclusive):
    simulator.inclusive = inclusive
    simulator.saturate(ACCOUNT.id, 150, at_s=NOW_S - 10)
    last = simulator.receive(ACCOUNT.id)
    provider, resume, found = Intelli(), "", []
    while True:
        # One page an invocation.
        start = Start(None, resume=resume)
        page = next(provider.delta(ACCOUNT, "messages", start, wire))
        found.append(page)
        resume = page.resume
        if not resume:
            break

    assert sum(page.gaps for page in found) == 1
    assert last in ids(row for page in found for row in page.rows)


@semantics
def test_a_second_that_is_exactly_full_is_no_gap_if_there_is_no_more(simulator, wire, inclusive):
    simulator.inclusive = inclusive
    made = simulator.saturate(ACCOUNT.id, 100)

    found = rows(wire)

    assert ids(found) == set(made)
    assert gaps(found) == []


def test_more_with_nothing_listed_is_the_end(simulator, wire):
    simulator.has_more = True

    (page,) = pages(wire)

    assert (page.rows, page.resume, page.gaps) == ((), "", 0)


def test_more_that_is_always_said_ends(simulator, wire):
    simulator.has_more = True
    made = {simulator.receive(ACCOUNT.id, at_s=NOW_S - 10 * n) for n in range(150)}

    found = pages(wire)

    assert ids(row for page in found for row in page.rows) == made
    assert found[-1].resume == ""
    assert len(found) < 20


@semantics
def test_a_full_list_is_asked_once_more_though_no_more_is_said(simulator, wire, inclusive):
    simulator.configure(inclusive=inclusive, has_more=False)
    made = {simulator.receive(ACCOUNT.id, at_s=NOW_S - 10 * n) for n in range(150)}

    assert ids(rows(wire)) == made


def test_more_without_a_full_list_goes_on_from_the_rows(simulator, wire):
    simulator.limit = 10
    made = {simulator.receive(ACCOUNT.id, at_s=NOW_S - 9000 + 10 * n) for n in range(45)}
    made |= {simulator.send(ACCOUNT.id, at_s=NOW_S - n) for n in range(5)}

    assert ids(rows(wire)) == made


def test_a_server_that_ignores_since_is_found_out():
    first = answer(block(100, NOW_S - 1000, step_s=5), more=True)

    with pytest.raises(Malformed, match="older"):
        pages(canned(first))


def test_a_server_that_repeats_its_full_page_and_has_no_more_ends():
    wire = canned(answer(block(100, NOW_S - 1000, step_s=5)))

    pages(wire)

    assert len(wire.sent) < 20


@pytest.mark.parametrize("more", [True, False])
def test_a_full_list_without_one_readable_time_goes_nowhere(more):
    unreadable = [message(f"{n}", "soon") for n in range(100)]

    with pytest.raises(Malformed, match="timestamp"):
        pages(canned(answer(unreadable, [message("1")], more=more)))


def test_rows_that_cannot_be_read_fill_a_list_as_well():
    first = answer([*block(99, 1000, step_s=10), message("bad", "soon")])
    wire = canned(first, answer())

    found = pages(wire)

    assert len(wire.sent) == 2
    assert len(found[0].bad) == 1


def test_a_message_from_the_future_skips_none_that_follow():
    """Rows may come in the order in which they were written."""
    first = answer([*block(99, NOW_S - 2000, step_s=1), message("x", 4_000_000_000)], more=True)
    wire = canned(first, answer(), date=formatdate(NOW_S, usegmt=True))

    pages(wire)

    assert sinces(wire)[1] < NOW_S - 1900


@pytest.mark.parametrize("newest", [0, None, "absent", 4_000_000_000, "soon", -1])
def test_the_newest_timestamp_is_not_believed(newest):
    first = answer(block(100, 1000, step_s=10), more=True, newestMessageTimestamp=newest)
    if newest == "absent":
        del first["newestMessageTimestamp"]
    wire = canned(first, answer(newestMessageTimestamp=newest))

    pages(wire)

    assert 1000 < sinces(wire)[1] < 1990
    assert len(wire.sent) == 2


@pytest.mark.parametrize("newest", ["zero", "null", "absent", "echo"])
def test_an_empty_answer_is_an_empty_page(simulator, wire, newest):
    simulator.newest_on_empty = newest

    (page,) = pages(wire, since_ms=NOW_S * 1000)

    assert (page.rows, page.bad, page.resume) == ((), (), "")
    assert page.date_ms == NOW_S * 1000


def test_a_page_can_be_resumed(simulator, wire):
    made = {simulator.receive(ACCOUNT.id, at_s=NOW_S - 10 * n) for n in range(150)}
    first = next(Intelli().delta(ACCOUNT, "messages", Start(), wire))

    rest = pages(wire, resume=first.resume)

    assert ids(first.rows) | ids(row for page in rest for row in page.rows) == made
    assert sinces(wire)[1] == int(first.resume)


@pytest.mark.parametrize(
    "resume", ["x", "-1", "1.5", "g", "1 ", "1:2", "1g", "1gg", "1g2g", "\u0661", "1" * 13]
)
def test_a_place_that_is_none_restarts(wire, resume):
    with pytest.raises(Restart):
        pages(wire, resume=resume)

    assert wire.sent == []


def test_a_failure_on_page_two_comes_after_page_one(simulator, wire):
    for n in range(150):
        simulator.receive(ACCOUNT.id, at_s=NOW_S - 10 * n)
    found = Intelli().delta(ACCOUNT, "messages", Start(), wire)

    assert next(found).resume
    simulator.set_status(ACCOUNT.id, 9999)
    with pytest.raises(Unavailable):
        next(found)


def test_a_message_that_arrives_between_two_pages_is_found(simulator, wire):
    for n in range(150):
        simulator.receive(ACCOUNT.id, at_s=NOW_S - 10 * n - 10)
    arrived = []
    simulator.on_page = lambda since: arrived.append(simulator.receive(ACCOUNT.id))

    found = rows(wire)

    assert arrived[0] in ids(found)


def test_what_the_capped_collection_dropped_is_no_deletion(simulator, wire):
    simulator.cap = 3
    made = [simulator.receive(ACCOUNT.id, at_s=NOW_S - 10 + n) for n in range(5)]

    (page,) = pages(wire)

    assert ids(page.rows) == set(made[2:])
    assert not page.whole
    assert not any(row.deleted for row in page.rows)


@pytest.mark.parametrize("dropped", [True, False])
def test_what_the_collection_dropped_while_nobody_looked_is_a_gap(simulator, wire, clock, dropped):
    """The last message that was seen is not listed any more: others may have gone with it."""
    simulator.cap = 50 if dropped else 100
    seen = simulator.receive(ACCOUNT.id)
    follower = Follower(wire, clock)
    follower.poll()
    follower.drain()
    made = set()
    for _ in range(80):
        clock.now_s += 60
        made.add(simulator.receive(ACCOUNT.id))
    follower.poll()

    assert len(follower.told().keys() & made) == (50 if dropped else 80)
    assert seen in follower.told()
    assert follower.gaps == int(dropped)
    assert not any(change.row.body.get("gap") for change in follower.changes)
    for _ in range(3):
        # The next one starts before the message that is gone, too; those that follow do not.
        follower.drain()
    assert follower.gaps == 2 * dropped


def test_what_the_collection_dropped_is_counted_on_the_first_page_of_a_drain(simulator, wire):
    made = {simulator.receive(ACCOUNT.id, at_s=NOW_S - 9000 + 10 * n) for n in range(250)}
    since_ms = (NOW_S - 90_000) * 1000

    found = pages(wire, since_ms)
    rest = pages(wire, since_ms, found[0].resume)

    assert ids(row for page in found for row in page.rows) == made
    assert [page.gaps for page in found] == [1, *[0] * (len(found) - 1)]
    assert not any(page.gaps for page in rest)


@pytest.mark.parametrize(
    ("since_ms", "at_s"),
    [
        pytest.param(None, NOW_S, id="everything"),
        pytest.param(0, NOW_S, id="a start before anything is known"),
        pytest.param(NOW_S * 1000, NOW_S, id="its own second"),
        pytest.param((NOW_S - 300) * 1000, NOW_S, id="as far as is read again"),
        pytest.param((NOW_S - 300) * 1000, NOW_S + 2, id="a writer that is ahead"),
        pytest.param((NOW_S - 900) * 1000, None, id="nothing"),
        pytest.param((NOW_S - 900) * 1000, NOW_S + 10**9, id="from the future"),
    ],
)
def test_nothing_shows_that_something_was_dropped(simulator, wire, clock, since_ms, at_s):
    clock.now_s += 60
    if at_s is not None:
        simulator.receive(ACCOUNT.id, at_s=at_s, visible_at_s=NOW_S)

    (page,) = pages(wire, since_ms)

    assert page.gaps == 0


# Check


def test_an_account_without_messages_is_known_to_be_empty(wire):
    seen = check(wire)

    assert seen == Seen(raw=KNOWN_EMPTY)
    assert check(wire, seen) is seen
    assert Intelli().marks(ACCOUNT, seen.raw) == {}


def test_more_without_messages_is_not_known_to_be_empty(simulator, wire):
    simulator.has_more = True

    seen = check(wire)

    assert seen.raw != KNOWN_EMPTY
    assert check(wire, seen) is seen


@semantics
def test_an_idle_check_is_one_request_and_changes_nothing(simulator, wire, clock, inclusive):
    simulator.inclusive = inclusive
    for n in range(10):
        simulator.receive(ACCOUNT.id, at_s=NOW_S - 30 * n)
    seen = check(wire)

    for _ in range(5):
        clock.now_s += 60
        again = check(wire, seen)
        assert again is seen

    assert len(wire.sent) == 6
    assert set(sinces(wire)[1:]) == {NOW_S - OVERLAP_S}


def test_the_mark_is_a_second_and_a_hash_and_no_secret(simulator, wire):
    identity = simulator.receive(ACCOUNT.id, "canary")

    seen = check(wire)

    second, _, hashed = seen.raw.partition(":")
    assert (int(second), len(hashed)) == (NOW_S - OVERLAP_S, 16)
    assert "canary" not in seen.raw
    assert identity not in seen.raw
    assert Intelli().marks(ACCOUNT, seen.raw) == {"messages": seen.raw}


@semantics
@pytest.mark.parametrize("add", ["receive", "send"])
@pytest.mark.parametrize("ago_s", [0, 1, 60, OVERLAP_S - 1])
def test_a_new_message_moves_the_mark_even_if_it_is_late(
    simulator, wire, clock, inclusive, add, ago_s
):
    simulator.inclusive = inclusive
    simulator.receive(ACCOUNT.id)
    seen = check(wire)
    getattr(simulator, add)(ACCOUNT.id, at_s=NOW_S - ago_s)

    changed = check(wire, seen)

    assert changed.raw != seen.raw
    assert check(wire, changed) is changed


def test_the_first_message_of_an_empty_account_moves_the_mark(simulator, wire):
    seen = check(wire)
    simulator.receive(ACCOUNT.id)

    assert Intelli().marks(ACCOUNT, check(wire, seen).raw) != {}


def test_an_empty_answer_is_no_news(simulator, wire):
    simulator.receive(ACCOUNT.id)
    seen = check(wire)
    simulator.cap = 0
    simulator.receive(ACCOUNT.id)
    simulator.add_account(ACCOUNT.id, USERNAME, PASSWORD)

    assert check(wire, seen) is seen


@semantics
def test_a_check_that_is_cut_moves_the_mark_until_it_has_caught_up(
    simulator, wire, clock, inclusive
):
    simulator.inclusive = inclusive
    for n in range(2000):
        simulator.receive(ACCOUNT.id, at_s=NOW_S - 60 * n)
    seens = [check(wire)]
    while seens[-1] not in seens[:-1]:
        seens.append(check(wire, seens[-1]))

    # The first hundred of two thousand, the last hour, and once more the same.
    assert len(seens) <= 4
    assert len(set(sinces(wire))) >= 2
    clock.now_s += 1
    simulator.receive(ACCOUNT.id)
    assert check(wire, seens[-1]) != seens[-1]


@semantics
@pytest.mark.parametrize("count", [100, 101, 250, 1000])
def test_a_crowded_overlap_does_not_hide_what_follows(simulator, wire, clock, inclusive, count):
    simulator.inclusive = inclusive
    for n in range(count):
        simulator.receive(ACCOUNT.id, at_s=NOW_S - n * 100 // count)
    follower = Follower(wire, clock)
    polls = 0
    while follower.poll():
        polls += 1
    assert polls < 60

    clock.now_s += 60
    late = simulator.receive(ACCOUNT.id)

    assert follower.poll()
    assert late in follower.told()


@semantics
def test_a_saturated_second_does_not_stop_the_check(simulator, wire, clock, inclusive):
    simulator.inclusive = inclusive
    simulator.saturate(ACCOUNT.id, 300, at_s=NOW_S - 5)
    follower = Follower(wire, clock)
    polls = 0
    while follower.poll():
        polls += 1
    clock.now_s += 60
    late = simulator.receive(ACCOUNT.id)

    assert polls < 10
    assert follower.poll()
    assert late in follower.told()


def test_a_message_from_the_future_does_not_hide_what_follows(simulator, wire, clock):
    simulator.receive(ACCOUNT.id, at_s=NOW_S + 10**9, visible_at_s=NOW_S)
    simulator.receive(ACCOUNT.id)
    seen = check(wire)
    assert check(wire, seen) is seen
    clock.now_s += 60
    simulator.receive(ACCOUNT.id)

    assert check(wire, seen).raw != seen.raw


def test_without_a_date_a_check_starts_before_the_newest_message():
    wire = canned(answer([message("1", 5000), message("2", 9000)]))

    assert check(wire).raw.startswith(f"{9000 - OVERLAP_S}:")


def test_without_a_date_a_check_that_is_cut_goes_on_where_it_ended():
    wire = canned(answer(block(100, 1000, step_s=10), more=True))

    second = int(check(wire).raw.partition(":")[0])

    assert 1000 < second < 1990


def test_a_row_that_cannot_be_read_moves_the_mark_once():
    good = message("1")
    seen = check(canned(answer([good])))
    wire = canned(answer([good, message("2", "soon")]))

    changed = check(wire, seen)

    assert changed.raw != seen.raw
    assert check(wire, changed) is changed


def test_the_order_of_the_rows_does_not_move_the_mark():
    listed = block(5, NOW_S)
    seen = check(canned(answer(listed)))

    assert check(canned(answer(listed[::-1])), seen) is seen


@pytest.mark.parametrize("newest", [0, None, NOW_S, "soon"])
def test_the_newest_timestamp_does_not_move_the_mark(newest):
    seen = check(canned(answer([message("1")])))

    wire = canned(answer([message("1")], newestMessageTimestamp=newest))
    assert check(wire, seen) is seen


@pytest.mark.parametrize("raw", ["abc", "1:2", ":", f"-1:{'0' * 16}", f"1:{'0' * 16}\n", "<html>"])
def test_marks_of_anything_else_are_malformed(raw):
    with pytest.raises(Malformed):
        Intelli().marks(ACCOUNT, raw)


def test_a_stored_answer_that_cannot_be_read_is_as_good_as_none(simulator, wire):
    simulator.receive(ACCOUNT.id)

    assert check(wire, Seen(raw="1,2,3")) == check(wire)


# All of it


@semantics
def test_what_there_was_at_first_is_never_told(simulator, wire, clock, inclusive):
    """Nor asked for again from the beginning, which would be all of the collection as news."""
    simulator.inclusive = inclusive
    for n in range(250):
        simulator.receive(ACCOUNT.id, at_s=NOW_S - 40 * n)
    follower = Follower(wire, clock)
    while follower.poll(decide.BASELINE):
        pass
    asked = len(wire.sent)
    for _ in range(3):
        clock.now_s += 60
        new = simulator.receive(ACCOUNT.id)
        while follower.poll():
            pass
        assert list(follower.told()) == [new]
        follower.changes.clear()

    assert min(sinces(wire)[asked:]) > NOW_S - 3600


@semantics
def test_a_message_of_a_writer_that_is_minutes_behind_comes_with_the_next(
    simulator, wire, clock, inclusive
):
    simulator.inclusive = inclusive
    follower = Follower(wire, clock)
    for _ in range(3):
        clock.now_s += 60
        simulator.receive(ACCOUNT.id)
        follower.poll()
    late = simulator.receive(ACCOUNT.id, at_s=clock.now_s - OVERLAP_S - 120)
    clock.now_s += 60
    simulator.receive(ACCOUNT.id)

    assert follower.poll()
    assert follower.told()[late] == 1


@pytest.mark.parametrize("ask", [check, pages], ids=["check", "delta"])
def test_a_request_that_is_refused_is_not_repeated_at_once(simulator, wire, ask):
    simulator.fail_next("/services", "429", times=9)

    with pytest.raises(RateLimited):
        ask(wire)

    assert len(wire.sent) == 1


@semantics
@pytest.mark.parametrize("order", ["time", "inserted"])
@pytest.mark.parametrize("cut", ["lists", "union"])
@pytest.mark.parametrize("seed", range(3))
def test_every_message_is_told_once_whatever_happens(
    simulator, wire, clock, inclusive, order, cut, seed
):
    """
    Bursts, ties, late messages and silence; the journal is what a poller must not lose.

    Not sorted, a burst cannot always be read to its end: what is cut off may be older than all that
    is listed. Then it is a gap.
    """
    chance = random.Random(f"{seed} {inclusive} {order} {cut}")
    simulator.configure(inclusive=inclusive, order=order, cut=cut)
    follower = Follower(wire, clock)
    for _ in range(60):
        for _ in range(chance.choice([0, 0, 1, 3, 70])):
            add = chance.choice([simulator.receive, simulator.send])
            at_s = clock.now_s - chance.choice([0, 0, 1, 30])
            add(ACCOUNT.id, at_s=at_s, visible_at_s=clock.now_s + chance.choice([0, 0, 5]))
        follower.poll()
        clock.now_s += chance.choice([1, 10, 60])
    for _ in range(3):
        # A mark stays pending for the overlap: the stream is read once more.
        clock.now_s += OVERLAP_S
        while follower.poll():
            pass
    follower.drain()

    made = {change.id for change in simulator.journal}
    assert set(follower.told()) <= made
    assert set(follower.told()) == made or (follower.gaps and order == "inserted")
    assert not follower.gaps or order == "inserted"
    assert set(follower.told().values()) == {1}
    assert {change.kind for change in follower.changes} == {"created"}
    deltas = follower.deltas
    clock.now_s += 600
    assert not follower.poll()
    assert follower.deltas == deltas


@semantics
def test_the_document_as_a_whole_history(wire, clock, inclusive, simulator):
    simulator.inclusive = inclusive
    follower = Follower(wire, clock, SAMPLED)

    assert follower.poll()
    assert not follower.poll()
    assert [change.row.id for change in follower.changes] == [
        "517509fee4b0b1be3f128ef5",
        "51750a01e4b0d1406c9c5fdb",
        "51750a22e4b0b1be3f128ef6",
    ]
