"""
DynamoDB, SQS, SNS and KMS in memory, as far as this project asks them for anything.

    aws = Aws(deployed, clock)
    aws.call("sqs", "SendMessage", {"QueueUrl": url, "MessageBody": "{}"})

They keep to what AWS documents, and to nothing else: no real time, no chance, no threads. What is
not modelled raises ``NotImplementedError``. Parameters are taken to be of the right types.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from botocore.exceptions import ClientError

from tests.simulation import expressions
from tests.simulation.expressions import Condition, Invalid, Item, Unfit, Value, Values
from tests.simulation.specs import Deployed, QueueSpec, SubscriptionSpec

Params = Mapping[str, Any]
Answer = dict[str, Any]
Key = tuple[str, str]
Clock = Callable[[], int]

KIB = 1024
MIB = 1024 * KIB

# DynamoDB
PK_BYTES_MAX, SK_BYTES_MAX = 2048, 1024
ITEM_BYTES_MAX = 400 * KIB
PAGE_BYTES = MIB
BATCH_GET_MAX, BATCH_WRITE_MAX, TRANSACTION_MAX = 100, 25, 100
BATCH_GET_BYTES_MAX = 16 * MIB
TRANSACTION_BYTES_MAX = 4 * MIB
TOKEN_MS = 600_000

# SQS and SNS
ENTRIES_MAX = 10
ATTRIBUTES_MAX = 10
SQS_BYTES_MAX, SNS_BYTES_MAX = MIB, 256 * KIB
DEDUPLICATION_MS = 300_000
DELAY_S_MAX, VISIBILITY_S_MAX = 900, 43_200

# KMS
PLAINTEXT_BYTES_MAX, CIPHERTEXT_BYTES_MAX = 4096, 6144

_ENTRY_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
_FIFO_ID = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}")
_UNSENDABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

#: Codes that SQS writes with ``AWS.SimpleQueueService.`` before them.
_PREFIXED = frozenset(
    {
        "BatchEntryIdsNotDistinct",
        "BatchRequestTooLong",
        "EmptyBatchRequest",
        "InvalidBatchEntryId",
        "MessageNotInflight",
        "TooManyEntriesInBatchRequest",
    }
)


class Refused(Exception):
    """
    AWS does not do it.

    Args:
        more: What the answer holds beside ``Error``.
    """

    def __init__(self, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.code, self.message, self.more = code, message, more

    def error(self, service: str, operation: str) -> ClientError:
        said: Answer = {"Code": self.code, "Message": self.message}
        if service == "sqs":
            said |= {"Code": _sqs_code(self.code), "QueryErrorCode": self.code, "Type": "Sender"}
        response: Any = {
            "Error": said,
            "ResponseMetadata": {"HTTPStatusCode": 400, "RetryAttempts": 0},
            **self.more,
        }
        return ClientError(response, operation)


def _sqs_code(code: str) -> str:
    if code == "QueueDoesNotExist":
        return "AWS.SimpleQueueService.NonExistentQueue"
    return f"AWS.SimpleQueueService.{code}" if code in _PREFIXED else code


class Aws:
    """
    The deployed data resources.

    Args:
        clock: Milliseconds since the epoch.

    Attributes:
        stale: Asked by each read that is not consistent: whether it sees every item as it was
            before its last write.

        leave: Asked by a batch of DynamoDB, with how many keys it has: how many it leaves
            unprocessed.

        page_bytes: A page of a query or scan ends with the item that passes this size.

        calls: How often each operation was called.

        delivers: Asked by each delivery of SNS: whether the queue can be reached.

        lost: Messages that SNS could not deliver to a queue nor to its dead letters, by queue.

        expired: Messages that were kept for too short a time, by queue.

        buried: How often each dead letter had been received, by the queue it was on.

        items: All items by (pk, sk), to read; a write replaces an item, it changes none in place.

        history: Every key ever written with its item before the last write; ``None`` for no item.
    """

    def __init__(self, deployed: Deployed, clock: Clock) -> None:
        self.stale: Callable[[], bool] = lambda: False
        self.leave: Callable[[int], int] = lambda keys: 0
        self.delivers: Callable[[], bool] = lambda: True
        self.page_bytes = PAGE_BYTES
        self.calls: Counter[str] = Counter()
        self._table = _Table(self, deployed.table, clock)
        self.items: Mapping[Key, Item] = MappingProxyType(self._table.items)
        self.history: Mapping[Key, Item | None] = MappingProxyType(self._table.history)
        self._queues = _Queues(deployed.queues, clock)
        self._topic = _Topic(self, deployed, self._queues, clock)
        self.lost = self._topic.lost
        self.expired, self.buried = self._queues.expired, self._queues.buried
        self._operations = {
            "dynamodb": self._table.operations(),
            "sqs": self._queues.operations(),
            "sns": self._topic.operations(),
            "kms": _Kms(deployed.key_arn).operations(),
        }

    def call(self, service: str, operation: str, params: Params) -> Answer:
        """
        Do what a client is asked for.

        Raises:
            ClientError: AWS refuses. SQS's code is also there without its prefix, as
                ``QueryErrorCode``, which is what botocore names its exceptions by.

            NotImplementedError: This is not modelled.
        """
        self.calls[operation] += 1
        work, known = self._operations[service].get(operation, (None, frozenset()))
        if work is None or not params.keys() <= known:
            unknown = sorted(params.keys() - known) if work else ""
            raise NotImplementedError(f"{service}.{operation} {unknown} is not modelled")
        try:
            return work(params)
        except Refused as refused:
            raise refused.error(service, operation) from None
        except Invalid as invalid:
            raise Refused("ValidationException", str(invalid)).error(service, operation) from None

    # The table

    def snapshot(self) -> dict[Key, Item]:
        """Copy the table."""
        return dict(self._table.items)

    def restore(self, snapshot: Mapping[Key, Item]) -> None:
        """Put the table back as it was; what was written since is gone, and so is its history."""
        self._table.restore(snapshot)

    # The queues

    def messages(self, queue: str) -> list[Message]:
        """All messages of a queue, in the order they came, delayed and in flight ones included."""
        return self._queues.messages(queue)

    def delete(self, url: str, handle: str) -> bool:
        """Delete a message as an event source mapping does; false if its time was over."""
        try:
            self._queues.delete_message({"QueueUrl": url, "ReceiptHandle": handle})
        except Refused:
            return False
        return True

    def move_messages(self, source: str, target: str) -> int:
        """Send what waits on a queue of dead letters to a queue as new; return how many."""
        return self._queues.move(source, target)


# -- DynamoDB --------------------------------------------------------------------------------------


class _Stored(dict[str, Value]):
    """
    An item as it is kept.

    Attributes:
        nested: It has sets, lists or maps, which a reader gets a copy of.
    """

    __slots__ = ("nested", "size")

    def __init__(self, item: Item) -> None:
        super().__init__(item)
        self.size = expressions.item_bytes(item)
        self.nested = any(
            len(next(iter(value))) > 1 or "L" in value or "M" in value for value in item.values()
        )

    def copy(self) -> dict[str, Value]:
        return expressions.copied(self) if self.nested else dict(self)


@dataclass(slots=True)
class _Action:
    """
    A write or check of one item.

    Attributes:
        make: Makes the new item of the old one; ``None`` if nothing is written.
    """

    key: Key
    condition: Condition | None
    values: Values
    make: Callable[[_Stored | None], _Stored | None] | None
    paths: tuple[str, ...] = ()


_CONDITION = frozenset(
    {
        "TableName",
        "ConditionExpression",
        "ExpressionAttributeNames",
        "ExpressionAttributeValues",
        "ReturnConsumedCapacity",
        "ReturnItemCollectionMetrics",
        "ReturnValues",
        "ReturnValuesOnConditionCheckFailure",
    }
)
_PUT = _CONDITION | {"Item"}
_DELETE = _CONDITION | {"Key"}
_UPDATE = _DELETE | {"UpdateExpression"}
_SCAN = frozenset(
    {"TableName", "ConsistentRead", "ExclusiveStartKey", "Limit", "ReturnConsumedCapacity"}
)
_QUERY = _SCAN | {
    "ExpressionAttributeNames",
    "ExpressionAttributeValues",
    "KeyConditionExpression",
    "ProjectionExpression",
    "ScanIndexForward",
}

Operations = dict[str, tuple[Callable[[Params], Answer], frozenset[str]]]


class _Table:
    def __init__(self, hooks: Aws, name: str, clock: Clock) -> None:
        self._hooks, self._name, self._clock = hooks, name, clock
        self.items: dict[Key, _Stored] = {}
        self.history: dict[Key, _Stored | None] = {}
        self._order: dict[str, list[str]] = {}
        self._tokens: dict[str, tuple[int, str]] = {}
        self._prepare: dict[str, tuple[Callable[[Params], _Action], frozenset[str]]] = {
            "Put": (self._putting, _PUT),
            "Update": (self._updating, _UPDATE),
            "Delete": (self._deleting, _DELETE),
            "ConditionCheck": (self._checking, _DELETE),
        }

    def operations(self) -> Operations:
        batch = frozenset({"RequestItems", "ReturnConsumedCapacity"})
        get = frozenset({"TableName", "Key", "ConsistentRead", "ReturnConsumedCapacity"})
        transaction = frozenset({"TransactItems", "ClientRequestToken", "ReturnConsumedCapacity"})
        return {
            "GetItem": (self.get_item, get),
            "PutItem": (lambda params: self._write(self._putting(params), params), _PUT),
            "UpdateItem": (lambda params: self._write(self._updating(params), params), _UPDATE),
            "DeleteItem": (lambda params: self._write(self._deleting(params), params), _DELETE),
            "Query": (self.query, _QUERY),
            "Scan": (self.scan, _SCAN),
            "BatchGetItem": (self.batch_get_item, batch),
            "BatchWriteItem": (self.batch_write_item, batch),
            "TransactWriteItems": (self.transact_write_items, transaction),
        }

    def restore(self, snapshot: Mapping[Key, Item]) -> None:
        self.items.clear()
        self.history.clear()
        self._order.clear()
        for key, item in snapshot.items():
            self._put(key, _Stored(item))
        self.history.update(self.items)

    # Reading

    def get_item(self, params: Params) -> Answer:
        self._named(params["TableName"])
        item = self._seen(_key(params["Key"]), self._is_stale(params))
        return {"Item": item.copy()} if item is not None else {}

    def _is_stale(self, params: Params) -> bool:
        return not params.get("ConsistentRead") and self._hooks.stale()

    def _seen(self, key: Key, stale: bool) -> _Stored | None:
        return self.history.get(key) if stale else self.items.get(key)

    def query(self, params: Params) -> Answer:
        self._named(params["TableName"])
        names = _names(params)
        wanted = _key_condition(params["KeyConditionExpression"], names)
        values = _bound(params, wanted.condition)
        pk = _partition(values[wanted.pk])
        _check_range(wanted, values)
        sks = self._order.get(pk, [])
        if not params.get("ScanIndexForward", True):
            sks = sks[::-1]
        check = wanted.condition.check
        return self._page(params, ((pk, sk) for sk in sks), lambda item: check(item, values))

    def scan(self, params: Params) -> Answer:
        self._named(params["TableName"])
        keys = ((pk, sk) for pk in sorted(self._order) for sk in self._order[pk])
        return self._page(params, keys, lambda item: True)

    def _page(self, params: Params, keys: Iterable[Key], wanted: Callable[[Item], bool]) -> Answer:
        limit, stale = params.get("Limit", 0), self._is_stale(params)
        start = params.get("ExclusiveStartKey")
        only = _projection(params.get("ProjectionExpression", ""))
        found: list[Item] = []
        size, answer = 0, {}
        if start:
            keys = _after(keys, _key(start), params.get("ScanIndexForward", True))
        for key in keys:
            item = self._seen(key, stale)
            if item is None or not wanted(item):
                continue
            copy = item.copy()
            found.append({name: copy[name] for name in only if name in copy} if only else copy)
            size += item.size  # DynamoDB's pages are cut before attributes are left out.
            if size > self._hooks.page_bytes or len(found) == limit:
                answer = {"LastEvaluatedKey": {"pk": {"S": key[0]}, "sk": {"S": key[1]}}}
                break
        return {"Items": found, "Count": len(found), "ScannedCount": len(found), **answer}

    def batch_get_item(self, params: Params) -> Answer:
        ((name, asked),) = params["RequestItems"].items()
        self._named(name)
        if not asked.keys() <= {"Keys", "ConsistentRead"}:
            raise NotImplementedError("BatchGetItem takes keys only")
        # AWS promises no order; the other way round nobody relies on one.
        wanted = asked["Keys"][::-1]
        keys = [_key(one) for one in wanted]
        if len(keys) > BATCH_GET_MAX:
            raise Invalid("Too many items requested for the BatchGetItem call")
        _require_distinct(keys)
        stale = self._is_stale(asked)
        taken, size, found = len(keys) - self._hooks.leave(len(keys)), 0, []
        for number, key in enumerate(keys[:taken]):
            item = self._seen(key, stale)
            size += item.size if item else 0
            if size > BATCH_GET_BYTES_MAX:
                taken = number
                break
            if item:
                found.append(item.copy())
        answer: Answer = {"Responses": {name: found}, "UnprocessedKeys": {}}
        if taken < len(keys):
            answer["UnprocessedKeys"] = {name: {**asked, "Keys": wanted[taken:]}}
        return answer

    # Writing

    def _named(self, table: str) -> None:
        if table.rpartition("/")[2] != self._name:
            raise Refused("ResourceNotFoundException", "Requested resource not found")

    def _put(self, key: Key, item: _Stored | None) -> None:
        if key not in self.history:
            insort(self._order.setdefault(key[0], []), key[1])
        self.history[key] = self.items.get(key)
        if item is None:
            self.items.pop(key, None)
        else:
            self.items[key] = item

    def _putting(self, params: Params) -> _Action:
        self._named(params["TableName"])
        item = _new_item(params["Item"])
        condition = _condition(params)
        key = (item["pk"]["S"], item["sk"]["S"])
        return _Action(key, condition, _bound(params, condition), lambda old: item)

    def _deleting(self, params: Params) -> _Action:
        self._named(params["TableName"])
        condition = _condition(params)
        return _Action(_key(params["Key"]), condition, _bound(params, condition), lambda old: None)

    def _checking(self, params: Params) -> _Action:
        action = self._deleting(params)
        action.make = None
        return action

    def _updating(self, params: Params) -> _Action:
        self._named(params["TableName"])
        key, condition = _key(params["Key"]), _condition(params)
        if "UpdateExpression" not in params:
            values = _bound(params, condition)
            return _Action(key, condition, values, lambda old: _keyed(key, old or {}))
        update = expressions.update(params["UpdateExpression"], _names(params))
        values = _bound(params, condition, update)
        for path in update.paths:
            if path in ("pk", "sk"):
                raise Invalid(f"Cannot update attribute {path}. This attribute is part of the key")
        return _Action(
            key,
            condition,
            values,
            lambda old: _keyed(key, update.apply({} if old is None else old, values)),
            update.paths,
        )

    def _write(self, action: _Action, params: Params) -> Answer:
        old = self.items.get(action.key)
        if not _holds(action, old):
            shown = _shown(params, old)
            raise Refused(
                "ConditionalCheckFailedException", "The conditional request failed", **shown
            )
        assert action.make
        new = action.make(old)
        if new is not None or old is not None:
            self._put(action.key, new)
        return _returned(params.get("ReturnValues", "NONE"), action.paths, old, new)

    def batch_write_item(self, params: Params) -> Answer:
        ((name, requests),) = params["RequestItems"].items()
        if len(requests) > BATCH_WRITE_MAX:
            raise Invalid("Too many items requested for the BatchWriteItem call")
        actions = []
        for request in requests:
            ((kind, asked),) = request.items()
            prepare, _ = self._prepare[kind.removesuffix("Request")]
            actions.append(prepare({"TableName": name, **asked}))
        _require_distinct([action.key for action in actions])
        taken = len(actions) - self._hooks.leave(len(actions))
        for action in actions[:taken]:
            assert action.make
            old = self.items.get(action.key)
            new = action.make(old)
            if new is not None or old is not None:
                self._put(action.key, new)
        left = {name: list(requests[taken:])} if taken < len(actions) else {}
        return {"UnprocessedItems": left}

    def transact_write_items(self, params: Params) -> Answer:
        items, token = params["TransactItems"], params.get("ClientRequestToken", "")
        if token and self._is_repeated(token, repr(items)):
            return {}
        actions = self._transaction(items)
        made = [self._attempt(action, item) for action, item in zip(actions, items, strict=True)]
        reasons = [reason for reason, _ in made]
        if any(reason["Code"] != "None" for reason in reasons):
            codes = ", ".join(reason["Code"] for reason in reasons)
            raise Refused(
                "TransactionCanceledException",
                "Transaction cancelled, please refer cancellation reasons for specific reasons "
                f"[{codes}]",
                CancellationReasons=reasons,
            )
        if sum(new.size for _, new in made if new) > TRANSACTION_BYTES_MAX:
            raise Invalid("Aggregated size of all items in the transaction has exceeded 4 MB")
        for action, (_, new) in zip(actions, made, strict=True):
            if action.make and (new is not None or action.key in self.items):
                self._put(action.key, new)
        if token:
            self._tokens[token] = (self._clock(), repr(items))
        return {}

    def _is_repeated(self, token: str, content: str) -> bool:
        at_ms, known = self._tokens.get(token, (-TOKEN_MS, ""))
        if self._clock() - at_ms >= TOKEN_MS:
            return False
        if known != content:
            raise Refused("IdempotentParameterMismatchException", "The token is of another request")
        return True

    def _transaction(self, items: Sequence[Params]) -> list[_Action]:
        if len(items) > TRANSACTION_MAX:
            raise Invalid(f"Member must have length less than or equal to {TRANSACTION_MAX}")
        actions = []
        for item in items:
            ((kind, asked),) = item.items()
            prepare, known = self._prepare[kind]
            if not asked.keys() <= known:
                raise NotImplementedError(f"{kind}: {sorted(asked.keys() - known)}")
            actions.append(prepare(asked))
        if len({action.key for action in actions}) < len(actions):
            raise Invalid("Transaction request cannot include multiple operations on one item")
        return actions

    def _attempt(self, action: _Action, item: Params) -> tuple[Answer, _Stored | None]:
        old = self.items.get(action.key)
        if not _holds(action, old):
            (asked,) = item.values()
            reason = {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed"}
            return {**reason, **_shown(asked, old)}, None
        try:
            return {"Code": "None"}, action.make(old) if action.make else None
        except Unfit as unfit:
            return {"Code": "ValidationError", "Message": str(unfit)}, None


def _holds(action: _Action, old: Item | None) -> bool:
    return action.condition is None or action.condition.check(old or {}, action.values)


def _shown(params: Params, old: _Stored | None) -> Answer:
    if params.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD" and old is not None:
        return {"Item": old.copy()}
    return {}


def _returned(
    wanted: str, paths: tuple[str, ...], old: _Stored | None, new: _Stored | None
) -> Answer:
    if wanted == "NONE":
        return {}
    item = (old if wanted.endswith("OLD") else new) or _Stored({})
    shown = item.copy()
    if wanted.startswith("UPDATED"):
        shown = {name: value for name, value in shown.items() if name in paths}
    return {"Attributes": shown} if shown else {}


def _key(element: Item) -> Key:
    """Read a key of exactly the two attributes."""
    try:
        pk, sk = element["pk"]["S"], element["sk"]["S"]
    except KeyError:
        raise Invalid("The provided key element does not match the schema") from None
    if len(element) != 2:
        raise Invalid("The provided key element does not match the schema")
    _check_key("pk", pk)
    _check_key("sk", sk)
    return pk, sk


def _check_key(name: str, text: str) -> None:
    if not text:
        raise Invalid(f"A key attribute cannot contain an empty string value. Key: {name}")
    size = len(text.encode())
    if name == "pk" and size > PK_BYTES_MAX:
        raise Invalid(f"Size of hashkey has exceeded the maximum size limit of {PK_BYTES_MAX}")
    if name == "sk" and size > SK_BYTES_MAX:
        raise Invalid(f"Size of range key has exceeded the size limit of {SK_BYTES_MAX}")


def _new_item(item: Item) -> _Stored:
    for name in ("pk", "sk"):
        if name not in item:
            raise Invalid(
                f"One or more parameter values were invalid: Missing the key {name} in the item"
            )
        if "S" not in item[name]:
            raise Invalid(f"Type mismatch for key {name}: S is expected")
        _check_key(name, item[name]["S"])
    if "" in item:
        raise Invalid("One or more parameter values were invalid: An attribute has an empty name")
    stored = _Stored({name: expressions.canonical(value) for name, value in item.items()})
    if stored.size > ITEM_BYTES_MAX:
        raise Invalid("Item size has exceeded the maximum allowed size")
    return stored


def _keyed(key: Key, item: Item) -> _Stored:
    stored = _Stored({"pk": {"S": key[0]}, "sk": {"S": key[1]}, **item})
    if stored.size > ITEM_BYTES_MAX:
        raise Unfit("Item size to update has exceeded the maximum allowed size")
    return stored


def _after(keys: Iterable[Key], start: Key, forward: bool) -> Iterator[Key]:
    return (key for key in keys if (key > start if forward else key < start))


def _require_distinct(keys: Sequence[Key]) -> None:
    if len(set(keys)) < len(keys):
        raise Invalid("Provided list of item keys contains duplicates")


def _names(params: Params) -> tuple[tuple[str, str], ...]:
    names = params.get("ExpressionAttributeNames")
    return tuple(sorted(names.items())) if names else ()


def _condition(params: Params) -> Condition | None:
    text = params.get("ConditionExpression")
    if text is None:
        return None
    return expressions.condition("ConditionExpression", text, _names(params))


def _bound(params: Params, *used: Condition | expressions.Update | None) -> Values:
    """Take the values that expressions refer to; all of them, and no others."""
    parsed = [one for one in used if one]
    _check_names(params, parsed)
    given = params.get("ExpressionAttributeValues")
    if given is not None and not parsed:
        raise Invalid("ExpressionAttributeValues can only be specified when using expressions")
    if given is not None and not given:
        raise Invalid("ExpressionAttributeValues must not be empty")
    values = {name: expressions.canonical(value) for name, value in (given or {}).items()}
    _check_values(values, parsed)
    return values


def _values(*parsed: Condition | expressions.Update) -> frozenset[str]:
    found: frozenset[str] = frozenset()
    return found.union(*[one.values for one in parsed])


def _check_values(values: Values, parsed: Sequence[Condition | expressions.Update]) -> None:
    wanted = parsed[0].values if len(parsed) == 1 else _values(*parsed)
    if missing := wanted - values.keys():
        raise Invalid(f"An expression attribute value is not defined: {min(missing)}")
    if len(values) > len(wanted):
        unused = sorted(values.keys() - wanted)
        raise Invalid(f"ExpressionAttributeValues unused in expressions: {unused}")
    for one in parsed:
        for name, function, kinds in one.kinds:
            if next(iter(values[name])) not in kinds:
                raise Invalid(f"Incorrect operand type for operator or function: {function}")
        if isinstance(one, Condition):
            one.require_ranges(values)


def _check_names(params: Params, parsed: Sequence[Condition | expressions.Update]) -> None:
    given = params.get("ExpressionAttributeNames")
    if given is None:
        return
    if not parsed:
        raise Invalid("ExpressionAttributeNames can only be specified when using expressions")
    if not given:
        raise Invalid("ExpressionAttributeNames must not be empty")
    unused = given.keys() - frozenset[str]().union(*(one.names for one in parsed))
    if unused:
        raise Invalid(f"ExpressionAttributeNames unused in expressions: {sorted(unused)}")


@dataclass(frozen=True, slots=True)
class _KeyCondition:
    """
    What a query asks for.

    Attributes:
        pk: Name of the value that is the partition.

        sk: Names of the values that the sort key is compared with.
    """

    condition: Condition
    pk: str
    sk: tuple[str, ...]


@lru_cache(maxsize=1024)
def _projection(asked: str) -> list[str]:
    """Name the attributes that are asked for, plain ones only; none for all of them."""
    names = [one.strip() for one in asked.split(",")] if asked else []
    if not all(re.fullmatch("[a-z][a-z_0-9]*", one) for one in names):
        raise NotImplementedError("ProjectionExpression takes plain names only")
    reserved = [one for one in names if one.upper() in expressions.reserved_words()]
    if reserved:
        raise Invalid(f"Attribute name is a reserved keyword; reserved keyword: {reserved[0]}")
    if len(set(names)) < len(names):
        raise Invalid("Invalid ProjectionExpression: Two document paths overlap with each other")
    return names


@lru_cache(maxsize=1024)
def _key_condition(text: str, names: tuple[tuple[str, str], ...]) -> _KeyCondition:
    what = "KeyConditionExpression"
    parsed = expressions.condition(what, text, names)
    pks: list[str] = []
    sks: list[tuple[str, ...]] = []
    for node in _conjuncts(parsed.node):
        name, values = _key_operands(node)
        if name == "pk" and node[:2] == ("compare", "="):
            pks += values
        elif name == "sk" and node[1] != "<>" and node[0] != "in":
            sks.append(values)
        else:
            raise Invalid("Query key condition not supported")
    if len(sks) > 1 or len(pks) > 1:
        raise Invalid(f"Invalid {what}: must only contain one condition per key")
    if not pks:
        raise Invalid("Query condition missed key schema element: pk")
    return _KeyCondition(parsed, pks[0], sks[0] if sks else ())


def _conjuncts(node: expressions.Node) -> Iterator[expressions.Node]:
    if node[0] == "group":
        yield from _conjuncts(node[1])
    elif node[0] == "and":
        yield from _conjuncts(node[1])
        yield from _conjuncts(node[2])
    else:
        yield node


def _key_operands(node: expressions.Node) -> tuple[str, tuple[str, ...]]:
    if node[0] not in ("compare", "between", "begins_with"):
        raise Invalid("Invalid operator used in KeyConditionExpression")
    path, *others = node[2:] if node[0] == "compare" else node[1:]
    if path[0] != "path" or any(other[0] != "value" for other in others):
        raise Invalid("Invalid KeyConditionExpression: a key is compared with a value")
    return path[1], tuple(other[1] for other in others)


def _partition(value: Value) -> str:
    if "S" not in value:
        raise Invalid("Condition parameter type does not match schema type")
    pk: str = value["S"]
    _check_key("pk", pk)
    return pk


def _check_range(wanted: _KeyCondition, values: Values) -> None:
    if any("S" not in values[name] for name in wanted.sk):
        raise Invalid("Condition parameter type does not match schema type")


# -- SQS -------------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Message:
    """
    A message on a queue.

    Attributes:
        attributes: As they were sent: ``{name: {"DataType": ..., "StringValue": ...}}``.

        group: Message group id; empty for none. dedup: Deduplication id; empty for none.

        visible_ms: From when on it can be received.

        receives: How often it was handed out. first_ms: When it was for the first time.

        handle: The receipt handle that was given out last.

        in_flight: It was handed out, and its visibility timeout is not over; true as of the last
            call of :meth:`Aws.messages` or reception.

        source: ARN of the queue whose dead letter it is; empty for none.
    """

    id: str
    body: str
    attributes: Mapping[str, Any]
    group: str
    dedup: str
    sequence: str
    sent_ms: int
    visible_ms: int
    receives: int = 0
    first_ms: int = 0
    handle: str = ""
    in_flight: bool = False
    source: str = ""


@dataclass(slots=True)
class _Queue:
    """
    A queue.

    Attributes:
        oldest_ms: No message was sent earlier.

        seen: When a deduplication id was taken, and the message's id and number.
    """

    spec: QueueSpec
    messages: dict[str, Message] = field(default_factory=dict)
    oldest_ms: int = 0
    seen: dict[tuple[str, str], tuple[int, str, str]] = field(default_factory=dict)


class _ByName(dict[str, _Queue]):
    """Queues by name, each made when it is looked for: a run has to do with a few only."""

    def __init__(self, specs: Mapping[str, QueueSpec]) -> None:
        super().__init__()
        self.specs = specs

    def __missing__(self, name: str) -> _Queue:
        made = self[name] = _Queue(self.specs[name])
        return made


class _Queues:
    def __init__(self, specs: Mapping[str, QueueSpec], clock: Clock) -> None:
        self._clock = clock
        self._queues = _ByName(specs)
        self._numbers = 0
        self.expired: Counter[str] = Counter()
        self.buried: list[tuple[str, int]] = []

    def operations(self) -> Operations:
        one = frozenset({"QueueUrl", "ReceiptHandle"})
        batch = frozenset({"QueueUrl", "Entries"})
        received = {
            "AttributeNames",
            "MaxNumberOfMessages",
            "MessageAttributeNames",
            "MessageSystemAttributeNames",
            "QueueUrl",
            "VisibilityTimeout",
            "WaitTimeSeconds",
        }
        return {
            "SendMessage": (self.send_message, _SEND),
            "SendMessageBatch": (self.send_message_batch, batch),
            "ReceiveMessage": (self.receive_message, frozenset(received)),
            "DeleteMessage": (self.delete_message, one),
            "DeleteMessageBatch": (self._batched(self._delete), batch),
            "ChangeMessageVisibility": (
                self.change_message_visibility,
                one | {"VisibilityTimeout"},
            ),
            "ChangeMessageVisibilityBatch": (self._batched(self._change), batch),
            "GetQueueAttributes": (
                self.get_queue_attributes,
                frozenset({"QueueUrl", "AttributeNames"}),
            ),
        }

    def named(self, name: str) -> _Queue | None:
        if name not in self._queues.specs:
            return None
        queue = self._queues[name]
        self._expire(queue)
        return queue

    def messages(self, name: str) -> list[Message]:
        queue = self._queues[name]
        if not queue.messages:
            return []
        self._expire(queue)
        self._refresh(queue)
        return list(queue.messages.values())

    def _queue(self, params: Params) -> _Queue:
        queue = self.named(params["QueueUrl"].rpartition("/")[2])
        if queue is None:
            raise Refused("QueueDoesNotExist", "The specified queue does not exist.")
        return queue

    def _expire(self, queue: _Queue) -> None:
        retention_ms, now_ms = queue.spec.retention_s * 1000, self._clock()
        if not queue.messages or now_ms - queue.oldest_ms < retention_ms:
            return
        for message in list(queue.messages.values()):
            if now_ms - message.sent_ms >= retention_ms:
                del queue.messages[message.id]
                self.expired[queue.spec.name] += 1
        queue.oldest_ms = min((one.sent_ms for one in queue.messages.values()), default=now_ms)

    def _refresh(self, queue: _Queue) -> None:
        now_ms = self._clock()
        for message in queue.messages.values():
            if message.in_flight and message.visible_ms <= now_ms:
                message.in_flight = False

    # Sending

    def send_message(self, params: Params) -> Answer:
        queue = self._queue(params)
        if _message_bytes(params["MessageBody"], params.get("MessageAttributes")) > SQS_BYTES_MAX:
            raise _wrong("MessageBody", "", f"Must be shorter than {SQS_BYTES_MAX} bytes.")
        return self.send(queue, params)

    def send_message_batch(self, params: Params) -> Answer:
        queue, entries = self._queue(params), params["Entries"]
        sizes = (
            _message_bytes(entry["MessageBody"], entry.get("MessageAttributes"))
            for entry in entries
        )
        if sum(sizes) > SQS_BYTES_MAX:
            raise Refused("BatchRequestTooLong", f"{SQS_BYTES_MAX} bytes at most")
        return _each(entries, lambda entry: self.send(queue, entry))

    def send(self, queue: _Queue, entry: Params) -> Answer:
        """Take a message; one that repeats another is taken and forgotten."""
        if not entry.keys() <= _SEND:
            raise NotImplementedError(f"SendMessage: {sorted(entry.keys() - _SEND)}")
        _check_message(queue.spec, entry)
        group, dedup = entry.get("MessageGroupId", ""), entry.get("MessageDeduplicationId", "")
        now_ms = self._clock()
        scope = (group if queue.spec.deduplicates_by_group else "", dedup)
        at_ms, identity, sequence = queue.seen.get(scope, (-DEDUPLICATION_MS, "", ""))
        if not dedup or now_ms - at_ms >= DEDUPLICATION_MS:
            self._numbers += 1
            identity, sequence = _uuid(self._numbers), f"{self._numbers:020d}"
            message = Message(
                identity,
                entry["MessageBody"],
                dict(entry.get("MessageAttributes", {})),
                group,
                dedup,
                sequence if queue.spec.fifo else "",
                now_ms,
                now_ms + entry.get("DelaySeconds", 0) * 1000,
            )
            self._enqueue(queue, message)
            if dedup:
                queue.seen[scope] = (now_ms, identity, sequence)
        answer = {"MessageId": identity, "MD5OfMessageBody": _md5(entry["MessageBody"])}
        return {**answer, "SequenceNumber": sequence} if queue.spec.fifo else answer

    def _enqueue(self, queue: _Queue, message: Message) -> None:
        if not queue.messages or message.sent_ms < queue.oldest_ms:
            queue.oldest_ms = message.sent_ms
        queue.messages[message.id] = message

    # Receiving

    def receive_message(self, params: Params) -> Answer:
        queue = self._queue(params)
        most = params.get("MaxNumberOfMessages", 1)
        if not 1 <= most <= ENTRIES_MAX:
            raise _wrong("MaxNumberOfMessages", most, "Must be between 1 and 10.")
        timeout_s = _timeout(params.get("VisibilityTimeout", queue.spec.visibility_s))
        until_ms = self._clock() + timeout_s * 1000
        taken = self._take(queue, most)
        for message in taken:
            self._hand_out(queue, message, until_ms)
        if not taken:
            return {}
        return {"Messages": [_received(message, params) for message in taken]}

    def _take(self, queue: _Queue, most: int) -> list[Message]:
        """Find what can be received, moving what was received too often."""
        self._refresh(queue)
        now_ms, spec = self._clock(), queue.spec
        waiting = queue.messages.values()
        blocked = {one.group for one in waiting if one.in_flight} if spec.fifo else set()
        taken, dead = [], []
        for message in waiting:
            if message.visible_ms > now_ms or (spec.fifo and message.group in blocked):
                continue
            if spec.dead_letters and message.receives >= spec.receives:
                dead.append(message)
                continue
            taken.append(message)
            if len(taken) == most:
                break
        for message in dead:
            self._bury(queue, message)
        return taken

    def _bury(self, queue: _Queue, message: Message) -> None:
        target = self._queues[queue.spec.dead_letters]
        self.buried.append((queue.spec.name, message.receives))
        del queue.messages[message.id]
        now_ms = self._clock()
        if target.spec.fifo:
            message.sent_ms = now_ms  # On a standard queue it keeps its age.
        message.visible_ms, message.receives, message.first_ms = now_ms, 0, 0
        message.handle, message.in_flight, message.source = "", False, queue.spec.arn
        self._enqueue(target, message)

    def move(self, source: str, target: str) -> int:
        now_ms = self._clock()
        waiting = [one for one in self.messages(source) if one.visible_ms <= now_ms]
        for old in waiting:
            del self._queues[source].messages[old.id]
            self._numbers += 1
            new = replace(
                old,
                id=_uuid(self._numbers),
                sequence=f"{self._numbers:020d}" if old.sequence else "",
                sent_ms=now_ms,
                visible_ms=now_ms,
                receives=0,
                first_ms=0,
                handle="",
                source="",
            )
            self._enqueue(self._queues[target], new)
        return len(waiting)

    def _hand_out(self, queue: _Queue, message: Message, until_ms: int) -> None:
        self._numbers += 1
        message.receives += 1
        message.first_ms = message.first_ms or self._clock()
        message.handle = f"{queue.spec.name}/{message.id}/{self._numbers}"
        message.visible_ms = until_ms
        message.in_flight = until_ms > self._clock()

    # What was received

    def delete_message(self, params: Params) -> Answer:
        return self._delete(self._queue(params), params)

    def _delete(self, queue: _Queue, entry: Params) -> Answer:
        message = self._handled(queue, entry["ReceiptHandle"])
        if message is None:
            return {}
        if queue.spec.fifo and not self._is_current(message, entry["ReceiptHandle"]):
            raise _expired(entry["ReceiptHandle"])
        if message.handle == entry["ReceiptHandle"]:
            del queue.messages[message.id]
        return {}

    def change_message_visibility(self, params: Params) -> Answer:
        return self._change(self._queue(params), params)

    def _change(self, queue: _Queue, entry: Params) -> Answer:
        timeout_s = _timeout(entry["VisibilityTimeout"])
        handle = entry["ReceiptHandle"]
        message = self._handled(queue, handle)
        if message is None or (message.handle != handle and not queue.spec.fifo):
            raise _wrong("ReceiptHandle", handle, "Message does not exist or is not in flight.")
        if not self._is_current(message, handle):
            if queue.spec.fifo:
                raise _expired(handle)
            raise Refused("MessageNotInflight", "The message is not in flight.")
        message.visible_ms = self._clock() + timeout_s * 1000
        message.in_flight = timeout_s > 0
        return {}

    def _handled(self, queue: _Queue, handle: str) -> Message | None:
        """Find a handle's message; ``None`` if it is gone."""
        name, _, rest = handle.partition("/")
        identity, _, number = rest.partition("/")
        if name != queue.spec.name or not number.isdecimal():
            raise Refused("ReceiptHandleIsInvalid", f"{handle!r} is no receipt handle")
        return queue.messages.get(identity)

    def _is_current(self, message: Message, handle: str) -> bool:
        return message.handle == handle and message.visible_ms > self._clock()

    def _batched(self, work: Callable[[_Queue, Params], Answer]) -> Callable[[Params], Answer]:
        def batch(params: Params) -> Answer:
            queue = self._queue(params)
            return _each(params["Entries"], lambda entry: work(queue, entry))

        return batch

    def get_queue_attributes(self, params: Params) -> Answer:
        queue = self._queue(params)
        self._refresh(queue)
        spec, messages = queue.spec, queue.messages.values()
        in_flight = sum(one.in_flight for one in messages)
        later = sum(one.visible_ms > self._clock() for one in messages)
        found = {
            "QueueArn": spec.arn,
            "VisibilityTimeout": str(spec.visibility_s),
            "MessageRetentionPeriod": str(spec.retention_s),
            "ApproximateNumberOfMessages": str(len(messages) - later),
            "ApproximateNumberOfMessagesNotVisible": str(in_flight),
            "ApproximateNumberOfMessagesDelayed": str(later - in_flight),
        }
        if spec.fifo:
            found["FifoQueue"] = "true"
        if spec.dead_letters:
            arn = self._queues[spec.dead_letters].spec.arn
            found["RedrivePolicy"] = json.dumps(
                {"deadLetterTargetArn": arn, "maxReceiveCount": spec.receives}
            )
        wanted = params.get("AttributeNames", ())
        shown = {name: one for name, one in found.items() if name in wanted or "All" in wanted}
        return {"Attributes": shown} if shown else {}


_SEND = frozenset(
    {
        "DelaySeconds",
        "Id",
        "MessageAttributes",
        "MessageBody",
        "MessageDeduplicationId",
        "MessageGroupId",
        "QueueUrl",
    }
)


def _uuid(number: int) -> str:
    return f"{number >> 32:08x}-{number >> 16 & 0xFFFF:04x}-4000-8000-{number & 0xFFFF:012x}"


@lru_cache(maxsize=256)
def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _message_bytes(body: str, attributes: Mapping[str, Any] | None) -> int:
    size = expressions.text_bytes(body)
    for name, one in (attributes or {}).items():
        value = one.get("StringValue", "").encode() or one.get("BinaryValue", b"")
        size += len(name.encode()) + len(one["DataType"].encode()) + len(value)
    return size


def _check_message(spec: QueueSpec, entry: Params) -> None:
    body, delay_s = entry["MessageBody"], entry.get("DelaySeconds", 0)
    if not body:
        raise Refused("MissingParameter", "The request must contain the parameter MessageBody.")
    if _UNSENDABLE.search(body):
        raise Refused("InvalidMessageContents", "Invalid characters found.")
    if len(entry.get("MessageAttributes", ())) > ATTRIBUTES_MAX:
        raise _wrong("MessageAttributes", "", "There are more than 10.")
    if not 0 <= delay_s <= DELAY_S_MAX:
        raise _wrong("DelaySeconds", delay_s, "DelaySeconds must be >= 0 and <= 900.")
    if spec.fifo:
        _check_fifo(entry, delay_s)
    elif "MessageDeduplicationId" in entry:
        raise _wrong("MessageDeduplicationId", "", "It is not valid for this queue type.")
    elif "MessageGroupId" in entry:
        _check_id("MessageGroupId", entry["MessageGroupId"])


def _check_fifo(entry: Params, delay_s: int) -> None:
    if delay_s:
        raise _wrong("DelaySeconds", delay_s, "It is not valid for this queue type.")
    if "MessageGroupId" not in entry:
        raise Refused("MissingParameter", "The request must contain the parameter MessageGroupId.")
    if "MessageDeduplicationId" not in entry:
        raise _wrong("MessageDeduplicationId", "", "The queue needs one.")
    _check_id("MessageGroupId", entry["MessageGroupId"])
    _check_id("MessageDeduplicationId", entry["MessageDeduplicationId"])


def _check_id(parameter: str, value: str, code: str = "InvalidParameterValue") -> None:
    if not _FIFO_ID.fullmatch(value):
        raise Refused(
            code, f"{parameter} can only include 1 to 128 letters, digits and punctuation"
        )


def _wrong(parameter: str, value: object, why: str) -> Refused:
    said = f"Value {value} for parameter {parameter} is invalid. Reason: {why}"
    return Refused("InvalidParameterValue", said)


def _timeout(timeout_s: int) -> int:
    if not 0 <= timeout_s <= VISIBILITY_S_MAX:
        raise _wrong("VisibilityTimeout", timeout_s, "Must be between 0 and 43200.")
    return timeout_s


def _expired(handle: str) -> Refused:
    return _wrong("ReceiptHandle", handle, "The receipt handle has expired.")


def _each(entries: Sequence[Params], work: Callable[[Params], Answer]) -> Answer:
    """Do a batch's entries one by one; each succeeds or fails alone."""
    _check_entries(entries)
    answer: Answer = {"Successful": [], "Failed": []}
    for entry in entries:
        try:
            answer["Successful"].append({"Id": entry["Id"], **work(entry)})
        except Refused as refused:
            said = {"SenderFault": True, "Code": refused.code, "Message": refused.message}
            answer["Failed"].append({"Id": entry["Id"], **said})
    return {name: found for name, found in answer.items() if found}


def _check_entries(entries: Sequence[Params]) -> None:
    if not entries:
        raise Refused("EmptyBatchRequest", "There should be at least one entry in the request.")
    if len(entries) > ENTRIES_MAX:
        raise Refused("TooManyEntriesInBatchRequest", f"{len(entries)} entries, 10 at most")
    ids = [entry["Id"] for entry in entries]
    if not all(map(_ENTRY_ID.fullmatch, ids)):
        raise Refused("InvalidBatchEntryId", "1 to 80 letters, digits, hyphens and underscores")
    if len(set(ids)) < len(ids):
        raise Refused("BatchEntryIdsNotDistinct", "Two or more batch entries have the same Id")


def _received(message: Message, params: Params) -> Answer:
    wanted = {*params.get("AttributeNames", ()), *params.get("MessageSystemAttributeNames", ())}
    answer: Answer = {
        "MessageId": message.id,
        "ReceiptHandle": message.handle,
        "MD5OfBody": _md5(message.body),
        "Body": message.body,
    }
    if wanted:
        found = {
            "SenderId": "AIDAIENQZJOLO23YVJ4VO",
            "SentTimestamp": str(message.sent_ms),
            "ApproximateReceiveCount": str(message.receives),
            "ApproximateFirstReceiveTimestamp": str(message.first_ms),
            "SequenceNumber": message.sequence,
            "MessageDeduplicationId": message.dedup,
            "MessageGroupId": message.group,
            "DeadLetterQueueSourceArn": message.source,
        }
        answer["Attributes"] = {
            name: one for name, one in found.items() if one and (name in wanted or "All" in wanted)
        }
    named = set(params.get("MessageAttributeNames", ()))
    shown = {
        name: dict(one)
        for name, one in message.attributes.items()
        if name in named or named & {"All", ".*"}
    }
    return {**answer, "MessageAttributes": shown} if shown else answer


# -- SNS -------------------------------------------------------------------------------------------


class _Topic:
    def __init__(self, hooks: Aws, deployed: Deployed, queues: _Queues, clock: Clock) -> None:
        self._hooks = hooks
        self._arn, self._subscriptions = deployed.topic, deployed.subscriptions
        self._by_group, self._queues, self._clock = deployed.deduplicates_by_group, queues, clock
        self._seen: dict[tuple[str, str], tuple[int, str, str]] = {}
        self._numbers = 0
        self.lost: Counter[str] = Counter()

    def operations(self) -> Operations:
        batch = frozenset({"TopicArn", "PublishBatchRequestEntries"})
        return {
            "Publish": (self.publish, _PUBLISH),
            "PublishBatch": (self.publish_batch, batch),
        }

    def _named(self, params: Params) -> None:
        if params["TopicArn"] != self._arn:
            raise Refused("NotFound", "Topic does not exist")

    def publish(self, params: Params) -> Answer:
        self._named(params)
        if _message_bytes(params["Message"], params.get("MessageAttributes")) > SNS_BYTES_MAX:
            raise Refused("InvalidParameter", "Invalid parameter: Message too long")
        return self._take(params)

    def publish_batch(self, params: Params) -> Answer:
        self._named(params)
        entries = params["PublishBatchRequestEntries"]
        sizes = (
            _message_bytes(entry["Message"], entry.get("MessageAttributes")) for entry in entries
        )
        if sum(sizes) > SNS_BYTES_MAX:
            raise Refused("BatchRequestTooLong", f"{SNS_BYTES_MAX} bytes at most")
        answer = _each(entries, self._take)
        return {"Successful": [], "Failed": [], **answer}

    def _take(self, entry: Params) -> Answer:
        if not entry.keys() <= _PUBLISH:
            raise NotImplementedError(f"Publish: {sorted(entry.keys() - _PUBLISH)}")
        _check_published(entry)
        group, dedup = entry["MessageGroupId"], entry["MessageDeduplicationId"]
        scope, now_ms = (group if self._by_group else "", dedup), self._clock()
        at_ms, identity, sequence = self._seen.get(scope, (-DEDUPLICATION_MS, "", ""))
        if now_ms - at_ms >= DEDUPLICATION_MS:
            self._numbers += 1
            identity, sequence = _uuid(self._numbers), f"{self._numbers:020d}"
            self._seen[scope] = (now_ms, identity, sequence)
            for subscription in self._subscriptions:
                self._deliver(subscription, entry, identity, sequence)
        return {"MessageId": identity, "SequenceNumber": sequence}

    def _deliver(
        self, subscription: SubscriptionSpec, entry: Params, identity: str, sequence: str
    ) -> None:
        attributes = entry.get("MessageAttributes", {})
        if subscription.policy is not None and not matches(subscription.policy, attributes):
            return
        sent = {"MessageBody": entry["Message"], "MessageAttributes": attributes}
        if not subscription.raw:
            sent = {"MessageBody": self._envelope(entry, identity, sequence)}
        fifo = {name: entry[name] for name in ("MessageGroupId", "MessageDeduplicationId")}
        reached = self._arn in subscription.senders and self._hooks.delivers()
        if reached and self._sent(subscription.queue, sent, fifo):
            return
        kept = self._arn in subscription.dead_letter_senders
        if not (kept and self._sent(subscription.dead_letters, sent, fifo)):
            self.lost[subscription.queue] += 1

    def _sent(self, name: str, sent: Params, fifo: Params) -> bool:
        queue = self._queues.named(name)
        if queue is None:
            return False
        try:
            self._queues.send(queue, {**sent, **fifo} if queue.spec.fifo else sent)
        except Refused:
            return False
        return True

    def _envelope(self, entry: Params, identity: str, sequence: str) -> str:
        seconds, milliseconds = divmod(self._clock(), 1000)
        at = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        envelope: Answer = {
            "Type": "Notification",
            "MessageId": identity,
            "SequenceNumber": sequence,
            "TopicArn": self._arn,
            "Message": entry["Message"],
            "Timestamp": f"{at}.{milliseconds:03d}Z",
        }
        if entry.get("MessageAttributes"):
            envelope["MessageAttributes"] = {
                name: {"Type": one["DataType"], "Value": one["StringValue"]}
                for name, one in entry["MessageAttributes"].items()
            }
        return json.dumps(envelope)


_PUBLISH = frozenset(
    {
        "Id",
        "Message",
        "MessageAttributes",
        "MessageDeduplicationId",
        "MessageGroupId",
        "TopicArn",
    }
)


def _check_published(entry: Params) -> None:
    if not entry["Message"]:
        raise Refused("InvalidParameter", "Invalid parameter: Empty message")
    if "MessageGroupId" not in entry:
        raise Refused("InvalidParameter", "The MessageGroupId parameter is required")
    if "MessageDeduplicationId" not in entry:
        raise Refused("InvalidParameter", "The MessageDeduplicationId parameter is required")
    _check_id("MessageGroupId", entry["MessageGroupId"], "InvalidParameter")
    _check_id("MessageDeduplicationId", entry["MessageDeduplicationId"], "InvalidParameter")
    for name, one in entry.get("MessageAttributes", {}).items():
        if not (one.get("StringValue") or one.get("BinaryValue")):
            raise Refused("ParameterValueInvalid", f"The message attribute {name!r} is empty")


def matches(policy: Mapping[str, Any], attributes: Mapping[str, Any]) -> bool:
    """Match message attributes against a filter policy of scope ``MessageAttributes``."""
    for name, wanted in policy.items():
        if name == "$or":
            if not any(matches(one, attributes) for one in wanted):
                return False
        elif not any(_fits(one, attributes.get(name)) for one in wanted):
            return False
    return True


def _fits(wanted: Any, attribute: Mapping[str, Any] | None) -> bool:
    if isinstance(wanted, Mapping) and "exists" in wanted:
        return bool(wanted["exists"]) == (attribute is not None)
    if attribute is None:
        return False
    if attribute["DataType"] != "String":
        raise NotImplementedError("only attributes of type String are filtered")
    value = attribute["StringValue"]
    if isinstance(wanted, str):
        return bool(value == wanted)
    if not isinstance(wanted, Mapping) or len(wanted) != 1:
        raise NotImplementedError(f"filter {wanted!r}")
    ((test, operand),) = wanted.items()
    if test == "prefix":
        return bool(value.startswith(operand))
    if test == "suffix":
        return bool(value.endswith(operand))
    return _is_none_of(test, operand, value)


def _is_none_of(test: str, operand: Any, value: str) -> bool:
    if test != "anything-but":
        raise NotImplementedError(f"filter {test}")
    if isinstance(operand, Mapping):
        return not _fits(operand, {"DataType": "String", "StringValue": value})
    return value not in ([operand] if isinstance(operand, str) else operand)


# -- KMS -------------------------------------------------------------------------------------------


class _Kms:
    """
    A key.

    A blob is a number, a seal over everything, and the text under a stream of hashes that the
    number and the context decide. No two blobs are the same, and none shows its text.
    """

    def __init__(self, arn: str) -> None:
        self._arn = arn
        self._secret = hashlib.sha256(arn.encode()).digest()
        self._numbers = 0
        self._made: dict[tuple[bytes, bytes], bytes] = {}

    def operations(self) -> Operations:
        both = {"EncryptionContext", "EncryptionAlgorithm", "KeyId"}
        return {
            "Encrypt": (self.encrypt, frozenset(both | {"Plaintext"})),
            "Decrypt": (self.decrypt, frozenset(both | {"CiphertextBlob"})),
        }

    def _named(self, key: str) -> None:
        if key not in (self._arn, self._arn.rpartition("/")[2]):
            raise Refused("NotFoundException", f"Key '{key}' does not exist")

    def encrypt(self, params: Params) -> Answer:
        self._named(params["KeyId"])
        plain = _plaintext(params["Plaintext"])
        context = _context(params)
        self._numbers += 1
        number = self._numbers.to_bytes(8, "big")
        seal = self._hash(b"seal", number, context, plain)
        blob = b"KMS1" + self._secret[:4] + number + seal + self._stream(number, context, plain)
        self._made[blob, context] = plain
        return {"KeyId": self._arn, "CiphertextBlob": blob, **_ALGORITHM}

    def decrypt(self, params: Params) -> Answer:
        blob, context = bytes(params["CiphertextBlob"]), _context(params)
        if len(blob) > CIPHERTEXT_BYTES_MAX:
            raise Refused(
                "ValidationException", f"ciphertextBlob: {CIPHERTEXT_BYTES_MAX} bytes at most"
            )
        if "KeyId" in params:
            self._named(params["KeyId"])
        if (blob, context) in self._made:
            return {"KeyId": self._arn, "Plaintext": self._made[blob, context], **_ALGORITHM}
        head, number, seal, text = blob[:8], blob[8:16], blob[16:48], blob[48:]
        plain = self._stream(number, context, text)
        if head != b"KMS1" + self._secret[:4] or seal != self._hash(
            b"seal", number, context, plain
        ):
            raise Refused("InvalidCiphertextException", "")
        return {"KeyId": self._arn, "Plaintext": plain, **_ALGORITHM}

    def _hash(self, *parts: bytes) -> bytes:
        said = b"".join(len(part).to_bytes(4, "big") + part for part in (self._secret, *parts))
        return hashlib.sha256(said).digest()

    def _stream(self, number: bytes, context: bytes, text: bytes) -> bytes:
        blocks = range((len(text) + 31) // 32)
        key = b"".join(self._hash(number, context, bytes([one])) for one in blocks)
        return bytes(left ^ right for left, right in zip(text, key, strict=False))


_ALGORITHM = {"EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}


def _plaintext(text: bytes | str) -> bytes:
    plain = text.encode() if isinstance(text, str) else bytes(text)
    if not 1 <= len(plain) <= PLAINTEXT_BYTES_MAX:
        raise Refused("ValidationException", f"plaintext: 1 to {PLAINTEXT_BYTES_MAX} bytes")
    return plain


def _context(params: Params) -> bytes:
    if params.get("EncryptionAlgorithm", "SYMMETRIC_DEFAULT") != "SYMMETRIC_DEFAULT":
        raise NotImplementedError("only symmetric keys are modelled")
    context = params.get("EncryptionContext", {})
    if not all(context.values()):
        raise Refused("ValidationException", "EncryptionContext values must not be empty")
    return repr(sorted(context.items())).encode()
