"""The deployed system on moto, beside providers that do what providers should not."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace

import pytest
from pollwire import wiring
from pollwire.http import Http

from local.simulators.intelli import Intelli
from local.simulators.kirimdev import Kirimdev
from local.simulators.ringcentral import RingCentral
from local.simulators.youmail import YouMail
from tests.hostile.pipeline import SHORT, Hostile, Scene, inbox, office, phones, sms
from tests.hostile.servers import Server
from tests.integration.conftest import (  # noqa: F401 (fixtures)
    apps,
    clients,
    everything_logged,
    logs,
    system,
)

STAGES = {
    "youmail": (YouMail, phones),
    "intelli": (Intelli, sms),
    "kirimdev": (Kirimdev, inbox),
    "ringcentral": (RingCentral, office),
}


@pytest.fixture(autouse=True)
def case(request):
    """Gives a test that is about one hostile input its number: see ``pipeline.case``."""
    return getattr(request, "param", "")


@pytest.fixture
def tools(logs, everything_logged, monkeypatch):  # noqa: F811
    """What a scene reads the logs with; botocore's own would only take time."""
    for name in ("botocore", "boto3", "moto", "urllib3", "responses"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.WARNING)
        logging.getLogger(name).manager._clear_cache()
    return {"logs": logs, "logged": everything_logged}


@pytest.fixture
def stage(system, tools):  # noqa: F811
    """Connect two accounts of a provider, settled: whatever comes now is news."""

    def staged(provider: str, *, skew_s: float = 0, stream: str = "", **knobs) -> Scene:
        simulator, scenery = STAGES[provider]
        hostile = Hostile(simulator(lambda: system.clock() / 1000 + skew_s, **knobs))
        followed = {"stream": stream} if stream else {}
        scene = scenery(system, hostile, **followed, **tools)
        scene.settle()
        return scene

    return staged


@pytest.fixture
def shop(stage):
    """Two accounts of YouMail that follow their contacts."""
    return stage("youmail")


@pytest.fixture
def wired(system, tools, monkeypatch):  # noqa: F811
    """The same over real sockets: the real transport, its limits short, and a server."""
    real = wiring.build
    with ExitStack() as stack:

        def staged(*allowed: str) -> Scene:
            hostile = Hostile(YouMail(lambda: system.clock() / 1000))
            server = stack.enter_context(Server(hostile.script))
            bases = (server.base, server.base.replace("127.0.0.1", "localhost"), *allowed)
            monkeypatch.setenv("ALLOWED_HOSTS", ",".join(bases))

            def build(settings):
                world = real(settings)
                http = Http(world.hosts, limits=SHORT)
                stack.callback(http.close)
                return replace(world, http=http)

            monkeypatch.setattr(wiring, "build", build)
            wiring.world.cache_clear()
            scene = phones(system, hostile, base=server.base, **tools)
            scene.server = server
            scene.settle()
            return scene

        yield staged
