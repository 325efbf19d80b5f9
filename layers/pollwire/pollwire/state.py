"""
One DynamoDB table.

    pk                       sk         what
    connection               <name>     provider, hosts, interval_s, slowest_s, shards,
                                        accounts, outages, paused_until, watched_until,
                                        requests_per_second, settings, credential,
                                        push_secret
    shard#<connection>#<n>   <account>  marks, pending, was_empty, watched, failures,
                                        not_before, standing, trouble, settings, credential,
                                        listed_<stream>, pushed_at
    token#<connection>       <account>  sealed, claimed_until; * is for all accounts
    rate#<connection>        *          next_at; *push is for checks that a provider asks for
    stream#<connection>#<account>#<stream>
                             cursor     version, reached, previous, place, drain, outbox,
                                        seq, told_at, drained_at, reconciled_at, trouble,
                                        trouble_at, failures, not_before, home, epoch
                             r#<id>     rev, digest, updated_at, at_ms, gone, missing_at, states,
                                        told, told_at, told_seq, told_epoch, ...
                             q#<key>    reason, seen_at: a row that cannot be read

Instants are numbers of milliseconds. No attribute bears one of DynamoDB's reserved words, so that
expressions need no aliases.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from pollwire.due import pushed_due_ms
from pollwire.errors import (
    Conflict,
    Malformed,
    Misconfigured,
    PollwireError,
    Retryable,
    Unasked,
)
from pollwire.items import (
    CHECKED,
    UNREADABLE,
    Item,
    Standing,
    StreamState,
    account_move,
    cursor_update,
    key,
    listed_name,
    number,
    read_connection,
    read_record,
    read_standing,
    read_stream,
    record_item,
    record_sk,
    text,
)
from pollwire.marks import Step, pack
from pollwire.model import NOTHING, SHARDS_MAX, Connection, DeltaJob, Record
from pollwire.tokens import RENEWAL_MS

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

P = ParamSpec("P")
R = TypeVar("R")

#: Stands in a key for all accounts of a connection; no account has such an id.
SHARED = "*"

#: Others may write an account between its being read and its being written.
CLAIMS_MAX = 3

#: DynamoDB's limit of keys a batch read.
BATCH_GET_MAX = 100

#: DynamoDB's limit of actions a transaction.
TRANSACTION_MAX = 100

#: Accounts of a shard, on average, above which their number is doubled: by chance, one of many
#: shards has some hundred more. A check reads a shard in one call, if its items are 1 KB.
SHARD_ACCOUNTS = 850


def _unblamed(call: Callable[P, R]) -> Callable[P, R]:
    """Say that AWS refused: within a check it would be taken for the provider's failure."""

    @wraps(call)
    def unblamed(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except (BotoCoreError, ClientError) as error:
            raise Unasked(f"DynamoDB refused an access token: {_code(error)}") from error

    return unblamed


def _code(error: BotoCoreError | ClientError) -> str:
    """Name what AWS said, or that it said nothing."""
    if isinstance(error, ClientError):
        return error.response["Error"]["Code"]
    return type(error).__name__


class State:
    """The table, as the stages read and write it."""

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._client = client
        self._table = table
        client.meta.events.register("before-parse.dynamodb.Query", _take_as_it_is, "pollwire")

    # Connections

    def connections(self) -> tuple[list[Connection], list[str]]:
        """Read all connections, and the names of those that cannot be read."""
        connections, broken = [], []
        for item in self._query("connection"):
            try:
                connections.append(read_connection(item))
            except (Misconfigured, *UNREADABLE):
                broken.append(item["sk"]["S"])
        return connections, broken

    def connection(self, name: str) -> Connection | None:
        """Read a connection, or ``None`` if it was removed."""
        item = self._get("connection", name)
        return read_connection(item) if item else None

    def grow(self, connection: str, shards: int) -> None:
        """
        Spread a connection over so many shards, if it has fewer; checks move its accounts.

        Raises:
            Retryable: DynamoDB refuses.
        """
        values = {":shards": number(min(shards, SHARDS_MAX))}
        with suppress(Conflict):
            self._update_connection(
                connection, "SET shards = :shards", values, " AND shards < :shards"
            )

    # Accounts

    def find_account(self, connection: Connection, account: str) -> tuple[int, Standing] | None:
        """Find an account and its shard; one of an earlier number of shards may still hold it."""
        found = self._find(connection, account)
        return (found[0], read_standing(found[1])) if found else None

    def _find(self, connection: Connection, account: str) -> tuple[int, Item] | None:
        for shard in places(account, connection.shards):
            if item := self._get(shard_pk(connection.name, shard), account):
                return shard, item
        return None

    def move_account(self, connection: str, account: str, old: int, new: int) -> bool:
        """
        Move an account to the shard it belongs to, just as it is; false if it changed meanwhile.

        One that is there already stays as it is there.
        """
        item = self._get(shard_pk(connection, old), account)
        if item is None:
            return False
        try:
            actions: Any = account_move(self._table, item, shard_pk(connection, new))
            self._client.transact_write_items(TransactItems=actions)
        except self._client.exceptions.TransactionCanceledException as error:
            reasons = error.response.get("CancellationReasons") or [{}]
            if reasons[0].get("Code") != "ConditionalCheckFailed":
                return False
            # It was registered once more while the shards were being split.
            self._client.delete_item(
                TableName=self._table, Key=key(shard_pk(connection, old), account)
            )
        return True

    def shard(
        self,
        connection: str,
        shard: int,
        *,
        account: str = "",
        sealed: bool = True,
        listed: Iterable[str] = (),
    ) -> tuple[list[Standing], list[str]]:
        """
        Read what a check needs of all accounts of a shard, eventually consistent: 1 MB a call.

        Args:
            account: The only one to read, if it is there, and then consistent.

            sealed: Their credentials as well.

            listed: Streams, to know when each was last listed from end to end.

        Returns:
            The accounts, and the names of those that cannot be read.
        """
        instants = [listed_name(stream) for stream in listed]
        names = [*CHECKED, *instants, *(("credential",) if sealed else ())]
        standings, broken = [], []
        pk, consistent = shard_pk(connection, shard), bool(account)
        for item in self._query(pk, only=account, names=names, consistent=consistent):
            try:
                standings.append(read_standing(item, instants))
            except UNREADABLE:
                broken.append(item["sk"]["S"])
        return standings, broken

    def account(self, connection: str, shard: int, account: str) -> Standing | None:
        """Read an account, or ``None`` if it was removed."""
        item = self._get(shard_pk(connection, shard), account)
        return read_standing(item) if item else None

    def note_step(self, connection: str, shard: int, account: str, step: Step) -> None:
        """
        Write what a check decided.

        Raises:
            Conflict: The account was removed. It is not brought back.
        """
        sets: list[str] = []
        values: dict[str, Any] = {}
        if step.seen:
            sets.append("marks = :marks")
            values[":marks"] = text(pack(step.seen))
        if step.was_empty:
            sets.append("was_empty = :true")
            values[":true"] = {"BOOL": True}
        expression = f"SET {', '.join(sets)}" if sets else ""
        if step.pending:
            expression += " ADD pending :pending"
            values[":pending"] = {"SS": list(step.pending)}
        self._update_account(connection, shard, account, expression, values)
        if step.dropped:
            # Only now: what asks for more than they do is written.
            dropped = {":dropped": {"SS": list(step.dropped)}}
            self._update_account(connection, shard, account, "DELETE pending :dropped", dropped)

    def note_failure(
        self, connection: str, shard: int, account: str, not_before_ms: int, trouble: str
    ) -> None:
        """
        Count a failure and leave the account alone until an instant; a later one stands.

        Raises:
            Conflict: The account was removed. It is not brought back.
        """
        with suppress(Conflict):
            self.rest(connection, shard, account, not_before_ms)
        self._update_account(
            connection,
            shard,
            account,
            "SET trouble = :trouble ADD failures :one",
            {":trouble": text(trouble), ":one": number(1)},
        )

    def rest(self, connection: str, shard: int, account: str, not_before_ms: int) -> None:
        """
        Leave an account alone until an instant.

        Raises:
            Conflict: The account was removed, or is left alone for longer.
        """
        self._update_account(
            connection,
            shard,
            account,
            "SET not_before = :at",
            {":at": number(not_before_ms)},
            " AND (attribute_not_exists(not_before) OR not_before < :at)",
        )

    def note_success(self, connection: str, shard: int, account: str, not_before_ms: int) -> None:
        """
        Forget failures, unless there was another since they were read.

        Args:
            not_before_ms: As it was read.

        Raises:
            Conflict: The account was removed, or has failed again.
        """
        self._update_account(
            connection,
            shard,
            account,
            "REMOVE failures, not_before, trouble",
            {":read": number(not_before_ms)},
            " AND not_before = :read",
        )

    def claim_push(
        self, connection: Connection, account: str, said_ms: int, now_ms: int
    ) -> tuple[int, int] | None:
        """
        Claim the right to queue a check that a notification asks for.

        Args:
            said_ms: When the notification was made.

        Returns:
            The account's shard and the instant the check is due; ``None`` if there is no such
            account, if it is paused, or if it is seen to already.

        Raises:
            Retryable: DynamoDB refuses, or others write the account again and again.
        """
        for _ in range(CLAIMS_MAX):
            found = self._find(connection, account)
            if found is None or found[1].get("standing") == text("paused"):
                return None
            shard, item = found
            known = "pushed_at" in item
            last_ms = int(item["pushed_at"]["N"]) if known else 0
            due_ms = pushed_due_ms(last_ms, said_ms, now_ms)
            if due_ms is None:
                return None
            values = {":due": number(due_ms)} | ({":read": number(last_ms)} if known else {})
            same = "pushed_at = :read" if known else "attribute_not_exists(pushed_at)"
            # Who was slower looks again: what it was told may be news to the other's check.
            with suppress(Conflict):
                self._update_account(
                    connection.name, shard, account, "SET pushed_at = :due", values, f" AND {same}"
                )
                return shard, due_ms
        raise Conflict(f"account {connection.name}/{account} is written by others all the time")

    def pause_connection(self, connection: str, until_ms: int) -> None:
        """
        Check nothing over a connection before an instant; a later one stands.

        Raises:
            Retryable: DynamoDB refuses.
        """
        self._put_off(connection, "paused_until", until_ms)

    def _put_off(self, connection: str, name: str, until_ms: int) -> None:
        later = f" AND (attribute_not_exists({name}) OR {name} < :until)"
        with suppress(Conflict):  # It was removed, or a later instant stands.
            self._update_connection(
                connection, f"SET {name} = :until", {":until": number(until_ms)}, later
            )

    def note_outage(self, connection: Connection, until_ms: int) -> None:
        """
        Count a check that nobody answered, and check nothing before an instant, once for all.

        Raises:
            Retryable: DynamoDB refuses.
        """
        values = {
            ":read": number(connection.outages),
            ":more": number(connection.outages + 1),
            ":until": number(until_ms),
        }
        with suppress(Conflict):
            self._update_connection(
                connection.name,
                "SET outages = :more, paused_until = :until",
                values,
                " AND (attribute_not_exists(outages) OR outages = :read)"
                " AND (attribute_not_exists(paused_until) OR paused_until < :until)",
            )

    def note_answered(self, connection: str) -> None:
        """
        Forget outages: somebody answers again.

        Raises:
            Retryable: DynamoDB refuses.
        """
        with suppress(Conflict):
            self._update_connection(connection, "SET outages = :none", {":none": number(0)})

    def _update_connection(
        self, connection: str, expression: str, values: dict[str, Any], condition: str = ""
    ) -> Item:
        """
        Write a connection that is there; return it as it is then.

        Raises:
            Conflict: It was removed, or the condition does not hold.

            Retryable: DynamoDB refuses.
        """
        # DynamoDB takes no mapping that is empty.
        given: Any = {"ExpressionAttributeValues": values} if values else {}
        try:
            answer = self._client.update_item(
                TableName=self._table,
                Key=key("connection", connection),
                UpdateExpression=expression,
                ConditionExpression=f"attribute_exists(pk){condition}",
                ReturnValues="ALL_NEW",
                **given,
            )
        except self._client.exceptions.ConditionalCheckFailedException as error:
            raise Conflict(f"connection {connection} was removed or changed") from error
        except (BotoCoreError, ClientError) as error:
            code = _code(error)
            raise Retryable(f"DynamoDB refused to write connection {connection}: {code}") from error
        return answer["Attributes"]

    def book(
        self, connection: str, apart_ms: int, now_ms: int, latest_ms: int, what: str = SHARED
    ) -> int:
        """
        Book an instant for a request that no check makes; return it.

        Args:
            apart_ms: Milliseconds between two of them.

            latest_ms: It must not be later.

            what: Of those that are booked together.

        Raises:
            Unasked: All instants before that are taken.
        """
        where: Any = {"TableName": self._table, "Key": key(f"rate#{connection}", what)}
        refused = self._client.exceptions.ConditionalCheckFailedException
        with suppress(refused):
            self._client.update_item(
                **where,
                UpdateExpression="SET next_at = :next",
                ConditionExpression="attribute_not_exists(next_at) OR next_at <= :now",
                ExpressionAttributeValues={
                    ":next": number(now_ms + apart_ms),
                    ":now": number(now_ms),
                },
            )
            return now_ms
        with suppress(refused):
            answer = self._client.update_item(
                **where,
                UpdateExpression="SET next_at = next_at + :apart",
                ConditionExpression="next_at > :now AND next_at <= :latest",
                ExpressionAttributeValues={
                    ":apart": number(apart_ms),
                    ":now": number(now_ms),
                    ":latest": number(latest_ms),
                },
                ReturnValues="UPDATED_NEW",
            )
            return int(answer["Attributes"]["next_at"]["N"]) - apart_ms
        raise Unasked("the connection's rate is used up by other deltas")

    def ask_again(self, job: DeltaJob, element: str) -> None:
        """
        Make a stream pending again: something in it must be seen once more.

        Raises:
            Conflict: The account was removed. It is not brought back.
        """
        self._update_account(
            job.connection,
            job.shard,
            job.account,
            "ADD pending :pending",
            {":pending": {"SS": [element]}},
        )

    def unwatch(self, job: DeltaJob, watched: Collection[str]) -> None:
        """
        Take elements out of an account's watched set.

        Raises:
            Conflict: The account was removed. It is not brought back.
        """
        self._update_account(
            job.connection,
            job.shard,
            job.account,
            "DELETE watched :ids",
            {":ids": {"SS": sorted(watched)}},
        )

    def note_listed(self, job: DeltaJob, began_ms: int) -> None:
        """
        Note that a stream was listed from end to end.

        Raises:
            Conflict: The account was removed. It is not brought back.
        """
        name = listed_name(job.stream)
        values = {":at": number(began_ms)}
        self._update_account(job.connection, job.shard, job.account, f"SET {name} = :at", values)

    def settle(self, job: DeltaJob, elements: Collection[str]) -> None:
        """
        Take marks out of the pending set: a drain has answered for them.

        Raises:
            Conflict: The account was removed. It is not brought back.
        """
        self._update_account(
            job.connection,
            job.shard,
            job.account,
            "DELETE pending :pending",
            {":pending": {"SS": sorted(elements)}},
        )

    def _update_account(
        self,
        connection: str,
        shard: int,
        account: str,
        expression: str,
        values: dict[str, Any],
        condition: str = "",
    ) -> None:
        try:
            self._client.update_item(
                TableName=self._table,
                Key=key(shard_pk(connection, shard), account),
                UpdateExpression=expression,
                ConditionExpression=f"attribute_exists(pk){condition}",
                ExpressionAttributeValues=values,
            )
        except self._client.exceptions.ConditionalCheckFailedException as error:
            raise Conflict(f"account {connection}/{account} was removed or changed") from error
        except (BotoCoreError, ClientError) as error:
            # It concerns one account; those after it in the shard shall not wait for it.
            code = _code(error)
            named = Malformed if code == "ValidationException" else Retryable
            raise named(f"DynamoDB refused to write account {account}: {code}") from error

    # Access tokens

    @_unblamed
    def token(self, connection: str, account: str) -> bytes | None:
        """
        Read a sealed access token, or ``None``.

        Args:
            account: Empty for the token of a credential that all accounts of a connection share.
        """
        item = self._get(f"token#{connection}", account or SHARED)
        return item["sealed"]["B"] if item and "sealed" in item else None

    @_unblamed
    def put_token(self, connection: str, account: str, token: bytes) -> None:
        """Share a sealed access token; for a while nobody else gets the right to another."""
        self._client.update_item(
            TableName=self._table,
            Key=key(f"token#{connection}", account or SHARED),
            UpdateExpression="SET sealed = :sealed",
            ExpressionAttributeValues={":sealed": {"B": token}},
        )

    @_unblamed
    def claim_token(self, connection: str, account: str, now_ms: int) -> bool:
        """Claim the right to get an access token; false if another worker has it."""
        try:
            self._client.update_item(
                TableName=self._table,
                Key=key(f"token#{connection}", account or SHARED),
                UpdateExpression="SET claimed_until = :until",
                ConditionExpression="attribute_not_exists(claimed_until) OR claimed_until <= :now",
                ExpressionAttributeValues={
                    ":until": number(now_ms + RENEWAL_MS),
                    ":now": number(now_ms),
                },
            )
        except self._client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    # Streams

    def stream(self, job: DeltaJob) -> StreamState:
        """Read how far a stream has come, consistent."""
        item = self._get(stream_pk(job), "cursor")
        return read_stream(item, self._table) if item else StreamState()

    def records(self, job: DeltaJob, ids: Collection[str]) -> dict[str, Record]:
        """Read the records of some ids, consistent; unknown ids are missing."""
        keys = [key(stream_pk(job), record_sk(one)) for one in sorted(set(ids))]
        return {record.id: record for record in map(read_record, self._batch_get(keys))}

    def all_records(self, job: DeltaJob) -> dict[str, Record]:
        """Read all records of a stream, consistent."""
        items = self._query(stream_pk(job), prefix="r#")
        return {record.id: record for record in map(read_record, items)}

    def bad_rows(self, job: DeltaJob, keys: Collection[str]) -> set[str]:
        """Tell which of these unreadable rows are recorded."""
        found = self._batch_get([key(stream_pk(job), f"q#{one}") for one in sorted(set(keys))])
        return {item["sk"]["S"].removeprefix("q#") for item in found}

    def commit(
        self,
        job: DeltaJob,
        old: StreamState,
        new: StreamState,
        records: Sequence[Record] = (),
        bad_rows: Mapping[str, str] = NOTHING,
    ) -> StreamState:
        """
        Write a decision: records, cursor and outbox, all or nothing, if *old* still stands.

        Args:
            records: At most 99, *bad_rows* included: a transaction holds 100 actions.

            bad_rows: Reason by key, for rows recorded for the first time.

        Returns:
            *new* as written, with its version.

        Raises:
            Conflict: Another worker was faster. Nothing was written.
        """
        new = replace(new, version=old.version + 1)
        pk = stream_pk(job)
        update = cursor_update(self._table, pk, old, new)
        puts = [{**key(pk, record_sk(one.id)), **record_item(one)} for one in records]
        puts += [
            {**key(pk, f"q#{one}"), "reason": text(reason), "seen_at": number(job.due_ms)}
            for one, reason in bad_rows.items()
        ]
        try:
            if puts:
                actions: Any = [{"Update": update}]
                actions += [{"Put": {"TableName": self._table, "Item": item}} for item in puts]
                self._client.transact_write_items(TransactItems=actions)
            else:
                self._client.update_item(**update)
        except self._client.exceptions.ConditionalCheckFailedException as error:
            raise Conflict(f"stream {job.stream} of {job.account}") from error
        except self._client.exceptions.TransactionCanceledException as error:
            raise _canceled(job, error.response.get("CancellationReasons", [])) from error
        return new

    def note_trouble(self, job: DeltaJob, trouble: str, now_ms: int, not_before_ms: int) -> None:
        """Record why a stream does not come on, and leave it alone until an instant."""
        self._client.update_item(
            TableName=self._table,
            Key=key(stream_pk(job), "cursor"),
            UpdateExpression=(
                "SET trouble = :trouble, trouble_at = :now, not_before = :at ADD failures :one"
            ),
            ExpressionAttributeValues={
                ":trouble": text(trouble),
                ":now": number(now_ms),
                ":at": number(not_before_ms),
                ":one": number(1),
            },
        )

    # Reading

    def _get(self, pk: str, sk: str) -> Item | None:
        answer = self._client.get_item(TableName=self._table, Key=key(pk, sk), ConsistentRead=True)
        return answer.get("Item")

    def _query(
        self,
        pk: str,
        *,
        only: str = "",
        prefix: str = "",
        names: Iterable[str] = (),
        consistent: bool = True,
    ) -> Iterator[Item]:
        condition, values = "pk = :pk", {":pk": text(pk)}
        if only:
            condition += " AND sk = :sk"
            values[":sk"] = text(only)
        if prefix:
            condition += " AND begins_with(sk, :prefix)"
            values[":prefix"] = text(prefix)
        query: dict[str, Any] = {
            "TableName": self._table,
            "KeyConditionExpression": condition,
            "ExpressionAttributeValues": values,
            "ConsistentRead": consistent,
        }
        if names:
            query["ProjectionExpression"] = ", ".join(names)
        while True:
            answer = self._client.query(**query)
            yield from answer["Items"]
            if not answer.get("LastEvaluatedKey"):
                return
            query["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def _batch_get(self, keys: Sequence[dict[str, Any]]) -> list[Item]:
        found: list[Item] = []
        for first in range(0, len(keys), BATCH_GET_MAX):
            wanted: Any = keys[first : first + BATCH_GET_MAX]
            # What a call leaves over is asked for again, as long as that becomes less.
            while wanted:
                asked: Any = {self._table: {"Keys": wanted, "ConsistentRead": True}}
                answer: Any = self._client.batch_get_item(RequestItems=asked)
                found += answer["Responses"].get(self._table, [])
                left = answer.get("UnprocessedKeys", {}).get(self._table, {}).get("Keys", [])
                if len(left) == len(wanted):
                    raise Retryable("DynamoDB is throttled: it left all keys unread")
                wanted = left
        return found


def _canceled(job: DeltaJob, reasons: Iterable[Mapping[str, Any]]) -> PollwireError:
    """Say what it means that a decision was refused for these reasons."""
    codes = {reason.get("Code", "None") for reason in reasons} - {"None"}
    if codes <= {"ConditionalCheckFailed", "TransactionConflict"}:
        return Conflict(f"stream {job.stream} of {job.account}")
    if "ValidationError" in codes:
        return Malformed("what is to be recorded is more than DynamoDB takes")
    return Retryable(f"DynamoDB refused a decision: {sorted(codes)}")


def shard_of(account: str, shards: int) -> int:
    """Pick an account's shard."""
    return zlib.crc32(account.encode()) % shards


def shards_before(account: str, shards: int) -> list[int]:
    """Name the shard of an account, and those that were it when there were fewer shards."""
    found = [shard_of(account, shards)]
    while shards > 1:
        shards //= 2
        if (shard := shard_of(account, shards)) != found[-1]:
            found.append(shard)
    return found


def places(account: str, shards: int) -> list[int]:
    """
    Name the shards to look for an account in, one after the other.

    Its own comes last once more: it may be moved there behind whoever looks.
    """
    found = shards_before(account, shards)
    return [*found, found[0]] if len(found) > 1 else found


def shards_for(accounts: int) -> int:
    """Say over how many shards so many accounts are spread: a power of two."""
    wanted = -(-accounts // SHARD_ACCOUNTS)
    return min(1 << max(wanted - 1, 0).bit_length(), SHARDS_MAX)


def shard_pk(connection: str, shard: int) -> str:
    return f"shard#{connection}#{shard}"


def _take_as_it_is(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object
) -> None:
    """
    Take the answer to a Query as its JSON has it, before botocore parses it.

    Its parser takes longer over an account's item than everything else does that an idle account
    takes. Its result is the same but for bytes, which JSON has as base64. What is no page of items
    is left to it.
    """
    body = response_dict["body"]
    if response_dict["status_code"] != 200 or not body.startswith(b"{"):
        return
    try:
        # Python is called for each object only if some may hold bytes.
        page = json.loads(body, object_hook=_decoded if b'"B"' in body else None)
    except ValueError:
        return
    customized_response_dict.update(page)
    response_dict["body"] = b"{}"


def _decoded(value: dict[str, Any]) -> dict[str, Any]:
    if len(value) == 1 and isinstance(value.get("B"), str):
        return {"B": base64.b64decode(value["B"])}
    return value


def stream_pk(job: DeltaJob) -> str:
    """Name the partition of a job's stream."""
    return f"stream#{job.connection}#{job.account}#{job.stream}"
