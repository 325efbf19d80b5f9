"""A provider's notification, from the function URL to the event, and what forged ones come to."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError
from pollwire import push
from pollwire.due import PUSHED_APART_S
from pollwire.model import Connection
from pollwire.providers import registered
from pollwire.registry import FOREVER_MS
from pollwire.secrets import PUSH
from pollwire.world import World

from local.simulators.kirimdev import Kirimdev
from local.simulators.ringcentral import RingCentral
from tests.integration.system import START_MS
from tests.pushing import (
    EXTENSION,
    NUMBER,
    OTHER,
    SECRET,
    STOLEN,
    TEXT,
    TOKEN,
    forged,
    received,
    request,
    signed,
    told,
)

OFFICE = Connection("office", "ringcentral", interval_s=60, slowest_s=3600)
INBOX = Connection("inbox", "kirimdev", interval_s=60, slowest_s=3600)
JWT = {"client_id": "client", "client_secret": "canary-secret", "jwt": "canary-jwt"}
KEY = "kdv_live_canaryCANARYcanaryCANARY"

NOTHING_SAID = {"statusCode": 200, "headers": {}, "body": ""}


def refusal(status, **headers):
    return {"statusCode": status, "headers": headers, "body": ""}


def let_push(system, connection, secret):
    sealed = system.world.sealer.seal({"secret": secret}, connection.name, PUSH)
    system.registry.set_push_secret(connection.name, sealed)


def by_ringcentral(system, body=None, token=TOKEN, path="/office"):
    body = told(system.clock()) if body is None else body
    return system.invoke("push", request(path, body, {"verification-token": token}))


def by_kirimdev(system, body="", signature=None):
    body = body or received()
    if signature is None:
        signature = signed(body, system.clock() // 1000)
    return system.invoke("push", request("/inbox", body, {"x-kirim-signature": signature}))


@pytest.fixture
def ring(system):
    """A RingCentral connection that is notified, with two extensions."""
    system.ring = RingCentral(lambda: system.clock() / 1000)
    system.attach("ringcentral", system.ring)
    system.connect(OFFICE)
    for extension in (EXTENSION, OTHER):
        system.ring.add_account(extension, **JWT)
        sealed = system.world.sealer.seal(JWT, "office", extension)
        system.registry.add_account(OFFICE, extension, credential=sealed)
    let_push(system, OFFICE, TOKEN)
    return system


@pytest.fixture
def kirim(system):
    """A Kirimdev connection likewise, with one number."""
    system.kirim = Kirimdev(lambda: system.clock() / 1000)
    system.attach("kirimdev", system.kirim)
    system.kirim.add_organisation("org", KEY, reads_per_minute=100_000)
    system.kirim.add_account("org", NUMBER)
    connection = replace(INBOX, credential=system.world.sealer.seal({"api_key": KEY}, "inbox", ""))
    system.connect(connection)
    system.registry.add_account(connection, NUMBER)
    let_push(system, INBOX, SECRET)
    return system


def quieten(system, connection):
    """Let a day pass in which nothing happens."""
    for seconds in (0, 60, 86_400, 60):
        system.clock.advance(seconds)
        system.check(connection)
        system.run_deltas()
    system.clock.advance(7)
    assert system.deliveries() == []


@pytest.fixture
def queued(system):
    """Checks of one account that were queued, each with its delay; they are handed out at once."""
    jobs = []

    def send(call, **words):
        for entry in words["Entries"]:
            job = json.loads(entry["MessageBody"])
            if "stream" not in job and job["account"]:
                jobs.append((job, entry["DelaySeconds"]))
                entry["DelaySeconds"] = 0
        return call(**words)

    system.faults["send_message_batch"] = send
    return jobs


@pytest.fixture
def calls(clients):
    """What AWS is asked, by name."""
    made = []

    def note(model, **_):
        made.append(model.name)

    services = [clients(service) for service in ("dynamodb", "kms", "sqs", "sns")]
    for one in services:
        one.meta.events.register("before-call", note)
    yield made
    for one in services:
        one.meta.events.unregister("before-call", note)


def run(system):
    assert system.run_checks() == 0
    assert system.run_deltas() == 0
    return [
        (one.event["body"]["stream"], one.event["body"]["change"]) for one in system.deliveries()
    ]


@pytest.fixture(scope="module")
def quick():
    """
    The handler alone, with three connections that are notified and a table that nobody may write.

    What is refused is refused without AWS, so all of it can share one world.
    """
    connections = [
        Connection(name, provider, push_secret=secret.encode())
        for name, provider, secret in (
            ("office", "ringcentral", TOKEN),
            ("branch", "ringcentral", "another-token"),
            ("inbox", "kirimdev", SECRET),
        )
    ]
    state = SimpleNamespace(
        connections=lambda: ([*connections, Connection("shop", "youmail")], []),
        claim_push=lambda *asked: None,
    )
    sealer = SimpleNamespace(open=lambda sealed, *context: {"secret": sealed.decode()})
    nobody = SimpleNamespace()
    world = World(
        state, nobody, nobody, sealer, nobody, nobody, registered(), lambda: START_MS, *[None] * 2
    )
    return lambda event: push.receive(world, event).response


# What a provider sends


def test_what_ringcentral_notifies_of_is_told_within_one_check(ring):
    quieten(ring, OFFICE)
    ring.ring.receive_sms(EXTENSION)
    ring.check(OFFICE)
    assert run(ring) == []  # It has been quiet for a day, and is not due.

    assert by_ringcentral(ring) == NOTHING_SAID

    assert run(ring) == [("message-store", "created")]


def test_what_kirimdev_notifies_of_is_told_within_one_check(kirim):
    quieten(kirim, INBOX)
    kirim.kirim.new_conversation(NUMBER)

    assert by_kirimdev(kirim) == NOTHING_SAID

    assert run(kirim) == [("conversations", "created")]


def test_without_a_notification_it_is_found_by_polling(ring):
    quieten(ring, OFFICE)
    ring.ring.receive_sms(EXTENSION)

    for _ in range(32):
        ring.clock.advance(60)
        ring.check(OFFICE)

    assert run(ring) == [("message-store", "created")]


def test_a_change_right_after_another_is_told(ring, queued):
    quieten(ring, OFFICE)
    ring.ring.receive_sms(EXTENSION)
    by_ringcentral(ring)
    assert run(ring) == [("message-store", "created")]

    ring.clock.advance(1)
    ring.ring.receive_sms(EXTENSION)
    by_ringcentral(ring)
    ring.clock.advance(4)

    assert run(ring) == [("message-store", "created")]
    assert len(queued) == 2


def test_a_pushed_check_is_of_use_until_a_worker_is_free(ring):
    quieten(ring, OFFICE)
    ring.ring.receive_sms(EXTENSION)
    by_ringcentral(ring)
    ring.clock.advance(push.USEFUL_S)

    assert run(ring) == [("message-store", "created")]


def test_a_binary_body_is_verified_byte_by_byte(kirim, queued):
    assert by_kirimdev(kirim, received().encode()) == NOTHING_SAID
    assert len(queued) == 1


def test_a_subscription_is_confirmed(ring, queued):
    both = {"validation-token": "abc", "verification-token": TOKEN}

    for sent in ({"validation-token": "abc"}, both):
        answer = ring.invoke("push", request("/office", "", sent))
        assert answer == {"statusCode": 200, "headers": {"Validation-Token": "abc"}, "body": ""}
    assert queued == []


# What is refused


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "post", ""])
def test_nothing_else_than_posts_are_taken(quick, method):
    event = request("/office", told(START_MS), {"verification-token": TOKEN}, method)

    assert quick(event) == refusal(405, Allow="POST")


@pytest.mark.parametrize(
    "path",
    ["", "/", "office", "/nowhere", "/office/", "//office", "/office/x", "/%6Fffice", "/a b",
     "/office\n", "/" + "x" * 65, "/../office", "/shop", "/\ud800"],
)  # fmt: skip
def test_a_path_that_leads_nowhere_is_not_found(quick, path):
    event = request(path, told(START_MS), {"verification-token": TOKEN})

    assert quick(event) == refusal(404)


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"requestContext": None},
        {"requestContext": {"http": "POST"}},
        {"requestContext": {"http": {"method": "POST"}}},
        {"requestContext": {"http": {"method": "POST"}}, "rawPath": 5},
    ],
)
def test_an_event_that_is_none_is_refused(quick, event):
    assert quick(event)["statusCode"] in (404, 405)


@pytest.mark.parametrize("kind", STOLEN)
def test_a_token_that_is_not_the_connections_is_refused(quick, kind):
    assert quick(request("/office", told(START_MS), STOLEN[kind])) == refusal(401)


@pytest.mark.parametrize("kind", forged("", 0))
def test_a_signature_that_is_not_the_connections_is_refused(quick, kind):
    headers = {"x-kirim-signature": forged(received(), START_MS // 1000)[kind]}

    assert quick(request("/inbox", received(), headers)) == refusal(401)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/inbox", {"verification-token": TOKEN}),
        ("/office", {"x-kirim-signature": signed(told(START_MS), START_MS // 1000)}),
        ("/branch", {"verification-token": TOKEN}),
    ],
)
def test_the_secret_of_one_connection_does_not_open_another(quick, path, headers):
    assert quick(request(path, told(START_MS), headers)) == refusal(401)


@pytest.mark.parametrize("body", ["", "{", "[]", "[" * 100_000, b"\xff\xfe", '{"a": 1, "a": 2}'])
def test_a_body_that_is_no_json_object_is_refused_after_it_was_verified(quick, body):
    assert quick(request("/office", body, {"verification-token": TOKEN})) == refusal(400)


@pytest.mark.parametrize("body", ["é", "====", "not base64!", "\ud800", 5, ["x"]])
def test_a_body_that_cannot_be_decoded_is_refused(quick, body):
    event = request("/office", b"", {"verification-token": TOKEN}) | {"body": body}

    assert quick(event) == refusal(400)


@pytest.mark.parametrize(
    "challenge", ["a\r\nSet-Cookie: b=c", "a\nb", "a b", "é", "x" * 201, "\ud800"]
)
def test_what_no_header_may_hold_is_not_sent_back(quick, challenge):
    assert quick(request("/office", "", {"validation-token": challenge})) == refusal(400)


def test_a_body_that_is_huge_is_refused_before_it_is_looked_at(quick):
    most, token = push.BODY_BYTES_MAX, {"verification-token": TOKEN}
    bare = told(START_MS, "999", text="")
    fits = told(START_MS, "999", text="x" * (most - len(bare)))
    assert len(fits) == most

    assert quick(request("/office", fits + " ", token)) == refusal(413)
    assert quick(request("/office", b"x" * (most + 1))) == refusal(413)
    assert quick(request("/office", fits, token)) == NOTHING_SAID


# Whom it is about


def test_who_is_registered_is_not_told(ring, queued):
    for extension in ("999", "~", "1" * 20, OTHER):
        assert by_ringcentral(ring, told(ring.clock(), extension)) == NOTHING_SAID

    assert [job["account"] for job, _ in queued] == [OTHER]


@pytest.mark.parametrize(
    "hinder",
    [
        lambda system: system.registry.set_paused(OFFICE, EXTENSION, True),
        lambda system: system.registry.remove_account(OFFICE, EXTENSION),
        lambda system: system.world.state.pause_connection("office", FOREVER_MS),
        lambda system: system.registry.remove_connection(OFFICE),
        lambda system: system.registry.set_push_secret("office", None),
    ],
    ids=["paused", "removed", "connection paused", "connection removed", "no secret any more"],
)
def test_who_is_not_polled_is_not_asked_for_either(ring, queued, hinder):
    hinder(ring)

    assert by_ringcentral(ring)["statusCode"] in (200, 404)

    assert queued == []
    assert ring.table().get(("shard#office#0", EXTENSION), {}).get("pushed_at") is None


def test_a_notification_of_many_accounts_asks_for_some_of_them(kirim, calls):
    entries = [
        {"changes": [{"value": {"metadata": {"phone_number_id": str(10**8 + number)}}}]}
        for number in range(1_000)
    ]

    assert by_kirimdev(kirim, json.dumps({"entry": entries})) == NOTHING_SAID

    assert calls.count("GetItem") == push.ACCOUNTS_MAX


def test_an_account_of_an_earlier_shard_is_found(ring, queued):
    ring.registry.grow("office", 4)

    for extension in (EXTENSION, OTHER):
        by_ringcentral(ring, told(ring.clock(), extension))

    assert {(job["account"], job["shard"]) for job, _ in queued} == {(EXTENSION, 0), (OTHER, 0)}


# How often


def test_the_first_is_checked_at_once_and_what_follows_once_more(ring, queued):
    at_ms = ring.clock()
    for _ in range(50):
        by_ringcentral(ring)
        ring.clock.advance(0.01)

    (first, delay_s), (second, later_s) = queued
    assert (first["due_ms"], delay_s) == (at_ms, 0)
    assert (second["due_ms"], later_s) == (at_ms + PUSHED_APART_S * 1000, PUSHED_APART_S)


def test_a_flood_of_genuine_ones_makes_a_check_every_five_seconds(ring, queued):
    for _ in range(1_000):
        assert by_ringcentral(ring) == NOTHING_SAID
        ring.clock.advance(0.06)

    assert math.floor(60 / PUSHED_APART_S) <= len(queued) <= 60 / PUSHED_APART_S + 1
    dues = [job["due_ms"] for job, _ in queued]
    assert min(after - before for before, after in pairwise(dues)) >= PUSHED_APART_S * 1000


def test_one_that_is_sent_again_and_again_makes_one_more_check(ring, queued):
    body = told(ring.clock())

    for _ in range(100):
        assert by_ringcentral(ring, body) == NOTHING_SAID
        ring.clock.advance(2)

    assert len(queued) == 2


def test_a_signature_that_is_sent_again_and_again_makes_one_more_check(kirim, queued):
    signature, statuses = signed(received(), kirim.clock() // 1000), []

    for _ in range(200):
        statuses.append(by_kirimdev(kirim, received(), signature)["statusCode"])
        kirim.clock.advance(2)

    assert len(queued) == 2
    assert statuses == [200] * 151 + [401] * 49  # It is good for five minutes.


def test_of_two_workers_at_once_each_is_heard(ring, queued):
    """The one that is slower looks again: what it was told may be news to the other's check."""
    at_ms, state = ring.clock(), ring.world.state

    def meanwhile(call, **words):
        del ring.faults["update_item"]
        assert state.claim_push(OFFICE, EXTENSION, at_ms - 1, at_ms - 1) == (0, at_ms - 1)
        return call(**words)

    ring.faults["update_item"] = meanwhile

    assert by_ringcentral(ring) == NOTHING_SAID

    assert [job["due_ms"] for job, _ in queued] == [at_ms - 1 + PUSHED_APART_S * 1000]


def test_many_accounts_at_once_leave_room_for_the_regular_checks(ring, queued):
    slow = replace(OFFICE, requests_per_second=5)
    ring.connect(slow)
    extensions = [str(2000 + number) for number in range(30)]
    for extension in extensions:
        ring.registry.add_account(slow, extension)

    for extension in extensions:
        assert by_ringcentral(ring, told(ring.clock(), extension)) == NOTHING_SAID

    # Half of a fifth of five a second, for twenty seconds.
    assert [delay_s for _, delay_s in queued] == list(range(0, 22, 2))


def test_an_account_that_moves_meanwhile_is_not_forgotten(ring):
    """A move takes the item as it was read; a claim since then must not be lost."""
    ring.registry.grow("office", 2)
    state, item = ring.world.state, ring.table()["shard#office#0", EXTENSION]
    real = ring.world.state._client

    class Slow:
        def __getattr__(self, name):
            return getattr(real, name)

        def transact_write_items(self, **words):
            by_ringcentral(ring)
            return real.transact_write_items(**words)

    moving = type(state)(real, ring.environment["TABLE_NAME"])
    moving._client = Slow()

    assert not moving.move_account("office", EXTENSION, 0, 1)
    assert "pushed_at" not in item
    assert "pushed_at" in ring.table()["shard#office#0", EXTENSION]


# What a flood costs


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/office", {"verification-token": "forged"}),
        ("/office", {"x-kirim-signature": f"t={START_MS // 1000},v1={'0' * 64}"}),
        ("/nobody-{}", {"verification-token": TOKEN}),
    ],
)
def test_a_flood_of_forged_ones_asks_nothing_of_aws(ring, calls, path, headers):
    before = ring.table()
    calls.clear()

    for number in range(1_000):
        event = request(path.format(number), told(START_MS), headers)
        assert ring.invoke("push", event)["statusCode"] in (401, 404)
        ring.clock.advance(0.05)

    assert calls in (["Query"], ["Query", "Decrypt"])
    assert ring.table() == before


def test_a_secret_that_does_not_open_is_tried_once_a_minute(ring, calls):
    foreign = ring.world.sealer.seal({"secret": TOKEN}, "inbox", PUSH)
    ring.registry.set_push_secret("office", foreign)
    calls.clear()

    statuses = {by_ringcentral(ring)["statusCode"] for _ in range(100)}

    assert statuses == {503}
    assert calls == ["Query", "Decrypt"]


def test_a_new_secret_is_known_within_a_minute(ring, queued):
    assert by_ringcentral(ring) == NOTHING_SAID
    let_push(ring, OFFICE, "a-new-one")
    ring.clock.advance(60)

    assert by_ringcentral(ring) == refusal(401)
    assert by_ringcentral(ring, token="a-new-one") == NOTHING_SAID
    assert len(queued) == 2


# What goes wrong


@pytest.mark.parametrize("name", ["update_item", "send_message_batch"])
def test_what_aws_refuses_is_to_be_sent_again(ring, name):
    def refuse(call, **words):
        raise ClientError({"Error": {"Code": "ThrottlingException"}}, name)

    ring.faults[name] = refuse
    assert by_ringcentral(ring) == refusal(503)

    ring.faults.clear()
    assert by_ringcentral(ring) == NOTHING_SAID
    assert ring.depths() == {"pollwire-checks-ringcentral": 1}


# What is seen of it


def test_nothing_of_what_was_sent_is_seen(ring, everything_logged, capsys):
    body, kirim = told(ring.clock()), replace(INBOX, credential=b"sealed")
    ring.connect(kirim)
    let_push(ring, kirim, SECRET)
    for headers in ({"verification-token": TOKEN}, *STOLEN.values()):
        ring.invoke("push", request("/office", body, headers))
        ring.invoke("push", request("/office", "{" + TEXT, headers))
    for signature in (None, *forged(received(), ring.clock() // 1000).values()):
        by_kirimdev(ring, received(), signature)
        by_kirimdev(ring, "{" + TEXT, signature)

    seen = everything_logged() + "".join(capsys.readouterr())
    assert "answered" in seen
    assert "canary" not in seen
    assert "canary" not in str(ring.table())


def test_what_became_of_it_is_logged_and_counted(ring, logs, capsys):
    by_ringcentral(ring)
    by_ringcentral(ring, token="forged")
    by_ringcentral(ring, path="/nowhere")

    lines = [line for line in logs() if line["message"] == "answered"]
    assert [(one["connection"], one["status"], one["counts"]) for one in lines] == [
        ("office", 200, {"notified": 1, "queued": 1}),
        ("office", 401, {"rejected": 1}),
        ("", 404, {"unknown": 1}),
    ]
    assert [one["reason"] for one in lines] == [
        "",
        "Rejected: Verification-Token: not the one of this connection",
        "",
    ]
    metrics = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    pushed = [one for one in metrics if one.get("service") == "push" and "_aws" in one]
    assert [one.get("rejected") for one in pushed] == [None, [1.0], None]


def test_the_secret_is_sealed_and_stays_when_its_connection_is_changed(ring):
    ring.connect(OFFICE)

    sealed = ring.table()["connection", "office"]["push_secret"]["B"]

    assert TOKEN.encode() not in sealed
    assert ring.world.sealer.open(sealed, "office", PUSH) == {"secret": TOKEN}
