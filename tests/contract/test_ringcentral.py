"""RingCentral's module against its simulator: tokens, message-sync, presence, and their traps."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from pollwire import decide, marks
from pollwire.errors import (
    Forbidden,
    Malformed,
    Misconfigured,
    RateLimited,
    Rejected,
    Restart,
    Unavailable,
)
from pollwire.events import Composer
from pollwire.model import Account, Seen, Start
from pollwire.providers import registered
from pollwire.providers.ringcentral import RECORDS, RESYNC_MS, STREAMS, RingCentral
from pollwire.tokens import Token

from local.simulators.ringcentral import RingCentral as Simulator
from tests.contract import driver
from tests.contract.driver import Canned, Wire

HOSTS = {"api": "https://api.sim"}
OWNER = "133128004"
EXTENSION = "133165004"
JWT = "canary-jwt"
SECRET = "canary-secret"
ACCOUNT = Account(
    "office",
    EXTENSION,
    HOSTS,
    credential={"client_id": "client", "client_secret": SECRET, "jwt": JWT},
)
NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000
PATH = f"https://api.sim/restapi/v1.0/account/~/extension/{EXTENSION}/"
CALL_FIELDS = {
    "id": "448115d0d81241fcaf4fc0d0b01c0ef9",
    "sessionId": "14860368004",
    "telephonySessionId": None,
    "partyId": None,
}


@pytest.fixture
def clock():
    return SimpleNamespace(now_ms=NOW_MS)


@pytest.fixture
def simulator(clock):
    simulator = Simulator(lambda: clock.now_ms / 1000, light_per_minute=10_000)
    simulator.add_account(EXTENSION, "client", SECRET, JWT)
    return simulator


@pytest.fixture
def wire(simulator):
    return Wire(simulator, HOSTS.values())


class Follower:
    """
    What the pipeline does with one stream of the extension, in memory.

    Attributes:
        place: The sync token.
    """

    def __init__(self, wire, clock, name):
        self._wire, self._clock, self._name = wire, clock, name
        self._account = replace(ACCOUNT, token=Token())
        self._records, self._seq, self._reached_ms, self._drained = {}, 0, 0, False
        self._previous_ms = 0
        self._composer = Composer("ringcentral", "office", OWNER, name, STREAMS[name], "topic")
        self.place = ""
        self.unsettled = False

    def drain(self, *, full=False):
        """Fetch, decide, and return the events as JSON."""
        stream = STREAMS[self._name]
        full = full or stream.snapshot or not self._drained
        start = decide.start(self._reached_ms, self._previous_ms, self.place, stream)
        try:
            pages = self._pages(Start() if full else start)
        except Restart:
            pages = self._pages(Start() if full else replace(start, cursor=""))
        now_ms = self._clock.now_ms
        rows = [row for page in pages for row in page.rows]
        mode = decide.LIVE if self._drained else decide.BASELINE
        decision = decide.decide(rows, self._records, stream, mode, now_ms)
        if full and all(page.whole for page in pages):
            ids = {row.id for row in rows}
            missing = decide.decide_missing(ids, self._records, stream, now_ms)
            decision = decision.joined(missing)
        self._records |= decision.records
        self._drained, self.unsettled = True, decision.unsettled
        if not decision.unsettled:
            self._previous_ms = self._reached_ms
            self._reached_ms = max(self._reached_ms, decide.newest_ms(rows, now_ms))
            self.place = pages[-1].cursor or self.place
        events = []
        for change in decision.changes:
            self._seq += 1
            events.append(json.loads(self._composer.event(change, self._seq, now_ms).body))
        return events

    def _pages(self, start):
        return list(RingCentral().delta(self._account, self._name, start, self._wire))


@pytest.fixture
def messages(wire, clock):
    return Follower(wire, clock, "message-store")


@pytest.fixture
def presence(wire, clock):
    return Follower(wire, clock, "presence")


def check(wire, seen=Seen(), account=ACCOUNT, token=""):  # noqa: B008 (it is frozen)
    return driver.run(RingCentral().check(driver.fresh(account, token), seen), wire)


def pages(wire, stream="message-store", account=ACCOUNT, token="", **start):
    return driver.pages(RingCentral(), account, stream, wire, Start(**start), token)


def rows(wire, stream="message-store", **start):
    return [row for page in pages(wire, stream, **start) for row in page.rows]


def answered(stream, *answers, **start):
    wire = Wire(Canned(*[json.dumps(answer).encode() for answer in answers]), HOSTS.values())
    return pages(wire, stream, token="token", **start)


def synced(*records, **info):
    """Read what a full synchronization answers."""
    (page,) = answered("message-store", sync_of(*records, **info))
    return page


def sync_of(*records, **info):
    info = {"syncType": "FSync", "syncToken": "t", "olderRecordsExist": False} | info
    return {"records": list(records), "syncInfo": info}


def record(id_=7, **fields):
    return {
        "id": id_,
        "type": "SMS",
        "direction": "Inbound",
        "availability": "Alive",
        "creationTime": "2016-10-26T16:46:22.553Z",
        "lastModifiedTime": "2016-10-26T16:46:22.553Z",
        **fields,
    }


def presence_of(*calls, **fields):
    """Read an answer about presence."""
    answer = {
        "presenceStatus": "Available",
        "telephonyStatus": "NoCall",
        "activeCalls": list(calls),
        **fields,
    }
    answer = {name: value for name, value in answer.items() if value is not ...}
    (page,) = answered("presence", answer)
    return page


def call(id_="1", status="CallConnected", **fields):
    return {
        "id": f"c{id_}",
        "sessionId": id_,
        "direction": "Inbound",
        "telephonyStatus": status,
    } | (fields)


def names(wire):
    return [request.url.rpartition("/")[2] for request in wire.sent]


def kinds(events):
    return [event["body"]["change"] for event in events]


def moved(seen, later):
    """Name the streams whose mark differs, as the pipeline finds them."""
    step = marks.step(seen, later, (), lambda raw: RingCentral().marks(ACCOUNT, raw), NOW_MS)
    return sorted(marks.split(one)[0] for one in step.pending) if step else []


# What it is


def test_it_is_registered():
    provider = registered()["ringcentral"]

    assert isinstance(provider, RingCentral)
    assert provider.check_needs_credential
    assert not provider.shares_rate
    assert dict(provider.hosts) == {"api": "https://platform.ringcentral.com"}


# The story of seed 002


def test_the_story_of_the_seed(simulator, clock, messages, presence):
    """It rings, is not answered, and a voicemail is left: three events, in that order."""
    assert presence.drain() + messages.drain() == []
    events = []
    clock.now_ms = 1_477_500_289_441  # 2016-10-26T16:44:49.441Z
    ringing = simulator.ring(EXTENSION, "+14158905908", "+16505819987", **CALL_FIELDS)
    events += presence.drain() + messages.drain()
    clock.now_ms = 1_477_500_309_434
    simulator.hang_up(ringing)
    events += presence.drain() + messages.drain()
    clock.now_ms = 1_477_500_382_553
    simulator.leave_voicemail(EXTENSION)
    clock.now_ms = 1_477_500_389_437
    events += presence.drain() + messages.drain()

    rings, ended, left = events
    path = f"/restapi/v1.0/account/133128004/extension/{EXTENSION}/"
    assert [event["event"] for event in events] == [
        f"{path}presence?detailedTelephonyState=true",
        f"{path}presence?detailedTelephonyState=true",
        f"{path}message-store?type=VoiceMail&direction=Inbound",
    ]
    assert [event["timestamp"] for event in events] == [
        "2016-10-26T16:44:49.441Z",
        "2016-10-26T16:45:09.434Z",
        "2016-10-26T16:46:29.437Z",
    ]
    assert len({event["uuid"] for event in events}) == 3
    assert kinds(events) == ["created", "deleted", "created"]
    active = {
        "id": "448115d0d81241fcaf4fc0d0b01c0ef9",
        "direction": "Inbound",
        "from": "+14158905908",
        "to": "+16505819987",
        "telephonyStatus": "Ringing",
        "sessionId": "14860368004",
    }
    seed = {
        "extensionId": 133165004,
        "telephonyStatus": "Ringing",
        "activeCalls": [active],
        "presenceStatus": "Available",
        "userStatus": "Available",
        "dndStatus": "DoNotAcceptDepartmentCalls",
        "allowSeeMyPresence": True,
        "ringOnMonitoredCall": False,
        "pickUpCallsOnHold": False,
    }
    # Pollwire writes ids as text, and says so of its own accord.
    assert {name: rings["body"][name] for name in seed} == seed | {"extensionId": int(EXTENSION)}
    seed["telephonyStatus"] = "NoCall"
    seed["activeCalls"] = [active | {"telephonyStatus": "NoCall", "terminationType": "final"}]
    assert {name: ended["body"][name] for name in seed} == seed | {"extensionId": int(EXTENSION)}
    assert ended["body"]["sequence"] == rings["body"]["sequence"] + 1
    assert left["body"]["extensionId"] == EXTENSION
    assert left["body"]["lastUpdated"] == "2016-10-26T16:46:22.553Z"
    assert left["body"]["changes"] == [{"type": "VoiceMail", "newCount": 1}]
    clock.now_ms += 60_000
    assert presence.drain() + messages.drain() == []


#: What the first two notifications of the story say, as JSON.
RINGING = """
{
    "extensionId": 133165004,
    "telephonyStatus": "Ringing",
    "activeCalls": [
        {
            "id": "448115d0d81241fcaf4fc0d0b01c0ef9",
            "direction": "Inbound",
            "from": "+14158905908",
            "to": "+16505819987",
            "telephonyStatus": "Ringing",
            "sessionId": "14860368004"
        }
    ],
    "sequence": 107945,
    "presenceStatus": "Available",
    "userStatus": "Available",
    "dndStatus": "DoNotAcceptDepartmentCalls",
    "allowSeeMyPresence": true,
    "ringOnMonitoredCall": false,
    "pickUpCallsOnHold": false
}
"""
ENDED = """
{
    "extensionId": 133165004,
    "telephonyStatus": "NoCall",
    "activeCalls": [
        {
            "id": "448115d0d81241fcaf4fc0d0b01c0ef9",
            "direction": "Inbound",
            "from": "+14158905908",
            "to": "+16505819987",
            "telephonyStatus": "NoCall",
            "sessionId": "14860368004",
            "terminationType": "final"
        }
    ],
    "sequence": 107946,
    "presenceStatus": "Available",
    "userStatus": "Available",
    "dndStatus": "DoNotAcceptDepartmentCalls",
    "allowSeeMyPresence": true,
    "ringOnMonitoredCall": false,
    "pickUpCallsOnHold": false
}
"""
#: And its third, as it came.
LEFT = """
{
    "uuid": "bc8cfb3d-661e-4393-9210-f3ff5be73ebc",
    "event": "/restapi/v1.0/account/133128004/extension/133165004/message-store",
    "timestamp": "2016-10-26T16:46:29.437Z",
    "subscriptionId": "a8d72076-a1ce-42b3-86d7-5835ce9df152",
    "body": {
        "extensionId": 133165004,
        "lastUpdated": "2016-10-26T16:46:22.553+0000",
        "changes": [{"type": "VoiceMail", "newCount": 1, "updatedCount": 0}]
    }
}
"""
#: The sample of the message event, with its commas and brackets put right.
PAGER_AND_SMS = """
{
    "timestamp": "2014-04-29T14:29:27.408+0000",
    "uuid": "b11c9430-9687-4498-b12b-3fcb470bfe04",
    "event": "/restapi/v1.0/account/~/extension/406149828004/message-store",
    "ownerId": "406149828004",
    "subscriptionId": "9d38419f-645f-4ee3-a053-8cf1368c21c4",
    "body": {
        "accountId": "406149828004",
        "extensionId": "406149828004",
        "lastUpdated": "2014-04-29T14:29:20.531+0000",
        "changes": [
            {"type": "Pager", "updatedCount": 1, "newCount": 0},
            {"type": "SMS", "updatedCount": 0, "newCount": 1}
        ]
    }
}
"""


@pytest.mark.parametrize("document", [RINGING, ENDED], ids=["ringing", "ended"])
def test_presence_as_the_documentation_has_it_is_read_as_it_stands(document):
    said = json.loads(document)
    (page,) = answered("presence", said)
    state, row = page.rows
    del said["sequence"]  # A number of the notification's; ours counts what we tell.

    assert page.bad == ()
    assert page.whole
    assert row.id == "14860368004:448115d0d81241fcaf4fc0d0b01c0ef9"
    assert (row.direction, row.extension) == ("Inbound", EXTENSION)
    assert row.deleted is (document == ENDED)
    assert row.body == said
    assert {name: state.body[name] for name in said if name != "activeCalls"} == {
        name: value for name, value in said.items() if name != "activeCalls"
    }
    assert state.id == "presence"
    assert "activeCalls" not in state.body


def told_of(account, owner, before, after):
    """Tell as events what is new in *after*, both answers of message-sync."""
    stream = STREAMS["message-store"]
    composer = Composer("ringcentral", "office", account.id, "message-store", stream, "t", owner)
    records, events = {}, []
    for answer, mode in ((before, decide.BASELINE), (after, decide.LIVE)):
        wire = Wire(Canned(json.dumps(answer).encode()), HOSTS.values())
        (page,) = pages(wire, account=account, token="token")
        assert page.bad == ()
        decision = decide.decide(page.rows, records, stream, mode, NOW_MS)
        records |= decision.records
        events += [composer.event(change, 1, NOW_MS) for change in decision.changes]
    return [json.loads(event.body) for event in events]


def changes_of(document):
    """Say what the changes of a document are, those that are none left out."""
    return [
        {name: value for name, value in change.items() if value != 0}
        for change in document["body"]["changes"]
    ]


def test_the_voicemail_of_the_story_is_told_as_the_story_tells_it():
    document = json.loads(LEFT)
    at = document["body"]["lastUpdated"]
    left = record(
        extensionId=document["body"]["extensionId"],
        type=document["body"]["changes"][0]["type"],
        creationTime=at,
        lastModifiedTime=at,
    )

    (event,) = told_of(ACCOUNT, OWNER, sync_of(), sync_of(left))

    assert event["event"] == f"{document['event']}?type=VoiceMail&direction=Inbound"
    assert event["body"]["extensionId"] == str(document["body"]["extensionId"])
    assert event["body"]["lastUpdated"] == at.replace("+0000", "Z")
    assert event["body"]["changes"] == changes_of(document)
    assert document.keys() <= event.keys()
    assert document["body"].keys() <= event["body"].keys()


def test_an_updated_pager_message_and_a_new_sms_are_told_as_documented():
    document = json.loads(PAGER_AND_SMS)
    body = document["body"]
    account = replace(ACCOUNT, id=body["extensionId"])
    old = {"extensionId": account.id, "creationTime": "2014-04-29T10:00:00.000+0000"}
    pager = record(1, **old, type="Pager", lastModifiedTime=old["creationTime"])
    updated = pager | {"lastModifiedTime": body["lastUpdated"], "readStatus": "Read"}
    new = record(2, **dict.fromkeys(("creationTime", "lastModifiedTime"), body["lastUpdated"]))
    new |= {"extensionId": account.id}

    events = told_of(account, body["accountId"], sync_of(pager), sync_of(updated, new))

    assert [event["body"]["changes"] for event in events] == [[one] for one in changes_of(document)]
    for event, type_ in zip(events, ("Pager", "SMS"), strict=True):
        path = document["event"].replace("~", body["accountId"])
        assert event["event"] == f"{path}?type={type_}&direction=Inbound"
        assert event["ownerId"] == document["ownerId"]
        assert event["body"]["accountId"] == body["accountId"]
        assert event["body"]["extensionId"] == body["extensionId"]
        assert event["body"]["lastUpdated"] == body["lastUpdated"].replace("+0000", "Z")
        assert document.keys() <= event.keys()


# Authentication


def test_a_token_is_asked_for_with_the_client_and_the_jwt(wire):
    pages(wire, "presence")

    token, asked = wire.sent
    assert (token.method, token.url) == ("POST", "https://api.sim/restapi/oauth/token")
    basic = base64.b64encode(f"client:{SECRET}".encode()).decode()
    assert token.headers["Authorization"] == f"Basic {basic}"
    assert token.form == {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": JWT,
    }
    assert not token.query
    assert asked.url == f"{PATH}presence"
    assert asked.headers["Authorization"].startswith("Bearer access-")
    assert all(request.secret for request in wire.sent)


def test_a_token_is_shared_and_used_again(simulator, wire):
    shared = []
    account = replace(ACCOUNT, token=Token(share=shared.append))
    driver.run(RingCentral().check(account, Seen()), wire)
    list(RingCentral().delta(account, "message-store", Start(), wire))
    list(RingCentral().delta(account, "presence", Start(), wire))

    assert [one.value for one in shared] == [account.token.value]
    assert simulator.requests["token"] == 1


def test_a_shared_token_saves_the_call(simulator, wire):
    shared = []
    driver.run(
        RingCentral().check(replace(ACCOUNT, token=Token(share=shared.append)), Seen()), wire
    )
    check(wire, token=shared[0].value)

    assert simulator.requests["token"] == 1


def test_a_delta_renews_an_expired_token_once(simulator, wire):
    simulator.receive_sms(EXTENSION)

    (page,) = pages(wire, token="stale")
    (row,) = page.rows

    assert row.type == "SMS"
    assert names(wire) == ["message-sync", "token", "message-sync"]


def test_a_check_renews_an_expired_token_once(wire):
    check(wire, token="stale")

    assert names(wire) == ["message-sync", "token", "message-sync", "presence"]


def test_a_token_that_ends_between_two_requests_is_renewed(simulator, wire):
    shared = []
    driver.run(
        RingCentral().check(replace(ACCOUNT, token=Token(share=shared.append)), Seen()), wire
    )
    simulator.on_page = lambda records: simulator.expire_tokens()
    del wire.sent[:]

    assert check(wire, token=shared[0].value).raw
    assert names(wire) == ["message-sync", "presence", "token", "presence"]


def test_a_token_that_was_just_given_is_not_asked_for_again(simulator, wire):
    simulator.on_page = lambda records: simulator.expire_tokens()

    with pytest.raises(Rejected):
        check(wire)

    assert names(wire) == ["token", "message-sync", "presence"]


@pytest.mark.parametrize("stream", STREAMS)
def test_a_second_refusal_is_final(simulator, wire, stream):
    simulator.fail_next("/extension/", "401", times=5)

    with pytest.raises(Rejected):
        pages(wire, stream, token="stale")

    assert simulator.requests["token"] == 1
    assert len(wire.sent) == 3


def test_a_second_refusal_is_final_in_a_check_too(simulator, wire):
    simulator.fail_next("/extension/", "401", times=5)

    with pytest.raises(Rejected):
        check(wire, token="stale")

    assert simulator.requests["token"] == 1


@pytest.mark.parametrize(
    "credential",
    [
        pytest.param({"jwt": "revoked"}, id="400"),
        pytest.param({"client_secret": "wrong"}, id="401"),
    ],
)
def test_a_credential_that_is_refused_is_final(wire, credential):
    account = replace(ACCOUNT, credential={**ACCOUNT.credential, **credential})

    with pytest.raises(Rejected, match="40") as error:
        check(wire, account=account)

    assert len(wire.sent) == 1
    assert all(value not in str(error.value) for value in credential.values())


@pytest.mark.parametrize("missing", ["client_id", "client_secret", "jwt"])
def test_a_missing_field_of_the_credential_is_named(wire, missing):
    credential = {name: one for name, one in ACCOUNT.credential.items() if name != missing}

    with pytest.raises(Misconfigured, match=rf"credential\.{missing}"):
        check(wire, account=replace(ACCOUNT, credential=credential))

    assert wire.sent == []


@pytest.mark.parametrize("token", [None, "", 5, "a\r\nb", "é"])
def test_a_token_that_no_header_can_carry_is_malformed(token):
    wire = Wire(Canned(json.dumps({"access_token": token}).encode()), HOSTS.values())

    with pytest.raises(Malformed, match="access_token"):
        check(wire)


def test_six_sessions_end_the_first(simulator, wire):
    simulator.configure(auth_per_minute=100)
    shared = []
    for _ in range(6):
        account = replace(ACCOUNT, token=Token(share=shared.append))
        driver.run(RingCentral().check(account, Seen()), wire)
    before = simulator.requests["token"]

    check(wire, token=shared[0].value)

    assert simulator.requests["token"] == before + 1


def test_the_sixth_token_in_a_minute_is_refused_with_a_wait(wire):
    for _ in range(5):
        check(wire)

    with pytest.raises(RateLimited) as error:
        check(wire)

    assert error.value.retry_after_s == 60


@pytest.mark.parametrize("bad", ["", "abc", "1/../2", "7 ", "7\n", "1" * 21, "\uff11"])
def test_an_id_that_is_none_is_our_own_mistake(wire, bad):
    with pytest.raises(Misconfigured, match=r"account\.id.*correct"):
        check(wire, account=replace(ACCOUNT, id=bad))
    with pytest.raises(Misconfigured, match=r"settings\.accountId"):
        check(wire, account=replace(ACCOUNT, settings={"accountId": f"{bad}/"}))

    assert wire.sent == []


def test_ringcentrals_account_is_a_setting(wire):
    pages(wire, "presence", replace(ACCOUNT, settings={"accountId": OWNER}))

    assert wire.sent[-1].url == (
        f"https://api.sim/restapi/v1.0/account/{OWNER}/extension/{EXTENSION}/presence"
    )


# Check


def test_the_first_check_lists_one_message_of_all_times(simulator, wire):
    simulator.receive_sms(EXTENSION)
    seen = check(wire)

    assert wire.sent[1].query == {
        "syncType": "FSync",
        "dateFrom": "2000-01-01T00:00:00.000Z",
        "recordCount": "1",
    }
    assert wire.sent[2].query == {"detailedTelephonyState": "true"}
    assert set(RingCentral().marks(ACCOUNT, seen.raw)) == set(STREAMS)
    assert moved(Seen(), seen) == ["message-store", "presence"]


def test_an_idle_check_is_two_requests_and_the_same_seen(simulator, wire, clock):
    simulator.receive_sms(EXTENSION)
    account = replace(ACCOUNT, token=Token())
    seen = driver.run(RingCentral().check(account, Seen()), wire)
    for _ in range(3):
        del wire.sent[:]
        clock.now_ms += 60_000
        assert driver.run(RingCentral().check(account, seen), wire) is seen

    assert names(wire) == ["message-sync", "presence"]


def test_what_is_kept_holds_no_secret(simulator, wire):
    simulator.receive_sms(EXTENSION, "Hello")
    simulator.ring(EXTENSION)
    raw = check(wire).raw

    for secret in (JWT, SECRET, "access-", "Hello", "+14158905908"):
        assert secret not in raw


def test_a_message_moves_its_stream_only(simulator, wire, clock):
    seen = check(wire)
    clock.now_ms += 60_000
    simulator.leave_voicemail(EXTENSION)
    later = check(wire, seen)

    assert moved(seen, later) == ["message-store"]
    assert check(wire, later) is later


@pytest.mark.parametrize("what", ["mark_read", "delete", "purge"])
def test_what_happens_to_an_old_message_moves_its_stream(simulator, wire, clock, what):
    message = simulator.receive_sms(EXTENSION, at_ms=NOW_MS - 9 * DAY_MS)
    simulator.receive_sms(EXTENSION)
    seen = check(wire)
    clock.now_ms += 60_000
    assert check(wire, seen) is seen
    getattr(simulator, what)(message)

    later = check(wire, seen)

    assert moved(seen, later) == ["message-store"]
    assert check(wire, later) is later


def test_the_overlap_of_the_server_is_no_change(simulator, wire, clock):
    """It repeats 5 s: two messages a second apart, and polls in between."""
    simulator.configure(auth_per_minute=100)
    seen = check(wire)
    clock.now_ms += 60_000
    simulator.receive_sms(EXTENSION, "one")
    first = check(wire, seen)
    clock.now_ms += 1000
    assert check(wire, first) is first
    simulator.receive_sms(EXTENSION, "two")
    second = check(wire, first)

    assert moved(first, second) == ["message-store"]
    for _ in range(9):
        clock.now_ms += 1000
        assert check(wire, second) is second


def test_a_second_change_in_the_same_millisecond_is_a_change(simulator, wire, clock):
    seen = check(wire)
    clock.now_ms += 60_000
    message = simulator.receive_sms(EXTENSION)
    first = check(wire, seen)
    simulator.mark_read(message)

    assert moved(first, check(wire, first)) == ["message-store"]


@pytest.mark.parametrize("code", ["MSG-333", "CMN-101"])
def test_a_lost_sync_token_cries_no_wolf(simulator, wire, clock, messages, code):
    """The mark moves once, as what happened meanwhile may not show; nothing is told again."""
    simulator.configure(auth_per_minute=100)
    for _ in range(3):
        simulator.receive_sms(EXTENSION)
    clock.now_ms += 60_000
    seen = check(wire)
    messages.drain()
    simulator.receive_sms(EXTENSION)
    seen = check(wire, seen)
    assert kinds(messages.drain()) == ["created"]
    for _ in range(2):
        clock.now_ms += 60_000
        simulator.expire_syncs(code)
        later = check(wire, seen)

        assert moved(seen, later) == ["message-store"]
        assert messages.drain() == []
        for _ in range(2):
            clock.now_ms += 1000
            assert check(wire, later) is later
        seen = later


def test_a_change_a_moment_before_a_sync_token_is_lost_moves_the_mark_once(simulator, wire, clock):
    """The overlap of the new token repeats it."""
    for _ in range(3):
        simulator.receive_sms(EXTENSION)
    seen = check(wire)
    clock.now_ms += 60_000
    simulator.receive_sms(EXTENSION)
    simulator.expire_syncs()
    later = check(wire, seen)

    assert moved(seen, later) == ["message-store"]
    clock.now_ms += 1000
    assert check(wire, later) is later


def test_what_changed_far_down_behind_a_lost_sync_token_is_found(simulator, wire, clock):
    old = crowd(simulator, RECORDS + 50)[-1]
    seen = check(wire)
    clock.now_ms += 60_000
    simulator.mark_read(old)
    simulator.expire_syncs()

    assert moved(seen, check(wire, seen)) == ["message-store"]


@pytest.mark.parametrize("what", ["delete", "purge"])
def test_what_was_deleted_behind_a_lost_sync_token_is_found(simulator, wire, clock, what):
    message = simulator.receive_sms(EXTENSION)
    seen = check(wire)
    clock.now_ms += 60_000
    getattr(simulator, what)(message)
    simulator.expire_syncs()

    assert moved(seen, check(wire, seen)) == ["message-store"]


@pytest.mark.parametrize("change", ["receive_sms", "mark_read"])
def test_what_changed_behind_a_lost_sync_token_is_found(simulator, wire, clock, change):
    message = simulator.receive_sms(EXTENSION)
    for _ in range(3):
        simulator.receive_sms(EXTENSION)
    seen = check(wire)
    clock.now_ms += 60_000
    getattr(simulator, change)(EXTENSION if change == "receive_sms" else message)
    simulator.expire_syncs()

    assert moved(seen, check(wire, seen)) == ["message-store"]


def test_a_message_from_the_future_hides_none_that_follows(simulator, wire, clock):
    simulator.receive_sms(EXTENSION, at_ms=NOW_MS + 900 * DAY_MS)
    seen = check(wire)
    clock.now_ms += 60_000
    simulator.receive_sms(EXTENSION)
    simulator.expire_syncs()

    assert moved(seen, check(wire, seen)) == ["message-store"]


def test_a_stored_answer_that_cannot_be_read_is_as_good_as_none(wire):
    for raw in ("abc", "[]", "{}", '{"presence": 1}'):
        later = check(wire, Seen(raw=raw))
        assert moved(Seen(raw=raw), later) == ["message-store", "presence"]
        with pytest.raises(Malformed):
            RingCentral().marks(ACCOUNT, raw)
        wire.simulator.configure(auth_per_minute=100)


def test_every_state_of_a_call_moves_presence_only(simulator, wire, clock):
    seen, calls = check(wire), []
    steps = [
        lambda: calls.append(simulator.ring(EXTENSION)),
        lambda: simulator.answer(calls[0]),
        lambda: simulator.hold(calls[0]),
        lambda: simulator.park(calls[0]),
        lambda: simulator.hang_up(calls[0], "intermediate"),
        lambda: simulator.answer(calls[0]),
        lambda: simulator.hang_up(calls[0]),
        lambda: simulator.set_presence(EXTENSION, dndStatus="TakeAllCalls"),
        lambda: simulator.set_presence(EXTENSION, meetingStatus="Connected"),
    ]
    simulator.configure(auth_per_minute=100)
    for step in steps:
        step()
        later = check(wire, seen)
        assert moved(seen, later) == ["presence"]
        assert check(wire, later) is later
        seen = later


def test_what_follows_from_calls_moves_nothing(simulator, wire):
    seen = check(wire)
    simulator.set_presence(EXTENSION, presenceStatus="Busy", cxTelephonyStatus="Ringing")

    assert check(wire, seen) is seen


def test_what_is_kept_stays_small(simulator, wire, clock):
    seen = check(wire)
    clock.now_ms += 60_000
    crowd(simulator, 300, step_ms=1)
    raw = check(wire, seen).raw

    assert len(raw) < 600


def test_a_list_that_proves_nothing_differs_from_one_that_proves_an_end():
    """Else the proof would move no mark, and the call never be closed."""

    def mark(telephony):
        answer = sync_of() | {"presenceStatus": "Available", "telephonyStatus": telephony}
        wire = Wire(Canned(json.dumps(answer).encode()), HOSTS.values())
        return RingCentral().marks(ACCOUNT, check(wire, token="t").raw)["presence"]

    assert mark("NoCall") != mark("CallConnected")


@pytest.mark.parametrize("code", ["CMN-401", "CMN-404", "CMN-408"])
def test_a_stream_without_permission_leaves_the_other_alone(simulator, wire, clock, code):
    simulator.configure(auth_per_minute=100)
    simulator.forbid(EXTENSION, "presence", code)
    seen = check(wire)
    clock.now_ms += 60_000
    simulator.receive_sms(EXTENSION)
    later = check(wire, seen)

    assert list(RingCentral().marks(ACCOUNT, seen.raw)) == ["message-store"]
    assert moved(seen, later) == ["message-store"]
    assert check(wire, later) is later
    simulator.forbid(EXTENSION, "presence", "")
    assert moved(later, check(wire, later)) == ["presence"]
    simulator.forbid(EXTENSION, "message-sync", code)
    last = check(wire, later)
    assert list(RingCentral().marks(ACCOUNT, last.raw)) == ["presence"]
    with pytest.raises(Forbidden):
        pages(wire)


@pytest.mark.parametrize(
    "body",
    [
        {"errorCode": "CMN-408"},
        {"errors": [{"errorCode": "CMN-408", "message": "no"}]},
        {"errorCode": None, "errors": [{"errorCode": "CMN-408"}]},
        {"errorCode": "CMN-408", "errors": None},
    ],
)
def test_a_missing_permission_may_be_said_in_the_list_of_errors(simulator, wire, body):
    good = simulator.handle

    def handle(method, path, *asked):
        if path.endswith("/presence"):
            return 403, {}, json.dumps(body).encode()
        return good(method, path, *asked)

    simulator.handle = handle

    assert list(RingCentral().marks(ACCOUNT, check(wire).raw)) == ["message-store"]


def test_no_permission_at_all_is_final(simulator, wire):
    simulator.forbid(EXTENSION, "presence")
    simulator.forbid(EXTENSION, "message-sync")

    with pytest.raises(Rejected, match="permissions"):
        check(wire)


def test_another_403_is_final(simulator, wire):
    simulator.forbid(EXTENSION, "presence", "OAU-999")

    with pytest.raises(Rejected):
        check(wire)


@pytest.mark.parametrize(
    "body",
    [
        *(b"<html></html>", b"", b"{}", b"[]", b'{"errors": []}', b'{"errors": {"errorCode": 1}}'),
        *(b'{"errors": [7, {}]}', b'{"errors": [{"errorCode": ["CMN-408"]}]}'),
        b'{"errorCode": "OAU-999", "errors": [{"errorCode": "CMN-408"}]}',
    ],
)
def test_a_403_that_does_not_say_why_is_final(body):
    wire = Wire(Canned(body, status=403), HOSTS.values())

    with pytest.raises(Rejected):
        check(wire, token="token")


@pytest.mark.parametrize("path", ["message-sync", "presence"])
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("429", RateLimited),
        ("503", Unavailable),
        ("500", Unavailable),
        ("207", Malformed),
        ("304", Malformed),
        ("404", Malformed),
        ("html", Malformed),
        ("empty", Malformed),
        ("truncated", Malformed),
    ],
)
def test_a_failure_is_an_error_with_a_name(simulator, wire, path, kind, error):
    seen = check(wire)
    stream = "presence" if path == "presence" else "message-store"
    simulator.fail_next(path, kind, times=2)

    with pytest.raises(error):
        check(wire, seen)
    with pytest.raises(error):
        pages(wire, stream, cursor="" if path == "presence" else json.loads(seen.raw)["sync"])


@pytest.mark.parametrize("stream", STREAMS)
def test_an_answer_of_parts_is_none_whatever_it_holds(stream):
    """Each part of a 207 has a status of its own: some may have failed."""
    body = json.dumps(sync_of(record()) | json.loads(RINGING)).encode()
    assert pages(Wire(Canned(body), HOSTS.values()), stream, token="token")[0].rows
    wire = Wire(Canned(body, status=207), HOSTS.values())

    for start in ({}, {"cursor": "t0"}):
        with pytest.raises(Malformed, match="207"):
            pages(wire, stream, token="token", **start)


@pytest.mark.parametrize("name", ["message-sync", "presence"])
def test_a_check_takes_no_answer_of_parts(simulator, wire, name):
    seen = check(wire)
    good = simulator.handle

    def parts(method, path, *asked):
        status, headers, body = good(method, path, *asked)
        return (207 if path.endswith(name) else status), headers, body

    simulator.handle = parts
    with pytest.raises(Malformed, match="207"):
        check(wire, seen)


def test_the_penalty_starts_again_when_it_is_disturbed(simulator, wire, clock):
    simulator.configure(light_per_minute=2, auth_per_minute=100)
    check(wire)
    with pytest.raises(RateLimited) as error:
        check(wire)
    assert error.value.retry_after_s == 60
    clock.now_ms += 59_000
    with pytest.raises(RateLimited):
        check(wire)
    clock.now_ms += 59_000
    with pytest.raises(RateLimited):
        check(wire)
    clock.now_ms += 60_000

    assert check(wire).raw


def test_who_is_not_told_how_long_to_wait_waits_for_half_a_minute(simulator, wire):
    """And asks nothing more meanwhile: every request would start the penalty again."""
    simulator.configure(light_per_minute=2, says_retry_after=False, auth_per_minute=100)
    check(wire)
    del wire.sent[:]

    with pytest.raises(RateLimited) as error:
        check(wire)

    assert error.value.retry_after_s >= 30
    assert names(wire) == ["token", "message-sync"]


@pytest.mark.parametrize("prefix", ["X-Rate-Limit", "X-RateLimit"])
def test_the_last_request_of_a_budget_is_an_answer(simulator, wire, prefix):
    simulator.configure(light_per_minute=2, rate_prefix=prefix)

    assert check(wire).raw


# Messages: lists


def test_a_first_delta_lists_everything_and_keeps_the_token(simulator, wire):
    old = simulator.receive_sms(EXTENSION, at_ms=NOW_MS - 89 * DAY_MS)
    new = simulator.leave_voicemail(EXTENSION)
    (page,) = pages(wire)

    assert [row.id for row in page.rows] == [new, old]
    assert page.whole
    assert page.cursor.startswith("sync")
    assert page.date_ms == NOW_MS
    assert wire.sent[-1].query["dateFrom"] == "2000-01-01T00:00:00.000Z"
    assert wire.sent[-1].query["recordCount"] == "250"


def test_a_delta_with_a_token_lists_what_changed(simulator, wire, clock):
    simulator.receive_sms(EXTENSION)
    old = simulator.receive_sms(EXTENSION, at_ms=NOW_MS - 9 * DAY_MS)
    clock.now_ms += 60_000
    (first,) = pages(wire)
    clock.now_ms += 60_000
    simulator.mark_read(old)
    (page,) = pages(wire, cursor=first.cursor)

    assert wire.sent[-1].query == {"syncType": "ISync", "syncToken": first.cursor}
    assert [(row.id, row.body["readStatus"]) for row in page.rows] == [(old, "Read")]
    assert page.cursor not in ("", first.cursor)
    assert not page.resume
    assert not page.whole


def crowd(simulator, number=600, step_ms=700):
    return [
        simulator.receive_sms(EXTENSION, at_ms=NOW_MS - 1000 - step_ms * index)
        for index in range(number)
    ]


def test_a_long_list_is_read_to_its_end(simulator, wire):
    sent = crowd(simulator)
    found = pages(wire)

    assert {row.id for page in found for row in page.rows} == set(sent)
    assert all(page.whole for page in found)
    assert sum(page.gaps for page in found) == 0
    assert [bool(page.resume) for page in found] == [True, True, False]


def test_the_token_of_a_long_list_is_that_of_its_first_page(simulator, wire, clock):
    """That of a later page ends at its dateTo: nothing new would ever show."""
    crowd(simulator)
    clock.now_ms += 60_000
    last = pages(wire)[-1]
    clock.now_ms += 60_000
    new = simulator.receive_sms(EXTENSION)

    assert [row.id for row in rows(wire, cursor=last.cursor)] == [new]


def test_a_long_list_can_be_resumed(simulator, wire, clock):
    sent = crowd(simulator)
    first = pages(wire)[0]
    clock.now_ms += 60_000
    new = simulator.receive_sms(EXTENSION)
    rest = pages(wire, resume=first.resume)

    found = {row.id for page in (first, *rest) for row in page.rows}
    assert found == set(sent)
    assert {row.id for row in rows(wire, cursor=rest[-1].cursor)} >= {new}


def test_what_arrives_between_two_pages_is_not_lost(simulator, wire, messages, clock):
    crowd(simulator)
    simulator.on_page = lambda records: simulator.receive_sms(EXTENSION, "between")
    messages.drain()
    simulator.on_page = None

    assert kinds(messages.drain()) == ["created"] * 3


def test_a_second_with_more_messages_than_fit_is_a_gap(simulator, wire):
    many = [simulator.receive_sms(EXTENSION, at_ms=NOW_MS - 500) for _ in range(RECORDS + 50)]
    old = simulator.receive_sms(EXTENSION, at_ms=NOW_MS - DAY_MS)
    found = pages(wire)

    ids = {row.id for page in found for row in page.rows}
    assert sum(page.gaps for page in found) == 1
    assert not all(page.whole for page in found)
    assert old in ids
    assert len(ids & set(many)) == RECORDS


def test_a_server_without_dates_is_found_out():
    page = sync_of(record(creationTime="2016-10-26T16:46:22.553Z"), olderRecordsExist=True)
    later = sync_of(record(creationTime="2016-10-26T16:46:29.000Z"), olderRecordsExist=True)

    with pytest.raises(Malformed, match="dateTo"):
        answered("message-store", page, later)


def test_a_server_that_always_has_older_ones_ends_at_some_time():
    page = sync_of(record(), olderRecordsExist=True)
    end = sync_of()

    found = answered("message-store", page, page, page, end)

    assert len(found) == 4
    assert sum(one.gaps for one in found) == 0


@pytest.mark.parametrize(
    ("older", "records", "whole"),
    [
        pytest.param(False, 1, True, id="said"),
        pytest.param(None, 1, False, id="not said"),
        pytest.param("false", 1, False, id="said otherwise"),
        pytest.param(None, 0, False, id="empty and not said"),
        pytest.param(True, 0, False, id="empty and more"),
    ],
)
def test_a_list_is_whole_only_if_that_is_said(older, records, whole):
    page = synced(*[record()] * records, olderRecordsExist=older)

    assert page.whole is whole
    assert not page.resume
    assert page.gaps == (older is True)


def test_a_delta_since_some_time_goes_back_a_month_and_its_token_to_the_beginning(
    simulator, wire, clock
):
    sent = crowd(simulator, 1500, step_ms=DAY_MS // 20)
    clock.now_ms += 60_000
    found = pages(wire, since_ms=NOW_MS)

    ids = {row.id for page in found for row in page.rows}
    assert set(sent[: RESYNC_MS * 20 // DAY_MS]) <= ids
    assert sent[-1] not in ids
    assert not any(page.whole for page in found)
    clock.now_ms += 60_000
    simulator.mark_read(sent[-1])
    assert [row.id for row in rows(wire, cursor=found[-1].cursor)] == [sent[-1]]


@pytest.mark.parametrize("code", ["MSG-333", "CMN-101"])
def test_a_lost_token_restarts(simulator, wire, code):
    (page,) = pages(wire)
    simulator.expire_syncs(code)

    with pytest.raises(Restart):
        pages(wire, cursor=page.cursor)


@pytest.mark.parametrize(
    "body",
    [
        {"errorCode": "MSG-333"},
        {"errorCode": "CLG-101"},
        {"errorCode": "CMN-101", "parameterName": "syncToken"},
        {"errors": [{"errorCode": "CMN-101", "message": "Parameter [syncToken] is invalid"}]},
        {"errorCode": "CMN-211"},
        [],
    ],
)
def test_nothing_but_the_token_can_be_wrong_with_an_increment(body):
    wire = Wire(Canned(json.dumps(body).encode(), status=400), HOSTS.values())

    with pytest.raises(Restart):
        pages(wire, token="token", cursor="sync1")


def test_a_list_that_is_refused_as_well_is_an_error(simulator, wire, messages):
    seen = check(wire)
    messages.drain()
    simulator.fail_next("message-sync", "400", times=4)

    with pytest.raises(Malformed):
        check(wire, seen)
    with pytest.raises(Malformed):
        messages.drain()


def test_a_lost_token_tells_nothing_twice_and_loses_nothing(simulator, clock, messages):
    old, other = [simulator.receive_sms(EXTENSION, at_ms=NOW_MS - 9 * DAY_MS) for _ in "ab"]
    simulator.leave_voicemail(EXTENSION)
    messages.drain()
    clock.now_ms += 60_000
    simulator.receive_sms(EXTENSION)
    assert kinds(messages.drain()) == ["created"]
    clock.now_ms += 60_000
    simulator.expire_syncs()
    assert messages.drain() == []
    clock.now_ms += 60_000
    simulator.mark_read(old)
    simulator.expire_syncs()

    assert kinds(messages.drain()) == ["updated"]
    simulator.mark_read(other)
    assert kinds(messages.drain()) == ["updated"]


def test_a_change_of_a_message_weeks_old_is_told_after_a_lost_token(simulator, clock, messages):
    """It is listed under its creation then, far behind the newest."""
    old = simulator.receive_sms(EXTENSION, at_ms=NOW_MS - 29 * DAY_MS)
    crowd(simulator, RECORDS + 50)
    for _ in range(3):
        messages.drain()
        clock.now_ms += 60_000
    simulator.mark_read(old)
    simulator.expire_syncs()

    (event,) = messages.drain()
    assert (event["body"]["change"], event["body"]["record"]["id"]) == ("updated", old)


def test_a_place_that_cannot_be_read_restarts(wire):
    for resume in ("abc", "[1]", "{}", '["t", "x"]', "[]x"):
        with pytest.raises(Restart):
            pages(wire, resume=resume)
    with pytest.raises(Restart):
        pages(wire, "presence", resume="2")


def test_a_full_increment_is_asked_for_again(simulator, wire, clock):
    """There are no pages, but a full answer may not be all."""
    crowded = sync_of(*[record(id_, subject="a") for id_ in range(RECORDS)], syncToken="t1")
    rest = sync_of(record(7, subject="b"), syncToken="t2")

    first, last = answered("message-store", crowded, rest, cursor="t0")

    assert (first.cursor, last.cursor) == ("t1", "t2")
    assert first.resume
    assert not last.resume


def test_a_full_increment_that_repeats_itself_is_the_end():
    crowded = sync_of(*[record(id_) for id_ in range(RECORDS)], syncToken="t1")

    assert len(answered("message-store", crowded, cursor="t0")) == 2


def test_a_full_increment_can_be_resumed():
    crowded = sync_of(*[record(id_) for id_ in range(RECORDS)], syncToken="t1")
    first = answered("message-store", crowded, sync_of(), cursor="t0")[0]
    wire = Wire(Canned(json.dumps(sync_of(syncToken="t2")).encode()), HOSTS.values())
    (page,) = pages(wire, token="token", cursor="t0", resume=first.resume)

    assert wire.sent[0].query == {"syncType": "ISync", "syncToken": "t1"}
    assert page.cursor == "t2"


def test_a_message_deleted_while_a_full_increment_is_read_is_deleted():
    crowded = sync_of(*[record(id_) for id_ in range(RECORDS)], syncToken="t1")
    stub = sync_of({"id": 7, "availability": "Deleted"}, syncToken="t2")
    found = answered("message-store", crowded, stub, cursor="t0")
    listed = [row for page in found for row in page.rows]

    decision = decide.decide(listed, {}, STREAMS["message-store"], decide.LIVE, NOW_MS)

    assert decision.records["7"].gone


def test_a_deletion_behind_a_full_increment_is_of_the_kind_that_was_listed():
    crowded = sync_of(*[record(id_) for id_ in range(RECORDS)], syncToken="t1")
    stub = sync_of({"id": 7, "availability": "Deleted"}, syncToken="t2")
    first, last = answered("message-store", crowded, stub, cursor="t0")
    listed = next(row for row in first.rows if row.id == "7")
    (deleted,) = last.rows

    assert listed.type
    assert listed.direction
    assert (deleted.type, deleted.direction) == (listed.type, listed.direction)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param({"syncInfo": {"syncToken": "t"}}, id="no records"),
        pytest.param({"records": None, "syncInfo": {"syncToken": "t"}}, id="records null"),
        pytest.param({"records": []}, id="no syncInfo"),
        pytest.param({"records": [], "syncInfo": []}, id="syncInfo a list"),
        pytest.param({"records": [], "syncInfo": {}}, id="no token"),
        pytest.param({"records": [], "syncInfo": {"syncToken": 5}}, id="token a number"),
        pytest.param({"errorCode": "CMN-301"}, id="an error with status 200"),
    ],
)
@pytest.mark.parametrize("cursor", ["", "t0"])
def test_an_answer_that_is_none_is_not_an_empty_one(answer, cursor):
    with pytest.raises(Malformed):
        answered("message-store", answer, cursor=cursor)


def test_paging_is_not_needed(simulator, wire):
    assert pages(wire)[0].rows == ()


def test_nothing_is_ever_written(simulator, wire, messages, presence, clock):
    message = simulator.leave_voicemail(EXTENSION)
    check(wire)
    messages.drain()
    presence.drain()

    assert {request.method for request in wire.sent if "oauth" not in request.url} == {"GET"}
    assert [row.body["readStatus"] for row in rows(wire) if row.id == message] == ["Unread"]


# Messages: rows


def test_a_message_in_our_normal_form(simulator, wire, clock):
    clock.now_ms = 1_477_500_382_553
    message = simulator.receive_sms(EXTENSION, "Hi", priority="Normal")
    (row,) = rows(wire)

    assert (row.id, row.type, row.direction, row.extension) == (
        message,
        "SMS",
        "Inbound",
        EXTENSION,
    )
    assert row.updated_at == "2016-10-26T16:46:22.553Z"
    assert row.at_ms == 1_477_500_382_553
    assert not row.deleted
    assert row.body == {
        "id": message,
        "uri": f"https://platform.sim/message-store/{message}",
        "extensionId": EXTENSION,
        "type": "SMS",
        "direction": "Inbound",
        "availability": "Alive",
        "readStatus": "Unread",
        "messageStatus": "Received",
        "creationTime": "2016-10-26T16:46:22.553Z",
        "lastModifiedTime": "2016-10-26T16:46:22.553Z",
        "from": {"phoneNumber": "+14158905908"},
        "to": [{"phoneNumber": "+16505819987"}],
        "subject": "Hi",
        "conversationId": "8031152018338945839",
        "conversation": {"id": "8031152018338945839"},
        "priority": "Normal",
    }


def test_every_kind_of_message_has_a_type_and_a_direction(simulator, wire):
    simulator.leave_voicemail(EXTENSION)
    simulator.receive_sms(EXTENSION)
    simulator.send_sms(EXTENSION)
    simulator.receive_fax(EXTENSION)
    simulator.receive_sms(EXTENSION, type="Pager")

    assert sorted((row.type, row.direction) for row in rows(wire)) == [
        ("Fax", "Inbound"),
        ("Pager", "Inbound"),
        ("SMS", "Inbound"),
        ("SMS", "Outbound"),
        ("VoiceMail", "Inbound"),
    ]


@pytest.mark.parametrize("spelling", ["VoiceMail", "Voicemail", "voicemail", "VOICEMAIL"])
def test_voicemail_has_one_spelling(simulator, wire, spelling):
    simulator.configure(voicemail=spelling)
    simulator.leave_voicemail(EXTENSION)
    (row,) = rows(wire)

    assert (row.type, row.body["type"]) == ("VoiceMail", "VoiceMail")


@pytest.mark.parametrize(("value", "type_"), [("Text", ""), ("sms", "SMS"), (5, ""), (None, "")])
def test_an_unknown_type_passes_through(value, type_):
    (row,) = synced(record(type=value, direction="Sideways")).rows

    assert (row.type, row.direction) == (type_, "")
    assert row.body["type"] == (type_ or value)
    assert row.body["direction"] == "Sideways"


@pytest.mark.parametrize(
    ("value", "at_ms"),
    [
        ("2016-10-26T16:46:22.553Z", 553),
        ("2016-10-26T16:46:22.553+0000", 553),
        ("2016-10-26T16:46:22.553+00:00", 553),
        ("2016-10-26T18:46:22.553+0200", 553),
        ("2016-10-26T16:46:22Z", 0),
    ],
)
def test_a_time_is_kept_verbatim_and_normalised(value, at_ms):
    (row,) = synced(record(lastModifiedTime=value, creationTime=value)).rows

    assert row.updated_at == value
    assert row.at_ms == 1_477_500_382_000 + at_ms
    assert row.body["lastModifiedTime"] == f"2016-10-26T16:46:22.{at_ms:03}Z"
    assert row.body["creationTime"] == row.body["lastModifiedTime"]


def test_the_other_spelling_of_the_zone_reaches_the_same_rows(simulator, wire):
    simulator.leave_voicemail(EXTENSION)
    (row,) = rows(wire)
    simulator.configure(zone="+0000")
    (other,) = rows(wire)

    assert other.updated_at.endswith("+0000")
    assert (other.at_ms, other.body) == (row.at_ms, row.body)


def test_large_ids_are_exact_text():
    large = 2**63 - 1
    (row,) = synced(
        record(
            large,
            conversationId=8031152018338945839,
            conversation={"id": large, "uri": "u"},
            attachments=[{"id": large, "type": "Text"}, None],
            extensionId=int(EXTENSION),
        )
    ).rows

    assert row.id == row.body["id"] == str(large)
    assert row.body["conversationId"] == "8031152018338945839"
    assert row.body["conversation"] == {"id": str(large), "uri": "u"}
    assert row.body["attachments"] == [{"id": str(large), "type": "Text"}, None]
    assert row.body["extensionId"] == EXTENSION


def test_numbers_are_passed_on_as_they_are():
    ends = {"from": {"extensionNumber": "101", "name": "Ann"}, "to": [{"phoneNumber": "(415) 89"}]}
    (row,) = synced(record(**ends)).rows

    assert {name: row.body[name] for name in ends} == ends


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": None}, "id"),
        ({"id": True}, "id"),
        ({"id": 1.5}, "id"),
        ({"lastModifiedTime": "yesterday"}, "lastModifiedTime"),
        ({"lastModifiedTime": "2016-10-26T16:46:22.553"}, "lastModifiedTime"),
        ({"lastModifiedTime": None, "creationTime": None}, "lastModifiedTime"),
        ({"creationTime": "2016-02-30T00:00:00Z"}, "creationTime"),
        ({"conversationId": 1.5}, "conversationId"),
        ({"extensionId": "999"}, "extensionId"),
    ],
)
def test_a_bad_row_does_not_stop_its_neighbours(fields, reason):
    page = synced(record() | fields, record(8))

    assert [row.id for row in page.rows] == ["8"]
    assert page.bad[0].reason.startswith(reason)


@pytest.mark.parametrize("availability", ["Deleted", "Purged", "deleted"])
def test_what_is_left_of_a_deleted_message_is_a_tombstone(availability):
    (page,) = answered(
        "message-store", sync_of({"id": 7, "availability": availability}), cursor="t0"
    )

    (row,) = page.rows
    assert page.bad == ()
    assert (row.id, row.deleted, row.at_ms, row.updated_at) == ("7", True, 0, "")


@pytest.mark.parametrize("availability", ["Deleted", "Purged"])
def test_a_whole_message_may_be_deleted_too(availability):
    (row,) = synced(record(availability=availability)).rows

    assert row.deleted
    assert row.at_ms


@pytest.mark.parametrize("availability", [None, "Alive", "Archived"])
def test_anything_else_is_not_deleted(availability):
    (row,) = synced(record(availability=availability)).rows

    assert not row.deleted


def test_the_life_of_a_message(simulator, clock, messages):
    """Deleted twice over, restored in between: each is told once, overlap or not."""
    messages.drain()
    told = []

    def step(action, *args, **fields):
        clock.now_ms += 2000
        made = action(*args, **fields)
        told.extend(kinds(messages.drain()))
        assert messages.drain() == []
        return made

    message = step(simulator.leave_voicemail, EXTENSION)
    step(simulator.change_message, message, vmTranscriptionStatus="Completed")
    step(simulator.mark_read, message)
    step(simulator.delete, message)
    step(simulator.restore, message)
    step(simulator.delete, message)
    step(simulator.purge, message)

    assert told == ["created", "updated", "updated", "deleted", "created", "deleted"]
    made = [change.kind for change in simulator.journal]
    assert told == made


def test_what_happens_within_one_millisecond_is_told_step_by_step(simulator, messages):
    """The time says nothing then; state and availability do."""
    messages.drain()
    told, message = [], simulator.receive_sms(EXTENSION)
    told += kinds(messages.drain())
    for step in (simulator.mark_read, simulator.delete, simulator.restore):
        step(message)
        told += kinds(messages.drain())
        assert messages.drain() == []

    assert told == ["created", "updated", "deleted", "created"]


def test_a_whole_message_that_is_deleted_under_its_old_time_is_told():
    dead = record(availability="Deleted")

    (event,) = told_of(ACCOUNT, OWNER, sync_of(record()), sync_of(dead))

    assert event["body"]["change"] == "deleted"


@pytest.mark.parametrize("name", ["id", "conversationId", "extensionId"])
def test_an_id_that_becomes_a_text_is_no_change(name):
    number = record() | {name: int(EXTENSION)}
    text = number | {name: EXTENSION}

    assert told_of(ACCOUNT, OWNER, sync_of(number), sync_of(text)) == []


@pytest.mark.parametrize(
    "ends",
    [
        lambda id_: {"from": {"extensionId": id_}},
        lambda id_: {"to": [{"extensionId": id_, "recipientId": id_}, {"id": id_}]},
        lambda id_: {"owner": {"extensionId": id_}},
    ],
    ids=["from", "to", "owner"],
)
def test_an_id_of_an_end_that_becomes_a_text_is_no_change(ends):
    number, text = record(**ends(8031152018338945839)), record(**ends("8031152018338945839"))

    (row,) = synced(number).rows
    assert {name: row.body[name] for name in ends("")} == ends("8031152018338945839")
    assert told_of(ACCOUNT, OWNER, sync_of(number), sync_of(text)) == []


@pytest.mark.parametrize("value", [None, "", True, 1.5, {}, []])
@pytest.mark.parametrize("ends", [lambda end: end, lambda end: {"id": end}, lambda end: [7, end]])
def test_an_odd_end_leaves_the_message_readable(ends, value):
    page = synced(record(**{"from": ends(value), "to": ends(value)}))

    assert page.bad == ()
    assert page.rows[0].body["from"] == page.rows[0].body["to"] == ends(value)


@pytest.mark.parametrize("name", ["readStatus", "messageStatus", "priority", "brandNew"])
def test_a_value_that_nobody_knows_passes_through(name):
    (row,) = synced(record(**{name: "SomethingNew"})).rows

    assert row.body[name] == "SomethingNew"


def test_a_tombstone_carries_what_was_known(simulator, clock, messages):
    message = simulator.leave_voicemail(EXTENSION)
    messages.drain()
    clock.now_ms += 60_000
    simulator.delete(message)
    (event,) = messages.drain()

    assert event["event"].endswith("message-store?type=VoiceMail&direction=Inbound")
    assert event["body"]["changes"] == [{"type": "VoiceMail", "deletedCount": 1}]
    assert event["body"]["record"] == {"id": message, "availability": "Deleted"}


def test_what_was_deleted_before_we_looked_is_no_news(simulator, clock, messages):
    message = simulator.leave_voicemail(EXTENSION)
    simulator.delete(message)
    messages.drain()
    simulator.purge(message)

    assert messages.drain() == []


def test_a_message_that_is_gone_without_a_trace_is_found_by_listing_everything(
    simulator, clock, messages
):
    gone = simulator.receive_sms(EXTENSION)
    simulator.receive_sms(EXTENSION)
    messages.drain()
    clock.now_ms += DAY_MS
    simulator.forget(gone)

    assert messages.drain() == []
    assert messages.drain(full=True) == []
    clock.now_ms += DAY_MS
    (event,) = messages.drain(full=True)
    assert (event["body"]["change"], event["body"]["record"]["id"]) == ("deleted", gone)


# Presence: rows


def test_presence_is_a_row_for_the_user_and_one_a_call(simulator, wire):
    calls = [simulator.ring(EXTENSION), simulator.ring(EXTENSION, direction="Outbound")]
    (page,) = pages(wire, "presence")

    state, *found = page.rows
    assert state.id == "presence"
    assert {row.id: row.direction for row in found} == dict(
        zip(calls, ("Inbound", "Outbound"), strict=True)
    )
    assert page.whole
    assert {row.extension for row in page.rows} == {EXTENSION}
    assert all(len(row.body["activeCalls"]) == 1 for row in found)
    assert {row.body["extensionId"] for row in page.rows} == {int(EXTENSION)}


def test_the_life_of_a_call(simulator, clock, presence):
    presence.drain()
    events, call = [], simulator.ring(EXTENSION)
    for step in (simulator.answer, simulator.hold, simulator.answer, simulator.park):
        events += presence.drain()
        clock.now_ms += 10_000
        step(call)
    events += presence.drain()
    simulator.hang_up(call, "intermediate")
    events += presence.drain()
    simulator.answer(call)
    events += presence.drain()
    simulator.hang_up(call)
    events += presence.drain()
    clock.now_ms += 60_000

    assert presence.drain() == []
    assert [event["body"]["telephonyStatus"] for event in events] == [
        "Ringing",
        "CallConnected",
        "OnHold",
        "CallConnected",
        "ParkedCall",
        "NoCall",
        "CallConnected",
        "NoCall",
    ]
    assert kinds(events) == ["created", *["updated"] * 6, "deleted"]
    assert kinds(events) == [change.kind for change in simulator.journal]
    assert [event["body"]["sequence"] for event in events] == list(range(1, 9))
    assert len({event["uuid"] for event in events}) == 8


def test_a_call_is_not_told_again_for_what_happens_to_others(simulator, clock, presence):
    presence.drain()
    first = simulator.ring(EXTENSION)
    presence.drain()
    second = simulator.ring(EXTENSION)
    assert kinds(presence.drain()) == ["created"]
    simulator.answer(second)
    (event,) = presence.drain()
    assert event["body"]["presenceStatus"] == "Busy"
    assert event["body"]["activeCalls"][0]["telephonyStatus"] == "CallConnected"
    simulator.set_presence(EXTENSION, dndStatus="TakeAllCalls")
    (event,) = presence.drain()

    assert "activeCalls" not in event["body"]
    assert event["body"]["dndStatus"] == "TakeAllCalls"
    assert event["body"]["extensionId"] == int(EXTENSION)
    simulator.hang_up(first)
    assert kinds(presence.drain()) == ["deleted"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("userStatus", "Busy"),
        ("dndStatus", "DoNotAcceptAnyCalls"),
        ("allowSeeMyPresence", False),
        ("ringOnMonitoredCall", True),
        ("pickUpCallsOnHold", True),
        ("meetingStatus", "Connected"),
        ("message", "Back at noon"),
    ],
)
def test_every_part_of_the_users_state_is_told(simulator, presence, field, value):
    presence.drain()
    simulator.set_presence(EXTENSION, **{field: value})
    (event,) = presence.drain()

    assert event["body"]["state"][field] == value
    assert event["body"]["change"] == "updated"


def test_what_follows_from_calls_is_not_told_of_the_user(simulator, presence):
    presence.drain()
    simulator.set_presence(EXTENSION, presenceStatus="Busy", aggregatedTelephonyStatus="Ringing")

    assert presence.drain() == []


def test_a_field_of_the_answer_never_replaces_one_of_ours():
    fields = {"sequence": 1, "change": "x", "connection": "x", "revision": 9}
    (row,) = presence_of(**fields).rows

    assert not set(fields) & set(row.body)


def test_a_call_that_ended_between_two_polls_is_told(simulator, presence):
    presence.drain()
    simulator.hang_up(simulator.ring(EXTENSION))
    (event,) = presence.drain()

    assert event["body"]["change"] == "deleted"
    assert event["body"]["activeCalls"][0]["terminationType"] == "final"


def test_a_call_that_vanishes_is_closed_by_inference_at_the_second_sighting(
    simulator, clock, presence
):
    presence.drain()
    call = simulator.ring(EXTENSION, **CALL_FIELDS)
    simulator.answer(call)
    presence.drain()
    simulator.vanish(call)
    assert presence.drain() == []
    assert presence.unsettled
    clock.now_ms += 2000
    assert presence.drain() == []  # Both may come from one cache.
    clock.now_ms += 1000
    (event,) = presence.drain()

    assert event["body"]["change"] == "deleted"
    assert event["body"]["telephonyStatus"] == "NoCall"
    assert event["body"]["extensionId"] == int(EXTENSION)
    assert event["body"]["activeCalls"] == [
        {
            "id": "448115d0d81241fcaf4fc0d0b01c0ef9",
            "direction": "Inbound",
            "from": "+14158905908",
            "to": "+16505819987",
            "telephonyStatus": "NoCall",
            "sessionId": "14860368004",
            "terminationType": "final",
            "inferred": True,
        }
    ]
    assert presence.drain() == []


def test_a_call_that_is_missing_once_goes_on(simulator, clock, presence):
    presence.drain()
    call = simulator.ring(EXTENSION)
    presence.drain()
    simulator._call(call).lost = True
    assert presence.drain() == []
    simulator._call(call).lost = False
    clock.now_ms += 60_000
    assert presence.drain() == []
    simulator._call(call).lost = True
    assert presence.drain() == []


@pytest.mark.parametrize("kind", ["503", "html", "empty", "truncated", "429"])
def test_a_failed_poll_ends_no_call(simulator, clock, presence, kind):
    presence.drain()
    simulator.ring(EXTENSION)
    presence.drain()
    simulator.fail_next("presence", kind, times=2)
    for _ in range(2):
        clock.now_ms += 60_000
        with pytest.raises((Unavailable, Malformed, RateLimited)):
            presence.drain()

    assert presence.drain() == []
    assert not presence.unsettled


def test_no_call_without_a_type_is_tentative(simulator, clock, presence):
    simulator.configure(ended_s=3600)
    presence.drain()
    call = simulator.ring(EXTENSION)
    presence.drain()
    simulator.hang_up(call, None)
    assert presence.drain() == []
    assert presence.unsettled
    clock.now_ms += 3000
    (event,) = presence.drain()

    assert event["body"]["activeCalls"][0]["inferred"] is True
    assert presence.drain() == []


def test_no_call_without_a_type_can_be_taken_back(simulator, clock, presence):
    simulator.configure(ended_s=3600)
    presence.drain()
    call = simulator.ring(EXTENSION)
    presence.drain()
    simulator.hang_up(call, None)
    presence.drain()
    simulator.answer(call)
    clock.now_ms += 60_000

    assert kinds(presence.drain()) == ["updated"]
    assert not presence.unsettled


def test_seven_listed_calls_prove_nothing_of_the_others(simulator, clock, presence):
    presence.drain()
    calls = [simulator.ring(EXTENSION) for _ in range(3)]
    presence.drain()
    calls += [simulator.ring(EXTENSION) for _ in range(6)]
    assert kinds(presence.drain()) == ["created"] * 6
    for _ in range(3):
        clock.now_ms += 60_000
        assert presence.drain() == []
    for call in calls[2:]:
        simulator.vanish(call)
    simulator.vanish(calls[0])
    clock.now_ms += 60_000
    presence.drain()
    clock.now_ms += 60_000

    assert kinds(presence.drain()) == ["deleted"] * 8


@pytest.mark.parametrize(("number", "whole"), [(1, True), (6, True), (7, False), (8, False)])
def test_a_list_of_seven_is_not_whole(number, whole):
    calls = [call(str(one)) for one in range(number)]

    assert presence_of(*calls, telephonyStatus="CallConnected").whole is whole


def test_calls_that_are_left_out_count_as_listed():
    calls = [call(str(one)) for one in range(6)]

    assert not presence_of(*calls, call("7", "NoCall")).whole


@pytest.mark.parametrize(
    ("fields", "whole"),
    [
        pytest.param({"activeCalls": ..., "telephonyStatus": "NoCall"}, True, id="no call"),
        pytest.param({"activeCalls": None, "telephonyStatus": "NoCall"}, True, id="null, no call"),
        pytest.param({"activeCalls": [], "telephonyStatus": "NoCall"}, True, id="empty, no call"),
        pytest.param({"activeCalls": ..., "telephonyStatus": "Ringing"}, False, id="ringing"),
        pytest.param({"activeCalls": [], "telephonyStatus": "OnHold"}, False, id="contradiction"),
        pytest.param({"activeCalls": ..., "telephonyStatus": ...}, False, id="neither"),
    ],
)
def test_an_absent_list_is_an_empty_one_only_if_there_is_no_call(fields, whole):
    page = presence_of(**fields)

    assert page.whole is whole
    assert [row.id for row in page.rows] == ["presence"]


@pytest.mark.parametrize("kind", ["Department", "IvrMenu"])
def test_an_extension_that_is_nobody_has_a_state(simulator, wire, kind):
    simulator.add_account("9", "c", "s", "j", kind=kind)
    credential = {"client_id": "c", "client_secret": "s", "jwt": "j"}
    account = replace(ACCOUNT, id="9", credential=credential)
    (page,) = pages(wire, "presence", account)
    (row,) = page.rows

    assert row.body == {
        "extensionId": 9,
        "presenceStatus": "Offline",
        "allowSeeMyPresence": True,
        "state": {"allowSeeMyPresence": True},
    }


def test_a_call_that_cannot_be_read_leaves_the_others_alone_and_ends_none():
    page = presence_of({"direction": "Inbound"}, 5, call("2"), {"id": 1.5})

    assert [row.id for row in page.rows] == ["presence", "2:c2"]
    assert len(page.bad) == 3
    assert not page.whole


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"presenceStatus": ...}, id="no presence at all"),
        pytest.param({"activeCalls": {"id": "1"}}, id="no list"),
        pytest.param({"extension": {"id": "999"}}, id="another extension"),
    ],
)
def test_an_answer_that_is_not_presence_is_malformed(fields):
    with pytest.raises(Malformed):
        presence_of(**fields)


@pytest.mark.parametrize("extension", ["5\0", "5" * 21, "a/b", "~"])
def test_whoever_is_polled_has_an_extension_that_a_filter_can_name(extension):
    answer = {"presenceStatus": "Available", "extension": {"id": extension}}
    with pytest.raises(Malformed):
        answered("presence", answer, account=replace(ACCOUNT, id="~"))


@pytest.mark.parametrize(
    ("fields", "identity"),
    [
        ({"telephonySessionId": "s-1", "partyId": "p-1"}, "s-1:p-1"),
        ({"partyId": "p-1"}, "1:p-1"),
        ({"telephonySessionId": "s-1"}, "s-1:c1"),
        ({}, "1:c1"),
        ({"id": None}, "1"),
        ({"sessionId": None}, "c1"),
        ({"sessionId": 14860368004}, "14860368004:c1"),
    ],
)
def test_what_names_a_call(fields, identity):
    row = presence_of(call(**fields), telephonyStatus="Ringing").rows[1]

    assert row.id == identity
    assert row.body["activeCalls"][0].get("sessionId") != 14860368004


@pytest.mark.parametrize(
    ("termination", "listed", "deleted"),
    [
        ("final", True, True),
        ("Final", True, True),
        ("intermediate", True, False),
        ("somethingNew", True, False),
        (None, False, False),
        ("", False, False),
    ],
)
def test_only_final_ends_a_call(termination, listed, deleted):
    found = presence_of(call(status="NoCall", terminationType=termination)).rows[1:]

    assert [row.deleted for row in found] == [deleted] * listed


@pytest.mark.parametrize("status", ["Ringing", "CallConnected", "OnHold", "SomethingNew"])
def test_a_call_that_goes_on_has_not_ended_whatever_its_termination_says(status):
    (row,) = presence_of(call(status=status, terminationType="final")).rows[1:]

    assert not row.deleted
    assert row.body["telephonyStatus"] == status


def test_of_two_legs_under_one_id_the_one_that_goes_on_counts():
    legs = {"telephonySessionId": "s", "partyId": "p"}
    alive = call("1", **legs)
    over = call("2", "NoCall", terminationType="intermediate", **legs)
    ended = call("3", "NoCall", terminationType="final", **legs)
    for calls in ((alive, over, ended), (ended, over, alive), (over, alive, ended)):
        page = presence_of(*calls, telephonyStatus="CallConnected")
        decision = decide.decide(page.rows, {}, STREAMS["presence"], decide.LIVE, NOW_MS)
        told = {change.row.id: change for change in decision.changes}

        assert told["s:p"].row.body["telephonyStatus"] == "CallConnected"


# The simulator


def test_the_journal_tells_what_happened(simulator, wire):
    message = simulator.receive_sms(EXTENSION)
    call = simulator.ring(EXTENSION)
    simulator.vanish(call)
    simulator.hang_up(call)
    simulator.delete(message)
    simulator.purge(message)

    assert [(one.stream, one.kind, one.id) for one in simulator.journal] == [
        ("message-store", "created", message),
        ("presence", "created", call),
        ("presence", "deleted", call),
        ("message-store", "deleted", message),
    ]
    assert {one.account for one in simulator.journal} == {EXTENSION}


def test_another_extension_is_refused(simulator, wire):
    with pytest.raises(Rejected):
        pages(wire, account=replace(ACCOUNT, id="999"))


def test_only_knobs_can_be_turned(simulator):
    with pytest.raises(ValueError, match="journal"):
        simulator.configure(journal=[])
