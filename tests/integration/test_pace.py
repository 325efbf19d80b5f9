"""How fast a connection is asked, by whomever; and what becomes of one that does not answer."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from pollwire import due
from pollwire.errors import Unasked, Unavailable
from pollwire.http import SILENT_MIN
from pollwire.items import Newcomer
from pollwire.model import Connection
from pollwire.providers import youmail

from tests.integration.system import ANN, SHOP, Clock


def connection(system) -> Connection:
    found = system.world.state.connection("shop")
    assert found
    return found


# Deltas keep to the connection's rate


def test_requests_that_no_check_makes_are_apart(system):
    instants = [
        system.world.state.book("shop", 250, system.clock(), system.clock() + 2_000)
        for _ in range(9)
    ]

    assert instants == [system.clock() + 250 * number for number in range(9)]
    with pytest.raises(Unasked):
        system.world.state.book("shop", 250, system.clock(), system.clock() + 2_000)
    system.clock.advance(60)
    assert system.world.state.book("shop", 250, system.clock(), system.clock()) == system.clock()


def test_deltas_ask_no_faster_than_their_share_of_the_rate(ann, monkeypatch):
    monkeypatch.setattr(Clock, "sleep", Clock.advance)
    slow = replace(SHOP, requests_per_second=5.0)  # one a second for deltas
    ann.connect(slow)
    for _ in range(3):
        ann.simulator.leave_voicemail(ANN)
        ann.simulator.add_contact(ANN)
    times = []
    ann.http.on_request = lambda request: times.append((ann.clock(), request))
    ann.clock.advance(60)
    ann.check(slow)
    ann.run_deltas()

    asked = [at for at, request in times if "/poll/" not in request.url and not request.budget]
    assert len(asked) >= 3
    assert min(b - a for a, b in pairwise(asked)) >= 1000 / due.deltas_per_second(slow)


def test_a_delta_whose_turn_is_too_far_away_waits_for_the_next_check(ann):
    slow = replace(SHOP, requests_per_second=0.1)
    ann.connect(slow)
    contact = ann.simulator.add_contact(ANN)
    ann.clock.advance(60)
    ann.world.state.book("shop", 60_000, ann.clock(), ann.clock())
    before = len(ann.http.asked)
    ann.check(slow)
    ann.run_deltas()

    assert [one for one in ann.http.asked[before:] if "/poll/" not in one.url] == []
    assert "contact" in ann.pending()
    for _ in range(8):
        ann.poll(60)
    assert ("contact", "created", contact) in ann.said()


# A backlog


def test_a_backlog_is_drained_without_waiting_for_the_next_check(ann, monkeypatch):
    """Each invocation has time for a page or two; the rest is queued again at once."""
    monkeypatch.setattr(youmail, "PAGE_LENGTH", 10)
    ann.rest()
    for number in range(45):
        ann.simulator.leave_voicemail(ANN, preview=str(number))
    ann.clock.advance(60)
    ann.check()
    left = iter([60_000, 60_000, 1_000] * 100)
    ann.remaining_ms = lambda: next(left)

    assert ann.pump("delta", ann.deltas_url("entry"), 1) == 0

    told = [
        one.event["body"]["record"]["preview"] for one in ann.deliveries() if one.said[0] == "entry"
    ]
    assert sorted(map(int, told)) == list(range(45))
    assert ann.stream_state("entry").drain is None
    assert ann.clock() - ann.stream_state("entry").drained_ms < 60_000


# A provider that does not answer


@pytest.fixture
def crowd(system):
    """A connection of some accounts of which nobody is heard when ``quiet`` is set."""
    system.connect()
    newcomers = [Newcomer(f"2000000{n:04}", {}) for n in range(SILENT_MIN + 5)]
    assert system.registry.add_accounts(SHOP, newcomers) == []
    for one in newcomers:
        system.simulator.add_account(one.account, one.account, "pw", one.account, new_user=True)
    return system


def hush(request):
    raise Unavailable("nobody there")


def failures(system):
    return [item for (pk, _), item in system.table().items() if "failures" in item]


def test_a_provider_that_does_not_answer_rests_as_a_whole(crowd):
    crowd.http.on_request = hush
    crowd.check()

    assert failures(crowd) == []
    assert connection(crowd).outages == 1
    rest_ms = connection(crowd).paused_until_ms - crowd.clock()
    assert 30_000 <= rest_ms <= 60_000
    before = len(crowd.http.asked)
    crowd.clock.advance(20)
    crowd.check()
    assert len(crowd.http.asked) == before


def test_it_rests_as_long_as_it_asks_for(crowd):
    def refuse(request):
        raise Unavailable("503", retry_after_s=600)

    crowd.http.on_request = refuse
    crowd.check()

    assert connection(crowd).outages == 1
    assert connection(crowd).paused_until_ms - crowd.clock() >= 600_000


def test_it_rests_longer_each_time_and_comes_back(crowd):
    crowd.http.on_request = hush
    rests = []
    for _ in range(6):
        crowd.clock.now_ms = max(crowd.clock(), connection(crowd).paused_until_ms + 1)
        crowd.check()
        rests.append(connection(crowd).paused_until_ms - crowd.clock())

    assert rests == sorted(rests)
    assert rests[0] < rests[-1] <= due.BACKOFF_S_MAX * 1000
    crowd.http.on_request = lambda request: None
    crowd.clock.now_ms = connection(crowd).paused_until_ms + 1
    crowd.check()
    assert connection(crowd).outages == 0
    assert connection(crowd).paused_until_ms <= crowd.clock()


def test_while_nobody_answers_one_shard_asks_for_all():
    one = Connection("x", "youmail", interval_s=60, shards=16, outages=2)
    asked = [[job.shard for job in due.checks_due(one, minute * 60_000, 0)] for minute in range(32)]

    assert {len(shards) for shards in asked} == {1}
    assert {shard for (shard,) in asked} == set(range(16))


def test_workers_that_notice_an_outage_together_count_it_once(crowd):
    read = connection(crowd)
    for _ in range(5):
        crowd.world.note_silence(read)

    assert connection(crowd).outages == 1


def test_a_few_accounts_that_fail_are_no_outage(crowd):
    heard = crowd.table().keys()
    spared = max(account for pk, account in heard if pk.startswith("shard#"))
    crowd.http.on_request = lambda request: None if spared in request.url else hush(request)

    crowd.check()

    assert connection(crowd).outages == 0
    assert len(failures(crowd)) == SILENT_MIN + 4
