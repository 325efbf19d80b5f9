"""Promises of the pure part of pollwire.world."""

from __future__ import annotations

import pytest
from pollwire.items import Standing
from pollwire.secrets import Sealed
from pollwire.world import watched

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("elements", "ids"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([f"{NOW_MS + 1}@m1"], ["m1"], id="until later"),
        pytest.param([f"{NOW_MS}@m1"], [], id="until now"),
        pytest.param([f"{NOW_MS - 1}@m1"], [], id="over"),
        pytest.param([f"{NOW_MS + 1}@m1", f"{NOW_MS - 1}@m2"], ["m1"], id="one of two"),
        pytest.param([f"{NOW_MS + 1}@m1", f"{NOW_MS - 1}@m1"], ["m1"], id="prolonged"),
        pytest.param([f"{NOW_MS + 1}@a@b@c"], ["a@b@c"], id="an id with the separator"),
    ],
)
def test_an_id_is_watched_until_its_end(elements, ids):
    standing = Standing("7", watched=frozenset(elements))

    assert watched(standing, NOW_MS) == frozenset(ids)


def test_a_credential_is_opened_by_who_looks_into_it_and_shown_to_nobody_else():
    opened = []

    def open_it():
        opened.append(1)
        return {"password": "canary"}

    credential = Sealed(open_it)

    assert (repr(credential).count("canary"), opened) == (0, [])
    assert dict(credential) == {"password": "canary"}
    assert opened
