"""The simulated YouMail, and the server that puts it on a port."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from local.server import control, serve
from local.simulators import registered
from local.simulators.youmail import SAMPLE, SAMPLE_ACCOUNT, YouMail

ROOT = Path(__file__).parents[2]
NOW_MS = 1_700_000_000_000
SAMPLE_PATH = f"/vm/poll/4/{SAMPLE_ACCOUNT}"
ENTRIES = "/api/v4/messagebox/entry/query"
ALL = {"folderId": "-1", "deleteType": "0"}


@pytest.fixture
def clock():
    return SimpleNamespace(now_s=NOW_MS / 1000)


@pytest.fixture
def youmail(clock):
    youmail = YouMail(lambda: clock.now_s)
    youmail.add_account("7", "ann", "secret", "4255550107")
    return youmail


@pytest.fixture
def server(youmail):
    with serve({"/youmail": youmail}) as server:
        yield server


@pytest.fixture
def connection(server):
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=5)
    yield connection
    connection.close()


def get(youmail, path, headers=None, **query):
    return youmail.handle("GET", path, query, headers or {}, b"")


def sign_in(youmail):
    headers = {"youmail-user": "ann", "youmail-password": "secret", "accept": "application/json"}
    _, _, body = get(youmail, "/api/v4/authenticate", headers)
    token = json.loads(body)["authToken"]
    return {"authorization": f"YouMail {token}", "accept": "application/json"}


def entries(youmail, **query):
    _, _, body = get(youmail, ENTRIES, sign_in(youmail), **query)
    return [str(row["id"]) for row in json.loads(body)["entries"]]


def ask(connection, method, path, asked=None):
    headers = {} if asked is None else {"Content-Type": "application/json"}
    connection.request(method, path, None if asked is None else json.dumps(asked), headers)
    response = connection.getresponse()
    return response, response.read()


def test_the_sample_account_answers_as_the_documentation_says(youmail):
    status, _, body = get(youmail, SAMPLE_PATH)

    assert (status, body) == (200, f"{SAMPLE}\n".encode())


@pytest.mark.parametrize("path", ["/vm/poll/1/133128004", "/vm/poll/9/9", "/vm/poll/133128004"])
def test_any_other_poll_is_not_found(youmail, path):
    assert get(youmail, path)[0] == 404


@pytest.mark.parametrize(
    ("header", "validator"), [("if-none-match", "etag"), ("if-modified-since", "last-modified")]
)
def test_either_validator_is_answered_304_until_something_changes(
    youmail, clock, header, validator
):
    _, headers, _ = get(youmail, "/vm/poll/7/7")
    known = {header: headers[validator]}
    assert get(youmail, "/vm/poll/7/7", known)[0] == 304

    clock.now_s += 1
    youmail.call("7")
    assert get(youmail, "/vm/poll/7/7", known)[0] == 200


def test_two_changes_in_one_millisecond_have_one_composite_answer(youmail):
    youmail.leave_voicemail("7", at_ms=NOW_MS + 1)
    before = get(youmail, "/vm/poll/7/7")[2]
    youmail.leave_voicemail("7", at_ms=NOW_MS + 1)

    assert get(youmail, "/vm/poll/7/7")[2] == before


def test_a_new_user_is_unknown_until_its_first_change(youmail):
    youmail.add_account("8", "new", "new", "1", new_user=True)
    assert get(youmail, "/vm/poll/8/8")[0] == 404

    youmail.add_contact("8")
    assert get(youmail, "/vm/poll/8/8")[0] == 200


@pytest.mark.parametrize(
    ("query", "found"),
    [
        pytest.param({}, ["kept"], id="the inbox by default"),
        pytest.param({"folderId": "-1"}, ["kept"], id="the trash is hidden"),
        pytest.param(ALL, ["gone", "kept"], id="everything, newest first"),
        pytest.param({**ALL, "sortBy": "created"}, ["kept", "gone"], id="oldest first"),
        pytest.param({**ALL, "deleteType": "2"}, ["gone"], id="the trash only"),
        pytest.param({**ALL, "updatedFrom": str(NOW_MS + 2000)}, ["gone"], id="since, inclusive"),
        pytest.param({**ALL, "updatedFrom": str(NOW_MS + 2001)}, [], id="since, later"),
        pytest.param({**ALL, "pageLength": "1", "pageNumber": "2"}, ["kept"], id="page two"),
    ],
)
def test_entries(youmail, clock, query, found):
    ids = {youmail.leave_voicemail("7"): "kept"}
    clock.now_s += 1
    ids |= {youmail.leave_voicemail("7"): "gone"}
    clock.now_s += 1
    youmail.trash(list(ids)[1])

    assert [ids[identity] for identity in entries(youmail, **query)] == found


def test_an_update_that_does_not_show_yet_leaves_the_old_version(youmail, clock):
    identity = youmail.leave_voicemail("7")
    clock.now_s += 1
    youmail.lag_ms = 1000
    youmail.trash(identity)
    assert entries(youmail) == [identity]

    clock.now_s += 1
    assert entries(youmail) == []


def test_a_purged_row_is_gone(youmail):
    identity = youmail.leave_voicemail("7")
    youmail.purge(identity)

    assert entries(youmail, **ALL) == []


def test_a_token_ends(youmail, clock):
    headers = sign_in(youmail)
    assert get(youmail, ENTRIES, headers)[0] == 200

    clock.now_s += youmail.token_s
    assert get(youmail, ENTRIES, headers)[0] == 403


def test_the_default_format_is_xml(youmail):
    headers = {**sign_in(youmail), "accept": "*/*"}

    assert get(youmail, ENTRIES, headers)[1]["content-type"] == "application/xml"


def test_a_query_that_makes_no_sense_is_refused(youmail):
    assert get(youmail, ENTRIES, sign_in(youmail), pageNumber="x")[0] == 400


def test_answers_are_counted_by_status_and_what_operates_it_is_none():
    with serve({"/one": YouMail(), "/other": YouMail()}) as server:
        connection = HTTPConnection(server.url.removeprefix("http://"), timeout=10)

        def get(path):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

        statuses = [get(f"/one{path}")[0] for path in ("/nothing", "/nothing", "/_sim/journal")]
        answered = json.loads(get("/one/_sim/answered")[1])
        other = json.loads(get("/other/_sim/answered")[1])
        connection.close()

    assert statuses == [404, 404, 200]
    assert answered == {"404": 2}
    assert other == {}


def test_the_journal_holds_every_change(youmail):
    entry, contact = youmail.leave_voicemail("7"), youmail.add_contact("7")
    youmail.mark_read(entry)
    youmail.trash(entry)
    youmail.purge(entry)
    youmail.delete_contact(contact)
    youmail.change_settings("7", timeZone="PST")

    made = [(change.stream, change.kind) for change in youmail.journal]

    assert made == [
        ("entry", "created"),
        ("history", "created"),
        ("contact", "created"),
        ("entry", "updated"),
        ("entry", "deleted"),
        ("contact", "deleted"),
        ("settings", "updated"),
    ]
    assert {change.account for change in youmail.journal} == {"7"}


def test_failures_happen_as_often_as_asked(youmail):
    youmail.fail_next("/vm/poll", "503", times=2)

    assert [get(youmail, SAMPLE_PATH)[0] for _ in range(3)] == [503, 503, 200]


def test_threads_lose_no_change(youmail):
    threads = [
        threading.Thread(target=lambda: [youmail.call("7") for _ in range(50)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({change.id for change in youmail.journal}) == 400


def test_every_simulator_is_registered_under_its_name():
    assert isinstance(registered()["youmail"](), YouMail)


def test_the_server_keeps_a_connection_alive_and_tells_the_time(connection):
    first, _ = ask(connection, "GET", f"/youmail{SAMPLE_PATH}")
    socket = connection.sock
    second, body = ask(connection, "GET", f"/youmail{SAMPLE_PATH}")

    assert (first.status, second.status, first.version) == (200, 200, 11)
    assert body == f"{SAMPLE}\n".encode()
    assert connection.sock is socket
    assert second.headers["Date"] == "Tue, 14 Nov 2023 22:13:20 GMT"


def test_a_304_has_no_body(connection):
    response, _ = ask(connection, "GET", f"/youmail{SAMPLE_PATH}")
    connection.request(
        "GET", f"/youmail{SAMPLE_PATH}", headers={"If-None-Match": response.headers["ETag"]}
    )
    response = connection.getresponse()

    assert (response.status, response.read()) == (304, b"")
    assert ask(connection, "GET", f"/youmail{SAMPLE_PATH}")[0].status == 200


def test_another_process_can_make_things_happen(connection):
    asked = {"call": "leave_voicemail", "args": {"account": "7", "transcript": "Call me"}}
    response, body = ask(connection, "POST", "/youmail/_sim/", asked)
    identity = json.loads(body)["result"]
    _, journal = ask(connection, "GET", "/youmail/_sim/journal")

    assert response.status == 200
    assert json.loads(journal)[0] == ["entry", "created", identity, NOW_MS, "7"]


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"call": "nothing_like_it"}, 404),
        ({"call": "_record"}, 404),
        ({"call": "journal"}, 404),
        ({"call": "configure", "args": {"journal": []}}, 400),
        ({"call": "configure", "args": {"lag_ms": 5}}, 200),
        ({"call": "mark_read", "args": {"row": "0"}}, 400),
        ({"call": "mark_read"}, 400),
        ([], 400),
    ],
)
def test_only_what_is_public_can_be_called(youmail, asked, status):
    headers = {"content-type": "application/json"}

    assert control(youmail, "POST", "/_sim/", headers, json.dumps(asked).encode())[0] == status


def test_a_page_in_a_browser_cannot_make_things_happen(youmail):
    body = json.dumps({"call": "call", "args": {"account": "7"}}).encode()

    assert control(youmail, "POST", "/_sim/", {"content-type": "text/plain"}, body)[0] == 400
    assert youmail.journal == []


def test_the_server_listens_on_this_machine_only(server):
    assert server.url.startswith("http://127.0.0.1:")


def test_it_runs_as_a_process_of_its_own():
    command = [sys.executable, "-m", "local.server", "youmail"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        word, _, url = process.stdout.readline().strip().partition("=")
        connection = HTTPConnection(urlsplit(url).netloc, timeout=5)
        response, body = ask(connection, "GET", SAMPLE_PATH)
        connection.close()
        process.terminate()

    assert word == "ready youmail"
    assert (response.status, body) == (200, f"{SAMPLE}\n".encode())
