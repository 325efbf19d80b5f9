"""Promises of pollwire.items."""

from __future__ import annotations

import zlib
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pollwire import items
from pollwire.items import Drain, Standing, StreamState
from pollwire.model import Connection, Event, Record

quick = settings(database=None, deadline=None, max_examples=100)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
numbers = st.integers(0, 10**15)

CONNECTION = Connection(
    "acme",
    "youmail",
    hosts={"api": "https://api.example.com"},
    interval_s=10,
    slowest_s=300,
    requests_per_second=12.5,
    shards=8,
    accounts=5000,
    outages=2,
    paused_until_ms=1_700_000_000_000,
    settings={"backfill": "true"},
    credential=b"\x00sealed",
)
RECORD = Record(
    "m1", 3, "d" * 32, "2026", 5, True, 6, "b" * 32, 7, "Fax", "Inbound", "101", 2,
    {"from": ["+1"]}, "updated", 8, 9, 10, {"deleted": 2}, {"hue": {"S": "red"}},
)  # fmt: skip
EVENT = Event("uuid-1", '{"a": "é"}', {"stream": "entry"}, "GROUP", "entity")
DRAIN = Drain("live", 1000, "token", "page 2", 2000, 3000, True, True, 2, True, ("entry@1@m",), 3)
STATE = StreamState(4, 900, 800, "token", 700, DRAIN, (EVENT,), 12, 600, told_ms=500)


def record_round_trip(record: Record) -> Record:
    item = {**items.key("stream#a", items.record_sk(record.id)), **items.record_item(record)}
    return items.read_record(item)


def written(new: StreamState, item: dict | None = None) -> dict:
    """What the cursor item holds after an update, read as DynamoDB reads it."""
    item = dict(item or items.key("stream#a", "cursor"))
    version = int(item["version"]["N"]) if "version" in item else 0
    update = items.cursor_update("table", "stream#a", StreamState(version=version), new)
    sets, _, removes = update["UpdateExpression"].removeprefix("SET ").partition(" REMOVE ")
    for part in sets.split(", "):
        name, _, value = part.partition(" = ")
        item[name] = update["ExpressionAttributeValues"][value]
    for name in filter(None, removes.split(", ")):
        item.pop(name, None)
    return item


# Connections


def test_a_connection_is_read_as_it_was_written():
    assert items.read_connection(items.connection_item(CONNECTION)) == CONNECTION


def test_a_connection_with_defaults_is_read_as_it_was_written():
    plain = Connection("acme", "youmail")

    assert items.read_connection(items.connection_item(plain)) == plain


def test_attributes_of_a_newer_version_do_not_disturb_a_connection():
    item = {**items.connection_item(CONNECTION), "colour": {"S": "blue"}}

    assert items.read_connection(item) == CONNECTION


def test_a_connection_without_credential_has_no_such_attribute():
    assert "credential" not in items.connection_item(replace(CONNECTION, credential=None))


# Accounts


ACCOUNT_ITEM = {
    **items.key("shard#acme#0", "7"),
    "marks": {"S": "5\n\n\n1,2"},
    "pending": {"SS": ["entry@1@a", "contact@2@b"]},
    "was_empty": {"BOOL": True},
    "failures": {"N": "3"},
    "not_before": {"N": "1700000000000"},
    "standing": {"S": "paused"},
    "settings": {"S": '{"backfill": "true"}'},
    "credential": {"B": b"sealed"},
}


def test_an_account_is_read_as_it_stands():
    assert items.read_standing(ACCOUNT_ITEM) == Standing(
        account="7",
        marks="5\n\n\n1,2",
        pending=frozenset({"entry@1@a", "contact@2@b"}),
        was_empty=True,
        failures=3,
        not_before_ms=1_700_000_000_000,
        paused=True,
        settings={"backfill": "true"},
        credential=b"sealed",
    )


def test_an_account_that_was_only_registered_stands_at_the_start():
    assert items.read_standing(items.key("shard#acme#0", "7")) == Standing("7")


def test_attributes_of_a_newer_version_do_not_disturb_an_account():
    item = {**ACCOUNT_ITEM, "colour": {"S": "blue"}, "trouble": {"S": "Rejected: no"}}

    assert items.read_standing(item) == items.read_standing(ACCOUNT_ITEM)


def test_a_credential_is_not_shown():
    assert "sealed" not in repr(items.read_standing(ACCOUNT_ITEM))


# Streams


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(STATE, id="everything"),
        pytest.param(replace(STATE, drain=None), id="no drain"),
        pytest.param(replace(STATE, outbox=()), id="nothing to publish"),
        pytest.param(replace(STATE, drain=replace(DRAIN, since_ms=None)), id="drain of everything"),
        pytest.param(StreamState(version=1), id="nothing yet"),
    ],
)
def test_a_stream_is_read_as_it_was_written(state):
    assert items.read_stream(written(state), "table") == state


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"place": ' + "[" * 5_000])
def test_a_drain_that_cannot_be_read_begins_anew(text):
    odd = {**written(STATE), "drain": {"S": text}}

    assert items.read_stream(odd, "table") == replace(STATE, drain=None)


@pytest.mark.parametrize("table", ["table", "another"])
def test_a_stream_knows_the_table_that_it_was_written_in(table):
    assert items.read_stream(written(STATE), table).is_restored is (table == "another")


def test_a_stream_that_was_restored_says_so_until_it_was_read_to_its_end():
    restored = items.read_stream(written(STATE), "another")
    part = written(replace(restored, version=5), written(STATE))
    whole = written(replace(restored, version=6, is_restored=False, epoch=9), part)

    assert items.read_stream(part, "another").is_restored
    assert items.read_stream(whole, "table").epoch == 9


def test_a_stream_never_written_starts_at_version_zero():
    assert items.read_stream(items.key("stream#a", "cursor"), "table") == StreamState()


def test_what_is_over_is_removed():
    over = replace(STATE, version=5, drain=None, outbox=())

    item = written(over, written(STATE))

    assert {"drain", "outbox"}.isdisjoint(item)
    assert items.read_stream(item, "table") == over


def test_attributes_of_a_newer_version_survive_an_update():
    item = {**written(STATE), "colour": {"S": "blue"}}

    after = written(replace(STATE, version=5), item)

    assert after["colour"] == {"S": "blue"}
    assert items.read_stream(after, "table") == replace(STATE, version=5)


def test_attributes_of_a_newer_version_survive_a_record_that_is_written_anew():
    item = {**items.record_item(RECORD), **items.key("s", "r#m1"), "colour": {"S": "blue"}}

    after = items.record_item(replace(items.read_record(item), rev=4))

    assert after["colour"] == {"S": "blue"}
    assert after["rev"] == {"N": "4"}
    assert not {"pk", "sk"} & after.keys()


@pytest.mark.parametrize(
    ("version", "condition", "expected"),
    [
        pytest.param(0, "attribute_not_exists(version)", None, id="never written"),
        pytest.param(4, "version = :old", {"N": "4"}, id="the version that was read"),
    ],
)
def test_an_update_is_fenced(version, condition, expected):
    update = items.cursor_update("table", "stream#a", StreamState(version=version), STATE)

    assert update["ConditionExpression"] == condition
    assert update["ExpressionAttributeValues"].get(":old") == expected


def test_every_value_of_an_update_is_used():
    """DynamoDB refuses a call with a value that no expression names."""
    update = items.cursor_update("table", "stream#a", STATE, replace(STATE, version=5))

    used = f"{update['UpdateExpression']} {update['ConditionExpression']},".replace(" ", ",")
    assert all(f"{name}," in used for name in update["ExpressionAttributeValues"])


events = st.builds(Event, texts, texts, st.dictionaries(texts, texts, max_size=4), texts, texts)


@quick
@given(outbox=st.lists(events, max_size=5).map(tuple))
def test_the_outbox_is_read_as_it_was_written(outbox):
    state = replace(STATE, outbox=outbox)

    assert items.read_stream(written(state), "table").outbox == outbox


def test_a_full_outbox_fits_an_item():
    """Text that does not compress well: an item holds 400 KB."""
    noise = "".join(zlib.crc32(str(n).encode()).to_bytes(4).hex() for n in range(32_000))
    outbox = tuple(replace(EVENT, body=noise[n : n + 64 * 1024]) for n in range(4))

    item = written(replace(STATE, outbox=outbox))

    assert len(item["outbox"]["B"]) < 300 * 1024


# Records


records = st.builds(
    Record,
    id=texts.filter(bool),
    rev=numbers,
    digest=texts,
    updated_at=texts,
    at_ms=numbers,
    gone=st.booleans(),
    missing_ms=numbers,
    back_digest=texts,
    back_ms=numbers,
    type=texts,
    direction=texts,
    extension=texts,
)


@quick
@given(record=records)
def test_a_record_is_read_as_it_was_written(record):
    assert record_round_trip(record) == record


@pytest.mark.parametrize(
    "identity",
    [
        pytest.param("m1", id="plain"),
        pytest.param("r#r#1", id="looks like a key"),
        pytest.param("a b/c|d", id="spaces and slashes"),
        pytest.param("x" * 512, id="as long as is readable"),
        pytest.param("x" * 513, id="longer"),
        pytest.param("é" * 257, id="longer in bytes"),
        pytest.param("x" * 10_240, id="ten kilobytes"),
        pytest.param("sha256:" + "0" * 64, id="looks like a hash"),
    ],
)
def test_an_id_of_any_length_is_kept(identity):
    assert record_round_trip(replace(RECORD, id=identity)).id == identity


@pytest.mark.parametrize(
    ("identity", "readable"),
    [
        pytest.param("m1", True, id="plain"),
        pytest.param("x" * 512, True, id="as long as is readable"),
        pytest.param("x" * 513, False, id="longer"),
        pytest.param("é" * 257, False, id="longer in bytes"),
        pytest.param("sha256:abc", False, id="looks like a hash"),
    ],
)
def test_a_long_id_is_hashed_in_its_key(identity, readable):
    key = items.record_sk(identity)

    assert (key == f"r#{identity}") is readable
    assert len(key.encode()) <= 1024


def test_no_id_takes_the_key_of_a_hashed_one():
    long = "x" * 1000

    assert items.record_sk(items.record_sk(long).removeprefix("r#")) != items.record_sk(long)


def test_what_a_record_does_not_say_takes_no_space():
    assert items.record_item(Record("m1", rev=1)) == {"rev": {"N": "1"}}


def test_every_field_of_a_record_is_written():
    """A field that is forgotten would come back empty."""
    assert record_round_trip(RECORD) == RECORD
    assert all(getattr(RECORD, one.name) for one in fields(Record))


def test_attributes_of_a_newer_version_do_not_disturb_a_record():
    item = {**items.key("p", "r#m1"), **items.record_item(RECORD), "colour": {"S": "blue"}}

    read = items.read_record(item)
    assert read == replace(RECORD, more={**RECORD.more, "colour": {"S": "blue"}})


# Decisions that one transaction holds


def pair(number: int, size: int | None = 10):
    event = replace(EVENT, uuid=str(number), body="x" * size) if size is not None else None
    return event, Record(f"m{number}")


def chunks(pairs, room: int = 90):
    return list(items.event_chunks(pairs, room))


def test_nothing_decided_is_no_chunk():
    assert chunks([]) == []


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        pytest.param(1, [1], id="one"),
        pytest.param(90, [90], id="as many as fit"),
        pytest.param(91, [90, 1], id="one more"),
        pytest.param(200, [90, 90, 20], id="many"),
    ],
)
def test_a_chunk_holds_no_more_records_than_a_transaction(count, sizes):
    found = chunks(pair(n) for n in range(count))

    assert [len(records) for _, records in found] == sizes


LARGEST = items.OUTBOX_BYTES_MAX


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        pytest.param([LARGEST // 2] * 2, [2], id="exactly the limit"),
        pytest.param([LARGEST // 2, LARGEST // 2 + 1], [1, 1], id="a byte more"),
        pytest.param([LARGEST] * 3, [1, 1, 1], id="each at the limit"),
        pytest.param([LARGEST + 1, 1], [1, 1], id="one above it stands alone"),
        pytest.param([LARGEST, None, None], [3], id="records without event take no room"),
    ],
)
def test_a_chunk_holds_no_more_bytes_than_the_outbox(sizes, expected):
    found = chunks(pair(n, size) for n, size in enumerate(sizes))

    assert [len(records) for _, records in found] == expected


@quick
@given(
    sizes=st.lists(st.one_of(st.none(), st.integers(0, LARGEST)), max_size=40),
    room=st.integers(1, 10),
)
def test_chunks_keep_everything_in_order(sizes, room):
    pairs = [pair(n, size) for n, size in enumerate(sizes)]

    found = chunks(pairs, room)

    assert [one for _, records in found for one in records] == [one for _, one in pairs]
    assert [one for some, _ in found for one in some] == [one for one, _ in pairs if one]
    assert all(sum(len(one.body) for one in some) <= LARGEST for some, _ in found)


def test_an_event_is_in_the_chunk_of_its_record():
    found = chunks([pair(n, None if n % 3 else 10) for n in range(20)], room=4)

    for some, records in found:
        assert {one.uuid for one in some} <= {one.id.removeprefix("m") for one in records}
