"""
What opens something, and what people said, is known wherever it is seen.
"""

from __future__ import annotations

import base64
import json

import pytest
from pollwire.model import CheckJob, DeltaJob

from tests.simulation import custody
from tests.simulation.custody import impersonal, is_probed, without_secrets
from tests.simulation.deployed import deployed
from tests.simulation.upstream import CANARY
from tests.simulation.world import Broken, Process

SECRET = f"{CANARY}-youmail-10000000000-secret"
DELTA = DeltaJob("youmail", 0, "10000000000", "entry", ("entry@1@2",), 1)
CHECK = CheckJob("youmail", 0, 1, 60)


def process(job, account=""):
    spec = next(iter(deployed().functions.values()))
    return Process(spec, 0, 0, frozenset(), lambda answer: None, job=job, account=account)


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize(
    "written",
    [
        pytest.param(lambda text: text, id="plain"),
        pytest.param(lambda text: json.dumps({"a": [text]}), id="json"),
        pytest.param(lambda text: str(text.encode()), id="bytes"),
        pytest.param(lambda text: base64.b64encode(text.encode()).decode(), id="base64"),
        pytest.param(lambda text: text.encode().hex(), id="hex"),
    ],
)
def test_a_secret_is_seen_however_it_is_written(written, shift):
    with pytest.raises(Broken, match="I7"):
        without_secrets("a log", f"{written('x' * shift + SECRET)} and more")


def test_what_is_no_secret_is_none():
    without_secrets("a log", base64.b64encode(bytes(range(256))).decode())


@pytest.mark.parametrize("said", ["v00012", '{"from": "4255550111"}', "+141500012", "Budi"])
def test_what_people_say_is_seen(said):
    with pytest.raises(Broken, match="I7"):
        impersonal("a log", f"told {said}.")


def test_ids_marks_and_times_are_not_personal():
    impersonal("a log", "10000000000 entry@1800000000000@1800000000000 cnv_0000 7654320@reseller")


def test_one_run_in_twelve_is_probed_whatever_its_family():
    for first in range(8):
        share = sum(is_probed(seed) for seed in range(first, 8_000, 8)) / 1_000
        assert 1 / 15 < share < 1 / 10


@pytest.mark.parametrize(
    ("pk", "sk"),
    [
        ("connection", "youmail"),
        ("shard#youmail#0", "10000000000"),
        ("stream#youmail#10000000000#entry", "r#1"),
        ("token#youmail", "10000000000"),
        ("token#youmail", "*"),
    ],
)
def test_a_delta_may_touch_what_is_of_its_account(pk, sk):
    assert custody._is_own(process(DELTA), pk, sk)


@pytest.mark.parametrize(
    ("pk", "sk"),
    [
        ("connection", "intelli"),
        ("shard#youmail#0", "10000000001"),
        ("shard#youmail#1", "10000000000"),
        ("stream#youmail#10000000001#entry", "r#1"),
        ("stream#youmail#10000000000#contact", "cursor"),
        ("token#youmail", "10000000001"),
    ],
)
def test_a_delta_may_touch_nothing_else(pk, sk):
    assert not custody._is_own(process(DELTA), pk, sk)


def test_a_check_may_touch_its_shard_and_the_token_of_whom_it_asks_for():
    at_work = process(CHECK, "10000000001")

    assert custody._is_own(at_work, "shard#youmail#0", "10000000000")
    assert custody._is_own(at_work, "token#youmail", "10000000001")
    assert not custody._is_own(at_work, "token#youmail", "10000000000")
    assert not custody._is_own(at_work, "stream#youmail#10000000001#entry", "cursor")
