"""Kirimdev's module against its simulator: conditional lists, cursors, statuses, their traps."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlsplit

import pytest
from pollwire import decide, marks
from pollwire.errors import (
    Forbidden,
    Malformed,
    Misconfigured,
    PollwireError,
    RateLimited,
    Rejected,
    Restart,
    Unavailable,
)
from pollwire.model import Account, Seen, Start, Turn
from pollwire.providers import iso_ms, registered
from pollwire.providers.kirimdev import (
    CHECK_QUERY,
    GONE,
    GONE_RANK,
    LIMIT,
    RANKS,
    SLACK_MS,
    WATCHED_MAX,
    Kirimdev,
)

from local.server import control
from local.simulators import registered as simulators
from local.simulators.kirimdev import SAMPLE_ACCOUNT, SAMPLE_ETAG, SAMPLE_KEY, SAMPLE_MS
from local.simulators.kirimdev import Kirimdev as Simulator
from tests.contract import driver
from tests.contract.driver import Canned, Wire

HOSTS = {"api": "https://api.sim"}
KEY = "kdv_live_canaryCANARYcanaryCANARY"
ACCOUNT = Account("shop", "106540352242999", HOSTS, credential={"api_key": KEY})
SAMPLED = replace(ACCOUNT, id=SAMPLE_ACCOUNT, credential={"api_key": SAMPLE_KEY})
NOW_S = 1_782_000_000.0
NOW_MS = 1_782_000_000_000
NOW_ISO = "2026-06-21T00:00:00.000Z"
LIST = f"/v1/{ACCOUNT.id}/conversations"
STREAMS = ("conversations", "message-status")
MESSAGE = "msg_00000000000000000000000001"


@pytest.fixture
def clock():
    return SimpleNamespace(now_s=NOW_S)


@pytest.fixture
def simulator(clock):
    simulator = Simulator(lambda: clock.now_s)
    simulator.add_organisation("org", KEY)
    simulator.add_account("org", ACCOUNT.id)
    return simulator


@pytest.fixture
def wire(simulator):
    return Wire(simulator, HOSTS.values())


def check(wire, seen=Seen(), account=ACCOUNT):  # noqa: B008 (it is frozen)
    return driver.run(Kirimdev().check(account, seen), wire)


def unconditional(seen):
    """Make of *seen* what the pipeline hands out while no validator may be trusted."""
    return replace(seen, etag="", modified="")


def pages(wire, since_ms=None, resume="", account=ACCOUNT, stream="conversations"):
    return driver.pages(Kirimdev(), account, stream, wire, Start(since_ms, resume=resume))


def rows(wire, since_ms=None, account=ACCOUNT, stream="conversations"):
    return [row for page in pages(wire, since_ms, "", account, stream) for row in page.rows]


def statuses(wire, *watched):
    account = replace(ACCOUNT, watched=frozenset(watched))
    return rows(wire, account=account, stream="message-status")


def canned(*answers, status=200, **headers):
    bodies = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in answers]
    return Wire(Canned(*bodies, status=status, **headers), HOSTS.values())


def listing(*found, more=False, cursor=None, **fields):
    envelope = {"data": list(found), "has_more": more, "next_cursor": cursor}
    return envelope | {"request_id": "req_1"} | fields


def conversation(identity="cnv_1", updated_at=NOW_ISO, **fields):
    return {"id": identity, "updated_at": updated_at, **fields}


def message(status="sent", **fields):
    return {"id": MESSAGE, "status": status, **fields}


def iso(at_ms):
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def mark(seen, account=ACCOUNT):
    return Kirimdev().marks(account, seen.raw)


def fill(simulator, clock, number):
    """Make conversations a second apart; return their ids, newest first."""
    made = []
    for _ in range(number):
        clock.now_s += 1
        made.insert(0, simulator.new_conversation(ACCOUNT.id))
    return made


class Follower:
    """What a stream's drains make of the rows, with what they know kept from one to the next."""

    def __init__(self, wire, clock, account=ACCOUNT, stream="conversations"):
        self.wire, self.clock, self.account, self.stream = wire, clock, account, stream
        self.records = {}
        self.reached_ms = self.previous_ms = 0
        self.told = []
        self.final = set()

    def drain(self, mode=decide.LIVE, *, full=False):
        stream = Kirimdev.streams[self.stream]
        now_ms = int(self.clock.now_s * 1000)
        start = decide.start(self.reached_ms, self.previous_ms, "", stream)
        if full:
            start = Start()
        found = driver.pages(Kirimdev(), self.account, self.stream, self.wire, start)
        rows = [row for page in found for row in page.rows]
        decision = decide.decide(rows, self.records, stream, mode, now_ms)
        if full:
            assert all(page.whole for page in found)
            ids = [row.id for row in rows]
            decision = decision.joined(decide.decide_missing(ids, self.records, stream, now_ms))
        self.records |= decision.records
        self.final |= {row.id for row in rows if row.final}
        self.told += decision.changes
        if not decision.unsettled:
            newest_ms = decide.newest_ms(rows, now_ms)
            self.previous_ms = self.reached_ms
            self.reached_ms = max(self.reached_ms, newest_ms)
        return [(change.kind, change.row.id) for change in decision.changes]


def begun(simulator, wire, clock):
    """Follow the conversations from now on: what comes next is asked for by ``updated_since``."""
    fill(simulator, clock, 1)
    follower = Follower(wire, clock)
    follower.drain(decide.BASELINE)
    clock.now_s += 60
    return follower


# What it is


def test_it_is_registered():
    assert isinstance(registered()["kirimdev"], Kirimdev)
    assert isinstance(simulators()["kirimdev"](), Simulator)


def test_the_streams():
    conversations, status = (Kirimdev.streams[name] for name in STREAMS)

    assert (conversations.overlap_s, conversations.cache_s) == (15, 8)
    assert conversations.reconcile_s == 3600
    assert (status.overlap_s, status.cache_s, status.reconcile_s) == (10, 10, 0)
    assert not any(stream.path or stream.snapshot for stream in Kirimdev.streams.values())
    # Sooner than that the answer would come from a cache.
    assert Kirimdev.fastest_s >= max(stream.cache_s for stream in Kirimdev.streams.values())
    assert Kirimdev.check_needs_credential
    assert Kirimdev.shares_rate


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "12345",
        "1" * 21,
        "abcdefg",
        "12/../34567",
        "\uff11\uff12\uff13\uff14\uff15\uff16\uff17",
        "1234567\n",
    ],
)
def test_an_account_id_that_is_no_phone_number_id_is_our_own_mistake(wire, bad):
    account = replace(ACCOUNT, id=bad, watched=frozenset({MESSAGE}))

    with pytest.raises(Misconfigured, match=r"account\.id.*correct"):
        check(wire, account=account)
    for stream in STREAMS:
        with pytest.raises(Misconfigured, match=r"account\.id.*correct"):
            pages(wire, account=account, stream=stream)
    assert wire.sent == []


@pytest.mark.parametrize("key", ["", "kdv\r\nX-Evil: 1", "kdv_é", "kdv\x00", " kdv"])
def test_a_key_that_no_header_can_carry_is_our_own_mistake(wire, key):
    account = replace(ACCOUNT, credential={"api_key": key})

    with pytest.raises(Misconfigured, match=r"credential\.api_key") as caught:
        check(wire, account=account)

    assert not key or key not in str(caught.value)
    assert wire.sent == []


def test_the_key_goes_into_the_header_and_nowhere_else(simulator, wire, clock):
    written_to = fill(simulator, clock, 2)[0]
    account = replace(ACCOUNT, watched=frozenset({simulator.send(written_to)}))
    seen = check(wire, account=account)
    pages(wire, NOW_MS)
    pages(wire, account=account, stream="message-status")

    assert len(wire.sent) == 4
    for request in wire.sent:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        assert request.secret
        assert KEY not in f"{request.url}{request.query}"
    assert KEY not in seen.raw


# Check: conversations


def test_the_check_asks_for_the_newest_changes_without_a_validator(wire):
    check(wire)

    (request,) = wire.sent
    assert request.url == f"https://api.sim{LIST}"
    assert request.query == {"updated_since": "2000-01-01T00:00:00.000Z", "limit": "25"}
    assert "If-None-Match" not in request.headers


def test_the_query_of_the_check_never_varies(simulator, wire, clock):
    """An ETag belongs to its URL: one of another query would make a false 304."""
    seen = check(wire)
    fill(simulator, clock, 30)
    pages(wire, NOW_MS)
    check(wire, seen)

    queries = [request.query for request in wire.sent if "If-None-Match" in request.headers]
    assert queries == [CHECK_QUERY]


def test_the_etag_of_the_documentation_is_seen_verbatim_and_sent_back(wire):
    seen = check(wire, account=SAMPLED)
    assert seen.etag == SAMPLE_ETAG == 'W/"2026-06-19T11:00:00.000Z:2:1"'

    assert check(wire, seen, SAMPLED) is seen
    assert wire.sent[-1].headers["If-None-Match"] == SAMPLE_ETAG


def test_a_304_is_the_same_seen(simulator, wire, clock):
    fill(simulator, clock, 3)
    seen = check(wire)
    clock.now_s += 60

    assert check(wire, seen) is seen
    answer = simulator.handle(
        "GET",
        LIST,
        CHECK_QUERY,
        {"authorization": f"Bearer {KEY}", "if-none-match": seen.etag},
        b"",
    )
    assert (answer[0], answer[2]) == (304, b"")
    assert int(answer[1]["x-ratelimit-remaining"]) < 600


@pytest.mark.parametrize("raw", ["", "nonsense", "[]", "{}"])
def test_a_validator_without_an_answer_to_stand_by_is_not_sent(wire, raw):
    check(wire, Seen(raw=raw, etag='W/"a"'))

    assert "If-None-Match" not in wire.sent[0].headers


def test_a_304_that_was_not_asked_for_is_no_answer(wire):
    seen = check(wire)

    with pytest.raises(Malformed, match="304"):
        check(canned(b"", status=304), unconditional(seen))
    with pytest.raises(Malformed, match="304"):
        check(canned(b"", status=304))


def test_an_equal_answer_is_the_same_seen_with_and_without_validators(simulator, wire, clock):
    fill(simulator, clock, 3)
    seen = check(wire)
    assert check(wire, unconditional(seen)).raw == seen.raw

    simulator.configure(validators=False)
    seen = check(wire)
    assert seen.etag == ""
    assert check(wire, seen) is seen


def test_an_idle_account_is_the_same_seen_for_an_hour(simulator, wire, clock):
    fill(simulator, clock, 30)
    first = seen = check(wire)
    for _ in range(120):
        clock.now_s += 30
        seen = check(wire, seen if clock.now_s % 4 else unconditional(seen))
        assert seen.raw == first.raw


@pytest.mark.parametrize(
    "act", ["inbound", "outbound", "assign", "mark_read", "delete_conversation"]
)
def test_a_change_moves_the_mark(simulator, wire, clock, act):
    written_to = simulator.new_conversation(ACCOUNT.id)
    before = check(wire)
    clock.now_s += 20
    getattr(simulator, act)(written_to)

    assert mark(check(wire, before)).keys() == {"conversations"}
    assert mark(check(wire, before)) != mark(before)


def test_an_assignment_far_down_in_the_inbox_moves_the_mark(simulator, wire, clock):
    oldest = fill(simulator, clock, 60)[-1]
    before = check(wire)
    clock.now_s += 20
    simulator.assign(oldest)

    assert mark(check(wire, before)) != mark(before)


def test_a_second_change_in_the_same_millisecond_collides_in_the_etag_and_shows_in_the_rows(
    simulator, wire, clock
):
    one, other = fill(simulator, clock, 2)
    clock.now_s += 5
    simulator.set_status(one, "pending")
    before = check(wire)
    simulator.assign(other, at_ms=int(clock.now_s * 1000))
    clock.now_s += 1

    assert check(wire, before) is before  # A false 304: as long as it may be one, nothing is sent.
    after = check(wire, unconditional(before))
    assert after.etag == before.etag
    assert mark(after) != mark(before)


def test_an_etag_that_speaks_of_a_row_of_the_future_is_not_sent(simulator, wire, clock):
    one, other = fill(simulator, clock, 2)
    simulator.assign(one, at_ms=int(clock.now_s * 1000) + 86_400_000)
    before = check(wire)
    clock.now_s += 60
    simulator.assign(other)

    assert not before.etag
    assert mark(check(wire, before)) != mark(before)


def test_an_unread_count_that_falls_below_the_highest_shows_in_the_rows(simulator, wire):
    simulator.new_conversation(ACCOUNT.id, unread_count=5)
    read = simulator.new_conversation(ACCOUNT.id, unread_count=3)
    before = check(wire)
    simulator.mark_read(read)
    after = check(wire, unconditional(before))

    assert after.etag == before.etag
    assert mark(after) != mark(before)


def test_the_pipeline_withholds_the_etag_for_as_long_as_it_may_collide():
    packed = marks.pack(Seen("raw", 'W/"a"', "", NOW_MS))

    assert marks.unpack(packed, NOW_MS + 14_999, 15).etag == ""
    assert marks.unpack(packed, NOW_MS + 15_000, 15).etag == 'W/"a"'


def test_a_stale_cache_hides_a_change_for_eight_seconds_and_no_longer(simulator, wire, clock):
    simulator.configure(dropped=0)
    written_to = simulator.new_conversation(ACCOUNT.id)
    before = check(wire)
    clock.now_s += 1
    simulator.inbound(written_to)

    assert check(wire, unconditional(before)).raw == before.raw
    clock.now_s += 7
    assert mark(check(wire, before)) != mark(before)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        pytest.param('W/"a"', 'W/"a"', id="weak"),
        pytest.param('"a"', '"a"', id="strong"),
        pytest.param("", "", id="empty"),
        pytest.param("x" * 256, "x" * 256, id="256 bytes"),
        pytest.param("x" * 257, "", id="257 bytes"),
        pytest.param('"é"', "", id="not ASCII"),
        pytest.param('"a"\r\nX-Evil: 1', "", id="a line break"),
    ],
)
def test_a_validator_is_kept_only_if_it_can_be_sent_back(sent, kept):
    assert check(canned(listing(), etag=sent)).etag == kept


def test_an_etag_that_differs_is_a_change_whatever_the_rows_say():
    before = check(canned(listing(conversation()), etag="a"))
    after = check(canned(listing(conversation()), etag="b"), before)

    assert (mark(after) != mark(before), after.etag) == (True, "b")


def test_the_id_of_the_request_is_no_change():
    before = check(canned(listing(conversation())))

    assert check(canned(listing(conversation(), request_id="req_2")), before) is before


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"<html>Sign in</html>", id="html"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{}", id="nothing in it"),
        pytest.param(b'{"data": null, "has_more": false}', id="null"),
        pytest.param(b'{"data": {}, "has_more": false}', id="an object"),
        pytest.param(b'{"data": []}', id="has_more is missing"),
        pytest.param(b'{"data": [], "has_more": "no"}', id="has_more is a text"),
        pytest.param(b'{"data": [], "has_more": true, "next_cursor": null}', id="no cursor"),
        pytest.param(b'{"data": [], "has_more": true, "next_cursor": ""}', id="an empty cursor"),
        pytest.param(b'{"data": [], "has_more": false, "next_cursor": 7}', id="a number"),
        pytest.param(b'{"data": [], "has_more": true, "next_cursor": "\\ud800"}', id="half a text"),
        pytest.param(b'{"data": [], "data": [], "has_more": false}', id="a key twice"),
        pytest.param(b'{"error": {"code": "whatsapp_upstream_error"}}', id="an error body"),
    ],
)
def test_an_answer_that_is_no_page_fails_check_and_delta(body):
    with pytest.raises(Malformed):
        check(canned(body))
    with pytest.raises(Malformed):
        pages(canned(body))


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("429", RateLimited),
        ("503", Unavailable),
        ("401", Rejected),
        ("403", Rejected),
        ("404", Malformed),
        ("304", Malformed),
        ("html", Malformed),
        ("truncated", Malformed),
    ],
)
def test_a_failure_has_a_name(simulator, wire, kind, error):
    simulator.new_conversation(ACCOUNT.id)
    for ask in (check, pages):
        simulator.fail_next(LIST, kind)
        with pytest.raises(error):
            ask(wire)


def test_an_account_of_another_organisation_is_no_empty_list(simulator, wire):
    account = replace(ACCOUNT, id=SAMPLE_ACCOUNT)

    with pytest.raises(Malformed, match="404"):
        check(wire, account=account)
    with pytest.raises(Malformed, match="404"):
        pages(wire, account=account)


def test_an_expired_key_and_a_revoked_one_are_rejected(simulator, wire, clock):
    simulator.add_key("org", "kdv_live_other", lives_s=60)
    account = replace(ACCOUNT, credential={"api_key": "kdv_live_other"})
    check(wire, account=account)
    clock.now_s += 60
    simulator.revoke_key(KEY)

    for one in (account, ACCOUNT):
        with pytest.raises(Rejected):
            check(wire, account=one)


def test_the_budget_is_one_for_all_accounts_of_an_organisation(simulator, wire, clock):
    simulator.add_organisation("poor", "kdv_live_poor", reads_per_minute=2)
    poor = replace(ACCOUNT, credential={"api_key": "kdv_live_poor"})
    for identity in ("1000001", "1000002"):
        simulator.add_account("poor", identity)
        check(wire, account=replace(poor, id=identity))

    with pytest.raises(RateLimited) as caught:
        check(wire, account=replace(poor, id="1000001"))
    assert caught.value.retry_after_s == 30
    clock.now_s += 30
    check(wire, account=replace(poor, id="1000001"))


@pytest.mark.parametrize("kind", ["401", "404", "429", "503", "html", "truncated"])
@pytest.mark.parametrize("stream", STREAMS)
def test_no_error_tells_a_secret(simulator, wire, stream, kind):
    sent = simulator.send(simulator.new_conversation(ACCOUNT.id))
    account = replace(ACCOUNT, watched=frozenset({sent}))
    simulator.fail_next("/v1", kind, times=9)

    told = ""
    try:
        told = repr([page.bad for page in pages(wire, account=account, stream=stream)])
    except PollwireError as error:
        told = f"{error!r} {error.__cause__!r} {error.__context__!r}"
    assert not any(secret in told for secret in (KEY, "://", "6281234567890"))


# Check: watched messages


def test_nothing_is_asked_where_nothing_is_watched(simulator, wire):
    simulator.send(simulator.new_conversation(ACCOUNT.id))
    seen = check(wire)

    assert len(wire.sent) == 1
    assert "message-status" not in mark(seen)


def test_a_status_moves_the_mark_of_its_stream_alone(simulator, wire, clock):
    sent = simulator.send(simulator.new_conversation(ACCOUNT.id))
    account = replace(ACCOUNT, watched=frozenset({sent}))
    marks_seen = []
    seen = Seen()
    for status in ("pending", "sent", "delivered", "read"):
        clock.now_s += 20
        simulator.set_message_status(sent, status)
        seen = check(wire, seen, account)
        assert check(wire, seen, account) is seen
        assert wire.sent[-1].url.startswith("https://api.sim")
        marks_seen.append(mark(seen, account))

    assert len({one["message-status"] for one in marks_seen}) == 4
    assert len({one["conversations"] for one in marks_seen}) == 1


def test_each_message_has_its_own_validator(simulator, wire, clock):
    written_to = simulator.new_conversation(ACCOUNT.id)
    one, other = simulator.send(written_to), simulator.send(written_to)
    simulator.set_message_status(other, "delivered")
    account = replace(ACCOUNT, watched=frozenset({one, other}))
    seen = check(wire, account=account)
    assert check(wire, seen, account) is seen

    listed, first, second = wire.sent[-3:]
    validators = [request.headers["If-None-Match"] for request in (listed, first, second)]
    assert len(set(validators)) == 3
    assert (first.url, second.url) == tuple(
        f"https://api.sim/v1/{ACCOUNT.id}/messages/{name}" for name in (one, other)
    )


def test_no_message_is_asked_conditionally_while_no_validator_is_trusted(simulator, wire):
    sent = simulator.send(simulator.new_conversation(ACCOUNT.id))
    account = replace(ACCOUNT, watched=frozenset({sent}))
    seen = check(wire, account=account)
    before = len(wire.sent)

    assert check(wire, unconditional(seen), account).raw == seen.raw
    assert not any("If-None-Match" in request.headers for request in wire.sent[before:])


@pytest.mark.parametrize("status", ["read", "failed"])
def test_a_final_message_is_not_asked_for_again(simulator, wire, clock, status):
    sent = simulator.send(simulator.new_conversation(ACCOUNT.id))
    account = replace(ACCOUNT, watched=frozenset({sent}))
    simulator.set_message_status(sent, status)
    seen = check(wire, account=account)
    asked = simulator.requests["message"]

    assert check(wire, seen, account) is seen
    assert simulator.requests["message"] == asked == 1


def test_a_deleted_message_is_gone_and_not_asked_for_again(simulator, wire, clock):
    sent = simulator.send(simulator.new_conversation(ACCOUNT.id))
    account = replace(ACCOUNT, watched=frozenset({sent}))
    before = check(wire, account=account)
    clock.now_s += 20
    simulator.delete_message(sent)

    after = check(wire, before, account)

    assert mark(after, account)["message-status"] != mark(before, account)["message-status"]
    assert json.loads(after.raw)["messages"] == {sent: [GONE, ""]}
    assert check(wire, after, account) is after
    assert simulator.requests["message"] == 2


def test_that_a_message_is_watched_no_more_is_no_news_of_the_others(simulator, wire, clock):
    written_to = simulator.new_conversation(ACCOUNT.id)
    one, other = simulator.send(written_to), simulator.send(written_to)
    both = replace(ACCOUNT, watched=frozenset({one, other}))
    fewer = replace(ACCOUNT, watched=frozenset({one}))
    old = check(wire, account=both)
    new = check(wire, old, fewer)

    step = marks.step(old, new, (), lambda raw: Kirimdev().marks(fewer, raw), NOW_MS)
    assert step.pending == ()
    assert mark(check(wire, old, ACCOUNT)).keys() == {"conversations"}


def test_a_message_that_is_watched_anew_moves_the_mark(simulator, wire):
    sent = simulator.send(simulator.new_conversation(ACCOUNT.id))
    account = replace(ACCOUNT, watched=frozenset({sent}))
    old = check(wire)
    new = check(wire, old, account)

    step = marks.step(old, new, (), lambda raw: Kirimdev().marks(account, raw), NOW_MS)
    assert [marks.split(one)[0] for one in step.pending] == ["message-status"]
    assert new.etag == old.etag


def test_of_many_messages_a_check_asks_some_and_all_have_their_turn(simulator, wire, clock):
    written_to = simulator.new_conversation(ACCOUNT.id)
    sent = {simulator.send(written_to) for _ in range(3 * WATCHED_MAX + 7)}
    account = replace(ACCOUNT, watched=frozenset(sent))
    seen = Seen()
    for number in range(30):
        asked = simulator.requests["message"]
        seen = check(wire, seen, replace(account, turn=Turn(due_ms=number * 60_000)))
        assert simulator.requests["message"] - asked == WATCHED_MAX
        clock.now_s += 60

    assert json.loads(seen.raw)["messages"].keys() == sent


@pytest.mark.parametrize("kind", ["html", "404", "truncated"])
def test_an_odd_message_does_not_hold_up_the_conversations(simulator, wire, clock, kind):
    written_to = simulator.new_conversation(ACCOUNT.id)
    one, other = sorted(simulator.send(written_to) for _ in range(2))
    account = replace(ACCOUNT, watched=frozenset({one, other}))
    simulator.fail_next(f"/v1/{ACCOUNT.id}/messages/{one}", kind)
    seen = check(wire, account=account)

    assert json.loads(seen.raw)["messages"][other][0] == "pending"
    assert mark(seen, account).keys() == set(STREAMS)
    simulator.fail_next(f"/v1/{ACCOUNT.id}/messages/{one}", kind)
    assert check(wire, seen, account) is seen
    assert mark(check(wire, seen, account), account) != mark(seen, account)


def test_a_status_code_without_a_meaning_does_not_hold_up_the_conversations(simulator, wire):
    account = replace(ACCOUNT, watched=frozenset({MESSAGE}))
    good = simulator.handle

    def handle(method, path, *asked):
        return (422, {}, b"") if "/messages/" in path else good(method, path, *asked)

    simulator.handle = handle

    assert mark(check(wire, account=account), account).keys() == set(STREAMS)


def test_a_check_of_messages_is_stopped_by_what_concerns_all(simulator, wire):
    sent = simulator.send(simulator.new_conversation(ACCOUNT.id))
    account = replace(ACCOUNT, watched=frozenset({sent}))

    for kind, error in (("429", RateLimited), ("401", Rejected), ("403", Forbidden)):
        simulator.fail_next(f"/v1/{ACCOUNT.id}/messages", kind)
        with pytest.raises(error):
            check(wire, account=account)


def test_a_message_that_is_not_answered_holds_up_neither_the_list_nor_the_others(simulator, wire):
    conversation = simulator.new_conversation(ACCOUNT.id)
    silent, other = (simulator.send(conversation) for _ in range(2))
    account = replace(ACCOUNT, watched=frozenset({silent, other}))
    simulator.fail_next(f"/v1/{ACCOUNT.id}/messages/{silent}", "503", times=2)
    seen = check(wire, account=account)
    told, delta = [], Kirimdev().delta(account, "message-status", Start(), wire)

    assert "conversations" in mark(seen, account)
    with pytest.raises(Unavailable):
        told.extend(one_by_one(delta))
    assert [row.id for page in told for row in page.rows] == [other]
    resume = Start(resume=told[-1].resume)
    rest = list(Kirimdev().delta(account, "message-status", resume, wire))
    assert {row.id for page in rest for row in page.rows} == {silent, other}
    assert rest[-1].resume == ""


def one_by_one(pages):
    """Hand on page after page, so that those before an error are kept."""
    yield from pages


def test_an_id_that_is_no_message_is_never_asked_for(wire):
    watched = frozenset({"..", "msg_/../../me", "msg_1?x=1", "msg_", "cnv_1", "msg_é"})
    account = replace(ACCOUNT, watched=watched)
    check(wire, account=account)

    assert len(wire.sent) == 1
    (page,) = pages(wire, account=account, stream="message-status")
    assert {bad.id for bad in page.bad} == watched
    assert len(wire.sent) == 1


@pytest.mark.parametrize("raw", ["", "-", "nonsense", "[]", "{}", '{"conversations": "a"}'])
def test_marks_of_anything_else_are_malformed(raw):
    with pytest.raises(Malformed):
        Kirimdev().marks(ACCOUNT, raw)


# Delta: conversations


def test_a_delta_takes_its_own_instant_in_although_the_filter_is_strictly_after(simulator, wire):
    made = simulator.new_conversation(ACCOUNT.id)

    assert [row.id for row in rows(wire, NOW_MS)] == [made]
    assert wire.sent[0].query == {"updated_since": "2026-06-20T23:59:59.999Z", "limit": "100"}
    assert rows(wire, NOW_MS + 1) == []


def test_the_url_of_the_documentation_is_what_is_asked():
    asked = "/v1/106540352242922/conversations?updated_since=2026-06-19T10:00:00.000Z&limit=25"
    url = urlsplit(asked)
    query = dict(parse_qsl(url.query))
    status, _, body = Simulator(lambda: NOW_S).handle(
        "GET", url.path, query, {"authorization": f"Bearer {SAMPLE_KEY}"}, b""
    )
    assert (status, len(json.loads(body)["data"])) == (200, 1)

    wire = canned(listing())
    pages(wire, iso_ms(query["updated_since"], "since") + 1, account=SAMPLED)
    assert urlsplit(wire.sent[0].url).path == url.path
    assert wire.sent[0].query["updated_since"] == query["updated_since"]


def test_without_a_since_everything_is_listed_in_the_order_of_the_inbox(simulator, wire, clock):
    made = fill(simulator, clock, 2 * LIMIT + 1)
    found = pages(wire)

    assert [row.id for page in found for row in page.rows] == made
    assert [bool(page.resume) for page in found] == [True, True, False]
    assert all(page.whole for page in found)
    assert not any("updated_since" in request.query for request in wire.sent)


@pytest.mark.parametrize("since_ms", [-5, 0, 5])
def test_a_since_of_nothing_is_the_year_2000_and_no_zero(wire, since_ms):
    """The drain after the first begins at 0, which a server might take for "not given"."""
    pages(wire, since_ms)

    assert wire.sent[0].query["updated_since"] == "2000-01-01T00:00:00.000Z"


def test_nothing_new_is_one_empty_page(wire):
    (page,) = pages(wire, NOW_MS)

    assert (page.rows, page.bad, page.resume, page.date_ms) == ((), (), "", NOW_MS)


def test_no_validator_is_ever_sent_with_a_delta(simulator, wire, clock):
    fill(simulator, clock, LIMIT + 1)
    check(wire, check(wire))
    asked = len(wire.sent)
    pages(wire, NOW_MS)
    pages(wire)

    assert not any("If-None-Match" in request.headers for request in wire.sent[asked:])


@pytest.mark.parametrize("since_ms", [None, NOW_MS])
def test_a_304_on_page_two_does_not_end_the_list(simulator, wire, clock, since_ms):
    fill(simulator, clock, LIMIT + 1)
    found = Kirimdev().delta(ACCOUNT, "conversations", Start(since_ms), wire)
    assert next(found).resume

    simulator.fail_next(LIST, "304")
    with pytest.raises(Malformed, match="304"):
        next(found)


def test_a_failure_on_page_two_comes_after_page_one_and_the_list_goes_on_from_there(
    simulator, wire, clock
):
    made = fill(simulator, clock, LIMIT + 5)
    found = Kirimdev().delta(ACCOUNT, "conversations", Start(NOW_MS), wire)
    first = next(found)
    simulator.fail_next(LIST, "503")
    with pytest.raises(Unavailable):
        next(found)

    rest = pages(wire, NOW_MS, first.resume)
    assert [row.id for page in (first, *rest) for row in page.rows] == made


def test_a_failure_on_page_two_loses_nothing(simulator, wire, clock):
    follower = begun(simulator, wire, clock)
    made = fill(simulator, clock, LIMIT + 5)
    simulator.on_page = lambda stream, number: simulator.fail_next(LIST, "503")
    with pytest.raises(Unavailable):
        follower.drain()

    simulator.on_page = None
    assert {row for _, row in follower.drain()} == set(made)


def test_a_cursor_is_of_one_query_only(simulator, wire, clock):
    fill(simulator, clock, LIMIT + 5)
    filtered, whole = pages(wire, NOW_MS)[0].resume, pages(wire)[0].resume
    asked = len(wire.sent)

    for since_ms, resume in ((None, filtered), (NOW_MS, whole), (NOW_MS + 1, filtered)):
        with pytest.raises(Restart):
            pages(wire, since_ms, resume)
    assert len(wire.sent) == asked
    cursor = json.loads(filtered)["cursor"]
    with pytest.raises(Restart):  # The server would not have it, either.
        pages(wire, None, json.dumps({"cursor": cursor, "since": None}))


@pytest.mark.parametrize(
    "resume",
    ["2", "x", "[]", "{}", '{"cursor": "", "since": null}', '{"cursor": 7, "since": null}'],
)
def test_a_place_that_cannot_be_read_starts_the_list_anew(wire, resume):
    with pytest.raises(Restart):
        pages(wire, None, resume)


def test_an_invalid_cursor_starts_the_list_anew(simulator, wire, clock):
    fill(simulator, clock, LIMIT + 5)
    resume = pages(wire, NOW_MS)[0].resume
    simulator.fail_next(LIST, "invalid_cursor")
    with pytest.raises(Restart):
        pages(wire, NOW_MS, resume)

    found = Kirimdev().delta(ACCOUNT, "conversations", Start(NOW_MS), wire)
    next(found)
    simulator.fail_next(LIST, "invalid_cursor")
    with pytest.raises(Restart):
        next(found)


def test_a_list_that_starts_anew_lists_all_of_it(simulator, wire, clock):
    follower = begun(simulator, wire, clock)
    made = fill(simulator, clock, LIMIT + 5)
    simulator.on_page = lambda stream, number: simulator.fail_next(LIST, "invalid_cursor")
    with pytest.raises(Restart):
        follower.drain()
    first = wire.sent[-2].query["updated_since"]

    simulator.on_page = None
    assert {row for _, row in follower.drain()} == set(made)
    again = wire.sent[-2]
    assert again.query["updated_since"] == first
    assert "cursor" not in again.query


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param({"error": {"code": "cursor_expired", "param": "cursor"}}, id="expired"),
        pytest.param({"error": {"code": "invalid_field_value", "param": "cursor"}}, id="param"),
        pytest.param({"error": {"code": "invalid_cursor"}}, id="code"),
        pytest.param({"error": {"code": "cursor_limit_exceeded"}}, id="a code that names two"),
        pytest.param({"error": {"code": "validation_failed", "param": None}}, id="unknown code"),
        pytest.param({"error": {"message": "no"}}, id="no code"),
        pytest.param({"error": "no"}, id="a text"),
        pytest.param({}, id="nothing in it"),
        pytest.param([], id="a list"),
        pytest.param(b"<html>", id="html"),
        pytest.param(b"", id="empty"),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_a_refused_cursor_starts_the_list_anew_whatever_the_words(answer, status):
    resume = json.dumps({"cursor": "c", "since": NOW_MS - 1})

    with pytest.raises(Restart):
        pages(canned(answer, status=status), NOW_MS, resume)


@pytest.mark.parametrize("status", [400, 422])
def test_a_refusal_where_no_cursor_was_sent_is_no_reason_to_start_anew(simulator, wire, status):
    simulator.fail_next(LIST, "invalid_cursor")

    with pytest.raises(Malformed):
        pages(wire, NOW_MS)
    with pytest.raises(Malformed):
        pages(canned({"error": {"code": "invalid_cursor"}}, status=status), NOW_MS)


@pytest.mark.parametrize(
    "error",
    [
        {"code": "invalid_limit"},
        {"code": "invalid_updated_since"},
        {"code": "invalid_field_value", "param": "updated_since"},
        {"code": "invalid_field_value", "param": "status"},
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_another_refusal_of_a_query_with_a_cursor_is_malformed(error, status):
    resume = json.dumps({"cursor": "c", "since": NOW_MS - 1})

    with pytest.raises(Malformed, match=f"{status}"):
        pages(canned({"error": error}, status=status), NOW_MS, resume)


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        pytest.param(
            [listing(conversation(), more=True, cursor="c"), listing(more=True, cursor="c")],
            2,
            id="the same cursor",
        ),
        pytest.param(
            [
                listing(conversation("cnv_1"), more=True, cursor="c"),
                listing(conversation("cnv_2"), more=True, cursor="d"),
                listing(conversation("cnv_3"), more=True, cursor="c"),
            ],
            3,
            id="a circle",
        ),
        pytest.param(
            [
                listing(conversation(), more=True, cursor="c"),
                listing(conversation(), more=True, cursor="d"),
            ],
            2,
            id="the same page",
        ),
        pytest.param(
            [listing(more=True, cursor=str(number)) for number in range(9)], 2, id="empty pages"
        ),
    ],
)
def test_a_list_that_never_ends_is_malformed(answers, asked):
    wire = canned(*answers)

    with pytest.raises(Malformed, match="never ends"):
        pages(wire)
    assert len(wire.sent) == asked


def test_a_list_that_leads_back_to_where_it_was_resumed_is_malformed():
    resume = json.dumps({"cursor": "c", "since": None})

    wire = canned(listing(conversation(), more=True, cursor="c"))
    with pytest.raises(Malformed, match="never ends"):
        pages(wire, None, resume)
    assert len(wire.sent) == 1


def test_a_cursor_is_followed_even_where_has_more_denies_it():
    wire = canned(listing(conversation("cnv_1"), cursor="c"), listing(conversation("cnv_2")))

    assert [row.id for row in rows(wire)] == ["cnv_1", "cnv_2"]


def test_a_row_that_moves_while_paging_is_found_by_the_next_drain(simulator, wire, clock):
    follower = begun(simulator, wire, clock)
    made = fill(simulator, clock, LIMIT + 5)
    moved = []

    def move(stream, number):
        if number == 1 and not moved:
            clock.now_s += 1
            simulator.assign(made[-1])
            moved.append(made[-1])

    simulator.on_page = move
    told = {row for _, row in follower.drain()}
    assert told == set(made) - set(moved)
    assert [row for _, row in follower.drain()] == moved


def test_equal_times_are_all_found(simulator, wire, clock):
    follower = begun(simulator, wire, clock)
    made = {simulator.new_conversation(ACCOUNT.id) for _ in range(LIMIT + 20)}
    assert {row for _, row in follower.drain()} == made

    late = simulator.new_conversation(ACCOUNT.id)  # In the millisecond that was read already.
    assert follower.drain() == [("created", late)]
    clock.now_s += 5
    later = simulator.new_conversation(ACCOUNT.id, at_ms=int(clock.now_s - 14) * 1000)
    assert follower.drain() == [("created", later)]


def test_microseconds_make_a_row_come_again_and_no_change_of_it(simulator, wire, clock):
    simulator.configure(micros=456)
    simulator.new_conversation(ACCOUNT.id)
    follower = Follower(wire, clock)
    assert [kind for kind, _ in follower.drain()] == ["created"]

    assert len(rows(wire, NOW_MS + 1)) == 1  # Strictly after, and printed as equal.
    for _ in range(3):
        clock.now_s += 60
        assert follower.drain() == []


def test_nothing_is_lost_in_a_random_history(simulator, wire, clock):
    dice = random.Random(7)
    simulator.configure(dropped=0, micros=999)
    follower = Follower(wire, clock)
    follower.drain(decide.BASELINE)
    alive = []
    for _ in range(60):
        for _ in range(dice.randrange(40)):
            late_ms = dice.randrange(3000)
            at_ms = int(clock.now_s * 1000) - late_ms
            if not alive or dice.random() < 0.3:
                alive.append(simulator.new_conversation(ACCOUNT.id, at_ms=at_ms))
            else:
                simulator.assign(dice.choice(alive), f"{dice.random()}")
        clock.now_s += dice.choice([0.001, 1, 9])
        follower.drain()
    for _ in range(3):
        clock.now_s += 20
        follower.drain()

    assert {
        (row.id, row.body["assignee"] and row.body["assignee"]["name"]) for row in rows(wire)
    } == {
        (change.row.id, change.row.body["assignee"] and change.row.body["assignee"]["name"])
        for change in {change.row.id: change for change in follower.told}.values()
    }
    assert len(follower.records) == len(alive) > 300


@pytest.mark.parametrize(
    ("found", "ignored"),
    [
        pytest.param([5000, 4000, 4000], False, id="newest first"),
        pytest.param([], False, id="nothing"),
        pytest.param([0], False, id="the instant itself, with microseconds"),
        pytest.param([-SLACK_MS + 1], False, id="within the slack"),
        pytest.param([5000, -SLACK_MS], True, id="older than asked for"),
        pytest.param([4000, 5000], True, id="oldest first"),
    ],
)
def test_an_ignored_filter_is_noticed_and_its_rows_are_used(found, ignored):
    instants = [NOW_MS + ms for ms in found]
    listed = [conversation(f"cnv_{number}", iso(at_ms)) for number, at_ms in enumerate(instants)]
    (page,) = pages(canned(listing(*listed)), NOW_MS + 1)

    assert [row.at_ms for row in page.rows] == instants
    assert [bad.key for bad in page.bad] == ["updated_since"] * ignored


def test_an_ignored_filter_loses_nothing(simulator, wire, clock):
    simulator.configure(ignore_updated_since=True)
    made = fill(simulator, clock, LIMIT + 20)
    follower = Follower(wire, clock)
    follower.drain(decide.BASELINE)
    clock.now_s += 60
    simulator.assign(made[-1])

    assert follower.drain() == [("updated", made[-1])]
    assert [bad.key for page in pages(wire, NOW_MS + 60_000) for bad in page.bad] == (
        ["updated_since"] * 2
    )
    assert [bad for page in pages(wire) for bad in page.bad] == []


def test_a_list_with_nothing_in_it_clears_nothing(simulator, wire, clock):
    follower = begun(simulator, wire, clock)
    fill(simulator, clock, 30)
    follower.drain()
    known, reached_ms = dict(follower.records), follower.reached_ms
    follower.wire = canned(listing())

    for _ in range(3):
        clock.now_s += 60
        assert follower.drain() == []

    assert (follower.records, follower.reached_ms) == (known, reached_ms)
    follower.wire = wire
    assert follower.drain() == []


def test_what_a_false_304_hides_is_told_by_the_next_full_listing(simulator, wire, clock):
    one, other = fill(simulator, clock, 2)
    follower = Follower(wire, clock)
    follower.drain(decide.BASELINE)
    clock.now_s += 5
    simulator.set_status(one, "pending")
    seen = check(wire)
    follower.drain()
    simulator.assign(other, at_ms=int(clock.now_s * 1000))
    clock.now_s += 60
    assert check(wire, seen) is seen

    assert follower.drain(full=True) == [("updated", other)]
    assert follower.drain(full=True) == []


def test_a_deletion_is_told_by_the_second_full_listing(simulator, wire, clock):
    gone = fill(simulator, clock, 3)[1]
    follower = Follower(wire, clock)
    follower.drain(decide.BASELINE)
    simulator.delete_conversation(gone)
    clock.now_s += 60
    assert follower.drain() == []

    assert follower.drain(full=True) == []
    clock.now_s += 60
    assert follower.drain(full=True) == [("deleted", gone)]
    assert follower.told[-1].row.body["contact"]["id"].startswith("ctc_")


def test_what_happened_between_two_drains_is_one_change_with_the_last_state(simulator, wire, clock):
    follower = begun(simulator, wire, clock)
    (made,) = fill(simulator, clock, 1)
    follower.drain()
    for status in ("pending", "resolved", "open", "resolved"):
        clock.now_s += 1
        simulator.set_status(made, status)

    assert follower.drain() == [("updated", made)]
    assert follower.told[-1].row.body["status"] == "resolved"


def test_a_conversation_that_is_back_where_it_was_is_told_as_updated(simulator, wire, clock):
    follower = begun(simulator, wire, clock)
    (made,) = fill(simulator, clock, 1)
    follower.drain()
    for status in ("pending", "open"):
        clock.now_s += 1
        simulator.set_status(made, status)

    assert follower.drain() == [("updated", made)]


def test_a_deletion_and_an_unread_count_are_found_by_a_full_listing_only(simulator, wire, clock):
    gone, read = fill(simulator, clock, 2)
    follower = Follower(wire, clock)
    follower.drain(decide.BASELINE)
    clock.now_s += 60
    fill(simulator, clock, 1)
    follower.drain()
    follower.drain()
    simulator.delete_conversation(gone)
    simulator.mark_read(read)

    assert follower.drain() == []
    assert {row.id: row.body["unread_count"] for row in rows(wire)}[read] == 0
    assert gone not in {row.id for row in rows(wire)}


# Rows of conversations


def test_a_conversation_passes_through(simulator, wire):
    made = simulator.new_conversation(ACCOUNT.id, brandNew={"deep": [1, None, "ü"]})

    (row,) = rows(wire)
    assert (row.id, row.updated_at, row.at_ms) == (made, NOW_ISO, NOW_MS)
    assert (row.type, row.direction, row.deleted, row.final) == ("", "", False, False)
    assert row.body["contact"]["phone_number"] == "+6281234567890"
    assert row.body["assignee"] is None
    assert row.body["brandNew"] == {"deep": [1, None, "ü"]}
    assert row.keep == {"contact": {"id": row.body["contact"]["id"]}}
    assert json.loads(json.dumps(dict(row.body))) == row.body


@pytest.mark.parametrize("nothing", [None, {}, "odd", {"id": None, "name": None}])
def test_a_contact_and_an_assignee_may_be_missing(nothing):
    wire = canned(listing(conversation(contact=nothing, assignee=nothing), conversation("cnv_2")))

    assert len(rows(wire)) == 2


@pytest.mark.parametrize(
    ("updated_at", "at_ms"),
    [
        ("2026-06-21T00:00:00.000Z", NOW_MS),
        ("2026-06-21T00:00:00Z", NOW_MS),
        ("2026-06-21T00:00:00.123999999Z", NOW_MS + 123),
        ("2026-06-21T00:00:00.5Z", NOW_MS + 500),
        ("2026-06-21T07:00:00.001+07:00", NOW_MS + 1),
        ("2026-06-20T17:00:00-0700", NOW_MS),
    ],
)
def test_a_time_is_read_to_the_millisecond_and_kept_verbatim(updated_at, at_ms):
    (row,) = rows(canned(listing(conversation(updated_at=updated_at))))

    assert (row.updated_at, row.at_ms) == (updated_at, at_ms)


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"id": None}, id="no id"),
        pytest.param({"id": ""}, id="empty id"),
        pytest.param({"id": True}, id="id is true"),
        pytest.param({"updated_at": None}, id="no time"),
        pytest.param({"updated_at": NOW_MS}, id="a number for a time"),
        pytest.param({"updated_at": "2026-06-21T00:00:00"}, id="no zone"),
        pytest.param({"updated_at": "2026-06-21 00:00:00Z"}, id="a space for T"),
        pytest.param({"updated_at": "2026-06-21T00:00:60Z"}, id="second 60"),
        pytest.param({"updated_at": "2026-06-21T24:00:00Z"}, id="hour 24"),
        pytest.param({"updated_at": "2026-02-30T00:00:00Z"}, id="Feb 30"),
        pytest.param({"updated_at": "2026-W25-7T00:00:00Z"}, id="a week"),
        pytest.param({"updated_at": "0001-01-01T00:00:00+14:00"}, id="year 1"),
        pytest.param({"updated_at": "9999-12-31T23:59:59-14:00"}, id="year 10000"),
        pytest.param({"updated_at": "2026-06-21T00:00:00.1234567890Z"}, id="ten digits"),
        pytest.param({"updated_at": "2026-06-21T00:00:00Z\n"}, id="a line break"),
        pytest.param({"updated_at": "\uff12026-06-21T00:00:00Z"}, id="a full-width digit"),
        pytest.param({"phone_number_id": "777"}, id="foreign"),
        pytest.param({"whatsapp_account": {"phone_number_id": 777}}, id="foreign below"),
    ],
)
def test_a_bad_row_does_not_stop_its_neighbours(bad):
    found = [conversation("cnv_1"), {**conversation("cnv_2"), **bad}, None, conversation("cnv_3")]
    (page,) = pages(canned(listing(*found)), NOW_MS)

    assert [row.id for row in page.rows] == ["cnv_1", "cnv_3"]
    assert len(page.bad) == 2
    assert "777" not in page.bad[0].reason
    assert check(canned(listing(*found))).raw


def test_a_row_of_the_account_itself_is_fine():
    own = conversation(phone_number_id=int(ACCOUNT.id), whatsapp_account={"phone_number_id": None})

    assert len(rows(canned(listing(own)))) == 1


# Delta: message status


def test_nothing_watched_is_one_empty_page_and_no_request(wire):
    (page,) = pages(wire, stream="message-status")

    assert (page.rows, page.resume, page.whole) == ((), "", False)
    assert wire.sent == []


@pytest.mark.parametrize(
    ("status", "final"),
    [("pending", False), ("sent", False), ("delivered", False), ("read", True), ("failed", True)],
)
def test_a_status_has_a_rank_and_an_end(simulator, wire, status, final):
    sent = simulator.send(simulator.new_conversation(ACCOUNT.id))
    simulator.set_message_status(sent, status, error="131047" if status == "failed" else "")

    (row,) = statuses(wire, sent)
    assert (row.id, row.rank, row.final, row.deleted) == (sent, RANKS[status], final, False)
    assert (row.updated_at, row.at_ms) == (f"{status} {NOW_ISO}", 0)
    assert (row.type, row.direction) == ("", "Outbound")
    assert row.body["status"] == status
    assert row.body["content"] == "Halo"
    assert "request_id" not in row.body


def test_the_ranks_rise():
    assert sorted(RANKS, key=lambda name: RANKS[name]) == [
        "pending",
        "sent",
        "delivered",
        "read",
        "failed",
    ]
    assert max(RANKS.values()) < GONE_RANK


def test_a_status_that_goes_backwards_is_no_change(simulator, wire, clock):
    simulator.configure(out_of_order=True)
    sent = simulator.send(simulator.new_conversation(ACCOUNT.id))
    account = replace(ACCOUNT, watched=frozenset({sent}))
    follower = Follower(wire, clock, account, "message-status")
    told = []
    for status in ("sent", "delivered", "sent", "pending", "delivered", "read"):
        clock.now_s += 20
        simulator.set_message_status(sent, status)
        told.append(follower.drain())

    kinds = [[kind for kind, _ in one] for one in told]
    assert kinds == [["created"], ["updated"], [], [], ["updated"], ["updated"]]
    assert follower.final == {sent}


def test_a_later_status_with_an_earlier_time_is_told_at_once(simulator, wire, clock):
    """A final one is looked at only once: it must not have to be seen again."""
    sent = simulator.send(simulator.new_conversation(ACCOUNT.id))
    account = replace(ACCOUNT, watched=frozenset({sent}))
    follower = Follower(wire, clock, account, "message-status")
    simulator.set_message_status(sent, "delivered", at_ms=NOW_MS + 5000)
    follower.drain()
    simulator.set_message_status(sent, "read", at_ms=NOW_MS + 1000)

    assert follower.drain() == [("updated", sent)]


def test_failed_after_sent_is_legal_and_the_end(simulator, wire, clock):
    sent = simulator.send(simulator.new_conversation(ACCOUNT.id))
    follower = Follower(wire, clock, replace(ACCOUNT, watched=frozenset({sent})), "message-status")
    simulator.set_message_status(sent, "sent")
    follower.drain()
    simulator.set_message_status(sent, "failed", error="131047")

    assert follower.drain() == [("updated", sent)]
    assert follower.told[-1].row.body["error"] == {"code": "131047"}
    assert follower.final == {sent}


def test_a_watched_message_that_is_deleted_is_gone_for_good(simulator, wire, clock):
    sent = simulator.send(simulator.new_conversation(ACCOUNT.id))
    simulator.set_message_status(sent, "delivered")
    follower = Follower(wire, clock, replace(ACCOUNT, watched=frozenset({sent})), "message-status")
    follower.drain()
    clock.now_s += 20
    simulator.delete_message(sent)

    assert follower.drain() == [("deleted", sent)]
    assert follower.final == {sent}
    assert follower.drain() == []


def test_an_id_that_never_was_a_message_is_told_as_deleted(wire, clock):
    account = replace(ACCOUNT, watched=frozenset({MESSAGE}))
    follower = Follower(wire, clock, account, "message-status")

    assert follower.drain() == [("deleted", MESSAGE)]
    (row,) = statuses(wire, MESSAGE)
    assert (row.at_ms, row.body, row.final) == (NOW_MS, {"id": MESSAGE}, True)


def test_every_watched_message_is_fetched_some_on_a_page(simulator, wire):
    written_to = simulator.new_conversation(ACCOUNT.id)
    sent = {simulator.send(written_to) for _ in range(2 * WATCHED_MAX + 1)}
    account = replace(ACCOUNT, watched=frozenset(sent))
    found = pages(wire, account=account, stream="message-status")

    assert [len(page.rows) for page in found] == [WATCHED_MAX, WATCHED_MAX, 1]
    assert {row.id for page in found for row in page.rows} == sent
    assert not any(page.whole for page in found)
    rest = pages(wire, None, found[0].resume, account, "message-status")
    assert [page.rows for page in rest] == [page.rows for page in found[1:]]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param({}, id="nothing in it"),
        pytest.param({"id": MESSAGE}, id="no status"),
        pytest.param(message(""), id="an empty status"),
        pytest.param(message(7), id="a number"),
        pytest.param(message("x" * 65), id="a long status"),
        pytest.param(message("\ud800"), id="half a character"),
        pytest.param({"id": "msg_2", "status": "sent"}, id="another message"),
        pytest.param(message(phone_number_id="777"), id="foreign"),
        pytest.param(b"<html>", id="html"),
    ],
)
def test_a_message_that_cannot_be_read_is_recorded(answer):
    account = replace(ACCOUNT, watched=frozenset({MESSAGE}))
    (page,) = pages(canned(answer), account=account, stream="message-status")

    assert [bad.id for bad in page.bad] == [MESSAGE]
    assert page.rows == ()


def test_a_404_that_speaks_of_something_else_is_no_deletion():
    account = replace(ACCOUNT, watched=frozenset({MESSAGE}))
    for answer in (b"<html>", {"error": "x"}, {"error": {"code": "route_not_found"}}):
        (page,) = pages(canned(answer, status=404), account=account, stream="message-status")
        assert (page.rows, [bad.id for bad in page.bad]) == ((), [MESSAGE])


@pytest.mark.parametrize("answer", [message("sent"), {"data": message("sent"), "request_id": "r"}])
def test_a_message_is_read_bare_or_under_data(answer):
    (row,) = rows(
        canned(answer),
        account=replace(ACCOUNT, watched=frozenset({MESSAGE})),
        stream="message-status",
    )

    assert (row.body, row.updated_at, row.rank) == (message("sent"), "sent", 1)


def test_an_unknown_status_passes_through_and_overtakes_none():
    (row,) = rows(
        canned(message("played", direction="inbound")),
        account=replace(ACCOUNT, watched=frozenset({MESSAGE})),
        stream="message-status",
    )

    assert (row.body["status"], row.rank, row.final) == ("played", 0, False)
    assert row.direction == "Inbound"


def test_no_signature_of_an_address_is_published():
    (row,) = rows(
        canned(message(media_url="https://m.invalid/1.jpg?sig=canary")),
        account=replace(ACCOUNT, watched=frozenset({MESSAGE})),
        stream="message-status",
    )

    assert row.body["media_url"] == "https://m.invalid/1.jpg"
    assert "media_url" in Kirimdev.streams["message-status"].volatile


@pytest.mark.parametrize(
    ("kind", "error"), [("429", RateLimited), ("401", Rejected), ("503", Unavailable)]
)
def test_a_failed_look_at_a_message_has_a_name(simulator, wire, kind, error):
    simulator.fail_next(f"/v1/{ACCOUNT.id}/messages", kind)

    with pytest.raises(error):
        statuses(wire, MESSAGE)


# The simulator itself


def ask(simulator, path=LIST, key=KEY, etag="", **query):
    headers = {"authorization": f"Bearer {key}"} | ({"if-none-match": etag} if etag else {})
    status, more, body = simulator.handle("GET", path, query, headers, b"")
    return status, more, json.loads(body) if body else None


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "1.5", ""])
def test_the_simulator_refuses_a_limit(simulator, limit):
    status, headers, body = ask(simulator, limit=limit)

    assert (status, body["error"]["code"]) == (400, "invalid_limit")
    assert body["error"]["request_id"] == headers["x-request-id"]
    assert "x-ratelimit-remaining" in headers


def test_the_simulator_binds_a_cursor_to_its_query(simulator, clock):
    fill(simulator, clock, 5)
    since = "2026-06-01T00:00:00Z"
    cursor = ask(simulator, limit="2", updated_since=since)[2]["next_cursor"]

    assert ask(simulator, limit="2", updated_since=since, cursor=cursor)[0] == 200
    for query in ({}, {"updated_since": NOW_ISO}, {"updated_since": since, "status": "open"}):
        status, _, body = ask(simulator, limit="2", cursor=cursor, **query)
        assert (status, body["error"]["code"]) == (400, "invalid_cursor")
    tampered = ("A" if cursor[0] != "A" else "B") + cursor[1:]
    assert ask(simulator, limit="2", updated_since=since, cursor=tampered)[0] == 400


def test_the_simulator_filters_and_sorts(simulator, clock):
    third, second, first = fill(simulator, clock, 3)
    clock.now_s += 1
    simulator.set_status(first, "resolved")

    listed = [row["id"] for row in ask(simulator)[2]["data"]]
    changed = [row["id"] for row in ask(simulator, updated_since=NOW_ISO)[2]["data"]]
    resolved = [row["id"] for row in ask(simulator, status="resolved")[2]["data"]]
    assert (listed, changed) == ([third, second, first], [first, third, second])
    assert resolved == [first]
    assert ask(simulator, status="odd")[0] == 400
    assert ask(simulator, updated_since="yesterday")[0] == 400


def test_the_simulator_caches_each_query_for_itself(simulator, clock):
    simulator.configure(dropped=0)
    assert ask(simulator)[2]["data"] == []
    simulator.new_conversation(ACCOUNT.id)

    assert ask(simulator)[2]["data"] == []
    assert len(ask(simulator, limit="26")[2]["data"]) == 1
    clock.now_s += 8
    assert len(ask(simulator)[2]["data"]) == 1


def test_the_simulator_says_who_one_is(simulator):
    assert ask(simulator, "/v1/me")[2]["rate_limits"] == {"read_per_minute": 600}
    assert ask(simulator, "/v1/accounts")[2]["data"] == [{"phone_number_id": ACCOUNT.id}]
    assert ask(simulator, key="nonsense")[2]["error"]["code"] == "invalid_api_key"
    simulator.expire_key(KEY)
    assert ask(simulator)[2]["error"]["code"] == "expired_api_key"


def test_the_simulator_takes_a_token_for_a_304_too(simulator):
    etag = ask(simulator)[1]["etag"]
    before = int(ask(simulator)[1]["x-ratelimit-remaining"])
    status, headers, _ = ask(simulator, etag=etag)

    assert (status, int(headers["x-ratelimit-remaining"])) == (304, before - 1)
    simulator.spend("org")
    status, headers, _ = ask(simulator, etag=etag)
    assert (status, headers["retry-after"]) == (429, "1")


def test_the_simulator_keeps_a_journal_and_is_operated_from_outside(simulator):
    body = json.dumps({"call": "new_conversation", "args": {"account": ACCOUNT.id}}).encode()
    answer = control(simulator, "POST", "/_sim/", {"content-type": "application/json"}, body)
    made = json.loads(answer[2])["result"]
    simulator.set_message_status(simulator.send(made), "sent")

    assert [(change.stream, change.kind) for change in simulator.journal] == [
        ("conversations", "created"),
        ("conversations", "updated"),
        ("message-status", "created"),
        ("message-status", "updated"),
    ]
    with pytest.raises(ValueError, match="none of"):
        simulator.configure(clock=None)


def test_the_sample_is_the_one_of_the_documentation():
    assert iso_ms("2026-06-19T11:00:00.000Z", "updated_at") == SAMPLE_MS
    simulator = Simulator(lambda: NOW_S)
    status, headers, body = ask(simulator, f"/v1/{SAMPLE_ACCOUNT}/conversations", SAMPLE_KEY)

    assert (status, headers["etag"], simulator.journal) == (200, SAMPLE_ETAG, [])
    assert body["data"][0]["updated_at"] == "2026-06-19T11:00:00.000Z"
