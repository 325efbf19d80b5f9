"""
No secret is seen in any test: in what is logged at DEBUG, printed, raised, queued, written, told.

    logs      whatever reaches the root logger, with its traceback
    prints    stdout and stderr, also where a test reads them itself
    errors    the text of every error that the product makes
    calls     the parameters of every call to AWS but those to KMS

And nothing that people said, nor a number of theirs, in the functions' own log. No test connects to
another machine.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.client import BaseClient
from pollwire.errors import PollwireError

from tests.canaries import WATCH, holds_credential

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def pytest_configure() -> None:
    # moto's own parsers say what they parse, word by word.
    logging.getLogger("moto").setLevel(logging.INFO)
    connect = socket.socket.connect
    make, call = PollwireError.__init__, BaseClient._make_api_call
    read: Any = pytest.CaptureFixture.readouterr

    def made(error: PollwireError, *args: Any, **named: Any) -> None:
        WATCH.look("an error", str(args))
        make(error, *args, **named)

    def called(client: BaseClient, operation: str, params: Any) -> Any:
        service = client.meta.service_model.service_name
        if service != "kms" and holds_credential(repr(params)):
            WATCH.seen.append(f"{service}.{operation}")
        return call(client, operation, params)

    def told(capture: Any) -> Any:
        found = read(capture)
        WATCH.look("stdout or stderr", f"{found.out} {found.err}")
        return found

    def connected(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in LOOPBACK:
            raise AssertionError(f"a connection to {address[0]}")
        connect(self, address)

    socket.socket.connect = connected  # type: ignore[method-assign]
    PollwireError.__init__ = made  # type: ignore[method-assign]
    BaseClient._make_api_call = called  # type: ignore[method-assign]
    pytest.CaptureFixture.readouterr = told  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def everything_at_debug() -> Iterator[None]:
    WATCH.seen.clear()
    root = logging.getLogger()
    level = root.level
    root.addHandler(WATCH)
    root.setLevel(logging.DEBUG)
    yield
    root.removeHandler(WATCH)
    root.setLevel(level)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    report: Any = yield
    if report.when == "teardown" and report.passed:
        for name, text in report.sections:
            if name.startswith("Captured std"):
                WATCH.look(name, text)
        if WATCH.seen:
            report.outcome, report.longrepr = "failed", f"a secret is seen: {WATCH.seen[:5]}"
    return report
