"""
The simulated AWS against moto where moto is right, and against the documented rules elsewhere.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.sns.utils import FilterPolicyMatcher

from tests.simulation.aws import Aws, matches
from tests.simulation.expressions import canonical_number
from tests.simulation.specs import Deployed, QueueSpec, SubscriptionSpec

REGION = "us-east-1"
TABLE = "state"
TOPIC = f"arn:aws:sns:{REGION}:123456789012:events.fifo"
KEY = f"arn:aws:kms:{REGION}:123456789012:key/12345678-1234-1234-1234-123456789012"
UNCOMPARED = ("ResponseMetadata", "ConsumedCapacity", "ItemCollectionMetrics")
START_MS = 1_800_000_000_000
MINUTE_MS = 60_000

Params = dict[str, Any]
Call = tuple[str, Params]
Random = random.Random


@dataclass
class Clock:
    now_ms: int = START_MS

    def __call__(self) -> int:
        return self.now_ms


def queue_spec(name: str, **fields: Any) -> QueueSpec:
    return QueueSpec(
        name=name,
        arn=f"arn:aws:sqs:{REGION}:123456789012:{name}",
        url=url(name),
        fifo=name.endswith(".fifo"),
        **{"visibility_s": 360, "retention_s": 86_400, **fields},
    )


def url(name: str) -> str:
    return f"https://sqs.{REGION}.amazonaws.com/123456789012/{name}"


SPECS = (
    queue_spec("checks", retention_s=1200, dead_letters="dead-checks", receives=3),
    queue_spec("dead-checks", retention_s=1800),
    queue_spec("jobs.fifo", dead_letters="dead.fifo", receives=2, deduplicates_by_group=True),
    queue_spec("dead.fifo"),
    queue_spec("subscriber.fifo", deduplicates_by_group=True),
    queue_spec("undelivered.fifo"),
)
SUBSCRIPTION = SubscriptionSpec("subscriber.fifo", None, True, "", frozenset({TOPIC}))
DEPLOYED = Deployed(
    queues={spec.name: spec for spec in SPECS},
    functions={},
    topic=TOPIC,
    deduplicates_by_group=True,
    subscriptions=(SUBSCRIPTION,),
    table=TABLE,
    key_arn=KEY,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def aws(clock: Clock) -> Aws:
    return Aws(DEPLOYED, clock)


@pytest.fixture(scope="module")
def moto() -> Iterator[Callable[[str], Any]]:
    """Make clients of moto's AWS."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        yield lambda service: boto3.client(service, region_name=REGION)  # type: ignore[call-overload]


def new_table(moto: Callable[[str], Any], name: str) -> Any:
    dynamodb = moto("dynamodb")
    dynamodb.create_table(
        TableName=name,
        KeySchema=[
            {"AttributeName": "pk", "KeyType": "HASH"},
            {"AttributeName": "sk", "KeyType": "RANGE"},
        ],
        AttributeDefinitions=[
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    return dynamodb


def outcome(work: Callable[[], Any]) -> Any:
    """Say what came of a call, the same whoever answers: sorted sets, one form of numbers."""
    try:
        answer = work()
    except ClientError as error:
        reasons: list[Any] = error.response.get("CancellationReasons", [])
        codes = [one["Code"] for one in reasons]
        # moto refuses the whole call for what AWS gives as the reason of one action.
        if "ValidationError" in codes:
            return ["ValidationException"]
        return [error.response["Error"]["Code"], *codes]
    return plain({name: one for name, one in answer.items() if name not in UNCOMPARED})


def plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.keys() == {"N"}:
            return {"N": canonical_number(value["N"])}
        if value.keys() <= {"SS", "NS"} and value:
            ((kind, members),) = value.items()
            return {kind: sorted(map(canonical_number, members) if kind == "NS" else members)}
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


def snake(operation: str) -> str:
    return "".join(f"_{one.lower()}" if one.isupper() else one for one in operation)[1:]


def refusal(aws: Aws, service: str, operation: str, params: Params) -> str:
    with pytest.raises(ClientError) as caught:
        aws.call(service, operation, params)
    error: Any = caught.value.response["Error"]
    return str(error.get("QueryErrorCode", error["Code"]))


# -- DynamoDB against moto -------------------------------------------------------------------------

#: Attributes, and which types each may have: moto fails on types that do not go together.
KINDS = {
    "a": ("S", "N", "SS", "NS", "BOOL"),
    "b": ("S", "N", "SS", "NS", "BOOL"),
    "n": ("N",),
    "s": ("S",),
    "t": ("SS",),
    "m": ("NS",),
}


def text(value: str) -> dict[str, str]:
    return {"S": value}


def number(value: float | str) -> dict[str, str]:
    return {"N": str(value)}


def key(pk: str, sk: str = "x") -> dict[str, Any]:
    return {"pk": text(pk), "sk": text(sk)}


def some_value(chance: Random, kinds: Sequence[str]) -> Any:
    made: dict[str, Callable[[], Any]] = {
        "S": lambda: chance.choice(["x", "xy", "xyz", "é"]),
        "N": lambda: chance.choice(["0", "1", "2", "10", "-3", "1.5"]),
        "SS": lambda: chance.sample(["x", "y", "z"], chance.randint(1, 3)),
        "NS": lambda: chance.sample(["1", "2", "10"], chance.randint(1, 3)),
        "BOOL": lambda: chance.random() < 0.5,
    }
    kind = chance.choice(kinds)
    return {kind: made[kind]()}


class Sentence:
    """Random expressions, and the values they refer to."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.values: dict[str, Any] = {}

    def value(self, *kinds: str) -> str:
        name = f":v{len(self.values)}"
        self.values[name] = some_value(self.chance, kinds)
        return name

    def bounds(self, kind: str) -> list[str]:
        names = [self.value(kind), self.value(kind)]
        known = [self.values[name][kind] for name in names]
        ordered = sorted(known, key=float if kind == "N" else None)
        self.values |= {name: {kind: one} for name, one in zip(names, ordered, strict=True)}
        return names

    def name(self) -> str:
        return self.chance.choice(list(KINDS))

    def condition(self, depth: int = 2) -> str:
        if depth and self.chance.random() < 0.5:
            left, right = self.condition(depth - 1), self.condition(depth - 1)
            both = f"{left} {self.chance.choice(['AND', 'OR'])} {right}"
            return f"({both})" if depth == 1 and self.chance.random() < 0.5 else both
        # moto fails on NOT before NOT.
        return self.chance.choice(["", "", "NOT "]) + self._simple()

    def _simple(self) -> str:
        name, (ordered, kind) = self.name(), self.chance.choice([("n", "N"), ("s", "S")])
        made: list[Callable[[], str]] = [
            lambda: f"attribute_exists({name})",
            lambda: f"attribute_not_exists({name})",
            lambda: f"{name} = {self.value(*KINDS[name])}",
            lambda: f"{name} <> {self.value(*KINDS[name])}",
            lambda: f"{ordered} {self.chance.choice(['<', '<=', '>', '>='])} {self.value(kind)}",
            lambda: f"begins_with(s, {self.value('S')})",
            lambda: f"contains({self.chance.choice('st')}, {self.value('S')})",
            lambda: f"{name} IN ({self.value('S', 'N')}, {self.value('S', 'N')})",
            lambda: f"{ordered} BETWEEN {' AND '.join(self.bounds(kind))}",
            # moto fails on the size of what is not there.
            lambda: f"(attribute_exists(t) AND size(t) > {self.value('N')})",
        ]
        return self.chance.choice(made)()

    def update(self) -> str:
        """Make an update; no clause reads what another one changes, as moto has them in turn."""
        sums = ["n = n + {0}", "n = if_not_exists(n, {0}) - {1}", "n = {0}"]
        clauses = [
            ("SET", "a = {0}", KINDS["a"]),
            ("SET", "a = if_not_exists(a, {0}), " + self.chance.choice(sums), ("N",)),
            ("SET", self.chance.choice(sums), ("N",)),
            ("REMOVE", self.chance.choice(["s", "s, b"]), ()),
            ("ADD", self.chance.choice(["t {0}", "t {0}, s2 {1}"]), ("SS",)),
            ("ADD", "m {0}", ("NS",)),
            ("DELETE", "t {0}", ("SS",)),
            ("DELETE", "m {0}", ("NS",)),
        ]
        kept: dict[str, str] = {}
        for clause, actions, kinds in self.chance.sample(clauses, self.chance.randint(1, 3)):
            if clause not in kept and not any(f"{actions[0]} " in one for one in kept.values()):
                needed = [self.value(*kinds) for place in ("{0}", "{1}") if place in actions]
                kept[clause] = actions.format(*needed)
        return " ".join(f"{clause} {actions}" for clause, actions in kept.items())


def some_write(chance: Random, pk: str) -> Call:
    """Make a put, update or delete, with a condition or without."""
    sentence = Sentence(chance)
    params: Params = {"TableName": TABLE}
    operation = chance.choice(["PutItem", "UpdateItem", "UpdateItem", "DeleteItem"])
    where = key(pk, chance.choice("xyz"))
    if operation == "PutItem":
        some = chance.sample(list(KINDS), chance.randint(0, 6))
        params["Item"] = {**where, **{name: some_value(chance, KINDS[name]) for name in some}}
    else:
        params["Key"] = where
    if operation == "UpdateItem":
        params["UpdateExpression"] = sentence.update()
    if chance.random() < 0.7:
        params["ConditionExpression"] = sentence.condition()
    if sentence.values:
        params["ExpressionAttributeValues"] = sentence.values
    return operation, params


def some_transaction(chance: Random, pk: str) -> Call:
    kinds = {"PutItem": "Put", "UpdateItem": "Update", "DeleteItem": "Delete"}
    writes = (some_write(chance, pk) for _ in range(chance.randint(1, 3)))
    return "TransactWriteItems", {"TransactItems": [{kinds[one]: asked} for one, asked in writes]}


def some_query(chance: Random, pk: str) -> Call:
    ordered = chance.choice(["=", "<", "<=", ">", ">="])
    where = chance.choice(
        ["", f"sk {ordered} :a", "begins_with(sk, :a)", "sk BETWEEN :a AND :b", "(sk >= :a)"]
    )
    values = {":pk": text(pk)}
    if where:
        values[":a"] = text(chance.choice(["x", "y"]))
    if ":b" in where:
        values[":b"] = text(chance.choice(["y", "z"]))
    params: Params = {
        "TableName": TABLE,
        "KeyConditionExpression": f"pk = :pk AND {where}" if where else "pk = :pk",
        "ExpressionAttributeValues": values,
        "ScanIndexForward": chance.random() < 0.5,
        "ConsistentRead": True,
    }
    if chance.random() < 0.5:
        params["Limit"] = chance.randint(1, 2)
    if chance.random() < 0.3:
        params["ExclusiveStartKey"] = key(pk, chance.choice("xyz"))
    if chance.random() < 0.3:
        params["ProjectionExpression"] = chance.choice(["sk", "sk, a", "a, b, absent"])
    return "Query", params


def some_read(chance: Random, pk: str) -> Call:
    if chance.random() < 0.5:
        return some_query(chance, pk)
    return "GetItem", {"TableName": TABLE, "Key": key(pk, chance.choice("xyz"))}


def test_dynamodb_does_as_moto_does(moto: Callable[[str], Any], aws: Aws) -> None:
    client = new_table(moto, TABLE)
    for seed in range(40):
        chance, pk, calls = Random(seed), f"p{seed}", []
        for _ in range(30):
            make = chance.choices([some_write, some_read, some_transaction], [7, 2, 1])[0]
            calls.append(make(chance, pk))
            expected, found = both(client, aws, "dynamodb", *calls[-1])

            assert found == expected, f"seed {seed}: {json.dumps(calls, indent=1)}"
        for where in ("x", "y", "z"):
            asked = {"TableName": TABLE, "Key": key(pk, where)}
            expected, found = both(client, aws, "dynamodb", "GetItem", asked)

            assert found == expected, f"seed {seed}: {json.dumps(calls, indent=1)}"
            both(client, aws, "dynamodb", "DeleteItem", asked)  # moto copies all for a transaction.


def both(client: Any, aws: Aws, service: str, operation: str, params: Params) -> tuple[Any, Any]:
    """Say what came of a call, with moto and here."""
    expected = outcome(lambda: getattr(client, snake(operation))(**params))
    found = outcome(lambda: aws.call(service, operation, params))
    if "Limit" in params and "LastEvaluatedKey" not in expected:
        found.pop("LastEvaluatedKey", None)  # moto knows when the limit was just enough.
    return expected, found


INVALID: dict[str, tuple[str, Params]] = {
    "reserved word": (
        "UpdateItem",
        {
            "Key": key("p"),
            "UpdateExpression": "SET status = :v",
            "ExpressionAttributeValues": {":v": text("x")},
        },
    ),
    "value that is not defined": (
        "UpdateItem",
        {
            "Key": key("p"),
            "UpdateExpression": "SET a = :v, b = :w",
            "ExpressionAttributeValues": {":v": text("x")},
        },
    ),
    "value that is not used": (
        "UpdateItem",
        {
            "Key": key("p"),
            "UpdateExpression": "SET a = :v",
            "ExpressionAttributeValues": {":v": text("x"), ":w": text("x")},
        },
    ),
    "clause twice": ("UpdateItem", {"Key": key("p"), "UpdateExpression": "REMOVE a REMOVE b"}),
    "attribute twice": (
        "UpdateItem",
        {
            "Key": key("p"),
            "UpdateExpression": "SET a = :v, a = :v",
            "ExpressionAttributeValues": {":v": text("x")},
        },
    ),
    "update of a key": (
        "UpdateItem",
        {
            "Key": key("p"),
            "UpdateExpression": "SET sk = :v",
            "ExpressionAttributeValues": {":v": text("x")},
        },
    ),
    "empty set": ("PutItem", {"Item": {**key("p"), "a": {"SS": []}}}),
    "no sort key": ("PutItem", {"Item": {"pk": text("p")}}),
    "number for a key": ("PutItem", {"Item": {"pk": number(1), "sk": text("x")}}),
    "empty key": ("PutItem", {"Item": key("p", "")}),
    "too long a pk": ("PutItem", {"Item": key("p" * 2049)}),
    "too long an sk": ("PutItem", {"Item": key("p", "x" * 1025)}),
    "half a key": ("GetItem", {"Key": {"pk": text("p")}}),
    "too large an item": ("PutItem", {"Item": {**key("p"), "a": text("x" * 409_600)}}),
    "query without pk": (
        "Query",
        {"KeyConditionExpression": "sk = :v", "ExpressionAttributeValues": {":v": text("x")}},
    ),
}


@pytest.mark.parametrize("name", INVALID)
def test_dynamodb_refuses_what_moto_refuses(
    moto: Callable[[str], Any], aws: Aws, name: str
) -> None:
    operation, params = INVALID[name]
    client = moto("dynamodb")
    if "refusals" not in client.list_tables()["TableNames"]:
        new_table(moto, "refusals")
    expected = outcome(lambda: getattr(client, snake(operation))(TableName="refusals", **params))

    assert expected == ["ValidationException"]
    assert refusal(aws, "dynamodb", operation, {"TableName": TABLE, **params}) == expected[0]


# -- DynamoDB by its documentation -----------------------------------------------------------------

#: moto takes these, or fails.
INVALID_TOO: dict[str, tuple[str, Params]] = {
    "values without an expression": (
        "DeleteItem",
        {"Key": key("p"), "ExpressionAttributeValues": {":v": text("x")}},
    ),
    "element twice": ("PutItem", {"Item": {**key("p"), "a": {"SS": ["x", "x"]}}}),
    "syntax": ("DeleteItem", {"Key": key("p"), "ConditionExpression": "attribute_exists(pk"}),
    "parentheses twice": (
        "DeleteItem",
        {"Key": key("p"), "ConditionExpression": "((attribute_exists(pk)))"},
    ),
    "empty expression": ("UpdateItem", {"Key": key("p"), "UpdateExpression": ""}),
    "no values": (
        "UpdateItem",
        {"Key": key("p"), "UpdateExpression": "REMOVE a", "ExpressionAttributeValues": {}},
    ),
    "name that is not used": (
        "UpdateItem",
        {"Key": key("p"), "UpdateExpression": "REMOVE a", "ExpressionAttributeNames": {"#a": "a"}},
    ),
    "reserved word in a query": (
        "Query",
        {
            "KeyConditionExpression": "pk = :v AND shard = :v",
            "ExpressionAttributeValues": {":v": text("x")},
        },
    ),
    "bounds the wrong way round": (
        "DeleteItem",
        {
            "Key": key("p"),
            "ConditionExpression": "a BETWEEN :a AND :b",
            "ExpressionAttributeValues": {":a": number(2), ":b": number(1)},
        },
    ),
    "text added": (
        "UpdateItem",
        {
            "Key": key("p"),
            "UpdateExpression": "ADD a :v",
            "ExpressionAttributeValues": {":v": text("x")},
        },
    ),
    "too long an expression": (
        "DeleteItem",
        {"Key": key("p"), "ConditionExpression": "attribute_exists(" + "a" * 4096 + ")"},
    ),
    "39 digits": ("PutItem", {"Item": {**key("p"), "a": number("1" * 39)}}),
    "too large a number": ("PutItem", {"Item": {**key("p"), "a": number("1E126")}}),
    "no number": ("PutItem", {"Item": {**key("p"), "a": number("one")}}),
    "101 keys": (
        "BatchGetItem",
        {"RequestItems": {TABLE: {"Keys": [key("p", str(one)) for one in range(101)]}}},
    ),
    "key twice": ("BatchGetItem", {"RequestItems": {TABLE: {"Keys": [key("p"), key("p")]}}}),
    "26 writes": (
        "BatchWriteItem",
        {
            "RequestItems": {
                TABLE: [{"PutRequest": {"Item": key("p", str(one))}} for one in range(26)]
            }
        },
    ),
    "101 actions": (
        "TransactWriteItems",
        {
            "TransactItems": [
                {"Put": {"TableName": TABLE, "Item": key("p", str(one))}} for one in range(101)
            ]
        },
    ),
    "an item in two actions": (
        "TransactWriteItems",
        {
            "TransactItems": [
                {"Put": {"TableName": TABLE, "Item": key("p")}},
                {"Delete": {"TableName": TABLE, "Key": key("p")}},
            ]
        },
    ),
}


@pytest.mark.parametrize("name", INVALID_TOO)
def test_dynamodb_refuses(aws: Aws, name: str) -> None:
    operation, params = INVALID_TOO[name]
    named = {} if {"RequestItems", "TransactItems"} & params.keys() else {"TableName": TABLE}

    assert refusal(aws, "dynamodb", operation, {**named, **params}) == "ValidationException"
    assert not aws.items


def put(aws: Aws, item: Params) -> None:
    aws.call("dynamodb", "PutItem", {"TableName": TABLE, "Item": item})


def update(aws: Aws, where: Params, expression: str, **values: Any) -> None:
    params = {"TableName": TABLE, "Key": where, "UpdateExpression": expression}
    if values:
        params["ExpressionAttributeValues"] = {f":{name}": one for name, one in values.items()}
    aws.call("dynamodb", "UpdateItem", params)


def get(aws: Aws, where: Params, *, consistent: bool = True) -> Any:
    params = {"TableName": TABLE, "Key": where, "ConsistentRead": consistent}
    return aws.call("dynamodb", "GetItem", params).get("Item")


def query(aws: Aws, pk: str, **more: Any) -> Any:
    params = {
        "TableName": TABLE,
        "KeyConditionExpression": "pk = :pk",
        "ExpressionAttributeValues": {":pk": text(pk)},
        **more,
    }
    return aws.call("dynamodb", "Query", params)


def test_an_unknown_table_is_not_found(aws: Aws) -> None:
    params = {"TableName": "other", "Key": key("p")}

    assert refusal(aws, "dynamodb", "GetItem", params) == "ResourceNotFoundException"


def test_what_is_not_modelled_says_so(aws: Aws) -> None:
    with pytest.raises(NotImplementedError):
        aws.call("dynamodb", "CreateTable", {})
    with pytest.raises(NotImplementedError):
        query(aws, "p", FilterExpression="a = :pk")
    with pytest.raises(NotImplementedError):
        update(aws, key("p"), "REMOVE a.b")


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("1.0", "1"),
        ("1e3", "1000"),
        ("-0", "0"),
        ("007", "7"),
        ("0.10", "0.1"),
        ("-5E-3", "-0.005"),
        ("1E125", "1" + "0" * 125),
        (" 3 ", "3"),
    ],
)
def test_a_number_has_one_form(aws: Aws, written: str, kept: str) -> None:
    put(aws, {**key("p"), "a": number(written)})

    assert get(aws, key("p"))["a"] == number(kept)


def test_sums_are_exact(aws: Aws) -> None:
    put(aws, {**key("p"), "a": number("0.1"), "b": number("9" * 38)})
    update(aws, key("p"), "ADD a :v", v=number("0.2"))

    assert get(aws, key("p"))["a"] == number("0.3")
    with pytest.raises(ClientError, match="38 significant"):
        update(aws, key("p"), "ADD b :v", v=number("0.1"))


def test_a_set_that_is_left_empty_is_removed(aws: Aws) -> None:
    put(aws, {**key("p"), "a": {"SS": ["x"]}})
    update(aws, key("p"), "DELETE a :v", v={"SS": ["x", "y"]})

    assert get(aws, key("p")) == key("p")


@pytest.mark.parametrize("expression", ["ADD a :v", "DELETE a :v", "SET b = c"])
def test_an_update_that_does_not_fit_changes_nothing(aws: Aws, expression: str) -> None:
    put(aws, {**key("p"), "a": text("x")})
    params = {"TableName": TABLE, "Key": key("p"), "UpdateExpression": expression}
    if ":v" in expression:
        params["ExpressionAttributeValues"] = {":v": {"SS": ["x"]}}

    assert refusal(aws, "dynamodb", "UpdateItem", params) == "ValidationException"
    assert get(aws, key("p")) == {**key("p"), "a": text("x")}


def test_every_operand_is_read_before_anything_changes(aws: Aws) -> None:
    put(aws, {**key("p"), "a": text("x"), "b": text("y")})
    update(aws, key("p"), "SET a = b, b = a, c = a REMOVE d")

    assert get(aws, key("p")) == {**key("p"), "a": text("y"), "b": text("x"), "c": text("x")}


def test_values_of_two_types_are_neither_before_nor_after(aws: Aws) -> None:
    put(aws, {**key("p"), "a": text("x")})
    params = {"TableName": TABLE, "Key": key("p"), "ExpressionAttributeValues": {":v": number(1)}}
    for sign in ("<", "<=", ">", ">=", "="):
        condition = {"ConditionExpression": f"a {sign} :v"}
        code = refusal(aws, "dynamodb", "DeleteItem", {**params, **condition})

        assert code == "ConditionalCheckFailedException"
    aws.call("dynamodb", "DeleteItem", {**params, "ConditionExpression": "NOT a < :v"})

    assert not aws.items


def test_what_is_not_there_equals_nothing(aws: Aws) -> None:
    params = {"TableName": TABLE, "Item": key("p")}
    code = refusal(aws, "dynamodb", "PutItem", {**params, "ConditionExpression": "a = b"})

    assert code == "ConditionalCheckFailedException"
    aws.call("dynamodb", "PutItem", {**params, "ConditionExpression": "a <> b"})


def test_and_binds_tighter_than_or_and_not_tighter_than_both(aws: Aws) -> None:
    conditions = {
        "attribute_exists(a) AND attribute_exists(a) OR attribute_not_exists(a)": True,
        "attribute_exists(a) AND (attribute_exists(a) OR attribute_not_exists(a))": False,
        "NOT attribute_exists(a) OR attribute_not_exists(a)": True,
        "NOT NOT attribute_exists(a)": False,
        "NOT (attribute_exists(a) OR attribute_not_exists(a))": False,
    }
    params = {"TableName": TABLE, "Key": key("p")}
    for condition, holds in conditions.items():
        found = outcome(
            lambda: aws.call(
                "dynamodb",
                "DeleteItem",
                {**params, "ConditionExpression": condition},  # noqa: B023
            )
        )

        assert (found == {}) == holds, condition


def test_a_failed_condition_shows_the_item_on_demand(aws: Aws) -> None:
    put(aws, key("p"))
    params = {
        "TableName": TABLE,
        "Item": key("p"),
        "ConditionExpression": "attribute_not_exists(pk)",
    }
    with pytest.raises(ClientError) as silent:
        aws.call("dynamodb", "PutItem", params)
    params["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
    with pytest.raises(ClientError) as telling:
        aws.call("dynamodb", "PutItem", params)

    assert "Item" not in silent.value.response
    assert telling.value.response["Item"] == key("p")  # type: ignore[typeddict-item]


def test_an_item_grows_up_to_400_kb(aws: Aws) -> None:
    names = len("pk" + "p" + "sk" + "x" + "a")
    put(aws, {**key("p"), "a": text("x" * (409_600 - names))})
    params = {
        "TableName": TABLE,
        "Key": key("p"),
        "UpdateExpression": "SET b = :v",
        "ExpressionAttributeValues": {":v": number(1)},
    }

    assert refusal(aws, "dynamodb", "UpdateItem", params) == "ValidationException"
    assert "b" not in get(aws, key("p"))


def test_a_page_ends_with_the_item_that_passes_1_mb(aws: Aws) -> None:
    for one in range(7):
        put(aws, {**key("p", str(one)), "a": text("x" * 300_000)})
    first = query(aws, "p")
    rest = query(aws, "p", ExclusiveStartKey=first["LastEvaluatedKey"])
    backwards = query(aws, "p", ScanIndexForward=False, Limit=2)

    assert [item["sk"]["S"] for item in first["Items"]] == ["0", "1", "2", "3"]
    assert [item["sk"]["S"] for item in rest["Items"]] == ["4", "5", "6"]
    assert "LastEvaluatedKey" not in rest
    assert backwards["LastEvaluatedKey"] == key("p", "5")


def test_a_limit_that_is_just_enough_promises_more(aws: Aws) -> None:
    put(aws, key("p", "1"))
    last = query(aws, "p", Limit=1)["LastEvaluatedKey"]

    assert last == key("p", "1")
    assert query(aws, "p", ExclusiveStartKey=last)["Items"] == []


def test_sort_keys_are_in_the_order_of_their_bytes(aws: Aws) -> None:
    for sk in ("\U0001f600", "\uffff", "é", "z", "a#", "a", "B"):
        put(aws, key("p", sk))
    found = [item["sk"]["S"] for item in query(aws, "p")["Items"]]

    assert found == sorted(found, key=str.encode)
    assert [sk for _, sk in aws.snapshot()] != found
    assert aws.call("dynamodb", "Scan", {"TableName": TABLE})["Count"] == len(found)


def test_a_batch_leaves_over_what_it_is_told_to(aws: Aws) -> None:
    keys = [key("p", str(one)) for one in range(3)]
    aws.leave = lambda keys: keys - 1
    requests = [{"PutRequest": {"Item": one}} for one in keys]
    left = aws.call("dynamodb", "BatchWriteItem", {"RequestItems": {TABLE: requests}})
    put(aws, keys[2])
    asked = {TABLE: {"Keys": keys, "ConsistentRead": True}}
    answer = aws.call("dynamodb", "BatchGetItem", {"RequestItems": asked})

    assert left == {"UnprocessedItems": {TABLE: requests[1:]}}
    assert answer["Responses"] == {TABLE: [keys[2]]}
    assert answer["UnprocessedKeys"] == {TABLE: {"Keys": keys[1::-1], "ConsistentRead": True}}


def test_a_batch_of_reads_ends_before_16_mb(aws: Aws) -> None:
    keys = [key("p", f"{one:02d}") for one in range(42)]
    for one in keys:
        put(aws, {**one, "a": text("x" * 409_000)})
    answer = aws.call("dynamodb", "BatchGetItem", {"RequestItems": {TABLE: {"Keys": keys}}})

    assert len(answer["Responses"][TABLE]) == 41
    assert answer["UnprocessedKeys"] == {TABLE: {"Keys": keys[:1]}}


def transaction(*actions: Params, **more: Any) -> Params:
    named = [
        {kind: {"TableName": TABLE, **asked}} for one in actions for kind, asked in one.items()
    ]
    return {"TransactItems": named, **more}


def test_a_transaction_is_all_or_nothing(aws: Aws) -> None:
    put(aws, {**key("p", "1"), "a": text("x")})
    exists = {"ConditionExpression": "attribute_exists(pk)"}
    add = {"UpdateExpression": "ADD a :v", "ExpressionAttributeValues": {":v": number(1)}}
    params = transaction(
        {"Put": {"Item": key("p", "0")}},
        {"ConditionCheck": {"Key": key("p", "2"), **exists}},
        {"Update": {"Key": key("p", "1"), **add}},
        {"Delete": {"Key": key("p", "3")}},
    )
    with pytest.raises(ClientError) as caught:
        aws.call("dynamodb", "TransactWriteItems", params)
    reasons: Any = caught.value.response["CancellationReasons"]

    assert caught.value.response["Error"]["Code"] == "TransactionCanceledException"
    assert [reason["Code"] for reason in reasons] == [
        "None",
        "ConditionalCheckFailed",
        "ValidationError",
        "None",
    ]
    assert list(aws.items) == [("p", "1")]


def test_a_check_in_a_transaction_writes_nothing(aws: Aws) -> None:
    put(aws, {**key("p", "1"), "a": number(1)})
    put(aws, {**key("p", "1"), "a": number(2)})
    exists = {"ConditionExpression": "attribute_exists(pk)"}
    params = transaction(
        {"ConditionCheck": {"Key": key("p", "1"), **exists}}, {"Put": {"Item": key("p", "2")}}
    )
    aws.call("dynamodb", "TransactWriteItems", params)

    assert get(aws, key("p", "1"))["a"] == number(2)
    assert get(aws, key("p", "2")) == key("p", "2")
    assert aws.history["p", "1"] == {**key("p", "1"), "a": number(1)}


def test_a_token_repeats_a_transaction_for_ten_minutes(aws: Aws, clock: Clock) -> None:
    add = {"UpdateExpression": "ADD a :v", "ExpressionAttributeValues": {":v": number(1)}}
    once = transaction({"Update": {"Key": key("p"), **add}}, ClientRequestToken="t")
    other = transaction({"Put": {"Item": key("q")}}, ClientRequestToken="t")
    aws.call("dynamodb", "TransactWriteItems", once)
    clock.now_ms += 10 * MINUTE_MS - 1
    aws.call("dynamodb", "TransactWriteItems", once)

    assert get(aws, key("p"))["a"] == number(1)
    code = refusal(aws, "dynamodb", "TransactWriteItems", other)
    assert code == "IdempotentParameterMismatchException"
    clock.now_ms += 1
    aws.call("dynamodb", "TransactWriteItems", once)
    assert get(aws, key("p"))["a"] == number(2)


def test_a_stale_read_is_one_write_behind(aws: Aws) -> None:
    put(aws, {**key("p", "1"), "a": number(1)})
    put(aws, {**key("p", "1"), "a": number(2)})
    put(aws, key("p", "2"))
    put(aws, key("p", "3"))
    aws.call("dynamodb", "DeleteItem", {"TableName": TABLE, "Key": key("p", "3")})
    aws.stale = lambda: True
    batch = {"RequestItems": {TABLE: {"Keys": [key("p", one) for one in "123"]}}}

    before = [{**key("p", "1"), "a": number(1)}, key("p", "3")]
    assert query(aws, "p")["Items"] == before
    assert aws.call("dynamodb", "BatchGetItem", batch)["Responses"][TABLE] == before[::-1]
    assert get(aws, key("p", "2"), consistent=False) is None
    assert get(aws, key("p", "2")) == key("p", "2")
    assert len(query(aws, "p", ConsistentRead=True)["Items"]) == 2


def test_what_was_read_or_given_is_a_copy(aws: Aws) -> None:
    given = {**key("p"), "a": {"SS": ["x"]}, "b": {"L": [{"S": "x"}]}}
    put(aws, given)
    given["a"]["SS"].append("y")
    found = get(aws, key("p"))
    found["a"]["SS"].append("z")
    found["b"]["L"][0]["S"] = "z"
    del found["pk"]

    assert get(aws, key("p")) == {**key("p"), "a": {"SS": ["x"]}, "b": {"L": [{"S": "x"}]}}


def test_a_table_is_put_back(aws: Aws) -> None:
    put(aws, key("p", "1"))
    kept = aws.snapshot()
    put(aws, key("p", "2"))
    aws.call("dynamodb", "DeleteItem", {"TableName": TABLE, "Key": key("p", "1")})
    aws.restore(kept)
    aws.stale = lambda: True

    assert query(aws, "p")["Items"] == [key("p", "1")]
    assert aws.items == kept


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ("NONE", None),
        ("ALL_OLD", {"a": number(1), "b": number(1)}),
        ("UPDATED_OLD", {"a": number(1)}),
        ("ALL_NEW", {"a": number(2), "b": number(1)}),
        ("UPDATED_NEW", {"a": number(2)}),
    ],
)
def test_an_update_returns_what_is_asked_for(aws: Aws, wanted: str, shown: Any) -> None:
    put(aws, {**key("p"), "a": number(1), "b": number(1)})
    answer = aws.call(
        "dynamodb",
        "UpdateItem",
        {
            "TableName": TABLE,
            "Key": key("p"),
            "UpdateExpression": "SET #a = #a + :v",
            "ExpressionAttributeNames": {"#a": "a"},
            "ExpressionAttributeValues": {":v": number(1)},
            "ReturnValues": wanted,
        },
    )
    whole = key("p") if wanted.startswith("ALL") else {}

    assert answer.get("Attributes") == (None if shown is None else {**whole, **shown})


# -- SQS -------------------------------------------------------------------------------------------


class Consumers:
    """Random senders and receivers of one queue, at moto's and at ours."""

    def __init__(self, client: Any, aws: Aws, chance: Random, name: str, moto_name: str) -> None:
        self.client, self.aws, self.chance = client, aws, chance
        self.fifo = name.endswith(".fifo")
        self.urls = (client.get_queue_url(QueueName=moto_name)["QueueUrl"], url(name))
        self.handles: dict[str, tuple[str, str]] = {}
        self.sent = 0

    def ask(self, operation: str, *handles: tuple[str, str], **params: Any) -> tuple[Any, Any]:
        """Ask both; *handles* are put into a batch's entries."""
        answers = []
        for side, where in enumerate(self.urls):
            asked = {"QueueUrl": where, **params}
            for entry, handle in zip(params.get("Entries", ()), handles, strict=False):
                entry["ReceiptHandle"] = handle[side]
            call: Any = [getattr(self.client, snake(operation)), self.by_aws(operation)][side]
            answers.append(call(**asked))
        return answers[0], answers[1]

    def by_aws(self, operation: str) -> Callable[..., Any]:
        return lambda **params: self.aws.call("sqs", operation, params)

    def send(self) -> None:
        entries = []
        for number in range(self.chance.randint(1, 3)):
            self.sent += 1
            entry = {"Id": str(number), "MessageBody": f"body {self.sent}"}
            if self.fifo:
                entry["MessageGroupId"] = self.chance.choice("abc")
                entry["MessageDeduplicationId"] = str(self.sent)
            entries.append(entry)
        expected, found = self.ask("SendMessageBatch", Entries=entries)

        assert len(found["Successful"]) == len(expected["Successful"])

    def receive(self) -> None:
        most = self.chance.randint(1, 5)
        expected, found = self.ask(
            "ReceiveMessage",
            MaxNumberOfMessages=most,
            MessageSystemAttributeNames=["ApproximateReceiveCount", "MessageGroupId"],
        )
        theirs, ours = expected.get("Messages", []), found.get("Messages", [])

        assert [self.shown(one) for one in ours] == [self.shown(one) for one in theirs]
        for one, other in zip(theirs, ours, strict=True):
            self.handles[one["Body"]] = (one["ReceiptHandle"], other["ReceiptHandle"])

    @staticmethod
    def shown(message: Any) -> Any:
        return [message[name] for name in ("Body", "MD5OfBody", "Attributes")]

    def settle(self, operation: str, **fields: Any) -> None:
        """Delete or change some of what is in flight."""
        some = self.chance.sample(
            list(self.handles), min(len(self.handles), self.chance.randint(1, 2))
        )
        if some:
            entries = [{"Id": str(number), **fields} for number in range(len(some))]
            handles = [self.handles.pop(one) for one in some]
            expected, found = self.ask(operation, *handles, Entries=entries)

            assert len(found["Successful"]) == len(expected["Successful"])

    def step(self) -> None:
        steps: list[Callable[[], None]] = [
            self.send,
            self.receive,
            self.receive,
            lambda: self.settle("DeleteMessageBatch"),
            lambda: self.settle("ChangeMessageVisibilityBatch", VisibilityTimeout=0),
        ]
        self.chance.choice(steps)()


@pytest.mark.parametrize("name", ["jobs.fifo", "checks"])
def test_sqs_does_as_moto_does(moto: Callable[[str], Any], name: str) -> None:
    client = moto("sqs")
    for seed in range(12):
        moto_name = f"{seed}-{name}"
        attributes = {"VisibilityTimeout": "360"}
        if name.endswith(".fifo"):
            attributes["FifoQueue"] = "true"
        client.create_queue(QueueName=moto_name, Attributes=attributes)
        spec = replace(DEPLOYED.queues[name], dead_letters="")
        aws = Aws(replace(DEPLOYED, queues={name: spec}), Clock())
        consumers = Consumers(client, aws, Random(seed), name, moto_name)
        for _ in range(40):
            consumers.step()
        counts = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        expected, found = consumers.ask("GetQueueAttributes", AttributeNames=counts)

        assert found["Attributes"] == expected["Attributes"]


def send(aws: Aws, name: str, body: str, group: str = "", dedup: str = "", **more: Any) -> Any:
    fifo = {"MessageGroupId": group, "MessageDeduplicationId": dedup or body} if group else {}
    return aws.call(
        "sqs", "SendMessage", {"QueueUrl": url(name), "MessageBody": body, **fifo, **more}
    )


def receive(aws: Aws, name: str, most: int = 10, **more: Any) -> list[Any]:
    params = {"QueueUrl": url(name), "MaxNumberOfMessages": most, **more}
    found: list[Any] = aws.call("sqs", "ReceiveMessage", params).get("Messages", [])
    return found


def bodies(messages: Sequence[Any]) -> list[str]:
    return [one["Body"] for one in messages]


def waiting(aws: Aws, name: str) -> list[str]:
    return [message.body for message in aws.messages(name)]


def test_a_group_waits_for_its_message_in_flight(aws: Aws, clock: Clock) -> None:
    for body in ("a1", "b1", "a2", "b2"):
        send(aws, "jobs.fifo", body, body[0])
    (first,) = receive(aws, "jobs.fifo", 1)

    assert bodies(receive(aws, "jobs.fifo", 1)) == ["b1"]
    assert receive(aws, "jobs.fifo") == []
    assert [one.in_flight for one in aws.messages("jobs.fifo")] == [True, True, False, False]
    aws.delete(url("jobs.fifo"), first["ReceiptHandle"])
    assert bodies(receive(aws, "jobs.fifo")) == ["a2"]
    clock.now_ms += 360_000
    assert bodies(receive(aws, "jobs.fifo")) == ["b1", "a2", "b2"]


def test_a_group_is_blocked_by_any_of_its_messages(aws: Aws) -> None:
    for body in ("a1", "a2"):
        send(aws, "jobs.fifo", body, "a")
    first, _ = receive(aws, "jobs.fifo")
    change(aws, "jobs.fifo", first, 0)

    assert receive(aws, "jobs.fifo") == []


def change(aws: Aws, name: str, message: Any, timeout_s: int) -> None:
    params = {"QueueUrl": url(name), "ReceiptHandle": message["ReceiptHandle"]}
    aws.call("sqs", "ChangeMessageVisibility", {**params, "VisibilityTimeout": timeout_s})


def test_visibility_is_changed_from_now_on(aws: Aws, clock: Clock) -> None:
    send(aws, "checks", "x")
    (message,) = receive(aws, "checks", VisibilityTimeout=30)
    clock.now_ms += 29_999
    change(aws, "checks", message, 5)
    clock.now_ms += 4_999

    assert receive(aws, "checks") == []
    clock.now_ms += 1
    assert (
        refusal(
            aws,
            "sqs",
            "ChangeMessageVisibility",
            {
                "QueueUrl": url("checks"),
                "ReceiptHandle": message["ReceiptHandle"],
                "VisibilityTimeout": 1,
            },
        )
        == "MessageNotInflight"
    )
    (again,) = receive(aws, "checks", MessageSystemAttributeNames=["All"])
    assert again["Attributes"]["ApproximateReceiveCount"] == "2"
    assert again["Attributes"]["ApproximateFirstReceiveTimestamp"] == str(START_MS)
    assert again["Attributes"]["SentTimestamp"] == str(START_MS)
    assert again["ReceiptHandle"] != message["ReceiptHandle"]


def test_an_old_handle_deletes_nothing(aws: Aws, clock: Clock) -> None:
    send(aws, "checks", "x")
    send(aws, "jobs.fifo", "x", "a")
    old = [receive(aws, name)[0] for name in ("checks", "jobs.fifo")]
    clock.now_ms += 360_000
    for name in ("checks", "jobs.fifo"):
        receive(aws, name)
    standard, fifo = (
        {"QueueUrl": url(name), "ReceiptHandle": one["ReceiptHandle"]}
        for name, one in zip(("checks", "jobs.fifo"), old, strict=True)
    )

    for params in (standard, fifo):
        changed = {**params, "VisibilityTimeout": 1}
        code = refusal(aws, "sqs", "ChangeMessageVisibility", changed)

        assert code == "InvalidParameterValue"
    assert aws.call("sqs", "DeleteMessage", standard) == {}
    assert refusal(aws, "sqs", "DeleteMessage", fifo) == "InvalidParameterValue"
    assert not aws.delete(fifo["QueueUrl"], fifo["ReceiptHandle"])
    assert waiting(aws, "checks") == waiting(aws, "jobs.fifo") == ["x"]
    (failed,) = aws.call(
        "sqs",
        "DeleteMessageBatch",
        {
            "QueueUrl": fifo["QueueUrl"],
            "Entries": [{"Id": "0", "ReceiptHandle": fifo["ReceiptHandle"]}],
        },
    )["Failed"]
    assert (failed["Id"], failed["SenderFault"]) == ("0", True)


def test_an_expired_handle_deletes_on_a_standard_queue_only(aws: Aws, clock: Clock) -> None:
    send(aws, "checks", "x")
    send(aws, "jobs.fifo", "x", "a")
    handles = [receive(aws, name)[0]["ReceiptHandle"] for name in ("checks", "jobs.fifo")]
    clock.now_ms += 360_000

    assert aws.delete(url("checks"), handles[0])
    assert not aws.delete(url("jobs.fifo"), handles[1])
    assert waiting(aws, "checks") == []
    assert waiting(aws, "jobs.fifo") == ["x"]


def test_a_handle_is_of_one_queue(aws: Aws) -> None:
    send(aws, "checks", "x")
    (message,) = receive(aws, "checks")
    for handle in ("nonsense", message["ReceiptHandle"]):
        params = {"QueueUrl": url("dead-checks"), "ReceiptHandle": handle}

        assert refusal(aws, "sqs", "DeleteMessage", params) == "ReceiptHandleIsInvalid"
    assert aws.delete(url("checks"), message["ReceiptHandle"])
    assert aws.delete(url("checks"), message["ReceiptHandle"]), "once more is no error"


def test_what_was_received_too_often_is_a_dead_letter_at_the_next_reception(
    aws: Aws, clock: Clock
) -> None:
    send(aws, "jobs.fifo", "x", "a")
    send(aws, "jobs.fifo", "y", "a")
    for _ in range(2):
        receive(aws, "jobs.fifo", 1)
        clock.now_ms += 360_000

    assert waiting(aws, "dead.fifo") == []
    assert bodies(receive(aws, "jobs.fifo")) == ["y"]
    (dead,) = receive(aws, "dead.fifo", MessageSystemAttributeNames=["All"])
    assert dead["Attributes"]["ApproximateReceiveCount"] == "1"
    assert dead["Attributes"]["MessageGroupId"] == "a"
    assert dead["Attributes"]["DeadLetterQueueSourceArn"] == DEPLOYED.queues["jobs.fifo"].arn
    assert dead["Attributes"]["SentTimestamp"] == str(clock.now_ms)
    assert aws.move_messages("dead.fifo", "jobs.fifo") == 0, "it is in flight"
    clock.now_ms += 360_000
    assert aws.move_messages("dead.fifo", "jobs.fifo") == 1
    assert waiting(aws, "jobs.fifo") == ["y", "x"]


def test_a_dead_letter_of_a_standard_queue_keeps_its_age(aws: Aws, clock: Clock) -> None:
    send(aws, "checks", "x")
    for _ in range(3):
        receive(aws, "checks")
        clock.now_ms += 360_000
    receive(aws, "checks")

    assert aws.messages("dead-checks")[0].sent_ms == START_MS
    clock.now_ms = START_MS + 1_800_000 - 1
    assert waiting(aws, "dead-checks") == ["x"]
    clock.now_ms += 1
    assert waiting(aws, "dead-checks") == []


def test_a_message_is_delayed(aws: Aws, clock: Clock) -> None:
    send(aws, "checks", "later", DelaySeconds=900)
    send(aws, "checks", "now")
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesDelayed"]
    asked = {"QueueUrl": url("checks"), "AttributeNames": names}

    assert list(aws.call("sqs", "GetQueueAttributes", asked)["Attributes"].values()) == ["1", "1"]
    assert bodies(receive(aws, "checks")) == ["now"]
    clock.now_ms += 900_000
    assert bodies(receive(aws, "checks")) == ["later", "now"]


def test_a_message_expires_in_flight_or_not(aws: Aws, clock: Clock) -> None:
    send(aws, "checks", "x")
    clock.now_ms += 1_000_000
    send(aws, "checks", "y")
    receive(aws, "checks")
    clock.now_ms = START_MS + 1_200_000

    assert waiting(aws, "checks") == ["y"]


def test_a_repeat_is_taken_and_forgotten_for_five_minutes(aws: Aws, clock: Clock) -> None:
    first = send(aws, "jobs.fifo", "x", "a", "1")
    (message,) = receive(aws, "jobs.fifo")
    aws.delete(url("jobs.fifo"), message["ReceiptHandle"])
    clock.now_ms += 5 * MINUTE_MS - 1
    repeat = send(aws, "jobs.fifo", "other body", "a", "1")

    assert [repeat[name] for name in ("MessageId", "SequenceNumber")] == [
        first[name] for name in ("MessageId", "SequenceNumber")
    ]
    assert waiting(aws, "jobs.fifo") == []
    clock.now_ms += 1
    assert send(aws, "jobs.fifo", "x", "a", "1")["SequenceNumber"] > first["SequenceNumber"]
    assert waiting(aws, "jobs.fifo") == ["x"]


def test_repeats_are_sought_in_a_group_or_in_the_queue(aws: Aws) -> None:
    for name in ("jobs.fifo", "dead.fifo"):
        for group in "ab":
            send(aws, name, group, group, "1")

    assert waiting(aws, "jobs.fifo") == ["a", "b"]
    assert waiting(aws, "dead.fifo") == ["a"]


FIFO = {"MessageGroupId": "a", "MessageDeduplicationId": "1"}


@pytest.mark.parametrize(
    ("name", "entry", "code"),
    [
        ("checks", {"MessageBody": ""}, "MissingParameter"),
        ("checks", {"MessageBody": "\0"}, "InvalidMessageContents"),
        ("checks", {"MessageBody": "\uffff"}, "InvalidMessageContents"),
        ("checks", {"DelaySeconds": 901}, "InvalidParameterValue"),
        ("checks", {"MessageDeduplicationId": "1"}, "InvalidParameterValue"),
        ("checks", {"MessageGroupId": "a b"}, "InvalidParameterValue"),
        ("jobs.fifo", {}, "MissingParameter"),
        ("jobs.fifo", {"MessageGroupId": "a"}, "InvalidParameterValue"),
        ("jobs.fifo", {**FIFO, "DelaySeconds": 1}, "InvalidParameterValue"),
        ("jobs.fifo", {**FIFO, "MessageGroupId": "a b"}, "InvalidParameterValue"),
        ("jobs.fifo", {**FIFO, "MessageGroupId": "é"}, "InvalidParameterValue"),
        ("jobs.fifo", {**FIFO, "MessageGroupId": "a" * 129}, "InvalidParameterValue"),
        ("jobs.fifo", {**FIFO, "MessageDeduplicationId": "a" * 129}, "InvalidParameterValue"),
    ],
)
def test_sqs_refuses_a_message(aws: Aws, name: str, entry: Params, code: str) -> None:
    entry = {"MessageBody": "x", **entry}
    batch = {"QueueUrl": url(name), "Entries": [{"Id": "0", **entry}]}
    good = {"MessageBody": "good", **(FIFO if name == "jobs.fifo" else {})}
    batch["Entries"].append({"Id": "1", **good})  # type: ignore[attr-defined]

    assert refusal(aws, "sqs", "SendMessage", {"QueueUrl": url(name), **entry}) == code
    answer = aws.call("sqs", "SendMessageBatch", batch)
    assert [one["Code"] for one in answer["Failed"]] == [code]
    assert waiting(aws, name) == ["good"]


def test_a_legal_id_is_taken(aws: Aws) -> None:
    for legal in ("a" * 128, "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"):
        send(aws, "jobs.fifo", "x", legal, legal)

    assert len(aws.messages("jobs.fifo")) == 2


def entries(count: int, size: int = 1) -> list[Params]:
    return [{"Id": str(one), "MessageBody": "x" * size} for one in range(count)]


@pytest.mark.parametrize(
    ("batch", "code"),
    [
        ([], "EmptyBatchRequest"),
        (entries(11), "TooManyEntriesInBatchRequest"),
        (entries(1) * 2, "BatchEntryIdsNotDistinct"),
        ([{"Id": "a b", "MessageBody": "x"}], "InvalidBatchEntryId"),
        (entries(10, 104_858), "BatchRequestTooLong"),
    ],
)
def test_sqs_refuses_a_batch(aws: Aws, batch: list[Params], code: str) -> None:
    params = {"QueueUrl": url("checks"), "Entries": batch}

    assert refusal(aws, "sqs", "SendMessageBatch", params) == code
    assert aws.messages("checks") == []


def test_a_message_holds_one_mib(aws: Aws) -> None:
    attributes = {"a": {"DataType": "String", "StringValue": "x"}}
    send(aws, "checks", "x" * 1_048_568, MessageAttributes=attributes)
    params = {"QueueUrl": url("checks"), "MessageBody": "x" * 1_048_569}

    code = refusal(aws, "sqs", "SendMessage", {**params, "MessageAttributes": attributes})
    assert code == "InvalidParameterValue"
    (message,) = receive(aws, "checks", MessageAttributeNames=["All"])
    assert message["MessageAttributes"] == attributes


def test_an_unknown_queue_has_the_code_of_the_wire(aws: Aws) -> None:
    with pytest.raises(ClientError) as caught:
        receive(aws, "other")

    assert caught.value.response["Error"]["Code"] == "AWS.SimpleQueueService.NonExistentQueue"


# -- SNS -------------------------------------------------------------------------------------------


def event(body: str, group: str = "g", **more: Any) -> Params:
    fifo = {"MessageGroupId": group, "MessageDeduplicationId": body}
    return {"Message": body, **fifo, **more}


def publish(aws: Aws, *events: Params) -> Any:
    numbered = [{"Id": str(number), **one} for number, one in enumerate(events)]
    params = {"TopicArn": TOPIC, "PublishBatchRequestEntries": numbered}
    return aws.call("sns", "PublishBatch", params)


def text_attributes(**values: str) -> Params:
    return {name: {"DataType": "String", "StringValue": one} for name, one in values.items()}


def subscribed(clock: Clock, **fields: Any) -> Aws:
    subscriptions = (replace(SUBSCRIPTION, **fields),)
    return Aws(replace(DEPLOYED, subscriptions=subscriptions), clock)


def test_events_are_delivered_raw_in_order(aws: Aws) -> None:
    attributes = text_attributes(kind="x")
    publish(aws, event("1", MessageAttributes=attributes), event("2", "other"), event("3"))
    found = receive(
        aws,
        "subscriber.fifo",
        MessageSystemAttributeNames=["MessageGroupId", "MessageDeduplicationId"],
        MessageAttributeNames=["All"],
    )

    assert bodies(found) == ["1", "2", "3"]
    assert found[0]["MessageAttributes"] == attributes
    assert [one["Attributes"]["MessageGroupId"] for one in found] == ["g", "other", "g"]
    assert [one["Attributes"]["MessageDeduplicationId"] for one in found] == ["1", "2", "3"]


def test_an_event_is_delivered_in_an_envelope(clock: Clock) -> None:
    aws = subscribed(clock, raw=False)
    publish(aws, event("1", MessageAttributes=text_attributes(kind="x")))
    envelope = json.loads(waiting(aws, "subscriber.fifo")[0])

    assert envelope["Message"] == "1"
    assert envelope["Timestamp"] == "2027-01-15T08:00:00.000Z"
    assert envelope["MessageAttributes"] == {"kind": {"Type": "String", "Value": "x"}}


@pytest.mark.parametrize(("by_group", "delivered"), [(True, ["x", "x"]), (False, ["x"])])
def test_a_repeat_is_published_but_not_delivered(
    clock: Clock, by_group: bool, delivered: list[str]
) -> None:
    aws = Aws(replace(DEPLOYED, deduplicates_by_group=by_group), clock)
    for group in ("a", "a", "b"):
        answer = publish(aws, event("x", group))
        (message,) = answer["Successful"]

        assert message["MessageId"]
        assert answer["Failed"] == []
    assert waiting(aws, "subscriber.fifo") == delivered
    clock.now_ms += 5 * MINUTE_MS
    publish(aws, event("x", "a"))
    assert waiting(aws, "subscriber.fifo") == [*delivered, "x"]


def test_an_event_that_the_policy_does_not_want_is_not_delivered(clock: Clock) -> None:
    aws = subscribed(clock, policy={"kind": ["x"]})
    publish(aws, event("1", MessageAttributes=text_attributes(kind="y")), event("2"))
    publish(aws, event("3", MessageAttributes=text_attributes(kind="x")))

    assert waiting(aws, "subscriber.fifo") == ["3"]
    assert not aws.lost


def test_a_queue_that_does_not_let_the_topic_send_gets_nothing(clock: Clock) -> None:
    letters: Params = {"senders": frozenset(), "dead_letters": "undelivered.fifo"}
    kept = subscribed(clock, **letters, dead_letter_senders=frozenset({TOPIC}))
    shut_out = subscribed(clock, **letters)
    lost = subscribed(clock, senders=frozenset())
    for aws in (kept, shut_out, lost):
        publish(aws, event("1"))

        assert waiting(aws, "subscriber.fifo") == []
    assert waiting(kept, "undelivered.fifo") == ["1"]
    assert not kept.lost
    assert shut_out.lost == lost.lost == {"subscriber.fifo": 1}


def test_a_queue_that_cannot_be_reached_has_dead_letters(clock: Clock) -> None:
    aws = subscribed(clock, dead_letters="undelivered.fifo", dead_letter_senders=frozenset({TOPIC}))
    reached = iter((False, True))
    aws.delivers = lambda: next(reached)
    publish(aws, event("1"), event("2"))

    assert waiting(aws, "undelivered.fifo") == ["1"]
    assert waiting(aws, "subscriber.fifo") == ["2"]


@pytest.mark.parametrize(
    "fields", [{"queue": "gone.fifo"}, {"raw": True}], ids=["deleted queue", "11 attributes"]
)
def test_what_a_queue_refuses_is_a_dead_letter_or_lost(clock: Clock, fields: Params) -> None:
    aws = subscribed(clock, **fields)
    many = text_attributes(**{f"a{one}": "x" for one in range(11)})
    publish(aws, event("1", MessageAttributes=many))

    assert aws.lost == {fields.get("queue", "subscriber.fifo"): 1}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"Message": ""}, "InvalidParameter"),
        ({"MessageGroupId": "a b"}, "InvalidParameter"),
        ({"MessageDeduplicationId": "a" * 129}, "InvalidParameter"),
        ({"MessageAttributes": text_attributes(kind="")}, "ParameterValueInvalid"),
    ],
)
def test_sns_refuses_an_event(aws: Aws, change: Params, code: str) -> None:
    params = {"TopicArn": TOPIC, **event("1"), **change}
    answer = publish(aws, {**event("1"), **change}, event("2"))

    assert refusal(aws, "sns", "Publish", params) == code
    assert [one["Code"] for one in answer["Failed"]] == [code]
    assert waiting(aws, "subscriber.fifo") == ["2"]


@pytest.mark.parametrize("missing", ["MessageGroupId", "MessageDeduplicationId"])
def test_an_event_needs_both_ids(aws: Aws, missing: str) -> None:
    params = {"TopicArn": TOPIC, **event("1")}
    del params[missing]

    assert refusal(aws, "sns", "Publish", params) == "InvalidParameter"


def test_a_batch_of_events_holds_256_kib(aws: Aws) -> None:
    attributes = text_attributes(a="x")  # 8 bytes
    half = 131_072 - 8
    fits = [event(name, Message=name * half, MessageAttributes=attributes) for name in ("a", "b")]
    publish(aws, *fits)
    fits[1]["Message"] += "b"
    entries = [{"Id": str(number), **one} for number, one in enumerate(fits)]
    params = {"TopicArn": TOPIC, "PublishBatchRequestEntries": entries}

    assert refusal(aws, "sns", "PublishBatch", params) == "BatchRequestTooLong"
    single = {"TopicArn": TOPIC, **event("c", Message="x" * 262_145)}
    assert refusal(aws, "sns", "Publish", single) == "InvalidParameter"
    assert len(aws.messages("subscriber.fifo")) == 2


def test_an_unknown_topic_is_not_found(aws: Aws) -> None:
    params = {"TopicArn": f"{TOPIC}x", **event("1")}

    assert refusal(aws, "sns", "Publish", params) == "NotFound"


CONDITIONS = (
    "x",
    "xy",
    {"prefix": "x"},
    {"suffix": "y"},
    {"anything-but": ["x", "y"]},
    {"anything-but": "xy"},
    {"anything-but": {"prefix": "x"}},
)


def some_policy(chance: Random, depth: int = 1) -> Params:
    policy: Params = {}
    for name in chance.sample(["a", "b", "c"], chance.randint(1, 2)):
        # moto does not match {"exists": false} after anything else.
        exists = [{"exists": chance.random() < 0.5}]
        policy[name] = exists if chance.random() < 0.3 else chance.sample(CONDITIONS, 2)
    if depth and chance.random() < 0.3:
        policy["$or"] = [some_policy(chance, 0), some_policy(chance, 0)]
    return policy


def test_any_condition_of_an_attribute_will_do() -> None:
    policy = {"a": ["x", {"anything-but": ["y"]}, {"exists": False}]}

    assert matches(policy, {})
    assert matches(policy, text_attributes(a="z"))
    assert not matches(policy, text_attributes(a="y"))


def test_filter_policies_match_as_moto_matches_them() -> None:
    chance = Random(0)
    for _ in range(2000):
        policy = some_policy(chance)
        names = chance.sample(["a", "b", "c"], chance.randint(0, 3))
        values = {name: chance.choice(["x", "xy", "y", "zy"]) for name in names}
        theirs = {name: {"Type": "String", "Value": one} for name, one in values.items()}
        matcher = FilterPolicyMatcher(policy, "MessageAttributes")

        assert matches(policy, text_attributes(**values)) == matcher.matches(theirs, ""), (
            policy,
            values,
        )


# -- KMS -------------------------------------------------------------------------------------------


def seal(aws: Aws, plain: bytes, **context: str) -> Any:
    params = {"KeyId": KEY, "Plaintext": plain, "EncryptionContext": context}
    return aws.call("kms", "Encrypt", params)["CiphertextBlob"]


def test_a_blob_opens_with_its_context_only(aws: Aws) -> None:
    blob = seal(aws, b"canary" * 100, account="a", connection="c")
    context = {"connection": "c", "account": "a"}
    asked = {"CiphertextBlob": blob, "EncryptionContext": context}

    assert aws.call("kms", "Decrypt", asked)["Plaintext"] == b"canary" * 100
    for wrong in ({"account": "a"}, {**context, "account": "b"}, {}):
        code = refusal(aws, "kms", "Decrypt", {**asked, "EncryptionContext": wrong})

        assert code == "InvalidCiphertextException"
    for spoiled in (b"nonsense", blob[:-1], blob[:-1] + b"?", b"?" + blob[1:]):
        code = refusal(aws, "kms", "Decrypt", {**asked, "CiphertextBlob": spoiled})

        assert code == "InvalidCiphertextException"


def test_a_blob_shows_nothing_and_is_like_no_other(aws: Aws) -> None:
    first, second = seal(aws, b"canary" * 10), seal(aws, b"canary" * 10)

    assert first != second
    assert b"canary" not in first + second


def test_kms_refuses_what_it_does_not_take(aws: Aws) -> None:
    encrypt = {"KeyId": KEY, "Plaintext": b"x"}
    blob = {"CiphertextBlob": b"x" * 6145}
    other = {"CiphertextBlob": seal(aws, b"x"), "KeyId": f"{KEY}x"}

    long = {**encrypt, "Plaintext": b"x" * 4097}
    assert refusal(aws, "kms", "Encrypt", long) == "ValidationException"
    empty = {**encrypt, "EncryptionContext": {"account": ""}}
    assert refusal(aws, "kms", "Encrypt", empty) == "ValidationException"
    assert refusal(aws, "kms", "Encrypt", {**encrypt, "KeyId": "x"}) == "NotFoundException"
    assert refusal(aws, "kms", "Decrypt", blob) == "ValidationException"
    assert refusal(aws, "kms", "Decrypt", other) == "NotFoundException"
    assert len(seal(aws, b"x" * 4096)) <= 6144
