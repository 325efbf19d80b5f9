"""
The environments that everything else runs in.

    .venv       MiniStack, boto3, what handlers, layers, tests and checks need
    .venv-sam   aws-sam-cli, which pins another botocore
    .venv-peers-*   what Pollwire is compared with; only "make bench-peers" makes them
    .venv-audit     checkov; only "make audit" makes it

Standard library only; see local/bootstrap.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import sys
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from local.processes import SIGNALS, Failed, Processes, Progress, Stop

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".local"
ENVIRONMENTS = {".venv": "requirements.txt", ".venv-sam": "requirements-sam.txt"}
PEERS = {
    f".venv-peers-{name}": f"requirements-peers-{name}.txt" for name in ("airbyte", "singer", "dlt")
}

AUDIT = {".venv-audit": "requirements-audit.txt"}
PINS = ENVIRONMENTS | PEERS | AUDIT

#: Both environments, and pip's scratch space beside them.
DISK_MB = 1500

PROGRESS_S = 5

#: What pip says, and what to do about it.
TROUBLES = (
    ("No space left on device|Disk quota exceeded", "the disk is full; make room and try again"),
    (
        r"from versions: none\)|name resolution|Name or service not known|NewConnectionError"
        "|nodename nor servname|ConnectTimeout|ReadTimeout|Connection refused"
        "|Network is unreachable|ProxyError|SSLError|CERTIFICATE_VERIFY_FAILED"
        "|Connection to .* timed out",
        "the package index cannot be reached; check the network, or set HTTPS_PROXY, PIP_CERT "
        "or PIP_INDEX_URL as pip knows them, and try again",
    ),
    (
        "No matching distribution",
        "the package index lacks a version that is pinned in local/; if it is a mirror, let it "
        "catch up, or set PIP_INDEX_URL to one that has it",
    ),
)


def requirements(folder: str) -> str:
    """Read what is pinned for an environment."""
    return (ROOT / "local" / PINS[folder]).read_text()


def stamp_text(folder: str) -> str:
    """Say what a finished environment was made of; it cannot be moved, so where it is, too."""
    digest = hashlib.sha256(requirements(folder).encode()).hexdigest()
    return f"{digest}\n{sys.version}\n{sys.base_prefix}\n{ROOT / folder}\n"


def is_made(folder: str) -> bool:
    """Tell whether an environment is there, whole, and made of what is pinned now."""
    stamp = ROOT / folder / "pollwire-stamp"
    if not (ROOT / folder / "bin" / "python").exists() or not stamp.exists():
        return False
    return stamp.read_text() == stamp_text(folder)


def make(folder: str, processes: Processes) -> None:
    """Make an environment. The stamp comes last: without it, it is made again."""
    shutil.rmtree(ROOT / folder, ignore_errors=True)
    name = folder.removeprefix(".")
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX")
    }
    environment |= {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    base = getattr(sys, "_base_executable", sys.executable)
    processes.run(name, [base, "-m", "venv", ROOT / folder], environment, explain)
    pip: list[str | Path] = [
        ROOT / folder / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--no-input",
        "--no-deps",
    ]
    pip += ["--disable-pip-version-check", "--no-compile", "--progress-bar=off", "--requirement"]
    pinned = ROOT / "local" / PINS[folder]
    processes.run(name, [*pip, pinned], environment, explain)
    (ROOT / folder / "pollwire-stamp").write_text(stamp_text(folder))


def make_missing(stop: Stop) -> None:
    """
    Make what is missing, both at the same time.

    Raises:
        Failed: Tells what to do.

        Stopped: What was begun is made again by the next run.
    """
    if not _missing():
        return
    _require_tools()
    with Lock("environments", "makes the environments; wait until it is done"):
        # Another run may have made them in between, and uses them by now.
        if missing := _missing():
            _make_all(missing, stop)


def _missing() -> list[str]:
    return [folder for folder in ENVIRONMENTS if not is_made(folder)]


def _make_all(missing: list[str], stop: Stop) -> None:
    say = Progress()
    say(f"making {' and '.join(missing)}, once; this takes a minute or two")
    with Processes(WORK / "logs", stop) as processes, ThreadPoolExecutor() as pool:
        work = {pool.submit(make, folder, processes): folder for folder in missing}
        while work:
            done, _ = wait(work, PROGRESS_S, FIRST_COMPLETED)
            for future in done:
                folder = work.pop(future)
                try:
                    future.result()
                except BaseException:
                    stop.set()  # So that the other one ends, too.
                    raise
                say(f"{folder} is ready")
            for folder in work.values():
                say(f"{folder}: {_last_line(processes.log(folder.removeprefix('.')))}")


class Lock:
    """
    A lock between processes; it goes with its holder, however that ends.

    Args:
        doing: What the holder does, and the remedy, after "another make (pid 12)".

    Raises:
        Failed: Somebody else has it.
    """

    def __init__(self, name: str, doing: str) -> None:
        WORK.mkdir(exist_ok=True)
        path = WORK / f"{name}.lock"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._file, 20).decode().strip()
            os.close(self._file)
            raise Failed(f"another make (pid {holder}) {doing}") from None
        os.truncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode())

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)


def _require_tools() -> None:
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise Failed(
            f"{sys.executable} has no venv module; on Debian and Ubuntu: "
            f"apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        )
    free_mb = shutil.disk_usage(ROOT).free // 2**20
    if free_mb < DISK_MB:
        raise Failed(f"{free_mb} MB are free here and {DISK_MB} are needed; make room")


def explain(log: str) -> str:
    """Say what to do about a failure of pip; empty if that is not known."""
    return next((remedy for pattern, remedy in TROUBLES if re.search(pattern, log)), "")


def _last_line(log: Path) -> str:
    lines: list[str] = []
    with suppress(OSError):
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    shown = [line.strip() for line in lines if not line.startswith(("WARNING", "  "))]
    return re.split(r" \(from|: ", shown[-1])[0][:80] if shown else "making it"


def main() -> int:
    os.chdir(ROOT)
    stop = Stop()
    stop.listen()
    make_missing(stop)
    stop.check()
    command = sys.argv[1:]
    if command:
        # In this process: who signals us, signals the command. One that takes over signals itself
        # gets what comes in between a moment later.
        if command[1:3] == ["-m", "local"]:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        os.execv(command[0], command)  # noqa: S606 - the Makefile's own words
    return 0
