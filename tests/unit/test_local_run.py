"""
A run against a deployment that is not there: what it prints, and the status it ends with.

Time passes only while the run waits for its queue.
"""

from __future__ import annotations

import errno
import http.client
import itertools
import json
import os
import re
import socket
import sys
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from local import demo, environments, run, stack
from local.board import Accounts, Board
from local.environments import Lock
from local.ledger import Ledger
from local.processes import Failed, Progress, Stop, Stopped
from local.server import serve
from local.simulators import registered
from local.simulators.youmail import YouMail
from local.stack import Ports

#: One thing happens at second 0: a voicemail of the new user, which is a call, too.
ONE_STEP = 1
MADE = ("entry", "history")


class Clock:
    """Stands for the module time. A run that does not end fails some day."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        assert self.now_s < 2_000
        return self.now_s


class Provider:
    """A simulator in this process, as a run sees the one in another."""

    url = "http://127.0.0.1:1"

    def __init__(self, simulator) -> None:
        self._simulator = simulator

    def call(self, method, /, **arguments):
        return getattr(self._simulator, method)(**arguments)

    def journal(self):
        return json.loads(json.dumps(self._simulator.journal))

    def answered(self):
        return {"200": 1}


class Pollwire:
    """
    The deployed system and its subscriber's queue: tells of every change at the providers.

    Attributes:
        delay_s: How long that takes.

        dropped: Streams of which nothing is told.

        times: How often each event is delivered.

        then: Called when an event was taken off the queue.

        on_receive: Called whenever somebody asks.
    """

    def __init__(self, clock, providers) -> None:
        self._clock = clock
        self._providers = providers
        self._queue = []
        self._known = dict.fromkeys(providers, 0)
        self.delay_s = 0.0
        self.dropped = ()
        self.times = 1
        self.deleted = []
        self.on_receive = lambda: None

    def receive_message(self, *, QueueUrl, MaxNumberOfMessages, WaitTimeSeconds):
        assert QueueUrl == "queue"
        self.on_receive()
        self._poll()
        self._clock.now_s += WaitTimeSeconds
        here = [text for at_s, text in self._queue if at_s <= self._clock.now_s]
        here = here[:MaxNumberOfMessages]
        self._queue = [entry for entry in self._queue if entry[1] not in here]
        return {"Messages": [{"Body": text, "ReceiptHandle": text} for text in here]}

    def delete_message(self, *, QueueUrl, ReceiptHandle):
        self.deleted.append((QueueUrl, ReceiptHandle))

    def take_baseline(self) -> None:
        """Know what there is, and tell nothing of it."""
        self._known = {name: len(one.journal()) for name, one in self._providers.items()}

    def _poll(self) -> None:
        for name, provider in self._providers.items():
            changes = provider.journal()
            for number, change in enumerate(changes[self._known[name] :], self._known[name]):
                self._tell(f"{name}-{number}", *change)
            self._known[name] = len(changes)

    def _tell(self, uuid, stream, kind, identity, _, account) -> None:
        if stream in self.dropped:
            return
        body = {"stream": stream, "change": kind, "record": {"id": identity}}
        text = json.dumps({"uuid": uuid, "ownerId": account, "body": body})
        self._queue += [(self._clock.now_s + self.delay_s, text)] * self.times


class Customer:
    """Has its accounts at the providers, and a baseline at once."""

    def __init__(self, stack) -> None:
        self._stack = stack

    def register(self) -> None:
        for provider, accounts in demo.ACCOUNTS.items():
            for account in accounts:
                demo.MAKERS[provider](self._stack.simulators[provider], account)

    def watch(self, provider, account, identity) -> None:
        self._stack.watched.append((provider, account, identity))

    def accounts(self):
        return {name: Accounts(len(all_)) for name, all_ in demo.ACCOUNTS.items()}

    def await_baseline(self, stop) -> None:
        stop.check()
        self._stack.pollwire.take_baseline()


class Deployment:
    """A stack, as far as a run needs one."""

    def __init__(self, clock) -> None:
        self.simulators = {name: Provider(make()) for name, make in registered().items()}
        self.pollwire = Pollwire(clock, self.simulators)
        self.watched = []
        self.outputs = {"SubscriberQueueUrl": "queue"}
        self.processes = SimpleNamespace(check=lambda: None)
        self.on_exit = lambda: None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.on_exit()

    def client(self, service):
        assert service == "sqs"
        return self.pollwire

    def schedule_now(self) -> None:
        pass


@pytest.fixture
def stop():
    return Stop()


@pytest.fixture
def deployment(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(run, "time", clock)
    monkeypatch.setattr(run, "Customer", Customer)
    return Deployment(clock)


@pytest.fixture
def pollwire(deployment):
    return deployment.pollwire


@pytest.fixture
def board():
    return Board(Ledger(), demo.now_ms)


@pytest.fixture
def start(deployment, stop, board):
    return lambda seconds: run.Run(deployment, stop, Progress(), "1", board).run(seconds)


def streams(out):
    return tuple(json.loads(line)["body"]["stream"] for line in out.splitlines())


# -- what comes of a run -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "status", "printed", "summary"),
    [
        pytest.param(
            {},
            0,
            MADE,
            "2 changes at the provider, 2 events received (0 beside these changes), 0 lost, "
            "0 repeated, 0 coalesced",
            id="everything arrived",
        ),
        pytest.param(
            {"delay_s": 60},
            0,
            MADE,
            "2 events received (0 beside these changes), 0 lost",
            id="everything arrived after the last change",
        ),
        pytest.param(
            {"dropped": ("history",)},
            1,
            ("entry",),
            "1 events received (0 beside these changes), 1 lost",
            id="one was lost",
        ),
        pytest.param(
            {"dropped": MADE},
            1,
            (),
            "0 events received (0 beside these changes), 2 lost",
            id="all were lost",
        ),
        pytest.param(
            {"delay_s": 1_000},
            1,
            (),
            "0 events received (0 beside these changes), 2 lost",
            id="too late is lost",
        ),
        pytest.param(
            {"times": 2},
            0,
            ("entry", "entry", "history", "history"),
            "2 events received (0 beside these changes), 0 lost, 2 repeated",
            id="repeated is not lost",
        ),
    ],
)
def test_the_status_is_0_only_if_nothing_was_lost(
    start, pollwire, capsys, knobs, status, printed, summary
):
    vars(pollwire).update(knobs)

    assert start(ONE_STEP) == status
    out, said = capsys.readouterr()
    assert streams(out) == printed
    assert summary in said
    assert [handle for _, handle in pollwire.deleted] == out.splitlines()


def test_what_was_lost_is_named(start, pollwire, board, capsys):
    pollwire.dropped = ("history",)
    start(ONE_STEP)
    assert json.loads(board.shown)["lost"] == 1

    said = capsys.readouterr().err
    assert said.count("lost: ") == 1
    assert f"lost: created {demo.NEW_ACCOUNT}/history/" in said


def test_a_step_happens_every_two_seconds(start, deployment, monkeypatch):
    steps = []
    monkeypatch.setattr(run.Activity, "step", lambda activity: steps.append(run.time.now_s))
    start(9)

    assert [at_s - 1_000 for at_s in steps] == [0, 2, 4, 6, 8]


def test_the_same_seed_makes_the_same_things_happen(stop, deployment, monkeypatch):
    def journals(seed):
        deployment = Deployment(run.time)
        run.Run(deployment, stop, Progress(), seed, Board(Ledger(), demo.now_ms)).run(40)
        return [
            (name, stream, kind, account)
            for name, provider in deployment.simulators.items()
            for stream, kind, _, _, account in provider.journal()
        ]

    monkeypatch.setattr(run, "SETTLE_S", 0)
    assert journals("1") == journals("1") != journals("2")


@pytest.mark.parametrize("seed", ["1", "2"])
def test_every_provider_has_every_kind_of_change(deployment, stop, board, monkeypatch, seed):
    monkeypatch.setattr(run, "SETTLE_S", 0)
    run.Run(deployment, stop, Progress(), seed, board).run(120)
    told = {
        name: {(stream, kind) for stream, kind, *_ in provider.journal()}
        for name, provider in deployment.simulators.items()
    }

    assert told["intelli"] == {("messages", "created")}
    assert told["ringcentral"] == {
        ("message-store", "created"),
        ("message-store", "updated"),
        ("message-store", "deleted"),
        ("presence", "created"),
        ("presence", "updated"),
        ("presence", "deleted"),
    }
    assert told["kirimdev"] == {
        ("conversations", "created"),
        ("conversations", "updated"),
        ("message-status", "created"),
        ("message-status", "updated"),
    }
    streams = {"entry", "history", "contact", "greeting", "ecommerce"}
    assert {stream for stream, _ in told["youmail"]} >= streams


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_all_providers_are_there_from_the_beginning(deployment, board, capsys, seed):
    run.Run(deployment, Stop(), Progress(), seed, board).run(20)
    owners = {json.loads(line)["ownerId"] for line in capsys.readouterr().out.splitlines()}

    assert [name for name, accounts in demo.ACCOUNTS.items() if not owners & {*accounts}] == []


def test_every_message_that_was_sent_is_watched(deployment, stop, board, monkeypatch):
    monkeypatch.setattr(run, "SETTLE_S", 0)
    run.Run(deployment, stop, Progress(), "1", board).run(120)
    journal = deployment.simulators["kirimdev"].journal()

    assert deployment.watched
    assert deployment.watched == [
        ("kirimdev", account, identity)
        for stream, kind, identity, _, account in journal
        if (stream, kind) == ("message-status", "created")
    ]


@pytest.mark.parametrize(
    ("seconds", "status"),
    [
        pytest.param(float("inf"), 0, id="without an end it is the way to end it"),
        pytest.param(600, 130, id="before its end"),
    ],
)
def test_ctrl_c_sums_up_and_calls_nothing_lost(
    start, pollwire, board, stop, capsys, seconds, status
):
    pollwire.dropped = MADE
    pollwire.on_receive = stop.set

    assert start(seconds) == status
    said = capsys.readouterr().err
    assert "2 on their way, 0 lost" in said
    assert "lost: " not in said
    state = json.loads(board.shown)
    assert (state["phase"], state["lost"], state["totals"]["awaited"]) == ("ended", 0, 2)


def test_ctrl_c_while_it_waits_for_the_last_events(start, pollwire, stop, deployment, capsys):
    def stop_after_the_last_change():
        if run.time.now_s > 1_000 + ONE_STEP:
            stop.set()

    pollwire.dropped = MADE
    pollwire.on_receive = stop_after_the_last_change

    assert start(ONE_STEP) == 130
    assert "2 on their way, 0 lost" in capsys.readouterr().err


def test_ctrl_c_before_there_is_a_baseline(start, stop):
    stop.set()

    with pytest.raises(Stopped):
        start(ONE_STEP)


def test_an_event_is_printed_before_it_is_taken_off_the_queue(start, pollwire, capsys):
    seen = []
    pollwire.delete_message = lambda **_: seen.append(capsys.readouterr().out)
    start(ONE_STEP)

    assert tuple(streams(out) for out in seen) == (("entry",), ("history",))


@pytest.mark.parametrize(
    "text", ["x", "[]", "{}", '{"uuid": "1", "ownerId": "2", "body": []}'], ids=repr
)
def test_a_message_that_is_no_event_is_taken_off_and_ends_nothing(start, pollwire, capsys, text):
    pollwire._queue.append((0.0, text))

    assert start(ONE_STEP) == 0
    said = capsys.readouterr()

    assert ("queue", text) in pollwire.deleted
    assert streams(said.out) == MADE
    assert "a message that is no event was in the queue" in said.err


def test_a_reader_that_goes_away_ends_the_run(start, monkeypatch):
    far, near = os.pipe()
    os.close(far)
    with os.fdopen(near, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert start(float("inf")) == 0


def test_a_process_that_ends_ends_the_run(start, deployment):
    def check():
        raise Failed("ministack was ended by signal 9")

    deployment.processes.check = check

    with pytest.raises(Failed, match="ministack was ended"):
        start(float("inf"))


# -- the command ---------------------------------------------------------------------------------


@pytest.fixture
def command(deployment, stop, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(environments, "WORK", tmp_path)
    monkeypatch.setattr(run, "WORK", tmp_path)

    def make(work, stop, say, ports):
        deployment.made_with = work, ports
        return deployment

    monkeypatch.setattr(run, "Stack", make)

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["local", *words])
        return run.main(stop)

    return command


def test_the_command_runs_as_asked(command, deployment, tmp_path, capsys):
    words = ("--seconds", "1", "--port", "8070", "--aws-port", "4566", "--seed", "x")

    assert command(*words) == 0
    assert deployment.made_with == (tmp_path, Ports(8070, 4566))
    assert "(seed x)" in capsys.readouterr().err


def test_the_page_shows_the_run_while_it_lasts_and_when_it_has_ended(
    command, deployment, pollwire, monkeypatch, capsys
):
    states = []

    def look(*_):
        said = capsys.readouterr().err
        states.append((said, read_page(re.search(r"http://127\.0\.0\.1:\d+/", said)[0])))

    monkeypatch.setattr("local.page.LOOKING_S", 0)
    deployment.on_exit = look

    assert command("--seconds", "1") == 0
    ((said, state),) = states
    assert "0.0 s  the page of this run is up: http://127.0.0.1:" in said.splitlines()[0]
    assert (state["phase"], state["lost"]) == ("ended", 0)
    assert state["text"] in said
    assert [one["stream"] for one in state["events"]] == [*reversed(MADE)]
    registered = {one["provider"]: one["registered"] for one in state["providers"]}
    assert registered == {name: len(accounts) for name, accounts in demo.ACCOUNTS.items()}


def test_the_page_says_what_failed(command, deployment, monkeypatch, capsys):
    boards = []
    make = run.Page
    monkeypatch.setattr(run, "Page", lambda board, port: boards.append(board) or make(board, port))

    def check():
        raise Failed("ministack was ended by signal 9")

    deployment.processes.check = check
    with pytest.raises(Failed):
        command("--seconds", "1")

    state = json.loads(boards[0].shown)
    assert (state["phase"], state["text"]) == ("failed", "ministack was ended by signal 9")


def test_a_long_look_at_accounts_takes_a_tenth_of_the_time(start, deployment, monkeypatch):
    looks = []

    def look(customer):
        looks.append(run.time.now_s)
        run.time.now_s += 6
        return {}

    monkeypatch.setattr(Customer, "accounts", look)
    start(130)

    assert len(looks) > 2
    assert min(later - earlier for earlier, later in itertools.pairwise(looks)) >= 60


def test_the_port_of_the_page_is_as_asked(command, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Failed, match=f"'make run PAGE_PORT={port + 1}'"):
            command("--seconds", "1", "--page-port", str(port))

    assert command("--seconds", "1", "--page-port", str(port)) == 0
    assert f"http://127.0.0.1:{port}/" in capsys.readouterr().err


def read_page(url):
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    connection.request("GET", "/state.json")
    return json.load(connection.getresponse())


def test_what_the_makefile_leaves_empty_is_the_default(command, deployment, stop, tmp_path):
    deployment.pollwire.on_receive = stop.set  # Or it would have no end.

    assert command("--seconds", "", "--seed", "1", "--port", "", "--aws-port", "") == 0
    assert deployment.made_with == (tmp_path, Ports(0, 0))


def test_nobodys_account_is_used(command, monkeypatch):
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "real")
    command("--seconds", "1")

    assert not [name for name in os.environ if name.startswith("AWS_")]


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        *(
            (("--seconds", text), "a whole number of seconds is needed, as in SECONDS=90")
            for text in ("90s", "1.5", "-5", "1e3", "inf", " ")
        ),
        *(
            ((option, text), f"^{name}={text}: a number from 1024 to 65000 is needed")
            for option, name in {
                "--port": "PORT",
                "--aws-port": "AWS_PORT",
                "--page-port": "PAGE_PORT",
            }.items()
            for text in ("80", "1023", "65001", "99999", "-1", "http", " ")
        ),
    ],
)
def test_a_number_that_is_none_is_told_with_the_remedy(command, words, remedy):
    with pytest.raises(Failed, match=remedy):
        command(*words)


@pytest.mark.parametrize(
    ("text", "seconds"), [("", float("inf")), ("0", 0.0), ("90", 90.0), ("007", 7.0)]
)
def test_seconds(text, seconds):
    assert run._seconds(text) == seconds


@pytest.mark.parametrize(("text", "port"), [("", 0), ("1024", 1024), ("65000", 65_000)])
def test_port(text, port):
    assert run._port(text) == port


def test_only_one_run_at_a_time(command, deployment):
    with Lock("run", "is me"), pytest.raises(Failed) as failure:
        command("--seconds", "1")

    assert str(failure.value) == (
        f"another make (pid {os.getpid()}) runs here already; stop it with Ctrl-C, or try again "
        "when it has ended"
    )
    assert not hasattr(deployment, "made_with")
    assert command("--seconds", "1") == 0  # And the next one may.


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="http://127.0.0.1:4566"),
        ClientError({"Error": {"Code": "InternalError", "Message": "oh"}}, "ReceiveMessage"),
    ],
    ids=["no connection", "an answer"],
)
def test_trouble_with_the_emulator_names_its_log(command, pollwire, tmp_path, error):
    def fail():
        raise error

    pollwire.on_receive = fail
    with pytest.raises(Failed) as failure:
        command("--seconds", "1")

    assert str(failure.value) == f"{error}; see {tmp_path}/logs/ministack.log"


def test_an_emulator_that_ended_is_the_trouble(command, deployment, pollwire):
    def end():
        def check():
            raise Failed("ministack was ended by signal 9")

        deployment.processes.check = check
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:4566")

    pollwire.on_receive = end

    with pytest.raises(Failed, match="ministack was ended by signal 9"):
        command("--seconds", "1")


# -- a port that somebody else has ---------------------------------------------------------------


@pytest.mark.parametrize(("kind", "variable"), [("provider", "PORT"), ("aws", "AWS_PORT")])
def test_a_port_that_is_taken_is_told_with_the_remedy(tmp_path, kind, variable):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        begun = stack.Stack(tmp_path, Stop(), lambda text: None, Ports(**{kind: port}))
        with pytest.raises(Failed) as failure:
            begun.__enter__()

    message = str(failure.value)
    assert message.startswith(f"port {port} cannot be used ({os.strerror(errno.EADDRINUSE)}); ")
    assert f"'make run {variable}={port + 1}', or none" in message
    # What had been started by then is gone, and so is its scratch space.
    assert not any(simulated.is_up() for simulated in begun.simulators.values())
    assert not (tmp_path / "tmp").exists()


def test_a_port_is_not_taken_by_who_has_just_left_it(tmp_path):
    """A run after a run: connections of the first one linger on its port."""
    with serve({"": YouMail()}) as server:
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while client.recv(1_000):
                pass

    assert stack.choose_port(port, "PORT") == str(port)


def test_a_full_disk_is_told_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=7 * 2**20))
    with pytest.raises(Failed, match="7 MB are free here and 500 are needed; make room"):
        stack.Stack(tmp_path, Stop(), lambda text: None).__enter__()

    assert not list(tmp_path.iterdir())
