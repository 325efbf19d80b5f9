"""Real children, and theirs: none is left behind, and one that ends is told of."""

from __future__ import annotations

import errno
import os
import re
import select
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from local import processes
from local.processes import Failed, Processes, Progress, Stop, Stopped, guard

ROOT = Path(__file__).parents[2]

#: Whatever is waited for takes milliseconds; a test that fails waits this long.
LIMIT_S = 20

#: Says that it is there through a pipe that it holds open, and ignores every request to end.
STUBBORN = "trap '' TERM INT HUP; exec 3>\"$WITNESS\"; echo here >&3; exec sleep 60"

#: Has a stubborn child and ends when asked.
PARENT = f"({STUBBORN}) & exec sleep 60"

PROGRAM = """
import os, sys
from pathlib import Path
from local.processes import Processes, Stop, guard

stop = Stop()
stop.listen()

def main():
    with Processes(Path(sys.argv[1]), stop) as processes:
        processes.start("parent", sys.argv[2:], os.environ)
        while True:
            processes.check()
            stop.pause(60)

sys.exit(guard(main))
"""


class Witness:
    """The other end of a pipe that a process holds open: tells when it is there, and gone."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.environment = {**os.environ, "WITNESS": str(path)}
        self._pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def is_here(self) -> bool:
        return self._read() == b"here\n"

    def is_gone(self) -> bool:
        return self._read() == b""

    def close(self) -> None:
        os.close(self._pipe)

    def _read(self) -> bytes | None:
        ready, _, _ = select.select([self._pipe], [], [], LIMIT_S)
        return os.read(self._pipe, 100) if ready else None


@pytest.fixture
def witness(tmp_path):
    witness = Witness(tmp_path / "witness")
    yield witness
    witness.close()


@pytest.fixture
def stop():
    return Stop()


@pytest.fixture
def children(tmp_path, stop, monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE_S", 0.2)
    with Processes(tmp_path / "logs", stop) as children:
        yield children


def shell(text):
    return ["/bin/sh", "-c", text]


@pytest.mark.parametrize("number", processes.SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_us_and_a_grandchild_that_ignores_it(tmp_path, witness, number):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "logs"), *shell(PARENT)]
    with subprocess.Popen(  # noqa: S603
        command, cwd=ROOT, env=witness.environment, stderr=subprocess.PIPE, text=True
    ) as program:
        try:
            assert witness.is_here()
            program.send_signal(number)
            _, complaint = program.communicate(timeout=LIMIT_S)
        finally:
            program.kill()

    assert (program.returncode, complaint) == (130, "pollwire: stopped\n")
    assert witness.is_gone()


@pytest.mark.parametrize("command", [PARENT, STUBBORN], ids=["grandchild", "child"])
def test_leaving_ends_who_ignores_a_request_to_end(children, witness, command):
    child = children.start("one", shell(command), witness.environment)
    assert witness.is_here()

    children.close()

    assert child.poll() is not None
    assert witness.is_gone()


def test_an_error_of_ours_ends_them_too(tmp_path, stop, witness):
    def fail_in_the_middle():
        with Processes(tmp_path / "logs", stop) as children:
            children.start("one", shell(PARENT), witness.environment)
            assert witness.is_here()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle()
    assert witness.is_gone()


def test_a_child_is_asked_before_it_is_killed(tmp_path, stop, witness):
    polite = 'trap "echo goodbye; exit" TERM; echo here >"$WITNESS"; while :; do sleep 0.05; done'
    with Processes(tmp_path / "logs", stop) as children:
        children.start("polite", shell(polite), witness.environment)
        assert witness.is_here()

    assert "goodbye" in children.log("polite").read_text()


def test_what_a_finished_child_left_behind_is_ended(children, witness):
    stubborn = STUBBORN.replace("exec sleep", 'touch "$WITNESS.2"; exec sleep')
    until = 'until [ -e "$WITNESS.2" ] || [ $tries -gt 200 ]'
    command = f"({stubborn}) & tries=0; {until}; do sleep 0.05; tries=$((tries + 1)); done"

    children.run("one", shell(command), witness.environment)

    assert witness.is_here()
    assert witness.is_gone()


def test_a_stop_ends_a_child_that_is_waited_for(children, stop, witness):
    def stop_when_it_is_here():
        assert witness.is_here()
        stop.set()

    waiting = threading.Thread(target=stop_when_it_is_here, daemon=True)
    waiting.start()
    with pytest.raises(Stopped):
        children.run("one", shell(PARENT), witness.environment)
    waiting.join(LIMIT_S)

    assert witness.is_gone()


def test_nothing_is_started_after_a_stop(children, stop, tmp_path):
    stop.set()

    with pytest.raises(Stopped):
        children.start("one", shell(f"touch {tmp_path}/begun"), os.environ)
    children.close()
    assert not (tmp_path / "begun").exists()


@pytest.mark.parametrize(
    ("command", "ending"),
    [
        ("echo some last words; exit 3", "one ended with status 3"),
        ("echo some last words; exit 0", "one ended with status 0"),
        ("echo some last words; kill -9 $$", "one was ended by signal 9"),
    ],
)
def test_a_child_that_ends_is_told_of(children, command, ending):
    child = children.start("one", shell(command), os.environ)
    other = children.start("other", shell("exec sleep 60"), os.environ)
    child.wait(LIMIT_S)

    with pytest.raises(Failed) as failure:
        children.check()

    assert str(failure.value) == (
        f"{ending}; its last lines were\n    some last words\nall of it: {children.log('one')}"
    )
    assert other.poll() is None


def test_children_that_are_there_are_in_order(children):
    children.start("one", shell("exec sleep 60"), os.environ)

    children.check()


def test_of_a_long_log_the_last_lines_are_told(children):
    command = "for n in $(seq 100); do echo line $n; echo; done; echo WARNING: no matter; exit 1"
    with pytest.raises(Failed) as failure:
        children.run("one", shell(command), os.environ)

    lines = [line.strip() for line in str(failure.value).splitlines()[1:-1]]
    assert lines == [f"line {n}" for n in range(89, 101)]


@pytest.mark.parametrize(
    ("remedy", "head"),
    [("eat less", "eat less"), ("", "one ended with status 1; its last lines were")],
)
def test_the_remedy_comes_first_if_there_is_one(children, remedy, head):
    told = []

    def explain(log):
        told.append(log)
        return remedy

    with pytest.raises(Failed) as failure:
        children.run("one", shell("echo too full; exit 1"), os.environ, explain)

    assert str(failure.value).splitlines()[:2] == [head, "    too full"]
    assert told == ["too full\n"]


def test_a_child_that_succeeds_says_nothing_and_may_come_again(children):
    for word in ("first", "second"):
        children.run("one", shell(f"echo {word}"), os.environ)

    assert children.log("one").read_text() == "second\n"
    children.check()


def test_a_program_that_is_missing(children, tmp_path):
    with pytest.raises(Failed, match="no-such-program is missing; run 'make clean' and try again"):
        children.start("one", [tmp_path / "no-such-program"], os.environ)


def test_a_child_gets_its_folder_its_environment_and_no_keyboard(children, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    command = shell('pwd -P; echo "$WORD"; cat')

    children.run("one", command, {"WORD": "hello", "PATH": os.environ["PATH"]}, folder=tmp_path)

    assert children.log("one").read_text() == f"{tmp_path.resolve()}\nhello\n"


# -- stop, guard, progress -----------------------------------------------------------------------


def test_a_stop_stays():
    stop = Stop()
    assert not stop.wait(0)
    stop.check()
    stop.pause(-1)

    stop.set()

    for _ in range(2):
        assert stop.wait(LIMIT_S)
        with pytest.raises(Stopped):
            stop.pause(LIMIT_S)


def test_a_stop_can_be_asked_for_any_number_of_times():
    stop = Stop()
    # A pipe holds 64 KB; a thread, as it might wait for room for ever.
    asking = threading.Thread(target=lambda: [stop.set() for _ in range(100_000)], daemon=True)
    asking.start()
    asking.join(LIMIT_S)

    assert not asking.is_alive()
    assert stop.wait(0)


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "status", "complaint"),
    [
        pytest.param(lambda: 0, 0, "", id="in order"),
        pytest.param(lambda: 7, 7, "", id="its own status"),
        pytest.param(raising(Stopped()), 130, "pollwire: stopped\n", id="stopped"),
        pytest.param(raising(Failed("do this")), 1, "pollwire: do this\n", id="a remedy"),
        *(
            pytest.param(
                raising(OSError(number, "no", "/full")),
                1,
                f"pollwire: {remedy}\n",
                id=errno.errorcode[number],
            )
            for number, remedy in {
                errno.ENOSPC: "the disk is full (/full); make room and try again",
                errno.EDQUOT: "the disk is full (/full); make room and try again",
                errno.EACCES: "not allowed to write here (/full); use a folder that you own",
                errno.EROFS: "not allowed to write here (/full); use a folder that you own",
                errno.EMFILE: f"OSError: [Errno {errno.EMFILE}] no: '/full'",
            }.items()
        ),
        pytest.param(
            raising(OSError(errno.ENOSPC, "no")),
            1,
            "pollwire: the disk is full; make room and try again\n",
            id="of no file",
        ),
    ],
)
def test_what_goes_wrong_is_a_sentence_and_a_status(capsys, main, status, complaint):
    assert guard(main) == status
    assert capsys.readouterr() == ("", complaint)


def test_a_mistake_of_ours_is_a_traceback():
    with pytest.raises(ZeroDivisionError):
        guard(raising(ZeroDivisionError()))


def test_progress_says_what_and_since_when(capsys, monkeypatch):
    clock = SimpleNamespace(monotonic=iter((1_000.0, 1_000.0, 1_083.46)).__next__)
    monkeypatch.setattr(processes, "time", clock)
    say = Progress()
    say("making it")
    say("made")

    assert capsys.readouterr() == (
        "",
        "pollwire    0.0 s  making it\npollwire   83.5 s  made\n",
    )


def test_progress_is_seen_at_once():
    """A pipe is not flushed by itself; whoever reads it must not wait for more."""
    program = "from local.processes import Progress; Progress()('begun'); input()"
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stderr is not None
        seen = select.select([child.stderr], [], [], LIMIT_S)[0]
        line = child.stderr.readline() if seen else b""
        child.communicate(b"\n", timeout=LIMIT_S)

    assert re.fullmatch(rb"pollwire +\d+\.\d s  begun\n", line)


def test_signals_are_listened_to():
    """In a process of its own: it takes them over."""
    program = (
        "import os, signal; from local.processes import SIGNALS, Stop; stop = Stop()\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS); stop.listen()\n"
        "assert not stop.wait(0)\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        f"assert stop.wait({LIMIT_S})"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=LIMIT_S)  # noqa: S603
