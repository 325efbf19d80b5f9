"""The system on moto, made anew for each test; no network, no credentials of anyone."""

from __future__ import annotations

import importlib
import io
import json
import logging
import sys
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import boto3
import pytest
from moto import mock_aws
from pollwire import wiring
from pollwire.secrets import Sealer

from local.simulators.youmail import YouMail
from tests import stack
from tests.integration.system import ANN, Client, Clock, Http, System

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_SESSION_TOKEN": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
}
STAGES = ("schedule", "push", "check", "delta")


@pytest.fixture(scope="session")
def apps():
    """The functions' modules, imported as a cold start does: Powertools reads its settings then."""
    modules = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Pollwire")
        patch.setenv("LOG_LEVEL", "DEBUG")
        for stage in STAGES:
            patch.setenv("POWERTOOLS_SERVICE_NAME", stage)
            name = f"functions.{stage}.app"
            sys.modules.pop(name, None)
            modules[stage] = importlib.import_module(name)
    return modules


@pytest.fixture(scope="session")
def clients():
    """Clients by service, made once: each reads its service's model from disk."""
    session = boto3.Session(region_name=CREDENTIALS["AWS_REGION"])
    return cache(lambda service: session.client(service))


@pytest.fixture
def system(monkeypatch, apps, clients):
    """Everything deployed, nothing connected."""
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        environment = stack.create(clients)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        clock, faults = Clock(), {}
        simulator = YouMail(lambda: clock() / 1000)
        real = wiring.build

        def build(settings):
            world = real(settings)
            return replace(
                world,
                http=Http(world.hosts, simulator, clock),
                sealer=Sealer(Client(clients("kms"), faults), settings.key_arn, clock),
                clock=clock,
                jitter=lambda: 0.5,
                sleep=lambda seconds: clock.sleep(seconds),
            )

        def client(service, config):
            return Client(clients(service), faults)

        monkeypatch.setattr(wiring.boto3, "Session", lambda: SimpleNamespace(client=client))
        monkeypatch.setattr(wiring, "build", build)
        wiring.world.cache_clear()
        yield System(clients, environment, apps, clock, simulator, faults)
        wiring.world.cache_clear()


@pytest.fixture
def ann(system):
    """The system with one account, recorded and settled: whatever comes now is news."""
    system.connect()
    system.add_account(ANN, fields="history,entry,contact,,greeting")  # half of them: it is faster
    system.poll()
    system.poll(120)
    assert system.pending() == set()
    assert system.deliveries() == []
    return system


@pytest.fixture
def logs(apps):
    """What the functions log: a function that returns its lines, as objects."""
    stream = io.StringIO()
    handlers = [handler for app in apps.values() for handler in app.logger.handlers]
    before = [handler.setStream(stream) for handler in handlers]
    for app in apps.values():
        # Loggers are the process's: another test may have had it log less.
        app.logger.setLevel(logging.DEBUG)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    for handler, old in zip(handlers, before, strict=True):
        handler.setStream(old)


@pytest.fixture
def everything_logged(logs):
    """
    All that anything in the process logs, at DEBUG, as one text.

    botocore is left out: it logs bodies, and nothing in Lambda turns it on.
    """
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s %(exc_info)s"))
    handler.addFilter(lambda record: not record.name.startswith(("boto", "moto")))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lambda: stream.getvalue() + json.dumps(logs())
    root.removeHandler(handler)
    root.setLevel(level)
