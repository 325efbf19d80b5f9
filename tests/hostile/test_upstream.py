"""Hostile answers of providers, each from the socket or the simulator to the subscriber's queue."""

from __future__ import annotations

import gzip
import itertools
import json
import socket
import threading
from dataclasses import replace

import pytest
from pollwire import marks
from pollwire.events import iso
from pollwire.model import DeltaJob
from pollwire.providers import iso_ms

from tests.hostile.pipeline import case, edits, says, swaps
from tests.hostile.servers import Server, answer, make_certificate
from tests.hostile.servers import says as sends
from tests.integration.system import ANN, BOB, PASSWORD, SHOP

PROVIDERS = ("youmail", "intelli", "kirimdev", "ringcentral")
ROOTS = {
    "youmail": "contacts",
    "intelli": "incomingMessages",
    "kirimdev": "data",
    "ringcentral": "records",
}
FOREVER = 10**6
CHECK = ("check", "delta")
LOGIN = b"<html><body>Sign in, canary</body></html>"


# A: status and headers


@pytest.mark.parametrize(
    ("provider", "at"),
    [
        pytest.param("youmail", "check", id="A1-login-page"),
        *[pytest.param(one, "delta", id=f"A1-login-page-{one}") for one in PROVIDERS],
    ],
)
def test_a_login_page_is_no_answer(stage, provider, at):
    stage(provider).fails(says(LOGIN, content_type="text/html"), at, counted="malformed")


@pytest.mark.parametrize(
    ("status", "counted", "at"),
    [
        pytest.param(3, "rejected", "delta", id="A2-status-3-delta"),
        *[
            pytest.param(status, counted, "check", id=f"A2-status-{status}")
            for status, counted in [
                *((1, "misconfigured"), (2, "misconfigured"), (3, "rejected"), (4, "rejected")),
                *((200, "rejected"), (220, "rejected"), (9999, "unavailable"), (77, "malformed")),
            ]
        ],
    ],
)
def test_a_status_in_the_body_counts_whatever_http_says(stage, status, counted, at):
    body = json.dumps({"status": status, "text": "canary"}).encode()
    stage("intelli").fails(says(body), at, counted=counted)


@pytest.mark.parametrize(
    ("provider", "status", "at"),
    [
        pytest.param("youmail", 200, "check", id="A3-youmail-200"),
        pytest.param("youmail", 204, "delta", id="A3-youmail-204"),
        pytest.param("intelli", 204, "check", id="A3-intelli-204"),
        pytest.param("kirimdev", 200, "delta", id="A3-kirimdev-200"),
        pytest.param("ringcentral", 204, "check", id="A3-ringcentral-204"),
    ],
)
def test_nothing_is_not_no_changes(stage, provider, status, at):
    stage(provider).fails(says(b"", status), at)


@pytest.mark.parametrize(
    ("provider", "at"),
    [
        pytest.param("kirimdev", "check", id="A4-list-304"),
        pytest.param("youmail", "delta", id="A4-lookup-304"),
        pytest.param("ringcentral", "delta", id="A4-sync-304"),
    ],
)
def test_a_304_that_nobody_asked_for_is_no_answer(stage, provider, at):
    knobs = {} if provider == "ringcentral" else {"validators": False}
    stage(provider, **knobs).fails(says(b"", 304), at)


@case("A4-unasked-304-youmail")
def test_a_composite_that_nobody_has_a_validator_of_is_not_unchanged(stage):
    stage("youmail", validators=False).fails(says(b"", 304))


@case("A5-stuck-etag-youmail")
def test_a_composite_that_is_unchanged_for_ever_hides_nothing_for_ever(stage):
    scene = stage("youmail")
    mine = scene.change(ANN)

    def stick(real):
        asked = scene.system.http.asked[-1].headers
        return (304, real[1], b"") if "If-None-Match" in asked else real

    scene.lie(stick, times=FOREVER)
    told = []
    for _ in range(65):
        scene.poll(60)
        told += scene.said()

    assert told == [scene.created(ANN, mine)]


@case("C35-20-digits")
def test_a_composite_of_more_digits_than_a_time_has_is_none(shop):
    shop.fails(says(",".join(["9" * 20] * 8).encode()), counted="malformed")


@pytest.mark.parametrize(
    ("provider", "date"),
    [
        pytest.param(provider, date, id=f"X3-{provider}-date-{number}")
        for provider in ("kirimdev", "intelli")
        for number, date in enumerate(
            ("Thu, 01 Jan 99999999999 00:00:00 GMT", "Thu, 01 Jan 2027 00:00:00 +99999999999999")
        )
    ],
)
def test_a_date_that_is_none_is_not_believed(stage, provider, date):
    scene = stage(provider)
    for at in ("check", "delta"):
        scene.lie(lambda real: (real[0], {**real[1], "date": date}, real[2]), at, FOREVER)
    mine = scene.change(scene.bad)
    scene.tells(scene.created(scene.bad, mine))


@case("A4-304-with-a-body")
def test_what_comes_with_a_304_is_ignored(shop):
    shop.poll(900)  # What is stored is old enough for its validator to be sent.
    shop.lie(says(b"9,9,9,9,9,9,9,9", 304))
    marks = shop.standing().marks

    shop.poll()

    assert (shop.said(), shop.standing().marks, shop.standing().failures) == ([], marks, 0)
    contact = shop.change(ANN)
    shop.tells(shop.created(ANN, contact))


@case("A5-stuck-etag")
def test_a_304_for_ever_hides_nothing_for_ever(stage):
    scene = stage("kirimdev")
    mine = scene.change(scene.bad)

    def stick(real):
        conditional = "If-None-Match" in scene.system.http.asked[-1].headers
        return (304, real[1], b"") if conditional else real

    scene.lie(stick, times=FOREVER)
    scene.tells(scene.created(scene.bad, mine), rounds=62)


@pytest.mark.parametrize(
    "etag",
    [
        pytest.param(None, id="A6-missing"),
        pytest.param('"' + "x" * 65_536 + '"', id="A6-64-KB"),
        pytest.param('"\x01"', id="A6-control-character"),
        pytest.param('"\xe9"', id="A6-latin-1"),
        pytest.param('"a\nb"', id="A6-line-feed"),
    ],
)
def test_an_etag_that_cannot_be_sent_back_is_not_kept(shop, etag):
    def reply(real):
        headers = {name: value for name, value in real[1].items() if name != "etag"}
        return real[0], headers if etag is None else {**headers, "etag": etag}, real[2]

    contact = shop.change(ANN)
    shop.lie(reply)
    shop.tells(shop.created(ANN, contact))
    shop.poll(180)
    checks = [one for one in shop.system.http.asked if one.url.endswith(f"/{ANN}")]
    assert "If-None-Match" not in checks[-1].headers
    assert len(shop.standing().marks) < 1_000


@case("A6-strong-becomes-weak")
def test_an_etag_that_becomes_weak_is_no_news(shop):
    def weak(real):
        return real[0], {**real[1], "etag": "W/" + real[1]["etag"]}, real[2]

    shop.lie(weak, times=FOREVER)
    contact = shop.change(ANN)
    shop.tells(shop.created(ANN, contact), rounds=6)


@pytest.mark.parametrize(
    ("provider", "at", "times", "status"),
    [
        pytest.param("youmail", "check", 1, 403, id="A7-composite"),
        pytest.param("youmail", "delta", 2, 403, id="A7-lookup"),
        pytest.param("intelli", "check", 1, 403, id="A7-intelli"),
        pytest.param("kirimdev", "check", 1, 401, id="A7-kirimdev"),
        pytest.param("ringcentral", "check", 2, 401, id="A7-ringcentral"),
        pytest.param("ringcentral", "check", 1, 403, id="A7-ringcentral-403"),
    ],
)
def test_a_refusal_is_one_accounts_only(stage, provider, at, times, status):
    stage(provider).fails(says(b'{"error": "canary"}', status), at, times=times)


@case("A7-no-hammering")
def test_an_account_that_is_refused_is_asked_ever_more_rarely(shop):
    refused = shop.lie(says(b"", 401), times=FOREVER)
    waits_s = []
    for _ in range(60):
        shop.poll(120)
        waits_s.append((shop.not_before_ms() - shop.system.clock()) / 1000)

    assert refused.used <= 15
    assert 400 <= max(waits_s) <= 900
    assert shop.standing(BOB).failures == 0
    shop.recovers(shop.change(ANN))


@case("A8-new-user")
def test_a_404_for_a_new_user_is_an_empty_account(shop):
    system = shop.system
    system.add_account("10000000003", SHOP, new_user=True, fields=",,contact")
    shop.poll()
    assert system.standing("10000000003").failures == 0
    contact = system.simulator.add_contact("10000000003")
    shop.tells(("10000000003", "contact", "created", contact))


@pytest.mark.parametrize(
    ("provider", "at"),
    [
        pytest.param("youmail", "check", id="A8-known-user"),
        pytest.param("youmail", "delta", id="A8-contacts"),
        pytest.param("kirimdev", "check", id="A8-conversations"),
        pytest.param("kirimdev", "delta", id="A8-conversations-delta"),
        pytest.param("ringcentral", "delta", id="A8-message-sync"),
    ],
)
def test_a_404_is_not_an_empty_list(stage, provider, at):
    stage(provider).fails(says(b"{}", 404), at)


@case("A8-greetings")
def test_a_404_of_a_whole_listing_deletes_nothing(stage):
    stage("youmail", stream="greeting").fails(says(b"{}", 404), "delta")


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("999999999", id="A9-years"),
        pytest.param("-5", id="A9-negative"),
        pytest.param("Wed, 21 Oct 2015 07:28:00 GMT", id="A9-past"),
        pytest.param("canary", id="A9-garbage"),
        pytest.param("9" * 5_000, id="A9-5000-digits"),
        pytest.param("Wed, 21 Oct 99999999999 07:28:00 GMT", id="A9-no-year"),
    ],
)
def test_how_long_to_wait_has_bounds(shop, value):
    mine = shop.change(ANN)
    shop.lie(says(b"", 429, retry_after=value))
    shop.poll()
    wait_ms = shop.not_before_ms() - shop.system.clock()
    assert 1_000 <= wait_ms <= 3_960_000
    asked = len(shop.hostile.asked)
    shop.poll(min(wait_ms / 1000 - 1, 40))
    assert not [one for one in shop.hostile.asked[asked:] if ANN in one or "4255000001" in one]
    shop.recovers(mine)


@pytest.mark.parametrize("at", [pytest.param(at, id=f"A10-{at}") for at in CHECK])
def test_hours_of_5xx_end_in_one_drain(shop, at):
    mine = shop.change(ANN)
    broken = shop.lie(says(b"canary", 503), at, times=FOREVER)
    for _ in range(72):
        shop.poll(300)
    assert 6 <= broken.used <= 60
    assert shop.not_before_ms() - shop.system.clock() <= 900_000
    assert shop.said() == []
    asked = len(shop.hostile.asked)
    shop.recovers(mine)
    drains = [one for one in shop.hostile.asked[asked:] if "/contacts/" in one]
    assert len(drains) <= 3  # one of them with a token that ran out meanwhile


@pytest.mark.parametrize(
    ("at", "status", "location"),
    [
        pytest.param("delta", "301 Moved", "{other}/x", id="A11-another-host"),
        pytest.param("check", "302 Found", "http://169.254.169.254/x", id="A11-metadata"),
        pytest.param("check", "307 Temporary", "{base}/api/v4/authenticate", id="A11-itself"),
        pytest.param("delta", "308 Permanent", "http://apipoll.youmail.com/", id="A11-plain-http"),
    ],
)
def test_a_redirect_is_not_followed(wired, status, location, at):
    with Server(sends(answer(b"{}"))) as other:
        scene = wired(other.base)
        base = scene.connection.hosts["api"]
        place = location.format(other=other.base, base=base)
        scene.fails(
            sends(answer(b"", f"Location: {place}", status=status)), at, counted="malformed"
        )
        assert other.requests == []


@pytest.mark.parametrize(
    ("flood", "at"),
    [
        pytest.param(b"".join(b"X-%d: y\r\n" % n for n in range(300)), "check", id="A12-300"),
        pytest.param(b"X: " + b"y" * 200_000 + b"\r\n", "delta", id="A12-200-KB"),
    ],
)
def test_a_header_flood_is_no_answer(wired, flood, at):
    reply = b"HTTP/1.1 200 OK\r\n" + flood + b"Content-Length: 2\r\n\r\n{}"
    wired().fails(sends(reply, close=True), at)


@case("A13-set-cookie")
def test_a_cookie_is_nobody_elses(wired):
    scene = wired()

    def bakes(talk, request):
        talk.send(answer(b"{}", "Set-Cookie: session=canary; Path=/", status="500 X"))

    scene.hostile.on("/", reply=bakes, times=FOREVER)
    scene.change(ANN)
    scene.change(BOB)
    scene.poll()
    scene.poll()
    scene.hostile.heal()
    for _ in range(3):
        scene.poll(900)
    assert {one[0] for one in scene.said()} == {ANN, BOB}
    assert not [one for one in scene.server.requests if b"cookie" in one.lower()]


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"x-rate-limit-remaining": "9", "x-rate-limit-window": "-6"}, id="A14-less"),
        pytest.param({"x-rate-limit-remaining": "NaN", "x-rate-limit-reset": "NaN"}, id="A14-nan"),
        pytest.param({"x-rate-limit-remaining": "\u00b2"}, id="A14-superscript"),
        pytest.param({"x-ratelimit-remaining": ""}, id="A14-empty"),
    ],
)
def test_rate_limits_that_are_none_are_ignored(stage, headers):
    scene = stage("ringcentral")
    scene.lie(lambda real: (real[0], {**real[1], **headers}, real[2]), times=FOREVER)
    scene.lie(lambda real: (real[0], {**real[1], **headers}, real[2]), "delta", times=FOREVER)
    mine = scene.change(scene.bad)
    scene.tells(scene.created(scene.bad, mine))
    assert scene.not_before_ms() == 0


# B: transport


def drips(start, part):
    def script(talk, request):
        talk.send(start)
        talk.drip(part)

    return script


def resets(sent):
    def script(talk, request):
        talk.send(sent)
        return talk.reset()

    return script


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ATTACKS = {
    "B15-body-drip": drips(OK + b"Content-Length: 100000\r\n\r\n", b"1"),
    "B16-header-drip": drips(OK, b"X: y\r\n"),
    "B18-reset-before-the-answer": resets(b""),
    "B18-reset-in-the-body": resets(OK + b"Content-Length: 50\r\n\r\n1,2"),
    "B19-length-beyond-the-body": sends(OK + b"Content-Length: 50\r\n\r\n1,2,3,4", close=True),
    "B19-chunks-cut": sends(CHUNKED + b"5\r\n1,2", close=True),
    "B21-gzip-bomb": sends(
        answer(gzip.compress(bytes(20 * 1024 * 1024)), "Content-Encoding: gzip"), close=True
    ),
    "B21-12-encodings": sends(
        answer(gzip.compress(b"{}"), "Content-Encoding: " + ", ".join(["gzip"] * 12)), close=True
    ),
    "B22-50-MB": drips(OK + b"Content-Length: 50000000\r\n\r\n", b"1" * 2**20),
    "B22-endless-chunks": drips(CHUNKED, b"100000\r\n" + b"1" * 2**20 + b"\r\n"),
    "B23-br": sends(answer(b"\x0b\x01\x801,2\x03", "Content-Encoding: br"), close=True),
    "B23-zstd": sends(answer(b"1,2", "Content-Encoding: zstd"), close=True),
    "B23-gzip-that-is-none": sends(answer(b"1,2", "Content-Encoding: gzip"), close=True),
    "B24-1xx-flood": drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "B24-upgrade": sends(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n" + answer(), close=True
    ),
    "B24-http-0.9": sends(b"1,2,3,4,5,6,7,8", close=True),
}

BY_BOTH = [name for name in ATTACKS if name.endswith(("-drip", "-bomb", "MB", "br"))]


@pytest.mark.parametrize(
    ("attack", "at"),
    [
        *[pytest.param(one, "check", id=name) for name, one in ATTACKS.items()],
        *[pytest.param(ATTACKS[name], "delta", id=f"{name}-delta") for name in BY_BOTH],
    ],
)
def test_a_broken_transfer_costs_one_poll(wired, attack, at):
    # A GET on a kept connection that turns out dead is sent once more.
    wired().fails(attack, at, most=2)


@pytest.mark.parametrize("at", CHECK[1:])
@case("B18-reset-after-the-answer")
def test_a_reset_after_a_whole_answer_costs_nothing(wired, at):
    scene = wired()
    mine = scene.change(ANN)

    def script(talk, request):
        method, target, _ = request.split(b"\r\n")[0].decode().split(" ")
        headers = dict(
            line.decode().lower().split(": ", 1) for line in request.split(b"\r\n")[1:] if line
        )
        path, _, query = target.partition("?")
        pairs = dict(pair.split("=", 1) for pair in query.split("&") if pair)
        _, _, body = scene.hostile.truth(method, path, pairs, headers, b"")
        talk.send(answer(body))
        return talk.reset()

    scene.lie(script, at)
    scene.tells(scene.created(ANN, mine))


@pytest.mark.parametrize(
    ("cut", "at"),
    [
        pytest.param(lambda body: body[: len(body) // 2], "delta", id="B20-json"),
        pytest.param(lambda body: b",".join(body.split(b",")[:4]), "check", id="B20-composite"),
    ],
)
def test_a_body_without_a_length_is_checked_for_its_end(wired, cut, at):
    scene = wired()
    whole = {
        "check": b",".join([b"1800000000001"] * 8),
        "delta": json.dumps({"contacts": [{"id": 1, "firstName": "canary"}]}).encode(),
    }[at]
    scene.fails(sends(OK + b"\r\n" + cut(whole), close=True), at, counted="malformed")


@case("B20-last-number-cut")
def test_a_composite_cut_within_its_last_number_is_not_kept(wired):
    scene = wired()
    mine = scene.change(ANN)
    stamps = [str(scene.system.clock())] * 8
    stamps[-1] = "1800"
    scene.lie(sends(OK + b"\r\n" + ",".join(stamps).encode(), close=True))
    scene.tells(scene.created(ANN, mine))
    assert not scene.standing().marks.endswith(",1800")


def elsewhere(scene, base):
    """Move both hosts of the connection, as an operator does."""
    moved = replace(scene.connection, hosts={"poll": base, "api": base})
    scene.system.connect(moved)


def fails_elsewhere(scene, base, holds=lambda: True):
    """Poll under a base URL that cannot do, then under the right one."""
    mine = scene.change(ANN)
    marks, right = scene.standing().marks, scene.connection.hosts["api"]
    elsewhere(scene, base)
    scene.poll()
    assert scene.said() == []
    assert (scene.standing().marks, scene.standing().failures) == (marks, 1)
    assert holds()
    elsewhere(scene, right)
    scene.recovers(mine)


@case("B17-no-such-name")
def test_a_name_that_leads_nowhere_costs_one_poll(wired):
    fails_elsewhere(wired("https://nowhere.invalid"), "https://nowhere.invalid")


@case("B17-private-address")
def test_a_name_that_leads_to_a_private_address_is_not_asked(wired):
    scene = wired()
    local = scene.connection.hosts["api"].replace("127.0.0.1", "localhost")
    asked = scene.server.received
    fails_elsewhere(scene, local, lambda: asked == scene.server.received)


@case("B17-lookup-hangs")
def test_a_name_lookup_that_hangs_ends(wired, monkeypatch):
    scene = wired("https://slow.example.com")
    mine = scene.change(ANN)
    scene.system.clock.advance(60)
    assert scene.check() == 0
    right, over = scene.connection.hosts["api"], threading.Event()

    def hang(*args, **rest):
        over.wait(20)
        raise socket.gaierror(-3, "canary")

    elsewhere(scene, "https://slow.example.com")
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", hang)
        assert scene.run_deltas() == 0
    over.set()
    assert scene.said() == []
    elsewhere(scene, right)
    scene.recovers(mine)


@case("B18-tls-stalls")
def test_a_tls_handshake_that_stalls_ends(wired):
    with Server(sends(b""), silent=True) as silent:
        base = silent.base.replace("http:", "https:")
        fails_elsewhere(wired(base), base)


@case("B18-self-signed")
def test_a_certificate_that_nobody_vouches_for_is_refused(wired, tmp_path):
    certificate = make_certificate(tmp_path / "pem")
    with Server(sends(answer(b"1,2")), certificate=certificate) as server:
        fails_elsewhere(wired(server.base), server.base)
        assert server.requests == []


# C: JSON, CSV, text


def bodies(provider):
    root = ROOTS[provider]
    return {
        "C25-cut": lambda real: (200, real[1], real[2][: len(real[2]) // 2]),
        "C25-more-behind": lambda real: (200, real[1], real[2] + b"{}"),
        "C25-null": says(b"null"),
        "C25-list": says(b"[]"),
        "C25-no-rows": edits(lambda body: body.pop(root)),
        "C25-rows-are-null": edits(lambda body: body.update({root: None})),
    }


@pytest.mark.parametrize(
    ("provider", "reply"),
    [
        pytest.param(provider, reply, id=f"{name}-{provider}")
        for provider in PROVIDERS
        for name, reply in bodies(provider).items()
        if provider == "youmail" or name == "C25-no-rows"
    ],
)
def test_what_is_no_whole_object_is_no_answer(stage, provider, reply):
    stage(provider).fails(reply, "delta", counted="malformed")


@pytest.mark.parametrize("provider", PROVIDERS[1:2])
@case("C25-check-cut")
def test_half_an_object_is_no_answer_to_a_check(stage, provider):
    stage(provider).fails(lambda real: (200, real[1], real[2][: len(real[2]) // 2]))


@pytest.mark.parametrize(
    ("provider", "at"),
    [
        pytest.param("youmail", "delta", id="C26-nested-youmail"),
        pytest.param("kirimdev", "check", id="C26-nested-kirimdev"),
        pytest.param("intelli", "check", id="C26-nested-intelli"),
        pytest.param("ringcentral", "delta", id="C26-nested-ringcentral"),
    ],
)
def test_what_nests_too_deep_is_no_answer(stage, provider, at):
    stage(provider).fails(says(b'{"a":' + b"[" * 100_000), at, counted="malformed")


@pytest.mark.parametrize(
    "literal",
    [
        pytest.param("NaN", id="C27-nan"),
        pytest.param("-Infinity", id="C27-infinity"),
        pytest.param("1e999", id="C27-too-large"),
        pytest.param("9" * 5_000, id="C28-5000-digits"),
        pytest.param('"Bob", "firstName": "Eve"', id="C29-repeated-key"),
    ],
)
def test_what_is_no_json_value_is_no_answer(shop, literal):
    shop.fails(swaps('"Bob"', literal), "delta", counted="malformed")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ud800", id="C30-half-a-character"),
        pytest.param("\x00\x01\x1f\x7f", id="C31-control-characters"),
        pytest.param("\ufffe\uffff\u2028", id="C31-no-characters"),
    ],
)
def test_any_text_is_told_as_it_came(shop, text):
    shop.hostile.simulator.add_contact(ANN, firstName=text)
    shop.poll()
    (delivery,) = shop.system.deliveries()
    assert delivery.event["body"]["record"]["firstName"] == text
    assert shop.change(ANN)


@pytest.mark.parametrize(
    "encoding",
    [pytest.param("utf-8-sig", id="C32-bom"), pytest.param("utf-16", id="C32-utf-16")],
)
def test_json_in_another_unicode_is_read(shop, encoding):
    shop.lie(lambda real: (200, real[1], real[2].decode().encode(encoding)), "delta")
    mine = shop.change(ANN)
    shop.tells(shop.created(ANN, mine))


@case("C32-latin-1")
def test_json_in_latin_1_is_no_answer(shop):
    shop.fails(lambda real: (200, real[1], real[2].replace(b"Bob", b"Ren\xe9")), "delta")


@pytest.mark.parametrize(
    ("raw", "identity"),
    [
        pytest.param(7, "7", id="C33-number"),
        pytest.param("7", "7", id="C33-text"),
        pytest.param(2**63 + 1, str(2**63 + 1), id="C33-beyond-a-float"),
        pytest.param("a b/c|d#e", "a b/c|d#e", id="C33-odd-characters"),
        pytest.param("\u00e9\U0001f600" * 200, "\u00e9\U0001f600" * 200, id="C33-wide"),
    ],
)
def test_an_id_is_a_number_or_a_text(shop, raw, identity):
    shop.system.clock.advance(1)
    first = shop.change(ANN)
    shop.lie(edits(lambda body: body["contacts"][-1].update(id=raw)), "delta", FOREVER)
    assert first != identity
    shop.tells(shop.created(ANN, identity))


@case("C33-number-and-text")
def test_a_number_and_its_digits_are_one_id(shop):
    def both(body):
        body["contacts"].append({**body["contacts"][-1], "id": str(body["contacts"][-1]["id"])})

    shop.lie(edits(both), "delta", FOREVER)
    mine = shop.change(ANN)
    shop.tells(shop.created(ANN, mine))


def adds(root, **row):
    def add(body):
        body[root] = [{**body[root][0], **row}, *body[root]] if body[root] else []

    return edits(add)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(1.0, id="C33-float"),
        pytest.param(True, id="C33-boolean"),
        pytest.param("", id="C33-empty"),
        pytest.param(" ", id="C33-blank"),
        pytest.param(None, id="C33-null"),
        pytest.param("x" * 10_240, id="C33-10-KB"),
        pytest.param(10**4_000, id="C33-4001-digits"),
        pytest.param("\ud800", id="C30-id-of-half-a-character"),
    ],
)
def test_a_row_without_an_id_stops_no_other(shop, raw):
    shop.change(ANN)
    shop.lie(adds("contacts", id=raw), "delta", FOREVER)
    shop.poll()
    assert len(shop.said()) == 1
    assert len(shop.bad_rows()) == 1
    assert shop.bad_rows()[0].startswith("id: ")


@case("C34-2-MB")
def test_a_row_too_large_for_a_queue_goes_out_without_its_record(shop):
    large = shop.hostile.simulator.add_contact(ANN, notes="x" * 2_000_000)
    shop.poll()
    small = shop.change(ANN)
    shop.poll()
    first, second = shop.system.deliveries()
    assert first.event["body"]["truncated"] is True
    assert first.event["body"]["recordId"] == large
    assert second.event["body"]["recordId"] == small


COMPOSITES = {
    "C35-spaces": "1, 2,3,4,5,6,7,8",
    "C35-underscore": "12_3,2,3,4,5,6,7,8",
    "C35-full-width": "\uff11,2,3,4,5,6,7,8",
    "C35-superscript": "\u00b2,2,3,4,5,6,7,8",
    "C35-empty-field": "1,,3,4,5,6,7,8",
    "C35-negative": "-1,2,3,4,5,6,7,8",
    "C35-missing-columns": "1800000000000,1800000000000",
    "C35-quotes": '"1","2","3","4","5","6","7","8"',
    "C35-html": "<b>1,2,3,4,5,6,7,8</b>",
    "C35-two-lines": "1,2,3,4\r\n5,6,7,8",
}


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in COMPOSITES.items()])
def test_a_composite_is_numbers_between_commas(shop, text):
    shop.fails(says(text.encode()), counted="malformed")


@pytest.mark.parametrize(
    "more", [pytest.param(b",5,x", id="C35-no-number"), pytest.param(b",5,6\r\n", id="C35-more")]
)
def test_a_composite_may_grow(shop, more):
    if b"x" in more:
        shop.fails(lambda real: (200, real[1], real[2].strip() + more))
        return
    shop.lie(lambda real: (200, real[1], real[2].strip() + more), times=FOREVER)
    mine = shop.change(ANN)
    shop.tells(shop.created(ANN, mine))


@case("C36-new-fields")
def test_fields_and_values_nobody_knows_pass_through(shop):
    contact = shop.hostile.simulator.add_contact(ANN, contactType="HOLOGRAM", aura={"hue": 7})
    shop.poll()
    (delivery,) = shop.system.deliveries()
    record = delivery.event["body"]["record"]
    assert (record["id"], record["contactType"], record["aura"]) == (
        contact, "HOLOGRAM", {"hue": 7},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("provider", "row", "reason"),
    [
        pytest.param("youmail", {"id": 5, "created": None}, "updated: ", id="C36-no-created"),
        pytest.param("kirimdev", {"id": "5", "updated_at": 0}, "updated_at", id="C36-no-time"),
        pytest.param("intelli", {"documentId": "5", "timestamp": 1.5}, "timestamp", id="C36-no-s"),
        pytest.param("ringcentral", {"id": 5, "creationTime": None, "lastModifiedTime": None},
            "lastModifiedTime", id="C36-no-lastModifiedTime"),
        pytest.param("youmail", {"id": 5, "created": 1.8e12}, "created", id="X1-float-instant"),
        pytest.param("youmail", {"id": 5, "userId": 99}, "userId", id="E51-foreign-account"),
        pytest.param("kirimdev", {"id": "5", "phone_number_id": "1"}, "phone_number_id",
            id="E51-foreign-number"),
        pytest.param("ringcentral", {"id": 5, "extensionId": 7}, "extensionId", id="E51-extension"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_read_stops_no_other(stage, provider, row, reason):
    scene = stage(provider)
    mine = scene.change(scene.bad)
    scene.lie(adds(ROOTS[provider], **row), "delta", FOREVER)
    seen = len(scene.logs())
    scene.tells(scene.created(scene.bad, mine))
    (found,) = scene.bad_rows()
    assert found.startswith(reason)
    lines = [one["counts"] for one in scene.logs()[seen:] if one.get("account") == scene.bad]
    assert sum(one.get("bad_rows", 0) for one in lines) == 1
    assert scene.standing().failures == 0


# D: time


@pytest.mark.parametrize(
    "ahead_s",
    [
        pytest.param(1, id="D37-a-second"),
        pytest.param(3_600, id="D37-an-hour"),
        pytest.param(None, id="D37-year-9999"),
    ],
)
def test_a_row_from_the_future_freezes_nothing(stage, ahead_s):
    scene = stage("kirimdev")
    now_ms = scene.system.clock()
    at_ms = 253_402_300_799_000 if ahead_s is None else now_ms + ahead_s * 1000
    early = scene.hostile.simulator.new_conversation(scene.bad, at_ms=at_ms)
    scene.tells(scene.created(scene.bad, early))
    later = scene.change(scene.bad)
    scene.tells(scene.created(scene.bad, later))
    reached_ms = int(scene.cursor()["reached"]["N"])
    assert reached_ms <= scene.system.clock() + 300_000


@case("D38-backwards")
def test_a_row_that_goes_back_in_time_is_believed_at_the_second_sighting(stage):
    scene = stage("kirimdev")
    simulator = scene.hostile.simulator
    row = scene.change(scene.bad)
    scene.tells(scene.created(scene.bad, row))
    now_ms = scene.system.clock()
    simulator.set_status(row, "pending", at_ms=now_ms)
    scene.poll()
    assert [one[2] for one in scene.said()] == ["updated"]
    simulator.set_status(row, "resolved", at_ms=now_ms - 5_000)

    scene.poll()
    once = scene.said()
    scene.tells((scene.bad, "conversations", "updated", row))

    assert once == []


def moved(by_ms):
    """Move every instant of a list of conversations."""

    def change(body):
        for row in body["data"]:
            row["updated_at"] = iso(iso_ms(row["updated_at"], "updated_at") + by_ms)

    return edits(change)


@case("D39-restored-backup")
def test_a_stream_that_jumps_back_keeps_its_place_and_loses_nothing(stage):
    scene = stage("kirimdev")
    mine = scene.change(scene.bad)
    scene.tells(scene.created(scene.bad, mine))
    place = scene.cursor()["reached"]
    two_days_ms = 2 * 86_400_000
    scene.lie(moved(-two_days_ms), times=2)
    scene.lie(moved(-two_days_ms), "delta", times=2)
    scene.poll()
    scene.poll()
    scene.hostile.heal()
    assert scene.said() == []
    assert scene.cursor()["reached"] == place
    later = scene.change(scene.bad)
    scene.tells(scene.created(scene.bad, later))


@case("D39-seconds-for-milliseconds")
def test_instants_in_another_unit_do_not_move_the_place(shop):
    first = shop.change(ANN)
    shop.tells(shop.created(ANN, first))
    place = shop.cursor()["reached"]

    def in_seconds(body):
        for row in body["contacts"]:
            row["created"] //= 1000

    shop.lie(edits(in_seconds), "delta")
    shop.change(ANN)
    shop.poll()
    assert int(shop.cursor()["reached"]["N"]) >= int(place["N"])
    shop.said()
    later = shop.change(ANN)
    shop.poll()
    assert shop.created(ANN, later) in shop.said()


INSTANTS = {
    "D40-offset": ("2027-01-15T07:59:00+0000", ""),
    "D40-nanoseconds": ("2027-01-15T07:59:00.123456789Z", ""),
    "D40-far-offset": ("2027-01-15T21:59:00+14:00", ""),
    "D40-no-zone": ("2027-01-15T07:59:00", "updated_at"),
    "D40-leap-second": ("2027-01-15T07:59:60Z", "updated_at"),
    "D40-24-hours": ("2027-01-15T24:00:00Z", "updated_at"),
    "D40-week-date": ("2027-W02-5T07:59:00Z", "updated_at"),
    "D40-february-30": ("2027-02-30T07:59:00Z", "updated_at"),
    "D40-year-1": ("0001-01-01T00:00:00+14:00", "updated_at"),
    "X2-year-10000": ("9999-12-31T23:59:59-12:00", "updated_at"),
}


@pytest.mark.parametrize(
    ("text", "reason"), [pytest.param(*one, id=name) for name, one in INSTANTS.items()]
)
def test_an_instant_is_read_strictly_or_not_at_all(stage, text, reason):
    scene = stage("kirimdev")
    mine = scene.change(scene.bad)
    scene.lie(adds("data", id="odd", updated_at=text), "delta", FOREVER)
    scene.poll()
    said = scene.said()
    assert scene.created(scene.bad, mine) in said
    assert (scene.created(scene.bad, "odd") in said) is not bool(reason)
    found = [one for one in scene.bad_rows() if one.startswith("updated_at: ")]
    assert len(found) == (1 if reason and "honour" not in str(found) else 0)


@case("D41-one-instant")
def test_more_rows_of_one_instant_than_a_page_has_are_all_told(stage):
    scene = stage("kirimdev")
    scene.quicken()
    rows = {scene.change(scene.bad) for _ in range(120)}
    for _ in range(3):
        scene.poll()
    said = scene.said()
    assert ({one[3] for one in said}, len(said)) == (rows, 120)


@case("D42-late-row")
def test_a_row_that_is_committed_late_is_told(stage):
    scene = stage("intelli")
    now_s = scene.system.clock() // 1000
    late = scene.hostile.simulator.receive(scene.bad, at_s=now_s, visible_at_s=now_s + 100)
    prompt = scene.hostile.simulator.receive(scene.bad, at_s=now_s + 30)
    scene.tells(scene.created(scene.bad, prompt), scene.created(scene.bad, late))


@case("D42-beyond-the-overlap")
def test_a_row_that_is_later_than_that_is_found_by_the_clock(stage):
    scene = stage("kirimdev")
    hours_ago_ms = scene.system.clock() - 3 * 3_600_000
    late = scene.hostile.simulator.new_conversation(scene.bad, at_ms=hours_ago_ms)
    scene.tells(scene.created(scene.bad, late), rounds=62)


@pytest.mark.parametrize(
    ("provider", "skew_s"),
    [
        *[pytest.param(one, 600, id=f"D43-{one}-ahead") for one in PROVIDERS[::2]],
        *[pytest.param(one, -600, id=f"D43-{one}-behind") for one in PROVIDERS[1:]],
    ],
)
def test_a_providers_clock_may_be_wrong(stage, provider, skew_s):
    scene = stage(provider, skew_s=skew_s)
    for _ in range(2):
        mine = scene.change(scene.bad)
        scene.tells(scene.created(scene.bad, mine))


# E: lists and cursors


@case("E44-moves-while-pages-are-turned")
def test_a_row_that_changes_between_two_pages_is_told_as_it_is_in_the_end(stage):
    scene = stage("kirimdev")
    simulator = scene.hostile.simulator
    scene.quicken()
    rows = [scene.change(scene.bad) for _ in range(110)]

    def assign(stream, number):
        simulator.on_page = None
        simulator.assign(rows[0])

    scene.system.clock.advance(60)
    assert scene.check() == 0
    simulator.on_page = assign
    assert scene.run_deltas() == 0
    for _ in range(3):
        scene.poll()
    delivered = scene.system.deliveries()
    last = {one.said[2]: one.event["body"]["record"]["assignee"] for one in delivered}
    assert last.keys() == set(rows)
    assert last[rows[0]] is not None


@case("E45-deleted-while-pages-are-turned")
def test_a_row_that_slips_between_two_pages_is_told(stage):
    scene = stage("youmail", stream="entry")
    simulator = scene.hostile.simulator
    scene.quicken()
    rows = [simulator.leave_voicemail(ANN, at_ms=scene.system.clock() + n) for n in range(110)]

    def purge(stream, number):
        simulator.on_page = None
        simulator.purge(rows[0])

    simulator.on_page = purge
    for _ in range(4):
        scene.poll()
    told = {one[3] for one in scene.said() if one[2] == "created"}
    assert told >= set(rows[1:])


def endless(rows, cursor):
    """Say of every page that there is another."""

    def more(body):
        body.update(has_more=True, next_cursor=cursor(), **({} if rows else {"data": []}))

    return edits(more)


@pytest.mark.parametrize(
    ("rows", "fresh"),
    [
        pytest.param(True, False, id="E46-repeated-cursor"),
        pytest.param(True, True, id="E46-same-page"),
        pytest.param(False, True, id="E46-empty-pages"),
    ],
)
def test_a_list_without_an_end_is_given_up(stage, rows, fresh):
    number, first = itertools.count(), []

    def reply(real):
        # Whatever cursor it is asked for, it has the first page.
        first.append(real)
        return endless(rows, lambda: f"cursor-{next(number) if fresh else 0}")(first[0])

    stage("kirimdev").fails(reply, "delta", counted="malformed", most=20)


@case("X24-nothing-between-the-same")
def test_a_list_that_says_nothing_between_the_same_again_is_given_up(stage):
    number = itertools.count()

    def reply(real):
        page = next(number)
        rows = [] if page % 2 else [{"id": "odd", "updated_at": "2027-01-15T08:00:01.000Z"}]
        body = {"data": rows, "has_more": True, "next_cursor": f"cursor-{page}"}
        return says(json.dumps(body).encode())(real)

    scene = stage("kirimdev")
    scene.lie(reply, "delta", 20)
    scene.change(scene.bad)
    others = scene.change(scene.good)
    scene.poll()
    told = {scene.created(scene.bad, "odd"), scene.created(scene.good, others)}
    assert set(scene.said()) == told
    assert next(number) < 20
    assert scene.not_before_ms() > scene.system.clock()
    scene.hostile.heal()
    mine = scene.change(scene.bad)
    scene.poll(900)
    assert scene.created(scene.bad, mine) in scene.said()


@case("E47-cursor-expires")
def test_a_cursor_that_expires_costs_a_restart(stage):
    scene = stage("kirimdev")
    scene.quicken()
    rows = {scene.change(scene.bad) for _ in range(110)}
    body = b'{"error": {"code": "invalid_cursor", "message": "canary"}}'
    rule = scene.hostile.on("cursor=", reply=says(body, 400))
    for _ in range(3):
        scene.poll()
    said = scene.said()
    assert rule.used == 1
    assert ({one[3] for one in said}, len(said)) == (rows, 110)


@pytest.mark.parametrize(
    "status", [pytest.param(one, id=f"X18-place-{one}") for one in (401, 410, 500)]
)
def test_a_saved_place_that_is_refused_for_ever_holds_nothing_up_for_ever(stage, status):
    scene = stage("kirimdev")
    first = scene.change(scene.bad)
    scene.lie(edits(lambda body: body.update(has_more=True, next_cursor="stale")), "delta")
    scene.hostile.on("cursor=stale", reply=says(b"", 503))
    scene.tells(scene.created(scene.bad, first), rounds=1)
    refused = scene.hostile.on("cursor=stale", reply=says(b"{}", status), times=FOREVER)
    later = scene.change(scene.bad)
    for _ in range(12):
        scene.poll(900)
    assert scene.said() == [scene.created(scene.bad, later)]
    assert 1 <= refused.used <= 5
    assert scene.standing().failures == 0


@case("E48-more-of-nothing")
def test_more_of_nothing_is_waited_for(stage):
    scene = stage("intelli")
    nothing = {"incomingMessages": [], "outgoingMessages": [], "hasMoreMessages": True}
    scene.lie(edits(lambda body: body.update(nothing)), times=3)
    mine = scene.change(scene.bad)
    for _ in range(3):
        scene.poll()
    assert scene.said() == []
    scene.tells(scene.created(scene.bad, mine))


@case("E48-full-page-and-no-more")
def test_a_full_page_is_not_the_last_whatever_it_says(stage):
    scene = stage("intelli", has_more=False)
    now_s = scene.system.clock() // 1000
    rows = {scene.hostile.simulator.receive(scene.bad, at_s=now_s + n // 4) for n in range(130)}
    for _ in range(4):
        scene.poll()
    assert {one[3] for one in scene.said()} == rows


@case("E49-since-flips")
def test_whether_since_is_inclusive_does_not_matter(stage):
    scene = stage("intelli")
    rows = []
    for n in range(4):
        scene.hostile.simulator.configure(inclusive=bool(n % 2))
        rows.append(scene.change(scene.bad))
        scene.poll()
    scene.poll()
    assert [one[3] for one in scene.said()] == rows


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(lambda body: body["data"].reverse(), id="E50-ascending"),
        pytest.param(
            lambda body: body["data"].sort(key=lambda row: row["id"][::-1]), id="E50-none"
        ),
    ],
)
def test_rows_may_come_in_any_order(stage, order):
    scene = stage("kirimdev")
    scene.lie(edits(order), "delta", FOREVER)
    rows = []
    for _ in range(5):
        rows.append(scene.change(scene.bad))
        scene.system.clock.advance(2)
    for _ in range(3):
        scene.poll()
    assert [one[3] for one in scene.said()] == rows


@case("E51-older-than-asked-for")
def test_a_row_older_than_asked_for_is_a_row(stage):
    scene = stage("kirimdev")
    scene.lie(adds("data", id="old", updated_at="2020-01-01T00:00:00Z"), "delta")
    mine = scene.change(scene.bad)
    scene.poll()
    assert set(scene.said()) == {scene.created(scene.bad, one) for one in ("old", mine)}


@case("E52-twice-in-one-answer")
def test_of_two_versions_in_one_answer_the_newer_is_told(stage):
    scene = stage("kirimdev")
    mine = scene.change(scene.bad)

    def twice(body):
        row = body["data"][0]
        older = {**row, "status": "older", "updated_at": "2027-01-15T08:00:01.000Z"}
        body["data"].append({**row, "status": "newest"})
        body["data"].append(older)

    scene.lie(edits(twice), "delta")
    scene.poll()
    (delivery,) = scene.system.deliveries()
    assert delivery.said[2] == mine
    assert delivery.event["body"]["record"]["status"] == "newest"


@case("E53-id-used-again")
def test_an_id_that_is_used_again_goes_on_counting(shop):
    simulator = shop.hostile.simulator
    simulator.add_contact(ANN, id=77)
    shop.poll()
    simulator.delete_contact("77")
    shop.poll()
    simulator.add_contact(ANN, id=77, firstName="Eve")
    shop.poll()
    bodies_ = [one.event["body"] for one in shop.system.deliveries()]
    assert [one["change"] for one in bodies_] == ["created", "deleted", "created"]
    assert [one["revision"] for one in bodies_] == [1, 2, 3]


@case("E54-nothing-listed")
def test_an_empty_list_where_much_was_deletes_nothing(stage):
    scene = stage("youmail", stream="greeting")
    scene.quicken()
    rows = {scene.change(ANN) for _ in range(11)}
    scene.poll()
    assert {one[3] for one in scene.said()} == rows
    scene.poll(180)
    scene.lie(edits(lambda body: body.update(greetings=[])), "delta", FOREVER)
    mine = scene.change(ANN)
    for _ in range(5):
        scene.poll()
    assert scene.said() == []
    scene.hostile.heal()
    scene.tells(scene.created(ANN, mine))


@case("E55-signed-anew")
def test_an_address_that_is_signed_anew_is_no_change(stage):
    scene = stage("youmail", stream="entry")
    number = itertools.count()

    def sign(body):
        for row in body["entries"]:
            row["messageDataUrl"] = f"https://media.example/1?signature={next(number)}"

    scene.lie(edits(sign), "delta", FOREVER)
    mine = scene.change(ANN)
    scene.tells(scene.created(ANN, mine), rounds=5)
    assert next(number) > 1


@case("E55-flapping")
def test_a_row_that_flaps_is_told_in_order(shop):
    contact = shop.change(ANN)
    shop.poll()
    for name in ("A", "B", "A", "B"):
        shop.hostile.simulator.update_contact(contact, firstName=name)
        shop.poll()
    told = [one.event["body"] for one in shop.system.deliveries()]
    assert [one["record"]["firstName"] for one in told] == ["Bob", "A", "B", "A", "B"]
    assert [one["revision"] for one in told] == [1, 2, 3, 4, 5]
    assert len({one["sequence"] for one in told}) == 5


@case("E56-long-first-sync")
def test_a_long_first_sync_is_silent_and_goes_on_where_it_stopped(shop):
    system = shop.system
    shop.quicken()
    for n in range(210):
        shop.hostile.simulator.add_contact(BOB, at_ms=system.clock() + n)
    _forget(shop, BOB)
    pages = []
    for _ in range(4):
        left = iter([60_000])
        system.remaining_ms = lambda left=left: next(left, 10_000)
        before = len(shop.hostile.asked)
        shop.poll()
        pages.append([one for one in shop.hostile.asked[before:] if "/contacts/" in one])
    system.remaining_ms = lambda: 60_000
    assert [f"pageNumber={n}" in str(pages[n - 1]) for n in (1, 2, 3)] == [True] * 3
    assert shop.said() == []
    assert len(shop.shown(BOB, "r#")) == 210
    mine = shop.change(BOB)
    shop.tells(shop.created(BOB, mine))


def _forget(scene, account):
    """Register an account anew, as if it had never been seen."""
    system = scene.system
    system.remove_account(account, scene.connection)
    pk = f"stream#{scene.connection.name}#{account}#{scene.stream}"
    for found, sk in list(system.table()):
        if found == pk:
            system._delete(pk, sk)
    sealed = system.world.sealer.seal(
        {"username": f"4255{account[-6:]}", "password": PASSWORD}, scene.connection.name, account
    )
    settings = {"fields": ",,contact"}
    system.registry.add_account(scene.connection, account, settings=settings, credential=sealed)


@case("E57-old-page-after-the-new")
def test_a_page_from_an_old_cache_tells_nothing(stage):
    scene = stage("kirimdev")
    row = scene.change(scene.bad)
    old = []

    def note(real):
        old.append(real)
        return real

    scene.lie(note)
    scene.lie(note, "delta")
    scene.tells(scene.created(scene.bad, row))
    scene.hostile.simulator.set_status(row, "resolved")
    scene.poll()
    assert [one[2] for one in scene.said()] == ["updated"]
    scene.hostile.heal()
    scene.lie(lambda real: old[0])
    scene.lie(lambda real: old[1], "delta")
    scene.tells(rounds=4)


@case("X26-deleted-before-a-listing-that-lacks-something")
def test_a_listing_that_may_lack_something_hides_no_deletion(stage):
    scene = stage("ringcentral")
    mine = scene.change(scene.bad)
    scene.tells(scene.created(scene.bad, mine))
    lacks = edits(lambda body: body["syncInfo"].pop("olderRecordsExist", None))
    scene.hostile.on("syncType=FSync", reply=lacks, times=FOREVER)
    scene.hostile.simulator.purge(mine)
    job = DeltaJob(scene.connection.name, 0, scene.bad, scene.stream, (), 0)
    told = []
    for _ in range(3):
        order = marks.element(scene.stream, marks.FULL, scene.system.clock())
        scene.system.world.state.ask_again(job, order)
        scene.poll()
        told += scene.said()
    assert told == [(scene.bad, scene.stream, "deleted", mine)]


@case("E58-sequence-starts-again")
def test_a_sequence_that_starts_again_is_no_news_and_hides_none(stage):
    scene = stage("ringcentral")
    scene.stream = "presence"
    numbers = itertools.chain([9, 8, 1, 5], itertools.repeat(2))
    path = f"/extension/{scene.bad}/presence"
    scene.hostile.on(path, reply=edits(lambda body: body.update(sequence=next(numbers))), times=99)
    scene.tells(rounds=2)
    scene.hostile.simulator.set_presence(scene.bad, dndStatus="TakeAllCalls")
    scene.tells((scene.bad, "presence", "updated", "presence"))


# Not on anybody's list


@pytest.mark.parametrize(
    "date",
    [
        pytest.param("Fri, 31 Dec 9999 23:59:59 GMT", id="X3-date-9999"),
        pytest.param("Mon, 01 Jan 0001 00:00:00 +1400", id="X3-date-1"),
        pytest.param("canary", id="X3-date-garbage"),
    ],
)
@pytest.mark.parametrize("provider", ["kirimdev", "intelli"])
def test_a_date_that_is_none_costs_nothing(stage, provider, date):
    scene = stage(provider)
    scene.lie(lambda real: (real[0], {**real[1], "date": date}, real[2]), times=FOREVER)
    scene.lie(lambda real: (real[0], {**real[1], "date": date}, real[2]), "delta", FOREVER)
    mine = scene.change(scene.bad)
    scene.tells(scene.created(scene.bad, mine))


@pytest.mark.parametrize("depth", [pytest.param(n, id=f"X4-{n}-deep") for n in (100, 700, 980)])
def test_a_row_that_nests_stops_no_other(shop, depth):
    mine = shop.change(ANN)
    deep = "[" * depth + "]" * depth
    shop.lie(
        lambda real: (200, real[1], real[2].replace(b'"Bob"', deep.encode(), 1)), "delta", FOREVER
    )
    neighbour = shop.change(BOB)
    shop.poll()
    said = shop.said()
    assert shop.created(BOB, neighbour) in said
    told = shop.created(ANN, mine) in said
    assert told or shop.bad_rows() or shop.not_before_ms() > shop.system.clock()


@case("X4-settings-500-deep")
def test_an_object_that_nests_costs_one_poll(stage):
    scene = stage("youmail", stream="settings")
    scene.hostile.simulator.change_settings(ANN, language="en")
    deep = "[" * 500 + "]" * 500
    scene.lie(says(f'{{"settings": {{"a": {deep}}}}}'.encode()), "delta")
    scene.poll()
    assert scene.said() == []
    assert scene.shown(ANN, "cursor")["cursor"]["trouble"]["S"].startswith("Malformed: ")
    scene.hostile.heal()
    scene.tells((ANN, "settings", "updated", "settings"))


@pytest.mark.parametrize(
    "direction",
    [
        pytest.param("x" * 300_000, id="X5-direction-300-KB"),
        pytest.param("\x00", id="X5-direction-nul"),
        pytest.param("\ufffe", id="X5-direction-no-character"),
    ],
)
def test_what_a_filter_reads_can_always_be_sent(stage, direction):
    scene = stage("ringcentral")
    scene.stream = "presence"
    sent = []

    def publish(call, **arguments):
        sent.extend(arguments["PublishBatchRequestEntries"])
        return call(**arguments)

    scene.system.faults["publish_batch"] = publish
    scene.hostile.simulator.ring(scene.bad, direction=direction)
    scene.hostile.simulator.set_presence(scene.good, dndStatus="TakeAllCalls")
    for _ in range(3):
        scene.poll()
    assert sent
    for entry in sent:
        values = [one["StringValue"] for one in entry["MessageAttributes"].values()]
        assert len(entry["Message"]) + sum(map(len, values)) < 256 * 1024
        assert all(legal(value) for value in values)


def legal(text):
    """Tell whether SNS takes a text: the characters of XML 1.0, and some of them."""
    ranges = ((0x20, 0xD7FF), (0xE000, 0xFFFD), (0x10000, 0x10FFFF))
    codes = [ord(one) for one in text]
    return bool(codes) and all(
        code in (9, 10, 13) or any(first <= code <= last for first, last in ranges)
        for code in codes
    )


@pytest.mark.parametrize(
    ("token", "at"),
    [
        pytest.param("x" * 500_000, "check", id="X6-sync-token-500-KB"),
        pytest.param("x" * 500_000, "delta", id="X6-sync-token-500-KB-delta"),
        pytest.param("\ud800", "check", id="X6-sync-token-half-a-character"),
        pytest.param("\ud800", "delta", id="X6-sync-token-half-a-character-delta"),
        pytest.param("a\r\nHost: canary", "check", id="X6-sync-token-line-feed"),
    ],
)
def test_a_token_that_cannot_be_kept_stops_no_other(stage, token, at):
    scene = stage("ringcentral")
    scene.change(scene.bad)
    others = scene.change(scene.good)
    scene.lie(edits(lambda body: body["syncInfo"].update(syncToken=token)), at, FOREVER)
    scene.poll()
    assert scene.created(scene.good, others) in scene.said()
    for _ in range(2):
        scene.poll()
    scene.hostile.heal()
    scene.said()
    mine = scene.change(scene.bad)
    for _ in range(4):
        scene.poll(900)
    assert scene.created(scene.bad, mine) in scene.said()


@pytest.mark.parametrize(
    "cursor",
    [
        pytest.param("x" * 1_000_000, id="X7-cursor-1-MB"),
        pytest.param(7, id="X7-cursor-number"),
        pytest.param("\ud800", id="X7-cursor-half-a-character"),
    ],
)
def test_a_cursor_that_cannot_be_sent_back_costs_one_poll(stage, cursor):
    reply = edits(lambda body: body.update(has_more=True, next_cursor=cursor))
    stage("kirimdev").fails(reply, "delta")


@case("X9-more-as-a-word")
def test_a_word_is_not_true_or_false(stage):
    stage("kirimdev").fails(edits(lambda body: body.update(has_more="no")), "delta")


@case("X8-many-unreadable-rows")
def test_many_rows_that_cannot_be_read_are_all_recorded(shop):
    def spoil(body):
        body["contacts"] += [{"id": f"bad-{n}", "created": "never"} for n in range(250)]

    shop.lie(edits(spoil), "delta", 2)
    mine = shop.change(ANN)
    shop.poll()
    assert shop.said() == [shop.created(ANN, mine)]
    assert len(shop.bad_rows()) == 250


@pytest.mark.parametrize("provider", PROVIDERS[:2])
@case("X22-nothing-but-unreadable-rows")
def test_so_many_rows_that_cannot_be_read_are_no_answer(stage, provider):
    reply = edits(lambda body: body.update({ROOTS[provider]: [{}] * 2_000}))
    stage(provider).fails(reply, "delta", counted="malformed")


@case("X10-longer-page-than-asked-for")
def test_a_list_without_pages_is_read_once(stage):
    scene = stage("youmail", paging="none")
    scene.quicken()
    rows = {scene.change(ANN) for _ in range(120)}
    for _ in range(3):
        scene.poll()
    said = scene.said()
    assert ({one[3] for one in said}, len(said)) == (rows, 120)


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("a\r\nX: canary", id="X11-line-feed"),
        pytest.param("\u2603", id="X11-snowman"),
        pytest.param(["canary"], id="X11-list"),
    ],
)
def test_an_access_token_that_no_header_holds_is_none(shop, token):
    shop.hostile.simulator.expire_tokens()
    shop.hostile.on("/authenticate", "4255000001", reply=edits(lambda b: b.update(authToken=token)))
    mine, others = shop.change(ANN), shop.change(BOB)
    shop.poll()
    assert shop.said() == [shop.created(BOB, others)]
    shop.recovers(mine)


@case("X12-composite-of-64-KB")
def test_a_composite_of_many_numbers_is_none(shop):
    shop.fails(says(b",".join([b"1800000000000"] * 5_000)), counted="malformed")


@case("X13-error-body-with-200")
def test_an_error_body_is_no_empty_list(shop):
    body = {"response": {"statusCode": "canary", "errors": ["canary"]}, "contacts": []}
    shop.fails(says(json.dumps(body).encode()), "delta", counted="malformed")


@case("X14-same-id-in-both-lists")
def test_an_id_in_both_lists_is_told_once(stage):
    scene = stage("intelli")

    def both(body):
        body["outgoingMessages"] += body["incomingMessages"][-1:]

    scene.lie(edits(both), "check", FOREVER)
    mine = scene.change(scene.bad)
    scene.tells(scene.created(scene.bad, mine))


@case("X15-another-accounts-whole-answer")
def test_another_accounts_answer_is_not_told(stage):
    """A cache in front of the provider that mixes up who asked."""
    scene = stage("kirimdev")
    others = scene.change(scene.good)
    row = {"id": "cnv_other", "updated_at": "2027-01-15T08:00:01.000Z"}
    foreign = {**row, "whatsapp_account": {"phone_number_id": scene.good}}
    mine = scene.change(scene.bad)
    scene.lie(edits(lambda body: body["data"].append(foreign)), "delta", FOREVER)
    for _ in range(2):
        scene.poll()
    told = {scene.created(scene.good, others), scene.created(scene.bad, mine)}
    assert set(scene.said()) == told


@case("X16-nothing-but-blanks")
def test_blanks_are_no_answer(shop):
    shop.fails(says(b" \r\n\t"))


@case("X17-an-endless-list-of-news")
def test_a_list_of_ever_new_rows_ends_with_the_time(stage):
    scene = stage("kirimdev")
    number = itertools.count()
    left = itertools.chain([60_000] * 4, itertools.repeat(10_000))
    scene.system.remaining_ms = lambda: next(left)

    def more(body):
        at = "2027-01-15T08:00:01.000Z"
        rows = [{"id": f"new-{next(number)}", "updated_at": at} for _ in range(3)]
        body.update(data=rows, has_more=True, next_cursor=f"cursor-{next(number)}")

    reply = edits(lambda body: (body.clear(), more(body)))
    scene.hostile.on(f"/{scene.bad}/conversations", "limit=100", reply=reply, times=99)
    scene.change(scene.bad)
    scene.poll()
    assert len(scene.said()) <= 30
    assert next(number) < 60
