"""
What a browser shows of a run: a real one, headless, that is told what to do by tests.

A page asks once a second, so each wait here is for a second or two.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest

from local.board import Accounts, Board
from local.ledger import Ledger, Made
from local.page import Page
from local.processes import Failed
from tests.page import chromium
from tests.page.chromium import Chromium

SUMMARY = "49 s: 2 changes at the provider, 2 events received (0 beside these changes), 0 lost"

NONE, MINUS = "\u2013", "\u2212"

#: Everything a provider may have written into what it says.
HOSTILE = (
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "</td></table><svg onload=window.pwned=1>",
    "javascript:window.pwned=1",
    "\u202egnirts desrever\u202c",
    "${window.pwned = 1}{{window.pwned = 1}}",
    "&lt;b&gt;&#0;\\u003cscript\\u003e",
    "__proto__",
)


class Clock:
    now_ms = 1_795_377_600_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def board(clock):
    return Board(Ledger(), clock)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(running):
    """A browser with nothing in it; whatever its console says of errors fails the test."""
    running.open("about:blank")
    running.wait("location.href === 'about:blank'")
    running.errors.clear()
    yield running
    running.tell("Emulation.clearDeviceMetricsOverride")
    running.tell("Emulation.setEmulatedMedia", features=[])
    running.evaluate("0")
    assert running.errors == []


@pytest.fixture
def page(board):
    with Page(board) as page:
        yield page
        # Nobody is looking any more when the test is over.
        page.close()


def look(browser, page, phase="Running"):
    browser.open(page.url)
    browser.wait(f"document.querySelector('#phase')?.innerText === {json.dumps(phase)}")


def receive(board, clock, number=1, wait_ms=2_000, change="created", **body):
    """Have something happen, and its event be received."""
    provider, account = body.get("provider", "youmail"), body.pop("account", "133128004")
    stream = body.get("stream", "entry")
    made = Made((account, stream, f"e{number}"), change, clock.now_ms, {}, provider)
    board.ledger.made(made)
    clock.now_ms += wait_ms
    record = {"id": f"e{number}", "subject": body.pop("subject", f"Text {number}")}
    types = [{"type": body.pop("type", "VoiceMail"), "newCount": 1}]
    body = {"provider": provider, "stream": stream, "change": change, "changes": types} | body
    event = {"uuid": f"u{number}", "ownerId": account, "body": {**body, "record": record}}
    board.received(event)
    board.refresh()


def rows(browser, table):
    return browser.evaluate(
        f"[...document.querySelectorAll('#{table} tbody tr')]"
        ".map((row) => [...row.cells].map((cell) => cell.innerText))"
    )


def test_before_anything_happens_it_says_so(browser, page, board):
    board.say("sam deploy")
    look(browser, page, "Starting")

    browser.wait("document.querySelector('#notice').innerText === 'sam deploy'")
    assert browser.text("#changes") == "0"
    assert browser.text("#p50") == browser.text("#p99") == NONE
    assert browser.text("#rate-told") == "Nothing has happened yet."
    assert browser.text("#no-providers") == "No account is registered yet."
    assert browser.text("#no-events").startswith("No event has been received yet.")
    assert browser.text("#events") == browser.text("#providers") == ""


def test_it_goes_on_by_itself(browser, page, board, clock):
    board.begin()
    look(browser, page)
    browser.evaluate("window.opened = 'once'")

    receive(board, clock, 1, subject="Are you open?")
    browser.wait("document.querySelectorAll('#events tbody tr').length === 1")
    assert rows(browser, "events")[0][1:] == [
        "+created",
        "youmail",
        "133128004",
        "entry",
        "VoiceMail",
        "Are you open?",
    ]

    clock.now_ms += 61_000
    receive(board, clock, 2, wait_ms=4_000, change="deleted", provider="kirimdev", account="9")
    browser.wait("document.querySelectorAll('#events tbody tr').length === 2")
    assert [row[1:4] for row in rows(browser, "events")] == [
        [f"{MINUS}deleted", "kirimdev", "9"],
        ["+created", "youmail", "133128004"],
    ]
    totals = ["changes", "received", "awaited", "p50", "p99", "ran"]
    assert [browser.text(f"#{name}") for name in totals] == [
        "2",
        "2",
        "0",
        "2.0 s",
        "4.0 s",
        "01:07",
    ]
    assert browser.text("#rate-told") == (
        "In the last minute: 1 change at the providers, 1 event received."
    )
    assert browser.evaluate("window.opened") == "once"


def test_accounts_and_freshness_by_provider(browser, page, board, clock):
    board.begin()
    accounts = {"youmail": Accounts(5, 1), "ringcentral": Accounts(2)}
    board.stand(accounts, {"youmail": {"200": 10}})
    receive(board, clock, 1, wait_ms=1_500)
    look(browser, page)

    browser.wait("document.querySelectorAll('#providers tbody tr').length === 2")
    assert rows(browser, "providers") == [
        ["ringcentral", "2", "0", "0", NONE, NONE, "0", NONE, NONE],
        ["youmail", "5", "1", "0", NONE, NONE, "1", "1.5 s", "1.5 s"],
    ]

    clock.now_ms += 3_500
    board.stand({"youmail": Accounts(1_205, 0, 3)}, {"youmail": {"200": 15, "304": 15, "429": 0}})
    receive(board, clock, 2, wait_ms=500)
    browser.wait("document.querySelectorAll('#providers tbody tr').length === 1")
    assert rows(browser, "providers") == [
        ["youmail", "1,205", "0", "▲ 3", "4.0", "75 %", "2", "0.5 s", "1.5 s"]
    ]


def test_the_chart_is_drawn_and_told(browser, page, board, clock):
    board.begin()
    for number in range(3):
        receive(board, clock, number, wait_ms=0)
    look(browser, page)

    browser.wait("document.querySelectorAll('#bars rect').length === 60")
    heights = browser.evaluate(
        "[...document.querySelectorAll('#bars rect')]"
        ".map((bar) => bar.getBoundingClientRect().height)"
    )
    assert heights[-1] > 0
    assert set(heights[:-1]) == {0}
    assert browser.text("#ceiling") == "1 /s"
    # Before the run began there was none, and so no line.
    assert browser.evaluate("document.querySelector('#line').getBBox().x") == 590
    # Who cannot see it is told the same.
    tree = browser.tell("Accessibility.getFullAXTree")["nodes"]
    images = [
        node["name"]["value"] for node in tree if node.get("role", {}).get("value") == "image"
    ]
    assert images == ["In the last minute: 3 changes at the providers, 3 events received."]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_providers_say_is_text(browser, page, board, clock, text):
    board.begin()
    board.stand({text: Accounts(1)}, {})
    fields = {"provider": text, "account": text, "stream": text, "type": f"a {text}"}
    receive(board, clock, 1, subject=text, change="created", **fields)
    look(browser, page)
    before = browser.evaluate("document.querySelectorAll('*').length")

    browser.wait("document.querySelectorAll('#events tbody tr').length === 1")
    cells = browser.evaluate(
        "[...document.querySelector('#events tbody tr').cells].map((cell) => cell.textContent)"
    )
    assert cells[2:] == [text, text, text, f"a {text}", text]
    name = browser.evaluate("document.querySelector('#providers tbody th').textContent")
    assert name == text
    assert (
        browser.evaluate("document.querySelectorAll('main img, main script, td svg').length") == 0
    )
    assert browser.evaluate("typeof window.pwned") == "undefined"
    board.end(text, 0)
    browser.wait("document.querySelector('#phase').innerText === 'Ended'")
    assert browser.evaluate("document.querySelector('#notice').textContent") == text
    assert browser.evaluate("document.querySelectorAll('*').length") == before


def test_its_policy_refuses_scripts_and_markup(browser, page, board):
    board.begin()
    look(browser, page)
    refused = browser.evaluate(
        """
        (() => {
          try { document.body.innerHTML = "<b>x</b>"; return "markup was taken"; }
          catch (error) { return error.name; }
        })()
        """
    )
    assert refused == "TypeError"
    browser.evaluate(
        "document.addEventListener('securitypolicyviolation',"
        " (event) => { window.violated = event.violatedDirective; });"
        "document.body.append(Object.assign(document.createElement('img'), {src: '/page.css'}))"
    )
    browser.wait("window.violated === 'img-src'")
    browser.errors.clear()  # It was to say so.


def test_the_end_is_shown_and_stays(browser, board, clock):
    with Page(board) as page:
        board.begin()
        receive(board, clock)
        look(browser, page)
        # Notes in which phase it decides to ask once more.
        browser.evaluate(
            "window.asked = []; const later = window.setTimeout;"
            "window.setTimeout = (...words) => {"
            " asked.push(document.body.dataset.phase); return later(...words); }"
        )
        board.settle()
        board.say("no more changes; waiting for 1 that are on their way")
        browser.wait("document.querySelector('#notice').innerText.startsWith('no more changes')")
        assert browser.text("#phase") == "Waiting for the last events"
        board.end(SUMMARY, 0)
    browser.wait("document.querySelector('#phase').innerText === 'Ended'")

    assert browser.text("#notice") == SUMMARY
    assert len(rows(browser, "events")) == 1
    assert browser.evaluate("document.title") == f"Ended {NONE} Pollwire"
    assert "settling" in browser.evaluate("asked")
    assert "ended" not in browser.evaluate("asked")


def test_what_was_lost_is_said(browser, page, board, clock):
    board.begin()
    board.ledger.made(Made(("7", "entry", "e1"), "created", clock.now_ms))
    look(browser, page)
    board.end("1 lost", 1)

    browser.wait("document.querySelector('#phase').innerText === 'Ended, 1 change lost'")
    assert browser.text("#awaited-title") == "Lost"
    assert browser.text("#awaited") == "1"


def test_a_failure_is_said(browser, board):
    with suppress(Failed), Page(board) as page:
        look(browser, page, "Starting")
        raise Failed("80 MB are free here and 500 are needed; make room\n    more")

    browser.wait("document.querySelector('#phase').innerText === 'Failed'")
    assert browser.text("#notice") == "80 MB are free here and 500 are needed; make room"


def test_a_lost_connection_is_said_and_found_again(browser, board, clock):
    with Page(board) as page:
        board.begin()
        receive(board, clock)
        look(browser, page)
        page.close()
        browser.wait("document.querySelector('#phase').innerText === 'Connection lost'")
        said = browser.text("#notice")
        assert said.startswith("The run does not answer; it may have ended. What is shown is from ")
        assert len(rows(browser, "events")) == 1

    again = Board(Ledger(), clock)
    again.begin()
    with Page(again, int(page.url.rsplit(":", 1)[1].strip("/"))) as page:
        browser.wait("document.querySelector('#phase').innerText === 'Running'")
        assert browser.text("#notice") == ""
        assert rows(browser, "events") == []
        page.close()
    browser.open("about:blank")
    refusals = [text for text in browser.errors if "ERR_CONNECTION_REFUSED" not in text]
    browser.errors[:] = refusals


def test_a_run_that_says_nothing_is_not_called_fresh(browser, page, board):
    board.begin()
    look(browser, page)
    browser.evaluate("const now = performance.now(); performance.now = () => now + 20_000")

    browser.wait(
        "document.querySelector('#notice').innerText.startsWith('The run has said nothing')"
    )


#: The least contrast of any text with what it stands on, and what that text is.
LEAST_CONTRAST = """
(() => {
  const rgba = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const [r, g, b, a = 1] = rgba(getComputedStyle(at).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  let least = [21, ""];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !one.innerText) continue;
    const pair = [light(rgba(getComputedStyle(one).color).slice(0, 3)), light(paper(one))];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < least[0]) least = [ratio, one.outerHTML];
  }
  return least;
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_legible_in_light_and_dark(browser, page, board, clock, scheme):
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    browser.tell("Emulation.setEmulatedMedia", features=features)
    board.begin()
    board.stand({"youmail": Accounts(5, 1, 1)}, {})
    for number, change in enumerate(("created", "updated", "deleted")):
        receive(board, clock, number, change=change)
    look(browser, page)

    browser.wait("document.querySelectorAll('#events tbody tr').length === 3")
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(18, 20, 23)") == (scheme == "dark")
    ratio, where = browser.evaluate(LEAST_CONTRAST)
    assert ratio >= 4.5, where


@pytest.mark.parametrize("width", [320, 480, 760, 1180])
def test_nothing_sticks_out_of_a_narrow_window(browser, page, board, clock, width):
    browser.tell(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=False,
    )
    board.begin()
    board.stand({"youmail": Accounts(1_000_000, 1, 1), "x" * 200: Accounts()}, {})
    receive(board, clock, 1)
    long = "y" * 500
    receive(board, clock, 2, subject=long, account=long, provider=long, stream=long, type=long)
    look(browser, page)

    browser.wait("document.querySelectorAll('#events tbody tr').length === 2")
    assert browser.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    # A row is still one to whoever is read it.
    tree = browser.tell("Accessibility.getFullAXTree")["nodes"]
    roles = [node.get("role", {}).get("value") for node in tree]
    assert roles.count("table") == 2
    assert roles.count("row") == 2 + 2 + 2
    assert roles.count("rowheader") == 2


@pytest.mark.parametrize(("wish", "name"), [("reduce", "none"), ("no-preference", "settle")])
def test_nothing_moves_for_who_does_not_want_it(browser, page, board, clock, wish, name):
    features = [{"name": "prefers-reduced-motion", "value": wish}]
    browser.tell("Emulation.setEmulatedMedia", features=features)
    board.begin()
    receive(board, clock, 1)
    look(browser, page)
    receive(board, clock, 2)

    browser.wait("document.querySelectorAll('#events tbody tr').length === 2")
    assert (
        browser.evaluate(
            "getComputedStyle(document.querySelector('#events tbody tr')).animationName"
        )
        == name
    )


def test_without_a_browser_the_remedy_is_said(monkeypatch, tmp_path):
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssertionError, match="apt install chromium"):
        chromium.program()

    mine = tmp_path / "mine"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    monkeypatch.setenv("CHROMIUM", str(mine))
    assert Path(chromium.program()) == mine
    assert os.access(mine, os.X_OK)
