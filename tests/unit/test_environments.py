"""Making the environments, with an interpreter and a pip that are shell scripts."""

from __future__ import annotations

import ast
import io
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from local import bootstrap, environments
from local.environments import ENVIRONMENTS, Lock, is_made, make_missing
from local.processes import Failed, Processes, Stop, Stopped

ROOT = Path(__file__).parents[2]
LIMIT_S = 20

#: Makes itself an environment's interpreter, and notes what it is asked and in which environment.
INTERPRETER = """#!/bin/sh
here=$(dirname "$FAKE")
echo "$*" >>"$here/calls"
env >>"$here/environment"
case "$2" in
venv) mkdir -p "$3/bin" && cp "$FAKE" "$3/bin/python" && chmod +x "$3/bin/python" ;;
pip) . "$here/pip" ;;
esac
"""


class Tree:
    """A checkout in a folder of its own."""

    def __init__(self, root: Path, fakes: Path) -> None:
        self.root = root
        self.fakes = fakes
        (root / "local").mkdir(parents=True)
        for name in ENVIRONMENTS.values():
            (root / "local" / name).write_text(f"# {name}\n")
        fakes.mkdir()
        self.interpreter = fakes / "python"
        self.interpreter.write_text(INTERPRETER)
        self.interpreter.chmod(0o755)
        self.pip("")

    def pip(self, script: str) -> None:
        """Say what pip does from now on."""
        (self.fakes / "pip").write_text(script)

    def calls(self) -> list[str]:
        """Take the commands that were run since the last time."""
        noted = self.fakes / "calls"
        calls = noted.read_text().splitlines() if noted.exists() else []
        noted.unlink(missing_ok=True)
        return calls


@pytest.fixture
def tree(tmp_path, monkeypatch):
    tree = Tree(tmp_path / "tree", tmp_path / "fakes")
    monkeypatch.setattr(environments, "ROOT", tree.root)
    monkeypatch.setattr(environments, "WORK", tree.root / ".local")
    monkeypatch.setattr(sys, "_base_executable", str(tree.interpreter), raising=False)
    monkeypatch.setenv("FAKE", str(tree.interpreter))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2**40))
    return tree


@pytest.fixture
def made(tree):
    """A tree with both environments, and nothing noted."""
    make_missing(Stop())
    tree.calls()
    return tree


def words(folder, tree):
    """Say what makes an environment, as the scripts are asked for it."""
    pinned = tree.root / "local" / ENVIRONMENTS[folder]
    pip = "--no-input --no-deps --disable-pip-version-check --no-compile --progress-bar=off"
    return [f"-m venv {tree.root / folder}", f"-m pip install {pip} --requirement {pinned}"]


# -- made, and made again ------------------------------------------------------------------------


def test_both_are_made_once(tree, capsys):
    make_missing(Stop())

    assert sorted(tree.calls()) == sorted(words(".venv", tree) + words(".venv-sam", tree))
    assert is_made(".venv")
    assert is_made(".venv-sam")
    said = capsys.readouterr().err
    assert "making .venv and .venv-sam, once" in said
    assert ".venv is ready" in said
    assert ".venv-sam is ready" in said

    make_missing(Stop())
    assert tree.calls() == []
    assert capsys.readouterr() == ("", "")


def forget_the_stamp(tree):
    (tree.root / ".venv" / "pollwire-stamp").unlink()


def cut_the_stamp_short(tree):
    stamp = tree.root / ".venv" / "pollwire-stamp"
    stamp.write_text(stamp.read_text()[:40])


def lose_the_interpreter(tree):
    (tree.root / ".venv" / "bin" / "python").unlink()


def lose_what_the_interpreter_links_to(tree):
    lose_the_interpreter(tree)
    (tree.root / ".venv" / "bin" / "python").symlink_to("/no/such/python")


def pin_something_else(tree):
    (tree.root / "local" / "requirements.txt").write_text("other==1\n")


def remove_it(tree):
    shutil.rmtree(tree.root / ".venv")


@pytest.mark.parametrize(
    "damage",
    [
        forget_the_stamp,
        cut_the_stamp_short,
        lose_the_interpreter,
        lose_what_the_interpreter_links_to,
        pin_something_else,
        remove_it,
    ],
)
def test_one_that_is_not_whole_is_made_again_from_nothing(made, damage):
    leftover = made.root / ".venv" / "leftover"
    leftover.touch()
    damage(made)
    assert not is_made(".venv")

    make_missing(Stop())

    assert made.calls() == words(".venv", made)
    assert is_made(".venv")
    assert not leftover.exists()


@pytest.mark.parametrize("attribute", ["version", "base_prefix"])
def test_both_are_made_again_for_another_interpreter(made, monkeypatch, attribute):
    monkeypatch.setattr(sys, attribute, "another")

    assert [is_made(folder) for folder in ENVIRONMENTS] == [False, False]


def test_both_are_made_again_where_the_tree_was_moved_to(made, monkeypatch):
    moved = made.root.with_name("moved")
    made.root.rename(moved)
    monkeypatch.setattr(environments, "ROOT", moved)

    assert [is_made(folder) for folder in ENVIRONMENTS] == [False, False]


def test_what_failed_has_no_stamp_and_is_made_by_the_next_run(made):
    forget_the_stamp(made)
    made.pip("exit 1")
    with pytest.raises(Failed):
        make_missing(Stop())
    assert not is_made(".venv")

    made.pip("")
    make_missing(Stop())
    assert is_made(".venv")


def test_what_was_stopped_has_no_stamp_and_is_made_by_the_next_run(made, tmp_path):
    forget_the_stamp(made)
    os.mkfifo(tmp_path / "begun")
    made.pip(f"echo begun >{tmp_path}/begun; exec sleep {LIMIT_S}")
    stop = Stop()

    def stop_when_pip_has_begun():
        assert (tmp_path / "begun").read_text() == "begun\n"
        stop.set()

    waiting = threading.Thread(target=stop_when_pip_has_begun, daemon=True)
    waiting.start()
    with pytest.raises(Stopped):
        make_missing(stop)
    waiting.join(LIMIT_S)
    assert not is_made(".venv")

    made.pip("")
    make_missing(Stop())
    assert is_made(".venv")


def test_a_failure_ends_the_other_one_that_is_being_made(tree, tmp_path):
    """Else a missing network would be told of when the last download has given up."""
    begun = tmp_path / "begun"
    tree.pip(
        f"""case "$*" in
        *-sam.txt)
            tries=0
            until [ -e {begun} ] || [ $tries -gt 200 ]; do sleep 0.05; tries=$((tries + 1)); done
            echo Network is unreachable; exit 1 ;;
        *) touch {begun}; exec sleep {LIMIT_S} ;;
        esac"""
    )

    with pytest.raises(Failed, match="the package index cannot be reached"):
        make_missing(Stop())
    assert begun.exists()
    assert not is_made(".venv")


def test_settings_of_the_host_that_lead_elsewhere_are_left_out(tree, monkeypatch):
    for name in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX"):
        monkeypatch.setenv(name, "/elsewhere")
    for name in ("PIP_USER", "PIP_REQUIRE_VIRTUALENV"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    make_missing(Stop())

    given = (tree.fakes / "environment").read_text().splitlines()
    assert not [line for line in given if line.endswith("=/elsewhere")]
    assert {"PIP_USER=0", "PIP_REQUIRE_VIRTUALENV=0"} <= set(given)
    assert "PIP_INDEX_URL=https://mirror.example/simple" in given


# -- what may go wrong ---------------------------------------------------------------------------

NETWORK = (
    "the package index cannot be reached; check the network, or set HTTPS_PROXY, PIP_CERT or "
    "PIP_INDEX_URL as pip knows them, and try again"
)
DISK = "the disk is full; make room and try again"
NO_NAME = (
    "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by "
    "'NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f>: Failed "
    "to establish a new connection: [Errno -3] Temporary failure in name resolution')'\n"
)
NO_VERSIONS = (
    "ERROR: Could not find a version that satisfies the requirement boto3==1 (from versions: none)"
    "\nERROR: No matching distribution found for boto3==1\n"
)
OTHER_VERSIONS = (
    "ERROR: Could not find a version that satisfies the requirement boto3==9 (from versions: 1, 2)"
    "\nERROR: No matching distribution found for boto3==9\n"
)


@pytest.mark.parametrize(
    ("log", "head"),
    [
        pytest.param(NO_NAME + NO_VERSIONS, NETWORK, id="no network"),
        pytest.param(NO_VERSIONS, NETWORK, id="nothing is found at all"),
        pytest.param(
            "ERROR: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", NETWORK, id="TLS"
        ),
        pytest.param(
            "pip._vendor.urllib3.exceptions.ReadTimeoutError: Read timed out.", NETWORK, id="slow"
        ),
        pytest.param("ProxyError('Cannot connect to proxy.')", NETWORK, id="proxy"),
        pytest.param("[Errno 111] Connection refused", NETWORK, id="refused"),
        pytest.param(
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on "
            "device\n",
            DISK,
            id="full disk",
        ),
        pytest.param("OSError: [Errno 122] Disk quota exceeded", DISK, id="quota"),
        pytest.param(NO_NAME + "[Errno 28] No space left on device", DISK, id="the disk first"),
        pytest.param(
            OTHER_VERSIONS,
            "the package index lacks a version that is pinned in local/; if it is a mirror, let "
            "it catch up, or set PIP_INDEX_URL to one that has it",
            id="an old mirror",
        ),
        pytest.param(
            "Segmentation fault", "venv ended with status 1; its last lines were", id="unheard of"
        ),
    ],
)
def test_what_pip_says_becomes_a_remedy(made, tmp_path, log, head):
    forget_the_stamp(made)
    (tmp_path / "said").write_text(log)
    made.pip(f"cat {tmp_path}/said; exit 1")

    with pytest.raises(Failed) as failure:
        make_missing(Stop())

    lines = str(failure.value).splitlines()
    assert lines[0] == head
    assert lines[-1] == f"all of it: {made.root}/.local/logs/venv.log"
    assert (made.root / ".local" / "logs" / "venv.log").read_text() == log


def test_a_disk_that_is_nearly_full_is_told_before_anything_is_made(tree, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=7 * 2**20))

    with pytest.raises(Failed, match="7 MB are free here and 1500 are needed; make room"):
        make_missing(Stop())
    assert tree.calls() == []


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv_is_told_with_the_remedy(tree, monkeypatch, module):
    found = SimpleNamespace(find_spec=lambda name: None if name == module else object())
    monkeypatch.setattr(environments, "importlib", SimpleNamespace(util=found))
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"

    with pytest.raises(Failed, match=f"has no venv module; .*: apt install {re.escape(package)}$"):
        make_missing(Stop())
    assert tree.calls() == []


# -- a second run at the same time ---------------------------------------------------------------


def test_a_second_run_at_the_same_time_is_told_who_is_at_it(tree):
    with Lock("environments", "is me"), pytest.raises(Failed) as failure:
        make_missing(Stop())

    assert str(failure.value) == (
        f"another make (pid {os.getpid()}) makes the environments; wait until it is done"
    )
    assert tree.calls() == []
    make_missing(Stop())  # When it is done.


def test_a_second_run_may_use_what_is_there_already(made):
    with Lock("environments", "is me"):
        make_missing(Stop())


def test_what_another_run_has_just_made_is_not_made_again(tree, monkeypatch):
    """It may be in use by now."""

    def lock(*words):
        with Processes(tree.root / ".local" / "logs", Stop()) as processes:
            for folder in ENVIRONMENTS:
                environments.make(folder, processes)
        tree.calls()
        return Lock(*words)

    monkeypatch.setattr(environments, "Lock", lock)
    make_missing(Stop())

    assert tree.calls() == []


def test_a_lock_goes_with_its_holder_however_that_ends(tree):
    program = (
        "import os, signal, sys; from pathlib import Path; from local import environments\n"
        "environments.WORK = Path(sys.argv[1])\n"
        "lock = environments.Lock('environments', '')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", program, str(tree.root / ".local")]
    ended = subprocess.run(command, cwd=ROOT, check=False, timeout=LIMIT_S)  # noqa: S603
    assert ended.returncode == -9

    make_missing(Stop())
    assert is_made(".venv")


# -- the interpreter, and the command that follows -----------------------------------------------


@pytest.mark.parametrize(
    ("version", "is_right"),
    [
        ((2, 7, 18), False),
        ((3, 6, 15), False),
        ((3, 10, 99), False),
        ((3, 11, 0), True),
        ((3, 13, 5), True),
        ((3, 14, 9), True),
        ((3, 15, 0), False),
        ((4, 0, 0), False),
    ],
)
def test_the_interpreter_is_neither_too_old_nor_too_new(monkeypatch, version, is_right):
    said = io.StringIO()
    interpreter = SimpleNamespace(version_info=version, executable="/bin/python3", stderr=said)
    monkeypatch.setattr(bootstrap, "sys", interpreter)
    monkeypatch.setattr(environments, "main", lambda: 0)

    assert bootstrap.main() == (0 if is_right else 1)
    complaint = (
        f"pollwire: /bin/python3 is Python {version[0]}.{version[1]}; 3.11 to 3.14 is needed. "
        "Install one and name it, as in make run PYTHON=python3.13\n"
    )
    assert said.getvalue() == ("" if is_right else complaint)


def test_an_old_python_gets_as_far_as_that_complaint():
    """It understands the file, which imports nothing but sys before it has complained."""
    text = (ROOT / "local" / "bootstrap.py").read_text()
    tree = ast.parse(text, feature_version=(3, 4))

    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imports] == ["import sys"]
    modern = (ast.JoinedStr, ast.NamedExpr, ast.AnnAssign)
    assert not [node for node in ast.walk(tree) if isinstance(node, modern)]


def test_an_interpreter_that_is_not_there_is_told_by_make():
    command = ["make", "--no-print-directory", "run", "PYTHON=no-such-python", "SECONDS=1"]
    made = subprocess.run(  # noqa: S603
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=LIMIT_S
    )

    assert made.returncode != 0
    assert made.stderr.splitlines()[0] == (
        "pollwire: there is no no-such-python; install Python 3.11 or later, or name one: "
        "make PYTHON=python3.13"
    )


def bootstrapped(made, *command):
    shutil.copytree(ROOT / "local", made.root / "local", dirs_exist_ok=True)
    for folder in ENVIRONMENTS:
        (made.root / folder / "pollwire-stamp").write_text(environments.stamp_text(folder))
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "local.bootstrap", *command],
        cwd=made.root,
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def test_it_becomes_the_command_with_its_words_and_its_status(made):
    ended = bootstrapped(made, "/bin/sh", "-c", 'pwd -P; echo "$1"; exit 7', "x", "two words")

    assert (ended.stdout, ended.stderr) == (f"{made.root.resolve()}\ntwo words\n", "")
    assert ended.returncode == 7


def test_without_a_command_it_makes_what_is_missing_and_no_more(made):
    ended = bootstrapped(made)

    assert (ended.stdout, ended.stderr, ended.returncode) == ("", "", 0)


def test_a_command_that_is_missing_is_no_traceback(made):
    ended = bootstrapped(made, "/no/such/command")

    assert ended.returncode == 1
    assert ended.stderr.startswith("pollwire: ")
    assert ended.stderr.count("\n") == 1
