"""What a provider's module makes of a notification: it is verified first, and read then."""

from __future__ import annotations

import json

import pytest
from pollwire.errors import Malformed, PollwireError, Rejected
from pollwire.exchange import Notification, Pushed
from pollwire.providers import Notifying, registered

from tests.pushing import (
    EXTENSION,
    NUMBER,
    SECRET,
    STOLEN,
    TEXT,
    TOKEN,
    forged,
    received,
    signed,
    told,
)

NOW_MS = 1_800_000_000_123
NOW_S = NOW_MS // 1000
RINGCENTRAL, KIRIMDEV = registered()["ringcentral"], registered()["kirimdev"]


def ringcentral(body, headers=None, secret=TOKEN):
    headers = {"verification-token": TOKEN} if headers is None else headers
    body = body if isinstance(body, bytes) else body.encode()
    return RINGCENTRAL.pushed(Notification(headers, body), secret, NOW_MS)


def kirimdev(body, signature=None, secret=SECRET):
    body = body if isinstance(body, bytes) else body.encode()
    headers = {"x-kirim-signature": signed(body, NOW_S) if signature is None else signature}
    return KIRIMDEV.pushed(Notification(headers, body), secret, NOW_MS)


def test_some_providers_notify_and_some_do_not():
    notifying = {name for name, one in registered().items() if isinstance(one, Notifying)}

    assert notifying == {"ringcentral", "kirimdev"}


# RingCentral


def test_ringcentrals_event_names_its_extension_and_its_time():
    assert ringcentral(told(NOW_MS)) == Pushed((EXTENSION,), NOW_MS)


@pytest.mark.parametrize(
    ("fields", "accounts"),
    [
        ({"event": "/restapi/v1.0/account/133128004/presence"}, (EXTENSION,)),
        ({"event": None}, (EXTENSION,)),
        ({"event": "/restapi/v1.0/account/~/extension/~/presence?x=1"}, ("~", EXTENSION)),
        ({"body": None}, (EXTENSION,)),
        ({"body": {"extensionId": int(EXTENSION)}}, (EXTENSION,)),
        ({"body": {"extensionId": "7"}}, (EXTENSION, "7")),
        ({"event": "/restapi/v1.0/subscription/~?threshold=60", "body": {}}, ()),
        ({"event": ["/restapi/v1.0/account/1/extension/2/x"], "body": []}, ()),
        ({"event": "/restapi/v1.0/account/1/extension/2\n/x", "body": {}}, ()),
        ({"event": "/restapi/v1.0/account/1/extension/a%23b/x", "body": {}}, ()),
        ({"event": f"/restapi/v1.0/account/1/extension/{'1' * 21}/x", "body": {}}, ()),
        ({"event": "", "body": {"extensionId": "a#b"}}, ()),
        ({"event": "", "body": {"extensionId": True}}, ()),
        ({"event": "", "body": {"extensionId": {"a": 1}}}, ()),
    ],
)
def test_whom_ringcentral_tells_of(fields, accounts):
    assert ringcentral(told(NOW_MS, **fields)).accounts == accounts


@pytest.mark.parametrize("timestamp", [None, "", "yesterday", 5, "2027-01-15T08:00:00"])
def test_a_time_that_cannot_be_read_is_none(timestamp):
    assert ringcentral(told(NOW_MS, timestamp=timestamp)) == Pushed((EXTENSION,), None)


@pytest.mark.parametrize("kind", STOLEN)
def test_a_token_that_is_not_the_connections_is_rejected(kind):
    with pytest.raises(Rejected):
        ringcentral(told(NOW_MS), STOLEN[kind])


def test_a_subscription_is_confirmed():
    challenge = {"validation-token": "d0a6-F.~+/=_"}

    assert ringcentral("", challenge).headers == {"Validation-Token": "d0a6-F.~+/=_"}
    # Whoever only knows how to ask is told nothing else, and nothing is done for him.
    assert ringcentral(told(NOW_MS), challenge).accounts == ()


def test_a_challenge_beside_the_token_is_confirmed_and_the_rest_is_read():
    both = {"validation-token": "abc", "verification-token": TOKEN}

    assert ringcentral("", both) == Pushed(headers={"Validation-Token": "abc"})
    assert ringcentral(told(NOW_MS), both).accounts == (EXTENSION,)


@pytest.mark.parametrize(
    "sent",
    ["a\r\nSet-Cookie: b=c", "a\nb", "abc\n", "a b", "\x00", "é", "x" * 201, "\ud800", "a,b"],
)
def test_what_no_header_may_hold_is_not_sent_back(sent):
    with pytest.raises(Malformed):
        ringcentral("", {"validation-token": sent})


# Kirimdev


def test_metas_message_names_its_number_and_the_signature_its_time():
    assert kirimdev(received()) == Pushed((NUMBER,), NOW_S * 1000)


@pytest.mark.parametrize(
    ("body", "accounts"),
    [
        ({"data": {"session": NUMBER}}, (NUMBER,)),
        ({"data": {"phone_number_id": int(NUMBER)}}, (NUMBER,)),
        ({"data": {"session": None, "meta": {"phone_number_id": NUMBER}}}, (NUMBER,)),
        ({"data": {"session": NUMBER, "phone_number_id": NUMBER}}, (NUMBER,)),
        ({"data": {"conversation": {"id": "cnv_1"}}, "type": "conversation.closed"}, ()),
        ({}, ()),
        ({"entry": "x", "data": []}, ()),
        ({"entry": [1, {"changes": [None, {"value": 5}, {"value": {"metadata": []}}]}]}, ()),
        ({"data": {"session": "no-number", "meta": {"phone_number_id": True}}}, ()),
        ({"data": {"session": "1" * 21}}, ()),
        ({"data": {"session": f"{NUMBER}\n"}}, ()),
    ],
)
def test_whom_kirimdev_tells_of(body, accounts):
    assert kirimdev(json.dumps(body)).accounts == accounts


def test_one_of_several_signatures_will_do():
    body = received()
    ours = signed(body, NOW_S).partition(",")[2]

    assert kirimdev(body, f"t={NOW_S}, v1={'0' * 64}, {ours}, v2=x").accounts == (NUMBER,)


@pytest.mark.parametrize("kind", forged("", 0))
def test_a_signature_that_is_not_the_connections_is_rejected(kind):
    body = received()

    with pytest.raises(Rejected):
        kirimdev(body, forged(body, NOW_S)[kind])


@pytest.mark.parametrize("late_s", [-300, 0, 300])
def test_a_signature_is_good_for_five_minutes(late_s):
    assert kirimdev(received(), signed(received(), NOW_S - late_s)).accounts == (NUMBER,)


# Both


@pytest.mark.parametrize("send", [ringcentral, kirimdev])
@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", "null", '{"event": 1, "event": 2}', '{"a": NaN}', "[" * 100_000, TEXT,
     b"\xff\xfe", b'{"a": "\xff"}', '{"a": 1e999}'],
)  # fmt: skip
def test_what_is_no_json_object_is_malformed_after_it_was_verified(send, body):
    with pytest.raises(Malformed) as error:
        send(body)
    assert "canary" not in str(error.value)


@pytest.mark.parametrize("send", [ringcentral, kirimdev])
def test_what_is_not_verified_is_not_parsed(send):
    with pytest.raises(Rejected):
        send("{", secret="another")


@pytest.mark.parametrize("send", [ringcentral, kirimdev])
def test_a_refusal_says_nothing_of_what_was_sent(send):
    for body in (told(NOW_MS), received()):
        with pytest.raises(PollwireError) as error:
            send(body, secret="canary-another")
        assert "canary" not in str(error.value)
        assert "canary" not in repr(Notification({"a": TOKEN}, body.encode()))
