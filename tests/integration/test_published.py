"""The published contract: every example is what the code makes, and what its schema says."""

from __future__ import annotations

import copy
import json
import re
from urllib.parse import parse_qs, urlsplit

import pytest
from jsonschema import Draft202012Validator, ValidationError
from pollwire.providers import registered
from referencing import Registry, Resource

from tests.integration.publish import ACCOUNTS, FOLDER, examples, text_of

SCHEMAS = {path.name: json.loads(path.read_text()) for path in FOLDER.glob("schemas/*.json")}
REGISTRY = Registry().with_resources(
    (schema["$id"], Resource.from_contents(schema)) for schema in SCHEMAS.values()
)
EXAMPLES = sorted(path.name for path in FOLDER.glob("*.json"))
ENVELOPE = {"uuid", "event", "timestamp", "subscriptionId", "ownerId", "body"}


def validator(event):
    """The schema that an event follows: its filter path tells."""
    path = urlsplit(event.get("event", "")).path
    kinds = {"message-store": "message", "presence": "presence"}
    kind = (
        kinds.get(path.rpartition("/")[2], "change") if path.startswith("/restapi/") else "change"
    )
    return Draft202012Validator(SCHEMAS[f"{kind}.schema.json"], registry=REGISTRY)


def load(name):
    return json.loads((FOLDER / name).read_text())


@pytest.fixture(scope="module")
def made():
    return examples()


def test_every_example_is_made_and_every_made_one_is_published(made):
    assert sorted(made) == EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_the_code_makes(name, made):
    """After a change that is meant: python -m tests.integration.publish (see there)."""
    assert text_of(made[name]) == (FOLDER / name).read_text()


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_schema_is_one(name):
    Draft202012Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_follows_its_schema(name):
    event = load(name)

    validator(event).validate(event)
    assert set(event) == ENVELOPE
    assert name.startswith(f"{event['body']['stream']}.")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_follows_no_other_schema(name):
    event = load(name)
    follows = [
        kind
        for kind, schema in SCHEMAS.items()
        if Draft202012Validator(schema, registry=REGISTRY).is_valid(event)
    ]

    assert len(follows) == 1


def test_every_kind_of_change_has_an_example():
    assert {load(name)["body"]["change"] for name in EXAMPLES} == {"created", "updated", "deleted"}


def test_every_stream_of_every_provider_has_an_example():
    bodies = [load(name)["body"] for name in EXAMPLES]

    assert {(body["provider"], body["stream"]) for body in bodies} == {
        (name, stream) for name, provider in registered().items() for stream in provider.streams
    }


def test_the_examples_of_a_stream_are_numbered_in_their_order():
    told = {}
    for event in sorted(map(load, EXAMPLES), key=lambda event: event["timestamp"]):
        body = event["body"]
        told.setdefault((body["provider"], body["stream"]), []).append(body["sequence"])

    for sequences in told.values():
        assert sequences == sorted(set(sequences))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_path_says_what_its_record_says(name):
    event = load(name)
    asked = parse_qs(urlsplit(event["event"]).query)
    record = event["body"].get("record", {})

    for field in ("type", "direction"):
        assert asked.get(field, [record.get(field)]) == [record.get(field, *asked.get(field, ()))]
    if "type" in asked:
        assert [event["body"]["changes"][0]["type"]] == asked["type"]


def test_a_missed_call_is_told_in_order():
    """It rings, nobody answers, and the caller leaves a voicemail."""
    ringing, over, voicemail = map(
        load, ("presence.created.json", "presence.deleted.json", "message-store.created.json")
    )
    rings, ends = (event["body"]["activeCalls"][0] for event in (ringing, over))

    assert ringing["timestamp"] < over["timestamp"] < voicemail["timestamp"]
    assert (rings["telephonyStatus"], ends["telephonyStatus"]) == ("Ringing", "NoCall")
    assert ends == rings | {"telephonyStatus": "NoCall", "terminationType": "final"}
    assert voicemail["body"]["record"]["type"] == "VoiceMail"
    assert voicemail["body"]["record"]["from"]["phoneNumber"] == rings["from"]
    assert voicemail["body"]["record"]["to"] == [{"phoneNumber": rings["to"]}]


def test_an_end_that_nobody_told_is_marked():
    (call,) = load("presence.inferred.json")["body"]["activeCalls"]

    assert call["inferred"] is True


SECRETS = {"password", "client_id", "client_secret", "jwt", "api_key"}
#: Given to nobody: 555-0100 to 555-0199 in North America, some mobile numbers in Australia.
FICTIONAL = re.compile(r"\+?1?42555501[0-9]{2}|61491570(006|156)")


def leaves(value, name=""):
    """Every value in an example that holds no others, beside its field's name."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from leaves(one, key)
    elif isinstance(value, list):
        for one in value:
            yield from leaves(one, name)
    else:
        yield name, value


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_opens_nothing(name):
    event = load(name)
    secrets = {
        value
        for account in ACCOUNTS.values()
        for field, value in account.credential.items()
        if field in SECRETS
    }

    for field, value in leaves(event):
        text = str(value)
        assert not any(secret in text for secret in secrets), field
        assert not re.search(r"access-[0-9]|kdv_live|Bearer|[?&](sig|token|key)", text), field


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_calls_nobody(name):
    numbers = {
        value
        for field, value in leaves(load(name))
        if field in ("phone", "phoneNumber", "phone_number", "from", "to")
    }

    assert [number for number in numbers if not FICTIONAL.fullmatch(number)] == []


def spoiled(event):
    """Copies of an event, each wrong in one way."""

    def copied(what, change):
        spoilt = copy.deepcopy(event)
        change(spoilt)
        return pytest.param(spoilt, id=what)

    body = event["body"]
    (counts,) = body["changes"]
    for key in event:
        yield copied(f"no {key}", lambda spoilt, key=key: spoilt.pop(key))
    for key in body:
        yield copied(f"no body.{key}", lambda spoilt, key=key: spoilt["body"].pop(key))
    for key in counts:
        yield copied(
            f"no changes.{key}", lambda spoilt, key=key: spoilt["body"]["changes"][0].pop(key)
        )
    for what, change in WRONG.items():
        yield copied(what, change)


WRONG = {
    "one key more": lambda event: event.update(more=1),
    "one body key more": lambda event: event["body"].update(more=1),
    "a random uuid": lambda event: event.update(uuid="61fa2f05-5679-4c57-a1d4-4b8fab2d8254"),
    "a path of neither kind": lambda event: event.update(event="/restapi/v1.0/account/1/presence"),
    "seconds without milliseconds": lambda event: event.update(timestamp="2026-01-01T00:00:00Z"),
    "an offset": lambda event: event["body"].update(lastUpdated="2014-04-29T14:29:20.531+0000"),
    "a zero count": lambda event: event["body"]["changes"][0].update(updatedCount=0),
    "two counts": lambda event: event["body"]["changes"][0].update(newCount=1, updatedCount=1),
    "two changes": lambda event: event["body"]["changes"].append(event["body"]["changes"][0]),
    "the count of another change": lambda event: event["body"].update(change="deleted"),
    "an unknown change": lambda event: event["body"].update(change="moved"),
    "an account that is a number": lambda event: event.update(ownerId=10000000007),
    "a revision before the first": lambda event: event["body"].update(revision=0),
    "a record and its hash": lambda event: event["body"].update(hash="0" * 32, truncated=True),
    "a record without an id": lambda event: event["body"].update(record={}),
    "an id that is a number": lambda event: event["body"].update(record={"id": 7}),
    "truncated that is false": lambda event: event["body"].update(truncated=False),
}


DAMAGED = {
    "no uuid": lambda event: event.pop("uuid"),
    "a sequence before the first": lambda event: event["body"].update(sequence=0),
    "a sequence that is a text": lambda event: event["body"].update(sequence="1"),
    "an unknown change": lambda event: event["body"].update(change="moved"),
    "a count that is a text": lambda event: event["body"]["changes"][0].update(
        {count: "1" for count in event["body"]["changes"][0] if count != "type"}
    ),
    "counts that are no list": lambda event: event["body"].update(
        changes=event["body"]["changes"][0]
    ),
    "the count of another change": lambda event: event["body"].update(
        change="updated" if event["body"]["change"] == "deleted" else "deleted"
    ),
    "one body key more": lambda event: event["body"].update(more=1),
}


@pytest.mark.parametrize("what", DAMAGED)
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_damaged_example_is_refused(name, what):
    event = load(name)
    DAMAGED[what](event)

    with pytest.raises(ValidationError):
        validator(event).validate(event)


def _call(event):
    return event["body"]["activeCalls"][0]


WRONG_CALLS = {
    "a record": lambda event: event["body"].update(record={"id": "1"}),
    "no call": lambda event: event["body"].update(activeCalls=[]),
    "two calls": lambda event: event["body"]["activeCalls"].append(_call(event)),
    "neither a call nor a state": lambda event: event["body"].pop("activeCalls"),
    "a call and a state": lambda event: event["body"].update(state={}),
    "a call without an id": lambda event: event["body"].update(
        activeCalls=[{"telephonyStatus": "Ringing"}]
    ),
    "an extension that is a text": lambda event: event["body"].update(extensionId="20000000007"),
    "no extension": lambda event: event["body"].pop("extensionId"),
    "an unknown status": lambda event: event["body"].update(telephonyStatus="Dialing"),
    "an unknown status of the call": lambda event: _call(event).update(telephonyStatus="Dialing"),
    "an unknown direction": lambda event: _call(event).update(direction="inbound"),
    "a call that is over": lambda event: _call(event).update(
        telephonyStatus="NoCall", terminationType="final"
    ),
    "an end that is inferred before it": lambda event: _call(event).update(inferred=True),
    "the user's answer as a text": lambda event: event["body"].update(allowSeeMyPresence="true"),
    "the type of a message": lambda event: event["body"]["changes"][0].update(type="VoiceMail"),
    "a path without the detail": lambda event: event.update(event=event["event"].partition("?")[0]),
}


@pytest.mark.parametrize("what", WRONG_CALLS)
def test_a_wrong_call_is_refused(what):
    event = load("presence.created.json")
    WRONG_CALLS[what](event)

    with pytest.raises(ValidationError):
        validator(event).validate(event)


def test_a_call_that_is_over_says_so():
    event = load("presence.deleted.json")
    event["body"]["activeCalls"][0].pop("terminationType")

    with pytest.raises(ValidationError):
        validator(event).validate(event)


@pytest.mark.parametrize("field", ["second", "seen", "creationTime"])
def test_a_gap_says_where_it_is(field):
    event = load("messages.gap.json")
    event["body"]["record"].pop(field)

    with pytest.raises(ValidationError):
        validator(event).validate(event)


def test_a_path_names_the_type_that_is_counted():
    """Where the path has no type, the stream is counted."""
    event = load("messages.gap.json")
    event["body"]["changes"][0]["type"] = "SMS"

    with pytest.raises(ValidationError):
        validator(event).validate(event)


@pytest.mark.parametrize(
    "event", [*spoiled(load("entry.created.json")), *spoiled(load("contact.updated.json"))]
)
def test_a_wrong_event_is_refused(event):
    with pytest.raises(ValidationError):
        validator(event).validate(event)


def test_a_message_of_an_unknown_type_is_refused():
    event = load("entry.created.json")
    event["body"]["changes"][0]["type"] = "Voicemail"

    with pytest.raises(ValidationError):
        validator(event).validate(event)
