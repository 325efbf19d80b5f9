"""
What a subscriber wants to hear of, in the language of the events' own paths, as an SNS filter
policy over their message attributes.

    /restapi/v1.0/account/{accountId}/extension/{extensionId}/message-store
    /restapi/v1.0/account/{accountId}/extension/{extensionId}/presence?detailedTelephonyState=true
    /pollwire/v1/{provider}/account/{accountId}/{stream}

``~`` in a place stands for any. ``type`` and ``direction`` narrow messages, ``change`` narrows
everything; a parameter that is repeated takes each of its values. Several paths let through what
one of them does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from pollwire.errors import Misconfigured
from pollwire.model import ACCOUNT_ID, Stream

#: SNS takes no more attributes in a policy, and no more combinations of their values.
ATTRIBUTES_MAX: Final = 5
COMBINATIONS_MAX: Final = 150

ANY: Final = "~"
ABSENT: Final[Mapping[str, bool]] = {"exists": False}

CHANGE: Final = {"change": ("created", "updated", "deleted")}
MESSAGE: Final = {
    "type": ("VoiceMail", "SMS", "Fax", "Pager"),
    "direction": ("Inbound", "Outbound"),
}

#: Attributes whose values a policy lists as they are.
SPELT: Final = frozenset({"provider", "account", "stream", *MESSAGE, *CHANGE})

Policy = dict[str, list[Any]]

#: Streams by the name of their provider, then by their own.
Streams = Mapping[str, Mapping[str, Stream]]


def compile_filter(text: str, streams: Streams) -> Policy:
    """
    Compile a filter path into a filter policy of scope ``MessageAttributes``.

    Args:
        streams: Those of all registered providers.

    Returns:
        A policy that is empty if every event will do.

    Raises:
        Misconfigured: Names the part that is wrong, and what it may be.
    """
    path, _, query = text.partition("?")
    match path.split("/"):
        case ["", "restapi", "v1.0", "account", account, "extension", extension, *rest]:
            policy = _of_path("/".join(rest), query, streams)
            policy |= _of_extension(_id("account", account), _id("extension", extension))
        case ["", "pollwire", "v1", provider, "account", account, stream]:
            policy = _of_stream(provider, stream, query, streams)
            if _id("account", account) != ANY:
                policy["account"] = [account]
        case _:
            raise Misconfigured(
                "filter: a path is /restapi/v1.0/account/{accountId}/extension/{extensionId}/..."
                " or /pollwire/v1/{provider}/account/{accountId}/{stream}"
            )
    _keep_to_limits(policy)
    return policy


def compile_filters(texts: Iterable[str], streams: Streams) -> Policy:
    """
    Compile filter paths into the one policy that lets through what any of them does.

    SNS has one subscription, and so one policy, for a queue and a topic.

    Returns:
        A policy that is empty if every event will do, as it does without any path.

    Raises:
        Misconfigured: Of one path, or of all together.
    """
    policies: list[Policy] = []
    for text in texts:
        policy = compile_filter(text, streams)
        if policy not in policies:
            policies.append(policy)
    if not all(policies):
        return {}
    if len(policies) > COMBINATIONS_MAX:
        raise Misconfigured(f"filter: {COMBINATIONS_MAX} of them at most fit into one policy")
    united = _united(policies)
    policy = united[0] if len(united) == 1 else {"$or": united} if united else {}
    _keep_to_limits(policy)
    return policy


def filter_paths(policy: Mapping[str, Any], streams: Streams) -> list[str] | None:
    """
    Turn a policy back into filter paths that compile to it; ``None`` if there are none.

    A policy that lets everything through has no path.
    """
    choices = policy["$or"] if policy.keys() == {"$or"} else [policy]
    paths: list[str] = []
    for one in choices if isinstance(choices, list) and policy else ():
        found = next(
            (texts for texts in _guesses(one, streams) if _says(texts, one, streams)), None
        )
        if found is None:
            return None
        paths += found
    return paths if _says(paths, policy, streams) else None


def _united(policies: Sequence[Policy]) -> list[Policy]:
    """Put together those that differ in the values of one attribute: SNS counts combinations."""
    for one, other in combinations(policies, 2):
        differing = [name for name in one if one[name] != other.get(name)]
        if one.keys() == other.keys() and len(differing) == 1 and differing[0] in SPELT:
            (name,) = differing
            values = one[name] + [value for value in other[name] if value not in one[name]]
            others = [policy for policy in policies if policy is not one and policy is not other]
            return _united([{**one, name: values}, *others])
    return list(policies)


def _says(texts: Sequence[str], policy: Mapping[str, Any], streams: Streams) -> bool:
    try:
        return bool(_sorted(compile_filters(texts, streams)) == _sorted(policy))
    except Misconfigured:
        return False


def _sorted(policy: Any) -> Any:
    """Write a policy in one way: the order of its values says nothing."""
    if isinstance(policy, Mapping):
        return {name: _sorted(values) for name, values in policy.items()}
    if isinstance(policy, list):
        return sorted(map(_sorted, policy), key=repr)
    return policy


def _guesses(policy: Any, streams: Streams) -> Iterator[list[str]]:
    """Write paths that may compile to a policy; most do not."""
    if not isinstance(policy, Mapping):
        return
    places = [_texts(policy.get(name, [ANY])) for name in ("provider", "account", "stream")]
    if math.prod(map(len, places)) > COMBINATIONS_MAX:
        return
    query = _query(policy, CHANGE)
    yield [
        f"/pollwire/v1/{provider}/account/{account}/{stream}{query}"
        for provider, account, stream in product(*places)
    ]
    kinds = {stream.path for _, stream in _pairs(streams) if stream.path is not None}
    for subscribers, kind in product(_extensions(policy), sorted(kinds)):
        path, sign, own = kind.partition("?")
        query = _query(policy, CHANGE if own else {**MESSAGE, **CHANGE})
        query = f"{sign}{own}{query.replace('?', '&')}" if own else query
        yield [
            f"/restapi/v1.0/account/{one}/extension/{other}/{path}{query}"
            for one, other in subscribers
        ]


def _extensions(policy: Mapping[str, Any]) -> Iterator[list[tuple[str, str]]]:
    """Write pairs of account and extension that a policy may stand for."""
    accounts, extensions = (_texts(policy.get(name, [])) for name in ("account", "extension"))
    yield [(account, ANY) for account in accounts or [ANY]]
    yield [(account, account) for account in accounts]
    if len(accounts) * len(extensions) <= COMBINATIONS_MAX:
        yield list(product(accounts, extensions))
    for choice in policy.get("$or", ()):
        if isinstance(choice, Mapping):
            yield [(ANY, extension) for extension in _texts(choice.get("extension", []))]


def _query(policy: Mapping[str, Any], names: Iterable[str]) -> str:
    chosen = [(name, value) for name in names for value in _texts(policy.get(name, []))]
    return f"?{urlencode(chosen)}" if chosen else ""


def _texts(values: Any) -> list[str]:
    return [one for one in values if isinstance(one, str)] if isinstance(values, list) else []


def _of_path(path: str, query: str, streams: Streams) -> Policy:
    """Filter by what follows the extension in the paths of some providers' streams."""
    kinds: dict[str, set[tuple[str, str]]] = {}
    fixed: dict[str, dict[str, tuple[str, ...]]] = {}
    for pair, stream in _pairs(streams):
        if stream.path is not None:
            kind, _, own = stream.path.partition("?")
            kinds.setdefault(kind, set()).add(pair)
            fixed.setdefault(kind, {}).update((name, (value,)) for name, value in parse_qsl(own))
    _require("path", path, kinds)
    chosen = _parameters(query, {**(fixed[path] or MESSAGE), **CHANGE})
    # A parameter that all paths of a kind have anyhow is no attribute of their events.
    narrowed = {name: values for name, values in chosen.items() if name not in fixed[path]}
    return _named(kinds[path], streams) | narrowed


def _named(wanted: set[tuple[str, str]], streams: Streams) -> Policy:
    """Filter by stream, and by provider where another one has a stream of the same name."""
    providers = sorted({provider for provider, _ in wanted})
    names = sorted({name for _, name in wanted})
    others = [pair for pair, _ in _pairs(streams) if pair not in wanted and pair[1] in names]
    if not others:
        return {"stream": names}
    for provider, name in others:
        if provider in providers:
            raise Misconfigured(
                f"filter.path: {provider} has another stream {name}; filter each stream by its own"
                " path, /pollwire/v1/{provider}/account/{accountId}/{stream}"
            )
    return {"provider": providers, "stream": names}


def _of_extension(account: str, extension: str) -> Policy:
    """Filter by account and extension; an event of the account itself bears no extension."""
    if extension == ANY:
        return {} if account == ANY else {"account": [account]}
    if account == ANY:
        itself = {"account": [extension], "extension": [ABSENT]}
        return {"$or": [{"extension": [extension]}, itself]}
    return {"account": [account], "extension": [ABSENT if extension == account else extension]}


def _of_stream(provider: str, stream: str, query: str, streams: Streams) -> Policy:
    policy: Policy = {}
    if provider != ANY:
        _require("provider", provider, streams)
        policy["provider"] = [provider]
        streams = {provider: streams[provider]}
    if stream != ANY:
        _require("stream", stream, {name for (_, name), _ in _pairs(streams)})
        policy["stream"] = [stream]
    return policy | _parameters(query, CHANGE)


def _parameters(query: str, choices: Mapping[str, Collection[str]]) -> Policy:
    """Read a query, each value in our own spelling."""
    chosen: Policy = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        _require("parameter", name, choices)
        spelt = {choice.lower(): choice for choice in choices[name]}.get(value.lower(), "")
        if not spelt:
            _require(name, value, choices[name])
        if spelt not in chosen.setdefault(name, []):
            chosen[name].append(spelt)
    return chosen


def _keep_to_limits(policy: Policy) -> None:
    names = set(_attributes(policy))
    if len(names) > ATTRIBUTES_MAX:
        raise Misconfigured(
            f"filter: SNS takes {ATTRIBUTES_MAX} attributes at most, this asks for"
            f" {', '.join(sorted(names))}; leave one of them open"
        )
    if _combinations(policy) > COMBINATIONS_MAX:
        raise Misconfigured(
            f"filter: SNS takes {COMBINATIONS_MAX} combinations of values at most;"
            " name fewer values, or subscribe several queues"
        )


def _attributes(policy: Policy) -> Iterator[str]:
    for name, values in policy.items():
        if name == "$or":
            for choice in values:
                yield from _attributes(choice)
        else:
            yield name


def _combinations(policy: Policy) -> int:
    """Count as SNS does; a choice has those of all that can be chosen."""
    return math.prod(
        sum(map(_combinations, values)) if name == "$or" else len(values)
        for name, values in policy.items()
    )


def _pairs(streams: Streams) -> Iterable[tuple[tuple[str, str], Stream]]:
    for provider, named in streams.items():
        for name, stream in named.items():
            yield (provider, name), stream


def _id(part: str, value: str) -> str:
    if not ACCOUNT_ID.fullmatch(value):
        raise Misconfigured(
            f"filter.{part}: {ANY} for any, or an id of 1 to 200 letters, digits and any of"
            " . _ @ + : ~ = -"
        )
    return value


def _require(part: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise Misconfigured(f"filter.{part}: {value!r:.60} is none of {', '.join(sorted(choices))}")
