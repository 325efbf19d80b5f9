"""Promises of pollwire.providers, and of pollwire.state.shard_of."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pollwire.errors import Malformed, Misconfigured
from pollwire.events import iso
from pollwire.model import NAME, Row
from pollwire.providers import canonical_id, instant_ms, registered, rows_of, setting
from pollwire.state import shard_of

quick = settings(database=None, deadline=None, max_examples=100)


def read(raw: dict) -> Row:
    return Row(
        id=canonical_id(raw.get("id")),
        updated_at=str(raw.get("updated", "")),
        at_ms=instant_ms(raw.get("updated", 0), "updated"),
        body=raw,
        type=raw.get("type", ""),
        extension=raw.get("extension", ""),
    )


# Ids


@pytest.mark.parametrize(
    ("value", "identity"),
    [
        pytest.param(1, "1", id="number"),
        pytest.param("1", "1", id="the same as text"),
        pytest.param(0, "0", id="zero"),
        pytest.param(-5, "-5", id="negative"),
        pytest.param(2**63 + 1, "9223372036854775809", id="beyond what a float can hold"),
        pytest.param("01", "01", id="leading zero is kept"),
        pytest.param(" a b ", " a b ", id="spaces are kept"),
        pytest.param("a|b/c#d", "a|b/c#d", id="separators are kept"),
        pytest.param("é😀", "é😀", id="beyond ASCII"),
        pytest.param("x" * 1_000, "x" * 1_000, id="as long as allowed"),
    ],
)
def test_an_id_is_a_number_or_a_text(value, identity):
    assert canonical_id(value) == identity


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(1.0, id="float"),
        pytest.param(True, id="true"),
        pytest.param(False, id="false"),
        pytest.param("", id="empty"),
        pytest.param(" ", id="space"),
        pytest.param("\t\n\u2003", id="other spaces"),
        pytest.param(None, id="nothing"),
        pytest.param([1], id="list"),
        pytest.param({"id": 1}, id="object"),
        pytest.param(b"1", id="bytes"),
    ],
)
def test_what_is_no_id_is_malformed(value):
    with pytest.raises(Malformed, match=r"^extensionId: "):
        canonical_id(value, "extensionId")


# Instants


@pytest.mark.parametrize(
    ("value", "expected_ms"),
    [
        pytest.param(1477500382553, 1477500382553, id="number"),
        pytest.param("1477500382553", 1477500382553, id="digits"),
        pytest.param(0, 0, id="epoch"),
        pytest.param("0", 0, id="epoch as text"),
        pytest.param("0000000000000007", 7, id="leading zeros"),
        pytest.param(253_402_300_799_999, 253_402_300_799_999, id="end of the year 9999"),
    ],
)
def test_an_instant_is_a_number_of_milliseconds(value, expected_ms):
    assert instant_ms(value, "updated") == expected_ms


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(-1, id="negative"),
        pytest.param("-1", id="negative text"),
        pytest.param("+5", id="sign"),
        pytest.param("12_3", id="underscore"),
        pytest.param(" 5", id="space"),
        pytest.param("", id="empty"),
        pytest.param("²", id="superscript"),
        pytest.param("５", id="full-width digit"),  # noqa: RUF001
        pytest.param("1e12", id="exponent"),
        pytest.param(1.0, id="float"),
        pytest.param(True, id="true"),
        pytest.param(None, id="nothing"),
        pytest.param([5], id="list"),
        pytest.param("2026-06-19T10:00:00Z", id="date"),
        pytest.param(253_402_300_800_000, id="the year 10000"),
        pytest.param("9999999999999999", id="the year 318857 in digits"),
        pytest.param("1" * 17, id="seventeen digits"),
        pytest.param("9" * 5_000, id="five thousand digits"),
        pytest.param(10**30, id="large number"),
    ],
)
def test_what_is_no_instant_is_malformed(value):
    with pytest.raises(Malformed, match=r"^updated: "):
        instant_ms(value, "updated")


@quick
@given(value=st.one_of(st.integers(), st.text("0123456789", max_size=20)))
def test_every_instant_that_is_read_can_be_published(value):
    try:
        at_ms = instant_ms(value, "updated")
    except Malformed:
        return

    assert iso(at_ms).endswith("Z")


# Rows


GOOD = [{"id": 1, "updated": 5}, {"id": "2", "updated": "6"}]
BAD = [
    pytest.param({"updated": 5}, id="no id"),
    pytest.param({"id": None}, id="null id"),
    pytest.param({"id": ""}, id="empty id"),
    pytest.param({"id": True}, id="id is no id"),
    pytest.param({"id": 3, "updated": "soon"}, id="no instant"),
    pytest.param({"id": "\ud800"}, id="lone surrogate in the id"),
    pytest.param({"id": 3, "type": "\udfff"}, id="lone surrogate in the type"),
    pytest.param({"id": 3, "extension": "\0"}, id="extension that no filter can have"),
    pytest.param({"id": 3, "extension": "5" * 65}, id="extension that is too long"),
    pytest.param(None, id="null"),
    pytest.param("row", id="text"),
    pytest.param([{"id": 3}], id="list"),
    pytest.param(7, id="number"),
]


def test_rows_keep_the_providers_order():
    rows, bad = rows_of(GOOD, "entries", read)

    assert [one.id for one in rows] == ["1", "2"]
    assert bad == ()


@pytest.mark.parametrize("raw", BAD)
def test_a_bad_row_stops_none_beside_it(raw):
    rows, bad = rows_of([GOOD[0], raw, GOOD[1]], "entries", read)

    assert [one.id for one in rows] == ["1", "2"]
    assert len(bad) == 1


@pytest.mark.parametrize("raw", BAD)
def test_a_bad_row_has_a_key_that_names_it_again(raw):
    first = rows_of([raw], "entries", read)[1][0]
    again = rows_of([GOOD[0], raw], "entries", read)[1][0]

    assert first == again
    assert len(first.key) == 32
    assert first.key.isascii()


def test_a_bad_row_with_an_id_has_the_same_key_whatever_else_it_says():
    one = rows_of([{"id": 3, "updated": "soon"}], "entries", read)[1][0]
    other = rows_of([{"updated": "later", "id": "3"}], "entries", read)[1][0]

    assert one.key == other.key


@pytest.mark.parametrize(
    ("raw", "identity"),
    [
        pytest.param({"id": 3, "updated": "soon"}, "3", id="number"),
        pytest.param({"id": "m3", "updated": "soon"}, "m3", id="text"),
        pytest.param({"updated": "soon"}, "", id="missing"),
        pytest.param({"id": True, "updated": "soon"}, "", id="no id"),
        pytest.param({"id": "\ud800"}, "", id="lone surrogate"),
        pytest.param(None, "", id="no row"),
    ],
)
def test_a_bad_row_says_its_id_if_that_can_be_read(raw, identity):
    """It was listed, so its record is not missing."""
    assert rows_of([raw], "entries", read)[1][0].id == identity


def test_bad_rows_have_keys_of_their_own():
    raws = [{"id": n, "updated": "soon"} for n in range(20)] + [{"x": n} for n in range(20)]

    assert len({bad.key for bad in rows_of(raws, "entries", read)[1]}) == 40


def test_the_order_of_keys_does_not_name_another_row():
    one = rows_of([{"a": 1, "b": 2}], "entries", read)[1][0]
    other = rows_of([{"b": 2, "a": 1}], "entries", read)[1][0]

    assert one.key == other.key


def test_the_reason_names_a_field_and_no_value():
    (bad,) = rows_of([{"id": 3, "updated": "canary"}], "entries", read)[1]

    assert bad.reason.startswith("updated: ")
    assert "canary" not in bad.reason


def test_a_lone_surrogate_in_a_body_is_no_reason_to_refuse_a_row():
    rows, bad = rows_of([json.loads('{"id": 1, "text": "\\ud800"}')], "entries", read)

    assert (len(rows), bad) == (1, ())


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(None, id="absent is not empty"),
        pytest.param({}, id="object"),
        pytest.param("", id="text"),
        pytest.param(0, id="number"),
        pytest.param(({"id": 1},), id="tuple"),
    ],
)
def test_what_is_no_list_of_rows_is_malformed(raw):
    with pytest.raises(Malformed, match=r"^entries: "):
        rows_of(raw, "entries", read)


def test_an_empty_list_has_no_rows():
    assert rows_of([], "entries", read) == ((), ())


# Settings


def test_a_setting_is_looked_up():
    assert setting({"username": "u"}, "username", "credential") == "u"


@pytest.mark.parametrize("settings", [{}, {"username": ""}], ids=["missing", "empty"])
def test_a_missing_setting_is_named_with_its_remedy(settings):
    with pytest.raises(Misconfigured, match=r"^credential\.username is missing; set it"):
        setting(settings, "username", "credential")


# Registration


def test_providers_are_registered_under_their_names():
    assert all(provider.name == name for name, provider in registered().items())


def test_names_of_providers_and_streams_can_be_parts_of_keys():
    names = [name for one in registered().values() for name in (one.name, *one.streams)]

    assert all(NAME.fullmatch(name) for name in names)


def test_providers_have_hosts_without_a_slash_at_the_end():
    hosts = [host for one in registered().values() for host in one.hosts.values()]

    assert all(host.startswith(("http://", "https://")) for host in hosts)
    assert not any(host.endswith("/") for host in hosts)


# Shards


@quick
@given(account=st.text("abc019._@+:~=-", min_size=1), shards=st.integers(1, 10_000))
def test_an_account_has_one_of_the_shards(account, shards):
    assert 0 <= shard_of(account, shards) < shards
    assert shard_of(account, shards) == shard_of(account, shards)


def test_an_account_keeps_its_shard_from_version_to_version():
    """Its item would be left behind in the old one."""
    assert [shard_of(account, 16) for account in ("1", "10000000007", "u@acme")] == [7, 3, 10]


@pytest.mark.parametrize("shards", [2, 7, 10, 64])
def test_accounts_are_spread_over_the_shards(shards):
    counts = Counter(shard_of(str(n), shards) for n in range(500 * shards))

    assert len(counts) == shards
    assert max(counts.values()) < 700


def test_a_row_that_nests_too_deep_stands_beside_good_ones():
    def read(raw):
        if raw["id"] == 2:
            raise RecursionError
        return Row(str(raw["id"]), "", 1, raw)

    rows, bad = rows_of([{"id": 1}, {"id": 2}, {"id": 3}], "entries", read)

    assert [row.id for row in rows] == ["1", "3"]
    assert [(one.id, one.reason) for one in bad] == [("2", "entries: the row nests too deep")]
