"""Promises of pollwire.filters."""

from __future__ import annotations

import json
from types import MappingProxyType
from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pollwire import filters
from pollwire.errors import Misconfigured
from pollwire.events import Composer, digest
from pollwire.filters import compile_filter, compile_filters, filter_paths
from pollwire.model import Change, Row, Stream
from pollwire.providers import registered

MESSAGES = Stream(path="message-store")
PRESENCE = Stream(path="presence?detailedTelephonyState=true", flat=True)
STREAMS = MappingProxyType(
    {
        "youmail": {"entry": MESSAGES, "contact": Stream(), "history": Stream()},
        "intelli": {"messages": MESSAGES},
        "ringcentral": {"message-store": MESSAGES, "presence": PRESENCE},
        "kirimdev": {"conversations": Stream()},
    }
)
STORES = ["entry", "message-store", "messages"]
ABSENT = {"exists": False}

quick = settings(database=None, deadline=None, max_examples=300)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        pytest.param(
            "/restapi/v1.0/account/~/extension/~/message-store",
            {"stream": STORES},
            id="messages of every provider",
        ),
        pytest.param(
            "/restapi/v1.0/account/~/extension/~/message-store?type=Fax&direction=Outbound",
            {"stream": STORES, "type": ["Fax"], "direction": ["Outbound"]},
            id="the example of seed 004",
        ),
        pytest.param(
            "/restapi/v1.0/account/~/extension/406149828004/message-store",
            {
                "stream": STORES,
                "$or": [
                    {"extension": ["406149828004"]},
                    {"account": ["406149828004"], "extension": [ABSENT]},
                ],
            },
            id="the event of seed 004",
        ),
        pytest.param(
            "/restapi/v1.0/account/133128004/extension/133165004"
            "/presence?detailedTelephonyState=true",
            {"stream": ["presence"], "account": ["133128004"], "extension": ["133165004"]},
            id="the event of seed 002",
        ),
        pytest.param(
            "/restapi/v1.0/account/7/extension/~/presence",
            {"stream": ["presence"], "account": ["7"]},
            id="presence, any extension",
        ),
        pytest.param(
            "/restapi/v1.0/account/7/extension/7/message-store",
            {"stream": STORES, "account": ["7"], "extension": [ABSENT]},
            id="the account itself",
        ),
        pytest.param(
            "/restapi/v1.0/account/~/extension/~/message-store?type=Fax&type=SMS",
            {"stream": STORES, "type": ["Fax", "SMS"]},
            id="several values",
        ),
        pytest.param(
            "/restapi/v1.0/account/~/extension/~/message-store?type=fax&type=FAX",
            {"stream": STORES, "type": ["Fax"]},
            id="one value twice",
        ),
        pytest.param(
            "/restapi/v1.0/account/~/extension/~/message-store?type=Voicemail&direction=inBOUND",
            {"stream": STORES, "type": ["VoiceMail"], "direction": ["Inbound"]},
            id="any case, our spelling",
        ),
        pytest.param(
            "/restapi/v1.0/account/~/extension/~/message-store?change=created&type=pager",
            {"stream": STORES, "change": ["created"], "type": ["Pager"]},
            id="messages that are new",
        ),
        pytest.param(
            "/restapi/v1.0/account/~/extension/~/presence?detailedTelephonyState=TRUE&change=deleted",
            {"stream": ["presence"], "change": ["deleted"]},
            id="presence that ended",
        ),
        pytest.param("/pollwire/v1/~/account/~/~", {}, id="everything"),
        pytest.param(
            "/pollwire/v1/youmail/account/7/contact?change=updated&change=deleted",
            {
                "provider": ["youmail"],
                "account": ["7"],
                "stream": ["contact"],
                "change": ["updated", "deleted"],
            },
            id="a path of our own",
        ),
        pytest.param(
            "/pollwire/v1/youmail/account/~/entry",
            {"provider": ["youmail"], "stream": ["entry"]},
            id="messages of one provider",
        ),
        pytest.param(
            "/pollwire/v1/~/account/a.b@c+d:e=f/~?change=Deleted",
            {"account": ["a.b@c+d:e=f"], "change": ["deleted"]},
            id="one account, whatever it is",
        ),
    ],
)
def test_a_path_is_a_policy(text, policy):
    assert compile_filter(text, STREAMS) == policy


RESTAPI = "/restapi/v1.0/account/~/extension/~"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "filter: a path is /restapi/", id="empty"),
        pytest.param("message-store", "filter: a path is /restapi/", id="no path"),
        pytest.param("restapi/v1.0/account/~", "filter: a path is /restapi/", id="cut short"),
        pytest.param(f" {RESTAPI}/message-store", "filter: a path is", id="a space in front"),
        pytest.param("/restapi/v2/account/~/extension/~/presence", "filter: a path", id="version"),
        pytest.param(f"{RESTAPI}", "filter.path: '' is none of message-store, pres", id="no kind"),
        pytest.param(f"{RESTAPI}/sms", "filter.path: 'sms' is none of message-store,", id="kind"),
        pytest.param(f"{RESTAPI}/message-store/", "filter.path: 'message-store/'", id="slash"),
        pytest.param(f"{RESTAPI}/message-store/instant", "filter.path: 'message-st", id="deeper"),
        pytest.param(
            "/restapi/v1.0/account//extension/~/presence", "filter.account: ~", id="no id"
        ),
        pytest.param(
            "/restapi/v1.0/account/~/extension/{id}/presence", "filter.extension", id="{}"
        ),
        pytest.param("/pollwire/v1/~/account/a b/~", "filter.account: ~ for any, or", id="odd id"),
        pytest.param("/pollwire/v1/~/account/~/~/", "filter: a path is", id="slash of our own"),
        pytest.param(
            "/pollwire/v1/You/account/~/~",
            "filter.provider: 'You' is none of intelli, kirimdev, ringcentral, youmail",
            id="provider",
        ),
        pytest.param(
            "/pollwire/v1/youmail/account/~/messages",
            "filter.stream: 'messages' is none of contact, entry, history",
            id="stream of another provider",
        ),
        pytest.param(
            "/pollwire/v1/~/account/~/calls",
            "filter.stream: 'calls' is none of contact, conversations, entry, history,",
            id="stream of none",
        ),
        pytest.param(
            f"{RESTAPI}/message-store?type=Text",
            "filter.type: 'Text' is none of Fax, Pager, SMS, VoiceMail",
            id="type",
        ),
        pytest.param(
            f"{RESTAPI}/message-store?type=Fax&type=",
            "filter.type: '' is none of Fax, Pager, SMS, VoiceMail",
            id="no type",
        ),
        pytest.param(
            f"{RESTAPI}/message-store?direction=~",
            "filter.direction: '~' is none of Inbound, Outbound",
            id="direction",
        ),
        pytest.param(
            f"{RESTAPI}/message-store?change=new",
            "filter.change: 'new' is none of created, deleted, updated",
            id="change",
        ),
        pytest.param(
            f"{RESTAPI}/message-store?Type=Fax",
            "filter.parameter: 'Type' is none of change, direction, type",
            id="parameter",
        ),
        pytest.param(
            f"{RESTAPI}/message-store?detailedTelephonyState=true",
            "filter.parameter: 'detailedTelephonyState' is none of change, direction, type",
            id="parameter of another path",
        ),
        pytest.param(
            f"{RESTAPI}/presence?type=SMS",
            "filter.parameter: 'type' is none of change, detailedTelephonyState",
            id="a call has no type",
        ),
        pytest.param(
            f"{RESTAPI}/presence?detailedTelephonyState=false",
            "filter.detailedTelephonyState: 'false' is none of true",
            id="undetailed presence",
        ),
        pytest.param(
            "/pollwire/v1/~/account/~/entry?type=Fax",
            "filter.parameter: 'type' is none of change",
            id="our own path knows no type",
        ),
        pytest.param(
            "/restapi/v1.0/account/7/extension/8/message-store?type=Fax&direction=Inbound"
            "&change=created",
            "filter: SNS takes 5 attributes at most, this asks for account, change, direction,"
            " extension, stream, type; leave one of them open",
            id="six attributes",
        ),
        pytest.param(
            "/restapi/v1.0/account/~/extension/8/message-store?type=Fax&direction=Inbound"
            "&change=created",
            "filter: SNS takes 5 attributes at most, this asks for account, change, direction,",
            id="six attributes, two of them in a choice",
        ),
    ],
)
def test_what_is_no_filter_is_refused_with_what_may_be(text, message):
    with pytest.raises(Misconfigured) as caught:
        compile_filter(text, STREAMS)

    assert str(caught.value).startswith(message)


def test_a_refusal_is_short():
    with pytest.raises(Misconfigured) as caught:
        compile_filter(f"/pollwire/v1/{'x' * 10_000}/account/~/~", STREAMS)

    assert len(str(caught.value)) < 200


def test_more_combinations_than_sns_takes_are_refused():
    many = {"other": {f"messages-{n}": MESSAGES for n in range(7)}}
    everything = "type=Fax&type=SMS&type=Pager&type=VoiceMail&direction=Inbound&direction=Outbound"
    three = "change=created&change=updated&change=deleted"

    assert compile_filter(f"{RESTAPI}/message-store?{everything}", many)
    with pytest.raises(Misconfigured, match="150 combinations"):
        compile_filter(f"{RESTAPI}/message-store?{everything}&{three}", many)


def test_another_providers_stream_of_the_same_name_is_told_apart():
    streams = {**STREAMS, "other": {"messages": Stream()}}

    policy = compile_filter(f"{RESTAPI}/message-store", streams)

    assert policy == {"provider": ["intelli", "ringcentral", "youmail"], "stream": STORES}


def test_streams_that_no_policy_tells_apart_are_refused():
    """Providers and streams are separate attributes: so each goes with each."""
    streams = {**STREAMS, "other": {"inbox": MESSAGES, "messages": Stream()}}

    with pytest.raises(Misconfigured, match=r"^filter\.path: other has another stream messages; "):
        compile_filter(f"{RESTAPI}/message-store", streams)


def test_the_messages_of_all_registered_providers_can_be_filtered():
    streams = {name: provider.streams for name, provider in registered().items()}

    policy = compile_filter(f"{RESTAPI}/message-store?type=VoiceMail", streams)

    paths = {name: one.path for named in streams.values() for name, one in named.items()}
    stores = {name for name, path in paths.items() if path == "message-store"}
    assert policy == {"stream": sorted(stores), "type": ["VoiceMail"]}


# The policy, beside an independent reading of the path


def accepts(policy: dict, attributes: dict[str, str]) -> bool:
    """Match as SNS does: every key of a policy, any of its values."""
    return all(
        any(accepts(one, attributes) for one in values)
        if name == "$or"
        else any(
            name not in attributes if one == ABSENT else attributes.get(name) == one
            for one in values
        )
        for name, values in policy.items()
    )


def asks_for(text: str, event: dict) -> bool:
    """Read a filter beside an event: place by place of their paths, parameter by parameter."""
    wanted, _, query = text.partition("?")
    path, _, said = event["event"].partition("?")
    body = event["body"]
    if wanted.startswith("/pollwire/"):
        path = f"/pollwire/v1/{body['provider']}/account/{body['accountId']}/{body['stream']}"
    places = list(zip(wanted.split("/"), path.split("/"), strict=False))
    known = {**dict(parse_qsl(said)), "change": body["change"]}
    asked: dict[str, set[str]] = {}
    for name, value in parse_qsl(query):
        asked.setdefault(name, set()).add(value.lower())
    return (
        len(wanted.split("/")) == len(path.split("/"))
        and all(one in ("~", other) for one, other in places)
        and all(known.get(name, "").lower() in values for name, values in asked.items())
    )


ACCOUNTS = ["7", "8", "101"]
PAIRS = [(provider, name) for provider, named in STREAMS.items() for name in named]
KINDS = ["VoiceMail", "SMS", "Fax", "Pager"]


@st.composite
def events(draw) -> tuple[dict, dict[str, str]]:
    """Draw an event as published, with its attributes."""
    provider, name = draw(st.sampled_from(PAIRS))
    stream = STREAMS[provider][name]
    is_message = stream.path == "message-store"
    row = Row(
        id="m1",
        updated_at="",
        at_ms=5,
        body={"text": "hi"},
        type=draw(st.sampled_from(["", *KINDS])) if is_message else "",
        direction=draw(st.sampled_from(["", "Inbound", "Outbound"])),
        extension=draw(st.sampled_from(["", *ACCOUNTS])) if stream.path else "",
    )
    kind = draw(st.sampled_from(["created", "updated", "deleted"]))
    owner = draw(st.sampled_from(["", *ACCOUNTS])) if stream.path else ""
    maker = Composer(provider, "acme", draw(st.sampled_from(ACCOUNTS)), name, stream, "s", owner)
    event = maker.event(Change(kind, row, digest(row), 1), 1, 1)
    return json.loads(event.body), dict(event.attributes)


@st.composite
def texts(draw) -> str:
    """Draw a filter."""

    def place(choices):
        return draw(st.sampled_from(["~", *choices]))

    kind = draw(st.sampled_from(["message-store", "presence", ""]))
    if kind:
        path = f"/restapi/v1.0/account/{place(ACCOUNTS)}/extension/{place(ACCOUNTS)}/{kind}"
    else:
        provider = place(STREAMS)
        named = [name for one, name in PAIRS if provider in ("~", one)]
        path = f"/pollwire/v1/{provider}/account/{place(ACCOUNTS)}/{place(named)}"
    parameters = {"change": ["created", "UPDATED", "deleted"]}
    if kind == "message-store":
        parameters |= {"type": ["voicemail", "SMS", "fax", "Pager"], "direction": ["INBOUND"]}
    elif kind:
        parameters |= {"detailedTelephonyState": ["true"]}
    choices = [f"{name}={value}" for name, values in parameters.items() for value in values]
    query = draw(st.lists(st.sampled_from(choices), max_size=4))
    return f"{path}?{'&'.join(query)}" if query else path


@quick
@given(text=texts(), published=st.lists(events(), min_size=5, max_size=10))
def test_a_policy_takes_an_event_if_and_only_if_the_path_asks_for_it(text, published):
    try:
        policy = compile_filter(text, STREAMS)
    except Misconfigured as error:
        assert "5 attributes" in str(error)  # noqa: PT017 (not all of them are refused)
        return

    for event, attributes in published:
        assert accepts(policy, attributes) is asks_for(text, event)


@quick
@given(published=events(), data=st.data())
def test_an_events_own_path_is_a_filter_that_takes_it(published, data):
    event, attributes = published

    policy = compile_filter(event["event"], STREAMS)

    assert accepts(policy, attributes)


@quick
@given(text=texts())
def test_a_policy_is_one_that_sns_takes(text):
    try:
        policy = compile_filter(text, STREAMS)
    except Misconfigured:
        return

    assert len(policy) <= filters.ATTRIBUTES_MAX
    assert all(isinstance(values, list) and values for values in policy.values())
    assert json.loads(json.dumps(policy)) == policy


# Several paths, and the way back


@pytest.mark.parametrize(
    ("several", "policy"),
    [
        pytest.param([], {}, id="none"),
        pytest.param([f"{RESTAPI}/presence", "/pollwire/v1/~/account/~/~"], {}, id="everything"),
        pytest.param(
            ["/pollwire/v1/youmail/account/~/contact", "/pollwire/v1/youmail/account/~/history"],
            {"provider": ["youmail"], "stream": ["contact", "history"]},
            id="two streams are values of one attribute",
        ),
        pytest.param(
            [f"{RESTAPI}/presence", f"{RESTAPI}/presence?detailedTelephonyState=true"],
            {"stream": ["presence"]},
            id="one twice",
        ),
        pytest.param(
            [f"{RESTAPI}/message-store?type=Fax", "/pollwire/v1/youmail/account/~/contact"],
            {
                "$or": [
                    {"stream": STORES, "type": ["Fax"]},
                    {"provider": ["youmail"], "stream": ["contact"]},
                ]
            },
            id="a choice",
        ),
    ],
)
def test_several_paths_are_one_policy(several, policy):
    assert compile_filters(several, STREAMS) == policy


def test_more_paths_than_a_policy_holds_are_refused():
    several = [
        f"/restapi/v1.0/account/{n}/extension/{n + 1}/presence?detailedTelephonyState=true"
        for n in range(151)
    ]

    with pytest.raises(Misconfigured, match="150 of them at most"):
        compile_filters(several, STREAMS)


def test_a_choice_counts_the_combinations_of_all_it_has():
    ids = [f"/pollwire/v1/youmail/account/{n}/contact" for n in range(75)]
    others = [f"/pollwire/v1/youmail/account/{n}/entry?change=deleted" for n in range(76)]

    assert compile_filters([*ids, *others[:75]], STREAMS)
    with pytest.raises(Misconfigured, match="150 "):
        compile_filters([*ids, *others], STREAMS)


@quick
@given(several=st.lists(texts(), max_size=4), published=st.lists(events(), min_size=5, max_size=10))
def test_several_paths_take_what_one_of_them_takes_and_are_found_again(several, published):
    try:
        policy = compile_filters(several, STREAMS)
    except Misconfigured as error:
        assert "5 attributes" in str(error)  # noqa: PT017
        return

    paths = filter_paths(policy, STREAMS)

    assert paths is not None or len(several) > 1
    for event, attributes in published:
        taken = accepts(policy, attributes)
        assert taken is (not several or any(asks_for(text, event) for text in several))
        if paths is not None:
            assert taken is (not paths or any(asks_for(text, event) for text in paths))


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param({"provider": [{"prefix": "you"}]}, id="another operator"),
        pytest.param({"connection": ["shop"]}, id="an attribute that paths do not name"),
        pytest.param({"$or": [{"stream": ["contact"]}, {"record": {"a": ["b"]}}]}, id="a body's"),
        pytest.param({"$or": ["contact", 1]}, id="no choice"),
        pytest.param({"$or": "contact"}, id="no list"),
        pytest.param({"stream": ["contact"], "$or": [1, {"extension": 5}]}, id="no policies"),
        pytest.param({"account": ["a"] * 200, "extension": ["b"] * 200}, id="too many to try"),
    ],
)
def test_a_policy_that_no_path_compiles_to_has_none(policy):
    assert filter_paths(policy, STREAMS) is None
