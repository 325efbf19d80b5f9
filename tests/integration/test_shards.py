"""Accounts come and go; the shards that they are spread over are the system's own business."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from pollwire import pipeline, state
from pollwire.errors import Misconfigured
from pollwire.items import Newcomer
from pollwire.state import shard_of, shards_before, shards_for

from tests.integration.system import ANN, BOB, SHOP


@pytest.fixture
def small(monkeypatch):
    """Shards that a few accounts fill."""
    monkeypatch.setattr(state, "SHARD_ACCOUNTS", 6)
    monkeypatch.setattr(pipeline, "SHARD_MAX", 10)


def shop(system):
    found = system.world.state.connection("shop")
    assert found
    return found


def spread(system):
    """Ids by shard, as the table has them."""
    found = {}
    for pk, account in system.table():
        if pk.startswith("shard#shop#"):
            found.setdefault(int(pk.rpartition("#")[2]), set()).add(account)
    return found


def newcomers(number, first=0):
    return [Newcomer(f"10000{n:06}", {"n": str(n)}) for n in range(first, first + number)]


def in_place(system):
    shards = shop(system).shards
    return all(
        shard_of(account, shards) == shard
        for shard, found in spread(system).items()
        for account in found
    )


@pytest.mark.parametrize(
    ("accounts", "shards"),
    [(0, 1), (1, 1), (850, 1), (851, 2), (1700, 2), (1701, 4), (10**6, 2048)],
)
def test_there_are_as_many_shards_as_the_accounts_need(accounts, shards):
    assert shards_for(accounts) == shards


def test_no_shard_of_a_million_accounts_is_above_its_size():
    accounts = 108_000  # just below what 128 shards take
    counts = Counter(shard_of(str(10_000_000 + n), 128) for n in range(accounts))

    assert shards_for(accounts) == 128
    assert max(counts.values()) <= pipeline.SHARD_MAX


def test_an_account_of_fewer_shards_lies_in_one_of_those_before():
    for account in map(str, range(200)):
        places = shards_before(account, 64)
        assert places[0] == shard_of(account, 64)
        assert {shard_of(account, 1 << n) for n in range(7)} == set(places)


def test_an_import_makes_room_first_and_moves_nothing(system, small):
    system.connect()

    refused = system.registry.add_accounts(SHOP, newcomers(250))

    assert refused == []
    assert shop(system).shards == 64
    assert shop(system).accounts == 250
    assert sum(map(len, spread(system).values())) == 250
    assert in_place(system)


def test_accounts_that_come_one_by_one_double_the_shards(system, small):
    system.connect()
    for one in newcomers(30):
        system.registry.add_account(SHOP, one.account)

    assert shop(system).shards == 8
    system.check(shop(system))
    system.check(shop(system))

    assert in_place(system)
    assert sum(map(len, spread(system).values())) == 30


def test_what_is_wrong_in_an_import_is_named_and_the_rest_is_taken(system, small):
    system.connect()
    system.registry.add_accounts(SHOP, newcomers(20))
    wrong = [Newcomer("no/id"), Newcomer("x", {"a": 1}), *newcomers(1, 3), *newcomers(2, 50)]

    refused = system.registry.add_accounts(SHOP, [*wrong, wrong[-1]])

    said = [str(one) for one in refused]
    assert len(said) == 4
    assert [text for text in said if "account id" in text]
    assert [text for text in said if "registered already" in text and "10000000003" in text]
    assert [text for text in said if "given twice" in text and "10000000051" in text]
    assert shop(system).accounts == 22
    assert sum(map(len, spread(system).values())) == 22


def test_an_account_is_registered_once_also_while_it_waits_to_be_moved(system, small):
    system.connect()
    system.registry.add_accounts(SHOP, newcomers(6))
    system.world.state.grow("shop", 16)

    refused = system.registry.add_accounts(SHOP, newcomers(6))

    assert len(refused) == 6
    assert shop(system).accounts == 6


def test_accounts_need_a_connection(system):
    with pytest.raises(Misconfigured, match="connection shop: there is none"):
        system.registry.add_account(SHOP, ANN)

    assert system.table() == {}


def test_putting_a_connection_again_keeps_its_shards(system, small):
    system.connect()
    system.registry.add_accounts(SHOP, newcomers(50))
    shards = shop(system).shards

    system.connect(replace(SHOP, interval_s=30))

    assert (shop(system).shards, shop(system).interval_s) == (shards, 30)
    assert shop(system).accounts == 50


def test_a_split_moves_accounts_as_they_are_and_loses_no_change(ann, small):
    ann.add_account(BOB, fields="history,entry,contact")
    ann.rest()
    before = {one: ann.world.state.find_account(SHOP, one)[1] for one in (ANN, BOB)}
    contacts = {one: ann.simulator.add_contact(one) for one in (ANN, BOB)}
    ann.world.state.grow("shop", 8)
    ann.clock.advance(60)

    ann.check(shop(ann))

    assert in_place(ann)
    for one in (ANN, BOB):
        found = ann.world.state.find_account(shop(ann), one)
        assert found
        assert found[0] == shard_of(one, 8)
        assert found[1].marks == before[one].marks or found[1].pending
    for _ in range(4):
        ann.clock.advance(60)
        ann.check(shop(ann))
        assert ann.run_deltas() == 0
    told = {one for _, _, one in ann.said()}
    assert set(contacts.values()) <= told


def test_a_delta_job_finds_its_account_after_a_move(ann, small):
    contact = ann.simulator.add_contact(ANN)
    ann.clock.advance(60)
    ann.check()
    ann.world.state.grow("shop", 8)
    ann.check(replace(shop(ann), shards=1))
    assert in_place(ann)

    assert ann.run_deltas() == 0

    assert ("contact", "created", contact) in ann.said()


@pytest.fixture
def moving(ann, monkeypatch):
    """An account that is moved to the shard it belongs to when somebody has looked there."""
    ann.world.state.grow("shop", 8)
    connection = shop(ann)
    own = shard_of(ANN, 8)
    assert own != 0
    moves = iter([True])

    def then_move(call, Key, **arguments):
        answer = call(Key=Key, **arguments)
        if Key["pk"]["S"] == f"shard#shop#{own}" and next(moves, False):
            assert ann.world.state.move_account("shop", ANN, 0, own)
        return answer

    ann.faults |= {"get_item": then_move, "delete_item": then_move}
    return connection, own


def test_an_account_that_is_moved_behind_whoever_looks_is_found(ann, moving):
    connection, own = moving

    found = ann.world.state.find_account(connection, ANN)

    assert found is not None
    assert found[0] == own


def test_an_account_that_is_moved_behind_whoever_removes_it_is_removed(ann, moving):
    connection, _ = moving
    before = connection.accounts

    assert ann.registry.remove_account(connection, ANN)

    assert spread(ann) == {}
    assert shop(ann).accounts == before - 1


def test_a_move_takes_no_state_back_that_was_written_meanwhile(system, monkeypatch):
    system.connect()
    system.registry.add_account(SHOP, ANN)
    moved = system.world.state
    real = moved._get
    seen = []

    def read_then_changed(pk, sk):
        item = real(pk, sk)
        if not seen:
            seen.append(item)
            moved._update_account(
                "shop", 0, ANN, "ADD pending :p", {":p": {"SS": ["entry@1@mark"]}}
            )
        return item

    monkeypatch.setattr(moved, "_get", read_then_changed)
    assert moved.move_account("shop", ANN, 0, 1) is False
    assert moved.move_account("shop", ANN, 0, 1) is True

    standing = moved.account("shop", 1, ANN)
    assert standing
    assert standing.pending == {"entry@1@mark"}
    assert moved.account("shop", 0, ANN) is None


def test_an_account_that_was_registered_twice_in_a_split_is_one_again(system, small):
    system.connect()
    system.registry.add_account(SHOP, ANN)
    twin = system.table()["shard#shop#0", ANN]
    system.clients("dynamodb").put_item(
        TableName=system.environment["TABLE_NAME"], Item={**twin, "pk": {"S": "shard#shop#5"}}
    )

    assert system.world.state.move_account("shop", ANN, 0, 5)

    assert spread(system) == {5: {ANN}}


def test_a_shard_that_is_too_large_is_split_by_its_check(system, small):
    system.connect()
    system.registry.add_accounts(SHOP, newcomers(6))
    table = system.environment["TABLE_NAME"]
    for one in newcomers(40, first=100):
        system.clients("dynamodb").put_item(
            TableName=table, Item={"pk": {"S": "shard#shop#0"}, "sk": {"S": one.account}}
        )
    for _ in range(4):
        system.check(shop(system))

    assert shop(system).shards == 8
    assert in_place(system)
    assert max(map(len, spread(system).values())) <= 10


def test_a_removed_account_is_gone_wherever_it_was(system, small):
    system.connect()
    system.registry.add_accounts(SHOP, newcomers(5))
    system.world.state.grow("shop", 16)
    one = newcomers(1)[0].account

    assert system.registry.remove_account(shop(system), one)
    assert not system.registry.remove_account(shop(system), one)

    assert shop(system).accounts == 4
    assert system.world.state.find_account(shop(system), one) is None


def test_an_account_that_is_removed_while_it_is_moved_stays_removed(system, monkeypatch):
    system.connect()
    system.registry.add_account(SHOP, ANN)
    real = system.world.state._get

    def read_then_removed(pk, sk):
        item = real(pk, sk)
        system.registry.remove_account(SHOP, ANN)
        return item

    monkeypatch.setattr(system.world.state, "_get", read_then_removed)

    assert not system.world.state.move_account("shop", ANN, 0, 1)
    assert spread(system) == {}


def test_an_account_in_two_shards_is_removed_from_both(system, small):
    system.connect()
    system.registry.add_account(SHOP, ANN)
    system.world.state.grow("shop", 8)
    twin = {**system.table()["shard#shop#0", ANN], "pk": {"S": f"shard#shop#{shard_of(ANN, 8)}"}}
    system.clients("dynamodb").put_item(TableName=system.environment["TABLE_NAME"], Item=twin)

    assert system.registry.remove_account(shop(system), ANN)

    assert spread(system) == {}


def test_shards_have_an_end(system):
    system.connect()
    system.world.state.grow("shop", 1 << 20)

    assert shop(system).shards == 16_384


def test_putting_a_connection_again_ends_no_pause(system):
    system.connect()
    system.world.state.pause_connection("shop", 9_000_000_000_000)

    system.connect(replace(SHOP, interval_s=30))

    assert shop(system).paused_until_ms == 9_000_000_000_000
