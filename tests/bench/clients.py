"""
Who polls: Pollwire's check stage, and three clients that do no more than to ask and to compare.

Each polls every account once when it is called, over connections that it keeps, and raises if an
answer is not the one that is stored.
"""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import os
import queue
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

from tests.bench import accounts

Poller = Callable[[], None]


class Pollwire:
    """
    The whole check stage: its Lambda handler, from the SQS event to the log line.

    Attributes:
        calls: What it asked of AWS, by operation.
    """

    def __init__(self, host: str, number: int, *, validated: bool, shards: int = 1) -> None:
        from tests.bench.aws import ENVIRONMENT, Aws

        os.environ |= {**ENVIRONMENT, "ALLOWED_HOSTS": host}
        aws = Aws(host, number, validated=validated, shards=shards)
        aws.install()
        self.calls = aws.calls
        self._said = sys.stdout = io.StringIO()  # Lambda takes what is logged from there.
        self._handler = importlib.import_module("functions.check.app").handler
        self._number = number
        self._context = SimpleNamespace(
            function_name="check",
            memory_limit_in_mb=512,
            invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:check",
            aws_request_id="bench",
        )

    def __call__(self) -> None:
        polled = self.check(0)
        if polled != self._number:
            raise AssertionError(f"not all were polled: {polled}")

    def check(self, shard: int) -> int:
        """Check a shard; return how many accounts were polled."""
        job = {"connection": "bench", "shard": shard, "due_ms": time.time_ns() // 1_000_000}
        record = {
            "messageId": "bench",
            "receiptHandle": "bench",
            "body": json.dumps({**job, "interval_s": 60, "after_s": 0}),
            "attributes": {"ApproximateReceiveCount": "1"},
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:checks",
            "awsRegion": "us-east-1",
        }
        answer = self._handler({"Records": [record]}, self._context)
        metrics = json.loads(self._said.getvalue().splitlines()[-1])
        self._said.seek(0)
        self._said.truncate()
        if answer["batchItemFailures"]:
            raise AssertionError(f"the check failed: {metrics}")
        if any(metrics.get(name, [0]) != [0] for name in ("failed", "changed", "unasked")):
            raise AssertionError(f"an idle account is not: {metrics}")
        return int(metrics["polled"][0])


class Pycurl:
    """A multi handle, easy handles that are used again, and nothing that keeps them in bounds."""

    def __init__(self, host: str, number: int, *, validated: bool) -> None:
        import pycurl

        self._curl, self._host, self._validated = pycurl, host, validated
        self._stored = _stored(number)
        self._multi = pycurl.CurlMulti()
        self._idle: list[Any] = []
        for _ in range(accounts.CONNECTIONS):
            handle = pycurl.Curl()
            handle.body = []
            handle.setopt(pycurl.WRITEFUNCTION, handle.body.append)
            self._idle.append(handle)

    def __call__(self) -> None:
        todo, busy = iter(self._stored.items()), 0
        while True:
            while self._idle and (found := next(todo, None)):
                self._begin(*found)
                busy += 1
            if not busy:
                return
            self._multi.perform()
            _, ended, failed = self._multi.info_read(accounts.CONNECTIONS)
            for handle in ended:
                self._end(handle)
            busy -= len(ended)
            if failed:
                raise AssertionError(failed[0][1:])
            if not ended:
                self._multi.select(1.0)

    def _begin(self, account: str, text: str) -> None:
        handle = self._idle.pop()
        handle.text = text
        handle.body.clear()
        handle.setopt(self._curl.URL, self._host + accounts.path(account))
        if self._validated:
            handle.setopt(self._curl.HTTPHEADER, [f"If-None-Match: {accounts.etag(account)}"])
        self._multi.add_handle(handle)

    def _end(self, handle: Any) -> None:
        status = handle.getinfo(self._curl.RESPONSE_CODE)
        _compare(status, b"".join(handle.body).decode(), handle.text, self._validated)
        self._multi.remove_handle(handle)
        self._idle.append(handle)


class Requests:
    """A Session a thread; threads take from one iterator."""

    def __init__(self, threads: int, host: str, number: int, *, validated: bool) -> None:
        import requests

        self._host, self._validated, self._stored = host, validated, _stored(number)
        self._sessions = [requests.Session() for _ in range(threads)]

    def __call__(self) -> None:
        todo = queue.SimpleQueue[tuple[str, str]]()
        for found in self._stored.items():
            todo.put(found)
        with ThreadPoolExecutor(len(self._sessions)) as pool:
            for ended in [pool.submit(self._work, one, todo) for one in self._sessions]:
                ended.result()

    def _work(self, session: Any, todo: queue.SimpleQueue[tuple[str, str]]) -> None:
        with suppress(queue.Empty):
            while True:
                account, text = todo.get_nowait()
                headers = _headers(account, self._validated)
                answer = session.get(self._host + accounts.path(account), headers=headers)
                _compare(answer.status_code, answer.text, text, self._validated)


def aiohttp_tasks(host: str, number: int, *, validated: bool) -> Poller:
    """One ClientSession; tasks take from one iterator."""
    import aiohttp

    stored = _stored(number)
    loop = asyncio.new_event_loop()

    async def opened() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=accounts.CONNECTIONS)
        return aiohttp.ClientSession(connector=connector)

    session = loop.run_until_complete(opened())

    async def work(todo: Any) -> None:
        for account, text in todo:
            headers = _headers(account, validated)
            async with session.get(host + accounts.path(account), headers=headers) as answer:
                _compare(answer.status, await answer.text(), text, validated)

    async def pass_over() -> None:
        todo = iter(stored.items())
        await asyncio.gather(*(work(todo) for _ in range(accounts.CONNECTIONS)))

    return lambda: loop.run_until_complete(pass_over())


#: By the names that are printed. The bare loop is what the others are compared with.
CLIENTS: dict[str, Callable[..., Poller]] = {
    "pycurl, bare": Pycurl,
    "Pollwire": Pollwire,
    "aiohttp, 64 tasks": aiohttp_tasks,
    "requests, 16 threads": partial(Requests, 16),
    "requests, 64 threads": partial(Requests, 64),
}


def _stored(number: int) -> dict[str, str]:
    return {one: accounts.answer(one) for one in accounts.ids(number)}


def _headers(account: str, validated: bool) -> dict[str, str]:
    return {"If-None-Match": accounts.etag(account)} if validated else {}


def _compare(status: int, text: str, stored: str, validated: bool) -> None:
    if status != (304 if validated else 200) or (text != stored and not validated):
        raise AssertionError(f"{status} is no answer of an idle account")
