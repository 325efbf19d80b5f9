"""
The promises, checked when a run is at rest.

    I1   nothing is lost: the last event of each thing says what the provider holds
    I2   in order: revisions and sequences rise, and no older text follows a newer one
    I3   identity: one id is one text, one decision is one id; a thing is told as it was (oracle.py)
    I4   cursors never go down (checked at each write)
    I5   no account is asked for with another's credential, nor its items touched for another
         (custody.py, checked at each request and call)
    I6   one that fails stops no other (what a scenario with a broken account is for)
    I7   no secret is seen, and nothing that people said but in events (custody.py)
    I8   every job was done, is queued, or is dead
    I9   what happens is told soon (scenarios without listings by the clock)
    I10  at rest there is nothing left to do, and nothing is said twice
    I11  requests and items stay within bounds
    I12  what is needed is allowed (checked at each call; test_permissions.py has the other way)
    I13  what is to be told again is: the last event of each thing that is listed, under its id
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pollwire import drain, due
from pollwire.events import digest
from pollwire.http.limits import Limits
from pollwire.items import record_sk
from pollwire.model import DeltaJob, Page, Record, Row, Start, Stream
from pollwire.providers.kirimdev import FINAL, RANKS
from pollwire.state import shard_of

from tests.simulation import oracle
from tests.simulation.custody import impersonal, without_secrets
from tests.simulation.lambdas import MINUTE_MS, NEVER_MS
from tests.simulation.pace import PUSHED_MS
from tests.simulation.upstream import Told, Upstream
from tests.simulation.world import POISON, SILENT, Broken, chosen, is_silent

if TYPE_CHECKING:
    from tests.simulation.scenario import Run

#: Requests to a provider for each account and minute, at most.
REQUESTS_MAX = 120

#: Told after it happened, at most, when nothing goes wrong: two intervals, or what lies between two
#: checks that are asked for, the overlap of its stream, and these seconds for the way.
WAY_MS = 10_000

#: What is final is found out within this time.
WATCH_MS = 60_000

#: A call to AWS takes so many seconds at most, with all its attempts.
CALL_S = 3 * (2 + 5)

#: And a message: a whole check and its writes, a request at its deadline and its decision.
REQUEST_S = Limits().request_s
LEAST_S = {"check": due.CHECK_S + 5, "delta": REQUEST_S + 2}

#: A page may take three requests: one that is refused, a new token, the same again; and the writes.
PAGE_S, PAGE_LEAST_S = drain.PAGE_MS / 1000, 3 * REQUEST_S + 5

#: Invocations of one batch that a message is hidden for, as AWS advises: some may be throttled.
ATTEMPTS = 6

#: A job is given up after so many receptions, not before.
TRIES = 3

_BUGS = re.compile(
    "(TypeError|KeyError|IndexError|NameError|AttributeError|ValueError|UnicodeError"
    "|NotImplementedError|AssertionError|RuntimeError|RecursionError|ZeroDivisionError)"
)
_VERSION = re.compile(r"v[0-9]{5}")

Key = tuple[str, str, str, str]

#: What a body says beside the thing itself.
ENVELOPE = {
    *("accountId", "extensionId", "changes", "provider", "connection", "stream", "change"),
    *("revision", "sequence", "recordId"),
}


def require(holds: object, promise: str) -> None:
    if not holds:
        raise Broken(promise)


def check(run: Run) -> None:
    """
    Check every promise.

    Raises:
        Broken: Names the promise, and what breaks it.
    """
    told = histories(run)
    unprompted(run, told)
    sanity(run)
    secrecy(run)
    accounting(run)
    silence(run)
    bounds(run)
    if chosen("numbers", run.scenario.seed, SILENT):
        numbers(run)
    removal(run)
    places(run)
    counted(run)
    if run.scenario.is_calm and run.world.plan is None:
        freshness(run, told)


def histories(run: Run) -> dict[Key, list[dict[str, Any]]]:
    """Check what was told of each thing, and return it."""
    told = events(run)
    identity(run, told)
    order(told)
    truth(run, told)
    statuses(run, told)
    completeness(run, told)
    oracle.check(run, {key: first(found) for key, found in told.items()})
    return told


def events(run: Run) -> dict[Key, list[dict[str, Any]]]:
    """Group what was delivered by the thing it is about, in the order of its arrival."""
    found: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for event in run.deliveries():
        body: Any = event["body"]
        key = (body["connection"], str(event["ownerId"]), body["stream"], body["recordId"])
        found[key].append(event)
    return found


def identity(run: Run, told: dict[Key, list[dict[str, Any]]]) -> None:
    texts: dict[str, str] = {}
    decisions: dict[tuple[Key, int], str] = {}
    for key, found in told.items():
        for event in found:
            uuid = str(event["uuid"])
            text = _still(run, key, event) if run.scenario.replays else str(event["text"])
            require(texts.setdefault(uuid, text) == text, f"I3: {uuid} has two texts")
            decision = (key, event["body"]["revision"])
            require(decisions.setdefault(decision, uuid) == uuid, f"I3: {decision} has two ids")
    require(len(texts) == len(decisions), "I3: two decisions have one id")


def _still(run: Run, key: Key, event: dict[str, Any]) -> str:
    """Leave out of a text what a repeat may lack: what is no part of a thing, or gone with it."""
    stream = run.providers[key[0].partition("-")[0]].streams[key[2]]
    body: Any = event["body"]
    if body["change"] == "deleted":
        body = {name: value for name, value in body.items() if name in ENVELOPE}
    else:
        said = {**body, "record": _without(body.get("record", {}), stream.volatile)}
        body = _without(said, stream.volatile)
    return json.dumps({**json.loads(str(event["text"])), "body": body})


def _without(said: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name not in names}


def first(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave the repeats out."""
    seen: set[str] = set()
    return [one for one in found if not (one["uuid"] in seen or seen.add(str(one["uuid"])))]


def order(told: dict[Key, list[dict[str, Any]]]) -> None:
    for key, found in told.items():
        news = first(found)
        for name in ("revision", "sequence"):
            numbers = [one["body"][name] for one in news]
            require(numbers == sorted(set(numbers)), f"I2: {name} of {key}: {numbers}")
        if key[2] != "conversations":  # Its cache may show an old page after a new one.
            texts = [max(_VERSION.findall(json.dumps(one["body"])), default="") for one in news]
            shown = [one for one in texts if one]
            require(shown == sorted(shown), f"I2: {key} went back: {shown}")
        _require_progress(key, news)


def _require_progress(key: Key, news: list[dict[str, Any]]) -> None:
    told = [one["body"]["change"] for one in news]
    require("created" not in [b for a, b in pairwise(told) if a != "deleted"], f"I2: {key}: {told}")
    require({b for a, b in pairwise(told) if a == "deleted"} <= {"created"}, f"I2: {key}: {told}")
    for before, after in pairwise(news):
        kinds = (before["body"]["change"], after["body"]["change"])
        same = before["body"].get("record") == after["body"].get("record")
        flat = "record" not in after["body"]
        require(flat or not same or len(set(kinds)) == 2, f"I3: {key} was told twice: {kinds}")


def truth(run: Run, told: dict[Key, list[dict[str, Any]]]) -> None:
    """I1: what was told to be deleted was deleted; a false alarm heals, and is one nevertheless."""
    gone = {
        key
        for upstream, change in run.changes()
        if change.kind == "deleted"
        for key in _keys(upstream, change)
    }
    for key, found in told.items():
        deleted = [one for one in found if one["body"]["change"] == "deleted"]
        require(not deleted or key in gone, f"I1: {key} was told to be deleted and never was")


def _keys(upstream: Upstream, change: Told) -> list[Key]:
    """Name what a change is told under: once for each connection."""
    about = (change.account, change.stream, change.id)
    return [(connection.name, *about) for connection in upstream.connections()]


def statuses(run: Run, told: dict[Key, list[dict[str, Any]]]) -> None:
    """I2 of watched messages: no status goes back; and, if nothing goes wrong, the last is told."""
    for upstream in run.upstreams:
        for change in upstream.journal if upstream.watches else ():
            for key in _keys(upstream, change) if change.stream == "message-status" else ():
                said = [one["body"]["record"]["status"] for one in first(told.get(key, []))]
                ranks = [RANKS[one] for one in said]
                require(ranks == sorted(ranks), f"I2: {key} went back: {said}")
                held = upstream.simulator._accounts[change.account].messages[change.id]
                calm = run.scenario.is_calm and not run.world.plan
                if calm and change.account not in run.out:
                    now = held.fields["status"]
                    # What goes back at the provider does not for who was told.
                    is_told = said and RANKS[said[-1]] >= RANKS[now]
                    require(is_told, f"I1: {key} is {now}, told was {said}")
                    watched = [one for one in _watched(run, key) if one > change.at_ms + WATCH_MS]
                    require(not (watched and now in FINAL), f"I11: {key} is {now}, and watched")


def _watched(run: Run, key: Key) -> list[int]:
    """Say until when there is an eye on a thing."""
    (shard,) = run.shards(key[0], key[1])
    item = run.world.aws.items[f"shard#{key[0]}#{shard}", key[1]]
    pairs = [one.partition("@") for one in item.get("watched", {}).get("SS", ())]
    return [int(until_ms) for until_ms, _, identity_ in pairs if identity_ == key[3]]


def completeness(run: Run, told: dict[Key, list[dict[str, Any]]]) -> None:
    for upstream, connection in run.connections():
        for member in run.well(upstream):
            for stream in upstream.streams:
                key = (connection.name, member.id, stream)
                mine = {one[3]: first(found) for one, found in told.items() if one[:3] == key}
                _complete(run, upstream, key, mine)


def _complete(
    run: Run, upstream: Upstream, key: tuple[str, str, str], told: dict[str, list[dict[str, Any]]]
) -> None:
    connection, account, name = key
    stream = run.providers[upstream.name].streams[name]
    pollwire = run.pollwire()
    records = pollwire.state.all_records(DeltaJob(connection, 0, account, name, (), 0))
    pages = list(listing(run, upstream, connection, account, name))
    rows = {row.id: row for page in pages for row in page.rows}
    bad = {one.key for page in pages for one in page.bad}
    where = f"stream#{connection}#{account}#{name}"
    crowded, odd = oracle.is_crowded(upstream, key), upstream.unreadable[name, account]
    unknown = [one for one in bad if (where, f"q#{one}") not in run.world.aws.items]
    require(crowded or not unknown, f"{key}: {unknown} cannot be read, and nobody was told")
    if odd and not crowded:
        noted = any(pk == where and sk.startswith("q#") for pk, sk in run.world.aws.items)
        require(noted, f"{key}: {odd} cannot be read, and nothing says so")
    # What was made and not deleted, by the provider's own journal: our listing must have it, too.
    last = {one.id: one.kind for one in upstream.journal if (one.account, one.stream) == key[1:]}
    # But for calls, which end by themselves, and for a second that holds more than can be listed.
    gaps = any(page.gaps for page in pages) or any(one.startswith("gap:") for one in rows)
    unlisted = name == "presence" or gaps or crowded
    for identity_ in (one for one, kind in last.items() if kind != "deleted"):
        found = identity_ in rows or unlisted
        require(found, f"I1: {key} {identity_} is at the provider, and our listing lacks it")
    for identity_, row in rows.items():
        where = f"{key} {identity_}"
        if row.deleted:
            _gone(run, where, told.get(identity_, []))
            continue
        _present(run, key, row, stream, records.get(identity_), told.get(identity_, []))
    if oracle.lists_all(run, name) and not gaps:
        for identity_ in told.keys() - rows.keys():
            if not oracle.is_unlisted(upstream, (*key, identity_)):
                _gone(run, f"{key} {identity_}", told[identity_])


def listing(run: Run, upstream: Upstream, name_: str, account: str, stream: str) -> Iterator[Page]:
    """List what the provider holds of a stream; of equal ids the last counts."""
    pollwire = run.pollwire()
    connection = pollwire.state.connection(name_)
    standing = pollwire.state.account(name_, *run.shards(name_, account), account)
    assert connection
    assert standing
    provider = run.providers[upstream.name]
    seen = pollwire.account(connection, provider, standing, opened=True)
    if upstream.name == "kirimdev":
        upstream.simulator._cache.clear()
    upstream.unbind()
    yield from provider.delta(seen, stream, Start(), pollwire.http.fetch)


def _present(
    run: Run,
    key: tuple[str, str, str],
    row: Row,
    stream: Stream,
    record: Record | None,
    told: list[dict[str, Any]],
) -> None:
    where = f"{key} {row.id}"
    require(record, f"I1: {where} was never seen")
    assert record
    require(
        record.digest == digest(row, stream.volatile) and not record.gone,
        f"I1: {where} was last seen as it is no more",
    )
    if record.rev == 0:
        _require_baseline(run, key, record)
        return
    require(told, f"I1: {where} has {record.rev} revisions and was never told")
    last = told[-1]["body"]
    require(last["revision"] == record.rev, f"I1: {where}: revision {record.rev} was not told")
    again = not run.scenario.replays or told[-1]["uuid"] in run.again
    require(again, f"I13: {where} was to be told again and was not")
    require(last["change"] != "deleted", f"I1: {where} is there and was told to be deleted")
    said = last if stream.flat else last.get("record", {})
    held = json.loads(json.dumps(dict(row.body)))
    differs = [
        name for name in held if name not in stream.volatile and held[name] != said.get(name)
    ]
    require(not differs, f"I1: {where}: {differs} is not what was told last")


def _require_baseline(run: Run, key: tuple[str, str, str], record: Record) -> None:
    where = f"I1: {key} {record.id}"
    require(not run.scenario.backfill, f"{where} was recorded without a word")
    require(key[1] not in run.empty, f"{where} came after there was nothing, and was not told")
    recorded = run.baselines.get("stream#{}#{}#{}".format(*key), {})
    require(
        recorded.get(record_sk(record.id)) == record.digest,
        f"{where} changed after the baseline and was not told",
    )


def unprompted(run: Run, told: dict[Key, list[dict[str, Any]]]) -> None:
    """What was there before an account was added is not told as new, unless that is wanted."""
    if run.scenario.backfill:
        return
    made = {key for upstream, change in run.changes() for key in _keys(upstream, change)}
    for key, found in told.items():
        change = found[0]["body"]["change"]
        require(
            change != "created" or key in made or key[2] == "presence" or key[3].startswith("gap:"),
            f"I1: {key} was there before and was told",
        )


def _gone(run: Run, where: str, told: list[dict[str, Any]]) -> None:
    if told:
        again = not run.scenario.replays or told[-1]["uuid"] in run.again
        require(again, f"I13: {where} was to be told again to be deleted and was not")
        require(told[-1]["body"]["change"] == "deleted", f"I1: {where} is gone and was not told so")


def sanity(run: Run) -> None:
    """No fault makes a bug: what a handler fails with is an error that somebody thought of."""
    for reason in _BUGS.findall(run.lambdas.logs.getvalue()):
        raise Broken(f"a job failed with {reason}")
    for name in run.world.reached:
        how = [one for one in run.world.trace if "failed: " in one]
        require(not _BUGS.search(name), f"a function {name}: {how}")


def counted(run: Run) -> None:
    """A row that cannot be read raises one alarm: it is recorded, and counted no more."""
    if not run.scenario.is_calm or run.world.plan is not None:
        return
    alarms = run.world.reached["count: bad_rows"]
    recorded = sum(sk.startswith("q#") for _, sk in run.world.aws.items)
    require(alarms == recorded, f"{alarms} alarms of {recorded} rows that cannot be read")


def secrecy(run: Run) -> None:
    """I7: a credential is seen nowhere but in a request, and no content but in an event."""
    aws = run.world.aws
    logs = run.lambdas.logs.getvalue()
    bodies = {
        name: str([one.body for one in aws.messages(name)]) for name in run.world.deployed.queues
    }
    without_secrets("the logs", logs)
    without_secrets("the table", str(aws.items))
    without_secrets("a queue", str(bodies))
    impersonal("the logs", logs)
    impersonal("a shard", str([one for (pk, _), one in aws.items.items() if "shard#" in pk]))
    for subscription in run.world.deployed.subscriptions:
        # Events are for these, and for what takes what cannot be delivered.
        bodies.pop(subscription.queue)
        bodies.pop(subscription.dead_letters, "")
    impersonal("a queue", str(bodies))


def accounting(run: Run) -> None:
    """
    I8: jobs are done, queued or dead; nothing waits in a queue that is at rest.

    That one is deleted if it was done, and only then, is looked at whenever a function ends.
    """
    world = run.world
    for name, tries in world.aws.buried:
        require(tries >= TRIES, f"I8: {name} gives a job up that was tried {tries} times")
    is_single = world.plan is not None and len(world.plan) == 1
    require(not (is_single and run.redriven), "I8: one fault kills a job")
    require(not world.aws.expired, f"I8: {world.aws.expired} messages were kept too short a time")
    require(not world.aws.lost, f"I8: {world.aws.lost} events could not be delivered")
    for subscription in world.deployed.subscriptions:
        found = subscription.dead_letters and len(world.aws.messages(subscription.dead_letters))
        wanted = (found or 0) <= world.injected["undelivered"]
        require(wanted, f"I8: {subscription.queue} does not get {found} events")
    dead = {
        queue.dead_letters: [one.body for one in world.aws.messages(queue.dead_letters)]
        for queue in world.deployed.queues.values()
        if queue.dead_letters
    }
    if world.poisoned:
        letters = dead.get(world.deployed.queues[world.poisoned].dead_letters, [])
        require(POISON in letters, f"I8: what {world.poisoned} had that is no job is not kept")
        letters.remove(POISON)
    left = {name: len(bodies) for name, bodies in dead.items() if bodies}
    require(not left or run.sick, f"I8: dead after everything is healthy: {left}")


def silence(run: Run) -> None:
    """I10: at rest, nothing more is said."""
    if not is_silent(run.scenario.seed) and run.world.plan is None:
        return
    for is_last in (False, True):
        before, fetched = len(run.deliveries()), run.pace.fetched
        listed = run.scenario.reconciles and run.is_listed_within(MINUTE_MS)
        run.minute()
        require(len(run.deliveries()) == before, "I10: more was told though nothing happened")
        more = run.pace.fetched - fetched
        if listed or not more:
            return
        # An account that gave way to its deltas is asked later: once more may a mark differ.
        require(not is_last, f"I11: {more} more requests of deltas though nothing happened")
        run.settle()


def bounds(run: Run) -> None:
    """I11: nobody is hammered."""
    if run.is_faultless:
        # As often as it is due, and every five seconds where something is watched.
        apart_s = 5 if run.scenario.watches else run.scenario.interval_s
        for account, number in run.pace.checks.items():
            most = run.lambdas.begun * 60 // apart_s
            require(number <= most, f"I11: {account} was checked {number} times, due was {most}")
    minutes = (run.world.now_ms - 1_800_000_000_000) / 60_000 + 1
    for host, number in run.requests.items():
        given = run.scenario
        accounts = given.accounts * given.connections
        most = REQUESTS_MAX * minutes * accounts * (3 if given.watches else 1)
        require(number <= most, f"I11: {number} requests to {host} in {minutes:.0f} minutes")


def numbers(run: Run) -> None:
    """I11: times, sizes and tries as deployed fit each other, and what the functions do in them."""
    require(PAGE_S >= PAGE_LEAST_S, f"I11: a page has {PAGE_S} s and may need {PAGE_LEAST_S}")
    deployed = run.world.deployed
    for function in deployed.functions.values():
        least_s = max(CALL_S, LEAST_S.get(function.stage, 0) * function.batch)
        fits = function.timeout_s >= least_s
        require(fits, f"I11: {function.name} has {function.timeout_s} s and may need {least_s}")
        if not function.queue:
            continue
        queue = deployed.queues[function.queue]
        fits = queue.retention_s >= queue.receives * queue.visibility_s
        require(fits, f"I11: {queue.name}: a message expires before it is a dead letter")
        fits = queue.visibility_s >= ATTEMPTS * function.timeout_s
        require(fits, f"I11: {queue.name}: a message is back before Lambda has given its batch up")


def removal(run: Run) -> None:
    """What was removed stays removed."""
    back = [sk for pk, sk in run.world.aws.items if pk.startswith("shard#") and sk == run.removed]
    require(not back, f"an account was removed and is back: {back}")


def places(run: Run) -> None:
    """Every account lies where it is looked for, and nowhere else."""
    for upstream, connection in run.connections():
        shards = (1 + run.scenario.splits) * connection.shards
        for member in run.well(upstream):
            found, wanted = run.shards(connection.name, member.id), shard_of(member.id, shards)
            require(found == [wanted], f"{member.id} lies in {found} of {shards}, not in {wanted}")


def freshness(run: Run, told: dict[Key, list[dict[str, Any]]]) -> None:
    """I9: what is made is told soon, and nothing is told of what is long over."""
    interval_ms = 1000 * run.scenario.interval_s
    for upstream in run.upstreams:
        happened: dict[Key, list[Told]] = defaultdict(list)
        for one in upstream.stirred:
            is_call = one.stream == "presence" and one.id != "presence"
            unseen = is_call and one.account in upstream.crowded
            for key in _keys(upstream, one) if not (unseen or one.account in run.out) else ():
                happened[key].append(one)
        for key, changes in happened.items():
            overlap_ms = run.providers[upstream.name].streams[key[2]].overlap_s * 1000
            news = first(told.get(key, []))
            # Who finds that the token another one got is refused, too, waits before he asks again.
            waits = any(0 < upstream.revoked_ms <= int(one["arrived_ms"]) for one in news)
            soon_ms = PUSHED_MS if run.scenario.prompt else interval_ms * (5 if waits else 2)
            end_ms = NEVER_MS
            if run.scenario.prompt:
                # What is gone or older is seen twice, and nobody notifies of the second time, nor
                # of anything once it heals.
                news = [one for one in news if one["body"]["change"] == "created"]
                end_ms = run.healing_ms
            _require_fresh(changes, news, soon_ms + overlap_ms + WAY_MS, end_ms)


def _require_fresh(
    changes: list[Told], news: list[dict[str, Any]], most_ms: int, end_ms: int
) -> None:
    """Of what changed before the end."""
    for number, event in enumerate(news):
        at_ms, kind = int(event["arrived_ms"]), event["body"]["change"]
        before = [one for one in changes if one.at_ms <= at_ms]
        if (kind, number) == ("created", 0):
            # It may have changed since; that it is there is told soon nevertheless.
            before = [one for one in before if one.kind == "created"]
        changed_ms = max((one.at_ms for one in before), default=at_ms)
        is_fresh = at_ms - changed_ms <= most_ms or changed_ms >= end_ms
        require(is_fresh, f"I9: {before[-1:]} was told after {at_ms - changed_ms} ms")
