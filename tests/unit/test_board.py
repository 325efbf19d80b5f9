"""What a run's page is told, from what was made and received."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from local.board import BUCKETS, EVENTS_MAX, LOOKS, TEXT_MAX, Accounts, Board
from local.ledger import Ledger, Made

ROOT = Path(__file__).parents[2]
#: A round instant: a bucket of the chart begins.
BEGAN_MS = 1_795_377_600_000


class Clock:
    def __init__(self) -> None:
        self.now_ms = BEGAN_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def board(clock):
    return Board(Ledger(), clock)


def shown(board):
    board.refresh()
    return json.loads(board.shown)


def event(number=1, account="7", provider="youmail", stream="entry", change="created", **record):
    body = {"provider": provider, "stream": stream, "change": change}
    body |= {"changes": [{"type": "VoiceMail", "newCount": 1}]}
    body |= {"record": {"id": f"e{number}", **record}}
    return {"uuid": f"u{number}", "ownerId": account, "body": body}


def make(board, clock, number=1, provider="youmail", after_ms=0, wait_ms=2_000):
    """Have something happen at a provider, and its event be received."""
    clock.now_ms += after_ms
    board.ledger.made(Made(("7", "entry", f"e{number}"), "created", clock.now_ms, {}, provider))
    clock.now_ms += wait_ms
    board.received(event(number, provider=provider))


def test_nothing_has_happened_yet(board):
    assert shown(board) == {
        "phase": "starting",
        "text": "",
        "lost": 0,
        "now_ms": BEGAN_MS,
        "began_ms": 0,
        "totals": {"changes": 0, "events": 0, "awaited": 0, "repeated": 0},
        "freshness": {"changes": 0, "p50_s": None, "p99_s": None},
        "providers": [],
        "rate": {"bucket_s": 5, "changes": [0] * BUCKETS, "events": [0] * BUCKETS},
        "events": [],
    }


def test_the_phases_of_a_run(board, clock):
    board.say("sam deploy")
    phases = [json.loads(board.shown)]
    for step in (board.begin, board.settle, lambda: board.end("2 lost", 2)):
        clock.now_ms += 1_000
        step()
        phases.append(json.loads(board.shown))

    told = [(one["phase"], one["text"], one["began_ms"], one["lost"]) for one in phases]
    began_ms = BEGAN_MS + 1_000
    assert told == [
        ("starting", "sam deploy", 0, 0),
        ("running", "", began_ms, 0),
        ("settling", "", began_ms, 0),
        ("ended", "2 lost", began_ms, 2),
    ]


def test_after_the_end_comes_nothing(board):
    board.end("1 lost", 1)
    board.say("removing what the emulator unpacked")
    board.fail("the disk is full")
    board.end("It was stopped.", 0)

    state = shown(board)
    assert (state["phase"], state["text"], state["lost"]) == ("ended", "1 lost", 1)


def test_a_failure_is_an_end(board):
    board.fail("the disk is full")
    board.end("0 lost", 0)

    assert (shown(board)["phase"], shown(board)["text"]) == ("failed", "the disk is full")


def test_an_event_as_a_person_reads_it(board, clock):
    board.received(event(subject="Are you open?"))

    assert shown(board)["events"] == [
        {
            "uuid": "u1",
            "at_ms": BEGAN_MS,
            "provider": "youmail",
            "account": "7",
            "stream": "entry",
            "type": "VoiceMail",
            "change": "created",
            "told": "Are you open?",
        }
    ]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "events/published").glob("*.json")), ids=lambda path: path.stem
)
def test_every_published_event_has_its_line(board, path):
    published = json.loads(path.read_text())
    board.received(published)
    (line,) = shown(board)["events"]

    body = published["body"]
    assert line["type"] == body["changes"][0]["type"]
    assert [line[name] for name in ("provider", "stream", "change")] == [
        body["provider"],
        body["stream"],
        body["change"],
    ]
    assert line["account"] == published["ownerId"]


def test_the_latest_events_come_first_and_old_ones_go(board):
    for number in range(EVENTS_MAX + 3):
        board.received(event(number))

    told = [one["uuid"] for one in shown(board)["events"]]
    assert told == [f"u{number}" for number in range(EVENTS_MAX + 2, 2, -1)]


def test_a_repeated_event_is_counted_and_not_shown_again(board):
    board.received(event(1))
    board.received(event(2))
    board.received(event(1))

    assert [one["uuid"] for one in shown(board)["events"]] == ["u2", "u1"]
    assert shown(board)["totals"] == {"changes": 0, "events": 2, "awaited": 0, "repeated": 1}
    assert sum(shown(board)["rate"]["events"]) == 2


def test_what_a_provider_says_is_text_and_has_an_end(board):
    board.received(event(1, subject="x" * 10_000, account="\udc80</script>"))
    board.received(event(2, subject={"a": [None]}))
    second, first = shown(board)["events"]

    assert first["told"] == "x" * TEXT_MAX
    assert first["account"] == "\udc80</script>"
    assert second["told"] == "{'a': [None]}"


@pytest.mark.parametrize(
    ("caller", "told"),
    [
        ({"phoneNumber": "4255550111", "name": "Bob"}, "from Bob"),
        ({"phoneNumber": "4255550111"}, "from 4255550111"),
        ("4255550111", ""),
        (None, ""),
    ],
)
def test_of_what_says_nothing_the_caller_is_told(board, caller, told):
    board.received(event(subject="", **{"from": caller}))

    assert shown(board)["events"][0]["told"] == told


def test_an_event_without_its_record_still_has_a_line(board):
    cut = event()
    del cut["body"]["record"], cut["body"]["changes"], cut["body"]["provider"]
    board.received(cut)

    (line,) = shown(board)["events"]
    assert (line["told"], line["type"], line["provider"]) == ("", "", "")


def test_freshness_is_that_of_the_summary(board, clock):
    board.stand({"youmail": Accounts(5), "intelli": Accounts(2)}, {})
    for number, wait_ms in enumerate((1_000, 4_000, 2_000)):
        make(board, clock, number, wait_ms=wait_ms)
    make(board, clock, 9, provider="intelli", wait_ms=9_000)

    state = shown(board)
    assert state["freshness"] == {"changes": 4, "p50_s": 2.0, "p99_s": 9.0}
    summary = board.ledger.summary(1)
    assert re.search(r"median (\S+) s, p99 (\S+) s", summary).groups() == ("2.0", "9.0")
    by_provider = {one["provider"]: (one["p50_s"], one["p99_s"]) for one in state["providers"]}
    assert by_provider == {"youmail": (2.0, 4.0), "intelli": (9.0, 9.0)}


def test_accounts_by_provider(board):
    board.stand({"youmail": Accounts(5, 1, 2), "intelli": Accounts(2)}, {})

    first, second = shown(board)["providers"]
    assert first == {
        "provider": "intelli",
        "registered": 2,
        "paused": 0,
        "failing": 0,
        "requests_per_second": None,
        "unchanged": None,
        "changes": 0,
        "p50_s": None,
        "p99_s": None,
    }
    standing = [second[name] for name in ("provider", "registered", "paused", "failing")]
    assert standing == ["youmail", 5, 1, 2]


@pytest.mark.parametrize(
    ("looks", "requests_per_second", "unchanged"),
    [
        pytest.param([{"200": 7}], None, None, id="one look tells no pace"),
        pytest.param([{"200": 7}, {"200": 7}], 0.0, None, id="nobody asked"),
        pytest.param([{"200": 7}, {"200": 12, "304": 15}], 4.0, 0.75, id="between two looks"),
        pytest.param(
            [{"304": 90}, *[{"304": 95}] * (LOOKS - 1), {"304": 95, "200": 5 * LOOKS - 5}],
            1.0,
            0.0,
            id="between the latest looks",
        ),
    ],
)
def test_requests(board, clock, looks, requests_per_second, unchanged):
    for answered in looks:
        clock.now_ms += 5_000
        board.stand({"youmail": Accounts(5)}, {"youmail": answered})

    (provider,) = shown(board)["providers"]
    assert provider["requests_per_second"] == requests_per_second
    assert provider["unchanged"] == unchanged


def test_changes_per_second_move_with_time(board, clock):
    make(board, clock, 1, wait_ms=6_000)
    rate = shown(board)["rate"]
    assert rate["changes"] == [0] * (BUCKETS - 2) + [1, 0]
    assert rate["events"] == [0] * (BUCKETS - 1) + [1]

    clock.now_ms += 10_000
    rate = shown(board)["rate"]
    assert rate["changes"] == [0] * (BUCKETS - 4) + [1, 0, 0, 0]
    assert rate["events"] == [0] * (BUCKETS - 3) + [1, 0, 0]

    clock.now_ms += BUCKETS * 5_000
    assert shown(board)["rate"]["changes"] == shown(board)["rate"]["events"] == [0] * BUCKETS


def test_a_late_row_counts_from_when_it_can_be_read(board, clock):
    late_ms = BEGAN_MS + 11_000
    board.ledger.made(Made(("7", "entry", "late"), "created", late_ms))
    board.ledger.made(Made(("7", "entry", "at once"), "created", BEGAN_MS))
    assert sum(shown(board)["rate"]["changes"]) == 1

    clock.now_ms = late_ms
    assert shown(board)["rate"]["changes"][-3:] == [1, 0, 1]


def test_to_look_changes_nothing(board, clock):
    """Changed and changed back: whether that is news shows when its events come, or do not."""
    board.received(event(1, mode=1))
    for mode in (2, 1):
        board.ledger.made(Made(("7", "entry", "e1"), "updated", clock(), {"mode": mode}))
    assert shown(board)["totals"]["awaited"] == 1

    for number, mode in ((2, 2), (3, 1)):
        later = event(1, change="updated", mode=mode)
        board.received({**later, "uuid": f"u{number}"})
    assert shown(board)["totals"] == {"changes": 2, "events": 3, "awaited": 0, "repeated": 0}
    assert shown(board)["freshness"]["changes"] == 2
