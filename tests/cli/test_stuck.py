"""Why a stream does not come on, in one sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pollwire import marks
from pollwire.items import Drain, Listing, Standing, StreamListing, StreamState
from pollwire.model import Connection, Event, Stream
from pollwire.registry import FOREVER_MS
from pollwire_cli.stuck import Facts, hindrance, why

NOW_MS = 1_800_000_000_000
LATER_MS = NOW_MS + 60_000
LATER = "2027-01-15T08:01:00.000Z"
SHOP = Connection("shop", "youmail", interval_s=60, slowest_s=900)
READ = StreamState(version=3, drained_ms=NOW_MS - 300_000)
EVENT = Event("u", "{}", {}, "g", "e")


def pending(age_s, mark="5"):
    return (marks.element("entry", mark, NOW_MS - age_s * 1000),)


def facts(*, connection=SHOP, account="", state=READ, trouble="", elements=(), **standing):
    """What the table says of a stream that nothing is wrong with, but for what is given."""
    listing = Listing("7", 0, Standing("7", **standing), account)
    stream = StreamListing(state, trouble)
    return Facts(connection, listing, Stream(overlap_s=60), stream, elements, NOW_MS)


def failing(name, **fields):
    return facts(account=f"{name}: api.example: 401", failures=2, not_before_ms=LATER_MS, **fields)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        pytest.param(facts(), "", id="nothing"),
        pytest.param(
            facts(connection=replace(SHOP, paused_until_ms=FOREVER_MS)),
            "connection paused: pollwire connections resume shop",
            id="connection paused by an operator",
        ),
        pytest.param(
            facts(connection=replace(SHOP, paused_until_ms=LATER_MS)),
            f"connection paused until {LATER}, as its rate budget is used up",
            id="connection paused by its provider",
        ),
        pytest.param(
            facts(connection=replace(SHOP, paused_until_ms=NOW_MS)), "", id="pause is over"
        ),
        pytest.param(
            facts(connection=replace(SHOP, outages=3, paused_until_ms=LATER_MS)),
            "provider does not answer anybody: now and then one shard asks for all",
            id="outage",
        ),
        pytest.param(
            facts(paused=True), "paused: pollwire accounts resume 7 --connection shop", id="paused"
        ),
        pytest.param(
            failing("Rejected"),
            f"credential refused: api.example: 401; the account is left alone until {LATER}",
            id="refused",
        ),
        pytest.param(
            failing("Unavailable"),
            "provider does not answer: api.example: 401; the account is left alone until " + LATER,
            id="no answer",
        ),
        pytest.param(
            facts(not_before_ms=LATER_MS),
            f"rate budget used up: the account is left alone until {LATER}",
            id="budget of the account",
        ),
        pytest.param(
            facts(state=replace(READ, failures=1, not_before_ms=LATER_MS), trouble="Forbidden: x"),
            f"the provider refuses this stream: x; the stream is left alone until {LATER}",
            id="stream refused",
        ),
        pytest.param(
            facts(state=replace(READ, failures=1), trouble="Malformed: x"),
            "the provider's answer cannot be read: x; it is tried again at the account's next "
            "check",
            id="tried again",
        ),
        pytest.param(
            facts(state=replace(READ, failures=1), trouble=""),
            "it failed, and nothing says why; it is tried again at the account's next check",
            id="no reason",
        ),
        pytest.param(
            facts(state=replace(READ, failures=1), trouble="KeyError"),
            "KeyError; it is tried again at the account's next check",
            id="a reason without a meaning",
        ),
        pytest.param(
            facts(state=replace(READ, outbox=(EVENT, EVENT))),
            "decided and not published yet: 2; if that lasts, a job waits or failed: see pollwire "
            "redrive",
            id="outbox",
        ),
        pytest.param(
            facts(state=replace(READ, drain=Drain("live", 0, "", "p", 0, LATER_MS, pages=4))),
            f"a long list is being read: 4 pages since {LATER}",
            id="long list",
        ),
        pytest.param(facts(elements=pending(30)), "a job for it is on its way", id="job"),
        pytest.param(
            facts(elements=pending(30, marks.replay(5))), "a job for it is on its way", id="order"
        ),
        pytest.param(
            facts(elements=pending(2000), state=StreamState()),
            "a job waits or failed, or no check is made: see pollwire redrive, pollwire doctor",
            id="no job",
        ),
        pytest.param(
            facts(elements=pending(400)),
            "read already; it is read once more when late rows have settled",
            id="settles",
        ),
        pytest.param(
            facts(elements=pending(4000)),
            "waits for the second sighting: what was seen must be seen again to be believed",
            id="second sighting",
        ),
        pytest.param(
            facts(state=StreamState()),
            "it was never read: no check has reported it yet",
            id="never read",
        ),
        pytest.param(
            facts(state=None),
            "the stream's cursor item cannot be read: correct it in the state table",
            id="broken stream",
        ),
        pytest.param(
            replace(facts(), account=Listing("7", 0, None)),
            "the account's item cannot be read: remove the account and add it again",
            id="broken account",
        ),
    ],
)
def test_what_is_in_the_way_is_said(found, said):
    assert why(found) == said


def test_what_stops_more_is_said_first():
    found = failing("Rejected", state=replace(READ, failures=1), elements=pending(5), paused=True)
    assert why(found).startswith("paused")

    both = replace(found, connection=replace(SHOP, paused_until_ms=FOREVER_MS))
    assert why(both).startswith("connection paused")


def test_a_stream_that_fails_hinders_no_account():
    found = facts(state=replace(READ, failures=1), trouble="Malformed: x")

    assert hindrance(found.connection, found.account, NOW_MS) == ""


def test_an_instant_that_no_calendar_has_is_said_all_the_same():
    assert "9999-12-31" in why(facts(not_before_ms=10**17))
