"""No attribute bears one of DynamoDB's reserved words, so that expressions need no aliases."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import moto.dynamodb
import pytest
from pollwire import items
from pollwire.items import Drain, StreamState
from pollwire.model import Connection, Event, Record

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / f"layers/pollwire/pollwire/{name}.py" for name in ("items", "state")]
RESERVED_FILE = Path(moto.dynamodb.__file__).parent / "parsing/reserved_keywords.txt"
RESERVED = frozenset(RESERVED_FILE.read_text().upper().split())

#: Words of an expression, and types of a value, that are no attributes.
GRAMMAR = frozenset({"SET", "ADD", "REMOVE", "DELETE", "AND", "OR", "NOT"})
TYPES = frozenset({"S", "N", "B", "SS", "NS", "BOOL", "NULL", "M", "L"})


def built() -> set[str]:
    """Attributes of items, every field of every noun filled."""
    record = Record("sha256:x", 1, "d", "u", 2, True, 3, "b", 4, "Fax", "Inbound", "101")
    event = Event("u", "b", {}, "g", "e")
    state = StreamState(1, 2, 3, "p", 4, Drain("live", 0, "", "", 0, 0), (event,), 5)
    connection = Connection("acme", "youmail", credential=b"sealed")
    update = items.cursor_update("t", "p", state, state)
    return {
        *items.connection_item(connection),
        *items.record_item(record),
        *items.key("pk", "sk"),
        *in_expression(update["UpdateExpression"]),
        *in_expression(update["ConditionExpression"]),
    }


def strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def in_expression(text: str) -> Iterator[str]:
    """Names in a text, if it is (a part of) an expression."""
    yield from re.findall(r"(?<![:\w])([a-z]\w*) = :", text)
    yield from re.findall(r"(?:attribute_exists|attribute_not_exists|begins_with)\((\w+)", text)
    for names in re.findall(r"\b(?:REMOVE|ADD|DELETE) ([\w, ]+)", text):
        yield from (name for name in re.split(r"[, ]+", names) if name not in GRAMMAR)


def in_source(tree: ast.AST) -> Iterator[str]:
    """Names that items are read and written by: keys of literals, subscripts, arguments."""
    for text in strings(tree):
        yield from in_expression(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            yield from (key.value for key in node.keys if isinstance(key, ast.Constant))
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            # Those of "values" are placeholders; the expressions that are built name the rest.
            if getattr(node.value, "id", "") != "values":
                yield str(node.slice.value)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "").startswith("_read_"):
            yield from (one.value for one in node.args if isinstance(one, ast.Constant))


def attributes() -> set[str]:
    found = built()
    for path in SOURCES:
        found |= set(in_source(ast.parse(path.read_text())))
    return {one for one in found if one[:1].islower() and one not in TYPES}


def test_the_list_of_reserved_words_is_there():
    assert {"SHARD", "STATUS", "NAME", "TTL"} <= RESERVED


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("pk", id="key"),
        pytest.param("sk", id="sort key"),
        pytest.param("marks", id="set by an expression"),
        pytest.param("pending", id="added to and deleted from"),
        pytest.param("not_before", id="removed"),
        pytest.param("failures", id="counted"),
        pytest.param("version", id="fence"),
        pytest.param("outbox", id="computed name"),
        pytest.param("drained_at", id="computed name, too"),
        pytest.param("standing", id="only read"),
        pytest.param("reason", id="of a row that cannot be read"),
        pytest.param("trouble_at", id="second of an expression"),
        pytest.param("full_id", id="of a record with a long id"),
        pytest.param("requests_per_second", id="of a connection"),
    ],
)
def test_the_search_finds_the_attributes_there_are(name):
    assert name in attributes()


def test_no_attribute_is_a_reserved_word():
    assert {one for one in attributes() if one.upper() in RESERVED} == set()
