"""Promises of pollwire.marks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pollwire import marks
from pollwire.model import KNOWN_EMPTY, Seen

NOW_MS = 1_700_000_000_000
OVERLAP_S = 60

quick = settings(database=None, deadline=None, max_examples=100)
lines = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=20)


def read(raw: str) -> dict[str, str]:
    """Marks of an answer such as ``entry=1,contact=2``."""
    return dict(pair.split("=", 1) for pair in raw.split(",") if "=" in pair)


def step(old: str, new: str, pending=(), *, doubtful: bool = False, now_ms: int = NOW_MS):
    return marks.step(Seen(old), Seen(new, doubtful=doubtful), frozenset(pending), read, now_ms)


def streams(found: marks.Step | None) -> list[str]:
    return [marks.split(one)[0] for one in found.pending] if found else []


def pending(stream: str, count: int = 1) -> set[str]:
    return {marks.element(stream, f"m{n}", n) for n in range(count)}


# Packing


@quick
@given(
    raw=st.text(max_size=60), etag=lines, modified=lines, changed_ms=st.integers(0, NOW_MS - 60_000)
)
def test_what_is_packed_is_unpacked(raw, etag, modified, changed_ms):
    seen = Seen(raw, etag, modified, changed_ms)

    assert marks.unpack(marks.pack(seen), NOW_MS, OVERLAP_S) == seen


def test_a_raw_answer_keeps_its_lines():
    seen = Seen("1,2\r\n3\n\n4\n", "etag", "", 5)

    assert marks.unpack(marks.pack(seen), NOW_MS, OVERLAP_S).raw == "1,2\r\n3\n\n4\n"


def test_nothing_packed_is_nothing_seen():
    assert marks.unpack("", NOW_MS, OVERLAP_S) == Seen()


@pytest.mark.parametrize(
    ("age_ms", "etag"),
    [
        pytest.param(0, "", id="just changed"),
        pytest.param(59_999, "", id="younger than the overlap"),
        pytest.param(60_000, "W/1", id="as old as the overlap"),
        pytest.param(10**9, "W/1", id="old"),
        pytest.param(-5_000, "", id="changed in our future"),
    ],
)
def test_a_validator_is_withheld_until_it_is_older_than_the_overlap(age_ms, etag):
    packed = marks.pack(Seen("1", "W/1", "Wed", NOW_MS - age_ms))

    seen = marks.unpack(packed, NOW_MS, OVERLAP_S)

    assert (seen.etag, bool(seen.modified)) == (etag, bool(etag))
    assert (seen.raw, seen.changed_ms) == ("1", NOW_MS - age_ms)


# Comparing


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        pytest.param("entry=1,contact=5", "entry=1,contact=5", [], id="nothing changed"),
        pytest.param("entry=1,contact=5", "entry=2,contact=5", ["entry"], id="one stream changed"),
        pytest.param("entry=9,contact=5", "entry=8,contact=5", ["entry"], id="value went down"),
        pytest.param("entry=1", "entry=1,contact=5", ["contact"], id="new stream"),
        pytest.param("entry=1,contact=5", "entry=1", [], id="stream missing is unchanged"),
        pytest.param("entry=1,contact=5", "entry=2", ["entry"], id="missing beside changed"),
        pytest.param("entry=1,contact=5", "contact=5,entry=1", [], id="other order only"),
        pytest.param("entry=01", "entry=1", ["entry"], id="marks are no numbers"),
        pytest.param("", "entry=1,contact=5", ["entry", "contact"], id="first sight"),
        pytest.param("", KNOWN_EMPTY, [], id="first sight, known to be empty"),
        pytest.param(KNOWN_EMPTY, KNOWN_EMPTY, [], id="still empty"),
        pytest.param(KNOWN_EMPTY, "entry=1", ["entry"], id="no longer empty"),
        pytest.param("entry=1", KNOWN_EMPTY, [], id="empty again"),
    ],
)
def test_a_stream_is_pending_when_its_mark_differs(old, new, changed):
    assert streams(step(old, new)) == changed


def test_an_equal_answer_writes_nothing():
    assert step("entry=1", "entry=1") is None


def test_an_equal_answer_is_not_parsed():
    def explode(raw):
        raise AssertionError(raw)

    assert marks.step(Seen("x"), Seen("x", "new etag"), frozenset(), explode, NOW_MS) is None


def test_a_changed_answer_is_kept_with_the_instant_it_was_seen():
    new = Seen("entry=2", "W/2", "Wed")

    found = marks.step(Seen("entry=1", changed_ms=1), new, frozenset(), read, NOW_MS)

    assert found.seen == Seen("entry=2", "W/2", "Wed", NOW_MS)


def test_an_answer_that_differs_in_no_mark_is_kept_all_the_same():
    found = step("entry=1", "entry=1,")

    assert found == marks.Step(Seen("entry=1,", changed_ms=NOW_MS), ())


def test_a_pending_element_says_when_its_mark_was_first_seen():
    found = step("entry=1", "entry=2")

    assert [marks.split(one) for one in found.pending] == [("entry", NOW_MS, "2")]


@pytest.mark.parametrize(
    ("old", "new", "was_empty"),
    [
        pytest.param(KNOWN_EMPTY, "entry=1", True, id="empty before"),
        pytest.param("", "entry=1", False, id="first sight: we do not know what is new"),
        pytest.param("", KNOWN_EMPTY, False, id="first sight of nothing"),
        pytest.param("entry=1", "entry=2", False, id="known before"),
        pytest.param("entry=1", KNOWN_EMPTY, False, id="empty now"),
    ],
)
def test_all_there_is_is_new_where_the_provider_knew_nothing_before(old, new, was_empty):
    assert step(old, new).was_empty is was_empty


# Answers in doubt


def test_what_a_doubtful_answer_reports_is_fetched_but_not_kept():
    found = step("entry=12,contact=5", "entry=1,contact=5", doubtful=True)

    assert found.seen is None
    assert streams(found) == ["entry"]


def test_a_doubtful_answer_is_kept_at_the_second_sighting():
    first = step("entry=12", "entry=1", doubtful=True)

    second = step("entry=12", "entry=1", first.pending, doubtful=True, now_ms=NOW_MS + 1)

    assert second == marks.Step(Seen("entry=1", changed_ms=NOW_MS + 1), ())


def test_another_doubtful_answer_is_a_first_sighting_again():
    first = step("entry=12", "entry=1", doubtful=True)

    second = step("entry=12", "entry=3", first.pending, doubtful=True)

    assert second.seen is None
    assert [marks.split(one)[2] for one in second.pending] == ["3"]


def test_a_doubtful_answer_that_is_gone_again_leaves_no_trace():
    first = step("entry=12", "entry=1", doubtful=True)

    assert step("entry=12", "entry=12", first.pending) is None


def test_a_doubtful_answer_is_believed_when_all_of_it_was_seen_before():
    first = step("entry=12,contact=7", "entry=1,contact=7", doubtful=True)

    second = step("entry=12,contact=7", "entry=1,contact=6", first.pending, doubtful=True)

    assert second.seen is None
    assert streams(second) == ["contact"]


def test_a_long_mark_in_doubt_is_known_again():
    first = step("entry=12", f"entry={'x' * 500}", doubtful=True)

    second = step("entry=12", f"entry={'x' * 500}", first.pending, doubtful=True)

    assert second.seen is not None


def test_a_doubtful_answer_at_the_limit_is_asked_for_and_not_kept():
    full = pending("entry", marks.PENDING_PER_STREAM_MAX)

    found = step("entry=12", "entry=1", full, doubtful=True)

    assert (found.seen, streams(found), len(found.dropped)) == (None, ["entry"], 1)


# The limit


def test_one_below_the_limit_is_still_added():
    nearly = pending("entry", marks.PENDING_PER_STREAM_MAX - 1)

    found = step("entry=1", "entry=2", nearly)

    assert (found.seen is not None, streams(found)) == (True, ["entry"])


def test_at_the_limit_the_oldest_makes_room():
    """What answers for the newest mark answers for all before it."""
    full = pending("entry", marks.PENDING_PER_STREAM_MAX)

    found = step("entry=1", "entry=2", full)

    assert found.seen.raw == "entry=2"
    assert streams(found) == ["entry"]
    assert found.dropped == (min(full, key=marks.seen_ms),)


def test_a_stream_at_the_limit_does_not_hold_up_the_others():
    full = pending("entry", marks.PENDING_PER_STREAM_MAX)

    found = step("entry=1,contact=1", "entry=2,contact=2", full)

    assert found.seen.raw == "entry=2,contact=2"
    assert streams(found) == ["contact", "entry"] or streams(found) == ["entry", "contact"]
    assert [marks.split(one)[0] for one in found.dropped] == ["entry"]


def test_no_first_news_is_forgotten_at_the_limit():
    full = pending("entry", marks.PENDING_PER_STREAM_MAX)

    assert step(KNOWN_EMPTY, "entry=2,contact=2", full).was_empty


changes = st.lists(
    st.tuples(st.sampled_from(["entry", "contact"]), st.integers(0, 5), st.booleans()), max_size=40
)


@quick
@given(changes=changes)
def test_every_change_that_was_seen_is_pending_or_differs_again(changes):
    """Checks and deltas in any order: no mark that differs is ever neither kept nor pending."""
    truth, kept, waiting = {"entry": 0, "contact": 0}, "", set()
    answered = dict.fromkeys(truth, "")
    for now_ms, (stream, mark, settle) in enumerate(changes):
        truth[stream] = mark
        raw = ",".join(f"{name}={value}" for name, value in truth.items())
        found = marks.step(Seen(kept), Seen(raw), waiting, read, now_ms)
        waiting = (waiting | set(found.pending)) - set(found.dropped) if found else waiting
        kept = found.seen.raw if found and found.seen else kept
        if settle and marks.by_stream(waiting).get(stream):
            waiting -= set(marks.by_stream(waiting)[stream])
            answered[stream] = str(truth[stream])

        differs = {name for name, value in read(raw).items() if read(kept).get(name) != value}
        unanswered = {name for name, value in read(raw).items() if answered[name] != value}
        assert unanswered <= differs | set(marks.by_stream(waiting))
        assert len(waiting) <= 2 * marks.PENDING_PER_STREAM_MAX


# Elements of the pending set


@quick
@given(mark=st.text(max_size=marks.MARK_CHARS_MAX), seen_ms=st.integers(0, 10**15))
def test_an_element_is_read_as_it_was_written(mark, seen_ms):
    element = marks.element("message-store", mark, seen_ms)

    assert marks.split(element) == ("message-store", seen_ms, mark)
    assert marks.seen_ms(element) == seen_ms


def test_a_mark_may_hold_the_separator():
    assert marks.split(marks.element("entry", 'W/"a@b@c"', 7)) == ("entry", 7, 'W/"a@b@c"')


@pytest.mark.parametrize(
    ("mark", "verbatim"),
    [
        pytest.param("x" * 64, True, id="as long as allowed"),
        pytest.param("x" * 65, False, id="longer"),
        pytest.param("x" * 10_000, False, id="a whole body"),
        pytest.param("\ud800" * 65, False, id="no text that can be encoded"),
    ],
)
def test_a_long_mark_is_named_by_its_hash(mark, verbatim):
    named = marks.split(marks.element("entry", mark, 0))[2]

    assert (named == mark) is verbatim
    assert len(named) <= 64


def test_long_marks_are_told_apart():
    assert marks.element("entry", "x" * 99 + "1", 0) != marks.element("entry", "x" * 99 + "2", 0)


def test_elements_are_grouped_by_their_stream():
    mixed = {"entry@2@b", "contact@1@c", "entry@1@a", "entry@1@b"}

    assert marks.by_stream(mixed) == {
        "contact": ("contact@1@c",),
        "entry": ("entry@1@a", "entry@1@b", "entry@2@b"),
    }


def test_nothing_pending_has_no_groups():
    assert marks.by_stream(()) == {}


@pytest.mark.parametrize(
    ("began_after_ms", "answered"),
    [
        pytest.param(-1, False, id="began before the mark was seen"),
        pytest.param(0, False, id="began at once"),
        pytest.param(59_999, False, id="began within the overlap"),
        pytest.param(60_000, True, id="began when the overlap was over"),
        pytest.param(10**9, True, id="began long after"),
    ],
)
def test_a_drain_answers_for_marks_that_are_older_than_the_overlap(began_after_ms, answered):
    element = marks.element("entry", "1", NOW_MS)

    done = marks.settled([element], NOW_MS + began_after_ms, OVERLAP_S)

    assert done == ((element,) if answered else ())


def test_a_drain_answers_for_each_element_by_itself():
    old, young = "entry@1000@a", "entry@90000@b"

    assert marks.settled([young, old], 100_000, OVERLAP_S) == (old,)


@pytest.mark.parametrize(
    ("pending", "asked"),
    [
        pytest.param([], False, id="nothing pending"),
        pytest.param(["entry@5@1"], False, id="a mark"),
        pytest.param(["entry@5@fuller"], False, id="a mark that begins likewise"),
        pytest.param(["full@5@1"], False, id="a stream of that name"),
        pytest.param(["entry@5@a@full"], False, id="a mark that ends likewise"),
        pytest.param([marks.element("entry", marks.FULL, 5)], True, id="asked for"),
        pytest.param(["entry@5@1", marks.element("entry", marks.FULL, 9)], True, id="among marks"),
    ],
)
def test_an_element_can_ask_for_everything(pending, asked):
    assert marks.asks_for_all(pending) is asked


def test_what_asks_for_events_again_asks_for_everything():
    again = marks.element("entry", marks.replay(7), 5)

    assert marks.asks_for_all(["entry@5@1", again])
    assert marks.replayed_ms(again) == 7


@pytest.mark.parametrize(
    "mark", ["1", marks.FULL, "replay", "replay:", "replay:x", "replay:-1", f"replay:{'9' * 16}"]
)
def test_no_other_mark_asks_for_events_again(mark):
    assert marks.replayed_ms(marks.element("entry", mark, 5)) is None


def test_no_drain_answers_for_events_again_by_the_time_that_has_passed():
    again = marks.element("entry", marks.replay(7), 5)

    assert marks.settled([again, "entry@5@1"], 10**12, 0) == ("entry@5@1",)


@pytest.mark.parametrize("order", [marks.FULL, marks.replay(0)])
def test_a_providers_mark_is_no_order(order):
    """Some marks come over plain http: they can be forged."""
    found = step("entry=1", f"entry={order}")

    assert streams(found) == ["entry"]
    assert not marks.asks_for_all(found.pending)


@pytest.mark.parametrize("order", [marks.FULL, marks.replay(0)])
def test_an_order_makes_no_room_for_a_mark(order):
    full = pending("entry", marks.PENDING_PER_STREAM_MAX)
    asked = marks.element("entry", order, 1)

    found = step("entry=1", "entry=2", full | {asked})

    assert found.dropped == (min(full, key=marks.seen_ms),)


@pytest.mark.parametrize(
    ("packed", "mark"),
    [
        (marks.pack(Seen("presence=a,entry=b", "W/e", "", 5)), "a"),
        (marks.pack(Seen("entry=b")), ""),
        (marks.pack(Seen("")), ""),
        ("unreadable", ""),
        ("", ""),
    ],
)
def test_the_last_mark_is_the_one_that_a_check_keeps(packed, mark):
    assert marks.last(packed, "presence", read) == mark
