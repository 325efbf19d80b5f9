"""Promises of pollwire.tokens."""

from __future__ import annotations

import pytest
from pollwire.errors import Unasked
from pollwire.tokens import RENEWAL_MS, Grant, Token


class Shared:
    """The token that workers share, as the table has it, and how often it was read and claimed."""

    def __init__(self, grant=None):
        self.grant = grant or Grant()
        self.reads = self.claims = 0
        self.claimed_until_ms = 0
        self.now_ms = 1_000_000

    def load(self):
        self.reads += 1
        return self.grant

    def share(self, grant):
        self.grant = grant
        self.claimed_until_ms = 0

    def claim(self):
        self.claims += 1
        if self.claimed_until_ms > self.now_ms:
            return False
        self.claimed_until_ms = self.now_ms + RENEWAL_MS
        return True

    def worker(self):
        return Token(self.load, self.share, self.claim, lambda: self.now_ms)


def test_a_token_that_nobody_asks_for_is_not_read():
    shared = Shared(Grant("t1"))
    shared.worker()

    assert shared.reads == 0


@pytest.mark.parametrize("grant", [Grant("t1"), Grant("")])
def test_a_token_is_read_once(grant):
    shared = Shared(grant)
    token = shared.worker()

    assert (token.value, token.value, shared.reads) == (grant.value, grant.value, 1)


def test_a_new_token_is_shared_with_its_life():
    shared = Shared(Grant("t1"))
    token = shared.worker()

    token.renew("t2", lasts_s=7200)

    assert token.value == "t2"
    assert shared.grant == Grant("t2", shared.now_ms + 3_600_000, shared.now_ms + 7_200_000)
    assert shared.reads == 0


def test_a_token_that_is_not_shared_is_kept():
    token = Token()
    before = token.value

    token.renew("t1")

    assert (before, token.value, token.is_fresh) == ("", "t1", True)


def test_a_token_without_a_known_life_is_good_until_it_is_refused():
    shared = Shared(Grant("t1"))
    token = shared.worker()
    shared.now_ms += 10**12

    assert (token.value, token.renews()) == ("t1", False)


def test_of_many_workers_one_gets_the_token_and_the_others_are_not_asked():
    shared = Shared()
    first, *others = (shared.worker() for _ in range(5))

    assert first.renews()
    for other in others:
        with pytest.raises(Unasked, match="another worker"):
            other.renews()

    first.renew("t1", lasts_s=7200)
    shared.now_ms += 1_000
    assert [other.renews() for other in others] == [False] * 4
    assert {other.value for other in others} == {"t1"}


def test_accounts_of_one_worker_do_not_ask_the_table_one_by_one():
    shared = Shared()
    token = shared.worker()
    assert token.renews()

    for _ in range(100):
        with pytest.raises(Unasked):
            token.renews()

    assert (shared.claims, shared.reads) == (1, 2)


def test_a_worker_that_died_getting_a_token_holds_the_others_up_for_a_while_only():
    shared = Shared()
    assert shared.worker().renews()
    other = shared.worker()

    with pytest.raises(Unasked):
        other.renews()
    shared.now_ms += RENEWAL_MS

    assert other.renews()


def test_long_before_a_token_ends_one_worker_gets_the_next_while_the_others_use_it():
    shared = Shared()
    shared.worker().renew("t1", lasts_s=7200)
    first, other = shared.worker(), shared.worker()
    shared.now_ms += 3_599_999
    assert (first.renews(), other.renews()) == (False, False)

    shared.now_ms += 1

    assert (first.renews(), other.renews(), other.value) == (True, False, "t1")
    first.renew("t2", lasts_s=7200)
    shared.now_ms += 1_000
    assert (other.renews(), other.value) == (False, "t2")


def test_a_token_that_ended_is_none():
    shared = Shared()
    token = shared.worker()
    token.renew("t1", lasts_s=60)
    shared.now_ms += 60_000

    assert token.value == ""
    assert token.renews()


def test_a_refused_token_is_forgotten_and_a_newer_one_taken_up():
    shared = Shared(Grant("t1"))
    token = shared.worker()
    assert token.value == "t1"

    token.refuse("t1")
    assert token.value == ""

    shared.grant = Grant("t2")
    assert (token.renews(), token.value) == (False, "t2")
    token.refuse("t1")  # an answer that comes late
    assert token.value == "t2"
