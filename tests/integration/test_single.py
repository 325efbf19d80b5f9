"""A check of one account, beside the regular ones: somebody knows that something happened there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pollwire.model import CheckJob

from tests.integration.system import ANN, BOB, SHOP

SLOW = replace(SHOP, slowest_s=3600)


@pytest.fixture
def quiet(ann):
    """Ann and Bob have been quiet for a day; no regular check is due for long."""
    ann.connect(SLOW)
    ann.add_account(BOB, fields="history,entry,contact")
    ann.rest()
    ann.rest()
    ann.clock.advance(86_400)
    ann.poll(1)
    ann.rest()
    ann.clock.advance(7)
    ann.said()
    return ann


def check_one(system, account):
    """Have one account checked now, with what that leads to; return the paths asked for."""
    before = len(system.http.asked)
    job = CheckJob("shop", 0, system.clock(), SLOW.interval_s, account=account)
    system.world.queues.send_checks("youmail", [job], system.clock())
    assert system.run_checks() == 0
    assert system.run_deltas() == 0
    return [request.url for request in system.http.asked[before:]]


def test_a_change_is_told_at_once_however_quiet_the_account_was(quiet):
    contact = quiet.simulator.add_contact(ANN)
    quiet.check()
    assert quiet.said() == []  # It is not due.

    check_one(quiet, ANN)

    assert quiet.said() == [("contact", "created", contact)]


def test_nobody_else_is_asked_for(quiet):
    quiet.simulator.add_contact(ANN)
    quiet.simulator.add_contact(BOB)

    asked = check_one(quiet, ANN)

    assert [url for url in asked if "/vm/poll" in url] == [
        url for url in asked if url.endswith(ANN)
    ]
    assert {said[0] for said in quiet.said()} == {"contact"}
    assert quiet.pending(BOB) == set()


def test_no_validator_is_sent_that_a_cache_could_answer(quiet):
    check_one(quiet, ANN)

    (polled,) = [one for one in quiet.http.asked if "/vm/poll" in one.url][-1:]
    assert polled.url.endswith(ANN)
    assert "If-None-Match" not in polled.headers


@pytest.mark.parametrize(
    "hinder",
    [
        lambda system: system.registry.set_paused(SHOP, ANN, True),
        lambda system: system.remove_account(ANN),
        lambda system: system.world.state.pause_connection("shop", system.clock() + 60_000),
        lambda system: system.world.state.note_outage(SLOW, system.clock() - 1),
        lambda system: system.world.state.rest("shop", 0, ANN, system.clock() + 60_000),
        lambda system: system.world.state.book("shop", 60_000, system.clock(), system.clock()),
    ],
    ids=["paused", "removed", "connection paused", "outage", "left alone", "rate used up"],
)
def test_it_is_asked_for_nothing_where_the_regular_checks_would_not_either(quiet, hinder):
    quiet.simulator.add_contact(ANN)
    hinder(quiet)

    assert check_one(quiet, ANN) == []


def test_one_that_comes_too_late_is_dropped(quiet):
    job = CheckJob("shop", 0, quiet.clock() - 61_000, 60, account=ANN)
    quiet.world.queues.send_checks("youmail", [job], quiet.clock())
    before = len(quiet.http.asked)

    quiet.run_checks()

    assert len(quiet.http.asked) == before
