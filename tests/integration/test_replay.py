"""What was told is told again if an operator asks for it: the same events, whatever happens."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
from pollwire import drain, marks
from pollwire.errors import Misconfigured
from pollwire.model import CheckJob, Connection
from pollwire.providers import youmail
from pollwire.providers.ringcentral import STREAMS
from pollwire.registry import ORDERS_MAX

from tests.contract.subjects import SUBJECTS, Clock
from tests.integration.system import ANN, SHOP
from tests.integration.test_crashes import afterwards, at_call, countdown, crash

PROVIDERS = [name for name in SUBJECTS if name != "acme"]
EACH = [(name, stream) for name in PROVIDERS for stream in SUBJECTS[name].parts]

#: Everything that a delta asks AWS for.
CALLS = (
    *("get_item", "query", "batch_get_item", "update_item", "transact_write_items"),
    *("publish_batch", "send_message_batch"),
)


def order(system, stream, since_ms=0, account=ANN, connection=SHOP):
    """Do what the command does, without its check."""
    element = marks.element(stream, marks.replay(since_ms), system.clock())
    assert system.registry.order(connection, account, [element])
    return element


def events(system):
    return [one.event for one in system.deliveries()]


def orders(system, account=ANN):
    return [one for one in system.standing(account).pending if marks.asks_for_all([one])]


def counted(logs, name):
    return sum(line["counts"].get(name, 0) for line in logs() if "counts" in line)


class Now(Clock):
    """The system's time, in seconds."""

    def __init__(self, system):
        self._system = system

    def __call__(self):
        return self._system.clock() / 1000


@pytest.fixture
def told(ann):
    """Three contacts, one of them changed twice, one deleted; their last events by record."""
    ids = [ann.simulator.add_contact(ANN) for _ in range(3)]
    ann.rest()
    ann.simulator.update_contact(ids[0], firstName="Robert")
    ann.simulator.delete_contact(ids[1])
    ann.rest()
    ann.simulator.update_contact(ids[0], firstName="Bob")
    ann.rest()
    last = {one["body"]["recordId"]: one for one in events(ann)}
    assert [last[one]["body"]["change"] for one in ids] == ["updated", "deleted", "created"]
    return ann, last


# The same events


@pytest.mark.parametrize("backfill", [False, True], ids=["baseline", "backfill"])
@pytest.mark.parametrize(("name", "stream"), EACH)
def test_each_stream_of_each_provider_is_told_again_as_it_was(system, name, stream, backfill):
    subject, part = SUBJECTS[name], SUBJECTS[name].parts[stream]
    connection = Connection("shop", name, interval_s=60, slowest_s=60)
    world = subject.world(Now(system))
    if name != "youmail":
        system.attach(name, world.simulator)
    for host in subject.provider.hosts.values():
        system.http.simulators[host.partition("://")[2]] = world.simulator
    system.connect(connection)
    account = world.account.id
    settings = dict(world.account.settings) | ({"backfill": "true"} if backfill else {})
    sealed = system.world.sealer.seal(dict(world.account.credential), "shop", account)
    system.registry.add_account(connection, account, settings=settings, credential=sealed)

    def rest():
        for identity in world.account.watched:
            system.registry.watch(connection, account, identity, system.clock() + 3_600_000)
        for _ in range(8):
            system.clock.advance(60)
            system.check(connection)
            assert not system.run_deltas()
            if not system.standing(account).pending:
                return
        raise AssertionError("it does not come to rest")

    rest()
    identity = part.change(world)
    rest()
    first = [one for one in events(system) if one["body"]["stream"] == stream]
    last = {one["body"]["recordId"]: one for one in first}
    assert identity in last

    order(system, stream, 0, account, connection)
    rest()

    again = events(system)
    assert sorted(again, key=lambda one: one["body"]["sequence"]) == again
    said = {one["body"]["recordId"]: still(one, stream) for one in again}
    assert said == {identity: still(one, stream) for identity, one in last.items()}
    assert len(again) == len(last)


def still(event, stream):
    """Leave out of an event what says nothing about the thing itself."""
    volatile = STREAMS["presence"].volatile if stream == "presence" else ()
    body = {name: value for name, value in event["body"].items() if name not in volatile}
    return event | {"body": body}


def test_the_last_event_of_each_record_is_told_again_in_order(told):
    ann, last = told

    order(ann, "contact")
    ann.rest()

    assert events(ann) == sorted(last.values(), key=lambda one: one["body"]["sequence"])


def test_what_was_told_before_the_instant_is_not(told):
    ann, last = told
    newest = max(last.values(), key=lambda one: one["body"]["sequence"])
    since_ms = max(record.told_ms for record in ann.records("contact").values())

    order(ann, "contact", since_ms)
    ann.rest()

    assert events(ann) == [newest]


def test_what_changed_meanwhile_is_told_as_the_change_that_it_is(told):
    ann, last = told
    alive = next(one for one in last if last[one]["body"]["change"] == "created")
    ann.simulator.update_contact(alive, firstName="Eve")

    order(ann, "contact")
    ann.rest()

    said = events(ann)
    (changed,) = [one for one in said if one["body"]["recordId"] == alive]
    assert (changed["body"]["change"], changed["body"]["record"]["firstName"]) == ("updated", "Eve")
    others = [one for one in said if one is not changed]
    assert {one["uuid"] for one in others} == {last[one]["uuid"] for one in last if one != alive}


def test_what_the_baseline_recorded_is_not_told(system):
    system.connect()
    system.add_account(ANN, fields="contact")
    system.simulator.add_contact(ANN)
    system.rest()

    order(system, "contact")
    system.rest()

    assert events(system) == []
    assert orders(system) == []


def test_a_state_that_came_back_is_told_with_its_last_id(ann):
    contact = ann.simulator.add_contact(ANN, firstName="A")
    ann.rest()
    for name in ("B", "A"):
        ann.simulator.update_contact(contact, firstName=name)
        ann.rest()
    last = events(ann)[-1]

    order(ann, "contact")
    ann.rest()

    assert events(ann) == [last]
    assert last["body"]["revision"] == 3


def test_a_truncated_event_is_told_again_as_it_was(ann):
    ann.simulator.leave_voicemail(ANN, transcript="I will be late. " * 17_000)
    ann.rest()
    (first,) = [one for one in events(ann) if one["body"]["stream"] == "entry"]

    order(ann, "entry")
    ann.rest()

    assert events(ann) == [first]
    assert first["body"]["truncated"]


def test_what_the_provider_lists_no_more_is_counted(told, logs):
    ann, last = told
    rows = ann.simulator._accounts[ANN].rows["contact"]
    alive = next(one for one in last if last[one]["body"]["change"] != "deleted")
    del rows[alive]

    order(ann, "contact")
    ann.rest()

    assert {one["body"]["recordId"] for one in events(ann)} == last.keys() - {alive}
    assert counted(logs, "unrepeated") == 1
    assert counted(logs, "repeated") == 2


def test_an_id_stays_though_the_table_was_restored_since(ann):
    """The number of the last event before that is part of the ids from then on."""

    def restore(epoch):
        ann.dynamodb.update_item(
            TableName=ann.environment["TABLE_NAME"],
            Key={"pk": {"S": f"stream#shop#{ANN}#contact"}, "sk": {"S": "cursor"}},
            UpdateExpression="SET epoch = :epoch",
            ExpressionAttributeValues={":epoch": {"N": str(epoch)}},
        )

    restore(5)
    ann.simulator.add_contact(ANN)
    ann.rest()
    (first,) = events(ann)
    restore(ann.stream_state("contact").seq)

    order(ann, "contact")
    ann.rest()

    assert events(ann) == [first]


# Records of older versions


def age(system, stream):
    """Take out of the records what an older version did not write."""
    for pk, sk in system.table():
        if pk.endswith(f"#{stream}") and sk.startswith("r#"):
            system.dynamodb.update_item(
                TableName=system.environment["TABLE_NAME"],
                Key={"pk": {"S": pk}, "sk": {"S": sk}},
                UpdateExpression="REMOVE told, told_at, told_seq, told_epoch",
            )


def test_of_an_older_version_the_ids_are_the_same_all_the_same(told):
    ann, last = told
    age(ann, "contact")

    order(ann, "contact")
    ann.rest()

    again = {one["body"]["recordId"]: one for one in events(ann)}
    assert {key: one["uuid"] for key, one in again.items()} == {
        key: one["uuid"] for key, one in last.items()
    }
    # Whoever has the event drops it by its sequence as well.
    assert all(again[key]["body"]["sequence"] <= last[key]["body"]["sequence"] for key in last)


# Once


def test_it_is_told_once(told):
    ann, last = told
    order(ann, "contact")
    ann.rest()
    assert len(events(ann)) == len(last)

    for _ in range(5):
        ann.poll()

    assert events(ann) == []
    assert orders(ann) == []


def test_two_orders_are_answered_together_by_the_earlier_instant(told):
    ann, last = told
    order(ann, "contact", ann.clock() - 1)
    order(ann, "contact", 0)

    ann.rest()

    assert len(events(ann)) == len(last)
    assert orders(ann) == []


def test_it_is_told_again_each_time_it_is_asked_for(told):
    ann, last = told
    for _ in range(2):
        order(ann, "contact")
        ann.rest()
        assert len(events(ann)) == len(last)


def test_a_job_that_is_late_does_not_tell_it_once_more(told):
    """Checks queue what is pending again and again; the first job answers for all."""
    ann, last = told
    order(ann, "contact")
    for _ in range(3):
        ann.clock.advance(60)
        ann.check()

    assert ann.run_deltas() == 0

    assert len(events(ann)) == len(last)
    assert orders(ann) == []


def test_one_that_is_paused_is_told_when_it_is_resumed(told):
    ann, last = told
    ann.registry.set_paused(SHOP, ANN, True)
    order(ann, "contact")
    for _ in range(3):
        ann.poll()
    assert events(ann) == []

    ann.registry.set_paused(SHOP, ANN, False)
    ann.rest()

    assert len(events(ann)) == len(last)


def test_a_check_of_the_account_tells_it_at_once(told):
    ann, last = told
    ann.clock.advance(3600)
    order(ann, "contact")
    job = CheckJob("shop", 0, ann.clock(), SHOP.interval_s, account=ANN)
    ann.world.queues.send_checks("youmail", [job], ann.clock())

    assert ann.run_checks() == 0
    assert ann.run_deltas() == 0

    assert len(events(ann)) == len(last)


def test_no_more_orders_are_taken_than_an_item_bears(told):
    ann, _ = told
    ann.registry.set_paused(SHOP, ANN, True)
    for number in range(ORDERS_MAX):
        order(ann, "contact", number)

    with pytest.raises(Misconfigured, match="stream contact"):
        order(ann, "contact", 99)
    order(ann, "entry")
    ann.registry.set_paused(SHOP, ANN, False)
    ann.rest()
    order(ann, "contact")


def test_an_account_that_is_not_there_takes_no_order(system):
    system.connect()

    element = marks.element("contact", marks.FULL, system.clock())
    assert not system.registry.order(SHOP, ANN, [element])
    assert not [pk for pk, _ in system.table() if pk.startswith("shard#")]


# A second sighting is not forgotten


def test_what_a_replay_finds_to_be_missing_is_told_as_deleted(ann):
    """The order goes with its drain, and what that drain doubted is listed once more."""
    greeting = ann.simulator.record_greeting(ANN)
    ann.rest()
    events(ann)
    del ann.simulator._accounts[ANN].rows["greeting"][greeting]

    order(ann, "greeting")
    ann.rest()

    assert [one["body"]["change"] for one in events(ann)] == ["deleted"]


def test_a_stream_that_is_never_listed_to_find_deletions_has_none_found(ann):
    """Its lists may be windows: what is in none any more was not deleted for that."""
    contact = ann.simulator.add_contact(ANN)
    ann.rest()
    events(ann)
    del ann.simulator._accounts[ANN].rows["contact"][contact]

    for _ in range(2):
        element = marks.element("contact", marks.FULL, ann.clock())
        ann.registry.order(SHOP, ANN, [element])
        ann.rest()

    assert events(ann) == []
    assert not ann.records("contact")[contact].missing_ms


# Long lists


@pytest.fixture
def long(ann, monkeypatch):
    """Contacts in three pages, told; a drain decides after each."""
    monkeypatch.setattr(drain, "ROWS_MAX", 10)
    monkeypatch.setattr(youmail, "PAGE_LENGTH", 10)
    for number in range(25):
        ann.simulator.add_contact(ANN, at_ms=ann.clock() + number)
    ann.clock.advance(1)
    ann.rest()
    last = {one["body"]["recordId"]: one for one in events(ann)}
    assert len(last) == 25
    return ann, last


def test_a_list_of_many_pages_is_told_again_over_many_invocations(long, logs):
    ann, last = long
    order(ann, "contact")

    parts = []
    for _ in range(3):
        ann.remaining_ms = countdown(60_000, 10_000)
        ann.poll()
        parts.append(events(ann))
    ann.remaining_ms = lambda: 60_000
    ann.rest()

    assert [len(part) for part in parts] == [10, 10, 5]
    assert {one["body"]["recordId"]: one for part in parts for one in part} == last
    assert events(ann) == []
    assert ann.stream_state("contact").drain is None
    assert (counted(logs, "repeated"), counted(logs, "unrepeated")) == (25, 0)


def test_an_order_that_comes_while_a_list_is_read_waits_for_the_next(long):
    ann, last = long
    ann.simulator.add_contact(ANN)
    element = marks.element("contact", marks.FULL, ann.clock())
    ann.registry.order(SHOP, ANN, [element])
    ann.remaining_ms = countdown(60_000, 10_000)
    ann.poll()
    assert ann.stream_state("contact").drain
    before = events(ann)

    order(ann, "contact")
    ann.remaining_ms = lambda: 60_000
    ann.rest()

    told = Counter(one["uuid"] for one in before + events(ann))
    assert {told[one["uuid"]] for one in last.values()} == {1}


def test_a_list_without_an_end_is_not_told_again_for_ever(long):
    ann, _ = long
    page = ann.simulator.handle

    def endless(method, path, query, headers, body):
        if "contacts" in path:
            query = dict(query) | {"pageNumber": "1"}
        return page(method, path, query, headers, body)

    ann.simulator.handle = endless
    order(ann, "contact")
    again = []
    for _ in range(10):
        ann.poll(1200)
        again.append(len(events(ann)))

    assert 25 < sum(again) < 75
    assert again[-3:] == [0, 0, 0]


# Whatever stops a worker


@pytest.mark.parametrize("fault", [crash, afterwards])
def test_a_crash_at_any_call_repeats_it_and_loses_nothing(told, fault):
    ann, last = told
    wanted = {one["uuid"]: json.dumps(one) for one in last.values()}

    for number in range(1, 60):
        ann.clock.advance(60)
        order(ann, "contact")
        ann.check()
        calls, hit = at_call(number, fault), []
        for name in CALLS:
            ann.faults[name] = noting(calls, hit)
        ann.run_deltas()
        ann.faults.clear()
        ann.redeliver()
        ann.run_deltas()
        ann.rest()
        again = events(ann)
        assert {one["uuid"]: json.dumps(one) for one in again} == wanted
        assert ann.stream_state("contact").outbox == ()
        assert orders(ann) == []
        if len(hit) < number:
            break
    else:
        raise AssertionError("it does not end")
    assert number > 8
    assert len(again) == len(wanted)


def noting(fault, hit):
    def call(real, **arguments):
        hit.append(real)
        return fault(real, **arguments)

    return call


def test_an_account_that_is_removed_while_it_is_told_again_does_not_come_back(told):
    ann, _ = told
    order(ann, "contact")
    ann.http.on_request = lambda request: (
        ann.remove_account(ANN) if "/contacts/" in request.url else None
    )

    ann.poll()
    ann.redeliver()
    assert ann.run_deltas() == 0

    assert ann.standing() is None


def test_records_keep_what_was_told_of_them_through_other_writes(told):
    """What is missing and is back again, say, is what it was."""
    ann, last = told
    record = next(one for one in ann.records("contact").values() if not one.gone)
    ann.world.state.commit(
        ann.job("contact"),
        ann.stream_state("contact"),
        ann.stream_state("contact"),
        [replace(record, missing_ms=5)],
    )

    order(ann, "contact")
    ann.rest()

    assert last[record.id] in events(ann)
