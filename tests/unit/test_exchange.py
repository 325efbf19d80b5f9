"""Promises of pollwire.exchange."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pollwire.errors import Malformed
from pollwire.exchange import Response

quick = settings(database=None, deadline=None, max_examples=200)

# JSON


def parse(body: bytes | str):
    return Response(200, body=body if isinstance(body, bytes) else body.encode()).json()


@pytest.mark.parametrize(
    ("body", "parsed"),
    [
        pytest.param("{}", {}, id="empty object"),
        pytest.param(
            '{"a": [1, 1.5, true, null, "x"]}', {"a": [1, 1.5, True, None, "x"]}, id="values"
        ),
        pytest.param(b'\xef\xbb\xbf{"a": 1}', {"a": 1}, id="byte order mark"),
        pytest.param('{"a": "é"}'.encode("utf-16"), {"a": "é"}, id="UTF-16"),
        pytest.param('{"id": 9223372036854775809}', {"id": 2**63 + 1}, id="large integer"),
        pytest.param('{"a": "\\ud800"}', {"a": "\ud800"}, id="lone surrogate"),
        pytest.param(
            '{"a": {"id": 1}, "b": {"id": 2}}', {"a": {"id": 1}, "b": {"id": 2}}, id="key in two"
        ),
    ],
)
def test_an_object_is_parsed(body, parsed):
    assert parse(body) == parsed


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("", id="empty"),
        pytest.param('{"a": 1', id="cut short"),
        pytest.param('{"a": 1}x', id="trailing garbage"),
        pytest.param("<html>login</html>", id="HTML"),
        pytest.param("null", id="null"),
        pytest.param("[]", id="list"),
        pytest.param('"text"', id="text"),
        pytest.param('{"a": 1, "a": 2}', id="key repeated"),
        pytest.param('{"x": [{"a": 1, "a": 1}]}', id="key repeated deep inside"),
        pytest.param('{"a": NaN}', id="not a number"),
        pytest.param('{"a": Infinity}', id="infinity"),
        pytest.param('{"a": -Infinity}', id="negative infinity"),
        pytest.param('{"a": 1e999}', id="number out of range"),
        pytest.param('{"a": -1e999}', id="negative number out of range"),
        pytest.param('{"a": ' + "9" * 5_000 + "}", id="five thousand digits"),
        pytest.param('{"a": ' + "[" * 100_000, id="nested too deep"),
        pytest.param('{"a": ' * 100_000, id="objects nested too deep"),
        pytest.param('{"a": "é"}'.encode("latin-1"), id="Latin-1"),
        pytest.param(b'{"a": "\x00"}', id="control character"),
        pytest.param(b"\x1f\x8b\x08\x00", id="gzip"),
    ],
)
def test_what_is_no_object_is_malformed(body):
    with pytest.raises(Malformed):
        parse(body)


def test_a_malformed_body_is_not_quoted():
    with pytest.raises(Malformed) as caught:
        parse('{"password": "canary"')

    assert "canary" not in str(caught.value)


# The provider's clock


@pytest.mark.parametrize(
    ("headers", "date_ms"),
    [
        pytest.param(
            {"date": "Wed, 26 Oct 2016 16:44:49 GMT"}, 1_477_500_289_000, id="as HTTP writes it"
        ),
        pytest.param(
            {"date": "Wed, 26 Oct 2016 18:44:49 +0200"}, 1_477_500_289_000, id="with an offset"
        ),
        pytest.param({"date": "Wed, 26 Oct 2016 16:44:49"}, 1_477_500_289_000, id="without a zone"),
        pytest.param({}, None, id="missing"),
        pytest.param({"date": ""}, None, id="empty"),
        pytest.param({"date": "soon"}, None, id="no date"),
        pytest.param({"date": "Wed, 31 Feb 2016 16:44:49 GMT"}, None, id="no day"),
        pytest.param({"date": "Wed, 26 Oct 99999 16:44:49 GMT"}, None, id="no year"),
    ],
)
def test_the_providers_clock_is_read_from_its_answer(headers, date_ms):
    assert Response(200, headers).date_ms == date_ms


dates = st.one_of(
    st.text(max_size=60),
    st.text("WedOctGM 0123456789:,+-", max_size=40),
    st.builds(
        "{}, {} {} {} {}:{}:{} {}".format,
        st.sampled_from(["Wed", "X", ""]),
        st.integers(-1, 40),
        st.sampled_from(["Oct", "Feb", "Foo", "13"]),
        st.integers(-1, 99_999),
        st.integers(-1, 30),
        st.integers(-1, 70),
        st.integers(-1, 70),
        st.sampled_from(["GMT", "+9999", "-9999", "+1400", "EST", "", "Z", "+99999999"]),
    ),
)


@quick
@given(date=dates)
def test_no_date_whatsoever_stops_an_answer(date):
    assert isinstance(Response(200, {"date": date}).date_ms, int | None)


# Rate budgets


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        pytest.param({}, 0, id="nothing said"),
        pytest.param(
            {"x-rate-limit-remaining": "1", "x-rate-limit-window": "60"}, 0, id="one left"
        ),
        pytest.param({"x-rate-limit-remaining": "0", "x-rate-limit-window": "60"}, 60, id="window"),
        pytest.param({"x-ratelimit-remaining": "0", "x-ratelimit-window": "9"}, 9, id="other name"),
        pytest.param({"x-ratelimit-remaining": " 0 ", "x-ratelimit-reset": "7"}, 7, id="spaces"),
        pytest.param({"x-ratelimit-remaining": "0"}, 1, id="not said until when"),
        pytest.param({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "x"}, 1, id="nonsense"),
        pytest.param({"x-ratelimit-remaining": "x", "x-ratelimit-reset": "7"}, 0, id="no number"),
        pytest.param({"x-ratelimit-remaining": "0", "x-ratelimit-window": "0"}, 1, id="at once"),
        pytest.param(
            {"x-ratelimit-remaining": "0", "x-ratelimit-window": "9999999"}, 3600, id="an hour"
        ),
        pytest.param(
            {
                "x-ratelimit-remaining": "0",
                "x-ratelimit-reset": "1782000042",
                "date": "Sun, 21 Jun 2026 00:00:00 GMT",
            },
            42,
            id="an instant",
        ),
        pytest.param(
            {
                "x-ratelimit-remaining": "0",
                "x-ratelimit-reset": "1781999000",
                "date": "Sun, 21 Jun 2026 00:00:00 GMT",
            },
            1,
            id="an instant of the past",
        ),
        pytest.param(
            {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1782000042"}, 60, id="no clock"
        ),
    ],
)
def test_an_answer_says_for_how_long_its_budget_is_used_up(headers, wait_s):
    assert Response(200, headers, b"{}").spent_s == wait_s
