"""What was changed at the provider beside what was received."""

from __future__ import annotations

import pytest

from local.ledger import Ledger, Made

VOICEMAIL = "7", "entry", "e1"
CONTACT = "7", "contact", "c1"
SETTINGS = "7", "settings", "settings"
CALL = "7", "presence", "s-1:p-1"
STATE = "7", "presence", "presence"
LEG = {"telephonySessionId": "s-1", "partyId": "p-1", "id": "c1", "sessionId": "1"}


def made(entity, kind="created", at_ms=1_000, **shows):
    return Made(entity, kind, at_ms, shows)


def event(entity, change="created", uuid="u1", **record):
    account, stream, identity = entity
    body = {"accountId": "somebody's", "stream": stream, "change": change}
    # A record without an id is the only one of its stream.
    body["record"] = record if identity == stream else {"id": identity, **record}
    return {"uuid": uuid, "ownerId": account, "body": body}


def flat(change="updated", uuid="u1", **fields):
    """Make an event without a record: the fields of presence lie in the body itself."""
    body = {"accountId": "somebody's", "stream": "presence", "change": change, **fields}
    return {"uuid": uuid, "ownerId": "7", "body": body}


def told(history, now_ms=2_000):
    """Make a ledger of changes and events in the order they happened."""
    ledger = Ledger()
    for one in history:
        if isinstance(one, Made):
            ledger.made(one)
        else:
            ledger.received(one, now_ms)
    return ledger


def standing(ledger):
    """Say what a ledger tells, by the names a run's summary uses; what is 0 is left out."""
    outstanding = [(change.kind, *change.entity) for change in ledger.outstanding()]
    counts = {
        "events": ledger.events,
        "beside": ledger.unasked,
        "lost": outstanding,
        "repeated": ledger.repeated,
        "coalesced": sum(change.is_coalesced for change in ledger.changes),
    }
    return {name: count for name, count in counts.items() if count}


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        pytest.param([], {}, id="nothing"),
        pytest.param([made(VOICEMAIL), event(VOICEMAIL)], {"events": 1}, id="created"),
        pytest.param(
            [made(CONTACT, "updated", firstName="Bob"), event(CONTACT, "updated", firstName="Bob")],
            {"events": 1},
            id="updated",
        ),
        pytest.param(
            [made(VOICEMAIL, "deleted"), event(VOICEMAIL, "deleted")], {"events": 1}, id="deleted"
        ),
        pytest.param(
            [made(SETTINGS, "updated", mode=1), event(SETTINGS, "updated", mode=1)],
            {"events": 1},
            id="without an id it is its stream's only record",
        ),
        pytest.param(
            [made(VOICEMAIL)], {"lost": [("created", *VOICEMAIL)]}, id="created, and never told"
        ),
        pytest.param(
            [made(VOICEMAIL), event(VOICEMAIL), made(VOICEMAIL, "deleted")],
            {"events": 1, "lost": [("deleted", *VOICEMAIL)]},
            id="deleted, and never told",
        ),
        pytest.param(
            [made(VOICEMAIL, "deleted"), event(VOICEMAIL, "updated")],
            {"events": 1, "beside": 1, "lost": [("deleted", *VOICEMAIL)]},
            id="an update is no deletion",
        ),
        pytest.param(
            [made(VOICEMAIL, "updated"), event(VOICEMAIL, "deleted")],
            {"events": 1, "beside": 1, "lost": [("updated", *VOICEMAIL)]},
            id="a deletion is no update",
        ),
        pytest.param(
            [made(CONTACT, "updated", firstName="Bob"), event(CONTACT, "updated", firstName="Al")],
            {"events": 1, "beside": 1, "lost": [("updated", *CONTACT)]},
            id="an event that shows something else answers nothing",
        ),
        pytest.param(
            [made(CONTACT, "updated", firstName="Bob"), event(CONTACT, "updated")],
            {"events": 1, "beside": 1, "lost": [("updated", *CONTACT)]},
            id="an event that does not show it answers nothing",
        ),
        *(
            pytest.param(
                [made(VOICEMAIL), event(other)],
                {"events": 1, "beside": 1, "lost": [("created", *VOICEMAIL)]},
                id=f"an event of another {what} answers nothing",
            )
            for what, other in {
                "account": ("8", "entry", "e1"),
                "stream": ("7", "history", "e1"),
                "record": ("7", "entry", "e2"),
            }.items()
        ),
        pytest.param(
            [made(VOICEMAIL), made(CONTACT), event(CONTACT)],
            {"events": 1, "lost": [("created", *VOICEMAIL)]},
            id="one of two",
        ),
        pytest.param(
            [made(CONTACT), made(CONTACT, "updated", firstName="Bob"), event(CONTACT)],
            {"events": 1, "lost": [("updated", *CONTACT)]},
            id="an early event answers what came before it only",
        ),
        pytest.param(
            [
                made(CONTACT),
                made(CONTACT, "updated", firstName="Bob"),
                event(CONTACT, firstName="Bob"),
            ],
            {"events": 1, "coalesced": 1},
            id="overwritten before anybody polled it",
        ),
        pytest.param(
            [
                made(CONTACT),
                made(CONTACT, "updated", firstName="Al"),
                event(CONTACT, uuid="u1"),
                made(CONTACT, "updated", firstName="Bob"),
                event(CONTACT, "updated", uuid="u2", firstName="Bob"),
            ],
            {"events": 2, "coalesced": 1},
            id="overwritten after the first of them was told",
        ),
        pytest.param(
            [made(VOICEMAIL), made(VOICEMAIL, "deleted"), event(VOICEMAIL, "deleted")],
            {"events": 1, "coalesced": 1},
            id="gone before anybody polled it",
        ),
        pytest.param(
            [
                event(SETTINGS, "updated", mode=1),
                made(SETTINGS, "updated", mode=2),
                made(SETTINGS, "updated", mode=1),
            ],
            {"events": 1, "beside": 1, "coalesced": 2},
            id="changed and changed back between two polls",
        ),
        pytest.param(
            [event(SETTINGS, "updated", mode=1), made(SETTINGS, "updated", mode=2)],
            {"events": 1, "beside": 1, "lost": [("updated", *SETTINGS)]},
            id="the last event is not right any more",
        ),
        pytest.param(
            [made(VOICEMAIL), event(VOICEMAIL), event(VOICEMAIL)],
            {"events": 1, "repeated": 1},
            id="repeated",
        ),
        pytest.param(
            [made(VOICEMAIL), event(VOICEMAIL), made(VOICEMAIL, "updated", a=1), event(VOICEMAIL)],
            {"events": 1, "repeated": 1, "lost": [("updated", *VOICEMAIL)]},
            id="a repeated event answers nothing",
        ),
        pytest.param([event(VOICEMAIL)], {"events": 1, "beside": 1}, id="nobody changed anything"),
        pytest.param(
            [
                made(CALL, status="Ringing"),
                flat("created", activeCalls=[{**LEG, "status": "Ringing"}]),
            ],
            {"events": 1},
            id="a call is told by its session and party",
        ),
        pytest.param(
            [
                made(("7", "presence", "1:c1")),
                flat("created", activeCalls=[{"sessionId": "1", "id": "c1"}]),
            ],
            {"events": 1},
            id="or by what else it has for them",
        ),
        pytest.param(
            [
                made(CALL),
                made(CALL, "deleted"),
                flat("deleted", id="s-1:p-1", activeCalls=[{**LEG, "inferred": True}]),
            ],
            {"events": 1, "coalesced": 1},
            id="a call that was over before anybody polled it",
        ),
        pytest.param(
            [
                made(CALL, "updated", status="OnHold"),
                flat(activeCalls=[{**LEG, "status": "Ringing"}], status="OnHold"),
            ],
            {"events": 1, "beside": 1, "lost": [("updated", *CALL)]},
            id="what is said of a call is said in it",
        ),
        pytest.param(
            [made(STATE, "updated", dndStatus="x"), flat(state={"dndStatus": "x"})],
            {"events": 1},
            id="a user's state",
        ),
        pytest.param(
            [made(STATE, "updated"), flat(activeCalls=[LEG], state={"dndStatus": "x"})],
            {"events": 1, "beside": 1, "lost": [("updated", *STATE)]},
            id="a call is no user's state",
        ),
    ],
)
def test_each_change_is_answered_coalesced_or_lost(history, expected):
    assert standing(told(history)) == expected


def test_what_is_outstanding_is_no_less_so_for_having_been_asked():
    ledger = told([made(VOICEMAIL), made(CONTACT)])
    assert ledger.outstanding() == ledger.outstanding() == ledger.changes

    ledger.received(event(VOICEMAIL), 2_000)
    assert standing(ledger) == {"events": 1, "lost": [("created", *CONTACT)]}


@pytest.mark.parametrize(
    ("at_ms", "now_ms", "shown"),
    [
        pytest.param(1_000, 2_500, "1.5", id="as long as it took"),
        pytest.param(9_000, 9_400, "0.4", id="a late row, from when it could be read"),
        pytest.param(9_000, 8_000, "0.0", id="a late row that was shown early"),
    ],
)
def test_the_wait_of_one_change(at_ms, now_ms, shown):
    ledger = told([made(VOICEMAIL, at_ms=at_ms), event(VOICEMAIL)], now_ms)

    assert ledger.summary(1).endswith(f"median {shown} s, p99 {shown} s")


def waited(*waits_ms):
    ledger = Ledger()
    for number, wait_ms in enumerate(waits_ms):
        entity = "7", "entry", f"e{number}"
        ledger.made(made(entity, at_ms=1_000))
        ledger.received(event(entity, uuid=f"u{number}"), 1_000 + wait_ms)
    return ledger


@pytest.mark.parametrize(
    ("waits_ms", "median", "p99"),
    [
        pytest.param((), "0.0", "0.0", id="none"),
        pytest.param((3_000, 1_000, 2_000), "2.0", "3.0", id="in whatever order they came"),
        pytest.param((1_000, 2_000, 3_000, 4_000), "2.0", "4.0", id="half of them"),
        pytest.param([n * 100 for n in range(1, 101)], "5.0", "9.9", id="all but one of 100"),
        pytest.param([n * 100 for n in range(1, 201)], "10.0", "19.8", id="all but two of 200"),
    ],
)
def test_median_and_p99(waits_ms, median, p99):
    ledger = waited(*waits_ms)

    assert ledger.summary(1).endswith(f"median {median} s, p99 {p99} s")


def busy():
    """One of each: answered, coalesced, lost, repeated, and an event beside them."""
    return told(
        [
            made(CONTACT),
            made(CONTACT, "updated", firstName="Bob"),
            event(CONTACT, firstName="Bob"),
            event(CONTACT, firstName="Bob"),
            made(VOICEMAIL),
            event(("7", "history", "h1"), uuid="u2"),
        ],
        now_ms=4_000,
    )


def test_the_summary_is_one_line_with_everything_in_it():
    assert busy().summary(89.6) == (
        "90 s: 3 changes at the provider, 2 events received (1 beside these changes), 1 lost, "
        "1 repeated, 1 coalesced; from change to receipt median 3.0 s, p99 3.0 s"
    )


def test_what_had_no_time_to_arrive_is_not_lost():
    assert ", 1 on their way, 0 lost, 1 repeated, " in busy().summary(5, on_their_way=True)
