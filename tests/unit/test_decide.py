"""Promises of pollwire.decide."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pollwire.decide import (
    BACKFILL,
    BASELINE,
    LIVE,
    MASS_CONFIRM_S,
    STATES_MAX,
    Decision,
    decide,
    decide_missing,
    newest_ms,
    start,
)
from pollwire.events import Composer, digest
from pollwire.model import Record, Row, Start, Stream

NOW_MS = 1_700_000_000_000
STREAM = Stream(overlap_s=60, cache_s=10)
REREAD = Stream(overlap_s=60, reread_s=300)
SNAPSHOT = Stream(snapshot=True, cache_s=10)

quick = settings(database=None, deadline=None, max_examples=100)


def row(identity="m1", at_ms=5000, text="hi", **fields) -> Row:
    fields = {"updated_at": str(at_ms) if at_ms else "", "body": {"text": text}, **fields}
    return Row(id=identity, at_ms=at_ms, **fields)


def record(one: Row, rev: int = 1, **fields) -> Record:
    """The record of a row that was decided before."""
    known = Record(
        id=one.id,
        rev=rev,
        digest=digest(one),
        updated_at=one.updated_at,
        at_ms=one.at_ms,
        gone=one.deleted,
        type=one.type,
        direction=one.direction,
        extension=one.extension,
    )
    return replace(known, **fields)


def run(rows, *records: Record, mode=LIVE, now_ms=NOW_MS, stream=STREAM) -> Decision:
    return decide(rows, {one.id: one for one in records}, stream, mode, now_ms)


def kinds(decision: Decision) -> list[str]:
    return [change.kind for change in decision.changes]


ALIVE = row(at_ms=5000, text="hi")
TRASHED = row(at_ms=6000, text="hi", deleted=True)

# Created, updated, deleted


@pytest.mark.parametrize(
    ("known", "shown", "mode", "kind"),
    [
        pytest.param(None, ALIVE, LIVE, "created", id="unknown"),
        pytest.param(ALIVE, ALIVE, LIVE, None, id="nothing changed"),
        pytest.param(ALIVE, row(at_ms=6000, text="ho"), LIVE, "updated", id="changed"),
        pytest.param(
            ALIVE, row(at_ms=5000, text="ho"), LIVE, "updated", id="equal time, other content"
        ),
        pytest.param(
            ALIVE, row(at_ms=6000, text="hi"), LIVE, "updated", id="same content, later time"
        ),
        pytest.param(
            row(at_ms=0), row(at_ms=0, text="ho"), LIVE, "updated", id="no time, other content"
        ),
        pytest.param(row(at_ms=0), row(at_ms=0), LIVE, None, id="no time, same content"),
        pytest.param(
            ALIVE, row(at_ms=0, text="ho"), LIVE, "updated", id="no time any more is not older"
        ),
        pytest.param(ALIVE, TRASHED, LIVE, "deleted", id="moved to trash"),
        pytest.param(
            ALIVE, row(at_ms=5000, deleted=True), LIVE, "deleted", id="trashed at an equal time"
        ),
        pytest.param(TRASHED, TRASHED, LIVE, None, id="in the trash still"),
        pytest.param(TRASHED, row(at_ms=7000, deleted=True), LIVE, None, id="touched in the trash"),
        pytest.param(TRASHED, row(at_ms=7000), LIVE, "created", id="restored from trash"),
        pytest.param(TRASHED, row(at_ms=7000, text="new"), LIVE, "created", id="id used again"),
        pytest.param(None, TRASHED, LIVE, "deleted", id="unknown tombstone is a missed deletion"),
        pytest.param(None, ALIVE, BASELINE, None, id="baseline says nothing"),
        pytest.param(None, TRASHED, BASELINE, None, id="baseline says nothing of a tombstone"),
        pytest.param(
            ALIVE, row(at_ms=6000, text="ho"), BASELINE, None, id="changed during the baseline"
        ),
        pytest.param(ALIVE, TRASHED, BASELINE, None, id="deleted during the baseline"),
        pytest.param(None, ALIVE, BACKFILL, "created", id="backfill creates"),
        pytest.param(None, TRASHED, BACKFILL, None, id="backfill skips what was deleted before"),
        pytest.param(ALIVE, TRASHED, BACKFILL, "deleted", id="deleted during the backfill"),
        pytest.param(
            ALIVE, row(at_ms=6000, text="ho"), BACKFILL, "updated", id="changed during the backfill"
        ),
        pytest.param(ALIVE, ALIVE, BACKFILL, None, id="backfill begun again"),
    ],
)
def test_a_row_beside_its_record_is_a_change_or_none(known, shown, mode, kind):
    decision = run([shown], *([record(known)] if known else []), mode=mode)

    assert kinds(decision) == ([kind] if kind else [])


@pytest.mark.parametrize("mode", [LIVE, BACKFILL, BASELINE])
@pytest.mark.parametrize("shown", [ALIVE, TRASHED], ids=["alive", "deleted"])
def test_every_unknown_row_is_recorded_whatever_is_said_of_it(shown, mode):
    decision = run([shown], mode=mode)

    rev = len(decision.changes)
    states = {"deleted": 1} if kinds(decision) == ["deleted"] else {}
    assert decision.records == {"m1": record(shown, rev=rev, states=states)}


def test_what_is_recorded_in_the_baseline_is_no_news_afterwards():
    baseline = run([ALIVE], mode=BASELINE)

    assert run([ALIVE], *baseline.records.values()) == Decision()


def test_what_did_not_change_is_not_written():
    assert run([ALIVE], record(ALIVE)).records == {}


def test_a_record_keeps_what_the_event_of_its_deletion_needs():
    shown = row(type="Fax", direction="Outbound", extension="101")

    kept = run([shown]).records["m1"]

    assert (kept.type, kept.direction, kept.extension) == ("Fax", "Outbound", "101")


def test_a_timestamp_spelt_differently_is_a_change():
    """The provider's own words are compared: what they mean is the provider's affair."""
    known = row(updated_at="2026-06-19T10:00:00Z")

    decision = run([replace(known, updated_at="2026-06-19T10:00:00.000Z")], record(known))

    assert kinds(decision) == ["updated"]


def test_volatile_fields_make_no_change():
    stream = Stream(volatile=frozenset({"url"}))
    first = row(body={"text": "hi", "url": "https://signed/1"})
    known = run([first], stream=stream).records.values()

    decision = run(
        [replace(first, body={"text": "hi", "url": "https://signed/2"})], *known, stream=stream
    )

    assert decision == Decision()


def test_other_fields_beside_volatile_ones_make_a_change():
    stream = Stream(volatile=frozenset({"url"}))
    first = row(body={"text": "hi", "url": "https://signed/1"})
    known = run([first], stream=stream).records.values()

    decision = run(
        [replace(first, body={"text": "ho", "url": "https://signed/1"})], *known, stream=stream
    )

    assert kinds(decision) == ["updated"]


# Rank

SENT = row(at_ms=5000, text="sent", rank=1)


@pytest.mark.parametrize(
    ("shown", "kind"),
    [
        pytest.param(row(at_ms=6000, text="read", rank=2), "updated", id="higher"),
        pytest.param(row(at_ms=5000, text="read", rank=2), "updated", id="higher, equal time"),
        pytest.param(row(at_ms=5000, text="sent", rank=2), None, id="higher, nothing else"),
        pytest.param(row(at_ms=6000, text="resent", rank=1), "updated", id="equal, later"),
        pytest.param(row(at_ms=5000, text="resent", rank=1), "updated", id="equal, equal time"),
        pytest.param(SENT, None, id="the same"),
        pytest.param(row(at_ms=9000, text="queued", rank=0), None, id="lower, later"),
        pytest.param(row(at_ms=0, text="queued", rank=0), None, id="lower, no time"),
        pytest.param(row(at_ms=9000, rank=0, deleted=True), None, id="lower, deleted"),
    ],
)
def test_a_row_of_lower_rank_is_out_of_date_whatever_its_time_says(shown, kind):
    decision = run([shown], record(SENT, rank=1))

    assert kinds(decision) == ([kind] if kind else [])
    assert bool(decision.records) is (kind is not None)
    assert not decision.unsettled


def test_a_record_remembers_its_rank():
    read = row(at_ms=6000, text="read", rank=3)
    known = run([read], record(SENT, rank=1)).records

    assert known["m1"].rank == 3
    assert decide([SENT], known, STREAM, LIVE, NOW_MS) == Decision()


def test_an_older_row_of_higher_rank_is_believed_at_once():
    decision = run([row(at_ms=4000, text="read", rank=2)], record(SENT, rank=1))

    assert (kinds(decision), decision.unsettled) == (["updated"], False)


def test_an_older_row_of_equal_rank_waits_as_any_other():
    decision = run([row(at_ms=4000, text="unsent", rank=1)], record(SENT, rank=1))

    assert (decision.changes, decision.unsettled) == ((), True)


# Tombstones that say no more than an id

BARE = Row(id="m1", updated_at="", at_ms=0, body={"id": "m1"}, deleted=True)
FAX = row(type="Fax", direction="Outbound", extension="101")


@pytest.mark.parametrize("rank", [0, 2], ids=["equal rank", "higher rank"])
def test_a_tombstone_is_told_its_type_by_the_record(rank):
    (change,) = run([replace(BARE, rank=rank)], record(FAX)).changes

    assert change.kind == "deleted"
    told = (change.row.type, change.row.direction, change.row.extension)
    assert told == ("Fax", "Outbound", "101")


def test_a_tombstone_that_says_more_is_believed():
    (change,) = run([replace(BARE, type="SMS", extension="102")], record(FAX)).changes

    assert (change.row.type, change.row.direction, change.row.extension) == (
        "SMS", "Outbound", "102",
    )  # fmt: skip


def test_the_record_of_a_bare_tombstone_keeps_what_it_was_told():
    gone = run([BARE], record(FAX)).records["m1"]

    assert (gone.gone, gone.type, gone.direction, gone.extension) == (
        True, "Fax", "Outbound", "101",
    )  # fmt: skip


@pytest.mark.parametrize("mode", [LIVE, BACKFILL, BASELINE])
def test_a_bare_tombstone_of_something_unknown_is_no_news(mode):
    decision = run([BARE], mode=mode)

    assert decision.changes == ()
    assert decision.records["m1"].gone


def test_a_bare_tombstone_seen_again_is_no_news():
    known = run([BARE], record(FAX)).records

    assert decide([BARE], known, STREAM, LIVE, NOW_MS) == Decision()


# Several rows


def test_changes_are_ordered_by_provider_time():
    decision = run([row("c", 3000), row("a", 9000), row("b", 1000)])

    assert [change.row.id for change in decision.changes] == ["b", "c", "a"]


def test_changes_of_one_instant_are_ordered_by_id():
    decision = run([row("b"), row("c"), row("a")])

    assert [change.row.id for change in decision.changes] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        pytest.param([row(at_ms=1, text="old"), row(at_ms=2, text="new")], "new", id="in order"),
        pytest.param(
            [row(at_ms=2, text="new"), row(at_ms=1, text="old")], "new", id="newest first"
        ),
        pytest.param([row(text="old"), row(text="new")], "new", id="equal times: the later"),
    ],
)
def test_of_two_rows_with_one_id_the_newer_counts(rows, text):
    decision = run(rows)

    assert [change.row.body["text"] for change in decision.changes] == [text]


def test_a_row_listed_twice_is_one_change():
    assert kinds(run([ALIVE, ALIVE])) == ["created"]


rows_strategy = st.lists(
    st.builds(
        row,
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 4),
        st.sampled_from(["x", "y"]),
        deleted=st.booleans(),
    ),
    max_size=12,
)


@quick
@given(before=rows_strategy, rows=rows_strategy, mode=st.sampled_from([LIVE, BACKFILL, BASELINE]))
def test_the_same_rows_again_are_no_news(before, rows, mode):
    known = run(before).records
    first = decide(rows, known, STREAM, mode, NOW_MS)

    again = decide(rows, {**known, **first.records}, STREAM, mode, NOW_MS)

    assert again.changes == ()


@quick
@given(before=rows_strategy, rows=rows_strategy)
def test_revisions_count_the_changes_of_a_record(before, rows):
    known = run(before).records
    decision = decide(rows, known, STREAM, LIVE, NOW_MS)

    for change in decision.changes:
        old = known.get(change.row.id)
        assert change.rev == decision.records[change.row.id].rev == (old.rev if old else 0) + 1


@quick
@given(before=rows_strategy, rows=rows_strategy)
def test_every_change_has_its_record_and_they_are_in_order(before, rows):
    decision = decide(rows, run(before).records, STREAM, LIVE, NOW_MS)

    places = [(change.row.at_ms, change.row.id) for change in decision.changes]
    assert places == sorted(places)
    assert {change.row.id for change in decision.changes} <= set(decision.records)


# Time goes back

OLDER = row(at_ms=4000, text="restored")


def quarantined(now_ms: int = NOW_MS) -> Record:
    return run([OLDER], record(ALIVE), now_ms=now_ms).records["m1"]


def test_an_older_version_is_not_believed_at_first_sight():
    decision = run([OLDER], record(ALIVE))

    assert decision.changes == ()
    assert decision.unsettled
    assert decision.records["m1"] == record(ALIVE, back_digest=digest(OLDER), back_ms=NOW_MS)


@pytest.mark.parametrize(
    ("after_ms", "kind"),
    [
        pytest.param(0, None, id="at once"),
        pytest.param(19_999, None, id="a cache could still hold it"),
        pytest.param(20_000, "updated", id="twice the cache's lifetime"),
        pytest.param(10**9, "updated", id="long after"),
    ],
)
def test_an_older_version_is_believed_when_no_cache_can_hold_it_any_more(after_ms, kind):
    decision = run([OLDER], quarantined(), now_ms=NOW_MS + after_ms)

    assert kinds(decision) == ([kind] if kind else [])
    assert decision.unsettled is (kind is None)


def test_an_older_version_that_is_believed_becomes_the_record():
    decision = run([OLDER], quarantined(), now_ms=NOW_MS + 20_000)

    after = decision.records["m1"]
    assert after == record(OLDER, rev=2, states=after.states)


def test_an_older_version_that_still_waits_is_not_written_again():
    assert run([OLDER], quarantined(), now_ms=NOW_MS + 1).records == {}


def test_another_older_version_starts_the_wait_anew():
    other = row(at_ms=4000, text="another")

    decision = run([other], quarantined(), now_ms=NOW_MS + 20_000)

    assert decision.changes == ()
    assert decision.records["m1"].back_ms == NOW_MS + 20_000


def test_the_known_version_seen_again_clears_the_older_one():
    decision = run([ALIVE], quarantined(), now_ms=NOW_MS + 10_000)

    assert decision == Decision(records={"m1": record(ALIVE)})


def test_a_newer_version_clears_the_older_one():
    newer = row(at_ms=6000, text="newer")

    decision = run([newer], quarantined(), now_ms=NOW_MS + 10_000)

    assert decision.records["m1"] == record(newer, rev=2)


def test_an_older_tombstone_waits_like_any_other_version():
    decision = run([row(at_ms=4000, deleted=True)], record(ALIVE))

    assert (decision.changes, decision.unsettled) == ((), True)


def test_a_version_in_doubt_holds_up_no_other_row():
    decision = run([OLDER, row("m2")], record(ALIVE))

    assert [change.row.id for change in decision.changes] == ["m2"]


# Revisions


def uuids(*versions: Row) -> list[str]:
    composer = Composer("youmail", "acme", "7", "entry", STREAM, "subscription")
    known, found = {}, []
    for one in versions:
        decision = decide([one], known, STREAM, LIVE, NOW_MS)
        known |= decision.records
        found += [composer.event(change, 1, NOW_MS).uuid for change in decision.changes]
    return found


def test_a_state_that_comes_back_has_an_id_of_its_own():
    a, b = row(text="A"), row(text="B")

    assert len(set(uuids(a, b, a))) == 3


def test_a_deletion_that_comes_back_has_an_id_of_its_own():
    here, gone = row(), row(deleted=True)

    assert len(set(uuids(here, gone, here, gone, here))) == 5


def test_the_same_history_has_the_same_ids():
    a, b = row(text="A"), row(text="B")

    assert uuids(a, b, a) == uuids(a, b, a)


TIMED = [row(text="A"), row(at_ms=6000, text="B"), row(at_ms=7000, text="A")]
UNTIMED = [row(at_ms=0, text=text) for text in "ABC"]


@pytest.mark.parametrize("versions", [TIMED, UNTIMED], ids=["timed", "untimed"])
def test_a_state_has_one_id_whatever_was_seen_before_it(versions):
    """As after the table was restored: what was in between cannot be seen any more."""
    first, *others = versions

    whole = uuids(*versions)

    assert uuids(*others) == whole[1:]
    assert uuids(first, versions[-1]) == [whole[0], whole[-1]]
    assert uuids(versions[-1]) == whole[-1:]


def test_a_deletion_has_one_id_whatever_the_row_was_like():
    here, later, gone = row(), row(at_ms=6000, text="B"), row(at_ms=7000, deleted=True)

    assert uuids(here, later, gone)[-1] == uuids(here, gone)[-1] == uuids(gone)[-1]


HISTORIES = st.lists(st.tuples(st.sampled_from([0, 5000, 6000]), st.sampled_from("ABx")))


@quick
@given(history=HISTORIES)
def test_no_two_changes_of_a_record_have_one_id(history):
    """Whatever times it has, and in whichever order: x is a deletion."""
    composer = Composer("youmail", "acme", "7", "entry", STREAM, "subscription")
    known: dict[str, Record] = {}
    found = []
    for at_ms, text in history:
        shown = row(at_ms=at_ms, text=text, deleted=text == "x")
        for wait_ms in (0, 10**6):  # What is older is believed at the second sighting.
            decision = decide([shown], known, STREAM, LIVE, NOW_MS + wait_ms)
            known |= decision.records
            found += [composer.event(one, 1, NOW_MS).uuid for one in decision.changes]

    assert len(set(found)) == len(found)


def test_a_record_of_many_states_tells_them_apart_by_their_revision():
    texts = [str(number) for number in range(STATES_MAX + 5)]

    found = uuids(*[row(at_ms=0, text=text) for text in [*texts, *texts]])

    assert len(set(found)) == len(found) == 2 * len(texts)


def test_an_id_used_again_goes_on_counting():
    decision = run([row(at_ms=7000, text="new")], record(TRASHED, rev=2))

    assert [change.rev for change in decision.changes] == [3]


def test_a_record_of_the_baseline_has_no_revision_yet():
    (known,) = run([ALIVE], mode=BASELINE).records.values()

    decision = run([row(at_ms=6000, text="ho")], known)

    assert (known.rev, decision.changes[0].rev) == (0, 1)


# Missing from a full listing


def collection(count: int, **fields) -> list[Record]:
    return [record(row(f"m{n:05}", at_ms=1000 + n), **fields) for n in range(count)]


def missing(listed, known, now_ms=NOW_MS) -> Decision:
    return decide_missing(listed, {one.id: one for one in known}, SNAPSHOT, now_ms)


def ids(records) -> list[str]:
    return [one.id for one in records]


def test_what_is_listed_is_not_missing():
    known = collection(3)

    assert missing(ids(known), known) == Decision()


def test_what_was_deleted_before_is_not_missed():
    assert missing([], collection(3, gone=True)) == Decision()


def test_a_row_missing_once_is_only_noted():
    (known,) = collection(1)

    decision = missing([], [known])

    assert decision == Decision((), {known.id: replace(known, missing_ms=NOW_MS)}, unsettled=True)


@pytest.mark.parametrize(
    ("after_ms", "deleted"),
    [
        pytest.param(0, False, id="at once"),
        pytest.param(9_999, False, id="the listing could come from a cache"),
        pytest.param(10_000, True, id="the cache's lifetime later"),
        pytest.param(10**9, True, id="long after"),
    ],
)
def test_a_row_is_deleted_at_the_second_sighting(after_ms, deleted):
    (known,) = collection(1, missing_ms=NOW_MS)

    decision = missing([], [known], NOW_MS + after_ms)

    assert kinds(decision) == (["deleted"] if deleted else [])
    assert decision.unsettled is not deleted


def test_the_first_sighting_keeps_its_time_while_it_waits():
    (known,) = collection(1, missing_ms=NOW_MS)

    assert missing([], [known], NOW_MS + 5_000).records == {}


def test_a_deletion_says_what_was_known_of_the_record():
    shown = row(type="Fax", direction="Inbound", extension="101")

    (change,) = missing([], [record(shown, rev=4, missing_ms=1)]).changes

    assert (change.rev, change.digest) == (5, digest(shown))
    assert change.row == replace(shown, body={"id": "m1"}, deleted=True)


def test_a_deletion_says_what_was_to_be_kept_of_the_row():
    shown = row(body={"text": "hi", "sessionId": "5"}, keep={"sessionId": "5", "inferred": True})
    known = run([shown]).records["m1"]

    (change,) = missing([], [replace(known, missing_ms=1)]).changes

    assert change.row.body == {"id": "m1", "sessionId": "5", "inferred": True}


@pytest.mark.parametrize("present", [True, False], ids=["listed", "absent again"])
def test_what_is_listed_without_a_readable_row_is_no_longer_missing(present):
    """Its row may be bad, or of lower rank: it is there."""
    (known,) = collection(1, missing_ms=NOW_MS - 5_000)

    decision = missing([known.id] if present else [], [known])

    assert decision.changes == ()
    assert decision.unsettled is not present
    assert decision.records == ({known.id: replace(known, missing_ms=0)} if present else {})


def test_a_row_says_more_than_its_listing():
    known = record(ALIVE, missing_ms=NOW_MS - 5_000)
    newer = row(at_ms=6000, text="ho")

    decision = run([newer], known).joined(missing(["m1"], [known]))

    assert decision.records == {"m1": record(newer, rev=2)}


def test_a_deleted_record_is_kept_so_that_it_goes_on_counting():
    (known,) = collection(1, missing_ms=1, rev=4)

    decision = missing([], [known])

    (after,) = decision.records.values()
    assert after == replace(known, gone=True, missing_ms=0, rev=5, states=after.states)
    assert after.states["deleted"] == 1


def test_deletions_are_ordered_by_provider_time():
    known = collection(4, missing_ms=1)

    decision = missing([], known[::-1])

    assert [change.row.id for change in decision.changes] == ids(known)


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(ALIVE, id="as it was"),
        pytest.param(row(at_ms=6000, text="ho"), id="changed"),
        pytest.param(OLDER, id="an older version, in doubt"),
    ],
)
def test_a_row_that_reappears_is_no_longer_missing(shown):
    known = record(ALIVE, missing_ms=NOW_MS - 5_000)

    assert run([shown], known).records["m1"].missing_ms == 0


def test_a_row_that_reappears_in_doubt_a_second_time_is_no_longer_missing():
    known = replace(quarantined(), missing_ms=NOW_MS)

    assert run([OLDER], known, now_ms=NOW_MS + 1).records["m1"].missing_ms == 0


def test_a_row_that_reappears_says_nothing():
    assert run([ALIVE], record(ALIVE, missing_ms=5)).changes == ()


@pytest.mark.parametrize(
    ("known", "absent", "believed"),
    [
        pytest.param(3, 3, True, id="all of a few"),
        pytest.param(10, 10, True, id="ten, however few there are"),
        pytest.param(11, 11, False, id="eleven of eleven"),
        pytest.param(100, 20, True, id="a fifth"),
        pytest.param(100, 21, False, id="more than a fifth"),
        pytest.param(3000, 3000, False, id="an empty listing with thousands known"),
    ],
)
def test_too_many_missing_at_once_look_like_an_outage(known, absent, believed):
    records = collection(known, missing_ms=NOW_MS - 60_000)

    decision = missing(ids(records[absent:]), records)

    assert len(decision.changes) == (absent if believed else 0)
    assert decision.held == (0 if believed else absent)
    assert decision.unsettled is not believed


def test_the_share_is_of_those_alive():
    alive = collection(20, missing_ms=NOW_MS - 60_000)
    deleted = [record(row(f"d{n}"), gone=True) for n in range(1000)]

    assert missing([], alive + deleted).held == 20


@pytest.mark.parametrize(
    ("after_s", "deleted"),
    [
        pytest.param(MASS_CONFIRM_S - 1, 0, id="within the hour"),
        pytest.param(MASS_CONFIRM_S, 50, id="after an hour"),
    ],
)
def test_an_outage_that_lasts_is_believed(after_s, deleted):
    first = missing([], collection(50))

    decision = missing([], first.records.values(), NOW_MS + after_s * 1000)

    assert len(decision.changes) == deleted
    assert decision.held == 50 - deleted


def test_an_outage_that_ends_deletes_nothing():
    known = collection(50)
    first = missing([], known)
    rows = [row(one.id, at_ms=one.at_ms) for one in known]

    back = run(rows, *first.records.values(), stream=SNAPSHOT)

    assert back.changes == ()
    assert back.records == {one.id: one for one in known}


# Where a delta starts, and how far it moves the cursor


@pytest.mark.parametrize(
    ("reached_ms", "previous_ms", "cursor", "stream", "expected"),
    [
        pytest.param(0, 0, "", STREAM, Start(), id="never drained"),
        pytest.param(0, 0, "token", STREAM, Start(cursor="token"), id="a cursor of its own"),
        pytest.param(
            900_000, 0, "", STREAM, Start(0), id="the second drain reads all of the first"
        ),
        pytest.param(900_000, 500_000, "", STREAM, Start(500_000), id="two drains"),
        pytest.param(900_000, 890_000, "", STREAM, Start(840_000), id="the overlap"),
        pytest.param(900_000, 900_000, "", STREAM, Start(840_000), id="nothing new in between"),
        pytest.param(900_000, 890_000, "", REREAD, Start(600_000), id="a stretch read anew"),
        pytest.param(900_000, 500_000, "", REREAD, Start(500_000), id="two drains, longer still"),
        pytest.param(9_000, 9_000, "", STREAM, Start(0), id="not before the epoch"),
        pytest.param(900_000, 890_000, "t", STREAM, Start(840_000, "t"), id="both"),
        pytest.param(900_000, 890_000, "", SNAPSHOT, Start(), id="a snapshot asks for everything"),
    ],
)
def test_a_delta_starts_before_the_last_two_drains_and_the_overlap(
    reached_ms, previous_ms, cursor, stream, expected
):
    assert start(reached_ms, previous_ms, cursor, stream) == expected


class Cursor:
    """Drains in a row, moving the cursor as the pipeline does."""

    def __init__(self, stream: Stream = STREAM) -> None:
        self._stream = stream
        self.reached_ms = self.previous_ms = 0
        self.starts: list[int] = []

    def drain(self, newest: int) -> int:
        """Drain up to *newest*; return where it started."""
        since_ms = start(self.reached_ms, self.previous_ms, "", self._stream).since_ms or 0
        self.starts.append(since_ms)
        self.previous_ms = self.reached_ms
        self.reached_ms = max(self.reached_ms, newest)
        return since_ms


newest = st.lists(st.integers(0, 500_000), min_size=2, max_size=15)


@quick
@given(newest=newest, overlap_s=st.integers(0, 300))
def test_the_start_of_a_delta_never_moves_backwards(newest, overlap_s):
    cursor = Cursor(Stream(overlap_s=overlap_s))
    for one in newest:
        cursor.drain(one)

    assert cursor.starts == sorted(cursor.starts)


@quick
@given(newest=newest, overlap_s=st.integers(0, 300))
def test_every_row_lies_within_two_complete_drains(newest, overlap_s):
    cursor = Cursor(Stream(overlap_s=overlap_s))
    first_read: dict[int, int] = {}
    for number, one in enumerate(newest):
        if one > cursor.reached_ms:
            first_read[one] = number
        cursor.drain(one)
    cursor.drain(0)

    for at_ms, number in first_read.items():
        assert all(since_ms <= at_ms for since_ms in cursor.starts[number : number + 2])


@quick
@given(newest=newest, overlap_s=st.integers(0, 300))
def test_a_delta_reads_at_least_the_overlap_again(newest, overlap_s):
    cursor = Cursor(Stream(overlap_s=overlap_s))
    for one in newest:
        reached_ms = cursor.reached_ms

        assert cursor.drain(one) <= max(reached_ms - overlap_s * 1000, 0)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        pytest.param([], 0, id="no rows"),
        pytest.param([0], 0, id="no times"),
        pytest.param([5, 9, 7], 9, id="newest of all, in any order"),
        pytest.param([NOW_MS], NOW_MS, id="this instant"),
        pytest.param([NOW_MS + 1], NOW_MS, id="the future"),
        pytest.param([253_402_300_799_999, 5], NOW_MS, id="the year 9999"),
    ],
)
def test_the_cursor_moves_to_the_newest_row_but_not_beyond_the_providers_clock(times, expected):
    rows = [row(str(n), at_ms=at_ms) for n, at_ms in enumerate(times)]

    assert newest_ms(rows, NOW_MS) == expected


@quick
@given(
    ahead_ms=st.integers(1, 10**10),
    every_ms=st.integers(1_000, 600_000),
    overlap_s=st.integers(0, 120),
)
def test_a_row_from_the_future_hides_none_that_follow(ahead_ms, every_ms, overlap_s):
    cursor = Cursor(Stream(overlap_s=overlap_s))
    future = row("future", at_ms=NOW_MS + ahead_ms)
    for number in range(1, 8):
        clock_ms = NOW_MS + number * every_ms
        ordinary = row(f"m{number}", at_ms=clock_ms - 500)
        since_ms = cursor.drain(newest_ms([future, ordinary], clock_ms))

        assert since_ms <= ordinary.at_ms
