"""The README's provider is one: what it shows is what a newcomer will copy."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml
from pollwire.errors import Misconfigured
from pollwire.model import Account, Seen, Start

from tests.contract import driver

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
HOST = "https://api.acme.example"
ACCOUNT = Account("shop", "7", {"api": HOST}, credential={"api_key": "CANARY"})


class Simulator:
    """Tickets in pages of two, with an ETag."""

    def __init__(self, *tickets):
        self.tickets = list(tickets)

    def handle(self, method, path, query, headers, body):
        assert headers["authorization"] == "Bearer CANARY"
        etag = f'"{hash(str(self.tickets))}"'
        if headers.get("if-none-match") == etag:
            return 304, {"etag": etag}, b""
        since, page = int(query.get("updated_since", 0)), int(query.get("page", 1))
        found = [one for one in self.tickets if one.get("updated", since) >= since]
        answer = {"tickets": found[2 * page - 2 : 2 * page], "more": len(found) > 2 * page}
        return 200, {"etag": etag}, json.dumps(answer).encode()


@pytest.fixture
def acme():
    (source,) = [block for block in BLOCKS if "class Acme" in block]
    names: dict = {}
    exec(source, names)  # noqa: S102 - it is our own README
    return names["Acme"]()


def ticket(number, **fields):
    return {"id": number, "updated": number * 1000, **fields}


def test_an_unchanged_answer_is_the_one_that_was_seen(acme):
    wire = driver.Wire(Simulator(ticket(1)), [HOST])
    first = driver.run(acme.check(ACCOUNT, Seen()), wire)

    assert first.etag
    assert driver.run(acme.check(ACCOUNT, first), wire) is first
    assert acme.marks(ACCOUNT, first.raw) == {"tickets": first.raw}


def test_every_page_is_read_from_the_start_asked_for(acme):
    wire = driver.Wire(Simulator(*map(ticket, range(1, 6))), [HOST])

    everything = driver.rows(acme, ACCOUNT, "tickets", wire)
    newer = driver.rows(acme, ACCOUNT, "tickets", wire, Start(since_ms=4000))

    assert [row.id for row in everything] == ["1", "2", "3", "4", "5"]
    assert [row.id for row in newer] == ["4", "5"]


def test_a_bad_row_stands_beside_a_good_one(acme):
    wire = driver.Wire(Simulator({"id": True, "updated": 1}, ticket(2, deleted=True)), [HOST])

    (page,) = driver.pages(acme, ACCOUNT, "tickets", wire)

    assert [(row.id, row.deleted) for row in page.rows] == [("2", True)]
    assert len(page.bad) == 1


def test_a_missing_key_is_named(acme):
    with pytest.raises(Misconfigured, match=r"credential\.api_key"):
        driver.run(acme.check(Account("shop", "7", {"api": HOST}), Seen()), None)


def test_the_filters_of_the_readme_compile():
    (source,) = [block for block in BLOCKS if "compile_filters" in block]
    names: dict = {}
    exec(source, names)  # noqa: S102 - it is our own README
    (contacts,) = [one for one in ast.parse(source).body if isinstance(one, ast.Expr)]
    written = re.findall(r"^pollwire (?:subscribe|tail) .*$", README, re.MULTILINE)
    paths = [re.findall(r"'(/[^']+)'", line) for line in written]

    assert eval(ast.unparse(contacts), names)["change"] == ["deleted"]  # noqa: S307
    fax, deleted, created = [names["compile_filters"](one, names["streams"]) for one in paths]
    assert fax["type"] == ["Fax"]
    assert len(deleted["$or"]) == 2
    assert created == {"change": ["created"]}


def test_the_walks_of_recovery_are_tested_where_they_say_so():
    text = (ROOT / "docs" / "recovery.md").read_text()
    named = set(re.findall(r"tests/[a-z_0-9/]+\.(?:py|json)", text))
    walks = text.split("\n## ")[1:]

    assert len(walks) == 6
    assert all("*It worked* when" in one and "(`tests/" in one for one in walks)
    assert [name for name in named if not (ROOT / name).exists()] == []
    parameters = yaml.safe_load(re.sub(r"!\w+", "", (ROOT / "template.yaml").read_text()))
    assert set(re.findall(r"\b(State[A-Za-z]+)=", text)) <= parameters["Parameters"].keys()
