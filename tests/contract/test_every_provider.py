"""What every provider promises, whatever its API: one suite for all of them, see subjects.py."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace

import pytest
from pollwire import decide
from pollwire.errors import (
    Malformed,
    Misconfigured,
    PollwireError,
    RateLimited,
    Rejected,
    Restart,
    Unavailable,
)
from pollwire.events import digest
from pollwire.model import Seen, Start
from pollwire.providers import registered
from pollwire.tokens import Grant, Token

from tests.contract import driver
from tests.contract.driver import Wire
from tests.contract.subjects import SUBJECTS, Clock

#: Longer than any cache and any overlap of a sync token.
A_WHILE_S = 61
TYPES = {"VoiceMail", "SMS", "Fax", "Pager"}
DIRECTIONS = {"Inbound", "Outbound"}
PLAIN_HEADERS = {"accept", "if-none-match", "if-modified-since"}
CANARY = "canary"
#: A page that repeats what was sent, as a debugging proxy does.
HTML = b"<html><body>canary canary-password canary-key canary-jwt</body></html>"
LOCATION = {"location": "https://elsewhere.example/?key=canary-key"}

REFUSALS = {
    "401": ((401, {}, HTML), Rejected),
    "403": ((403, {}, HTML), Rejected),
    "429": ((429, {"retry-after": "7"}, HTML), RateLimited),
    "500": ((500, {}, HTML), Unavailable),
    "503": ((503, {}, HTML), Unavailable),
    "302": ((302, LOCATION, b""), Malformed),
}
UNREADABLE = {
    "html": lambda status, headers, body: (200, {"content-type": "text/html"}, HTML),
    "empty": lambda status, headers, body: (200, {}, b""),
    "truncated": lambda status, headers, body: (status, headers, body[: len(body) // 2]),
}
FOREIGN = [
    *("garbage", "{}", "[]", "null", "-1", "0x1", "1.5", " 1", "\u0665", "1" * 40, "\x00"),
    *('{"cursor": 5, "since": null}', '[["x"], 1]', '["x", "y"]', "page=2", "msg_"),
]
PROMISES = set()


def promise(test, choices=((),), names=()):
    """Generate a test for every subject that makes the promise, with each of some choices."""
    name = test.__name__.removeprefix("test_")
    PROMISES.add(name)
    cases = [
        pytest.param(subject, *choice, id="-".join([subject.provider.name, *choice]))
        for subject in SUBJECTS.values()
        for choice in (choices(subject) if callable(choices) else choices)
        if not subject.leaves_out(name, *choice)
    ]
    return pytest.mark.parametrize(("subject", *names), cases)(test)


def every_stream(test):
    return promise(test, lambda subject: [(name,) for name in subject.parts], ["stream"])


def every_growing_stream(test):
    return promise(
        test,
        lambda subject: [(name,) for name, part in subject.parts.items() if part.make],
        ["stream"],
    )


def every_unreadable(test):
    return promise(test, [(name,) for name in UNREADABLE], ["kind"])


class Failing:
    """A simulator whose answers are others from some request on."""

    def __init__(self, simulator, fail, first):
        self.simulator, self.fail, self.left = simulator, fail, first

    def handle(self, *asked):
        answer = self.simulator.handle(*asked)
        self.left -= 1
        return answer if self.left >= 0 else self.fail(*answer)


class Bench:
    """One world, and what is asked of its provider."""

    def __init__(self, subject):
        self.provider, self.subject = subject.provider, subject
        self.world = subject.world(Clock())
        self.tokens = []
        self.wire = self.wired(self.world.simulator)
        self.wait()

    def wired(self, simulator):
        return Wire(simulator, self.world.account.hosts.values())

    def is_odd(self, request):
        return any(part in request.url for part in self.subject.odd)

    def wait(self, seconds=A_WHILE_S):
        self.world.clock.now_s += seconds

    def account(self, token=""):
        return replace(self.world.account, token=Token(lambda: Grant(token), self._note))

    def _note(self, grant):
        self.tokens.append(grant.value)

    def check(self, seen=Seen(), wire=None):  # noqa: B008 (it is frozen)
        return driver.run(self.provider.check(self.account(), seen), wire or self.wire)

    def marks(self, seen):
        return self.provider.marks(self.world.account, seen.raw)

    def delta(self, stream, start=Start(), wire=None):  # noqa: B008 (it is frozen)
        return self.provider.delta(self.account(), stream, start, wire or self.wire)

    def pages(self, stream, start=Start()):  # noqa: B008 (it is frozen)
        return list(self.delta(stream, start))

    def next_start(self, stream, pages):
        reached_ms = max((row.at_ms for row in rows_of(pages)), default=0)
        declared = self.provider.streams[stream]
        return decide.start(reached_ms, reached_ms, pages[-1].cursor, declared)

    def make(self, stream, number, step_s=1):
        made = []
        for _ in range(number):
            self.wait(step_s)
            made.append(self.subject.parts[stream].make(self.world))
        return made

    def fill(self, stream):
        """Make a stream's rows, three an instant: a page border falls between equal times."""
        times, rest = divmod(self.subject.parts[stream].rows, 3)
        made = []
        for number in [3] * times + [rest]:
            self.wait(1)
            made += self.make(stream, number, step_s=0)
        return made

    def told(self, stream, pages):
        """Say of each row what is compared."""
        volatile = self.provider.streams[stream].volatile
        return [
            (row.id, row.updated_at, row.at_ms, digest(row, volatile)) for row in rows_of(pages)
        ]


def rows_of(pages):
    return [row for page in pages for row in page.rows]


def ids_of(pages):
    return {row.id for row in rows_of(pages)}


def texts_of(error):
    """Say all that a log of an error may show of it and of what it comes from."""
    texts = []
    while error is not None:
        texts += [str(error), repr(error)]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return " ".join(texts)


def named(bench, kind, call):
    """Tell that a call ends in an error of a kind, and that it gives nothing away."""
    with pytest.raises(PollwireError) as caught:
        call()
    assert isinstance(caught.value, kind)
    text = texts_of(caught.value)
    for secret in (CANARY, *bench.world.account.credential.values(), *bench.tokens):
        assert secret not in text


# Joining


def test_every_registered_provider_has_a_subject():
    assert registered().keys() | {"acme"} == SUBJECTS.keys()


def test_every_exemption_names_a_promise_and_a_reason():
    for subject in SUBJECTS.values():
        for name, reason in (subject.exempt | subject.deviates).items():
            assert name.partition("/")[0] in PROMISES
            assert name.partition("/")[2] in {"", *subject.parts, *REFUSALS, *UNREADABLE}
            assert reason


@promise
def test_it_is_declared_completely(subject):
    provider, account = subject.provider, Bench(subject).world.account

    assert subject.parts.keys() == provider.streams.keys()
    assert account.hosts.keys() == provider.hosts.keys()
    assert CANARY in str(dict(account.credential))
    assert set(provider.credential_fields) == account.credential.keys()
    assert isinstance(provider.check_needs_credential, bool)
    assert isinstance(provider.shares_rate, bool)
    assert provider.fastest_s >= 1


# Check and marks


@promise
def test_an_unchanged_account_is_seen_as_it_was(subject):
    bench = Bench(subject)
    seen = bench.check()
    assert seen.raw

    for _ in range(3):
        assert bench.check(seen) is seen
        bench.wait()


@promise
def test_an_unchanged_account_is_seen_as_it_was_without_validators(subject):
    bench = Bench(subject)
    seen = bench.check()
    plain = replace(seen, etag="", modified="")

    for _ in range(2):
        assert bench.check(plain).raw == seen.raw
        bench.wait()


@every_stream
def test_a_change_moves_the_mark_of_its_stream_only(subject, stream):
    bench = Bench(subject)
    before = bench.check()
    bench.wait()
    subject.parts[stream].change(bench.world)
    bench.wait(1)

    after = bench.check(before)

    old, new = bench.marks(before), bench.marks(after)
    assert {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)} == {stream}
    assert bench.check(after) is after


@promise
def test_marks_are_of_declared_streams(subject):
    bench = Bench(subject)
    seen = bench.check()

    for _ in range(2):
        marks = bench.marks(seen)
        assert marks
        assert marks.keys() <= subject.provider.streams.keys()
        assert all(isinstance(mark, str) and mark for mark in marks.values())
        assert bench.marks(Seen(seen.raw)) == marks
        for part in subject.parts.values():
            bench.wait()
            part.change(bench.world)
        bench.wait()
        seen = bench.check(seen)


@promise
def test_a_check_can_be_closed_at_any_request(subject):
    bench = Bench(subject)
    seen = bench.check()
    total = len(bench.wire.sent)

    for answered in range(total):
        checking = bench.provider.check(bench.account(), Seen())
        assert inspect.isgenerator(checking)
        request = next(checking)
        for _ in range(answered):
            request = checking.send(bench.wire(request))
        checking.close()
        assert inspect.getgeneratorstate(checking) == inspect.GEN_CLOSED
    unstarted = bench.provider.check(bench.account(), Seen())
    unstarted.close()
    assert bench.check(seen) is seen


# Delta


@every_stream
def test_a_delta_lists_the_changed_row_the_same_way_twice(subject, stream):
    bench = Bench(subject)
    first = bench.pages(stream)
    bench.wait()
    changed = subject.parts[stream].change(bench.world)
    bench.wait(1)
    start = bench.next_start(stream, first)

    once, again = bench.pages(stream, start), bench.pages(stream, start)

    assert changed in ids_of(once)
    assert bench.told(stream, once) == bench.told(stream, again)
    of_change = [one for one in bench.told(stream, once) if one[0] == changed]
    assert not set(of_change) & set(bench.told(stream, first))
    assert not [bad for page in once for bad in page.bad]


@every_growing_stream
def test_everything_is_listed_across_pages(subject, stream):
    bench = Bench(subject)
    there = ids_of(bench.pages(stream))
    made = bench.fill(stream)
    bench.wait()

    pages = bench.pages(stream)

    assert len(set(made)) == subject.parts[stream].rows
    assert ids_of(pages) == there | set(made)
    assert len(pages) >= subject.parts[stream].pages
    assert [bool(page.resume) for page in pages] == [True] * (len(pages) - 1) + [False]
    assert not any(page.gaps for page in pages)


@every_growing_stream
def test_everything_new_is_listed_after_a_drain(subject, stream):
    bench = Bench(subject)
    start = bench.next_start(stream, bench.pages(stream))
    bench.wait()
    made = bench.fill(stream)
    bench.wait(1)

    assert set(made) <= ids_of(bench.pages(stream, start))


@every_growing_stream
def test_a_list_goes_on_from_every_page_border(subject, stream):
    bench = Bench(subject)
    later = bench.next_start(stream, bench.pages(stream))
    bench.wait()
    bench.fill(stream)
    bench.wait(1)

    for start in (Start(), later):
        pages = bench.pages(stream, start)
        for border, page in enumerate(pages[:-1], 1):
            rest = bench.pages(stream, replace(start, resume=page.resume))
            assert bench.told(stream, rest) == bench.told(stream, pages[border:])
            assert not rest[-1].resume
            assert rest[-1].cursor == "" or isinstance(rest[-1].cursor, str)


@every_growing_stream
def test_equal_times_at_the_start_are_listed_again(subject, stream):
    bench = Bench(subject)
    bench.pages(stream)
    bench.wait()
    tied = bench.make(stream, 3, step_s=0)
    first = bench.pages(stream)
    tied += bench.make(stream, 1, step_s=0)
    start = bench.next_start(stream, first)

    assert set(tied) <= ids_of(bench.pages(stream, start))
    at_ms = max(row.at_ms for row in rows_of(first))
    assert set(tied) <= ids_of(bench.pages(stream, Start(since_ms=at_ms)))


@every_stream
def test_rows_are_in_our_normal_form(subject, stream):
    bench = Bench(subject)
    bench.wait()
    subject.parts[stream].change(bench.world)
    bench.wait(1)
    rows = rows_of(bench.pages(stream))
    is_message = subject.provider.streams[stream].path == "message-store"

    assert rows
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        assert isinstance(row.id, str)
        assert row.id
        assert isinstance(row.updated_at, str)
        assert type(row.at_ms) is int
        assert row.at_ms >= 0
        for said in (row.body, row.keep):
            assert json.loads(json.dumps(dict(said), allow_nan=False)) == said
        assert type(row.deleted) is bool
        assert row.type in (TYPES if is_message else {""})
        assert row.direction in (DIRECTIONS if is_message else DIRECTIONS | {""})
        assert isinstance(row.extension, str)


@every_growing_stream
def test_a_foreign_place_is_a_restart(subject, stream):
    bench = Bench(subject)
    bench.fill(stream)
    upside_down = [f"{page.resume[::-1]}?" for page in bench.pages(stream) if page.resume]

    for place in FOREIGN + upside_down:
        with pytest.raises(Restart):
            bench.pages(stream, Start(resume=place))


@every_growing_stream
def test_a_place_beyond_all_bounds_is_a_restart(subject, stream):
    bench = Bench(subject)
    bench.fill(stream)
    own = [page.resume for page in bench.pages(stream) if page.resume]

    for place in own:
        far = "".join("9" * 30 if one.isdigit() else one for one in place)
        with pytest.raises(Restart):
            bench.pages(stream, Start(resume=far))


@every_stream
def test_a_foreign_cursor_is_a_restart_or_means_nothing(subject, stream):
    bench = Bench(subject)
    pages = bench.pages(stream)

    for cursor in FOREIGN:
        if pages[-1].cursor:
            with pytest.raises(Restart):
                bench.pages(stream, Start(cursor=cursor))
        else:
            found = bench.pages(stream, Start(cursor=cursor))
            assert bench.told(stream, found) == bench.told(stream, pages)


# What goes wrong


@promise
def test_a_check_names_every_refusal(subject):
    bench = Bench(subject)
    seen = bench.check()
    total = len(bench.wire.sent)

    for answer, kind in REFUSALS.values():
        for before in (Seen(), seen):
            for place in range(total):
                wire = bench.wired(Failing(bench.world.simulator, lambda *_, a=answer: a, place))
                if kind is Malformed and bench.is_odd(bench.wire.sent[place]):
                    assert bench.marks(bench.check(before, wire)) != bench.marks(seen)
                elif kind is Unavailable and bench.is_odd(bench.wire.sent[place]):
                    # It holds up what is like it, and nothing else.
                    assert (
                        bench.marks(bench.check(before, wire)).items() <= bench.marks(seen).items()
                    )
                else:
                    named(bench, kind, lambda b=before, w=wire: bench.check(b, w))
                    assert place < len(wire.sent) <= place + 3


@every_unreadable
def test_the_first_check_names_what_cannot_be_read(subject, kind):
    unreadable_checks(subject, kind, first=True)


@every_unreadable
def test_a_later_check_names_what_cannot_be_read(subject, kind):
    unreadable_checks(subject, kind, first=False)


def unreadable_checks(subject, kind, *, first):
    bench = Bench(subject)
    seen = bench.check()
    before = Seen() if first else Seen(seen.raw)
    good, asked = bench.wire, len(bench.wire.sent)
    bench.check(before)
    sent = good.sent[asked:]

    for place, request in enumerate(sent):
        wire = bench.wired(Failing(bench.world.simulator, UNREADABLE[kind], place))
        if bench.is_odd(request):
            assert bench.marks(bench.check(before, wire)) != bench.marks(seen)
        else:
            named(bench, Malformed, lambda w=wire: bench.check(before, w))


@every_stream
def test_a_delta_names_every_refusal(subject, stream):
    for answer, kind in REFUSALS.values():
        failing_deltas(subject, stream, lambda *_, a=answer: a, kind)


@every_stream
def test_a_delta_names_what_cannot_be_read(subject, stream):
    for fail in UNREADABLE.values():
        failing_deltas(subject, stream, fail, Malformed)


def failing_deltas(subject, stream, fail, kind):
    """Let a delta fail from each of its requests on."""
    bench = Bench(subject)
    if subject.parts[stream].make:
        bench.fill(stream)
        bench.wait()
    bench.wire.sent.clear()
    good = bench.pages(stream)

    for place, request in enumerate(bench.wire.sent):
        wire, pages = bench.wired(Failing(bench.world.simulator, fail, place)), []
        delta = bench.delta(stream, wire=wire)
        if kind is Malformed and bench.is_odd(request):
            pages.extend(delta)
            assert len(rows_of(pages)) == place
            assert sum(len(page.bad) for page in pages) == len(bench.wire.sent) - place
            assert not any(page.whole for page in pages)
        else:
            named(bench, kind, lambda d=delta, p=pages: p.extend(one(d)))
            whole = [page for page in pages if not (bench.is_odd(request) and page is pages[-1])]
            assert bench.told(stream, whole) == bench.told(stream, good[: len(whole)])
            assert len(whole) <= place
            assert len(wire.sent) <= place + 3


def one(pages):
    """Hand on page after page, so that those before an error are kept."""
    yield from pages


# Credentials


@promise
def test_a_credential_goes_nowhere_but_into_secret_requests(subject):
    bench = Bench(subject)
    seen = bench.check()
    told = [seen.raw, seen.etag, str(bench.marks(seen))]
    for stream, part in subject.parts.items():
        bench.wait()
        part.change(bench.world)
        seen = bench.check(seen)
        pages = bench.pages(stream)
        told += [seen.raw, str(bench.marks(seen)), repr(pages)]
        told += [str(dict(said)) for row in rows_of(pages) for said in (row.body, row.keep)]
    secrets = [*bench.world.account.credential.values(), *bench.tokens, CANARY]

    hosts = tuple(f"{host}/" for host in bench.world.account.hosts.values())
    for request in bench.wire.sent:
        assert request.url.startswith(hosts)
        open_ = f"{request.url} {dict(request.query)} {request!r}"
        assert not [secret for secret in secrets if secret in open_]
        headers = {name.lower() for name in request.headers}
        if headers - PLAIN_HEADERS or request.form is not None:
            assert request.secret
        if not request.secret:
            assert not [one for one in secrets if one in str(dict(request.headers))]
    assert any(request.secret for request in bench.wire.sent)
    assert not [secret for secret in secrets for text in told if secret in text]


@promise
def test_a_check_needs_a_credential_if_it_says_so(subject):
    bench = Bench(subject)
    full = bench.world.account.credential
    bench.check()
    assert any(request.secret for request in bench.wire.sent) == (
        subject.provider.check_needs_credential
    )

    for name in full if subject.provider.check_needs_credential else ():
        for partial in ({key: full[key] for key in full if key != name}, {**full, name: ""}):
            bench.world.account = replace(bench.world.account, credential=partial)
            with pytest.raises(Misconfigured, match=rf"credential\.{name}"):
                bench.check()


@every_stream
def test_a_missing_credential_is_named_by_a_delta(subject, stream):
    bench = Bench(subject)
    full = bench.world.account.credential

    for name in full:
        for partial in ({key: full[key] for key in full if key != name}, {**full, name: ""}):
            bench.world.account = replace(bench.world.account, credential=partial)
            with pytest.raises(Misconfigured, match=rf"credential\.{name}"):
                bench.pages(stream)
