"""What a provider lets us ask: rate budgets, access tokens, and looks at what is watched."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from itertools import pairwise

import pytest
from pollwire import pipeline
from pollwire.errors import Unavailable
from pollwire.events import iso
from pollwire.model import CheckJob, Connection

from local.simulators.intelli import Intelli
from local.simulators.kirimdev import Kirimdev
from local.simulators.ringcentral import RingCentral

JWT = {"client_id": "client", "client_secret": "canary-secret", "jwt": "canary-jwt"}
OFFICE = Connection("office", "ringcentral", interval_s=10, slowest_s=10)
INBOX = Connection("inbox", "kirimdev", interval_s=60, slowest_s=60)
KEY = "kdv_live_canaryCANARYcanaryCANARY"
NUMBERS = ("106540352242901", "106540352242902", "106540352242903")
EXTENSIONS = ("1001", "1002", "1003")


def paths(system, since=0):
    return [request.url.rpartition("/")[2] for request in system.http.asked[since:]]


def office(system, shared, **limits):
    """Connect some extensions: each with a credential, or all with the connection's."""
    simulator = system.attach("ringcentral", RingCentral(lambda: system.clock() / 1000, **limits))
    connection = OFFICE
    if shared:
        connection = replace(OFFICE, credential=system.world.sealer.seal(JWT, "office", ""))
    system.connect(connection)
    for number, extension in enumerate(EXTENSIONS):
        jwt = JWT if shared else {**JWT, "jwt": f"canary-jwt-{number}"}
        simulator.add_account(extension, **jwt)
        sealed = None if shared else system.world.sealer.seal(jwt, "office", extension)
        system.registry.add_account(connection, extension, credential=sealed)
    return simulator, connection


def inbox(system, *, reads_per_minute=600):
    simulator = system.attach("kirimdev", Kirimdev(lambda: system.clock() / 1000))
    simulator.add_organisation("org", KEY, reads_per_minute=reads_per_minute)
    connection = replace(INBOX, credential=system.world.sealer.seal({"api_key": KEY}, "inbox", ""))
    system.connect(connection)
    for number in NUMBERS:
        simulator.add_account("org", number)
        system.registry.add_account(connection, number)
    return simulator, connection


def test_an_account_whose_budget_is_used_up_rests_before_the_provider_refuses(system):
    simulator, connection = office(system, shared=False, light_per_minute=2)
    system.check(connection)
    before = len(system.http.asked)
    standing = system.standing("1001", connection)

    assert (standing.failures, standing.not_before_ms > system.clock() + 50_000) == (0, True)
    system.run_deltas()
    system.clock.advance(10)
    system.check(connection)
    assert len(system.http.asked) == before

    system.clock.advance(60)
    system.check(connection)
    system.run_deltas()
    assert len(system.http.asked) > before
    assert simulator.requests["refused"] == 0


def test_a_budget_that_a_delta_uses_up_lets_the_account_rest(system):
    simulator, connection = office(system, shared=False, light_per_minute=3)
    system.check(connection)
    system.run_deltas()
    before = len(system.http.asked)

    system.clock.advance(10)
    system.check(connection)

    assert len(system.http.asked) == before
    assert system.standing("1001", connection).not_before_ms > system.clock()
    assert simulator.requests["refused"] == 0


def test_one_budget_of_many_accounts_stops_them_all_at_once(system):
    _, connection = inbox(system, reads_per_minute=2)
    system.check(connection)

    assert len(system.http.asked) == 2
    paused_ms = system.world.state.connection("inbox").paused_until_ms
    assert system.clock() < paused_ms <= system.clock() + 66_000
    assert [system.standing(one, connection).failures for one in NUMBERS] == [0, 0, 0]

    system.clock.now_ms = paused_ms
    system.check(connection)
    assert len(system.http.asked) == 4


def test_a_failure_does_not_shorten_a_longer_rest(system):
    _, connection = office(system, shared=False)
    system.world.state.rest("office", 0, "1001", system.clock() + 300_000)
    system.world.state.note_failure("office", 0, "1001", system.clock() + 5_000, "Unavailable: x")

    standing = system.standing("1001", connection)
    assert (standing.failures, standing.not_before_ms) == (1, system.clock() + 300_000)


def test_accounts_of_one_credential_share_one_token_across_containers(system):
    simulator, connection = office(system, shared=True)
    for _ in range(3):
        system.check(connection)
        system.run_deltas()
        system.clock.advance(10)
        system.world.tokens.clear()  # another container

    assert simulator.requests["token"] == 1
    assert simulator.requests["message-sync"] >= 3 * 3
    assert ("token#office", "*") in system.table()


def test_a_token_is_got_anew_long_before_it_ends_and_without_an_error(system):
    simulator, connection = office(system, shared=True, token_s=3600)
    for _ in range(3):
        system.check(connection)
        system.clock.advance(1750)

    assert simulator.requests["token"] == 2
    failures = [system.standing(one, connection).failures for one in EXTENSIONS]
    assert failures == [0, 0, 0]


def test_tokens_that_are_revoked_are_got_anew_once(system):
    simulator, connection = office(system, shared=True)
    system.check(connection)
    simulator.expire_tokens()
    system.clock.advance(20)
    system.check(connection)

    assert simulator.requests["token"] == 2
    assert [system.standing(one, connection).failures for one in EXTENSIONS] == [0, 0, 0]


def test_a_new_credential_does_not_go_on_with_the_token_of_the_old_one(system):
    simulator, connection = office(system, shared=True)
    system.check(connection)
    sealed = system.world.sealer.seal(JWT, "office", "")
    system.connect(replace(connection, credential=sealed))
    system.clock.advance(20)
    system.check(connection)

    assert simulator.requests["token"] == 2


class Looks:
    """The checks of a connection as they come due, looks at what is watched among them."""

    def __init__(self, system, connection):
        self.system, self.connection = system, connection
        self.queued = []
        self.told = []
        system.faults["send_message_batch"] = self._send

    def _send(self, call, QueueUrl, Entries):
        if "-checks-" not in QueueUrl:
            return call(QueueUrl=QueueUrl, Entries=Entries)
        for entry in Entries:
            job = CheckJob(**json.loads(entry["MessageBody"]))
            assert entry["DelaySeconds"] <= 900
            self.queued.append(job)
        return {"Successful": list(Entries)}

    def run(self, seconds):
        """Let time pass; return when each path was asked for, in seconds from now."""
        began_ms = self.system.clock()
        asked = []
        for minute_ms in range(began_ms, began_ms + seconds * 1000, 60_000):
            self.system.clock.now_ms = minute_ms
            self.system.tick(time=iso(minute_ms))
            for job in sorted(self.queued, key=lambda job: job.due_ms):
                at_s = (job.due_ms - began_ms) // 1000
                asked += [(at_s, one) for one in self._check(job)]
            self.queued.clear()
        self.system.clock.now_ms = began_ms + seconds * 1000
        return asked

    def _check(self, job):
        self.system.clock.now_ms = job.due_ms
        before = len(self.system.http.asked)
        record = {"messageId": "1", "body": json.dumps(asdict(job)), "eventSource": "aws:sqs"}
        assert self.system.invoke("check", {"Records": [record]}) == {"batchItemFailures": []}
        found = paths(self.system, before)
        self.system.run_deltas()
        return found


@pytest.fixture
def looks(system):
    simulator, connection = inbox(system)
    looks = Looks(system, connection)
    looks.simulator = simulator
    looks.run(120)
    conversation = simulator.new_conversation(NUMBERS[0])
    looks.message = simulator.send(conversation)
    return looks


def watch(looks, seconds=86_400):
    until_ms = looks.system.clock() + seconds * 1000
    inbox = looks.system.world.state.connection("inbox")
    assert looks.system.registry.watch(inbox, NUMBERS[0], looks.message, until_ms)


def instants(asked, name):
    return sorted({at_s for at_s, path in asked if path == name})


def apart(asked, name):
    """Say how far apart something was asked for, and how often."""
    found = instants(asked, name)
    return {after - before for before, after in pairwise(found)}, len(found)


def test_without_anything_watched_there_are_no_looks(looks):
    asked = looks.run(120)

    assert apart(asked, "conversations") == ({60}, 2)
    assert {at_s for at_s, _ in asked} == set(instants(asked, "conversations"))


def test_a_message_on_its_way_is_looked_at_every_5_seconds(looks):
    watch(looks)
    asked = looks.run(120)

    assert apart(asked, looks.message) == ({5}, 24)
    assert apart(asked, "conversations") == ({60}, 2)


def test_a_delivered_message_is_looked_at_every_10_seconds(looks):
    watch(looks)
    looks.simulator.set_message_status(looks.message, "delivered")
    looks.run(60)
    asked = looks.run(120)

    assert apart(asked, looks.message) == ({10}, 12)


@pytest.mark.parametrize("status", ["read", "failed"])
def test_a_final_message_is_told_and_looked_at_no_more(looks, status):
    watch(looks)
    looks.run(60)
    looks.simulator.set_message_status(looks.message, status)
    looks.run(60)
    looks.system.deliveries()
    asked = looks.run(120)

    assert instants(asked, looks.message) == []
    assert looks.system.standing(NUMBERS[0], looks.connection).watched == frozenset()


def test_a_status_is_told_within_seconds_though_the_connection_is_polled_once_a_minute(looks):
    watch(looks)
    looks.run(60)
    looks.system.deliveries()
    changed_ms = looks.system.clock() + 10_000
    send = looks.system.http.on_request

    def deliver(request):
        if looks.system.clock() >= changed_ms:
            looks.simulator.set_message_status(looks.message, "delivered")
            looks.system.http.on_request = send

    looks.system.http.on_request = deliver
    looks.run(60)
    told = [
        one.event
        for one in looks.system.deliveries()
        if one.event["body"]["stream"] == "message-status"
    ]

    assert [one["body"]["record"]["status"] for one in told] == ["delivered"]


def test_a_message_is_looked_at_no_longer_than_its_time_to_live(looks):
    watch(looks, seconds=90)
    asked = looks.run(180)

    assert 80 <= max(instants(asked, looks.message)) < 90


def test_lists_are_never_asked_for_faster_than_their_cache(system):
    simulator, connection = inbox(system)
    connection = replace(connection, interval_s=10, slowest_s=10)
    system.connect(connection)
    looks = Looks(system, connection)
    looks.message = simulator.send(simulator.new_conversation(NUMBERS[0]))
    watch(looks)
    asked = looks.run(60)
    checks = [request for request in system.http.asked if request.query.get("limit") == "25"]

    assert Counter(request.url for request in checks).most_common(1)[0][1] == 6
    # The first look comes before the first check, and has nothing to go on.
    assert apart(asked, looks.message) == ({5}, 11)


def test_many_messages_all_have_their_turn(system):
    simulator, connection = inbox(system)
    conversation = simulator.new_conversation(NUMBERS[0])
    looks = Looks(system, connection)
    sent = {simulator.send(conversation) for _ in range(45)}
    for looks.message in sent:
        watch(looks)
    asked = looks.run(600)

    assert {path for _, path in asked} >= sent


def test_looks_leave_the_validators_of_the_list_as_they_were(looks):
    watch(looks)
    looks.run(120)
    asked = len(looks.system.http.asked)
    looks.simulator.set_message_status(looks.message, "sent")
    looks.run(120)
    lists = [
        request
        for request in looks.system.http.asked[asked:]
        if request.query.get("limit") == "25" and NUMBERS[0] in request.url
    ]

    assert "If-None-Match" in lists[-1].headers


def test_looks_go_on_after_a_pause(looks):
    watch(looks)
    looks.system.world.state.pause_connection("inbox", looks.system.clock() + 70_000)
    asked = looks.run(180)

    assert min(instants(asked, looks.message)) >= 70
    assert apart(asked, looks.message)[0] == {5}


def test_a_look_that_has_nothing_to_ask_for_forgets_no_failure(system):
    def fail(request):
        raise Unavailable("no answer")

    simulator, connection = inbox(system)
    looks = Looks(system, connection)
    looks.message = simulator.send(simulator.new_conversation(NUMBERS[0]))
    watch(looks)
    system.http.on_request = fail
    looks.run(600)

    assert system.standing(NUMBERS[0], connection).failures >= 4


def test_a_look_that_nobody_answers_forgets_no_outage(looks, monkeypatch):
    def fail(request):
        raise Unavailable("no answer")

    monkeypatch.setattr(pipeline, "SILENT_MIN", 1)
    watch(looks)
    looks.system.http.on_request = fail
    looks.run(600)

    assert looks.system.world.state.connection(looks.connection.name).outages >= 4


def test_a_look_that_is_told_when_to_come_back_waits_until_then(looks):
    def fail(request):
        if looks.message in request.url:
            raise Unavailable("503", retry_after_s=100)

    watch(looks)
    looks.system.http.on_request = fail
    asked = looks.run(300)

    assert min(apart(asked, looks.message)[0]) >= 100


def test_a_budget_used_up_in_the_midst_of_a_check_is_no_failure(system):
    _, connection = office(system, shared=False, light_per_minute=1)
    system.check(connection)

    assert [system.standing(one, connection).failures for one in EXTENSIONS] == [0, 0, 0]


def test_who_goes_ahead_and_is_refused_stops_the_others(system):
    simulator, connection = office(system, shared=True)
    simulator.fail_next("message-sync", "429")
    system.check(connection)

    assert paths(system) == ["token", "message-sync"]
    assert system.world.state.connection("office").paused_until_ms > system.clock()


def test_tokens_that_are_refused_as_soon_as_they_are_given_are_not_got_again_and_again(system):
    simulator, connection = office(system, shared=True)
    for _ in range(6):
        simulator.expire_tokens()
        system.check(connection)
        system.clock.advance(10)

    assert simulator.requests["token"] <= 5


def test_checks_leave_some_of_a_small_budget_to_the_deltas(system):
    simulator, connection = office(system, shared=False, light_per_minute=2)
    told = []
    for number in range(120):
        system.clock.advance(10)
        system.check(connection)
        system.run_deltas()
        told += [one.event["body"] for one in system.deliveries()]
        if number == 50:
            simulator.receive_sms("1001", "hello")

    assert [one["record"]["subject"] for one in told if one["change"] == "created"] == ["hello"]
    assert simulator.requests["refused"] == 0


@pytest.mark.parametrize("token", ["half \ud800 a character", "x" * 5_000, "two\r\nlines"])
def test_an_odd_sync_token_stops_no_other_account(system, token):
    simulator, connection = office(system, shared=False)
    good = simulator.handle

    def handle(method, path, *asked):
        status, headers, body = good(method, path, *asked)
        if path.endswith("1001/message-sync") and status == 200:
            answer = json.loads(body)
            answer["syncInfo"]["syncToken"] = token
            body = json.dumps(answer).encode()
        return status, headers, body

    simulator.handle = handle
    for _ in range(3):
        system.check(connection)
        system.run_deltas()
        system.clock.advance(10)
    simulator.receive_sms("1002", "hello")
    system.check(connection)
    system.run_deltas()

    told = [one.event["body"] for one in system.deliveries()]
    assert [one["record"]["subject"] for one in told] == ["hello"]
    assert system.standing("1001", connection).failures > 0


def test_a_large_call_holds_up_no_other(system):
    simulator, connection = office(system, shared=False)
    system.check(connection)
    system.run_deltas()
    system.clock.advance(20)
    simulator.ring("1001", "x" * 450_000)
    simulator.ring("1001", direction="y" * 300_000)
    small = simulator.ring("1001")
    for _ in range(3):
        system.check(connection)
        assert system.run_deltas() == 0
        system.clock.advance(20)

    told = {one.event["body"]["recordId"] for one in system.deliveries()}
    assert small in told
    assert len(told) == 3


def test_a_second_with_more_messages_than_an_answer_holds_does_not_end_the_list(system):
    simulator = system.attach("intelli", Intelli(lambda: system.clock() / 1000))
    secret = {"username": "7654321@reseller", "password": "canary-password"}
    simulator.add_account("7654321@reseller", **secret)
    post = Connection("post", "intelli", interval_s=60, slowest_s=60)
    system.connect(post)
    sealed = system.world.sealer.seal(secret, "post", "7654321@reseller")
    system.registry.add_account(post, "7654321@reseller", credential=sealed)
    simulator.receive("7654321@reseller", "from before")
    system.check(post)
    system.run_deltas()
    system.clock.advance(60)
    simulator.saturate("7654321@reseller", 130)
    told = []
    for number in range(12):
        system.clock.advance(60)
        simulator.receive("7654321@reseller", f"later {number}")
        system.check(post)
        system.run_deltas()
        told += [one.event["body"]["record"].get("subject", "gap") for one in system.deliveries()]

    assert {f"later {number}" for number in range(11)} <= set(told)
    assert told.count("gap") == 1
