"""
DynamoDB's values and expressions, parsed once and kept as plain functions.

    condition      attribute_exists(a) AND (NOT b < :v OR size(c) IN (:x, :y))
    key condition  pk = :pk AND begins_with(sk, :prefix)
    update         SET a = if_not_exists(a, :zero) + :one REMOVE b ADD c :set DELETE d :set

Document paths (``a.b``, ``a[0]``) are not modelled: they raise ``NotImplementedError``.
"""

from __future__ import annotations

import importlib.util
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NoReturn

Value = dict[str, Any]
Item = Mapping[str, Value]
Values = Mapping[str, Value]
Node = tuple[Any, ...]
Operand = Callable[[Item, Values], Value | None]
Check = Callable[[Item, Values], bool]
Change = Callable[[Item, dict[str, Value], Values], None]

EXPRESSION_BYTES_MAX = 4096
IN_MAX = 100
MISSING = "The provided expression refers to an attribute that does not exist in the item"
DIGITS_MAX = 38
LARGEST = Decimal("9." + "9" * 37 + "E+125")
SMALLEST = Decimal("1E-130")

SETS = ("SS", "NS", "BS")
ORDERED = ("S", "N", "B")

#: Exact for what two numbers of 38 digits can make of each other.
ARITHMETIC = Context(prec=400)

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
PREDICATES = {
    "attribute_exists": 1,
    "attribute_not_exists": 1,
    "attribute_type": 2,
    "begins_with": 2,
    "contains": 2,
}
KEYWORDS = frozenset({"AND", "OR", "NOT", "BETWEEN", "IN"})
CLAUSES = ("SET", "REMOVE", "ADD", "DELETE")

_TOKEN = re.compile(r"\s*(?:([A-Za-z][A-Za-z0-9_]*|[#:][A-Za-z0-9_]+)|(<>|<=|>=|[-=<>(),+.\[\]]))")
_PLAIN_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,36}")


class Invalid(Exception):
    """DynamoDB would refuse this with a ValidationException."""


class Unfit(Invalid):
    """An update that is well formed does not fit the item that it finds."""


@cache
def reserved_words() -> frozenset[str]:
    """Read the list that moto carries, without importing moto."""
    found = importlib.util.find_spec("moto")
    assert found is not None
    assert found.origin is not None
    path = Path(found.origin).parent / "dynamodb/parsing/reserved_keywords.txt"
    return frozenset(path.read_text().upper().split())


# Values


def canonical_number(text: str) -> str:
    """Write a number as DynamoDB gives it back: no exponent, no needless zero."""
    if _PLAIN_NUMBER.fullmatch(text):
        return text
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        raise Invalid("The parameter cannot be converted to a numeric value") from None
    if not number.is_finite():
        raise Invalid("The parameter cannot be converted to a numeric value")
    return _written(number)


def _written(number: Decimal) -> str:
    if not number:
        return "0"
    if abs(number) > LARGEST:
        raise Invalid("Number overflow")
    if abs(number) < SMALLEST:
        raise Invalid("Number underflow")
    plain = format(ARITHMETIC.normalize(number), "f")
    if len(plain.lstrip("-").replace(".", "").strip("0")) > DIGITS_MAX:
        raise Invalid("Attempting to store more than 38 significant digits in a Number")
    return plain


def canonical(value: Value) -> Value:
    """Copy a value as DynamoDB keeps it: sets sorted, numbers in one form."""
    if len(value) != 1:
        raise Invalid("Supplied AttributeValue must have exactly one of the supported datatypes")
    ((kind, inner),) = value.items()
    if kind == "S":
        return {"S": inner}
    if kind == "N":
        return {"N": canonical_number(inner)}
    if kind in SETS:
        return {kind: _canonical_set(kind, inner)}
    if kind == "B":
        return {"B": bytes(inner)}
    if kind == "M":
        return {"M": {name: canonical(one) for name, one in inner.items()}}
    if kind == "L":
        return {"L": [canonical(one) for one in inner]}
    return {kind: inner}


def _canonical_set(kind: str, members: Iterable[Any]) -> list[Any]:
    found = list(map(canonical_number, members)) if kind == "NS" else list(members)
    if not found:
        raise Invalid("One or more parameter values were invalid: An set may not be empty")
    if len(set(found)) != len(found):
        raise Invalid(
            "One or more parameter values were invalid: Input collection contains duplicates"
        )
    return sorted(found, key=Decimal if kind == "NS" else None)


def copied(item: Item) -> dict[str, Value]:
    """Copy an item so that nothing done to the copy reaches the original."""
    return {name: _copied(value) for name, value in item.items()}


def _copied(value: Value) -> Value:
    ((kind, inner),) = value.items()
    if kind in SETS:
        return {kind: list(inner)}
    if kind == "M":
        return {"M": copied(inner)}
    if kind == "L":
        return {"L": [_copied(one) for one in inner]}
    return {kind: inner}


def item_bytes(item: Item) -> int:
    """Measure an item: names, values, and what lists and maps cost."""
    size = 0
    for name, value in item.items():
        size += text_bytes(name)
        text = value.get("S")
        size += _value_bytes(value) if text is None else text_bytes(text)
    return size


def text_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _value_bytes(value: Value) -> int:
    ((kind, inner),) = value.items()
    if kind == "S":
        return text_bytes(inner)
    if kind == "N":
        digits = len(inner.lstrip("-").replace(".", "").strip("0"))
        return (digits + 1) // 2 + 1 + int(inner[0] == "-")
    if kind == "B":
        return len(bytes(inner))
    if kind in SETS:
        return sum(_value_bytes({kind[0]: one}) for one in inner)
    if kind == "M":
        return 3 + len(inner) + item_bytes(inner)
    if kind == "L":
        return 3 + len(inner) + sum(map(_value_bytes, inner))
    return 1  # BOOL and NULL


def _kind(value: Value) -> str:
    return next(iter(value))


def _ordered(value: Value) -> Any:
    if "N" in value:
        return Decimal(value["N"])
    return value["S"].encode() if "S" in value else value["B"]


# What was parsed


@dataclass(frozen=True, slots=True)
class Condition:
    """
    A condition or key condition.

    Attributes:
        kinds: Which types an operator takes, for each :value it is given.

        ranges: The :values that are the bounds of a BETWEEN.
    """

    names: frozenset[str]
    values: frozenset[str]
    kinds: tuple[tuple[str, str, tuple[str, ...]], ...]
    check: Check
    node: Node
    ranges: tuple[tuple[str, str], ...]

    def require_ranges(self, values: Values) -> None:
        """Refuse a BETWEEN whose bounds are of two types, or the wrong way round."""
        for names in self.ranges:
            low, high = (values[name] for name in names)
            if _kind(low) != _kind(high) or _ordered(low) > _ordered(high):
                raise Invalid(
                    "BETWEEN requires upper bound to be greater than or equal to lower bound"
                )


@dataclass(frozen=True, slots=True)
class Update:
    """
    An update.

    Attributes:
        paths: Attributes that it changes.
    """

    names: frozenset[str]
    values: frozenset[str]
    kinds: tuple[tuple[str, str, tuple[str, ...]], ...]
    changes: tuple[Change, ...]
    paths: tuple[str, ...]

    def apply(self, item: Item, values: Values) -> dict[str, Value]:
        """Make the item anew; every operand is read from the item as it was."""
        new = dict(item)
        for change in self.changes:
            change(item, new, values)
        return new


@lru_cache(maxsize=4096)
def condition(what: str, text: str, names: tuple[tuple[str, str], ...]) -> Condition:
    """
    Parse a condition.

    Args:
        what: As DynamoDB calls it in errors: ``ConditionExpression``.
    """
    parser = _Parser(what, text, dict(names))
    node = parser.disjunction()
    parser.end()
    return Condition(*parser.used(), _check(node), node, tuple(parser.ranges))


@lru_cache(maxsize=4096)
def update(text: str, names: tuple[tuple[str, str], ...]) -> Update:
    """Parse an update."""
    parser = _Parser("UpdateExpression", text, dict(names))
    actions = parser.clauses()
    changes = tuple(_CHANGES[action[0]](*action[1:]) for action in actions)
    return Update(*parser.used(), changes, tuple(action[1] for action in actions))


class _Parser:
    def __init__(self, what: str, text: str, names: Mapping[str, str]) -> None:
        self._what = what
        self._names = names
        self._used_names: set[str] = set()
        self._used_values: set[str] = set()
        self._kinds: list[tuple[str, str, tuple[str, ...]]] = []
        self.ranges: list[tuple[str, str]] = []
        self._at = 0
        self._tokens = self._split(text)

    def used(self) -> tuple[frozenset[str], frozenset[str], tuple[Any, ...]]:
        return frozenset(self._used_names), frozenset(self._used_values), tuple(self._kinds)

    def refuse(self, why: str) -> NoReturn:
        raise Invalid(f"Invalid {self._what}: {why}")

    def end(self) -> None:
        if self._peek():
            self._syntax()

    # Tokens

    def _split(self, text: str) -> list[str]:
        if not text.strip():
            self.refuse("The expression can not be empty;")
        if len(text.encode()) > EXPRESSION_BYTES_MAX:
            self.refuse("Expression size has exceeded the maximum allowed size;")
        tokens, place, text = [], 0, text.rstrip()
        while place < len(text):
            found = _TOKEN.match(text, place)
            if not found:
                self.refuse(f'Syntax error; token: "{text[place:].strip()[:1]}"')
            tokens.append(found[1] or found[2])
            place = found.end()
        return tokens

    def _syntax(self) -> NoReturn:
        self.refuse(f'Syntax error; token: "{self._peek() or "<EOF>"}"')

    def _peek(self, ahead: int = 0) -> str:
        place = self._at + ahead
        return self._tokens[place] if place < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _accept(self, *tokens: str) -> str:
        """Take one of these tokens, if it is next."""
        if self._peek().upper() in tokens:
            return self._next().upper()
        return ""

    def _expect(self, *tokens: str) -> str:
        return self._accept(*tokens) or self._syntax()

    # Conditions

    def disjunction(self) -> Node:
        node = self._conjunction()
        while self._accept("OR"):
            node = ("or", node, self._conjunction())
        return node

    def _conjunction(self) -> Node:
        node = self._negation()
        while self._accept("AND"):
            node = ("and", node, self._negation())
        return node

    def _negation(self) -> Node:
        if self._accept("NOT"):
            return ("not", self._negation())
        return self._primary()

    def _primary(self) -> Node:
        if self._accept("("):
            inner = self.disjunction()
            self._expect(")")
            if inner[0] == "group":
                self.refuse("The expression has redundant parentheses;")
            return ("group", inner)
        if self._peek(1) == "(" and self._peek() != "size":
            return self._predicate()
        left = self._operand()
        sign = self._expect("=", "<>", *COMPARE, "BETWEEN", "IN")
        if sign == "BETWEEN":
            return self._between(left)
        if sign == "IN":
            return ("in", left, *self._listed())
        right = self._operand()
        self._distinct(sign, left, right)
        if sign in COMPARE:
            self._demand(sign, ORDERED, left, right)
        return ("compare", sign, left, right)

    def _between(self, left: Node) -> Node:
        low = self._operand()
        self._expect("AND")
        high = self._operand()
        self._demand("BETWEEN", ORDERED, left, low, high)
        if low[0] == high[0] == "value":
            self.ranges.append((low[1], high[1]))
        return ("between", left, low, high)

    def _listed(self) -> list[Node]:
        self._expect("(")
        found = [self._operand()]
        while self._accept(","):
            found.append(self._operand())
        self._expect(")")
        if len(found) > IN_MAX:
            self.refuse("The IN operator is provided with too many operands;")
        return found

    def _predicate(self) -> Node:
        name = self._next()
        if name not in PREDICATES:
            self.refuse(f"Invalid function name; function: {name}")
        operands = self._listed()
        if len(operands) != PREDICATES[name]:
            self.refuse(f"Incorrect number of operands for operator or function: {name}")
        if operands[0][0] != "path":
            self.refuse(
                f"Operator or function requires a document path; operator or function: {name}"
            )
        self._distinct(name, *operands)
        if name in ("begins_with", "attribute_type"):
            self._demand(name, ("S", "B")[: 1 + (name == "begins_with")], operands[1])
        return (name, *operands)

    def _distinct(self, name: str, first: Node, *others: Node) -> None:
        if first[0] == "path" and first in others:
            self.refuse(f"The first operand must be distinct from the remaining operands: {name}")

    def _demand(self, name: str, kinds: tuple[str, ...], *operands: Node) -> None:
        self._kinds += [(one[1], name, kinds) for one in operands if one[0] == "value"]

    # Operands

    def _operand(self) -> Node:
        token = self._peek()
        if token.startswith(":"):
            self._used_values.add(self._next())
            return ("value", token)
        if token == "size" and self._peek(1) == "(":
            self._next()
            (path,) = self._listed()
            if path[0] != "path":
                self.refuse("Operator or function requires a document path; function: size")
            return ("size", path)
        return ("path", self.path())

    def path(self) -> str:
        token = self._next()
        if token.startswith("#"):
            self._used_names.add(token)
            if token not in self._names:
                self.refuse(f"An expression attribute name is not defined: {token}")
            name = self._names[token]
        elif token[:1].isalpha() and token.upper() not in KEYWORDS:
            name = token
            if name.upper() in reserved_words():
                self.refuse(f"Attribute name is a reserved keyword; reserved keyword: {name}")
        else:
            self._at -= 1
            self._syntax()
        if self._peek() in (".", "["):
            raise NotImplementedError("document paths are not modelled")
        return name

    # Updates

    def clauses(self) -> list[Node]:
        found: list[Node] = []
        seen: set[str] = set()
        while not seen or self._peek():
            clause = self._expect(*CLAUSES)
            if clause in seen:
                self.refuse(
                    f'The "{clause}" section can only be used once in an update expression;'
                )
            seen.add(clause)
            found.append(self._action(clause))
            while self._accept(","):
                found.append(self._action(clause))
        paths = [action[1] for action in found]
        if len(set(paths)) != len(paths):
            self.refuse("Two document paths overlap with each other;")
        return found

    def _action(self, clause: str) -> Node:
        name = self.path()
        if clause == "REMOVE":
            return ("remove", name)
        if clause == "SET":
            self._expect("=")
            return ("set", name, self._sum())
        operand = self._operand()
        if operand[0] != "value":
            self._syntax()
        self._demand(clause, SETS if clause == "DELETE" else ("N", *SETS), operand)
        return (clause.lower(), name, operand)

    def _sum(self) -> Node:
        left = self._term()
        sign = self._accept("+", "-")
        if not sign:
            return left
        right = self._term()
        self._demand(sign, ("N",), left, right)
        return ("sum", sign, left, right)

    def _term(self) -> Node:
        if self._peek(1) != "(":
            return self._operand()
        function = self._next()
        if function not in ("if_not_exists", "list_append"):
            self.refuse(f"Invalid function name; function: {function}")
        self._expect("(")
        first = self._term()
        self._expect(",")
        second = self._term()
        self._expect(")")
        if function == "list_append":
            self._demand(function, ("L",), first, second)
        elif first[0] != "path":
            self.refuse(
                "Operator or function requires a document path; operator or function: if_not_exists"
            )
        return (function, first, second)


# Operands as functions


def _read(node: Node) -> Operand:
    kind, name = node[0], node[1]
    if kind == "path":
        return lambda item, values: item.get(name)
    if kind == "value":
        return lambda item, values: values[name]
    if kind == "size":
        attribute = name[1]
        return lambda item, values: _size(item.get(attribute))
    if kind == "if_not_exists":
        return _if_not_exists(node)
    return _list_append(node) if kind == "list_append" else _sum(node)


def _size(value: Value | None) -> Value | None:
    if value is None or _kind(value) in ("N", "BOOL", "NULL"):
        return None
    return {"N": str(len(value[_kind(value)]))}


def _if_not_exists(node: Node) -> Operand:
    path, other = _read(node[1]), _read(node[2])

    def read(item: Item, values: Values) -> Value | None:
        found = path(item, values)
        return other(item, values) if found is None else found

    return read


def _needed(value: Value | None, kind: str) -> Any:
    if value is None:
        raise Unfit(MISSING)
    if kind not in value:
        raise Unfit("An operand in the update expression has an incorrect data type")
    return value[kind]


def _list_append(node: Node) -> Operand:
    first, second = _read(node[1]), _read(node[2])

    def read(item: Item, values: Values) -> Value:
        return {"L": _needed(first(item, values), "L") + _needed(second(item, values), "L")}

    return read


def _added(left: str, right: str) -> Value:
    try:
        return {"N": _written(ARITHMETIC.add(Decimal(left), Decimal(right)))}
    except Invalid as error:
        raise Unfit(*error.args) from None


def _sum(node: Node) -> Operand:
    _, sign, *terms = node
    first, second = map(_read, terms)
    minus = sign == "-"

    def read(item: Item, values: Values) -> Value:
        left, right = _needed(first(item, values), "N"), _needed(second(item, values), "N")
        return _added(left, str(Decimal(right).copy_negate()) if minus else right)

    return read


# Conditions as functions


def _check(node: Node) -> Check:
    return _CHECKS.get(node[0], _check_predicate)(node)


def _check_group(node: Node) -> Check:
    return _check(node[1])


def _check_not(node: Node) -> Check:
    inner = _check(node[1])
    return lambda item, values: not inner(item, values)


def _check_and(node: Node) -> Check:
    left, right = _check(node[1]), _check(node[2])
    return lambda item, values: left(item, values) and right(item, values)


def _check_or(node: Node) -> Check:
    left, right = _check(node[1]), _check(node[2])
    return lambda item, values: left(item, values) or right(item, values)


def _check_compare(node: Node) -> Check:
    _, sign, *operands = node
    left, right = map(_read, operands)
    if sign == "=":
        return lambda item, values: _equal(left(item, values), right(item, values))
    if sign == "<>":
        return lambda item, values: not _equal(left(item, values), right(item, values))
    compare = COMPARE[sign]
    return lambda item, values: _before(compare, left(item, values), right(item, values))


def _equal(left: Value | None, right: Value | None) -> bool:
    return left is not None and left == right


def _before(compare: Callable[[Any, Any], bool], left: Value | None, right: Value | None) -> bool:
    if left is None or right is None or _kind(left) != _kind(right) or _kind(left) not in ORDERED:
        return False
    return compare(_ordered(left), _ordered(right))


def _check_between(node: Node) -> Check:
    one, low, high = map(_read, node[1:])

    def check(item: Item, values: Values) -> bool:
        found = one(item, values)
        return _before(operator.ge, found, low(item, values)) and _before(
            operator.le, found, high(item, values)
        )

    return check


def _check_in(node: Node) -> Check:
    one, *others = map(_read, node[1:])

    def check(item: Item, values: Values) -> bool:
        found = one(item, values)
        return any(_equal(found, other(item, values)) for other in others)

    return check


def _check_predicate(node: Node) -> Check:
    function, (_, name), *others = node
    if function == "attribute_exists":
        return lambda item, values: name in item
    if function == "attribute_not_exists":
        return lambda item, values: name not in item
    (other,) = map(_read, others)
    test = {"begins_with": _begins, "contains": _contains, "attribute_type": _typed}[function]

    def check(item: Item, values: Values) -> bool:
        left, right = item.get(name), other(item, values)
        return left is not None and right is not None and test(left, right)

    return check


def _begins(value: Value, prefix: Value) -> bool:
    kind = _kind(value)
    return kind in ("S", "B") and kind in prefix and value[kind].startswith(prefix[kind])


def _contains(value: Value, part: Value) -> bool:
    kind, part_kind = _kind(value), _kind(part)
    if kind == "L":
        return part in value["L"]
    if kind in SETS:
        return kind[0] == part_kind and part[part_kind] in value[kind]
    return kind in ("S", "B") and kind == part_kind and part[kind] in value[kind]


def _typed(value: Value, kind: Value) -> bool:
    return kind.get("S") == _kind(value)


_CHECKS: dict[str, Callable[[Node], Check]] = {
    "group": _check_group,
    "not": _check_not,
    "and": _check_and,
    "or": _check_or,
    "compare": _check_compare,
    "between": _check_between,
    "in": _check_in,
}


# Changes


def _set(name: str, node: Node) -> Change:
    operand = _read(node)

    def change(old: Item, new: dict[str, Value], values: Values) -> None:
        value = operand(old, values)
        if value is None:
            raise Unfit(MISSING)
        new[name] = value

    return change


def _remove(name: str) -> Change:
    def change(old: Item, new: dict[str, Value], values: Values) -> None:
        new.pop(name, None)

    return change


def _add(name: str, node: Node) -> Change:
    def change(old: Item, new: dict[str, Value], values: Values) -> None:
        found, value = old.get(name), values[node[1]]
        kind = _kind(value)
        if found is None:
            new[name] = value
        elif kind == "N":
            new[name] = _added(_needed(found, "N"), value["N"])
        else:
            both = {*_needed(found, kind), *value[kind]}
            new[name] = {kind: _canonical_set(kind, both)}

    return change


def _delete(name: str, node: Node) -> Change:
    def change(old: Item, new: dict[str, Value], values: Values) -> None:
        if name not in old:
            return
        value = values[node[1]]
        kind = _kind(value)
        left = set(_needed(old[name], kind)).difference(value[kind])
        if left:
            new[name] = {kind: _canonical_set(kind, left)}
        else:
            del new[name]

    return change


_CHANGES: dict[str, Callable[..., Change]] = {
    "set": _set,
    "remove": _remove,
    "add": _add,
    "delete": _delete,
}
