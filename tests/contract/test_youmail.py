"""YouMail's module against its simulator: composite polling, lookups, and the traps of both."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from pollwire.errors import (
    Forbidden,
    Malformed,
    Misconfigured,
    PollwireError,
    RateLimited,
    Rejected,
    Restart,
    Unavailable,
)
from pollwire.exchange import Response
from pollwire.model import KNOWN_EMPTY, Account, Seen, Start
from pollwire.providers import registered
from pollwire.providers.youmail import FIELDS, PAGE_LENGTH, YouMail
from pollwire.tokens import Token

from local.simulators.youmail import SAMPLE, SAMPLE_ACCOUNT
from local.simulators.youmail import YouMail as Simulator
from tests.contract import driver
from tests.contract.driver import Canned, Wire

HOSTS = {"poll": "http://poll.sim", "api": "https://api.sim"}
PASSWORD = "canary-password"
ACCOUNT = Account(
    "shop",
    "10000000007",
    HOSTS,
    credential={"username": "4255550107", "password": PASSWORD},
)
SAMPLED = replace(ACCOUNT, id=SAMPLE_ACCOUNT)
NOW_S = 1_700_000_000.0
NOW_MS = 1_700_000_000_000
STREAMS = sorted(FIELDS)
ROOTS = ("entries", "histories", "contacts", "greetings", "account", "settings", "ecommerceStatus")


@pytest.fixture
def clock():
    return SimpleNamespace(now_s=NOW_S)


@pytest.fixture
def simulator(clock):
    simulator = Simulator(lambda: clock.now_s)
    simulator.add_account(ACCOUNT.id, "4255550107", PASSWORD, "4255550107")
    return simulator


@pytest.fixture
def wire(simulator):
    return Wire(simulator, HOSTS.values())


def check(wire, seen=Seen(), account=ACCOUNT):  # noqa: B008 (it is frozen)
    return driver.run(YouMail().check(account, seen), wire)


def answered(body, seen=Seen(), status=200, **headers):  # noqa: B008
    return check(Wire(Canned(body, status=status, **headers), HOSTS.values()), seen)


def pages(wire, stream, since_ms=None, resume="", account=ACCOUNT, token=""):
    start = Start(since_ms, resume=resume)
    return driver.pages(YouMail(), account, stream, wire, start, token)


def rows(wire, stream, since_ms=None, account=ACCOUNT):
    return [row for page in pages(wire, stream, since_ms, account=account) for row in page.rows]


def listed(stream, *answers):
    """Read a stream whose lookup answers with these bodies."""
    wire = Wire(Canned(*[json.dumps(answer).encode() for answer in answers]), HOSTS.values())
    return pages(wire, stream, token="token")


def paths(wire):
    return [request.url.removeprefix("https://api.sim/api/v4/") for request in wire.sent]


def entry(id_, **fields):
    return {"id": id_, "status": 1, "created": NOW_MS, "folderId": 0, **fields}


# Check: what is asked


def test_it_is_registered():
    assert isinstance(registered()["youmail"], YouMail)


def test_the_poll_goes_to_the_last_digit_and_the_id_over_http_without_a_credential(wire):
    check(wire)

    (request,) = wire.sent
    assert request.url == "http://poll.sim/vm/poll/7/10000000007"
    assert not request.headers
    assert not request.secret
    assert not YouMail.check_needs_credential


def test_both_validators_are_echoed_verbatim(wire):
    check(wire, Seen(raw="1,2", etag='W/"a"', modified="Wed, 21 Oct 2015 07:28:00 GMT"))

    assert wire.sent[0].headers == {
        "If-None-Match": 'W/"a"',
        "If-Modified-Since": "Wed, 21 Oct 2015 07:28:00 GMT",
    }


@pytest.mark.parametrize("bad", ["", "abc", "12/../3", "\uff11\uff12", "+5", "7 ", "7\n", "1" * 21])
def test_an_account_id_that_is_not_digits_is_our_own_mistake(wire, bad):
    with pytest.raises(Misconfigured, match=r"account\.id.*correct"):
        check(wire, account=replace(ACCOUNT, id=bad))

    assert wire.sent == []


# Check: what is answered


def test_the_sample_of_the_documentation_is_seen_verbatim(wire):
    seen = check(wire, account=SAMPLED)

    assert seen.raw == SAMPLE
    assert not seen.doubtful


def test_the_same_body_again_is_the_same_seen(wire):
    seen = check(wire)

    assert check(wire, replace(seen, etag="", modified="")).raw == seen.raw
    assert check(wire, seen) is seen


def test_an_equal_body_without_a_304_is_the_same_seen(simulator, wire):
    simulator.validators = False
    seen = check(wire)

    assert check(wire, seen) is seen


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b" \n\n"])
def test_space_around_the_answer_means_nothing(end):
    seen = Seen(raw="1,2")

    assert answered(b" 1,2" + end, seen) is seen


def test_a_304_is_the_same_seen(simulator, wire):
    seen = check(wire)

    assert seen.etag
    assert seen.modified
    assert check(wire, seen) is seen
    assert simulator.requests["poll"] == 2


@pytest.mark.parametrize("name", ["etag", "modified"])
def test_a_304_stands_by_what_its_validator_speaks_of(name):
    seen = replace(Seen(raw="1,2"), **{name: "x"})

    assert answered(b"", seen, status=304) is seen


def test_a_304_that_no_validator_was_sent_for_is_no_answer():
    with pytest.raises(Malformed, match="304"):
        answered(b"", Seen(raw="1,2"), status=304)


@pytest.mark.parametrize("raw", ["", KNOWN_EMPTY], ids=["never seen", "known empty"])
def test_a_304_with_nothing_stored_is_no_answer(raw):
    with pytest.raises(Malformed, match="304"):
        answered(b"", Seen(raw=raw), status=304)


def test_a_new_user_is_known_to_be_empty(simulator, wire):
    simulator.add_account("12", "new", "new", "1", new_user=True)
    account = replace(ACCOUNT, id="12")

    seen = check(wire, account=account)

    assert seen == Seen(raw=KNOWN_EMPTY)
    assert check(wire, seen, account) is seen
    assert YouMail().marks(account, seen.raw) == {}


def test_the_first_change_of_a_new_user_is_seen(simulator, wire):
    simulator.add_account("12", "new", "new", "1", new_user=True)
    simulator.call("12")

    seen = check(wire, Seen(raw=KNOWN_EMPTY), replace(ACCOUNT, id="12"))

    assert seen.raw == f"{NOW_MS},0,0,0,0,0,0,0"
    assert not seen.doubtful


def test_an_account_that_vanishes_is_a_failed_poll(simulator, wire):
    seen = check(wire)
    simulator.vanish(ACCOUNT.id)

    with pytest.raises(Unavailable, match=r"404.*kept"):
        check(wire, seen)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\n", id="newline only"),
        pytest.param(b"-", id="our own word for empty"),
        pytest.param(b"<html><body>Sign in</body></html>", id="html"),
        pytest.param(b'{"status": 9999}', id="json"),
        pytest.param(b"1,abc,3", id="a word in a field"),
        pytest.param(b"1,,3", id="an empty field"),
        pytest.param(b"1,2,", id="a comma at the end"),
        pytest.param(b"1, 2", id="a space inside"),
        pytest.param(b"+5,2", id="a sign"),
        pytest.param(b"-5,2", id="negative"),
        pytest.param(b"12_3,2", id="an underscore"),
        pytest.param(b"1.5,2", id="a fraction"),
        pytest.param(b"1e3,2", id="an exponent"),
        pytest.param("\uff11\uff12,2".encode(), id="full-width digits"),
        pytest.param("²,2".encode(), id="a superscript"),
        pytest.param(b'"1","2"', id="quotes"),
        pytest.param(b"1,2\r\n3,4", id="two lines"),
        pytest.param(b"1" * 21, id="21 digits"),
        pytest.param(b"\xff\xfe1\x00", id="utf-16"),
        pytest.param(b"\xef\xbb\xbf1,2", id="a byte order mark"),
        pytest.param(b"1,2\x00", id="a NUL"),
    ],
)
@pytest.mark.parametrize("raw", ["", KNOWN_EMPTY, "1,2"])
def test_a_body_that_is_no_list_of_numbers_fails_the_poll(body, raw):
    with pytest.raises(Malformed):
        answered(body, Seen(raw=raw))


@pytest.mark.parametrize("value", ["0", "243427273", "9" * 16])
def test_no_value_is_too_small_or_too_large(value):
    assert answered(f"{value},1".encode()).raw == f"{value},1"


def test_fewer_fields_than_before_are_an_answer_cut_short():
    with pytest.raises(Malformed, match="cut short"):
        answered(b"243427273,34437373103", Seen(raw=SAMPLE))


def test_more_fields_than_before_are_a_change():
    assert answered(b"1,2,3", Seen(raw="1,2")) == Seen(raw="1,2,3")


def test_a_value_that_goes_down_is_doubtful():
    seen = answered(b"243427273,3443737", Seen(raw="243427273,34437373103"), etag='"1"')

    assert seen == Seen(raw="243427273,3443737", doubtful=True)


def test_a_value_is_compared_as_a_number():
    assert not answered(b"1000,1", Seen(raw="999,1")).doubtful


def test_a_doubtful_answer_can_be_confirmed(simulator, wire):
    seen = check(wire)
    simulator.set_stamp(ACCOUNT.id, "history", 5)
    lower = check(wire, seen)

    assert lower.doubtful
    assert check(wire, lower) is lower


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        pytest.param('W/"a"', 'W/"a"', id="weak"),
        pytest.param("", "", id="empty"),
        pytest.param("x" * 256, "x" * 256, id="256 bytes"),
        pytest.param("x" * 257, "", id="257 bytes"),
        pytest.param('"é"', "", id="not ASCII"),
        pytest.param('"a\x07"', "", id="a control character"),
        pytest.param('"a"\r\nX-Evil: 1', "", id="a line break"),
    ],
)
def test_a_validator_is_kept_only_if_it_can_be_sent_back(sent, kept):
    seen = answered(b"1,2", etag=sent, last_modified=sent)

    assert (seen.etag, seen.modified) == (kept, kept)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("429", RateLimited),
        ("503", Unavailable),
        ("500", Unavailable),
        ("html", Malformed),
        ("empty", Malformed),
        ("301", Malformed),
        ("403", Rejected),
    ],
)
def test_a_failed_poll_is_an_error_with_a_name(simulator, wire, kind, error):
    simulator.fail_next("/vm/poll", kind)

    with pytest.raises(error):
        check(wire, Seen(raw="1,2"))


def test_a_truncated_poll_is_a_failed_poll(simulator, wire):
    seen = check(wire)
    simulator.fail_next("/vm/poll", "truncated")

    with pytest.raises(Malformed):
        check(wire, replace(seen, etag="", modified=""))


# Marks


@pytest.mark.parametrize("count", [7, 8, 9, 12])
def test_marks_are_named_by_index_and_unknown_ones_ignored(simulator, wire, count):
    simulator.fields = count

    marks = YouMail().marks(SAMPLED, check(wire, account=SAMPLED).raw)

    named = zip(FIELDS, SAMPLE.split(","), strict=True)
    assert marks == dict(list(named)[:count])


def test_every_value_of_the_documents_example_is_the_mark_of_its_type():
    example = (
        b"243427273,34437373103,3373712092,3923844747,3923844747,3923844747,3923844747,3923844747"
    )

    assert YouMail().marks(ACCOUNT, answered(example).raw) == {
        "history": "243427273",
        "entry": "34437373103",
        "contact": "3373712092",
        "entitlement": "3923844747",
        "greeting": "3923844747",
        "account": "3923844747",
        "settings": "3923844747",
        "ecommerce": "3923844747",
    }


def test_a_missing_field_is_not_reported():
    assert "ecommerce" not in YouMail().marks(ACCOUNT, "1,2,3,4,5,6,7")


def test_a_mark_is_kept_verbatim():
    assert YouMail().marks(ACCOUNT, "007,0")["history"] == "007"


@pytest.mark.parametrize("raw", ["abc", "1,,2", "1,2\n", "<html>"])
def test_marks_of_anything_else_are_malformed(raw):
    with pytest.raises(Malformed):
        YouMail().marks(ACCOUNT, raw)


def test_the_names_of_the_fields_are_a_setting():
    account = replace(ACCOUNT, settings={"fields": "entry, history,,greeting"})

    marks = YouMail().marks(account, "1,2,3,4,5")

    assert marks == {"entry": "1", "history": "2", "greeting": "4"}


@pytest.mark.parametrize("fields", ["history,folder", "entry,entry", "Entry"])
def test_a_setting_with_a_wrong_name_is_our_own_mistake(fields):
    with pytest.raises(Misconfigured, match=r"settings\.fields"):
        YouMail().marks(replace(ACCOUNT, settings={"fields": fields}), "1,2")


def test_a_voicemail_moves_history_and_entry_only(simulator, wire, clock):
    before = YouMail().marks(ACCOUNT, check(wire).raw)
    clock.now_s += 1
    simulator.leave_voicemail(ACCOUNT.id)

    after = YouMail().marks(ACCOUNT, check(wire).raw)

    assert {name for name in after if after[name] != before[name]} == {"history", "entry"}


# Authentication


def test_a_delta_authenticates_once_and_sends_its_token(simulator, wire):
    pages(wire, "entry")

    first, second = wire.sent
    assert first.url == "https://api.sim/api/v4/authenticate"
    assert first.headers["YouMail-User"] == "4255550107"
    assert second.headers["Authorization"].startswith("YouMail token-")
    assert simulator.requests["authenticate"] == 1


@pytest.mark.parametrize("stream", STREAMS)
def test_every_request_with_a_credential_is_secret_and_asks_for_json(wire, stream):
    pages(wire, stream)

    assert all(request.secret for request in wire.sent)
    assert {request.headers["Accept"] for request in wire.sent} == {"application/json"}


def test_a_token_is_shared_and_used_again(simulator, wire):
    shared = []
    account = replace(ACCOUNT, token=Token(share=shared.append))
    list(YouMail().delta(account, "entry", Start(), wire))
    list(YouMail().delta(account, "contact", Start(), wire))

    assert [one.value for one in shared] == [account.token.value]
    assert simulator.requests["authenticate"] == 1


def test_an_expired_token_is_renewed_once(simulator, wire):
    simulator.leave_voicemail(ACCOUNT.id)
    (page,) = pages(wire, "entry", token="stale")

    assert len(page.rows) == 1
    assert [path.partition("?")[0] for path in paths(wire)] == [
        "messagebox/entry/query",
        "authenticate",
        "messagebox/entry/query",
    ]


@pytest.mark.parametrize("status", ["401", "403"])
def test_a_second_refusal_is_final(simulator, wire, status):
    simulator.fail_next("/api/v4/messagebox", status, times=5)

    with pytest.raises(Forbidden):  # Just this lookup: the credential was taken.
        pages(wire, "entry", token="stale")

    assert simulator.requests["authenticate"] == 1
    assert len(wire.sent) == 3


def test_a_token_that_expires_between_two_pages_is_renewed(simulator, wire):
    for _ in range(PAGE_LENGTH + 1):
        simulator.leave_voicemail(ACCOUNT.id)
    simulator.on_page = lambda stream, number: simulator.expire_tokens()

    assert len(rows(wire, "entry")) == PAGE_LENGTH + 1
    assert simulator.requests["authenticate"] == 2


def test_a_wrong_password_is_rejected_after_one_try(simulator, wire):
    account = replace(ACCOUNT, credential={"username": "4255550107", "password": "wrong"})

    with pytest.raises(Rejected) as caught:
        pages(wire, "entry", account=account)

    assert not isinstance(caught.value, Forbidden)  # All streams are left alone, not this one only.
    assert len(wire.sent) == 1


@pytest.mark.parametrize("missing", ["username", "password"])
def test_a_missing_credential_is_our_own_mistake(wire, missing):
    credential = {**ACCOUNT.credential, missing: ""}

    with pytest.raises(Misconfigured, match=rf"credential\.{missing}"):
        pages(wire, "entry", account=replace(ACCOUNT, credential=credential))

    assert wire.sent == []


@pytest.mark.parametrize("password", ["pass\r\nX-Evil: 1", "p\x00", "pässword"])
def test_a_password_that_no_header_can_carry_is_our_own_mistake(wire, password):
    account = replace(ACCOUNT, credential={"username": "u", "password": password})

    with pytest.raises(Misconfigured, match=r"credential\.password") as caught:
        pages(wire, "entry", account=account)

    assert password not in str(caught.value)
    assert wire.sent == []


@pytest.mark.parametrize(
    "answer",
    [{}, {"authToken": ""}, {"authToken": None}, {"authToken": 7}, {"authToken": "a\r\nX: 1"}],
)
def test_an_answer_without_a_token_is_malformed(answer):
    wire = Wire(Canned(json.dumps(answer).encode()), HOSTS.values())

    with pytest.raises(Malformed, match="authToken"):
        pages(wire, "entry")


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api/v4/authenticate", "403"),
        ("/api/v4/authenticate", "html"),
        ("/api/v4/authenticate", "503"),
        ("/api/v4/", "error"),
        ("/api/v4/", "truncated"),
        ("/api/v4/", "429"),
    ],
)
def test_no_error_tells_a_secret(simulator, wire, stream, path, kind):
    simulator.fail_next(path, kind, times=9)

    with pytest.raises(PollwireError) as caught:
        pages(wire, stream, token="canary-token")

    chain = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert not any(secret in chain for secret in (PASSWORD, "canary-token", "4255550107", "://"))


# Lookups: what is asked


def test_entries_of_all_folders_and_states_are_asked_for_oldest_first(wire):
    pages(wire, "entry", since_ms=1234)

    query = wire.sent[-1].query
    assert query["updatedFrom"] == "1234"
    assert (query["folderId"], query["deleteType"], query["sortBy"]) == ("-1", "0", "created")
    assert (query["pageLength"], query["pageNumber"]) == ("100", "1")
    assert query["dataFormat"]
    assert query["includeList"] == query["fields"]
    assert {"id", "status", "created", "createTime", "folderId"} <= set(query["fields"].split(","))


def test_history_is_asked_for_by_creation(wire):
    pages(wire, "history", since_ms=1234)

    assert wire.sent[-1].url.endswith("/api/v4/messagebox/entry/history/query")
    assert wire.sent[-1].query["startDate"] == "1234"
    assert "updatedFrom" not in wire.sent[-1].query


def test_contacts_are_asked_for_with_the_deleted_ones(wire):
    pages(wire, "contact", since_ms=1234)

    query = wire.sent[-1].query
    assert (query["updatedFrom"], query["deleteType"], query["contactType"]) == ("1234", "0", "-1")


@pytest.mark.parametrize("stream", ["entry", "history", "contact"])
def test_without_a_since_everything_is_asked_for(wire, stream):
    pages(wire, stream)

    assert not {"updatedFrom", "startDate"} & set(wire.sent[-1].query)


@pytest.mark.parametrize("stream", ["entry", "history", "contact"])
def test_a_since_before_the_epoch_is_the_epoch(wire, stream):
    pages(wire, stream, since_ms=-120_000)

    query = wire.sent[-1].query
    assert query.get("updatedFrom", query.get("startDate")) == "0"


def test_updated_from_includes_the_instant_itself(simulator, wire):
    row = simulator.leave_voicemail(ACCOUNT.id, at_ms=NOW_MS - 5)

    assert [found.id for found in rows(wire, "entry", NOW_MS - 5)] == [row]
    assert rows(wire, "entry", NOW_MS - 4) == []


@pytest.mark.parametrize(
    ("stream", "asked"),
    [
        ("greeting", ["greetings/query"]),
        ("account", ["accounts/phone/4255550107"]),
        ("settings", ["settings/"]),
        ("ecommerce", ["status/accountStatus/ecommerceStatus"]),
        (
            "entitlement",
            ["accounts/phone/4255550107", "status/accountStatus/ecommerceStatus"],
        ),
    ],
)
def test_a_snapshot_asks_its_lookups(wire, stream, asked):
    (page,) = pages(wire, stream)

    assert paths(wire) == ["authenticate", *asked]
    assert page.resume == ""
    assert YouMail.streams[stream].snapshot


def test_the_phone_of_the_settings_comes_before_the_user_name(simulator, wire):
    account = replace(ACCOUNT, settings={"phone": "4255550107"})
    account = replace(account, credential={"username": "ann", "password": PASSWORD})
    simulator.add_account(ACCOUNT.id, "ann", PASSWORD, "4255550107")

    assert [row.id for row in rows(wire, "account", account=account)] == ["account"]


def test_a_phone_is_percent_encoded():
    wire = Wire(Canned(b'{"account": {}}'), HOSTS.values())
    account = replace(ACCOUNT, settings={"phone": "+1 425/../x?y#z"})
    pages(wire, "account", account=account, token="token")

    assert paths(wire) == ["accounts/phone/%2B1%20425%2F..%2Fx%3Fy%23z"]


def test_without_any_phone_the_account_is_our_own_mistake(wire):
    account = replace(ACCOUNT, credential={"username": "ann", "password": PASSWORD})

    with pytest.raises(Misconfigured, match=r"settings\.phone"):
        pages(wire, "account", account=account, token="token")


def test_only_voicemails_are_message_like():
    assert {name: s.path for name, s in YouMail.streams.items() if s.path} == {
        "entry": "message-store"
    }


def test_lists_overlap_and_the_others_are_snapshots():
    kinds = {name: (s.overlap_s, s.snapshot) for name, s in YouMail.streams.items()}

    assert {name for name, kind in kinds.items() if kind == (120, False)} == {
        "history",
        "entry",
        "contact",
    }
    assert sum(snapshot for _, snapshot in kinds.values()) == 5


# Lookups: pages


@pytest.mark.parametrize("stream", ["entry", "history", "contact"])
@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 200, 250])
def test_every_row_comes_once_and_the_last_page_says_so(simulator, wire, stream, count):
    make = {
        "entry": simulator.leave_voicemail,
        "history": simulator.call,
        "contact": simulator.add_contact,
    }[stream]
    made = [make(ACCOUNT.id) for _ in range(count)]

    found = pages(wire, stream)

    assert sorted(row.id for page in found for row in page.rows) == sorted(made)
    assert [page.resume for page in found] == [*map(str, range(2, count // 100 + 2)), ""]


def test_the_end_is_found_by_the_raw_count():
    """A page whose rows cannot all be read is a full page all the same."""
    full = [entry(number) for number in range(PAGE_LENGTH)]
    first, last = listed(
        "entry", {"entries": [{**full[0], "id": None}, *full[1:]]}, {"entries": [entry(500)]}
    )

    assert (len(first.rows), len(first.bad), first.resume) == (99, 1, "2")
    assert [row.id for row in last.rows] == ["500"]


def test_a_row_that_arrives_between_two_pages_moves_no_other(simulator, wire, clock):
    made = []
    for _ in range(PAGE_LENGTH + 5):
        clock.now_s += 1
        made.append(simulator.leave_voicemail(ACCOUNT.id))

    def arrive(stream, number):
        if number == 1:
            clock.now_s += 1
            made.append(simulator.leave_voicemail(ACCOUNT.id))

    simulator.on_page = arrive

    assert [row.id for row in rows(wire, "entry")] == made


def test_a_row_that_arrives_first_in_a_list_newest_first_hides_no_other():
    """A server that sorts in its own way: the rest moves by one, and a row is listed twice."""
    full = [entry(number) for number in range(PAGE_LENGTH + 5, 0, -1)]
    first, rest = full[:PAGE_LENGTH], full[PAGE_LENGTH - 1 :]

    found = listed("entry", {"entries": first}, {"entries": rest})

    assert {row.id for page in found for row in page.rows} == {str(one["id"]) for one in full}
    assert not found[-1].resume


def test_a_saved_place_is_where_the_list_goes_on(simulator, wire):
    for _ in range(PAGE_LENGTH + 5):
        simulator.leave_voicemail(ACCOUNT.id)

    (page,) = pages(wire, "entry", resume="2")

    assert len(page.rows) == 5
    assert page.resume == ""


@pytest.mark.parametrize("place", ["0", "-1", "x", "1.5", "\uff12", "1" * 7, " 2"])
def test_a_saved_place_that_is_no_page_starts_again(wire, place):
    with pytest.raises(Restart):
        pages(wire, "entry", resume=place)


@pytest.mark.parametrize("stream", sorted(set(STREAMS) - {"entry", "history", "contact"}))
def test_a_snapshot_has_no_place_to_go_on_from(wire, stream):
    with pytest.raises(Restart):
        pages(wire, stream, resume="2")


def test_a_list_that_repeats_its_page_is_malformed(simulator, wire):
    for _ in range(PAGE_LENGTH + 5):
        simulator.leave_voicemail(ACCOUNT.id)
    simulator.paging = "stuck"

    with pytest.raises(Malformed, match="repeats"):
        pages(wire, "entry")


def test_a_list_without_pages_is_read_once(simulator, wire):
    made = [simulator.add_contact(ACCOUNT.id) for _ in range(PAGE_LENGTH + 5)]
    simulator.paging = "none"

    found = pages(wire, "contact")

    assert sorted(row.id for page in found for row in page.rows) == made
    assert found[-1].resume == ""


def test_a_page_tells_the_providers_clock(wire):
    assert [page.date_ms for page in pages(wire, "entry")] == [NOW_MS]


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param({}, id="no root"),
        pytest.param(
            dict.fromkeys(ROOTS),
            id="null roots",
        ),
        pytest.param({"response": {"statusCode": 200}}, id="a success without data"),
    ],
)
def test_an_absent_list_is_not_an_empty_one(stream, answer):
    with pytest.raises(Malformed):
        listed(stream, answer)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("kind", ["html", "empty", "truncated"])
def test_a_body_that_is_no_json_fails_the_delta(simulator, wire, stream, kind):
    account = driver.fresh(ACCOUNT)
    list(YouMail().delta(account, stream, Start(), wire))
    simulator.fail_next("/api/v4", kind, times=2)

    with pytest.raises(Malformed):
        pages(wire, stream, token=account.token.value)


@pytest.mark.parametrize(
    ("response", "error"),
    [
        pytest.param({"errors": [{"errorCode": "AccountExpired"}]}, Rejected, id="expired"),
        pytest.param({"errors": [{"errorCode": "TermsNotAgreed"}]}, Rejected, id="terms"),
        pytest.param({"errors": [{"errorCode": "InvalidUser"}]}, Rejected, id="user"),
        pytest.param({"statusCode": 403}, Rejected, id="403"),
        pytest.param({"errors": [{"errorCode": "ServiceUnavailable"}]}, Unavailable, id="down"),
        pytest.param({"statusCode": 503, "errors": []}, Unavailable, id="503"),
        pytest.param({"statusCode": "429"}, Unavailable, id="429 as text"),
        pytest.param({"errors": [{"errorCode": "Unknown"}]}, Malformed, id="unknown"),
        pytest.param({"errors": ["?"]}, Malformed, id="no object"),
        pytest.param({"errors": 7}, Malformed, id="no list"),
        pytest.param({"statusCode": 404}, Malformed, id="404"),
    ],
)
def test_an_error_body_is_an_error_even_beside_an_empty_list(response, error):
    with pytest.raises(error):
        listed("entry", {"entries": [], "response": response})


def test_a_success_body_beside_the_list_means_nothing():
    (page,) = listed("entry", {"entries": [entry(1)], "response": {"statusCode": 200}})

    assert len(page.rows) == 1


@pytest.mark.parametrize(
    ("kind", "error"), [("429", RateLimited), ("503", Unavailable), ("404", Malformed)]
)
@pytest.mark.parametrize("stream", STREAMS)
def test_a_failed_lookup_is_an_error_with_a_name(simulator, wire, stream, kind, error):
    simulator.fail_next("/api/v4/", kind)

    with pytest.raises(error):
        pages(wire, stream)


def test_a_failure_on_page_two_comes_after_page_one(simulator, wire):
    for _ in range(PAGE_LENGTH + 1):
        simulator.leave_voicemail(ACCOUNT.id)
    found = YouMail().delta(driver.fresh(ACCOUNT), "entry", Start(), wire)

    assert next(found).resume == "2"
    simulator.fail_next("/api/v4/messagebox", "503")
    with pytest.raises(Unavailable):
        next(found)


# Rows


def test_a_voicemail_in_our_normal_form(simulator, wire):
    identity = simulator.leave_voicemail(ACCOUNT.id, transcript="Call me", city="Kent")

    (row,) = rows(wire, "entry")

    assert (row.id, row.type, row.direction) == (identity, "VoiceMail", "Inbound")
    assert (row.updated_at, row.at_ms, row.deleted) == (str(NOW_MS), NOW_MS, False)
    assert row.body == {
        "id": identity,
        "type": "VoiceMail",
        "direction": "Inbound",
        "readStatus": "Unread",
        "creationTime": "2023-11-14T22:13:20.000Z",
        "from": {"phoneNumber": "4255550111", "name": "Bob"},
        "to": [{"phoneNumber": "4255550107"}],
        "durationMs": 12000,
        "folderId": 0,
        "messageDataUrl": f"https://media.youmail.invalid/{NOW_MS}.mp3",
        "preview": "",
        "transcript": "Call me",
        "city": "Kent",
    }


def test_an_id_of_many_digits_stays_exact(simulator, wire):
    identity = simulator.leave_voicemail(ACCOUNT.id, id="9223372036854775807")

    assert [row.id for row in rows(wire, "entry")] == ["9223372036854775807"] == [identity]


@pytest.mark.parametrize(
    ("status", "said"), [(1, "Unread"), (2, "Read"), ("2", "Read"), (5, 5), ("new", "new")]
)
def test_read_status(status, said):
    (page,) = listed("entry", {"entries": [entry(1, status=status)]})

    assert page.rows[0].body["readStatus"] == said


def test_what_is_not_said_is_left_out():
    (page,) = listed("entry", {"entries": [{"id": 1, "created": NOW_MS, "source": None}]})

    assert page.rows[0].body == {
        "id": "1",
        "type": "VoiceMail",
        "direction": "Inbound",
        "creationTime": "2023-11-14T22:13:20.000Z",
    }


def test_an_unknown_field_passes_through():
    (page,) = listed("entry", {"entries": [entry(1, brandNew={"deep": [1, None, "ü"]})]})

    assert page.rows[0].body["brandNew"] == {"deep": [1, None, "ü"]}


@pytest.mark.parametrize("name", ["messageDataUrl", "imageUrl", "somethingNewUrl"])
@pytest.mark.parametrize("tail", ["?auth=canary", "#canary", "?a=1&auth=canary#canary"])
def test_no_signature_of_an_address_is_published(name, tail):
    (page,) = listed("entry", {"entries": [entry(1, **{name: f"https://m.invalid/1.mp3{tail}"})]})

    assert page.rows[0].body[name] == "https://m.invalid/1.mp3"


@pytest.mark.parametrize("stream", ["account", "settings"])
def test_no_secret_of_an_object_is_published(stream):
    (page,) = listed(stream, {stream: {"a": 1, "pin": "1", "password": "p", "authToken": "t"}})

    assert page.rows[0].body == {"id": stream, "a": 1}


@pytest.mark.parametrize(
    ("fields", "updated_at"),
    [
        pytest.param({"updated": 5, "updateTime": 6}, "5", id="updated"),
        pytest.param({"updateTime": 6, "lastUpdated": 7}, "6", id="updateTime"),
        pytest.param({"lastUpdated": 7, "lastUpdateTime": 8}, "7", id="lastUpdated"),
        pytest.param({"lastUpdateTime": 8}, "8", id="lastUpdateTime"),
        pytest.param({"updated": None}, "3", id="null"),
        pytest.param({"updated": 0}, "3", id="never"),
        pytest.param({"updated": "0009"}, "0009", id="digits verbatim"),
        pytest.param({}, "3", id="created"),
        pytest.param({"created": None, "createTime": 4}, "4", id="createTime"),
    ],
)
@pytest.mark.parametrize(
    ("stream", "root"), [("entry", "entries"), ("history", "histories"), ("contact", "contacts")]
)
def test_the_time_of_the_last_change(stream, root, fields, updated_at):
    (page,) = listed(stream, {root: [{"id": 1, "created": 3, **fields}]})

    (row,) = page.rows
    assert (row.updated_at, row.at_ms) == (updated_at, int(updated_at))


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"id": None}, id="no id"),
        pytest.param({"id": ""}, id="empty id"),
        pytest.param({"id": True}, id="id is true"),
        pytest.param({"id": 1.5}, id="id is a fraction"),
        pytest.param({"created": None}, id="no time at all"),
        pytest.param({"created": "yesterday"}, id="a word for a time"),
        pytest.param({"created": -1}, id="a negative time"),
        pytest.param({"created": 1.5}, id="a time with a fraction"),
        pytest.param({"created": 9_999_999_999_999_999}, id="year 318857"),
        pytest.param({"updated": "²"}, id="a superscript for a time"),
        pytest.param({"userId": 999}, id="foreign user"),
        pytest.param({"accountId": "999"}, id="foreign account"),
        pytest.param({"userId": ACCOUNT.id, "accountId": 999}, id="half foreign"),
    ],
)
def test_a_bad_row_does_not_stop_its_neighbours(bad):
    rows = [entry(1), {**entry(2), **bad}, entry(3)]
    (page,) = listed("entry", {"entries": rows})

    assert [row.id for row in page.rows] == ["1", "3"]
    (bad_row,) = page.bad
    assert "999" not in bad_row.reason


@pytest.mark.parametrize("bad", [None, 7, "row", []])
def test_a_row_that_is_no_object_does_not_stop_its_neighbours(bad):
    (page,) = listed("entry", {"entries": [entry(1), bad]})

    assert (len(page.rows), len(page.bad)) == (1, 1)


@pytest.mark.parametrize("owner", [int(ACCOUNT.id), ACCOUNT.id, None])
def test_a_row_of_the_account_itself_is_fine(owner):
    (page,) = listed("entry", {"entries": [entry(1, userId=owner)]})

    assert len(page.rows) == 1


@pytest.mark.parametrize("stream", ["account", "settings"])
def test_an_object_of_another_account_fails_the_delta(stream):
    with pytest.raises(Malformed, match="another account"):
        listed(stream, {stream: {"userId": 999}})


def test_a_voicemail_in_the_trash_is_a_tombstone(simulator, wire):
    identity = simulator.leave_voicemail(ACCOUNT.id)
    simulator.trash(identity)
    assert [row.deleted for row in rows(wire, "entry")] == [True]

    simulator.restore(identity)
    assert [row.deleted for row in rows(wire, "entry")] == [False]


@pytest.mark.parametrize(
    ("fields", "deleted"),
    [
        ({"folderId": 5322}, True),
        ({"folderId": "5322"}, True),
        ({"folderId": 0}, False),
        ({"deleted": True}, True),
        ({"deleted": "true"}, True),
        ({"deleted": 1}, True),
        ({"deleted": False}, False),
        ({"deleted": "false"}, False),
        ({"deleted": None}, False),
        ({"deleteType": 2}, True),
        ({"deleteType": 1}, False),
    ],
)
def test_what_makes_a_tombstone(fields, deleted):
    (page,) = listed("entry", {"entries": [entry(1, **fields)]})

    assert page.rows[0].deleted is deleted


def test_a_deleted_contact_is_a_tombstone(simulator, wire):
    kept, gone = simulator.add_contact(ACCOUNT.id), simulator.add_contact(ACCOUNT.id)
    simulator.delete_contact(gone)

    found = {row.id: row.deleted for row in rows(wire, "contact", since_ms=NOW_MS)}

    assert found == {kept: False, gone: True}


def test_an_update_that_the_row_does_not_date_is_found_by_its_content(simulator, wire, clock):
    identity = simulator.leave_voicemail(ACCOUNT.id)
    clock.now_s += 60
    simulator.change_entry(identity, transcript="Call me")

    (row,) = rows(wire, "entry", since_ms=NOW_MS + 1)

    assert (row.body["transcript"], row.at_ms) == ("Call me", NOW_MS)


def test_a_call_in_our_normal_form(simulator, wire):
    identity = simulator.call(ACCOUNT.id, 103)

    (row,) = rows(wire, "history")

    assert (row.id, row.type, row.direction) == (identity, "", "Inbound")
    assert row.body == {
        "id": identity,
        "direction": "Inbound",
        "creationTime": "2023-11-14T22:13:20.000Z",
        "from": {"phoneNumber": "4255550111"},
        "durationMs": 3000,
        "result": 103,
    }


def test_newer_names_of_fields_are_understood(simulator, wire):
    simulator.created_name = "createTime"
    simulator.leave_voicemail(ACCOUNT.id)

    assert [row.at_ms for row in rows(wire, "entry")] == [NOW_MS]


@pytest.mark.parametrize("stream", ["greeting", "account", "settings"])
def test_a_snapshot_needs_no_time(stream):
    answer = [{"id": 1}] if stream == "greeting" else {"name": "x"}
    (page,) = listed(stream, {f"{stream}s" if stream == "greeting" else stream: answer})

    assert [(row.updated_at, row.at_ms) for row in page.rows] == [("", 0)]


def test_an_object_is_dated_by_its_change_and_not_by_its_creation():
    (page,) = listed("account", {"account": {"created": 5, "lastUpdated": 9}})
    assert page.rows[0].at_ms == 9

    (page,) = listed("account", {"account": {"created": 5}})
    assert page.rows[0].at_ms == 0


def test_greetings_are_listed_by_id(simulator, wire):
    kept, gone = simulator.record_greeting(ACCOUNT.id), simulator.record_greeting(ACCOUNT.id)
    simulator.delete_greeting(gone)

    (row,) = rows(wire, "greeting")

    assert (row.id, row.body["name"], row.deleted) == (kept, "At work", False)


def test_an_order_keeps_its_id_from_purchase_to_cancellation(simulator, wire):
    bought = simulator.order(ACCOUNT.id, "Premium/2 é")
    before = rows(wire, "ecommerce")
    simulator.order(ACCOUNT.id, "Premium/2 é", status=0)
    after = rows(wire, "ecommerce")

    assert [row.id for row in before + after] == [bought, bought]
    assert [row.body["status"] for row in before + after] == [1, 0]
    assert not after[0].deleted


def test_orders_trials_and_recommendations_are_told_apart():
    same = {"orderType": "A", "productType": "B", "productName": "C"}
    (page,) = listed(
        "ecommerce",
        {"ecommerceStatus": {"orders": [same], "trials": [same], "recommendations": [same]}},
    )

    assert [row.id for row in page.rows] == [
        "order:A/B/C",
        "trial:A/B/C",
        "recommendation:A/B/C",
    ]


@pytest.mark.parametrize(
    ("order", "identity"),
    [
        ({"id": 2**63 - 1, "productName": "C"}, "order:9223372036854775807"),
        ({"productName": "C"}, "order://C"),
        ({"productName": "a/b"}, "order://a%2Fb"),
        ({"productName": "\ud800"}, "order://%ED%A0%80"),
    ],
)
def test_the_identity_of_an_order(order, identity):
    (page,) = listed("ecommerce", {"ecommerceStatus": {"orders": [order]}})

    assert [row.id for row in page.rows] == [identity]


def test_an_order_without_any_name_does_not_stop_its_neighbours():
    orders = [{"status": 1}, {"productName": "C"}]
    (page,) = listed("ecommerce", {"ecommerceStatus": {"orders": orders}})

    assert (len(page.rows), len(page.bad)) == (1, 1)


def test_account_and_ecommerce_stand_in_for_entitlements(simulator, wire):
    simulator.change_entitlements(ACCOUNT.id, ["conference"])
    simulator.order(ACCOUNT.id)

    account, ecommerce = rows(wire, "entitlement")

    assert (account.id, account.body["entitlements"]) == ("account", ["conference"])
    assert (ecommerce.id, len(ecommerce.body["orders"])) == ("ecommerce", 1)


def test_settings_are_one_row(simulator, wire):
    simulator.change_settings(ACCOUNT.id, timeZone="PST")

    (row,) = rows(wire, "settings")

    assert (row.id, row.body["timeZone"]) == ("settings", "PST")


def test_a_row_that_lags_behind_its_mark_is_an_empty_page_and_no_error(simulator, wire, clock):
    simulator.lag_ms = 5000
    before = check(wire)
    clock.now_s += 1
    simulator.leave_voicemail(ACCOUNT.id)

    assert check(wire, before).raw != before.raw
    assert rows(wire, "entry") == []

    clock.now_s += 5
    assert len(rows(wire, "entry")) == 1


def test_a_late_row_is_found_within_the_overlap(simulator, wire, clock):
    late = simulator.leave_voicemail(ACCOUNT.id, at_ms=NOW_MS - 60_000, visible_at_ms=NOW_MS + 1000)
    newest = simulator.leave_voicemail(ACCOUNT.id)
    assert [row.id for row in rows(wire, "entry")] == [newest]

    clock.now_s += 1
    since_ms = NOW_MS - YouMail.streams["entry"].overlap_s * 1000
    assert [row.id for row in rows(wire, "entry", since_ms)] == [late, newest]


@pytest.mark.parametrize("stream", STREAMS)
def test_every_row_can_be_written_as_json(simulator, wire, stream):
    simulator.leave_voicemail(ACCOUNT.id, transcript="\x00\ufffe\ud800")
    simulator.add_contact(ACCOUNT.id)
    simulator.record_greeting(ACCOUNT.id)
    simulator.order(ACCOUNT.id)

    found = rows(wire, stream)

    assert found
    assert all(json.loads(json.dumps(dict(row.body))) == row.body for row in found)


def test_a_response_without_a_date_is_fine():
    assert Response(200).date_ms is None
    (page,) = listed("entry", {"entries": []})

    assert page.date_ms is None
