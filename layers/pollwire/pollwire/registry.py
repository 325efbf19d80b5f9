"""
What is polled: connections and accounts, as an operator registers, changes and removes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from pollwire import marks
from pollwire.errors import Conflict, Misconfigured, Retryable
from pollwire.items import (
    CHECKED,
    Item,
    Listing,
    Newcomer,
    StreamListing,
    connection_update,
    key,
    newcomer_item,
    number,
    read_connection,
    read_listing,
    read_record,
    read_stream_listing,
    text,
)
from pollwire.model import ACCOUNT_ID, NOTHING, Connection, DeltaJob, Record, require_known
from pollwire.state import (
    TRANSACTION_MAX,
    State,
    places,
    shard_of,
    shard_pk,
    shards_before,
    shards_for,
    stream_pk,
)

#: The end of the year 9999: a pause until then ends when an operator ends it.
FOREVER_MS = 253_402_300_799_999

#: An account may be moved to another shard between being found and being written.
FINDS_MAX = 3

#: Ids of an account that are watched at a time: its item stays small.
WATCHED_MAX = 500

#: Of an id that is watched.
WATCHED_CHARS_MAX = 200

#: Orders of one stream that may wait together: an account's item is read by every check.
ORDERS_MAX = 8

#: Records and rows of a stream that are counted for an operator.
COUNTED_MAX = 10_000


class Registry(State):
    """The table, as an operator reads and writes it beside the stages."""

    # Connections

    def put_connection(self, connection: Connection) -> None:
        """
        Write a connection, new or known.

        What the stages write themselves (shards, pauses, counts) stays as it is where it is known.

        Raises:
            Misconfigured: It has a setting that is wrong.
        """
        require_known(connection.settings, "connection")
        self._client.update_item(**connection_update(self._table, connection))

    def make_room(self, connection: str, more: int) -> int:
        """
        Have shards for so many more accounts at once; return the number of shards.

        Raises:
            Misconfigured: There is no such connection.
        """
        return self._grown(self._require(connection), more)

    def _require(self, connection: str) -> Connection:
        found = self.connection(connection)
        if found is None:
            raise _nowhere(connection)
        return found

    def set_push_secret(self, connection: str, sealed: bytes | None) -> None:
        """
        Give a connection what verifies its provider's notifications, or take it away.

        Raises:
            Misconfigured: There is no such connection.
        """
        values: dict[str, Any] = {":secret": {"B": sealed}} if sealed else {}
        expression = "SET push_secret = :secret" if sealed else "REMOVE push_secret"
        self._update_known(connection, expression, values)

    def resume_connection(self, connection: str) -> None:
        """
        Check a connection again, whoever paused it.

        Raises:
            Misconfigured: There is no such connection.
        """
        self._update_known(connection, "SET paused_until = :none", {":none": number(0)})

    def remove_connection(self, connection: Connection) -> None:
        """
        Remove a connection and all of its accounts; what is known of their streams stays.

        The connection goes last, so that a removal that was broken off can be repeated.

        Raises:
            Retryable: DynamoDB refuses; some accounts may be removed.
        """
        name = connection.name
        # Paused, no check moves an account to a shard that was emptied already.
        self.pause_connection(name, FOREVER_MS)
        for shard in range(connection.shards):
            self._delete_all(shard_pk(name, shard))
        for pk in (f"token#{name}", f"rate#{name}"):
            self._delete_all(pk)
        self._client.delete_item(TableName=self._table, Key=key("connection", name))

    def _count_accounts(self, connection: str, more: int) -> int:
        """
        Count accounts that come or go, and have room for them; return the number of shards.

        Raises:
            Misconfigured: There is no such connection.
        """
        counted = self._update_known(connection, "ADD accounts :more", {":more": number(more)})
        return self._grown(read_connection(counted), 0)

    def _update_known(self, connection: str, expression: str, values: dict[str, Any]) -> Item:
        try:
            return self._update_connection(connection, expression, values)
        except Conflict as error:
            raise _nowhere(connection) from error

    def _grown(self, connection: Connection, more: int) -> int:
        """Have shards for so many more accounts than were counted; return how many there are."""
        wanted = shards_for(connection.accounts + more)
        if wanted > connection.shards:
            self.grow(connection.name, wanted)
        return max(connection.shards, wanted)

    # Accounts

    def add_account(
        self,
        connection: Connection,
        account: str,
        *,
        settings: Mapping[str, str] = NOTHING,
        credential: bytes | None = None,
    ) -> None:
        """
        Register an account.

        Raises:
            Misconfigured: It is registered already, its id is none that keys can hold, a
                setting is no text, or there is no such connection.
        """
        for reason in self.add_accounts(connection, [Newcomer(account, settings, credential)]):
            raise reason

    def add_accounts(
        self, connection: Connection, newcomers: Iterable[Newcomer]
    ) -> list[Misconfigured]:
        """
        Register accounts, a hundred a call; shards are made for them as they are needed.

        Returns:
            Why some were refused; the others are registered.

        Raises:
            Retryable: DynamoDB refuses; those before may be registered.

            Misconfigured: There is no such connection.
        """
        wanted, refused = _sorted_out(connection.name, newcomers)
        known = self.known_accounts(self._require(connection.name), list(wanted))
        fresh = [one for one in wanted.values() if one.account not in known]
        self.make_room(connection.name, len(fresh))
        for first in range(0, len(fresh), TRANSACTION_MAX):
            batch = fresh[first : first + TRANSACTION_MAX]
            shards = self._count_accounts(connection.name, len(batch))
            uncounted = len(batch)
            try:
                taken = self._put_accounts(connection.name, shards, batch)
                uncounted = len(taken)
            finally:
                if uncounted:
                    self._count_accounts(connection.name, -uncounted)
            known |= taken
        return refused + [_refusal(connection.name, one, "registered already") for one in known]

    def _put_accounts(self, connection: str, shards: int, fresh: Sequence[Newcomer]) -> set[str]:
        """Write new accounts; return those that somebody else has registered meanwhile."""
        known: set[str] = set()
        while left := [one for one in fresh if one.account not in known]:
            puts: Any = [self._put_of(connection, shards, one) for one in left]
            try:
                self._client.transact_write_items(TransactItems=puts)
                break
            except self._client.exceptions.TransactionCanceledException as error:
                reasons = error.response.get("CancellationReasons", [])
                codes = [reason.get("Code", "None") for reason in reasons]
                pairs = zip(left, codes, strict=False)
                taken = {one.account for one, code in pairs if code == "ConditionalCheckFailed"}
                if not taken:
                    raise Retryable(
                        f"DynamoDB refused to register accounts: {sorted(set(codes))}"
                    ) from error
                known |= taken
        return known

    def _put_of(self, connection: str, shards: int, newcomer: Newcomer) -> dict[str, Any]:
        pk = shard_pk(connection, shard_of(newcomer.account, shards))
        return {
            "Put": {
                "TableName": self._table,
                "Item": newcomer_item(pk, newcomer),
                "ConditionExpression": "attribute_not_exists(pk)",
            }
        }

    def known_accounts(self, connection: Connection, accounts: Sequence[str]) -> set[str]:
        """Tell which of these accounts are registered, in whichever shard."""
        shards = connection.shards
        places = [(one, shard) for one in accounts for shard in shards_before(one, shards)]
        keys = [key(shard_pk(connection.name, shard), one) for one, shard in places]
        return {item["sk"]["S"] for item in self._batch_get(keys)}

    def accounts(self, connection: Connection) -> Iterator[Listing]:
        """Read all accounts of a connection, shard by shard, eventually consistent."""
        names = [name for name in CHECKED if name != "marks"]
        names += ["credential", "trouble"]
        for shard in range(connection.shards):
            pk = shard_pk(connection.name, shard)
            for item in self._query(pk, names=names, consistent=False):
                yield read_listing(item, shard)

    def listing(self, connection: Connection, account: str) -> Listing | None:
        """Read an account in whichever shard it is, even if it cannot be polled as it is."""
        found = self._find(connection, account)
        return read_listing(found[1], found[0]) if found else None

    def set_paused(self, connection: Connection, account: str, paused: bool) -> bool:
        """Pause an account, or have it polled again; false if there is none."""
        values = {":standing": text("paused" if paused else "polled")}
        return self._update_found(connection, account, "SET standing = :standing", values)

    def replace_credential(self, connection: Connection, account: str, sealed: bytes) -> bool:
        """Give an account another credential; false if there is none of that id."""
        values = {":credential": {"B": sealed}}
        return self._update_found(connection, account, "SET credential = :credential", values)

    def watch(self, connection: Connection, account: str, identity: str, until_ms: int) -> bool:
        """
        Have an eye on an id until it is final, or until an instant; false if there is no account.

        Raises:
            Misconfigured: The id is empty or too long, the instant is no whole number, or the
                account has as many as it can have.
        """
        if not 0 < len(identity) <= WATCHED_CHARS_MAX:
            raise Misconfigured(f"watched id: 1 to {WATCHED_CHARS_MAX} characters")
        if type(until_ms) is not int or until_ms <= 0:
            raise Misconfigured("watched until: a whole number of milliseconds since the epoch")
        found = self.listing(connection, account)
        if found and found.standing and len(found.standing.watched) >= WATCHED_MAX:
            raise Misconfigured(
                f"account {connection.name}/{account}: {WATCHED_MAX} ids are watched; wait until "
                "some are final"
            )
        # First the looks, then what there is to look at: it is found at once.
        self._put_off(connection.name, "watched_until", until_ms)
        values = {":ids": {"SS": [f"{until_ms}@{identity}"]}}
        return self._update_found(connection, account, "ADD watched :ids", values)

    def order(self, connection: Connection, account: str, elements: Sequence[str]) -> bool:
        """
        Have streams listed from end to end by the next check; false if there is no account.

        Args:
            elements: Those of a pending set that ask for it, see :mod:`pollwire.marks`.

        Raises:
            Misconfigured: Too much was asked of one of the streams and is not done yet.
        """
        found = self.listing(connection, account)
        waiting = found.standing.pending if found and found.standing else ()
        for stream, before in marks.by_stream(waiting).items():
            asked = sum(marks.asks_for_all([one]) for one in before)
            if asked >= ORDERS_MAX and stream in marks.by_stream(elements):
                raise Misconfigured(
                    f"stream {stream}: it is to be listed {asked} times already; wait until that "
                    "is done, or see what is in its way"
                )
        values = {":orders": {"SS": list(elements)}}
        return self._update_found(connection, account, "ADD pending :orders", values)

    def _update_found(
        self, connection: Connection, account: str, expression: str, values: dict[str, Any]
    ) -> bool:
        """Write an account in whichever shard it is; false if it is in none."""
        for _ in range(FINDS_MAX):
            found = self.listing(connection, account)
            if found is None:
                return False
            with suppress(Conflict):
                self._update_account(connection.name, found.shard, account, expression, values)
                return True
        raise Conflict(f"account {connection.name}/{account} is being moved; try again")

    def remove_account(self, connection: Connection, account: str) -> bool:
        """Remove an account, so that it is polled no more; false if there is none."""
        removed = 0
        # One that was registered while the shards were split may lie in two of them.
        for shard in places(account, connection.shards):
            answer = self._client.delete_item(
                TableName=self._table,
                Key=key(shard_pk(connection.name, shard), account),
                ReturnValues="ALL_OLD",
            )
            removed += bool(answer.get("Attributes"))
        if removed:
            self._client.delete_item(
                TableName=self._table, Key=key(f"token#{connection.name}", account)
            )
            self._count_accounts(connection.name, -removed)
        return bool(removed)

    def _delete_all(self, pk: str) -> None:
        keys = [key(pk, item["sk"]["S"]) for item in self._query(pk, names=("sk",))]
        for first in range(0, len(keys), TRANSACTION_MAX):
            actions: Any = [
                {"Delete": {"TableName": self._table, "Key": one}}
                for one in keys[first : first + TRANSACTION_MAX]
            ]
            try:
                self._client.transact_write_items(TransactItems=actions)
            except self._client.exceptions.TransactionCanceledException as error:
                raise Retryable("DynamoDB refused to remove items; try again") from error

    # Streams

    def stream_listing(self, job: DeltaJob) -> StreamListing:
        """Read how a stream stands; of one that was never read, that nothing is known."""
        pk = stream_pk(job)
        rows = islice(self._query(pk, prefix="q#", names=("sk", "reason")), COUNTED_MAX)
        bad = {item["sk"]["S"].removeprefix("q#"): item["reason"]["S"] for item in rows}
        known = islice(self._query(pk, prefix="r#", names=("sk",)), COUNTED_MAX)
        item = self._get(pk, "cursor") or {}
        return read_stream_listing(item, self._table, sum(1 for _ in known), bad)

    def stream_troubles(self, connection: Connection, account: Listing) -> dict[str, str]:
        """Say why streams of an account do not come on, of those that have something pending."""
        pending = account.standing.pending if account.standing else ()
        names = {
            stream_pk(DeltaJob(connection.name, account.shard, account.account, name, (), 0)): name
            for name in marks.by_stream(pending)
        }
        found = self._batch_get([key(pk, "cursor") for pk in names])
        said = {one["pk"]["S"]: read_stream_listing(one, self._table, 0, {}) for one in found}
        return {names[pk]: one.trouble for pk, one in sorted(said.items()) if one.trouble}

    def known_records(self, job: DeltaJob) -> Iterator[Record]:
        """Read all records of a stream, one after the other."""
        return map(read_record, self._query(stream_pk(job), prefix="r#"))


def _sorted_out(
    connection: str, newcomers: Iterable[Newcomer]
) -> tuple[dict[str, Newcomer], list[Misconfigured]]:
    """Take out what cannot be registered."""
    wanted: dict[str, Newcomer] = {}
    refused: list[Misconfigured] = []
    for one in newcomers:
        try:
            require_known(one.settings, "account")
            if not ACCOUNT_ID.fullmatch(one.account):
                raise Misconfigured(
                    "account id: 1 to 200 letters, digits and any of . _ @ + : ~ = -"
                )
        except Misconfigured as error:
            refused.append(error)
            continue
        if one.account in wanted:
            refused.append(_refusal(connection, one.account, "given twice"))
        else:
            wanted[one.account] = one
    return wanted, refused


def _refusal(connection: str, account: str, reason: str) -> Misconfigured:
    return Misconfigured(f"account {connection}/{account} is {reason}")


def _nowhere(connection: str) -> Misconfigured:
    return Misconfigured(f"connection {connection}: there is none; add it first")
