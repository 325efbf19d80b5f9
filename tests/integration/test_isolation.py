"""Trouble with one account, connection or message is nobody else's, and secrets stay secret."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pollwire.errors import Unavailable
from pollwire.events import iso

from tests.integration.system import ANN, BOB, PASSWORD, SHOP

WRONG_PASSWORD = "canary-wrong-password"


def _raise(error):
    raise error


@pytest.fixture
def bob(ann):
    """The system with Ann, and Bob whose password is wrong."""
    ann.add_account(BOB, password=WRONG_PASSWORD, fields="history,entry,contact")
    return ann


def logins(system, account):
    """How often an account tried to log in."""
    phone = f"4255{account[-6:]}"
    return sum(
        request.url.endswith("/authenticate") and request.headers["YouMail-User"] == phone
        for request in system.http.asked
    )


def test_a_token_that_ran_out_is_renewed_once_and_shared(ann):
    ann.simulator.expire_tokens()
    voicemail = ann.simulator.leave_voicemail(ANN)
    before = logins(ann, ANN)

    ann.poll()

    assert ("entry", "created", voicemail) in ann.said()
    assert logins(ann, ANN) == before + 1


def test_an_account_with_a_wrong_password_is_left_alone_and_others_go_on(bob):
    contact = bob.simulator.add_contact(ANN)

    assert bob.poll() == 0

    assert bob.said() == [("contact", "created", contact)]
    standing = bob.standing(BOB)
    assert standing.failures == 1
    assert standing.not_before_ms > bob.clock()
    assert logins(bob, BOB) == 1
    assert {element.partition("@")[0] for element in standing.pending} == {
        "history",
        "entry",
        "contact",
    }


def test_a_wrong_password_is_tried_ever_more_rarely(bob):
    """Polls that need no password succeed all the while; they say nothing of it."""
    waits_s = []
    for _ in range(30):
        bob.poll()
        waits_s.append((bob.standing(BOB).not_before_ms - bob.clock()) // 1000)

    assert logins(bob, BOB) <= 6
    assert max(waits_s) >= 600


def test_a_password_that_was_corrected_is_taken_up(bob):
    contact = bob.simulator.add_contact(BOB)
    for _ in range(3):
        bob.poll()
    phone = f"4255{BOB[-6:]}"
    sealed = bob.world.sealer.seal({"username": phone, "password": PASSWORD}, "shop", BOB)
    bob.dynamodb.update_item(
        TableName=bob.environment["TABLE_NAME"],
        Key={"pk": {"S": "shard#shop#0"}, "sk": {"S": BOB}},
        UpdateExpression="SET credential = :sealed",
        ExpressionAttributeValues={":sealed": {"B": sealed}},
    )

    bob.poll(900)

    assert contact in bob.records("contact", BOB)
    assert bob.standing(BOB).failures == 0


def test_a_credential_that_does_not_open_is_counted_and_told(ann, logs):
    """Sealed for another account: the encryption context keeps it shut."""
    sealed = ann.world.sealer.seal({"username": "x", "password": "x"}, "shop", ANN)
    ann.registry.add_account(SHOP, BOB, credential=sealed)
    ann.simulator.add_account(BOB, "4255000002", PASSWORD, "4255000002")
    contact = ann.simulator.add_contact(ANN)

    assert ann.poll() == 0

    assert ann.said() == [("contact", "created", contact)]
    assert {"jobs": 1, "kms": 1, "misconfigured": 1} in [line.get("counts") for line in logs()]


@pytest.mark.parametrize("path", ["/vm/poll", "/api/v4"])
def test_a_provider_that_fails_for_one_account_goes_on_for_the_others(ann, path):
    ann.add_account(BOB, fields="history,entry,contact")
    ann.poll()
    ann.poll(120)
    token = ann.world.sealer.open(ann.world.state.token("shop", BOB), "shop", BOB)["token"]

    def fail_for_bob(request):
        is_bobs = request.url.endswith(f"/{BOB}") or token in str(request.headers)
        if path in request.url and is_bobs:
            raise Unavailable("500")

    ann.http.on_request = fail_for_bob
    contacts = {account: ann.simulator.add_contact(account) for account in (ANN, BOB)}

    for _ in range(3):
        ann.poll()
    assert ann.said() == [("contact", "created", contacts[ANN])]
    ann.http.on_request = lambda request: None
    ann.poll(900)

    assert ann.said() == [("contact", "created", contacts[BOB])]
    assert ann.standing(BOB).failures == 0


def test_a_rate_limit_is_kept_to(ann):
    contact = ann.simulator.add_contact(ANN)
    ann.simulator.fail_next("/api/v4/contacts", "429")

    assert ann.poll() == 0

    assert ann.standing().not_before_ms >= ann.clock() + 7_000
    ann.poll(120)
    assert ann.said() == [("contact", "created", contact)]


def test_a_host_that_is_not_allowed_stops_its_connection_only(ann):
    elsewhere = replace(SHOP, name="elsewhere", hosts={"poll": "http://169.254.169.254"})
    ann.connect(elsewhere)
    ann.add_account(BOB, elsewhere)
    contact = ann.simulator.add_contact(ANN)
    asked = len(ann.http.asked)

    ann.clock.advance(60)
    ann.check(elsewhere)
    ann.check()
    ann.run_deltas()

    assert ann.said() == [("contact", "created", contact)]
    assert ann.standing(BOB, elsewhere).failures == 1
    assert not [one for one in ann.http.asked[asked:] if BOB in one.url]


def test_a_provider_nobody_knows_is_counted_and_stops_its_connection_only(ann, logs):
    typo = replace(SHOP, name="typo", provider="youmial")
    ann.connect(typo)
    contact = ann.simulator.add_contact(ANN)

    ann.clock.advance(60)
    ann.tick(time=iso(ann.clock()))
    ann.check()
    ann.run_deltas()

    counts = [line["counts"] for line in logs() if line["message"] == "scheduled"]
    assert [(one["connections"], one["broken"]) for one in counts] == [(2, 1)]
    assert ann.said() == [("contact", "created", contact)]


def test_an_account_with_two_fields_wrong_in_the_composite_map_is_told(ann):
    ann.add_account(BOB, fields="history,history")
    contact = ann.simulator.add_contact(ANN)

    ann.poll()

    assert ann.said() == [("contact", "created", contact)]
    assert ann.standing(BOB).failures == 1


def test_no_secret_is_ever_written_down_in_clear(bob, everything_logged, capsys):
    """Not in a log at DEBUG, not in a metric, not in the table, not in a message."""
    bob.simulator.leave_voicemail(ANN)
    bob.poll()
    bob.simulator.expire_tokens()
    bob.simulator.leave_voicemail(ANN)
    bob.poll()
    bob.simulator.leave_voicemail(ANN)
    bob.http.on_request = lambda request: (
        _raise(RuntimeError(f"{request.url} {request.headers}")) if request.secret else None
    )
    bob.faults["publish_batch"] = lambda call, **arguments: _raise(RuntimeError(str(arguments)))
    assert bob.poll() > 0
    bob.http.on_request = lambda request: None
    bob.faults.clear()
    bodies = [message["Body"] for url in queues(bob) for message in bob.receive(url)]

    tokens = [f"token-{number}" for number in range(9007199254740993, 9007199254741093)]
    issued = [token for token in tokens if token in str(bob.simulator._tokens)]
    table = str(bob.table())
    written = everything_logged() + capsys.readouterr().out + table + json.dumps(bodies)
    assert issued
    assert bodies
    assert "drained" in written
    for secret in (PASSWORD, WRONG_PASSWORD, *issued, "Authorization", "YouMail-Password"):
        assert secret not in written


def queues(system):
    return system.sqs.list_queues()["QueueUrls"]
