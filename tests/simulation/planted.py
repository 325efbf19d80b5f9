"""
Bugs of design, planted one at a time: a simulation that misses them proves nothing.

Each is the real code with a line or two changed. Some need more than faults to show: a provider
with small pages, a row of the future, a neighbour that is broken. That is no bug, so the correct
code is run with it as well.
"""

from __future__ import annotations
import __future__

import inspect
import json
import random
import re
import textwrap
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any
from unittest import mock

from pollwire import decide, drain, due, events, items, marks, pipeline, queues, secrets, state
from pollwire.events import Composer
from pollwire.providers import intelli, kirimdev, ringcentral, youmail
from pollwire.secrets import Sealer
from pollwire.world import World as Pollwire

from local.simulators.youmail import YouMail
from tests.simulation import invariants, scenario, upstream, world
from tests.simulation.deployed import deployed
from tests.simulation.lambdas import client
from tests.simulation.scenario import Run, Scenario
from tests.simulation.specs import Deployed, FunctionSpec
from tests.simulation.world import CRASH_AFTER, CRASH_BEFORE, ERROR_BEFORE, Broken, Knobs

Patch = Callable[[], AbstractContextManager[Any]]

#: What the log says of a plant that is no bug of design, but code that does not run.
CRASHES = re.compile(
    r"(Name|Type|Key|Index|Attribute|UnboundLocal|Syntax|Assertion)Error|ValidationException"
)


def rough(seed: int) -> Scenario:
    """Draw a scenario in which everything goes wrong now and then."""
    chance = random.Random(seed)
    knobs = Knobs(fault=0.08, stale=0.3, twice=0.3, lost=0.2, doubled=0.2, late=0.1, refused=0.1)
    return Scenario(
        seed,
        upstreams=(chance.choice(("youmail", "intelli", "ringcentral", "kirimdev")),),
        streams=1,
        minutes=2,
        mutations=6,
        moving=chance.choice((0.0, 0.2)),
        reconciles=False,
        backfill=chance.random() < 0.6,
        knobs=knobs,
    )


def flapping(seed: int) -> Scenario:
    """Draw calls that come and go between a check and its delta: those of the first seed do."""
    return Scenario(
        103_927 + seed, ("ringcentral",), streams=1, mutations=2, moving=0.3, reconciles=False
    )


@dataclass(frozen=True)
class Plant:
    """
    A bug.

    Attributes:
        wrong: Says what.

        bug: Patches that make it.

        scenario: Makes a scenario of a seed.

        budget: Runs, within which one has to fail.

        first: Seed of the first of them.

        where: Patches without which it does not show; the correct code holds with them.

        run: What runs it.
    """

    wrong: str
    bug: tuple[Patch, ...]
    scenario: Callable[[int], Scenario] = rough
    budget: int = 60
    first: int = 0
    where: tuple[Patch, ...] = ()
    run: type[Run] = Run


def fails(plant: Plant, seed: int, *, planted: bool) -> str:
    """Run a seed with the bug or without; return how it failed, or nothing."""
    with ExitStack() as stack:
        for patch in (*plant.where, *(plant.bug if planted else ())):
            stack.enter_context(patch())
        run = plant.run(plant.scenario(plant.first + seed))
        try:
            run.go()
        except (Exception, Broken) as error:  # noqa: BLE001 - whatever stops the run shows the bug
            crash = CRASHES.search(run.lambdas.logs.getvalue())
            assert not (planted and crash), f"it does not even run: {crash}"
            return f"{type(error).__name__}: {error}"
    return ""


# How bugs are made


def edit(owner: Any, name: str, *changes: tuple[str, str]) -> Patch:
    """Change texts of a function's source, each of which is there exactly once."""

    def patch() -> AbstractContextManager[Any]:
        function = getattr(owner, name)
        source = textwrap.dedent(inspect.getsource(function))
        for before, after in changes:
            assert source.count(before) == 1, f"{name} has not one {before!r}"
            source = source.replace(before, after)
        future = __future__.annotations.compiler_flag
        made: dict[str, Any] = {}
        code = compile(source, f"<planted in {name}>", "exec", future, dont_inherit=True)
        exec(code, function.__globals__, made)  # noqa: S102 - the project's own source
        return mock.patch.object(owner, name, made[name])

    return patch


def put(owner: Any, name: str, value: Any) -> Patch:
    return lambda: mock.patch.object(owner, name, value)


def deploy(change: Callable[[Deployed], Deployed]) -> Patch:
    """Deploy something else."""

    @contextmanager
    def patch() -> Iterator[None]:
        changed = change(deployed())
        with (
            mock.patch.object(scenario, "deployed", return_value=changed),
            # What was worked out of the real policies.
            mock.patch.dict(world._PERMITTED, clear=True),
        ):
            yield

    return patch


def functions(change: Callable[[FunctionSpec], FunctionSpec]) -> Patch:
    """Deploy other functions."""

    def changed(real: Deployed) -> Deployed:
        return replace(real, functions={name: change(one) for name, one in real.functions.items()})

    return deploy(changed)


def job_queues(**fields: Any) -> Patch:
    """Deploy other queues of jobs."""

    def changed(real: Deployed) -> Deployed:
        mapped = {one.queue for one in real.functions.values()}
        queues_ = {
            name: replace(one, **fields) if name in mapped else one
            for name, one in real.queues.items()
        }
        return replace(real, queues=queues_)

    return deploy(changed)


def _seldom(real: Deployed) -> Deployed:
    return replace(real, schedules=(replace(real.schedules[0], expression="rate(5 minutes)"),))


def _no_letters(real: Deployed) -> Deployed:
    return replace(real, subscriptions=(replace(real.subscriptions[0], dead_letters=""),))


def _other_table(function: FunctionSpec) -> FunctionSpec:
    if function.stage != "check":
        return function
    return replace(function, environment={**function.environment, "TABLE_NAME": "other"})


def without(action: str) -> Callable[[FunctionSpec], FunctionSpec]:
    """Take an action away from every role."""

    def change(function: FunctionSpec) -> FunctionSpec:
        kept = (
            replace(one, actions=tuple(name for name in one.actions if name != action))
            for one in function.statements
        )
        return replace(function, statements=tuple(kept))

    return change


# What bugs show in


def of(*names: str, **fields: Any) -> Callable[[int], Scenario]:
    """Draw it for one of some providers, and as it is asked for."""
    return lambda seed: replace(rough(seed), upstreams=(names[seed % len(names)],), **fields)


def quiet(*names: str, **fields: Any) -> Callable[[int], Scenario]:
    """Let no fault strike."""
    return of(*names, **{"knobs": Knobs(), "reconciles": True, **fields})


def harsh(*names: str, **fields: Any) -> Callable[[int], Scenario]:
    """Let many things happen, and processes die after what they did."""
    knobs = Knobs(fault=0.08, weights={CRASH_AFTER: 1.0, CRASH_BEFORE: 1.0})
    return of(*names, **{"interval_s": 20, "minutes": 4, "mutations": 14, "knobs": knobs, **fields})


def ailing(sick: str, *names: str, **fields: Any) -> Callable[[int], Scenario]:
    """Let a provider fail for long."""
    return lambda seed: replace(
        scenario.outage(seed), upstreams=(names[seed % len(names)],), sick=sick, **fields
    )


#: Providers fail to answer, and nothing else goes wrong.
REFUSED = Knobs(fault=0.2, weights={ERROR_BEFORE: 1.0})


def youmail_of(*streams: str) -> Patch:
    return put(upstream.OfYouMail, "streams", streams)


def late_youmail(*args: Any, **fields: Any) -> Any:
    """Make one that lists a row a minute after it said that there is one."""
    return upstream_youmail(*args, **{**fields, "lag_ms": 60_000})


upstream_youmail = upstream.YouMail


def small_intelli(*args: Any, **fields: Any) -> Any:
    return upstream_intelli(*args, **{**fields, "limit": 4})


upstream_intelli = upstream.Intelli

#: Pages that a few things fill.
SMALL: tuple[Patch, ...] = (
    put(youmail, "PAGE_LENGTH", 2),
    put(kirimdev, "LIMIT", 2),
    put(ringcentral, "RECORDS", 2),
    put(intelli, "ROWS_MAX", 4),
    put(upstream, "Intelli", small_intelli),
)


#: A validator confirms whatever it is sent with.
LYING = edit(
    YouMail,
    "_poll",
    ("etag = f'\"{hashlib.sha256(content).hexdigest()[:16]}\"'", "etag = '\"same\"'"),
)

#: Kirimdev is listed from end to end every minute.
OFTEN = put(
    kirimdev.Kirimdev,
    "streams",
    {"conversations": replace(kirimdev.CONVERSATIONS, reconcile_s=60)},
)


def _nowhere(account: str, shards: int) -> int:
    return zlib.crc32(account.encode()) % (shards + 1)


def _some_ahead(self: upstream.OfYouMail) -> tuple[Any, ...]:
    """Let one voicemail in three be a day ahead of the provider's clock."""

    def ahead(chance: Any, account: str) -> None:
        now_ms = int(self.clock() * 1000)
        self.simulator.leave_voicemail(
            account, preview=self.version(), at_ms=now_ms + 86_400_000, visible_at_ms=now_ms
        )
        # What says that something changed goes by the provider's clock.
        self.simulator.set_stamp(account, "entry", now_ms)

    return (self._leave, self._leave, ahead)


def _back_in_time(self: upstream.OfYouMail) -> tuple[Any, ...]:
    return (self._add, self._rename, self._rename_back_in_time)


def _trash_or_restore(self: upstream.OfYouMail) -> tuple[Any, ...]:
    return (self._trash, self._restore)


def _alike(self: upstream.OfYouMail) -> tuple[Any, ...]:
    """Every account gets a contact of one id, one content and one instant."""

    def add(chance: Any, account: str) -> None:
        name, first = self.version(), 1000 + self._seen
        for member in self.members:
            self.simulator._ids = count(first)
            self.simulator.add_contact(member.id, firstName=name)

    return (add,)


def _behind(
    self: upstream.OfIntelli, clock: Callable[[], float], chance: Any, of: Scenario
) -> None:
    """Make a provider whose clock is ten minutes behind."""
    upstream.Upstream.__init__(self, lambda: clock() - 600, chance, of)


class Neighbours(Run):
    """Beside what works there are a connection and accounts that do not."""

    def _register(self) -> None:
        super()._register()
        table = self.world.deployed.table
        client("dynamodb").put_item(
            TableName=table, Item={"pk": {"S": "connection"}, "sk": {"S": "a-bad"}}
        )
        for one in self.upstreams:
            where = items.key(f"shard#{one.name}#0", "0-bad")
            broken = {**where, "settings": {"S": "{"}}
            client("dynamodb").put_item(TableName=table, Item=broken)
            where = items.key(f"shard#{one.name}#0", "00-bad")
            sealed = {**where, "credential": {"B": b"not sealed"}}
            client("dynamodb").put_item(TableName=table, Item=sealed)

    def unrest(self) -> list[str]:
        return [one for one in super().unrest() if "-bad" not in one]


class Truthful(Run):
    """Nothing is told to be deleted that was not."""

    def go(self) -> Run:
        super().go()
        gone = {(one.account, one.id) for _, one in self.changes() if one.kind == "deleted"}
        for event in self.deliveries():
            body: Any = event["body"]
            if body["change"] == "deleted" and (event["ownerId"], body["recordId"]) not in gone:
                raise Broken(f"{body['recordId']} was told to be deleted")
        return self


class Outage(Truthful):
    """For three minutes a provider lists nothing, and says nothing of that."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for one in self.upstreams:
            one.simulator.handle = partial(self._listed, one.simulator.handle)

    def _listed(self, handle: Callable[..., Any], *asked: Any) -> Any:
        status, headers, content = handle(*asked)
        since_ms = self.world.now_ms - world.START_MS
        if status == 200 and 120_000 < since_ms < 300_000:
            content = json.dumps({"data": [], "has_more": False, "next_cursor": None}).encode()
        return status, headers, content


class Later(Run):
    """An hour passes before the promises are checked."""

    def heal(self) -> None:
        super().heal()
        for _ in range(61):
            self.minute()


_WRITE = (
    "next_state = replace(next_state, outbox=tuple(events), seq=seq, told_ms=told_ms)\n"
    "        self._commit(next_state, records)\n"
    "        self._publish_outbox()"
)
_PUBLISH = "self._counts['events'] += self._world.topic.publish(events)"
_COMMIT = "self._commit(replace(next_state, seq=seq), records)"
_DELTA = drain.Delta

OUTBOX: dict[str, Plant] = {
    "commit_then_publish": Plant(
        "The cursor is written without an outbox, then the events are published.",
        (edit(_DELTA, "_write", (_WRITE, f"{_COMMIT}; {_PUBLISH}")),),
        harsh("youmail", "intelli"),
        budget=100,
    ),
    "publish_then_commit": Plant(
        "Events are published before they are written down.",
        (edit(_DELTA, "_write", (_WRITE, f"{_PUBLISH}; {_COMMIT}")),),
        harsh("youmail", "ringcentral"),
    ),
    "publish_then_commit_random": Plant(
        "Events are published before they are written down, and their ids are random.",
        (
            edit(_DELTA, "_write", (_WRITE, f"{_PUBLISH}; {_COMMIT}")),
            edit(Composer, "_uuid", ("str(uuid.uuid5(NAMESPACE, name))", "str(uuid.uuid4())")),
        ),
        harsh("youmail", "ringcentral"),
    ),
    "outbox_cleared_first": Plant(
        "The outbox is cleared, then its events are published.",
        (
            edit(
                _DELTA,
                "_publish_outbox",
                (
                    'self._counts["events"] += self._world.topic.publish(self._state.outbox)\n'
                    "        self._commit(replace(self._state, outbox=()))",
                    "outbox = self._state.outbox; self._commit(replace(self._state, outbox=())); "
                    "self._world.topic.publish(outbox)",
                ),
            ),
        ),
        harsh("youmail", "intelli"),
        budget=250,
    ),
    "outbox_overwritten": Plant(
        "What the last worker left unpublished is overwritten by the next decision.",
        (
            edit(
                _DELTA,
                "_run",
                ("self._publish_outbox()", "self._state = replace(self._state, outbox=())"),
            ),
        ),
        harsh("youmail", "intelli"),
        budget=100,
    ),
    "outbox_waits_for_a_rest": Plant(
        "What was decided is not told while its account or stream is left alone.",
        (
            edit(
                _DELTA,
                "_run",
                ("self._publish_outbox()\n    not_before_ms", "not_before_ms"),
                (
                    '"left_alone"] += 1\n        return\n',
                    '"left_alone"] += 1\n        return\n    self._publish_outbox()\n',
                ),
            ),
        ),
    ),
    "refused_entries_ignored": Plant(
        "Entries of a batch that SNS refuses are taken for published.",
        (edit(queues.Topic, "publish", ('if answer.get("Failed"):', "if False:")),),
        of("youmail", "ringcentral", minutes=3, mutations=12, knobs=Knobs(refused=0.4)),
    ),
    "id_without_content": Plant(
        "An id is made of neither the content nor the revision.",
        (edit(Composer, "_uuid", ("row.updated_at, change.digest", ""), ("change.again,", "")),),
        quiet("youmail", minutes=5, mutations=12),
        where=(youmail_of("entry"),),
    ),
    "id_of_content": Plant(
        "An id is made of the content only: what comes back has the id that it had before.",
        (
            edit(
                Composer,
                "_uuid",
                ("change.again,", ""),
                ("row.updated_at, change.digest", "change.digest"),
            ),
        ),
        quiet("youmail", minutes=8, mutations=16),
        where=(youmail_of("entry"), put(upstream.OfYouMail, "operations", _trash_or_restore)),
    ),
    "id_without_account": Plant(
        "An id is made without the account.",
        (edit(Composer, "_uuid", ("self._account,", "")),),
        quiet("youmail", accounts=2, minutes=3, mutations=6, backfill=True),
        where=(youmail_of("contact"), put(upstream.OfYouMail, "operations", _alike)),
    ),
    "unlike_rows_of_one_id": Plant(
        "A row that is listed twice in one drain is decided twice.",
        (edit(decide, "decide", ("_latest(rows)", "rows")),),
        of("ringcentral", minutes=3, mutations=12, moving=0.4),
        where=SMALL,
    ),
}

CURSOR: dict[str, Plant] = {
    "no_overlap": Plant(
        "A delta starts where the last one got to.",
        (edit(decide, "start", ("since_ms = min(", "since_ms = reached_ms or min(")),),
        of("youmail", "intelli", minutes=3, mutations=10),
    ),
    "first_page_only": Plant(
        "A list is taken to have one page.",
        (edit(_DELTA, "_drain", ("if not page.resume:", "if True:")),),
        of("youmail", "kirimdev", "ringcentral", mutations=8, reconciles=False),
        where=SMALL,
    ),
    "page_by_page": Plant(
        "The cursor moves with each page of a list that is newest first.",
        (
            edit(
                _DELTA,
                "_write_part",
                (
                    "replace(self._state, drain=drain))",
                    "replace(self._state, drained_ms=drain.began_ms, "
                    "reached_ms=max(drain.newest_ms, self._state.reached_ms), "
                    "previous_ms=drain.newest_ms, place=pages[-1].cursor))",
                ),
            ),
        ),
        of("ringcentral", "kirimdev", minutes=4, mutations=12, reconciles=False),
        where=(*SMALL, put(drain, "ROWS_MAX", 1)),
    ),
    "own_clock": Plant(
        "The cursor is the time of our own clock.",
        (
            edit(
                _DELTA,
                "_drain",
                ("decide.newest_ms(page.rows, clock_ms)", "self._world.clock()"),
            ),
        ),
        quiet("intelli", minutes=4, mutations=8),
        where=(put(upstream.OfIntelli, "__init__", _behind),),
    ),
    "future_row": Plant(
        "A row of the future moves the cursor beyond all that follow.",
        (edit(decide, "newest_ms", ("min(row.at_ms, clock_ms)", "row.at_ms")),),
        quiet("youmail", minutes=10, mutations=14, reconciles=False),
        where=(youmail_of("entry"), put(upstream.OfYouMail, "operations", _some_ahead)),
    ),
    "no_fence": Plant(
        "A stream is written without looking whether another worker did.",
        (
            edit(
                state,
                "cursor_update",
                (
                    '"ConditionExpression": fence',
                    '"ConditionExpression": fence + " OR attribute_exists(pk) "'
                    '"OR attribute_not_exists(pk)"',
                ),
            ),
        ),
        of(
            "youmail",
            "kirimdev",
            "ringcentral",
            minutes=3,
            mutations=12,
            knobs=Knobs(stale=0.2, twice=0.6, doubled=0.3),
        ),
    ),
    "stale_records": Plant(
        "Records are read eventually consistent.",
        (edit(state.State, "_batch_get", ('"ConsistentRead": True', '"ConsistentRead": False')),),
        of(
            "youmail",
            "kirimdev",
            "ringcentral",
            minutes=3,
            mutations=12,
            knobs=Knobs(stale=0.6, twice=0.3, doubled=0.3),
        ),
    ),
    "older_dropped": Plant(
        "A row that is older than its record is dropped as stale.",
        (
            edit(
                decide,
                "_beside",
                (
                    "row.rank < old.rank:",
                    "(row.rank < old.rank or 0 < row.at_ms < old.at_ms):",
                ),
            ),
        ),
        quiet("youmail", minutes=3, mutations=8),
        where=(youmail_of("contact"), put(upstream.OfYouMail, "operations", _back_in_time)),
    ),
    "last_sync_token": Plant(
        "Of a full list the sync token of its last page is kept.",
        (edit(ringcentral, "_listed", ("token = token or sync.token", "token = sync.token")),),
        of("ringcentral", minutes=3, mutations=10, moving=0.6, reconciles=False),
        first=80,
        where=SMALL,
    ),
    "since_is_newest": Plant(
        "Intelli's pages go on from newestMessageTimestamp.",
        (
            edit(
                intelli.Intelli,
                "delta",
                (
                    "answer = _read(fetch(_request(account, since)))",
                    "response = fetch(_request(account, since)); answer = _read(response); "
                    'newest = int(response.json().get("newestMessageTimestamp") or 0)',
                ),
                (
                    "since, second, until = _onward(answer, since)",
                    "since, second, until = "
                    "(newest if answer.more and newest > since else None), None, -1",
                ),
            ),
        ),
        of("intelli", minutes=6, mutations=25, moving=0.1, knobs=Knobs(lost=0.8)),
        where=SMALL,
    ),
}

MARKS: dict[str, Plant] = {
    "settled_at_once": Plant(
        "A mark goes with the first drain, without waiting for rows that show up later.",
        (edit(marks, "settled", (">= overlap_s * 1000", ">= 0")),),
        quiet("youmail", moving=0.4, minutes=2, mutations=1),
        where=(put(upstream, "YouMail", late_youmail), youmail_of("entry", "contact")),
    ),
    "read_when_it_was_done": Plant(
        "A drain answers for what was seen while it was at work.",
        (edit(_DELTA, "_finish", ("drained_ms=drain.began_ms", "drained_ms=self._world.clock()")),),
    ),
    "settled_despite_news": Plant(
        "A mark goes with a drain that saw something newer, which may be over again.",
        (
            edit(
                drain.Delta,
                "_finish",
                ("missing.unsettled or drain.news", "missing.unsettled"),
            ),
            edit(drain.Delta, "_settle", ("if self._is_unseen:", "if False:")),
        ),
        flapping,
    ),
    "lost_job_lost_for_ever": Plant(
        "A check keeps what it saw and notes nothing as pending.",
        (edit(state.State, "note_step", ("if step.pending:", "if step.pending and not (sets):")),),
        harsh("youmail", "ringcentral", reconciles=False),
        budget=120,
    ),
    "pending_not_queued_again": Plant(
        "What is pending is queued once, not by later checks.",
        (
            edit(
                pipeline,
                "_note_answer",
                (
                    "if step is None:\n        return standing.pending",
                    "if step is None:\n        return ()",
                ),
                ("standing.pending | set(step.pending)", "set(step.pending)"),
            ),
        ),
    ),
    "settles_everything": Plant(
        "A drain takes away everything that is pending, of other streams as well.",
        (
            edit(
                state.State,
                "settle",
                ('"DELETE pending :pending"', '"REMOVE pending"'),
                (
                    '{":pending": {"SS": sorted(elements)}},',
                    '{":pending": {"SS": sorted(elements)}}, '
                    '" AND (attribute_exists(pk) OR pending = :pending)",',
                ),
            ),
        ),
        harsh("youmail", streams=3, mutations=14),
        first=170,
    ),
    "compared_by_order": Plant(
        "A mark has to be greater than the one before, not just another.",
        (edit(marks, "step", ("before.get(stream) != mark", 'mark > before.get(stream, "")')),),
        quiet("kirimdev", "ringcentral", reconciles=False),
        first=155,
    ),
    "validator_trusted": Plant(
        "A validator is always trusted.",
        (put(due, "distrusts", lambda *args: False),),
        quiet("youmail", minutes=6, mutations=4),
        where=(LYING,),
        run=Later,
    ),
    "job_id_without_instant": Plant(
        "Two jobs of one stream have one deduplication id, whatever they are for.",
        (edit(queues, "_delta_entry", ('f"{group}-{job.due_ms}"', "group")),),
        quiet("youmail", minutes=8, mutations=12, reconciles=False),
        where=(
            youmail_of("contact"),
            put(upstream.OfYouMail, "operations", lambda self: (self._add,)),
        ),
    ),
}

DELETIONS: dict[str, Plant] = {
    "never_listed": Plant(
        "Nothing is ever listed from end to end.",
        (put(due, "reconciles", lambda *args: False),),
        of("youmail", "kirimdev", reconciles=True, minutes=3, mutations=8),
    ),
    "listed_if_changed": Plant(
        "A stream is listed from end to end only when something changed.",
        (edit(pipeline, "_delta_jobs", ("if elements or full:", "if elements:")),),
        of("youmail", "kirimdev", reconciles=True, minutes=3, mutations=8),
    ),
    "listed_by_any_drain": Plant(
        "A drain of what is new is taken for a listing from end to end.",
        (
            edit(
                _DELTA,
                "_finish",
                ("drain.full and self._stream.reconcile_s", "self._stream.reconcile_s"),
            ),
        ),
        of("kirimdev", "ringcentral", reconciles=True, minutes=3),
    ),
    "one_sighting": Plant(
        "What is missing from one list was deleted.",
        (edit(decide, "decide_missing", ("if not record.missing_ms:", "if False:")),),
        quiet("kirimdev", minutes=6, mutations=20, moving=0.6),
        where=(*SMALL, OFTEN),
        run=Truthful,
        first=535,
    ),
    "mass_unguarded": Plant(
        "An outage that lists nothing is taken for the deletion of everything.",
        (edit(decide, "decide_missing", ("mass = stream.guarded and", "mass = False and")),),
        quiet("kirimdev", reconciles=True, minutes=6, mutations=4),
        where=(OFTEN, put(decide, "MISSING_MAX", 0)),
        run=Outage,
    ),
    "tombstone_ignored": Plant(
        "What a provider lists as deleted is passed over.",
        (edit(decide, "_kind", ('return "deleted" if old or', 'return "" if old or')),),
        quiet("youmail", minutes=5, mutations=10),
        where=(youmail_of("entry"), put(upstream.OfYouMail, "operations", _trash_or_restore)),
    ),
    "account_back": Plant(
        "A write brings an account back that was removed.",
        (
            edit(
                state.State,
                "_update_account",
                (
                    'f"attribute_exists(pk){condition}"',
                    'f"(attribute_exists(pk) OR attribute_not_exists(pk)){condition}"',
                ),
            ),
        ),
        of("youmail", "intelli", accounts=2, removes=True, minutes=3, mutations=8),
    ),
}

ACCOUNTS: dict[str, Plant] = {
    "shard_of_another": Plant(
        "An account lies in a shard that nobody checks.",
        (put(state, "shard_of", _nowhere), put(pipeline, "shard_of", _nowhere)),
        of("youmail", "intelli", accounts=3, shards=2),
    ),
    "looked_for_in_one_shard": Plant(
        "An account is not found while the shards are split.",
        (edit(state, "shards_before", ("while shards > 1", "while False")),),
        lambda seed: replace(scenario.fleet(seed), splits=True, replays=True),
    ),
    "never_moved": Plant(
        "An account stays where it was before the shards were split.",
        (edit(pipeline, "_settled", ("if shard != job.shard and", "if False and")),),
        lambda seed: replace(scenario.fleet(seed), splits=True),
    ),
    "moved_without_its_marks": Plant(
        "An account that is moved to another shard forgets what is pending.",
        (
            edit(
                state,
                "account_move",
                (
                    "{**item,",
                    "{**{n: one for n, one in held.items() if n != 'pending'}, **old['Key'],",
                ),
            ),
        ),
        lambda seed: replace(scenario.fleet(seed), splits=True),
    ),
    "empty_at_first": Plant(
        "What comes to an account that was empty is taken for what was there before.",
        (edit(marks, "step", ("old.raw == KNOWN_EMPTY and", "False and")),),
        lambda seed: replace(
            rough(seed), upstreams=("intelli",), backfill=False, minutes=3, knobs=Knobs()
        ),
    ),
    "expired_token_stops": Plant(
        "A sync token that is no longer valid is kept.",
        (edit(_DELTA, "_run", ('drain=None, place=""', "drain=None")),),
        of("ringcentral", minutes=3, mutations=10),
    ),
    "bad_row_for_ever": Plant(
        "A row that cannot be read raises an alarm whenever it is listed.",
        (edit(_DELTA, "_bad_rows", (" if key not in known", "")),),
        lambda seed: replace(
            rough(4 * seed), upstreams=("kirimdev",), mutations=10, minutes=4, knobs=Knobs()
        ),
    ),
    "comes_back_updated": Plant(
        "What was deleted and is there once more is told as if it had never been away.",
        (edit(decide, "_kind", ("if old and not old.gone", "if old")),),
        quiet("youmail", minutes=5, mutations=10),
        where=(youmail_of("entry"), put(upstream.OfYouMail, "operations", _trash_or_restore)),
    ),
}

OTHERS: dict[str, Plant] = {
    "bad_connection_stops": Plant(
        "The schedule stops at the first connection that cannot be read.",
        (
            edit(
                state.State,
                "connections",
                ("except (Misconfigured, *UNREADABLE):", "except ZeroDivisionError:"),
            ),
        ),
        of("youmail"),
        run=Neighbours,
    ),
    "bad_account_stops": Plant(
        "A check stops at the first account that it cannot ask for.",
        (
            edit(
                pipeline,
                "_note_answers",
                ("except PollwireError as error:", "except ZeroDivisionError as error:"),
            ),
        ),
        of("kirimdev"),
        run=Neighbours,
    ),
    "bad_standing_stops": Plant(
        "A shard stops at the first account that cannot be read.",
        (
            edit(
                state.State,
                "shard",
                ("except UNREADABLE:", "except ZeroDivisionError:"),
            ),
        ),
        of("youmail"),
        run=Neighbours,
    ),
    "no_permission": Plant(
        "The role of the deltas may not publish.",
        (functions(without("sns:Publish")),),
    ),
    "token_of_another": Plant(
        "Accounts share the token that the first of them got.",
        (
            edit(
                Pollwire,
                "account",
                (
                    "known = (connection.name, owner, sealed)",
                    'known = (connection.name, "", b"")',
                ),
            ),
        ),
        of("youmail", "ringcentral", accounts=2, streams=3, minutes=3, mutations=6),
    ),
    "unsealed": Plant(
        "Credentials lie in the table as they are.",
        (
            put(Sealer, "seal", lambda self, values, *names: json.dumps(dict(values)).encode()),
            put(Sealer, "open", lambda self, sealed, *names: json.loads(sealed)),
        ),
    ),
}

CUSTODY: dict[str, Plant] = {
    "key_of_another": Plant(
        "What was opened is remembered without saying whose it is.",
        (edit(Sealer, "open", ("entry = (connection, account, sealed)", 'entry = ("", "", b"")')),),
        of("kirimdev", "intelli", accounts=2),
    ),
    "context_of_none": Plant(
        "Everything of a connection is sealed alike, whatever account it is of.",
        (edit(secrets, "_context", ('account or "*"', '"*"')),),
    ),
    "asked_for_another": Plant(
        "Everybody is asked for under the first account's id.",
        (
            edit(
                ringcentral._Session,
                "__init__",
                ("extension/{account.id}/", "extension/{account.id[:-1]}0/"),
            ),
        ),
        of("ringcentral", accounts=2),
    ),
    "secret_in_url": Plant(
        "A password is part of an address.",
        (
            edit(
                youmail,
                "_authenticate",
                ('/api/v4/authenticate"', "/api/v4/authenticate?p={headers['YouMail-Password']}\""),
            ),
        ),
        of("youmail"),
    ),
    "credential_logged": Plant(
        "A credential is in the log, if everything is logged.",
        (
            edit(
                Pollwire,
                "account",
                (
                    "known = (connection.name, owner, sealed)",
                    "__import__('logging').getLogger('pollwire').debug(str(dict(credential)))\n"
                    "    known = (connection.name, owner, sealed)",
                ),
            ),
        ),
    ),
    "content_logged": Plant(
        "What was said is in the log.",
        (
            edit(
                _DELTA,
                "_decide",
                (
                    'self._counts["rows"] += len(rows)',
                    'self._counts["rows"] += len(rows); print([dict(one.body) for one in rows])',
                ),
            ),
        ),
    ),
    "since_in_seconds": Plant(
        "A provider is asked for what changed since an instant in another unit: for everything.",
        (edit(youmail, "_pages", ("max(0, start.since_ms)", "max(0, start.since_ms) // 1000")),),
        quiet("youmail"),
        where=(youmail_of("entry", "contact"),),
    ),
}


def _careless(row: Any, volatile: frozenset[str] = frozenset()) -> str:
    """Hash what a row says, but for whether it was read."""
    return events.digest(row, volatile | {"readStatus"})


CONTENT: dict[str, Plant] = {
    "digest_lacks_a_field": Plant(
        "That something was read is no change.",
        (put(decide, "digest", _careless), put(invariants, "digest", _careless)),
        of("youmail", minutes=3, mutations=10),
        where=(youmail_of("entry"),),
    ),
    "wrong_hour": Plant(
        "A time is an hour off.",
        (
            edit(
                intelli,
                "_row",
                (
                    'iso(at_s * 1000),\n        "from"',
                    'iso(at_s * 1000 + 3600000),\n        "from"',
                ),
            ),
        ),
        of("intelli"),
    ),
    "field_lost": Plant(
        "A field is not told.",
        (edit(youmail, "_call", ('"durationMs": raw.get("length"),', "")),),
        of("youmail"),
        where=(youmail_of("entry"),),
    ),
    "signed_address": Plant(
        "What opens a recording is told.",
        (put(youmail, "without_query", lambda url: url),),
        of("youmail"),
        where=(youmail_of("entry"),),
    ),
    "context_is_news": Plant(
        "A call is told again whenever the user's own state changes.",
        (
            put(
                ringcentral.RingCentral,
                "streams",
                {
                    **ringcentral.STREAMS,
                    "presence": replace(ringcentral.STREAMS["presence"], volatile=frozenset()),
                },
            ),
        ),
        quiet("ringcentral", minutes=4, mutations=20, reconciles=False),
    ),
    "sequence_that_begins_at_one": Plant(
        "The sequence counts, and begins anew in a table that knows nothing.",
        (
            edit(
                _DELTA,
                "_write",
                ("max(self._state.seq, decided_ms)", "self._state.seq"),
            ),
        ),
    ),
    "revision_resets": Plant(
        "What comes back after its deletion begins at the first revision.",
        (
            edit(
                decide,
                "decide",
                ("(old.rev if old else 0)", "(old.rev if old and not old.gone else 0)"),
            ),
        ),
        quiet("youmail", minutes=5, mutations=10),
        where=(youmail_of("entry"), put(upstream.OfYouMail, "operations", _trash_or_restore)),
    ),
    "attribute_of_another_kind": Plant(
        "The attribute that subscribers filter by says another kind than the event.",
        (edit(Composer, "_attributes", ('"change": change.kind', '"change": "updated"')),),
    ),
    "newest_first": Plant(
        "What one decision tells is told newest first.",
        (edit(decide, "_latest", ("(row.at_ms, row.id)", "(-row.at_ms, row.id)")),),
        quiet("intelli", "youmail", mutations=12),
    ),
    "one_group": Plant(
        "All streams of a connection are one message group.",
        (put(events, "group_id", lambda connection, account, stream: connection),),
        of("ringcentral", "youmail", streams=3, mutations=12),
    ),
}

PLATFORM: dict[str, Plant] = {
    "back_while_at_work": Plant(
        "A job is handed out again while the function that has it is still at work.",
        (job_queues(visibility_s=30),),
    ),
    "given_up_at_once": Plant(
        "A job is a dead letter after one try.",
        (job_queues(receives=1),),
    ),
    "no_dead_letters": Plant(
        "A job that can never be done is tried for ever.",
        (job_queues(dead_letters="", receives=0),),
        of("youmail", "kirimdev", knobs=Knobs(poison=1.0)),
    ),
    "whole_batches": Plant(
        "What a function says of single messages is not heeded.",
        (functions(lambda one: replace(one, partial=False)),),
    ),
    "jobs_expire": Plant(
        "A job that a process died with is forgotten before it is tried again.",
        (job_queues(retention_s=300),),
        harsh("youmail", "kirimdev"),
    ),
    "seldom_scheduled": Plant(
        "The schedule fires every five minutes.",
        (deploy(_seldom),),
    ),
    "undelivered_lost": Plant(
        "What SNS cannot deliver is gone.",
        (deploy(_no_letters),),
        of("youmail", "intelli", knobs=Knobs(undelivered=0.3)),
    ),
    "no_permission_to_hasten": Plant(
        "The roles may not make a message visible sooner, and the code goes on without it.",
        (functions(without("sqs:ChangeMessageVisibility")),),
    ),
    "environment_of_another": Plant(
        "One function is told of another table.",
        (functions(_other_table),),
    ),
    "first_page_of_a_query": Plant(
        "Of a query only the first page is read.",
        (edit(state.State, "_query", ('if not answer.get("LastEvaluatedKey")', "if True")),),
        of("youmail", "intelli", accounts=2, knobs=Knobs(page_bytes=1)),
    ),
    "keys_left_unread": Plant(
        "Records that a batch read leaves over are taken for unknown.",
        (edit(state.State, "_batch_get", ("wanted = left", "wanted = []")),),
        of("youmail", "kirimdev", mutations=12, knobs=Knobs(left=0.6)),
    ),
    "time_not_looked_at": Plant(
        "A page is asked for however little time is left.",
        (put(drain, "PAGE_MS", 0),),
        of("youmail", "kirimdev", minutes=4, mutations=20, knobs=Knobs(slow=1.0)),
        where=SMALL,
    ),
}

#: How long to wait after a failure.
_WAIT = "min(interval_s * 2.0 ** min(failures - 1, 10), BACKOFF_S_MAX)"


def replayed(*names: str) -> Callable[[int], Scenario]:
    """Have everything told again."""
    return quiet(*names, replays=True, minutes=3)


REPLAYS: dict[str, Plant] = {
    "replay_forgotten": Plant(
        "An order to tell events again goes with a drain that does not tell them.",
        (edit(_DELTA, "_repeated", ("if since_ms is None or is_endless:", "if True:")),),
        replayed("youmail", "kirimdev"),
    ),
    "replay_done_with_first": Plant(
        "What asks for events to be told again is taken away before they are decided.",
        (
            edit(
                _DELTA,
                "_finish",
                ("self._ask_again(", "self._settle_replays(drain)\n    self._ask_again("),
            ),
        ),
        lambda seed: replace(rough(seed), replays=True),
    ),
    "replay_under_other_ids": Plant(
        "What is told again has an id of its own.",
        (
            edit(
                decide,
                "decide_again",
                ("_told_before(record))", "_told_before(record) + 1)"),
            ),
        ),
        replayed("youmail", "ringcentral"),
    ),
    "replay_without_deletions": Plant(
        "Deletions are not told again.",
        (edit(_DELTA, "_finish", ("records, deletions=True)", "records, deletions=False)")),),
        replayed("youmail"),
        where=(youmail_of("entry"), put(upstream.OfYouMail, "operations", _trash_or_restore)),
    ),
}

WAITING: dict[str, Plant] = {
    "retry_after_ignored": Plant(
        "Retry-After is not heeded.",
        (
            edit(
                due,
                "backoff_s",
                (
                    "max(wait_s, retry_after_s + round(jitter * min(retry_after_s, interval_s)))",
                    "wait_s",
                ),
            ),
        ),
        ailing("later", "youmail", "intelli", minutes=4),
    ),
    "rest_ignored_by_check": Plant(
        "A check asks for an account that is to be left alone.",
        (
            edit(
                pipeline,
                "_due_accounts",
                ("standing.paused or standing.not_before_ms > now_ms", "standing.paused"),
            ),
        ),
        ailing("silent", "youmail", "kirimdev", minutes=4),
    ),
    "rest_ignored_by_delta": Plant(
        "A delta asks for a stream that is to be left alone.",
        (edit(_DELTA, "_run", ("not_before_ms > self._world.clock()", "False")),),
        harsh("youmail", "intelli", knobs=REFUSED),
    ),
    "budget_ignored": Plant(
        "A budget that is used up is asked of all the same.",
        (put(Pollwire, "rest", lambda *args: None),),
        quiet("ringcentral", tight=True, accounts=2, interval_s=20, reconciles=False),
    ),
    "backoff_zero": Plant(
        "What fails is asked for again at once.",
        (edit(due, "backoff_s", (_WAIT, "0")),),
        ailing("refused", "youmail", "ringcentral", minutes=4),
    ),
    "backoff_endless": Plant(
        "What fails is asked for ever more rarely, without an end.",
        (edit(due, "backoff_s", (_WAIT, "interval_s * 2.0 ** min(failures - 1, 10)")),),
        ailing("odd", "youmail", "intelli", minutes=40),
    ),
    "outage_not_rested": Plant(
        "A provider that answers nobody is asked on.",
        (put(Pollwire, "note_silence", lambda *args: None),),
        ailing("silent", "youmail", "kirimdev", minutes=4, silence=True),
    ),
    "outage_not_counted": Plant(
        "A provider that answers nobody rests no longer the second time.",
        (edit(state.State, "note_outage", ("connection.outages + 1", "1")),),
        ailing("silent", "youmail", "kirimdev", minutes=16, silence=True),
    ),
    "outage_asked_to_wait": Plant(
        "How long a provider asks to be left alone is not heeded if it answers nobody.",
        (edit(Pollwire, "note_silence", ("self.jitter(), retry_after_s)", "self.jitter())")),),
        ailing("later", "youmail", "intelli", minutes=4, silence=True),
    ),
    "outage_for_ever": Plant(
        "That somebody answers again is not noted: one shard is checked, and no other.",
        (put(state.State, "note_answered", lambda *args: None),),
        ailing("silent", "youmail", "intelli", minutes=8, silence=True, shards=2, accounts=2),
    ),
    "stream_failures_forgotten": Plant(
        "A stream that fails again and again is asked for no more rarely.",
        (edit(_DELTA, "note_trouble", ("self._state.failures + 1", "1")),),
        ailing("odd", "youmail", "intelli", fetches=True, minutes=16),
    ),
    "stream_not_left_alone": Plant(
        "A stream whose answers cannot be read is asked for as if nothing had happened.",
        (put(_DELTA, "note_trouble", lambda *args: None),),
        ailing("odd", "youmail", "intelli", fetches=True, minutes=4),
    ),
    "budget_of_one_pauses_all": Plant(
        "An account whose own budget is used up has the connection paused.",
        (edit(Pollwire, "rest", ("if self.shares_rate(connection):", "if True:")),),
        quiet("ringcentral", tight=True, accounts=2, interval_s=20, reconciles=False),
    ),
    "watched_for_ever": Plant(
        "A message whose status is final is watched on.",
        (put(_DELTA, "_unwatch", lambda *args: None),),
        quiet("kirimdev", watches=True, reconciles=False, mutations=12),
    ),
    "one_silent_is_an_outage": Plant(
        "A provider that does not answer for one account is asked for no other.",
        (edit(pipeline, "_is_outage", ("if not all(", "if not any(")),),
        of(
            "youmail", "intelli", accounts=2, sick="silent", silence=True, reconciles=False,
            knobs=Knobs(), minutes=4,
        ),
    ),
    "late_check_done": Plant(
        "Checks that pile up are done one after the other.",
        (put(due, "is_late", lambda job, now_ms: False),),
        of("youmail", "intelli", knobs=Knobs(late=0.8)),
    ),
    "notified_if_due_only": Plant(
        "A quiet account is not checked when its provider tells of a change.",
        (edit(pipeline, "_due_accounts", ("bool(job.account) or due.is_due", "due.is_due")),),
        scenario.prompt,
    ),
    "second_notification_lost": Plant(
        "What a provider tells within five seconds of a check is not looked for.",
        (edit(state, "pushed_due_ms", ("min(said_ms, now_ms) + apart_ms", "now_ms - apart_ms")),),
        scenario.prompt,
    ),
    "deltas_unpaced": Plant(
        "Deltas ask as fast as they can.",
        (put(Pollwire, "await_turn", lambda *args: None),),
        of("youmail", "kirimdev", rate=1.0, mutations=12),
    ),
    "checks_take_it_all": Plant(
        "Checks leave nothing of the rate to deltas.",
        (edit(due, "requests_per_second", ("* (1 - DELTAS_SHARE)", "")),),
    ),
    "failures_forgotten": Plant(
        "A failure takes the place of the one before, instead of being one more.",
        (edit(state.State, "note_failure", ("ADD failures :one", ", failures = :one")),),
        ailing("odd", "youmail", "intelli", minutes=16),
    ),
    "listed_at_every_check": Plant(
        "Every check has every stream listed from end to end.",
        (
            edit(pipeline, "_full", ("if due.reconciles(", "if True or due.reconciles(")),
            edit(pipeline, "_due_accounts", (".items() if stream.reconcile_s]", ".items()]")),
        ),
        scenario.calm,
    ),
    "marks_without_end": Plant(
        "Marks of a stream that does not come on pile up.",
        (edit(marks, "_oldest", ("+ 1 - PENDING_PER_STREAM_MAX", "- 1000")),),
        harsh("youmail", "intelli", small=True, minutes=6, mutations=40, knobs=REFUSED),
    ),
    "token_for_everybody": Plant(
        "Every worker gets an access token of its own.",
        (put(state.State, "put_token", lambda *args: None),),
        quiet("ringcentral", reconciles=False),
    ),
    "pushed_as_often_as_told": Plant(
        "Every notification is a check.",
        (put(state, "pushed_due_ms", lambda last_ms, said_ms, now_ms: now_ms),),
        scenario.pushed,
    ),
    "pushed_twice_at_once": Plant(
        "Of two notifications at the same time each claims the account.",
        (edit(state.State, "claim_push", ("AND {same}", "AND (attribute_exists(pk) OR {same})")),),
        scenario.pushed,
    ),
    "sick_one_stops_all": Plant(
        "Whoever fails has the connection paused.",
        (
            edit(
                Pollwire,
                "leave_alone",
                ("isinstance(error, RateLimited) and self.shares_rate(connection)", "True"),
                ("max(error.retry_after_s, 1)", "300"),
            ),
        ),
        of(
            "youmail", "intelli", accounts=2, sick="odd", reconciles=False, knobs=Knobs(),
            minutes=4,
        ),
    ),
}  # fmt: skip


def drawn(family: str, *names: str, **fields: Any) -> Callable[[int], Scenario]:
    """Draw it as a family does, for one of some providers."""
    return lambda seed: replace(
        getattr(scenario, family)(seed), upstreams=(names[seed % len(names)],), **fields
    )


#: One thing happens when all else has been read.
ALONE = put(scenario, "ALONE", 1)

PRESENCE = put(upstream.OfRingCentral, "streams", ("presence",))

PROVIDERS: dict[str, Plant] = {
    "marks_only_rise": Plant(
        "A composite answer that says less than the one before is no change.",
        (
            edit(
                youmail.YouMail,
                "check",
                (
                    "if stored and raw == stored",
                    "if stored and _composite(raw) <= _composite(stored)",
                ),
            ),
        ),
        drawn("calm", "youmail", mutations=1),
        where=(ALONE, youmail_of("contact")),
    ),
    "half_an_entitlement": Plant(
        "Of what stands in for the entitlements only one object is looked up.",
        (edit(youmail.YouMail, "delta", ('("account", "ecommerce")', '("account",)')),),
        where=(youmail_of("entitlement"),),
    ),
    "snapshot_forgotten": Plant(
        "A list without tombstones is taken for one that has them.",
        (
            put(
                youmail.YouMail,
                "streams",
                {
                    **youmail.STREAMS,
                    "greeting": replace(youmail.STREAMS["greeting"], snapshot=False),
                },
            ),
        ),
        quiet("youmail", mutations=12),
        where=(youmail_of("greeting"),),
    ),
    "pin_published": Plant(
        "What opens a mailbox is told with its settings.",
        (put(youmail, "SECRETS", ()),),
        where=(youmail_of("settings"),),
    ),
    "refused_token_kept": Plant(
        "A token that is refused before its time is used until then.",
        (edit(ringcentral._Session, "get", ("token.refuse(used)", "pass")),),
        drawn("calm", "ringcentral"),
        where=(ALONE,),
    ),
    "seven_calls_are_all": Plant(
        "A call that is not among the seven that are listed has ended.",
        (edit(ringcentral, "_lists_all", ("len(listed) < CALLS_MAX", "True")),),
        quiet("ringcentral", mutations=12),
        where=(PRESENCE,),
    ),
    "intermediate_is_the_end": Plant(
        "A call that goes on elsewhere has ended.",
        (
            edit(
                ringcentral,
                "_call",
                ('str(raw.get("terminationType")).lower() == "final" and ', ""),
            ),
        ),
        quiet("ringcentral", mutations=12),
        where=(PRESENCE,),
    ),
    "ids_of_ends_as_numbers": Plant(
        "Ids within a message are told as numbers that no float can hold.",
        (put(ringcentral, "END_IDS", ()),),
    ),
    "mark_is_the_newest": Plant(
        "A mark is the time of the newest change; a deletion has none.",
        (edit(ringcentral, "_check_messages", ("[sync.token, *sorted(found)]", "[]")),),
        drawn("calm", "ringcentral"),
        where=(ALONE, put(upstream.OfRingCentral, "streams", ("message-store",))),
    ),
    "etag_of_the_future": Plant(
        "A validator is sent though a row of the future has made it.",
        (
            edit(
                kirimdev,
                "_check_conversations",
                ('"" if _is_ahead(rows, response.date_ms) else etag', "etag"),
            ),
        ),
        of("kirimdev", mutations=8, knobs=Knobs(lost=0.01)),
        where=(ALONE, put(scenario, "SETTLED", 1)),
    ),
    "check_in_inbox_order": Plant(
        "A check looks at the first conversations of the inbox, not at what changed last.",
        (
            edit(
                kirimdev,
                "_check_conversations",
                ("CHECK_QUERY", '{"limit": CHECK_QUERY["limit"]}'),
            ),
        ),
        drawn("paged", "kirimdev", reconciles=False, mutations=8),
        where=(ALONE, put(scenario, "SETTLED", 1)),
    ),
    "flipped_back_twice": Plant(
        "A mark goes though what was read is not what the check saw: it is so again, and stays.",
        (edit(drain.Delta, "_settle", ("if self._is_unseen:", "if False:")),),
        drawn(
            "swarm",
            "ringcentral",
            flips=True,
            moving=0.8,
            interval_s=20,
            minutes=3,
            mutations=6,
            streams=1,
            tight=False,
            replays=False,
            knobs=Knobs(),
        ),
    ),
    "dead_cursor_kept": Plant(
        "A list goes on from a cursor that will never be valid again, however often it is refused.",
        (
            edit(
                kirimdev, "_page", ('Restart("conversations: the', 'Malformed("conversations: the')
            ),
            put(drain, "PLACE_TRIES", 10**9),
        ),
        drawn("paged", "kirimdev", hurried=True, reconciles=False),
    ),
    "status_goes_back": Plant(
        "A status is told as it comes, older ones too.",
        (edit(kirimdev, "_watched", ("rank=RANKS.get(status, 0)", "rank=0")),),
        drawn("calm", "kirimdev", watches=True, mutations=16),
    ),
    "bad_rows_unnoted": Plant(
        "A row that nobody can read is passed over without a word.",
        (edit(youmail, "rows_of", ("bad.append(_bad_row(raw_row, str(error)))", "pass")),),
        quiet("youmail", mutations=12),
    ),
    "jobs_of_one_group": Plant(
        "The jobs of all accounts wait for each other.",
        (edit(queues, "_delta_entry", ("job.account, job.stream", '"", job.stream')),),
        quiet("ringcentral", "youmail", accounts=2, mutations=8),
    ),
    "anybody_notifies": Plant(
        "Who signs a notification with any secret is believed.",
        (
            edit(
                kirimdev,
                "_signed_s",
                ("not any(is_same(value, wanted.hexdigest()) for value in sent)", "not sent"),
            ),
        ),
        drawn("pushed", "kirimdev"),
    ),
    "budget_of_each": Plant(
        "An account goes on asking when its organisation's budget is used up.",
        (put(kirimdev.Kirimdev, "shares_rate", False),),
        of("kirimdev", tight=True, accounts=2, interval_s=20, reconciles=False),
    ),
}

PLANTS: dict[str, Plant] = {
    **OUTBOX, **CURSOR, **MARKS, **DELETIONS, **ACCOUNTS, **OTHERS, **CUSTODY, **CONTENT,
    **PLATFORM, **WAITING, **REPLAYS, **PROVIDERS,
}  # fmt: skip
