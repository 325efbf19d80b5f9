"""Promises of pollwire.events."""

from __future__ import annotations

import json
import re
import uuid
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pollwire import events
from pollwire.events import Composer, canonical, digest, group_id, iso
from pollwire.model import Change, Event, Row, Stream

DECIDED_MS = 1_477_500_389_437  # 2016-10-26T16:46:29.437Z, as in the seed
UPDATED_MS = 1_477_500_382_553
TOPIC = "arn:aws:sns:eu-central-1:123456789012:events.fifo"
SUBSCRIPTION = events.subscription_id(TOPIC)
MESSAGES = Stream(path="message-store")
PRESENCE = Stream(path="presence?detailedTelephonyState=true")
OWN = Stream()

quick = settings(database=None, deadline=None, max_examples=100)


def row(**fields) -> Row:
    fields = {
        "id": "m1",
        "updated_at": "1477500382553",
        "at_ms": UPDATED_MS,
        "body": {"text": "hi"},
        **fields,
    }
    return Row(**fields)


def change(kind="created", rev=1, again=0, **fields) -> Change:
    one = row(**fields)
    return Change(kind, one, digest(one), rev, again)


def composer(
    provider="ringcentral", connection="acme", account="133128004", name="message-store", **fields
) -> Composer:
    fields = {"stream": MESSAGES, "subscription": SUBSCRIPTION, **fields}
    return Composer(provider, connection, account, name, **fields)


def event(one: Change | None = None, maker: Composer | None = None, sequence: int = 7) -> Event:
    return (maker or composer()).event(one or change(), sequence, DECIDED_MS)


def envelope(*arguments, **fields) -> dict:
    return json.loads(event(*arguments, **fields).body)


# The envelope


def test_the_envelope_is_that_of_the_seeds():
    shown = change(type="VoiceMail", direction="Inbound", extension="133165004")

    assert envelope(shown) == {
        "uuid": event(shown).uuid,
        "event": "/restapi/v1.0/account/133128004/extension/133165004/message-store"
        "?type=VoiceMail&direction=Inbound",
        "timestamp": "2016-10-26T16:46:29.437Z",
        "subscriptionId": SUBSCRIPTION,
        "ownerId": "133128004",
        "body": {
            "accountId": "133128004",
            "extensionId": "133165004",
            "lastUpdated": "2016-10-26T16:46:22.553Z",
            "changes": [{"type": "VoiceMail", "newCount": 1}],
            "provider": "ringcentral",
            "connection": "acme",
            "stream": "message-store",
            "change": "created",
            "revision": 1,
            "sequence": 7,
            "recordId": "m1",
            "record": {"text": "hi"},
        },
    }


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        pytest.param("created", {"newCount": 1}, id="created"),
        pytest.param("updated", {"updatedCount": 1}, id="updated"),
        pytest.param("deleted", {"deletedCount": 1}, id="deleted"),
    ],
)
def test_a_count_of_zero_is_omitted(kind, counts):
    assert envelope(change(kind, type="SMS"))["body"]["changes"] == [{"type": "SMS", **counts}]


def test_a_change_of_no_message_type_bears_the_name_of_its_stream():
    maker = composer("youmail", name="contact", stream=OWN)

    assert envelope(change(), maker)["body"]["changes"] == [{"type": "contact", "newCount": 1}]


def test_a_provider_without_extensions_uses_the_account_for_both():
    body = envelope(change(extension=""))["body"]

    assert (body["accountId"], body["extensionId"]) == ("133128004", "133128004")


def test_a_row_without_a_time_was_last_updated_when_it_was_decided():
    shown = envelope(change(updated_at="", at_ms=0))

    assert shown["body"]["lastUpdated"] == shown["timestamp"]


@pytest.mark.parametrize(
    ("stream", "fields", "path"),
    [
        pytest.param(
            MESSAGES,
            {"type": "Fax", "direction": "Outbound", "extension": "101"},
            "/restapi/v1.0/account/7/extension/101/message-store?type=Fax&direction=Outbound",
            id="message with type and direction",
        ),
        pytest.param(
            MESSAGES,
            {"type": "SMS"},
            "/restapi/v1.0/account/7/extension/7/message-store?type=SMS",
            id="message with a type only",
        ),
        pytest.param(
            MESSAGES,
            {"direction": "Inbound"},
            "/restapi/v1.0/account/7/extension/7/message-store?direction=Inbound",
            id="message with a direction only",
        ),
        pytest.param(
            MESSAGES,
            {},
            "/restapi/v1.0/account/7/extension/7/message-store",
            id="message of unknown type",
        ),
        pytest.param(
            MESSAGES,
            {"type": "a&b=c d"},
            "/restapi/v1.0/account/7/extension/7/message-store?type=a%26b%3Dc+d",
            id="a type that is no part of a query",
        ),
        pytest.param(
            PRESENCE,
            {"extension": "101"},
            "/restapi/v1.0/account/7/extension/101/presence?detailedTelephonyState=true",
            id="presence",
        ),
        pytest.param(
            PRESENCE,
            {"direction": "Inbound"},
            "/restapi/v1.0/account/7/extension/7/presence?detailedTelephonyState=true",
            id="a call has a direction, its path does not",
        ),
        pytest.param(OWN, {}, "/pollwire/v1/youmail/account/7/entry", id="a path of our own"),
        pytest.param(
            OWN,
            {"type": "SMS", "extension": "101"},
            "/pollwire/v1/youmail/account/7/entry",
            id="a path of our own has no query",
        ),
    ],
)
def test_the_event_is_a_filter_path(stream, fields, path):
    maker = composer("youmail", account="7", name="entry", stream=stream)

    assert envelope(change(**fields), maker)["event"] == path


def test_the_subscription_is_one_per_deployment():
    other = TOPIC.replace("events", "others")

    assert events.subscription_id(TOPIC) == SUBSCRIPTION == str(uuid.UUID(SUBSCRIPTION))
    assert events.subscription_id(other) != SUBSCRIPTION


# Time


@pytest.mark.parametrize(
    ("at_ms", "text"),
    [
        pytest.param(0, "1970-01-01T00:00:00.000Z", id="epoch"),
        pytest.param(1_477_500_289_441, "2016-10-26T16:44:49.441Z", id="seed"),
        pytest.param(1_477_500_289_000, "2016-10-26T16:44:49.000Z", id="whole second"),
        pytest.param(1_709_164_800_001, "2024-02-29T00:00:00.001Z", id="leap day"),
        pytest.param(4_102_444_799_999, "2099-12-31T23:59:59.999Z", id="end of the century"),
        pytest.param(253_402_300_799_999, "9999-12-31T23:59:59.999Z", id="end of time"),
    ],
)
def test_an_instant_is_written_with_milliseconds(at_ms, text):
    assert iso(at_ms) == text


@quick
@given(at_ms=st.integers(0, 4_102_444_800_000))
def test_an_instant_can_be_read_back(at_ms):
    assert round(datetime.fromisoformat(iso(at_ms)).timestamp() * 1000) == at_ms


# The id


INGREDIENTS = [
    pytest.param({"provider": "youmail"}, {}, id="provider"),
    pytest.param({"connection": "other"}, {}, id="connection"),
    pytest.param({"account": "8"}, {}, id="account"),
    pytest.param({"name": "other"}, {}, id="stream"),
    pytest.param({}, {"id": "m2"}, id="record"),
    pytest.param({}, {"kind": "deleted"}, id="that it is deleted"),
    pytest.param({}, {"updated_at": "1477500382553.0"}, id="the provider's words for the time"),
    pytest.param({}, {"body": {"text": "ho"}}, id="content"),
    pytest.param({}, {"again": 1}, id="how often it was told before"),
]


@pytest.mark.parametrize(("maker", "fields"), INGREDIENTS)
def test_the_id_differs_with_each_ingredient(maker, fields):
    assert event(change(**fields), composer(**maker)).uuid != event().uuid


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"at_ms": 1}, id="how the time was understood"),
        pytest.param({"extension": "101"}, id="extension"),
        pytest.param({"type": "SMS", "direction": "Inbound"}, id="filters"),
        pytest.param({"kind": "updated", "rev": 2}, id="what was there before"),
    ],
)
def test_the_id_does_not_depend_on(fields):
    assert event(change(**fields)).uuid == event().uuid


def test_the_id_depends_on_no_clock_and_no_sequence():
    later = composer().event(change(), 8, DECIDED_MS + 1)

    assert later.uuid == event().uuid


def test_the_id_depends_on_the_epoch_that_an_event_is_of():
    found = [composer().event(change(), 7, DECIDED_MS, epoch).uuid for epoch in (0, 1, 2, 7)]

    assert len(set(found)) == 3
    assert found[0] == found[3], "it was told before that one began"


def test_the_id_does_not_depend_on_the_deployment():
    """A table restored into another stack must repeat itself with equal ids."""
    assert event(maker=composer(subscription="another")).uuid == event().uuid


def test_the_id_is_the_same_in_every_version():
    """A new id for an old change is a duplicate for every subscriber: SCHEMA_MAJOR says so."""
    assert event().uuid == "200113f0-1ec1-57f1-89a9-d7848234932a"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(("a|b", "c"), ("a", "b|c"), id="bar"),
        pytest.param(("a,b", "c"), ("a", "b,c"), id="comma"),
        pytest.param(('a","b', "c"), ("a", 'b","c'), id="quotes"),
        pytest.param(("ab", "c"), ("a", "bc"), id="nothing in between"),
        pytest.param(("", "a"), ("a", ""), id="empty"),
    ],
)
def test_ingredients_do_not_run_into_each_other(one, other):
    first = event(maker=composer(connection=one[0], account=one[1]))
    second = event(maker=composer(connection=other[0], account=other[1]))

    assert first.uuid != second.uuid
    assert first.group != second.group


# Canonical JSON and hashes


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param({"b": 1, "a": [1, "x"]}, '{"a":[1,"x"],"b":1}', id="keys sorted, no spaces"),
        pytest.param("é😀", '"\\u00e9\\ud83d\\ude00"', id="ASCII only"),
        pytest.param("\ud800", '"\\ud800"', id="lone surrogate"),
        pytest.param([None, True, 1.5], "[null,true,1.5]", id="constants"),
    ],
)
def test_a_value_is_hashed_in_one_way_of_writing(value, text):
    assert canonical(value) == text


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        pytest.param({"a": 1, "b": 2}, {"b": 2, "a": 1}, True, id="order of keys"),
        pytest.param({"a": 1}, {"a": "1"}, False, id="number and text"),
        pytest.param({"a": 1}, {"a": True}, False, id="number and truth"),
        pytest.param({"a": None}, {}, False, id="nothing said"),
        pytest.param({"a": [1, 2]}, {"a": [2, 1]}, False, id="order of a list"),
        pytest.param({"a": {"v": 1}}, {"a": {"v": 2}}, False, id="deep inside"),
        pytest.param({"a": 1, "v": 1}, {"a": 1, "v": 2}, True, id="volatile"),
        pytest.param({"a": 1, "v": 1}, {"a": 1}, True, id="volatile and missing"),
    ],
)
def test_content_is_equal_when_its_hash_is(one, other, equal):
    volatile = frozenset({"v"})

    assert (digest(row(body=one), volatile) == digest(row(body=other), volatile)) is equal


def test_a_tombstone_has_other_content():
    assert digest(row(deleted=True)) != digest(row())


def test_a_hash_says_nothing_of_time_or_id():
    assert digest(row(id="other", updated_at="1", at_ms=1)) == digest(row())


# Size and characters


def test_an_event_at_the_limit_keeps_its_record():
    room = events.EVENT_BYTES_MAX - len(event(change(body={"text": ""})).body)

    whole = event(change(body={"text": "x" * room}))

    assert len(whole.body) == events.EVENT_BYTES_MAX
    assert "record" in json.loads(whole.body)["body"]


def test_an_event_above_the_limit_goes_out_without_its_record():
    room = events.EVENT_BYTES_MAX - len(event(change(body={"text": ""})).body)
    large = change(body={"text": "x" * (room + 1)})

    body = envelope(large)["body"]

    assert "record" not in body
    assert (body["truncated"], body["hash"]) == (True, large.digest)


def test_the_limit_is_one_of_bytes_as_they_are_sent():
    """Each of these is one character, and twelve bytes when escaped."""
    body = envelope(change(body={"text": "😀" * 30_000}))["body"]

    assert body["truncated"] is True


def test_a_truncated_event_keeps_its_id_and_its_envelope():
    large = change(body={"text": "x" * 300_000}, type="Fax")

    shown = envelope(large)

    assert shown["uuid"] == event(large).uuid
    assert shown["body"]["changes"] == [{"type": "Fax", "newCount": 1}]


def test_a_large_event_leaves_the_next_one_whole():
    maker = composer()
    event(change(body={"text": "x" * 300_000}), maker)

    assert "record" in envelope(change(), maker)["body"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ud800", id="lone surrogate"),
        pytest.param("\x00\x1b\x7f", id="control characters"),
        pytest.param("\ufffe\uffff", id="no characters"),
        pytest.param("😀é", id="beyond ASCII"),
        pytest.param('"\\/\r\n', id="quotes and lines"),
    ],
)
def test_whatever_a_row_says_is_published_in_ascii(text):
    found = event(change(body={"text": text}))

    assert re.fullmatch(r"[\x20-\x7e]+", found.body)
    assert json.loads(found.body)["body"]["record"] == {"text": text}


# A record whose fields are the body

FLAT = Stream(path="presence?detailedTelephonyState=true", flat=True)
RINGING = {
    "extensionId": 133165004,
    "telephonyStatus": "Ringing",
    "activeCalls": [
        {
            "id": "448115d0d81241fcaf4fc0d0b01c0ef9",
            "direction": "Inbound",
            "from": "+14158905908",
            "to": "+16505819987",
            "telephonyStatus": "Ringing",
            "sessionId": "14860368004",
        }
    ],
    "sequence": 107945,
    "presenceStatus": "Available",
    "dndStatus": "DoNotAcceptDepartmentCalls",
    "allowSeeMyPresence": True,
}
OURS = {
    "accountId": "133128004",
    "extensionId": "133165004",
    "lastUpdated": "2016-10-26T16:46:22.553Z",
    "changes": [{"type": "presence", "newCount": 1}],
    "provider": "ringcentral",
    "connection": "acme",
    "stream": "presence",
    "change": "created",
    "revision": 1,
    "sequence": 7,
    "recordId": "m1",
}


def presence(**fields) -> dict:
    shown = change(**{"extension": "133165004", "body": RINGING, **fields})
    return envelope(shown, composer(name="presence", stream=FLAT))


def test_a_flat_body_has_the_fields_of_the_seed_and_a_sequence_of_our_own():
    shown = presence()

    path = "/restapi/v1.0/account/133128004/extension/133165004/presence"
    assert shown["event"] == f"{path}?detailedTelephonyState=true"
    assert shown["body"] == OURS | RINGING | {"sequence": 7}


@pytest.mark.parametrize(
    "name", ["provider", "connection", "stream", "change", "revision", "sequence", "recordId"]
)
def test_a_flat_row_does_not_hide_what_is_ours(name):
    assert presence(body={**RINGING, name: "the row's own"})["body"][name] == OURS[name]


def test_a_flat_body_above_the_limit_keeps_the_fields_that_are_ours():
    """A row may bear some of their names: they are not the row's to take away."""
    large = {**RINGING, "message": "x" * 300_000}
    one = change(extension="133165004", body=large)

    body = presence(body=large)["body"]

    assert body == {**OURS, "hash": one.digest, "truncated": True}


def test_a_flat_body_leaves_the_row_as_it_was():
    row_body = {**RINGING, "message": "x" * 300_000}
    presence(body=row_body)

    assert row_body == {**RINGING, "message": "x" * 300_000}


# Attributes and groups


def test_attributes_carry_the_filters():
    found = event(change("updated", type="Fax", direction="Outbound"))

    assert found.attributes == {
        "provider": "ringcentral",
        "connection": "acme",
        "account": "133128004",
        "stream": "message-store",
        "type": "Fax",
        "direction": "Outbound",
        "change": "updated",
    }


def test_no_attribute_is_empty():
    found = event(change(type="", direction=""))

    assert set(found.attributes) == {"provider", "connection", "account", "stream", "change"}
    assert all(found.attributes.values())


@pytest.mark.parametrize(
    ("extension", "attribute"),
    [
        pytest.param("101", "101", id="an extension"),
        pytest.param("133128004", None, id="the account itself"),
        pytest.param("", None, id="a provider without extensions"),
    ],
)
def test_an_extension_is_an_attribute_where_it_is_not_the_account(extension, attribute):
    assert event(change(extension=extension)).attributes.get("extension") == attribute


texts = st.text(max_size=30)


@quick
@given(connection=texts, account=texts, stream=texts)
def test_a_group_is_legal_whatever_the_ids_are(connection, account, stream):
    assert re.fullmatch("[A-Z2-7]{40}", group_id(connection, account, stream))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(("other", "7", "entry"), id="connection"),
        pytest.param(("acme", "8", "entry"), id="account"),
        pytest.param(("acme", "7", "contact"), id="stream"),
    ],
)
def test_each_stream_of_each_account_is_a_group(other):
    assert group_id(*other) != group_id("acme", "7", "entry")


def test_all_events_of_a_stream_are_one_group():
    assert event(change(id="m1")).group == event(change(id="m2")).group


def test_an_entity_is_one_record():
    assert event(change(rev=1)).entity == event(change("updated", rev=2)).entity
    assert event(change(id="m1")).entity != event(change(id="m2")).entity


def test_an_entity_is_short_however_long_the_id_is():
    assert len(event(change(id="x" * 10_000)).entity) == 32
