"""The published contract: every example is what the code makes, and what its schema says."""

from __future__ import annotations

import copy
import json

import pytest
from jsonschema import Draft202012Validator, ValidationError
from referencing import Registry, Resource

from tests.integration.publish import FOLDER, examples, text_of

SCHEMAS = {path.name: json.loads(path.read_text()) for path in FOLDER.glob("schemas/*.json")}
REGISTRY = Registry().with_resources(
    (schema["$id"], Resource.from_contents(schema)) for schema in SCHEMAS.values()
)
EXAMPLES = sorted(path.name for path in FOLDER.glob("*.json"))
ENVELOPE = {"uuid", "event", "timestamp", "subscriptionId", "ownerId", "body"}


def validator(event):
    """The schema that an event follows: its filter path tells."""
    is_message = event.get("event", "").startswith("/restapi/")
    schema = SCHEMAS["message.schema.json" if is_message else "change.schema.json"]
    return Draft202012Validator(schema, registry=REGISTRY)


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


def test_every_kind_of_change_has_an_example():
    assert {load(name)["body"]["change"] for name in EXAMPLES} == {"created", "updated", "deleted"}


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
