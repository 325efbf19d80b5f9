"""
What providers held, read from the simulators themselves: the product's own modules take no part.

    held(...)     what a thing is after a change, as it has to be told
    check(...)    I1, I2, I3: every event says what its thing was, and the last one what it is

A provider's rows are written in the normal form here once more, by hand. So a field that is lost, a
time zone, a neighbour's content or a wrong attribute is noticed, though it is told consistently.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from pollwire.providers import ringcentral

from local.simulators import Change
from tests.simulation.world import Broken, Knobs

if TYPE_CHECKING:
    from tests.simulation.scenario import Run
    from tests.simulation.upstream import Upstream

Fields = dict[str, Any]
Thing = tuple[str, str, str, str]

#: What subscription ids are derived in; a change of it would be a new subscription for everybody.
NAMESPACE = uuid.UUID("6f0f3a3e-4f0b-5d53-9a52-70c1f0d6a7b4")

#: Streams whose events have the path of a message or of a call.
PATHS = {
    "entry": "message-store",
    "messages": "message-store",
    "message-store": "message-store",
    "presence": "presence?detailedTelephonyState=true",
}
COUNTS = {"created": "newCount", "updated": "updatedCount", "deleted": "deletedCount"}

#: More calls than these are not listed all.
CALLS_MAX = 7

#: What a call keeps as long as it lives.
CALL = ("id", "sessionId", "telephonySessionId", "partyId", "from", "to", "direction")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: A provider's ``Date`` is cut to seconds.
SECOND_MS = 1_000


@dataclass(frozen=True, slots=True)
class State:
    """
    What a thing was from some instant on.

    Attributes:
        since_ms: When that could be read first, the world's time.

        at_ms: When it changed, as its row says; 0 if that says nothing.

        content: What has to be told.

        missing: It left without a trace: only a listing from end to end shows that.
    """

    since_ms: int
    at_ms: int
    content: Fields
    deleted: bool = False
    type: str = ""
    direction: str = ""
    missing: bool = False


def iso(at_ms: int) -> str:
    at = EPOCH + timedelta(milliseconds=at_ms)
    return at.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


# What a thing is, by provider


def held(provider: str, simulator: Any, change: Change, now_ms: int, known: int) -> list[State]:
    """
    Read what a thing is after a change; what it was in between as well, if that may be seen.

    Args:
        now_ms: By the provider's clock, as all instants of what is returned.

        known: States of it that were read before.
    """
    return _HELD[provider](simulator, change, now_ms, known)


def _youmail(simulator: Any, change: Change, now_ms: int, known: int) -> list[State]:
    account = simulator._accounts[change.account]
    if change.stream not in account.rows:
        return [State(now_ms, 0, {"id": change.id, **_youmail_object(account, change.id)})]
    versions = account.rows[change.stream].get(change.id, [])
    found: list[State] = []
    for one in versions[known:] or versions[-1:]:
        since_ms = max(now_ms, one.visible_ms)
        if one.fields is None:
            found.append(State(since_ms, 0, {"id": change.id}, deleted=True, missing=True))
            continue
        fields, said = dict(one.fields), {}
        is_timed = simulator.show_updated and change.stream != "greeting"
        at_ms = one.at_ms if is_timed else fields["created"]
        deleted = fields.get("folderId") == 5322 or fields.get("deleted") is True
        if change.stream in ("entry", "history"):
            said = _call(fields, change.stream)
        content = {"id": change.id, **fields, **said} | ({"updated": at_ms} if is_timed else {})
        kind, direction = said.get("type", ""), said.get("direction", "")
        found.append(State(since_ms, at_ms, content, deleted, kind, direction))
    return found


def _youmail_object(account: Any, identity: str) -> Fields:
    orders = {"orders": list(account.orders.values()), "trials": [], "recommendations": []}
    objects = {"account": account.profile, "settings": account.settings, "ecommerce": orders}
    held = account.orders.get(identity) or objects[identity]
    return {name: value for name, value in held.items() if name != "pin"}


def _call(fields: Fields, stream: str) -> Fields:
    """Take what has a name of ours out of a voicemail or a call, and write it under that."""
    caller = {"phoneNumber": fields.pop("source"), "name": fields.pop("callerName", None)}
    said = {
        "direction": "Inbound",
        "creationTime": iso(fields.pop("created")),
        "durationMs": fields.pop("length"),
        "from": {name: value for name, value in caller.items() if value is not None},
    }
    if stream == "entry":
        said |= {"type": "VoiceMail", "readStatus": {1: "Unread", 2: "Read"}[fields.pop("status")]}
        said |= {"to": [{"phoneNumber": fields.pop("destination")}]}
        # The rest of it opens the recording.
        said |= {"messageDataUrl": fields["messageDataUrl"].partition("?")[0]}
    return said


def _intelli(simulator: Any, change: Change, now_ms: int, known: int) -> list[State]:
    kept = simulator._accounts[change.account].messages
    message = next(one for one in reversed(kept) if one.fields["documentId"] == change.id)
    fields = dict(message.fields)
    sender, called = fields.pop("from", None), fields.pop("recipient")
    direction = "Inbound" if message.direction == "incoming" else "Outbound"
    del fields["documentId"]
    fields |= {"id": change.id, "type": "SMS", "direction": direction, "subject": fields["text"]}
    fields |= {"creationTime": iso(message.at_s * 1000)}
    if sender:
        fields["from"] = {"phoneNumber": sender}
    if not (simulator.recpipent and sender):
        fields["to"] = [{"phoneNumber": called}]
    del fields["text"]
    since_ms = max(now_ms, int(message.visible_s * 1000))
    return [State(since_ms, message.at_s * 1000, fields, False, "SMS", direction)]


def _ringcentral(simulator: Any, change: Change, now_ms: int, known: int) -> list[State]:
    account = simulator._accounts[change.account]
    if change.id == "presence":
        user = {name: one for name, one in account.presence.items() if name != "presenceStatus"}
        return [State(now_ms, 0, user)]
    if change.stream == "presence":
        call = account.calls[change.id]
        fields = dict(call.fields)
        return [State(now_ms, 0, fields, call.told or call.lost, "", fields["direction"])]
    message = account.messages.get(change.id)
    if message is None:
        return [State(now_ms, 0, {"id": change.id}, deleted=True, missing=True)]
    kind, direction = message.fields["type"], message.fields["direction"]
    if message.availability != "Alive":
        return [State(now_ms, 0, {"id": change.id}, True, kind, direction)]
    fields = _texts(message.fields) | {
        "id": change.id,
        "uri": f"https://platform.sim/message-store/{change.id}",
        "extensionId": change.account,
        "availability": "Alive",
        "creationTime": iso(message.created_ms),
        "lastModifiedTime": iso(message.modified_ms),
    }
    return [State(now_ms, message.modified_ms, fields, False, kind, direction)]


def _texts(fields: Fields) -> Fields:
    """Write the ids of a message's parts as text."""
    told = dict(fields)
    if "conversationId" in told:
        told["conversationId"] = str(told["conversationId"])
    told["to"] = [
        {name: str(one) if name == "extensionId" else one for name, one in end.items()}
        for end in told["to"]
    ]
    if "attachments" in told:
        told["attachments"] = [{**one, "id": str(one["id"])} for one in told["attachments"]]
    return told


def _kirimdev(simulator: Any, change: Change, now_ms: int, known: int) -> list[State]:
    account = simulator._accounts[change.account]
    is_message = change.stream == "message-status"
    row = (account.messages if is_message else account.conversations).get(change.id)
    if row is None:
        return [State(now_ms, 0, {"id": change.id}, deleted=True, missing=True)]
    fields = {**row.fields, "updated_at": iso(row.updated_us // 1000)}
    if is_message:
        return [State(now_ms, 0, fields, direction="Outbound")]
    fields["last_message_at"] = iso(row.last_message_us // 1000)
    return [State(now_ms, row.updated_us // 1000, fields)]


_HELD: Mapping[str, Callable[[Any, Change, int, int], list[State]]] = {
    "youmail": _youmail,
    "intelli": _intelli,
    "ringcentral": _ringcentral,
    "kirimdev": _kirimdev,
}

#: Streams of which every answer is all there is; and those that are listed by the clock.
WHOLE = {"entitlement", "greeting", "account", "settings", "ecommerce", "presence"}
LISTED = {"message-store", "conversations"}


# What was told


def require(holds: object, promise: str) -> None:
    if not holds:
        raise Broken(promise)


def check(run: Run, told: Mapping[Thing, list[Fields]]) -> None:
    """
    Check what was told against what was held.

    Args:
        told: Events by thing, without the repeats, in the order of their arrival.

    Raises:
        Broken: Names the promise, and what breaks it.
    """
    upstreams = {connection.name: upstream for upstream, connection in run.connections()}
    streams(told, healthy=run.scenario.knobs == Knobs())
    for thing, news in told.items():
        connection, account, stream, identity = thing
        if identity.startswith("gap:"):
            require(len(news) == 1, f"I3: {thing} was told {len(news)} times")
            continue
        upstream = upstreams[connection]
        states = upstream.states.get((account, stream, identity), [])
        require(states, f"I3: {thing} was told and never was there")
        steps = _walk(thing, news, states, ordered=upstream.name != "kirimdev")
        for event, state in steps:
            _instants(thing, event, state, states, run.scenario.skew_s * 1000)
            envelope(run, upstream, thing, event, state)
        _begins(run, thing, news[0])
    for connection, upstream in upstreams.items():
        ends(run, connection, upstream, told)


def streams(told: Mapping[Thing, list[Fields]], *, healthy: bool) -> None:
    """
    I2: the sequence of a stream is above the clock, and by provider time; a stream is one group.

    Args:
        healthy: No entry of a batch was refused: then what stands behind it does not overtake it.
    """
    found: dict[tuple[str, str, str], list[Fields]] = defaultdict(list)
    for thing, news in told.items():
        found[thing[:3]] += news
    groups: dict[str, tuple[str, str, str]] = {}
    for stream, unsorted in found.items():
        news = sorted(unsorted, key=lambda one: one["body"]["sequence"])
        numbers = [one["body"]["sequence"] for one in news]
        above = [number - _told_ms(one) for number, one in zip(numbers, news, strict=True)]
        apart = sorted(set(numbers)) == numbers and min(above, default=1) > 0
        require(apart, f"I2: sequence of {stream}: {numbers}")
        _in_time(stream, news)
        places = [one["place"] for one in news]
        require(not healthy or places == sorted(places), f"I2: {stream} arrived as {places}")
        used = {one["group"] for one in news}
        require(len(used) == 1, f"I2: {stream} has groups {used}")
        owner = groups.setdefault(used.pop(), stream)
        require(owner == stream, f"I6: {stream} and {owner} have one group")


def _told_ms(event: Fields) -> int:
    return round(datetime.fromisoformat(event["timestamp"]).timestamp() * 1000)


def _in_time(stream: tuple[str, str, str], news: list[Fields]) -> None:
    """What one decision tells goes by provider time; but what a list lacks, which comes last."""
    for one, other in pairwise(news):
        first, second = one["body"], other["body"]
        if "deleted" in (first["change"], second["change"]) or stream[2] == "presence":
            continue
        late = one["timestamp"] == other["timestamp"]
        if late and first["lastUpdated"] > second["lastUpdated"]:
            raise Broken(f"I2: {stream}: {first} before {second}")


def _walk(
    thing: Thing, news: list[Fields], states: list[State], *, ordered: bool
) -> Iterable[tuple[Fields, State]]:
    """Find the state that each event tells, none before that of the event before."""
    place = 0
    for number, event in enumerate(news, start=1):
        body = event["body"]
        require(body["revision"] == number, f"I2: {thing}: revision {body['revision']}")
        found = [n for n in range(place, len(states)) if _tells(thing, body, states[n])]
        if not found:
            known = any(_tells(thing, body, state) for state in states)
            raise Broken(
                f"I2: {thing} went back to {body}" if known else f"I3: {thing} never was {body}"
            )
        if number > 1 and _is_repeated(thing, news[number - 2]["body"], body):
            raise Broken(f"I3: {thing} was told twice to be {body}")
        place = found[0] if ordered else 0
        yield event, states[found[0]]


def _is_repeated(thing: Thing, before: Fields, after: Fields) -> bool:
    is_same = before["change"] == after["change"] or "deleted" not in (
        before["change"],
        after["change"],
    )
    return is_same and _said(thing, before) == _said(thing, after)


def _tells(thing: Thing, body: Fields, state: State) -> bool:
    if (body["change"] == "deleted") != state.deleted:
        return False
    said = _said(thing, body)
    if not state.deleted:
        return bool(said == state.content)
    if thing[2] == "presence":
        over = said.get("telephonyStatus") == "NoCall" and said.get("terminationType") == "final"
        return over and all(said.get(name) == state.content.get(name) for name in CALL)
    # Where a listing shows it there is only the id, and what was kept of it.
    return (
        all(said[name] == state.content[name] for name in said if name in state.content)
        and "id" in said
    )


def _said(thing: Thing, body: Fields) -> Fields:
    """Take what is told of the thing itself out of a body."""
    if thing[2] != "presence":
        said = body.get("record")
    elif thing[3] == "presence":
        said = body.get("state")
    else:
        calls = body.get("activeCalls") or [None]
        said = calls[0] if len(calls) == 1 else None
    return said if isinstance(said, dict) else {}


def _instants(thing: Thing, event: Fields, state: State, states: list[State], skew_ms: int) -> None:
    decided, updated = event["timestamp"], event["body"]["lastUpdated"]
    arrived = iso(event["arrived_ms"])
    if not iso(state.since_ms) <= decided <= arrived:
        raise Broken(f"I3: {thing} was {state} and arrived at {arrived}, decided at {decided}")
    if state.deleted:
        made_ms = min((one.at_ms for one in states if one.at_ms), default=states[0].since_ms)
        # Some rows bear the date of tomorrow.
        latest_ms = max(event["arrived_ms"] + max(skew_ms, 0), *(one.at_ms for one in states))
        holds = iso(made_ms - abs(skew_ms) - SECOND_MS) <= updated <= iso(latest_ms)
    else:
        holds = updated == (iso(state.at_ms) if state.at_ms else decided)
    if not holds:
        raise Broken(f"I3: {thing}: lastUpdated {updated} of {state}")


def envelope(run: Run, upstream: Upstream, thing: Thing, event: Fields, state: State) -> None:
    """I3: everything that is said around the record is the thing's own, in body and attributes."""
    connection, account, stream, _ = thing
    body = event["body"]
    member = next(one for one in upstream.members if one.id == account)
    owner = member.settings.get("accountId", account)
    path = PATHS.get(stream)
    attributes = {
        "provider": upstream.name,
        "connection": connection,
        "account": owner if path else account,
        "stream": stream,
        "type": state.type,
        "direction": state.direction,
        "change": body["change"],
        "extension": account if path and owner != account else "",
    }
    expected: Fields = {
        "attributes": {name: value for name, value in attributes.items() if value},
        "event": _path(upstream.name, owner, account, stream, state),
        "subscriptionId": _subscription_id(run.world.deployed.topic),
        "dedup": event["uuid"],
    }
    differs = [name for name, value in expected.items() if event[name] != value]
    require(not differs, f"I3: {thing}: {[(one, event[one], expected[one]) for one in differs]}")
    inner: Fields = {
        "provider": upstream.name,
        "accountId": owner,
        "extensionId": int(account) if stream == "presence" else account,
        "changes": [{"type": state.type or stream, COUNTS[body["change"]]: 1}],
    }
    differs = [name for name, value in inner.items() if body[name] != value]
    require(not differs, f"I3: {thing}: {[(one, body[one], inner[one]) for one in differs]}")


@cache
def _subscription_id(topic: str) -> str:
    return str(uuid.uuid5(NAMESPACE, topic))


def _path(provider: str, owner: str, account: str, stream: str, state: State) -> str:
    path = PATHS.get(stream)
    if path is None:
        return f"/pollwire/v1/{provider}/account/{account}/{stream}"
    if "?" not in path and state.type:
        path += "?" + urlencode({"type": state.type, "direction": state.direction})
    return f"/restapi/v1.0/account/{owner}/extension/{account}/{path}"


def _begins(run: Run, thing: Thing, event: Fields) -> None:
    """I3: only what a baseline recorded is told as updated before it was told as created."""
    known = run.baselined(thing)
    require(
        event["body"]["change"] != "updated" or (known and not run.scenario.backfill),
        f"I3: {thing} was told as updated first",
    )


def ends(run: Run, connection: str, upstream: Upstream, told: Mapping[Thing, list[Fields]]) -> None:
    """I1: the last event of each thing says what the thing is; one without was there before."""
    well = {member.id for member in run.well(upstream)}
    # What a baseline finds out to be missing is recorded, and told to nobody.
    pks = {pk.partition("#")[2] for pk, sk in run.world.aws.items if sk.startswith("r#gap:")}
    gaps = {(name, *rest) for name, *rest in (pk.split("#") for pk in pks)}
    for (account, stream, identity), states in upstream.states.items():
        thing = (connection, account, stream, identity)
        if account not in well or stream not in upstream.streams:
            continue
        if is_unlisted(upstream, thing):
            continue
        # A listing that lacks something, as a crowded second's does, shows no deletion.
        is_shown = lists_all(run, stream) and not is_crowded(upstream, thing)
        if states[-1].deleted and not is_shown and upstream.hides(stream, states[-1]):
            continue
        if thing in told:
            _is_last(thing, told[thing][-1]["body"], states[-1])
        elif not (states[-1].deleted or thing[:3] in gaps or is_crowded(upstream, thing)):
            at_ms = run.baselines_ms.get("stream#{}#{}#{}".format(*thing[:3]), 0)
            before = [one.content for one in states if one.since_ms <= at_ms]
            if run.scenario.backfill or states[-1].content not in before:
                raise Broken(f"I1: {thing} is {states[-1]} and was never told")


def lists_all(run: Run, stream: str) -> bool:
    """Tell whether what is missing has to be found out, by what the providers' documents say."""
    return stream in WHOLE or (stream in LISTED and run.scenario.reconciles)


def _is_last(thing: Thing, body: Fields, state: State) -> None:
    is_told = body["change"] == "deleted"
    if is_told != state.deleted:
        raise Broken(f"I1: {thing} is {state}, told was {body}")
    if is_told:
        return  # What becomes of it afterwards is no news.
    said = _said(thing, body)
    if said != state.content:
        raise Broken(f"I1: {thing} is {state.content}, told was {said}")


def is_crowded(upstream: Upstream, thing: tuple[str, ...]) -> bool:
    """Tell whether a second fills a page: if it holds more than that, nobody is told."""
    if thing[2] != "message-store":
        return False
    kept = upstream.simulator._accounts[thing[1]].messages.values()
    seconds = Counter(one.created_ms // 1000 for one in kept if one.availability == "Alive")
    return max(seconds.values(), default=0) >= ringcentral.RECORDS


def is_unlisted(upstream: Upstream, thing: Thing) -> bool:
    """Tell whether there are more calls than are listed: some may go on unseen."""
    if thing[2] != "presence" or thing[3] == "presence":
        return False
    return len(upstream.simulator._accounts[thing[1]].calls) > CALLS_MAX
