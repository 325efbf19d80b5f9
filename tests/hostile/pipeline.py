"""
The whole pipeline under one hostile answer: the accounts of a scene, and what must come of it.

    FAIL       fails(reply): state untouched, one line of the log, the neighbour goes on; and the
               same change arrives once the provider is well again
    SKIP-ROW   bad_rows(): the row is recorded with a reason, its neighbours are told
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from pollwire import errors
from pollwire.http import Limits
from pollwire.model import CheckJob, Connection

from local.simulators import Answer
from local.simulators.youmail import YouMail
from tests.hostile.servers import Talk, answer
from tests.integration.system import ANN, BOB, PASSWORD, SHOP, System

#: What no log may hold: every credential and every hostile body of these tests has it.
CANARY = "canary"

#: Short, so that a hanging server costs a test half a second.
SHORT = Limits(connect_s=0.3, request_s=0.4)

#: What a failure is counted as.
REMEDIES = {name.lower() for name, one in vars(errors).items() if isinstance(one, type)}

Said = tuple[str, str, str, str]
Reply = Callable[[Answer], Answer]


def case(*names: str) -> pytest.MarkDecorator:
    """Number a test that is about one hostile input; several names try it several times."""
    return pytest.mark.parametrize("case", names, indirect=True)


# Replies


def says(body: bytes = b"", status: int = 200, **headers: str) -> Reply:
    """Answer this, whatever was asked."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda real: (status, {**real[1], **named}, body)


def edits(change: Callable[[dict[str, Any]], object]) -> Reply:
    """Change the true answer's JSON in place."""

    def reply(real: Answer) -> Answer:
        status, headers, body = real
        if status != 200:
            return real
        parsed = json.loads(body)
        change(parsed)
        return status, headers, json.dumps(parsed).encode()

    return reply


def swaps(old: str, new: str) -> Reply:
    """Replace a part of the true answer's text."""

    def reply(real: Answer) -> Answer:
        status, headers, body = real
        assert old.encode() in body
        return status, headers, body.replace(old.encode(), new.encode(), 1)

    return reply


def keeps(real: Answer) -> Answer:
    return real


@dataclass
class Rule:
    """
    Requests that are answered otherwise.

    Attributes:
        texts: All of them must occur in what is asked.

        after: Requests that are let through first.

        left: Requests that may still be answered so.

        used: How many were.
    """

    texts: tuple[str, ...]
    reply: Any
    left: int
    after: int = 0
    used: int = 0

    def takes(self, asked: str) -> bool:
        if self.left <= 0 or not all(text in asked for text in self.texts):
            return False
        self.after -= 1
        if self.after >= 0:
            return False
        self.left -= 1
        self.used += 1
        return True


class Hostile:
    """
    A simulator, some of whose answers are replaced.

    Attributes:
        asked: Every request as one text: path, query, form, and who sent it.
    """

    def __init__(self, simulator: Any) -> None:
        self.simulator = simulator
        self.asked: list[str] = []
        self._rules: list[Rule] = []
        self._owners: dict[str, str] = {}

    def on(self, *texts: str, reply: Any, times: int = 1, after: int = 0) -> Rule:
        rule = Rule(texts, reply, times, after)
        self._rules.append(rule)
        return rule

    def heal(self) -> None:
        self._rules.clear()

    def claim(
        self, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> Any:
        """Note a request; return what is to be replied to it, if it is not the truth."""
        token = headers.get("authorization", "").rpartition(" ")[2]
        owner = self._owners.get(token, headers.get("youmail-user", ""))
        asked = f"{path}?{urlencode(query)} {body.decode()} {owner}"
        self.asked.append(asked)
        return next((rule.reply for rule in self._rules if rule.takes(asked)), None)

    def truth(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        real: Answer = self.simulator.handle(method, path, query, headers, body)
        if path.endswith("/authenticate") and real[0] == 200:
            self._owners[json.loads(real[2])["authToken"]] = headers["youmail-user"]
        return real

    def handle(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        reply = self.claim(path, query, headers, body) or keeps
        found: Answer = reply(self.truth(method, path, query, headers, body))
        return found

    def script(self, talk: Talk, request: bytes) -> object:
        """Answer a request that came over a socket; a rule's reply is a script, too."""
        head, _, body = request.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        url = urlsplit(target)
        query = dict(parse_qsl(url.query))
        pairs = (line.split(": ", 1) for line in lines)
        headers = {name.lower(): value for name, value in pairs}
        reply = self.claim(url.path, query, headers, body)
        if reply is not None:
            return reply(talk, request)
        status, more, content = self.truth(method, url.path, query, headers, body)
        said = [f"{name}: {value}" for name, value in more.items()]
        talk.send(answer(b"" if status == 304 else content, *said, status=f"{status} X"))
        return False


# Scenes


@dataclass
class Scene:
    """
    Two accounts in one shard: one that is lied to, and its neighbour.

    Attributes:
        bad: The account that is lied to.

        check_texts: What its checks ask for; so are the next two, of its deltas.

        delta_after: Of requests that look like those of its deltas, how many a round begins with.

        others: Streams beside *stream* whose deltas are run.

        server: What answers, if it is asked over sockets.
    """

    system: System
    hostile: Hostile
    logs: Callable[[], list[dict[str, Any]]]
    logged: Callable[[], str]
    connection: Connection
    bad: str
    good: str
    stream: str
    check_texts: tuple[str, ...] = ()
    delta_texts: tuple[str, ...] = ()
    delta_after: int = 0
    others: tuple[str, ...] = ()
    server: Any = None

    def change(self, account: str) -> str:
        """Make a change in an account; return the id of its record."""
        raise NotImplementedError

    def settle(self) -> None:
        for seconds in (60, 180):
            self.poll(seconds)
        assert self.said() == []
        assert not self.standing(self.bad).pending

    # What happens.

    def check(self) -> int:
        due_ms, interval_s = self.system.clock(), self.connection.interval_s
        job = CheckJob(self.connection.name, 0, due_ms, interval_s)
        self.system.world.queues.send_checks(self.connection.provider, [job], due_ms)
        return self.system.run_checks()

    def poll(self, seconds: float = 60) -> None:
        self.system.clock.advance(seconds)
        self.system.redeliver()
        assert self.check() == 0, self.logs()[-1]
        assert self.run_deltas() == 0, self.logs()[-1]

    def run_deltas(self) -> int:
        streams = {self.stream, *self.others}
        return sum(self.system.pump("delta", self.system.deltas_url(one), 5) for one in streams)

    def lie(self, reply: Any, at: str = "check", times: int = 1) -> Rule:
        """Let requests of the bad account's next checks or deltas be answered otherwise."""
        if at == "check":
            return self.hostile.on(*self.check_texts, reply=reply, times=times)
        return self.hostile.on(*self.delta_texts, reply=reply, times=times, after=self.delta_after)

    # What there is.

    def said(self) -> list[Said]:
        """Take all events: account, stream, change and id of each, in order."""
        bodies = [
            (one.attributes["account"], one.event["body"]) for one in self.system.deliveries()
        ]
        return [(of, one["stream"], one["change"], one["recordId"]) for of, one in bodies]

    def quicken(self) -> None:
        """
        Write a decision's parts one by one: moto copies the whole table for a transaction.

        Nothing may fail in such a test.
        """

        def transact(call: Any, TransactItems: Any) -> None:
            for action in TransactItems:
                for kind, part in action.items():
                    getattr(self.system.dynamodb, f"{kind.lower()}_item")(**part)

        self.system.faults["transact_write_items"] = transact

    def standing(self, account: str = "") -> Any:
        return self.system.standing(account or self.bad, self.connection)

    def shown(self, account: str, pattern: str) -> dict[str, Any]:
        """Read a stream's items whose sort key begins with *pattern*."""
        pk = f"stream#{self.connection.name}#{account}#{self.stream}"
        return {
            sk: item
            for (found, sk), item in self.system.table().items()
            if found == pk and sk.startswith(pattern)
        }

    def cursor(self, account: str = "") -> dict[str, Any]:
        """Read a stream's place, without what is noted about its troubles."""
        item = self.shown(account or self.bad, "cursor").get("cursor", {})
        notes = ("pk", "sk", "trouble", "trouble_at", "failures", "not_before")
        return {name: value for name, value in item.items() if name not in notes}

    def bad_rows(self) -> list[str]:
        """Read the reasons of the rows that were recorded as unreadable."""
        return [item["reason"]["S"] for item in self.shown(self.bad, "q#").values()]

    def not_before_ms(self) -> int:
        """Say until when the bad account, or its stream, is left alone."""
        item = self.shown(self.bad, "cursor").get("cursor", {})
        stream_ms = int(item.get("not_before", {"N": "0"})["N"])
        return max(self.standing().not_before_ms, stream_ms)

    def created(self, account: str, identity: str) -> Said:
        return account, self.stream, "created", identity

    # What must come of it.

    def fails(
        self, reply: Any, at: str = "check", *, counted: str = "", times: int = 1, most: int = 1
    ) -> None:
        """
        Lie for one round; see that no more than that is lost by it, and nothing in the end.

        Args:
            times: How many requests of the round are answered so, at least; *most* if more.
        """
        mine, others = self.change(self.bad), self.change(self.good)
        rule = self.lie(reply, at, max(times, most))
        marks, cursor, seen = self.standing().marks, self.cursor(), len(self.logs())

        self.poll()

        assert times <= rule.used <= max(times, most)
        assert self.said() == [self.created(self.good, others)]
        assert self.cursor() == cursor
        assert self.not_before_ms() > self.system.clock()
        if at == "check":
            assert self.standing().marks == marks
            assert self.standing().failures == 1
        else:
            assert self.stream in {one.partition("@")[0] for one in self.standing().pending}
        self._counted_once(at, seen, counted)
        self.recovers(mine)

    def _counted_once(self, at: str, seen: int, counted: str) -> None:
        lines = self.logs()[seen:]
        if at == "check":
            (line,) = [one for one in lines if one["message"] == "checked"]
            assert line["counts"]["failed"] == 1
        else:
            (line,) = [one for one in lines if one.get("account") == self.bad]
            told = {name: n for name, n in line["counts"].items() if name in REMEDIES}
            assert list(told.values()) == [1]
            assert "events" not in line["counts"]
        assert not counted or line["counts"][counted] == 1
        assert not [one for one in lines if one["message"] == "failed"]
        assert CANARY not in self.logged()

    def recovers(self, identity: str) -> None:
        """The provider is well again: see that the change arrives, once."""
        self.hostile.heal()
        now_ms = self.system.clock()
        self.poll(max(self.not_before_ms() - now_ms, 60_000) / 1000)
        said = self.said()
        self.poll(120)
        assert [*said, *self.said()] == [self.created(self.bad, identity)]
        assert self.standing().failures == 0

    def tells(self, *said: Said, rounds: int = 3) -> None:
        """See that exactly this is told, sooner or later, and in this order."""
        found: list[Said] = []
        for _ in range(rounds):
            self.poll()
            found += self.said()
        assert found == list(said), (found, said)

    def skips(self, reply: Any, *reasons: str, at: str = "delta", times: int = 9) -> None:
        """See that rows which cannot be read are recorded once, and stop no other."""
        mine = self.change(self.bad)
        self.lie(reply, at, times)
        seen = len(self.logs())
        self.tells(self.created(self.bad, mine))
        assert sorted(self.bad_rows()) == sorted(reasons)
        lines = [one for one in self.logs()[seen:] if one.get("account") == self.bad]
        assert sum(one["counts"].get("bad_rows", 0) for one in lines) == len(reasons)
        assert self.standing().failures == 0


def phone(account: str) -> str:
    return f"4255{account[-6:]}"


class Phones(Scene):
    """YouMail: a composite answer, and one kind of lookup."""

    def change(self, account: str) -> str:
        return str(LOOKUPS[self.stream][2](self.hostile.simulator, account))


#: Where a stream stands in the composite answer, what it is asked for, and how it changes.
LOOKUPS = {
    "entry": (",entry", "/messagebox/entry/query", YouMail.leave_voicemail),
    "contact": (",,contact", "/contacts/query", YouMail.add_contact),
    "greeting": (",,,,greeting", "/greetings/query", YouMail.record_greeting),
    "settings": (",,,,,,settings", "/settings/", YouMail.change_settings),
}


def phones(
    system: System, hostile: Hostile, *, base: str = "", stream: str = "contact", **tools: Any
) -> Scene:
    """
    Set YouMail's scene.

    Args:
        base: Of a server to ask, instead of the simulator itself.
    """
    connection = replace(SHOP, hosts={"poll": base, "api": base} if base else {})
    system.simulator = hostile.simulator
    if not base:
        for host in ("apipoll.youmail.com", "api.youmail.com"):
            system.http.simulators[host] = hostile
    system.connect(connection)
    for account in (ANN, BOB):
        system.add_account(account, connection, fields=LOOKUPS[stream][0])
    return Phones(
        system,
        hostile,
        **tools,
        connection=connection,
        bad=ANN,
        good=BOB,
        stream=stream,
        check_texts=(f"/vm/poll/{ANN[-1]}/{ANN}",),
        delta_texts=(LOOKUPS[stream][1], phone(ANN)),
    )


class Sms(Scene):
    """Intelli: check and delta ask for the same."""

    def change(self, account: str) -> str:
        return str(self.hostile.simulator.receive(account))


def sms(system: System, hostile: Hostile, **tools: Any) -> Scene:
    connection = Connection("text", "intelli", interval_s=60, slowest_s=60)
    system.attach("intelli", hostile)
    system.connect(connection)
    accounts = ("ann@reseller", "bob@reseller")
    for account in accounts:
        hostile.simulator.add_account(account, account, PASSWORD)
        credential = {"username": account, "password": PASSWORD}
        sealed = system.world.sealer.seal(credential, "text", account)
        hostile.simulator.receive(account)
        system.registry.add_account(connection, account, credential=sealed)
    asked = ("/allMessages", f"{urlencode({'username': accounts[0]})}")
    return Sms(
        system,
        hostile,
        **tools,
        connection=connection,
        bad=accounts[0],
        good=accounts[1],
        stream="messages",
        check_texts=asked,
        delta_texts=asked,
        delta_after=1,
    )


KEY = "kdv_live_canaryCANARYcanaryCANARY"
NUMBERS = ("106540352242901", "106540352242902")


class Inbox(Scene):
    """Kirimdev: lists with ETags and cursors."""

    def change(self, account: str) -> str:
        return str(self.hostile.simulator.new_conversation(account))


def inbox(system: System, hostile: Hostile, **tools: Any) -> Scene:
    sealed = system.world.sealer.seal({"api_key": KEY}, "inbox", "")
    connection = Connection("inbox", "kirimdev", interval_s=60, slowest_s=60, credential=sealed)
    system.attach("kirimdev", hostile)
    system.connect(connection)
    hostile.simulator.add_organisation("org", KEY)
    for account in NUMBERS:
        hostile.simulator.add_account("org", account)
        hostile.simulator.new_conversation(account)
        system.registry.add_account(connection, account)
    return Inbox(
        system,
        hostile,
        **tools,
        connection=connection,
        bad=NUMBERS[0],
        good=NUMBERS[1],
        stream="conversations",
        check_texts=(f"/{NUMBERS[0]}/conversations", "limit=25"),
        delta_texts=(f"/{NUMBERS[0]}/conversations", "limit=100"),
    )


class Office(Scene):
    """RingCentral: sync tokens; check and delta ask for the same."""

    def change(self, account: str) -> str:
        return str(self.hostile.simulator.receive_sms(account))


def office(system: System, hostile: Hostile, **tools: Any) -> Scene:
    connection = Connection("office", "ringcentral", interval_s=60, slowest_s=60)
    system.attach("ringcentral", hostile)
    system.connect(connection)
    accounts = ("1001", "1002")
    for account in accounts:
        credential = {"client_id": "client", "client_secret": "canary", "jwt": f"canary-{account}"}
        hostile.simulator.add_account(account, **credential)
        hostile.simulator.receive_sms(account)
        sealed = system.world.sealer.seal(credential, "office", account)
        system.registry.add_account(connection, account, credential=sealed)
    return Office(
        system,
        hostile,
        **tools,
        connection=connection,
        bad=accounts[0],
        good=accounts[1],
        stream="message-store",
        check_texts=("/extension/1001/message-sync",),
        delta_texts=("/extension/1001/message-sync",),
        delta_after=1,
        others=("presence",),
    )
