"""
I5 and I7: who may see what. Credentials, access tokens and personal content, at every side effect.

Everything that opens something says whose it is: ``CANARY-<provider>-<account>``, or ``-all`` if
the accounts of a connection share it. A request bears what is of the account that it is for; a call
to AWS is about that account, and bears no secret at all.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pollwire.exchange import Request
from pollwire.model import NOTHING, CheckJob, DeltaJob
from pollwire.secrets import PUSH

from tests.canaries import PERSONAL, forms
from tests.simulation.upstream import CANARY
from tests.simulation.world import Broken, Process, Sent

if TYPE_CHECKING:
    from tests.simulation.scenario import Run

Params = Mapping[str, Any]
Keys = Iterator[tuple[str, str]]

#: One of so many runs logs all there is and has each call searched: that takes its time.
PROBED = 12

#: Parameters that mean "changed since", with the milliseconds of their unit; 0 for ISO 8601.
SINCE = {"since": 1000, "updatedFrom": 1, "startDate": 1, "updated_since": 0}

#: What they say in place of an instant: everything.
EVERYTHING = (0, 946_684_800_000)

DAY_MS = 86_400_000

#: The number of shards is a power of two, below 2 to the power of this.
SHARD_BITS = 15

#: Of all accounts of a connection.
ALL, SHARED = "all", "*"

OWNERS = re.compile(CANARY + r"-([a-z]+)-([^-'\"\s]+)")


#: The canary as it is, and as it looks within what was encoded.
SECRETS = forms(CANARY)

_VERSION = re.compile(r"\bv[0-9]{5}\b")


def is_probed(seed: int) -> bool:
    """Tell whether a run is searched at every call; families and providers play no part in it."""
    return not zlib.crc32(f"probe {seed}".encode()) % PROBED


def require(holds: object, promise: str) -> None:
    if not holds:
        raise Broken(promise)


def without_secrets(place: str, text: str) -> None:
    """
    Check that a text opens nothing.

    Raises:
        Broken: It does; the text itself is not repeated.
    """
    for one in SECRETS:
        if one in text:
            raise Broken(f"I7: a secret is seen in {place}")


def impersonal(place: str, text: str) -> None:
    """Check that a text says nothing of what people said, and to whom."""
    found = [one for one in PERSONAL if one in text]
    found += _VERSION.findall(text) if "v0" in text else []
    if found:
        raise Broken(f"I7: personal content is seen in {place}: {found}")


class Custody:
    """Looks at the requests and the calls of one run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._is_probed = is_probed(run.scenario.seed)
        self._groups: dict[str, tuple[str, str, str]] = {}
        self._known: dict[str, tuple[str, set[str], set[str]]] = {}

    # I5: requests

    def request(self, request: Request) -> None:
        """A request is sent to its account's provider, with what is its account's."""
        process = self._run.world.current
        if process is None or process.job is None:
            return
        account = process.account or getattr(process.job, "account", "")
        provider, hosts, ids = self._of(process.job.connection)
        require(account, "I5: a request is sent for no account")
        url, form = urlsplit(request.url), request.form or NOTHING
        require(url.netloc in hosts, f"I5: {url.netloc} was asked for {provider}")
        without_secrets("a URL", f"{request.url} {request.query}")
        for owner in OWNERS.findall(f"{_opened(request.headers)} {form}"):
            known = (provider, account), (provider, ALL)
            require(owner in known, f"I5: what is of {owner} was sent for {account}")
        self._since({**form, **request.query})
        named = ids.intersection((*url.path.split("/"), *form.values(), *request.query.values()))
        if not named <= {account}:
            raise Broken(f"I5: {named} was asked for in place of {account}")

    def _since(self, asked: Mapping[str, str]) -> None:
        """I11: who asks for what is new does not ask for everything, nor for the future."""
        for name in SINCE.keys() & asked.keys():
            value, unit = asked[name], SINCE[name]
            if unit:
                at_ms = int(value) * unit
            else:
                at_ms = int(datetime.fromisoformat(value).timestamp() * 1000)
            ahead_ms = at_ms - self._run.world.now_ms
            holds = at_ms in EVERYTHING or -DAY_MS < ahead_ms < 2 * DAY_MS
            require(holds, f"I11: {name} {value} was asked for")

    def _of(self, connection: str) -> tuple[str, set[str], set[str]]:
        """Name a connection's provider, its hosts, and the accounts that there are."""
        if connection not in self._known:
            for upstream, one in self._run.connections():
                provider = self._run.providers[upstream.name]
                hosts = {urlsplit(host).netloc for host in provider.hosts.values()}
                ids = {member.id for member in upstream.members}
                self._known[one.name] = (upstream.name, hosts, ids)
        return self._known[connection]

    # I5 and I7: calls to AWS

    def call(self, process: Process | None, service: str, operation: str, params: Params) -> None:
        """A call is about the account that its process is at work for, and shows no secret."""
        if process is None:
            return
        if service == "kms":
            _sealed(process, params)
            return
        if not self._is_probed:
            return
        if service == "dynamodb":
            for pk, sk in _keys(operation, params):
                own = _is_own(process, pk, sk)
                require(own, f"I5: {operation} of {pk}/{sk} for {process.job}")
        elif operation == "SendMessageBatch" and isinstance(process.job, CheckJob | Sent):
            _queued(process.job, params)
            self._grouped(params)
        text = repr(params)
        without_secrets(operation, text)
        if service != "sns" and "stream#" not in text:
            # Between stages, and in what a check knows, there are keys and marks only.
            impersonal(operation, text)

    def _grouped(self, params: Params) -> None:
        """I6: the jobs of a stream wait for each other, and for no other's."""
        for entry in params["Entries"] if params["QueueUrl"].endswith(".fifo") else ():
            said = json.loads(entry["MessageBody"])
            of = said["connection"], said["account"], said["stream"]
            owner = self._groups.setdefault(entry["MessageGroupId"], of)
            require(owner == of, f"I6: jobs of {of} and {owner} have one group")


def _opened(headers: Mapping[str, str]) -> list[str]:
    """Read headers, what is encoded in them as well."""
    found = []
    for value in headers.values():
        if value.startswith("Basic "):
            try:
                value = base64.b64decode(value[6:]).decode()
            except (binascii.Error, UnicodeDecodeError):
                raise Broken("I5: a Basic header that cannot be read") from None
        found.append(value)
    return found


def _is_own(process: Process, pk: str, sk: str) -> bool:
    """Tell whether an item is of what a process is at work for."""
    job = process.job
    if isinstance(job, Sent):
        return _is_pushed(job, pk, sk)
    if pk == "connection":
        return job is None or sk == job.connection
    if job is None:
        return False
    kind, _, rest = pk.partition("#")
    if kind == "shard" and _may_lie(rest, job.connection, sk):
        # Where shards were split an account may still lie in one before.
        return sk == (getattr(job, "account", "") or sk)
    if isinstance(job, DeltaJob):
        own = {
            "stream": (f"{job.connection}#{job.account}#{job.stream}", {sk}),
            "token": (job.connection, {job.account, SHARED}),
            "rate": (job.connection, {SHARED}),
        }
    else:
        own = {
            "shard": (f"{job.connection}#{job.shard}", {sk}),
            "token": (job.connection, {process.account, SHARED}),
            # One account is checked within the rate of what no regular check asks for.
            "rate": (job.connection, {SHARED} if job.account else set()),
        }
    of, names = own.get(kind, ("", set()))
    return of == rest and sk in names


def _is_pushed(sent: Sent, pk: str, sk: str) -> bool:
    """Tell whether an item is of what somebody sent: of all connections, no one in particular."""
    kind, _, rest = pk.partition("#")
    if kind == "shard":
        return sk == sent.account and _may_lie(rest, sent.connection, sk)
    return (pk, sk) in (("connection", ""), (f"rate#{sent.connection}", PUSH))


def _may_lie(shard: str, connection: str, account: str) -> bool:
    """Tell whether an account belongs to a shard, or did when there were fewer of them."""
    of, _, number = shard.rpartition("#")
    hashed = zlib.crc32(account.encode())
    return of == connection and int(number) in {hashed % (1 << bits) for bits in range(SHARD_BITS)}


def _keys(operation: str, params: Params) -> Keys:
    """Name the items that a call reads or writes; of a query, its partition at least."""
    if operation == "Query":
        values = params["ExpressionAttributeValues"]
        yield values[":pk"]["S"], values.get(":sk", {"S": ""})["S"]
    elif operation == "BatchGetItem":
        for table in params["RequestItems"].values():
            yield from ((one["pk"]["S"], one["sk"]["S"]) for one in table["Keys"])
    elif operation == "TransactWriteItems":
        for action in params["TransactItems"]:
            for one in action.values():
                where = one.get("Key") or one["Item"]
                yield where["pk"]["S"], where["sk"]["S"]
    else:
        where = params.get("Key") or params["Item"]
        yield where["pk"]["S"], where["sk"]["S"]


def _sealed(process: Process, params: Params) -> None:
    """What is sealed or opened is bound to the connection and the account that it is of."""
    context, job = params.get("EncryptionContext", {}), process.job
    if context.keys() != {"connection", "account"} or job is None:
        raise Broken(f"I5: sealed with {context} for {job}")
    account = process.account or getattr(job, "account", "")
    own = {account, SHARED} if account else {context["account"]}
    if isinstance(job, Sent):
        own = {PUSH}
    if context["connection"] != job.connection or context["account"] not in own:
        raise Broken(f"I5: sealed with {context} for {account} of {job}")
    plain = params.get("Plaintext", b"")
    text = plain.decode() if isinstance(plain, bytes) else str(plain)
    for _, owner in OWNERS.findall(text):
        named = SHARED if owner == ALL else owner
        require(named == context["account"], f"I5: what is of {owner} is sealed with {context}")


def _queued(job: CheckJob | Sent, params: Params) -> None:
    field = "account" if isinstance(job, Sent) or job.account else "shard"
    for entry in params["Entries"]:
        said = json.loads(entry["MessageBody"])
        own = said["connection"] == job.connection and said[field] == getattr(job, field)
        require(own, f"I5: {job} queued {said}")
