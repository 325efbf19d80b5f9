"""Promises of pollwire.model and pollwire.errors, and of all nouns."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from pollwire import errors, exchange, model
from pollwire.errors import Malformed, Misconfigured, PollwireError, RateLimited, Retryable
from pollwire.exchange import Request, Response
from pollwire.model import ACCOUNT_ID, NAME, Account, Connection

# Connections


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("name", "", id="no name"),
        pytest.param("name", "a#b", id="name that would part a key"),
        pytest.param("name", "a b", id="name with a space"),
        pytest.param("name", "ä", id="name beyond ASCII"),
        pytest.param("name", "acme\n", id="name with a line end"),
        pytest.param("name", "x" * 65, id="name too long"),
        pytest.param("interval_s", 0, id="no interval"),
        pytest.param("interval_s", -1, id="negative interval"),
        pytest.param("interval_s", 86_401, id="interval above a day"),
        pytest.param("slowest_s", 59, id="slowest faster than the interval"),
        pytest.param("slowest_s", 86_401, id="slowest above a day"),
        pytest.param("requests_per_second", 0, id="no rate"),
        pytest.param("requests_per_second", -1.0, id="negative rate"),
        pytest.param("requests_per_second", float("nan"), id="rate is no number"),
        pytest.param("requests_per_second", 100_001, id="rate too high"),
        pytest.param("shards", 0, id="no shards"),
        pytest.param("shards", 32_768, id="too many shards"),
        pytest.param("shards", 3, id="shards that are no power of two"),
    ],
)
def test_a_connection_that_could_not_be_scheduled_is_refused(field, value):
    with pytest.raises(Misconfigured, match=rf"^connection\.{field}: "):
        Connection(**{"name": "acme", "provider": "youmail", field: value})


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"name": "x" * 64}, id="longest name"),
        pytest.param({"name": "A-1._b"}, id="every kind of character"),
        pytest.param({"interval_s": 1, "slowest_s": 1}, id="fastest"),
        pytest.param({"interval_s": 86_400, "slowest_s": 86_400}, id="slowest"),
        pytest.param({"requests_per_second": 0.01}, id="lowest rate"),
        pytest.param({"requests_per_second": 100_000}, id="highest rate"),
        pytest.param({"shards": 16_384}, id="most shards"),
    ],
)
def test_a_connection_at_its_bounds_is_taken(fields):
    one = Connection(**{"name": "acme", "provider": "youmail", **fields})

    assert all(getattr(one, name) == value for name, value in fields.items())


@pytest.mark.parametrize(
    ("pattern", "text", "legal"),
    [
        pytest.param(NAME, "a#b", False, id="name with the separator"),
        pytest.param(ACCOUNT_ID, "1234321@reseller", True, id="account of a reseller"),
        pytest.param(ACCOUNT_ID, "+14255550100", True, id="account that is a number"),
        pytest.param(ACCOUNT_ID, "~", True, id="account that is oneself"),
        pytest.param(ACCOUNT_ID, "a#b", False, id="account with the separator"),
        pytest.param(ACCOUNT_ID, "a/b", False, id="account with a slash"),
        pytest.param(ACCOUNT_ID, "a b", False, id="account with a space"),
        pytest.param(ACCOUNT_ID, "a\n", False, id="account with a line end"),
        pytest.param(ACCOUNT_ID, "", False, id="no account"),
        pytest.param(ACCOUNT_ID, "x" * 200, True, id="longest account"),
        pytest.param(ACCOUNT_ID, "x" * 201, False, id="account too long"),
    ],
)
def test_names_can_be_parts_of_keys(pattern, text, legal):
    assert bool(pattern.fullmatch(text)) is legal


# All nouns


NOUNS = {
    name: noun
    for module in (exchange, model)
    for name, noun in inspect.getmembers(module, dataclasses.is_dataclass)
}


@pytest.mark.parametrize("noun", NOUNS.values())
def test_nouns_do_not_change(noun):
    assert noun.__dataclass_params__.frozen
    assert "__slots__" in vars(noun)


@pytest.mark.parametrize(
    "noun",
    [
        pytest.param(Connection("a", "p", credential=b"canary"), id="connection"),
        pytest.param(Connection("a", "p", push_secret=b"canary"), id="notified connection"),
        pytest.param(Account("a", "7", {}, credential={"password": "canary"}), id="account"),
        pytest.param(Request("u", headers={"x": "canary"}, form={"p": "canary"}), id="request"),
        pytest.param(Response(200, {"set-cookie": "canary"}, b"canary"), id="response"),
        pytest.param(model.Row("1", "", 0, {"text": "canary"}), id="row"),
    ],
)
def test_a_noun_does_not_show_what_nobody_may_read(noun):
    assert "canary" not in repr(noun)


# Errors


def test_every_error_is_one_of_ours():
    found = [one for _, one in inspect.getmembers(errors, inspect.isclass)]

    assert all(issubclass(one, PollwireError) for one in found)


def test_an_error_that_can_be_retried_says_when():
    assert (
        RateLimited("host: 429", retry_after_s=7).retry_after_s,
        Retryable("x").retry_after_s,
    ) == (
        7,
        0,
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param(Malformed("id: it is none"), "Malformed: id: it is none", id="ours"),
        pytest.param(ValueError("canary"), "ValueError", id="foreign"),
        pytest.param(None, "NoneType", id="none"),
    ],
)
def test_a_foreign_error_is_named_and_not_quoted(error, words):
    assert errors.describe(error) == words


@pytest.mark.parametrize("value", [True, 1, None, ["true"]], ids=repr)
def test_a_setting_that_is_no_text_is_refused_by_name(value):
    with pytest.raises(Misconfigured, match=r"^connection\.settings\.backfill: a text"):
        Connection("shop", "youmail", settings={"backfill": value})
