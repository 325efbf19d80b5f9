"""
The whole system on this machine: simulated providers, MiniStack, `sam build`, `sam deploy`.

What is deployed is the template as it is; ``AWS_ENDPOINT_URL`` is all that differs from AWS, and
no production code knows of it.
"""

from __future__ import annotations

import http.client
import json
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from local.environments import ROOT, explain
from local.processes import Failed, Processes, Stop
from local.simulators import registered

PYTHON = Path(sys.executable)
SAM = ROOT / ".venv-sam" / "bin" / "sam"

#: MiniStack takes 12 digits for an access key as the account, and its own key as that of root.
ACCOUNT = "123456789012"
SECRET = "local"  # noqa: S105 - it opens nothing but a server of this machine
REGION = "us-east-1"
STACK = "pollwire"

#: Seconds until a server of ours answers at the latest; it takes one or two.
UP_S = 60

#: What is built, and what MiniStack unpacks for every worker of every function.
DISK_MB = 500

#: A proxy or a certificate of the host has no business between processes of one machine.
LOOPBACK = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Ports:
    """
    Where servers listen.

    Attributes:
        provider: Of the first simulated provider, the others follow; 0 for free ones.

        aws: Of MiniStack; 0 for a free one.
    """

    provider: int = 0
    aws: int = 0


class Stack:
    """
    A running deployment; a context manager that takes all of it away again.

    Attributes:
        simulators: Simulated providers, by name.

        endpoint: Base URL of MiniStack.

        outputs: Of the template, by name.

        processes: What runs.
    """

    def __init__(self, work: Path, stop: Stop, say: Say, ports: Ports | None = None) -> None:
        self._work = work
        self._stop = stop
        self._say = say
        self._ports = ports or Ports()
        self._exit = ExitStack()
        self.simulators: dict[str, Simulated] = {}
        self.endpoint = ""
        self.outputs: dict[str, str] = {}

    def __enter__(self) -> Stack:
        free_mb = shutil.disk_usage(ROOT).free // 2**20
        if free_mb < DISK_MB:
            raise Failed(f"{free_mb} MB are free here and {DISK_MB} are needed; make room")
        self._exit.callback(self._tidy)
        shutil.rmtree(self._work / "tmp", ignore_errors=True)
        (self._work / "tmp").mkdir(parents=True)
        self.processes = self._exit.enter_context(Processes(self._work / "logs", self._stop))
        try:
            self._start_simulators()
            self._start_ministack()
            self._build()
            self.deploy()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._exit.close()

    def _tidy(self) -> None:
        # MiniStack unpacks the layers once a function: some 30,000 files.
        self._say("removing what the emulator unpacked")
        shutil.rmtree(self._work / "tmp", ignore_errors=True)

    def client(self, service: str) -> Any:
        """Make a client with root's credentials, as an operator has."""
        session: Any = boto3.Session(
            aws_access_key_id=ACCOUNT, aws_secret_access_key=SECRET, region_name=REGION
        )
        config = Config(
            proxies={},  # Not None, which means those of the environment.
            connect_timeout=5,
            read_timeout=30,
            retries={"mode": "standard", "total_max_attempts": 3},
        )
        return session.client(service, endpoint_url=self.endpoint, config=config)

    def schedule_now(self) -> None:
        """Have this minute scheduled now: the emulator's scheduler is up to 10 s behind."""
        answer = self.client("lambda").invoke(
            FunctionName=self.outputs["ScheduleFunctionName"], Payload=b"{}"
        )
        if answer.get("FunctionError"):
            text = answer["Payload"].read(2000).decode(errors="replace")
            raise Failed(f"the schedule function failed: {text}")

    def _start_simulators(self) -> None:
        for number, name in enumerate(registered()):
            wanted = self._ports.provider and self._ports.provider + number
            port = choose_port(wanted, "PORT")
            command: list[str | Path] = [PYTHON, "-m", "local.server", name, "--port", port]
            self.processes.start(f"simulator-{name}", command, _clean(), ROOT)
            simulated = Simulated(port)
            self._await(simulated.is_up)
            self.simulators[name] = simulated
            self._say(f"simulated {name} is up: {simulated.url}")

    def _start_ministack(self) -> None:
        port = int(choose_port(self._ports.aws, "AWS_PORT"))
        folder = self._work / "tmp"
        # Named settings only, and for the loopback only: by itself it listens to everybody.
        environment = _clean() | {
            "TMPDIR": str(folder),
            "STATE_DIR": str(folder / "state"),
            "S3_DATA_DIR": str(folder / "s3"),
            "BIND_HOST": "127.0.0.1",
            "MINISTACK_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "IOT_MTLS_ENABLED": "0",
            "AUTH": "true",  # The template's own policies are enforced.
            "LOG_LEVEL": "WARNING",
            "MINISTACK_ACCOUNT_ID": ACCOUNT,
            "MINISTACK_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCOUNT,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }
        self.processes.start("ministack", [PYTHON.with_name("ministack")], environment, folder)
        self.endpoint = f"http://127.0.0.1:{port}"
        self._await(lambda: _answers(port, "/_ministack/health"))
        self._say(f"MiniStack is up: {self.endpoint}")

    def _build(self) -> None:
        folder = self._work / "sam"
        unfinished = self._work / "sam.unfinished"
        if unfinished.exists():
            shutil.rmtree(folder, ignore_errors=True)
        unfinished.touch()
        self._say("sam build")
        command: list[str | Path] = [SAM, "build", "--template-file", ROOT / "template.yaml"]
        command += ["--build-dir", folder / "build", "--cache-dir", folder / "cache"]
        command += ["--config-file", ROOT / "samconfig.toml"]
        command += ["--parameter-overrides", *self._parameters()]
        # Layers are built by this interpreter, and pip may need what the host says of networks.
        environment = {name: value for name, value in os.environ.items() if name[:4] != "AWS_"}
        environment |= _sam() | {"LAYER_PYTHON": str(PYTHON)}
        self.processes.run("build", command, environment, explain, folder=ROOT)
        unfinished.unlink()

    def delete(self) -> None:
        """Delete the deployment; what the template retains stays."""
        self._say("sam delete")
        command: list[str | Path] = ["delete", "--stack-name", STACK, "--region", REGION]
        self._sam_at_aws("delete", [*command, "--no-prompts"])

    def deploy(self, **more: str) -> None:
        """Deploy what was built, with *more* parameters of the template."""
        self._say("sam deploy")
        command: list[str | Path] = ["deploy", "--config-file", ROOT / "samconfig.toml"]
        command += ["--template-file", self._work / "sam" / "build" / "template.yaml"]
        command += ["--stack-name", STACK, "--parameter-overrides", *self._parameters()]
        command += [f"{name}={value}" for name, value in more.items()]
        self._sam_at_aws("deploy", command)
        found = self.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"][0]
        self.outputs = {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}
        self._say(f"{len(self.outputs)} outputs, queue {self.outputs['SubscriberQueueUrl']}")

    def _sam_at_aws(self, name: str, words: list[str | Path]) -> None:
        environment = _clean() | _sam()
        environment |= {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCOUNT,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }
        self.processes.run(name, [SAM, *words], environment, folder=ROOT)
        self.processes.check()

    def _parameters(self) -> list[str]:
        """Name what differs from the template's defaults here."""
        machine = "arm64" if platform.machine().lower() in ("arm64", "aarch64") else "x86_64"
        parameters = {
            "PythonRuntime": f"python{sys.version_info[0]}.{sys.version_info[1]}",
            "Architecture": machine,
            "AllowedHosts": ",".join(one.url for one in self.simulators.values()),
            "Push": "true",
            "Emulator": "true",
        }
        return [f"{name}={value}" for name, value in parameters.items()]

    def _await(self, is_up: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + UP_S
        while not is_up():
            self.processes.check()
            if time.monotonic() > deadline_s:
                raise Failed(f"a server does not answer after {UP_S} s; see {self._work}/logs")
            self._stop.pause(0.05)


class Simulated:
    """A simulated provider that runs in another process."""

    def __init__(self, port: str) -> None:
        self.port = int(port)
        self.url = f"http://127.0.0.1:{port}"

    def is_up(self) -> bool:
        """Tell whether it answers."""
        return _answers(self.port, "/_sim/journal")

    def call(self, method: str, /, **arguments: Any) -> Any:
        """
        Make something happen there: call one of the simulator's methods.

        Raises:
            Failed: It refused.
        """
        body = json.dumps({"call": method, "args": arguments})
        return json.loads(self._request("POST", "/_sim/", body))["result"]

    def journal(self) -> list[list[Any]]:
        """Read every change that was ever made there."""
        journal: list[list[Any]] = json.loads(self._request("GET", "/_sim/journal"))
        return journal

    def answered(self) -> dict[str, int]:
        """Count the requests that it answered so far, by status."""
        answered: dict[str, int] = json.loads(self._request("GET", "/_sim/answered"))
        return answered

    def _request(self, method: str, path: str, body: str | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"the simulated provider is gone: {type(error).__name__}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise Failed(f"the simulated provider refused {body}: {text.decode(errors='replace')}")
        return text


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def choose_port(wanted: int, name: str) -> str:
    """
    Check that a port is free, or pick one.

    Args:
        wanted: 0 for any.

        name: Of the variable that says which.

    Raises:
        Failed: It is not.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
            probe.listen(1)
        except OSError as error:
            raise Failed(
                f"port {wanted} cannot be used ({error.strerror}); name another one, as in "
                f"'make run {name}={wanted + 1}', or none, and a free one is taken"
            ) from error
        return str(probe.getsockname()[1])


def _clean() -> dict[str, str]:
    """Make an environment with nothing of the host's in it but where programs are."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "USER")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    return environment | LOOPBACK | {"PYTHONUNBUFFERED": "1"}


def _sam() -> dict[str, str]:
    """What any `sam` needs here: the interpreter of the right version, and no one's account."""
    return LOOPBACK | {
        "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "SAM_CLI_TELEMETRY": "0",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
