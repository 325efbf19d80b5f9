"""The cost model: its counts are those of the real handlers, on another stand-in for AWS."""

from __future__ import annotations

import math
import random
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
from pollwire import due

from tests.bench import cost
from tests.bench.deployment import Deployment
from tests.bench.month import MONTH_S, Load, Work, batches, month, monthly, opened, used
from tests.bench.pieces import combined, measure
from tests.integration.system import ANN, BOB, SHOP

BUSY = Load(100_000, interval_s=60, slowest_s=900, changes_per_day=20, latency_ms=50)
IDLE = replace(BUSY, changes_per_day=0)


@pytest.fixture(scope="module")
def pieces():
    """Measured once, on the simulation's stand-in for AWS."""
    return measure(accounts=5, rounds=1)


@pytest.fixture
def counted(system, clients, monkeypatch):
    """The system on moto, and a context in which its functions' calls are counted."""
    calls: Counter[str] = Counter()
    is_counting = False

    def count(model, **rest):
        if is_counting:
            calls[f"calls.{model.service_model.service_name}.{model.name}"] += 1

    real = system.invoke

    def invoke(stage, event):
        nonlocal is_counting
        is_counting = True
        try:
            return real(stage, event)
        finally:
            is_counting = False

    monkeypatch.setattr(system, "invoke", invoke)

    @contextmanager
    def counting():
        calls.clear()
        yield calls

    services = [clients(name) for name in ("dynamodb", "sqs", "sns", "kms")]
    for client in services:
        client.meta.events.register("before-call", count)
    yield system, counting
    for client in services:
        client.meta.events.unregister("before-call", count)


def forget(system):
    """Forget what the container has in memory of credentials, as if it were another one."""
    system.world.tokens.clear()
    system.world.sealer._opened.clear()


def expected(pieces, **times):
    """What the model says of the calls."""
    usage = used(pieces, Work(**times))
    rounded = {name: round(n, 6) for name, n in usage.items() if name.startswith("calls.")}
    return {name: n for name, n in rounded.items() if n}


@pytest.fixture
def rested(counted):
    """Two accounts whose last change is long ago, and whose access tokens have ended."""
    system, counting = counted
    # At once: what a delta waits for is no part of the model.
    system.connect(replace(SHOP, requests_per_second=100_000))
    for account in (ANN, BOB):
        system.add_account(account)
    system.rest()
    for account in (ANN, BOB):
        system.simulator.call(account)
    system.rest()
    system.clock.advance(6 * 3600)
    return system, counting


def test_checks_that_find_nothing(pieces, rested):
    system, counting = rested

    with counting() as calls:
        for _ in range(3):
            system.clock.advance(60)
            system.check()

    assert calls == expected(pieces, check=3, poll=6)


def test_a_minute_of_many_checks(pieces, rested):
    system, counting = rested
    system.connect(replace(SHOP, name="large", shards=32))

    with counting() as calls:
        system.tick()

    assert calls == expected(pieces, tick=1, batch=math.ceil(33 / 10))


def test_changes_until_their_marks_are_settled(pieces, rested):
    system, counting = rested
    forget(system)
    for account in (ANN, BOB):
        system.simulator.call(account)

    with counting() as calls:
        system.poll()
        system.poll()
        forget(system)
        system.poll()

    assert system.pending(ANN) == system.pending(BOB) == set()
    assert len(system.deliveries()) == 4  # with those of the fixture
    # Two workers' memory: the first job of each account opened its credential, and so did the last.
    work = Work(check=3, step=2, send=3, news=2, again=2, last=2, opens=4, renewal=2)
    assert calls == expected(pieces, **vars_of(work))


def vars_of(work):
    return {name: getattr(work, name) for name in work.__dataclass_fields__}


def test_hours_of_five_accounts_use_what_the_model_says(pieces):
    """Not each piece alone: all of them together, with changes at random instants."""
    hours = 4
    load = Load(5, interval_s=60, slowest_s=900, changes_per_day=100, latency_ms=50)
    total: Counter[str] = Counter()
    changes = invocations = 0
    with ExitStack() as stack:
        deployment = Deployment(stack)
        calls = Calls(deployment, load.changes_per_s)
        for _ in range(10):  # What is read again goes back for hours.
            deployment.advance(1800)
            calls.due()
            deployment.rest()
        deployment.pace(load.slowest_s)
        for _ in range(hours * 60):
            deployment.advance(60)
            changes += calls.due()
            check, deltas = deployment.check(), deployment.deltas(5)
            invocations += len(deltas)
            for usage in (check, *deltas):
                total.update(usage)

    day = replace(load, changes_per_day=changes / 5 * 24 / hours)
    share = hours * 3600 / MONTH_S
    work = replace(monthly(day, workers=1), tick=0, batch=0)
    usage = combined((share, used(pieces, work)))
    assert invocations == pytest.approx(work.invocation * share, rel=0.1)
    for name in ("dynamodb.write_units", "sns.published", "sqs.fifo_requests", "check.polls"):
        assert total[name] == pytest.approx(usage[name], rel=0.1)
    # How many rows are read again is a matter of chance in so short a time.
    assert total["dynamodb.read_units"] == pytest.approx(usage["dynamodb.read_units"], rel=0.25)
    # The model has every change's first job open its token, and its credential once an hour; one
    # worker for five accounts has most of them in memory.
    assert 0.25 < total["kms.requests"] / usage["kms.requests"] < 1


class Calls:
    """Calls of a deployment's accounts, at random instants."""

    def __init__(self, deployment, per_s):
        self.deployment, self.per_s, self.chance = deployment, per_s, random.Random(3)
        now_s = deployment.clock() / 1000
        self.next_s = {account: now_s + self.wait_s() for account in deployment.ids}

    def wait_s(self):
        return self.chance.expovariate(self.per_s)

    def due(self):
        """Have those calls whose time has come; return how many."""
        calls = 0
        for account in self.next_s:
            while self.next_s[account] * 1000 <= self.deployment.clock():
                self.deployment.provider.call(account)
                self.next_s[account] += self.wait_s()
                calls += 1
        return calls


def test_a_change_is_followed_until_it_is_settled(pieces):
    """The jobs that the model has for a change are those that a change has."""
    assert BUSY.follow_ups == 2
    assert replace(BUSY, interval_s=10).follow_ups == 12
    assert replace(BUSY, interval_s=600).follow_ups == 1


def test_quiet_accounts_are_polled_as_the_schedule_says():
    slowest_s = IDLE.rarest_s
    instants = range(0, slowest_s * 1000, IDLE.interval_s * 1000)
    polls = sum(due.is_due("1", at_ms, 10**12, 60, 900) for at_ms in instants)

    assert polls == 1
    assert IDLE.polls_per_s == pytest.approx(1 / slowest_s)


def test_busy_accounts_are_polled_as_the_schedule_says():
    chance = random.Random(1)
    changed_ms, polls, end_ms = 0, 0, 400 * 86_400_000
    next_ms = chance.expovariate(BUSY.changes_per_s) * 1000
    for at_ms in range(0, end_ms, BUSY.interval_s * 1000):
        while next_ms <= at_ms:
            changed_ms, next_ms = next_ms, next_ms + chance.expovariate(BUSY.changes_per_s) * 1000
        polls += due.is_due("1", at_ms, int(at_ms - changed_ms), BUSY.interval_s, BUSY.slowest_s)

    assert polls / (end_ms / 1000) == pytest.approx(BUSY.polls_per_s, rel=0.02)


@pytest.mark.parametrize(("mean", "size"), [(0.01, 10), (1, 10), (7.5, 5), (42, 5), (500, 10)])
def test_batches_of_a_number_by_chance(mean, size):
    chance = random.Random(2)
    # A count of arrivals at random instants.
    drawn = [poisson(chance, mean) for _ in range(4_000)]

    average = sum(math.ceil(number / size) for number in drawn) / len(drawn)
    assert batches(mean, size) == pytest.approx(average, rel=0.05, abs=0.005)


def poisson(chance, mean):
    number, at = 0, chance.expovariate(1)
    while at < mean:
        number, at = number + 1, at + chance.expovariate(1)
    return number


def test_a_worker_alone_opens_a_credential_once():
    assert opened(BUSY, workers=1) == 1
    assert opened(BUSY, workers=10**9) == pytest.approx(3)
    assert opened(replace(BUSY, interval_s=600), workers=1) == 2  # By then it is forgotten.


def test_nothing_is_written_for_accounts_to_which_nothing_happens(pieces):
    amounts = month(pieces, IDLE).amounts

    assert amounts["dynamodb.write_units"] == 0
    assert amounts["sns.published"] == 0
    assert amounts["lambda.requests"] == 43_800 + 128 * 43_800


def test_all_that_is_charged_has_a_price_and_the_other_way_round(pieces):
    uncharged = ("calls.", "schedule.", "check.", "delta.")
    charged = {name for name in month(pieces, BUSY).amounts if not name.startswith(uncharged)}

    assert charged == set(cost.PRICES["prices"])


def test_every_change_is_an_event_that_each_subscription_gets(pieces):
    amounts = month(pieces, BUSY).amounts

    changes = 100_000 * 20 * MONTH_S / 86_400
    work = monthly(BUSY, workers=1)
    assert work.news + work.more == pytest.approx(changes)
    assert amounts["sns.published"] == amounts["sns.delivered"] == pytest.approx(changes)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("ACCOUNTS=abc", "cost: ACCOUNTS is a number from 1 to 10,000,000, as in ACCOUNTS=100000"),
        ("ACCOUNTS=1.5", "cost: ACCOUNTS is a whole number, as in ACCOUNTS=100000"),
        ("INTERVAL=0", "cost: INTERVAL is a number from 1 to 86,400, as in INTERVAL=60"),
        ("SLOWEST=59", "cost: SLOWEST is a number from 60 to 86,400, as in SLOWEST=900"),
        ("CHANGES_PER_DAY=nan", "cost: CHANGES_PER_DAY is a number from 0 to 1,000, as in "),
        ("LATENCY_MS=-5", "cost: LATENCY_MS is a number from 1 to 10,000, as in LATENCY_MS=50"),
        ("ACCOUNT=5", "cost: ACCOUNT is none of ACCOUNTS, "),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(word, told, capsys):
    with pytest.raises(SystemExit) as refused:
        cost.asked([word])

    assert refused.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(told)
    assert error.count("\n") == 1
