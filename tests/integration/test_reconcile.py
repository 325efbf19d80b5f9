"""
What a provider does not say is found by the clock: everything is listed once more, now and then.

The provider is one made up for these tests, with two traps of real ones: it deletes without a
tombstone, and its check says that nothing changed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any

import pytest
from pollwire import wiring
from pollwire.errors import Malformed, Restart
from pollwire.events import iso
from pollwire.exchange import Request
from pollwire.http import Hosts
from pollwire.marks import FULL, element
from pollwire.model import Connection, DeltaJob, Page, Row, Seen, Start, Stream
from pollwire.providers import canonical_id, rows_of

from tests.integration.system import ANN, BOB, Http

HOST = "https://api.shelf.example"
STEP_S = 600
PERIOD_S = 3600
CONNECTION = Connection("shop", "shelf", interval_s=STEP_S, slowest_s=STEP_S)
LISTED = Stream(overlap_s=60, cache_s=30, reconcile_s=PERIOD_S)

# Of the queues that the template makes.
LIST, TOKENS, WHOLE = "contact", "entry", "greeting"


@dataclass
class Server:
    """
    The provider's side: one shelf of things for all accounts.

    Attributes:
        buried: Tombstones, which are shown to who has a token, and in no listing.

        mark: What a check is told. Nothing but :meth:`put` moves it.

        asked: Path, parameters, If-None-Match and status of every request.

        limited: Path and account that are asked to slow down.
    """

    clock: Any
    things: dict[str, dict[str, Any]] = field(default_factory=dict)
    buried: list[dict[str, Any]] = field(default_factory=list)
    mark: int = 0
    whole: bool = True
    token: int = 1
    limited: tuple[str, str] | None = None
    asked: list[tuple[str, dict[str, str], str, int]] = field(default_factory=list)

    def put(self, identity: str, **fields: Any) -> None:
        self.things[identity] = {"id": identity, "at": self.clock(), **fields}
        self.mark += 1

    def bury(self, identity: str) -> None:
        self.buried.append({**self.things.pop(identity), "gone": True})

    def handle(self, method, path, query, headers, body):
        validator = headers.get("if-none-match", "")
        status, found = self._answer(path, query, validator)
        self.asked.append((path, dict(query), validator, status))
        answer = {"etag": f'"{self.mark}"', "retry-after": "900"}
        return status, answer, b"" if status == 304 else json.dumps(found).encode()

    def _answer(self, path, query, validator):
        if (path, query["account"]) == self.limited:
            return 429, {}
        if path == "/check":
            return (304 if validator == f'"{self.mark}"' else 200), {"mark": str(self.mark)}
        if query.get("token", str(self.token)) != str(self.token):
            return 410, {}
        since_ms = int(query.get("since", 0))
        rows = [one for one in self.things.values() if one.get("at", since_ms) >= since_ms]
        rows += self.buried if "token" in query else []
        return 200, {"rows": rows, "whole": self.whole, "token": str(self.token)}

    def checks(self) -> list[tuple[str, int]]:
        """Validator and status of every check."""
        return [
            (validator, status) for path, _, validator, status in self.asked if path == "/check"
        ]

    def listings(self) -> int:
        return sum(path == "/rows" and "since" not in query for path, query, _, _ in self.asked)


class Shelf:
    """
    The module of that provider.

    Attributes:
        watched: What each call was told to watch.

        starts: Where each delta started.

        length: Rows of a page.
    """

    name = "shelf"
    check_needs_credential = False
    fastest_s = 1

    def __init__(self) -> None:
        self.hosts = {"api": HOST}
        self.streams = {LIST: LISTED}
        self.shares_rate = False
        self.length = 1000
        self.watched: list[set[str]] = []
        self.starts: list[Start] = []

    def check(self, account, seen):
        self.watched.append(set(account.watched))
        headers = {"If-None-Match": seen.etag} if seen.etag else {}
        answer = yield self._request(account, "check", headers=headers, expect={200, 304})
        if answer.status == 304:
            return seen
        raw = answer.json()["mark"]
        return Seen(raw, answer.headers["etag"])

    def marks(self, account, raw):
        return dict.fromkeys(self.streams, raw)

    def delta(self, account, stream, start, fetch):
        self.watched.append(set(account.watched))
        self.starts.append(start)
        query = {} if start.since_ms is None else {"since": str(start.since_ms)}
        if start.cursor:
            query = {"token": start.cursor}
        answer = fetch(self._request(account, "rows", query, expect={200, 410}))
        if answer.status == 410:
            raise Restart("the token is no longer valid")
        found = answer.json()
        rows, bad = rows_of(found["rows"], "rows", self._row)
        cursor = found["token"] if stream == TOKENS else ""
        first = int(start.resume or 0)
        for end in range(first + self.length, len(rows), self.length):
            yield Page(rows[first:end], resume=str(end), whole=found["whole"])
            first = end
        yield Page(rows[first:], bad, cursor=cursor, whole=found["whole"])

    def _request(self, account, path, query=None, *, headers=None, expect):
        query = {"account": account.id, **(query or {})}
        url = f"{account.hosts['api']}/{path}"
        return Request(url, query=query, headers=headers or {}, expect=frozenset(expect))

    def _row(self, raw):
        identity = canonical_id(raw.get("id"))
        if "at" not in raw:
            raise Malformed("at: it is missing")
        at_ms = raw["at"]
        deleted, final = raw.get("gone", False), raw.get("final", False)
        return Row(identity, str(at_ms), at_ms, {"id": identity}, deleted, final=final)


@pytest.fixture
def provider():
    return Shelf()


@pytest.fixture
def server(system, monkeypatch, provider):
    """The provider's side of a system that knows no other provider, its one account settled."""
    server = Server(system.clock)
    built = wiring.build

    def build(settings):
        hosts = Hosts([HOST])
        http = Http(hosts, server, system.clock)
        providers = {provider.name: provider}
        return replace(built(settings), providers=providers, hosts=hosts, http=http)

    monkeypatch.setattr(wiring, "build", build)
    wiring.world.cache_clear()
    for identity in "abc":
        server.put(identity)
    system.connect(CONNECTION)
    system.add_account(ANN)
    return server


def settle(system):
    """Have everything recorded; then forget what was asked."""
    system.poll(STEP_S)
    system.poll(STEP_S)
    assert system.pending() == set()
    assert system.said() == []
    system.http.asked.clear()


def told_in(system, seconds):
    """Poll for a while; return what was said."""
    said = []
    for _ in range(seconds // STEP_S):
        assert system.poll(STEP_S) == 0
        said += system.said()
    return said


def miss(system, stream=LIST):
    """Poll until something is missing for the first time; return its records."""
    for _ in range(PERIOD_S // STEP_S):
        system.poll(STEP_S)
        missing = {
            identity: one for identity, one in system.records(stream).items() if one.missing_ms
        }
        if missing:
            assert system.said() == []
            return missing
    raise AssertionError("nothing was missing within a period")


# Deletions without a word


def test_what_went_without_a_word_is_found_by_the_clock(system, server):
    settle(system)
    del server.things["b"]
    checked = len(server.checks())

    said = told_in(system, 3 * PERIOD_S)

    assert said == [("contact", "deleted", "b")]
    answers = server.checks()[checked:]
    assert {status for validator, status in answers if validator} == {304}
    assert [status for validator, status in answers if not validator] == [200] * 3


def test_two_sightings_lie_a_caches_lifetime_apart(system, server):
    settle(system)
    del server.things["b"]
    assert set(miss(system)) == {"b"}

    system.poll(LISTED.cache_s - 1)
    early = system.said()
    system.poll(1)
    in_time = system.said()

    assert early == []
    assert in_time == [("contact", "deleted", "b")]
    assert told_in(system, 2 * PERIOD_S) == []


@pytest.mark.parametrize("trouble", ["nobody polled", "refused"])
def test_a_listing_whose_instant_was_missed_is_made_up_for(system, server, trouble):
    settle(system)
    del server.things["b"]
    before = server.listings()
    if trouble == "refused":
        server.limited = ("/check", ANN)
        told_in(system, 2 * PERIOD_S)
        server.limited = None
    else:
        system.clock.advance(2 * PERIOD_S)
    assert server.listings() == before

    assert ("contact", "deleted", "b") in told_in(system, 4 * STEP_S)


def test_the_second_look_does_not_wait_for_the_next_period(system, server):
    settle(system)
    del server.things["b"]
    miss(system)

    assert system.pending() == {"contact"}
    assert told_in(system, STEP_S) == [("contact", "deleted", "b")]
    told_in(system, STEP_S)
    assert system.pending() == set()


def test_the_second_look_at_a_stream_that_is_listed_anyway_does_not_wait_either(
    system, server, provider
):
    """It has no mark pending that would have it listed again."""
    provider.streams = {WHOLE: replace(LISTED, snapshot=True)}
    settle(system)
    del server.things["b"]
    miss(system, WHOLE)

    assert told_in(system, STEP_S) == [("greeting", "deleted", "b")]


def test_what_is_missing_once_and_comes_back_was_never_gone(system, server):
    settle(system)
    kept = server.things.pop("b")
    miss(system)
    server.things["b"] = kept

    said = told_in(system, 3 * PERIOD_S)

    assert said == []
    assert system.records(LIST)["b"].missing_ms == 0
    assert system.pending() == set()


def test_what_comes_back_unreadable_was_never_gone_and_is_missed_twice_again(system, server):
    settle(system)
    server.things["b"], kept = {"id": "b"}, server.things.pop("b")
    del server.things["b"]
    miss(system)
    server.things["b"] = {"id": "b"}
    assert told_in(system, 2 * PERIOD_S) == []
    del server.things["b"]

    assert set(miss(system)) == {"b"}

    server.things["b"] = kept
    assert told_in(system, PERIOD_S) == []


def test_a_deletion_is_one_event_and_says_what_was_known(system, server):
    settle(system)
    at_ms = server.things.pop("b")["at"]
    miss(system)
    system.poll(STEP_S)

    (delivery,) = system.deliveries()

    body = delivery.event["body"]
    assert body["changes"] == [{"type": "contact", "deletedCount": 1}]
    assert (body["lastUpdated"], body["record"]) == (iso(at_ms), {"id": "b"})
    assert delivery.attributes["change"] == "deleted"


# Too many at once


@pytest.fixture
def sixty(system, server):
    for number in range(57):
        server.put(f"m{number:02}")
    settle(system)
    assert len(system.records(LIST)) == 60
    return server


def held(logs):
    return sum(line["counts"].get("held", 0) for line in logs() if "counts" in line)


def test_an_empty_listing_is_not_believed_at_once(system, sixty, logs):
    sixty.things.clear()

    assert len(miss(system)) == 60

    listings = sixty.listings()
    assert held(logs) == 60
    assert told_in(system, PERIOD_S - STEP_S) == []
    assert sixty.listings() == listings  # That is no reason to list all the time.
    assert system.pending() == set()


def test_an_empty_listing_is_believed_after_an_hour(system, sixty, logs):
    sixty.things.clear()
    miss(system)

    said = told_in(system, PERIOD_S)

    assert sorted(identity for _, _, identity in said) == sorted(system.records(LIST))
    assert {change for _, change, _ in said} == {"deleted"}
    assert held(logs) == 60
    assert told_in(system, 2 * PERIOD_S) == []


def test_an_outage_that_ends_deletes_nothing(system, sixty):
    kept = dict(sixty.things)
    sixty.things.clear()
    miss(system)
    sixty.things.update(kept)

    assert told_in(system, 3 * PERIOD_S) == []


# Listings that lack something


@pytest.mark.parametrize("lack", ["a page that is not whole", "a row without an id"])
def test_a_listing_that_may_lack_something_deletes_nothing(system, server, lack):
    settle(system)
    del server.things["b"]
    if lack == "a row without an id":
        server.things["?"] = {"at": server.clock()}
    else:
        server.whole = False
    listings = server.listings()

    said = told_in(system, 3 * PERIOD_S)

    assert said == []
    assert server.listings() == listings + 3
    assert not any(one.missing_ms for one in system.records(LIST).values())


def test_a_listing_that_goes_on_in_another_invocation_deletes_nothing(system, server, provider):
    settle(system)
    provider.length = 1
    left_ms = cycle((60_000, 10_000))
    system.remaining_ms = lambda: next(left_ms)

    said = told_in(system, 3 * PERIOD_S)

    assert said == []
    assert {start.resume for start in provider.starts} == {"", "2"}
    assert not any(one.missing_ms for one in system.records(LIST).values())


@pytest.mark.parametrize("lack", ["a page that is not whole", "a row without an id"])
def test_a_listing_that_lacks_something_is_made_once_a_period_all_the_same(system, server, lack):
    settle(system)
    if lack == "a row without an id":
        server.things["?"] = {"at": server.clock()}
    else:
        server.whole = False
    told_in(system, 2 * PERIOD_S)
    listings = server.listings()
    for number in range(PERIOD_S // STEP_S):
        server.put(f"new {number}")
        told_in(system, STEP_S)

    assert server.listings() <= listings + 2


def test_a_row_that_cannot_be_read_is_listed_all_the_same(system, server):
    settle(system)
    del server.things["b"]
    server.things["c"] = {"id": "c"}

    assert told_in(system, 3 * PERIOD_S) == [("contact", "deleted", "b")]


# The instant


def test_a_validator_is_withheld_at_the_instant(system, server):
    """A 304 that lies would lie for ever."""
    settle(system)
    checked, listings = len(server.checks()), server.listings()
    instants = []
    for number in range(2 * PERIOD_S // STEP_S):
        system.poll(STEP_S)
        validator, _ = server.checks()[-1]
        if not validator:
            instants.append(number)
        assert server.listings() == listings + len(instants)

    assert len(server.checks()) == checked + 2 * PERIOD_S // STEP_S
    assert len(instants) == 2
    assert instants[1] - instants[0] == PERIOD_S // STEP_S


def test_a_job_is_queued_though_nothing_is_pending(system, server):
    settle(system)
    before = system.table()
    for _ in range(PERIOD_S // STEP_S):
        system.clock.advance(STEP_S)
        system.check()
        if system.depths():
            break

    assert system.depths() == {"pollwire-deltas-contact.fifo": 1}
    assert system.pending() == set()
    assert system.table() == before
    (message,) = system.receive(system.deltas_url(LIST))
    job = json.loads(message["Body"])
    assert (job["pending"], job["full"]) == ([], True)


def test_a_stream_without_a_period_is_never_listed_again(system, server, provider):
    provider.streams = {LIST: replace(LISTED, reconcile_s=0)}
    settle(system)
    del server.things["b"]
    listings = server.listings()

    assert told_in(system, 2 * PERIOD_S) == []
    assert server.listings() == listings
    # Now and then a validator is not trusted; that lists nothing.
    checks = [validator for validator, _ in server.checks()[-2 * PERIOD_S // STEP_S :]]
    assert checks.count("") == 2 * PERIOD_S // 3600


def queue(system, due_ms, *pending, full):
    system.world.queues.send_deltas([DeltaJob("shop", 0, ANN, LIST, pending, due_ms, full)])
    assert system.run_deltas() == 0


def test_a_drain_of_what_changed_is_no_answer_to_a_job_for_everything(system, server):
    """It waited behind another that was late: that one read past the instant it was due."""
    settle(system)
    del server.things["b"]
    system.clock.advance(10)
    due_ms = system.clock()
    system.clock.advance(90)
    queue(system, due_ms, element(LIST, "5", due_ms), full=False)
    assert system.stream_state(LIST).drained_ms > due_ms + 1

    queue(system, due_ms + 1, full=True)

    assert system.records(LIST)["b"].missing_ms == system.clock()


def test_the_second_look_at_what_changed_starts_where_the_first_did(system, server, provider):
    settle(system)
    reached_ms = system.stream_state(LIST).reached_ms
    system.clock.advance(STEP_S)
    provider.starts.clear()

    server.put("d")
    system.poll(STEP_S)
    system.poll(STEP_S)

    first, second = [one.since_ms for one in provider.starts if one.since_ms is not None][:2]
    assert first <= reached_ms
    assert second <= reached_ms


def test_news_of_a_job_whose_marks_are_gone_is_read_once_more(system, server):
    """It came twice: what differs from what was known may be as before when it is checked."""
    settle(system)
    system.clock.advance(10)
    server.put("new")

    queue(system, system.clock(), element(LIST, "old", system.clock()), full=False)

    assert "new" in system.records(LIST)
    assert system.pending() == {LIST}


def test_a_job_for_everything_that_is_delivered_twice_lists_once(system, server):
    settle(system)
    system.clock.advance(90)
    listings = server.listings()

    for _ in range(2):
        queue(system, system.clock(), full=True)

    assert server.listings() == listings + 1


def test_an_element_asks_for_everything_until_it_is_settled(system, server):
    settle(system)
    system.world.state.ask_again(system.job(LIST), element(LIST, FULL, system.clock()))
    listings = server.listings()

    system.poll(LISTED.overlap_s - 1)
    assert (server.listings(), system.pending()) == (listings + 1, {LIST})
    system.poll(1)

    assert (server.listings(), system.pending()) == (listings + 2, set())


# Watched ids


def test_an_id_is_watched_until_it_is_final_or_its_time_is_over(system, server, provider):
    settle(system)
    now_ms, shop = system.clock(), system.world.state.connection("shop")
    for identity, minutes in (("m1", 600), ("m2", 25), ("m3", 600)):
        system.registry.watch(shop, ANN, identity, now_ms + minutes * 60_000)

    def watched():
        return {one.split("@", 1)[1] for one in system.standing().watched}

    server.put("m1")
    system.poll(STEP_S)
    assert provider.watched[-2:] == [{"m1", "m2", "m3"}] * 2  # its check, its delta
    assert watched() == {"m1", "m2", "m3"}

    server.put("m1", final=True)
    system.poll(STEP_S)
    assert watched() == {"m2", "m3"}

    server.put("m4", final=True)
    system.poll(STEP_S)
    assert provider.watched[-2:] == [{"m3"}] * 2
    assert watched() == {"m3"}

    server.put("m3", final=True)
    system.poll(STEP_S)
    assert watched() == set()


# Asked to slow down


@pytest.mark.parametrize("path", ["/check", "/rows"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared rate", "own rate"])
def test_who_is_asked_to_slow_down(system, server, provider, path, shared):
    """One account, or everybody on the connection if they share a rate: until then, and a bit."""
    provider.shares_rate = shared
    system.add_account(BOB)
    settle(system)
    server.put("d")
    server.limited = (path, ANN)
    told_in(system, STEP_S)
    asked_ms, server.limited = system.clock(), None

    paused_ms = system.world.state.connection("shop").paused_until_ms
    assert paused_ms == (asked_ms + 945_000 if shared else 0)  # 900 s, and half of a tenth more
    assert system.standing(ANN).not_before_ms >= asked_ms + 900_000
    assert system.standing(BOB).not_before_ms == 0

    server.asked.clear()
    system.poll(STEP_S)
    asked = {query["account"] for _, query, _, _ in server.asked}
    assert asked == (set() if shared else {BOB})

    system.poll(2 * STEP_S)
    assert {query["account"] for _, query, _, _ in server.asked} == {ANN, BOB}
    assert ("contact", "created", "d") in system.said()
    assert system.standing(ANN).failures == 0


def test_no_check_is_queued_while_everybody_slows_down(system, server, provider):
    provider.shares_rate = True
    system.sqs.create_queue(QueueName="pollwire-checks-shelf")
    settle(system)
    server.limited = ("/check", ANN)
    system.poll(STEP_S)
    paused_ms = system.world.state.connection("shop").paused_until_ms

    queued = {}
    for _ in range(30):
        before = system.depths().get("pollwire-checks-shelf", 0)
        system.tick(time=iso(system.clock()))
        queued[system.clock()] = system.depths().get("pollwire-checks-shelf", 0) - before
        system.clock.advance(60)

    assert sum(queued.values()) >= 1
    assert not any(checks for at_ms, checks in queued.items() if at_ms + 60_000 <= paused_ms)


# A cursor that is no longer valid


def test_a_deletion_that_a_listing_does_not_show_is_read_from_the_place_before(
    system, server, provider
):
    """The listing alone would settle the mark that speaks of it."""
    provider.streams = {TOKENS: Stream(overlap_s=60)}
    settle(system)
    server.put("m1")
    assert told_in(system, 2 * STEP_S) == [("entry", "created", "m1")]
    server.bury("b")
    for mark in ("5", FULL):
        system.world.state.ask_again(system.job(TOKENS), element(TOKENS, mark, system.clock()))
    provider.starts.clear()

    said = told_in(system, 3 * STEP_S)

    assert said == [("entry", "deleted", "b")]
    assert [one.cursor for one in provider.starts[:2]] == ["", "1"]
    assert system.pending() == set()


def test_a_deletion_that_a_listing_does_not_show_keeps_its_id_after_the_table_was_restored(
    system, server, provider
):
    provider.streams = {TOKENS: LISTED}
    server.whole = False
    settle(system)
    kept = system.table()
    server.bury("b")
    server.mark += 1
    system.poll(STEP_S)
    (told,) = system.deliveries()

    for (_, sk), item in kept.items():
        home = {"home": {"S": "the-former-table"}} if sk == "cursor" else {}
        system.dynamodb.put_item(TableName=system.environment["TABLE_NAME"], Item=item | home)
    system.world.state.ask_again(system.job(TOKENS), element(TOKENS, FULL, system.clock()))
    system.poll(STEP_S)

    assert [one.event["uuid"] for one in system.deliveries()] == [told.event["uuid"]]
    assert not system.stream_state(TOKENS).is_restored


def test_what_a_listing_doubts_is_listed_again_though_the_place_before_it_is_void(
    system, server, provider
):
    provider.streams = {TOKENS: Stream(overlap_s=60)}
    settle(system)
    server.things["a"]["at"] -= 1_000_000
    server.token = 2
    system.world.state.ask_again(system.job(TOKENS), element(TOKENS, FULL, system.clock()))

    assert told_in(system, 3 * STEP_S) == [("entry", "updated", "a")]
    assert system.pending() == set()


def test_an_expired_token_is_made_up_for_and_repeats_nothing(system, server, provider):
    provider.streams = {TOKENS: Stream(overlap_s=60)}
    settle(system)
    server.put("m1")
    assert told_in(system, 2 * STEP_S) == [("entry", "created", "m1")]
    assert system.stream_state(TOKENS).place == "1"
    reached_ms = system.stream_state(TOKENS).reached_ms
    provider.starts.clear()
    server.token = 2
    server.put("m2")

    said = told_in(system, STEP_S)

    first, second = provider.starts
    assert (first.cursor, second.cursor) == ("1", "")
    assert first.since_ms == second.since_ms <= reached_ms - 60_000
    assert said == [("entry", "created", "m2")]
    assert system.stream_state(TOKENS).place == "2"
    assert told_in(system, 2 * STEP_S) == []
    assert {start.cursor for start in provider.starts[2:]} <= {"2"}
