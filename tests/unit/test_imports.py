"""Imports point one way: functions, command -> wiring -> pipeline -> adapters -> pure -> nouns."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "layers/pollwire/pollwire"

#: Each module may import from the lines above its own. A provider is named "providers".
ORDER = [
    {"errors"},
    {"exchange", "tokens"},
    {"model"},
    {"due", "marks", "events", "filters", "items", "http"},
    {"decide"},
    {"providers", "state", "queues", "secrets"},
    {"registry", "world"},
    {"batches", "drain"},
    {"pipeline", "push"},
    {"wiring"},
]
LEVELS = {name: level for level, names in enumerate(ORDER) for name in names}

#: Who may import what does I/O.
ADAPTERS = {
    "boto3": {"wiring"},
    "botocore": {"state", "queues", "secrets", "wiring", "batches"},
    "requests": {"http"},
    "urllib3": {"http"},
    "pycurl": {"http"},
    "socket": {"http"},
    "certifi": {"http"},
}

PURE = (
    "due",
    "marks",
    "decide",
    "events",
    "filters",
    "items",
    "model",
    "exchange",
    "tokens",
    "errors",
)
IMPURE = {
    "time", "random", "secrets", "os", "io", "pathlib", "socket", "ssl", "http", "urllib.request",
    "threading", "subprocess", "logging", "boto3", "botocore", "requests", "urllib3", "pycurl",
}  # fmt: skip
CLOCKS = {"now", "utcnow", "today", "time", "time_ns", "monotonic", "uuid1", "uuid4", "urandom"}

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
FUNCTIONS = sorted((ROOT / "functions").glob("*/*.py"))
COMMAND = sorted((ROOT / "cli/pollwire_cli").glob("*.py"))

#: The command's modules, likewise: each may import from the lines above its own.
COMMAND_ORDER = [
    {"output", "recent", "secret", "session"},
    {"lines", "logs", "command"},
    {"importing", "connections", "queues"},
    {"accounts", "subscribers", "stuck"},
    {"deadletters", "streams"},
    {"subscriptions", "status", "orders"},
    {"tail", "redrive", "health"},
    {"doctor"},
    {"app"},
    {"__main__"},
]
COMMAND_LEVELS = {name: level for level, names in enumerate(COMMAND_ORDER) for name in names}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports, those inside functions among them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(path: Path) -> set[str]:
    """Modules of ours that a file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("pollwire.")}


def test_every_module_has_its_place():
    assert {name_of(path) for path in MODULES} == set(LEVELS)


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_a_module_imports_only_what_lies_below_it(path):
    name = name_of(path)

    wrong = {one for one in own(path) - {name} if LEVELS[one] >= LEVELS[name]}

    assert wrong == set()


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent.name == "providers"], ids=label)
def test_a_provider_imports_neither_state_nor_another_provider(path):
    common = {one for one in imports(path) if one.startswith("pollwire.providers.")}
    others = {path.stem for path in MODULES if path.parent.name == "providers"} - {"__init__"}

    if path.name != "__init__.py":
        assert {one.split(".")[2] for one in common}.isdisjoint(others)
        assert own(path) <= {"errors", "exchange", "model", "providers"}
    else:
        assert own(path) <= {"errors", "exchange", "model", "events", "providers"}


@pytest.mark.parametrize("path", FUNCTIONS, ids=label)
def test_a_function_imports_only_the_layers(path):
    found = {name.split(".")[0] for name in imports(path)}

    assert found <= {"__future__", "typing", "datetime", "pollwire", "aws_lambda_powertools"}


def test_every_module_of_the_command_has_its_place():
    assert {path.stem for path in COMMAND} == {"__init__", *COMMAND_LEVELS}


@pytest.mark.parametrize("path", COMMAND, ids=label)
def test_a_module_of_the_command_imports_only_what_lies_below_it(path):
    found = {name.split(".")[1] for name in imports(path) if name.startswith("pollwire_cli.")}

    assert not found or max(COMMAND_LEVELS[one] for one in found) < COMMAND_LEVELS[path.stem]


@pytest.mark.parametrize("path", COMMAND, ids=label)
def test_the_command_imports_only_what_it_is_installed_with(path):
    found = {name.split(".")[0] for name in imports(path)}

    installed = {"boto3", "botocore", "pollwire", "pollwire_cli", "rich", "typer"}
    assert found <= installed | sys.stdlib_module_names


@pytest.mark.parametrize("path", [*MODULES, *FUNCTIONS], ids=label)
def test_no_part_of_lambda_imports_the_command(path):
    assert {name.split(".")[0] for name in imports(path)}.isdisjoint(
        {"pollwire_cli", "typer", "rich"}
    )


@pytest.mark.parametrize("path", FUNCTIONS, ids=label)
def test_a_function_is_wiring_only(path):
    lines = [line for line in path.read_text().splitlines() if line.strip()]

    assert len(lines) <= 40


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_only_adapters_import_what_does_io(path):
    found = {name.split(".")[0] for name in imports(path)}

    wrong = {one for one in found & set(ADAPTERS) if name_of(path) not in ADAPTERS[one]}

    assert wrong == set()


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_imports_no_clock_no_chance_and_no_io(name):
    found = set(imports(PACKAGE / f"{name}.py"))

    wrong = {one for one in found for bad in IMPURE if one == bad or one.startswith(f"{bad}.")}

    assert wrong == set()


@pytest.mark.parametrize("name", [*PURE, "providers"])
def test_a_pure_module_asks_no_clock(name):
    path = PACKAGE / f"{name}.py"
    paths = [path] if path.exists() else sorted((PACKAGE / name).glob("*.py"))
    calls = {
        node.func.attr
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }

    assert calls & CLOCKS == set()
