"""What ``pollwire connections push`` promises."""

from __future__ import annotations

import pytest
from pollwire.secrets import PUSH

from tests.cli.conftest import CANARY
from tests.cli.test_stack import deploy

SECRET = f"whsec_{CANARY}-of-16-or-more"


@pytest.fixture
def office(operator):
    operator.connect("office", "ringcentral")
    return operator


def verifier(operator):
    sealed = operator.connection("office").push_secret
    return sealed and operator.sealer.open(sealed, "office", PUSH)


def test_a_secret_is_read_from_stdin_and_sealed(office):
    answer = office.done(
        "connections", "push", "office", "--secret", "-", "--json", stdin=f"{SECRET}\n"
    )

    assert answer.json == {"connection": "office", "done": "notified", "url": None}
    assert verifier(office) == {"secret": SECRET}


def test_a_secret_is_read_from_a_file(office, tmp_path):
    (tmp_path / "secret").write_text(SECRET)

    office.done("connections", "push", "office", "--secret", str(tmp_path / "secret"))

    assert verifier(office) == {"secret": SECRET}


def test_a_secret_is_asked_for(office, terminal):
    office.done("connections", "push", "office", stdin=f"{SECRET}\n")

    assert verifier(office) == {"secret": SECRET}


def test_where_notifications_go_is_told(office, monkeypatch):
    deploy(office, monkeypatch, PushUrl="https://abc.lambda-url.us-east-1.on.aws/")
    words = ["connections", "push", "office", "--stack", "mine", "--secret", "-"]

    said = office.done(*words, stdin=SECRET).out
    answer = office.done(*words, "--json", stdin=SECRET).json

    assert "https://abc.lambda-url.us-east-1.on.aws/office" in said
    assert answer["url"] == "https://abc.lambda-url.us-east-1.on.aws/office"


def test_what_is_missing_is_told(office, monkeypatch):
    deploy(office, monkeypatch)
    words = ["connections", "push", "office", "--stack", "mine", "--secret", "-"]

    assert "Push=true" in office.done(*words, stdin=SECRET).out


def test_one_secret_replaces_another_and_off_takes_it_away(office):
    words = ["connections", "push", "office"]
    for secret in (SECRET, f"{SECRET}-2"):
        office.done(*words, "--secret", "-", stdin=secret)
        assert verifier(office) == {"secret": secret}
    assert office.done("connections", "show", "office", "--json").json["notified"] is True

    assert office.done(*words, "--off", "--json").json["done"] == "not notified"
    office.done(*words, "--off")

    assert verifier(office) is None
    assert "not taken" in office.done("connections", "show", "office").out


def test_a_change_of_the_connection_leaves_it(office):
    office.done("connections", "push", "office", "--secret", "-", stdin=SECRET)

    office.done("connections", "add", "office", "--update", "--interval", "30")

    assert verifier(office) == {"secret": SECRET}


@pytest.mark.parametrize(
    "written",
    [
        pytest.param("", id="nothing"),
        pytest.param(CANARY, id="too short"),
        pytest.param(SECRET * 20, id="too long"),
        pytest.param(f"{SECRET} {SECRET}", id="a space"),
        pytest.param(f"{SECRET}\n{SECRET}", id="two lines"),
        pytest.param(f"{SECRET}é", id="no ASCII"),
        pytest.param(b"\xff" + SECRET.encode(), id="no UTF-8"),
    ],
)
def test_a_secret_that_is_none_is_refused_and_never_shown(office, written):
    words = ["connections", "push", "office", "--secret", "-"]

    assert "push secret" in office.refused(*words, stdin=written) or isinstance(written, bytes)
    assert verifier(office) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["office"], "no terminal to ask on; give --secret FILE"),
        (["office", "--secret", "/nowhere/file"], "/nowhere/file: No such file"),
        (["nobody", "--secret", "-"], "connection nobody: there is none"),
        (["nobody", "--off"], "connection nobody: there is none"),
        (["a#b", "--off"], "connection: 1 to 64 letters"),
        (["shop", "--secret", "-"], "provider youmail notifies nobody"),
    ],
)
def test_what_cannot_be_done_is_named(office, words, said):
    office.connect()

    code = 2 if words[0] == "a#b" else 1
    assert said in office.refused("connections", "push", *words, stdin=SECRET, code=code)
    assert verifier(office) is None


@pytest.mark.parametrize(
    "words",
    [[], ["office", "--off", "--secret", "-"], ["office", "--secret"], ["office", "--token", "x"]],
)
def test_wrong_words_are_wrong_usage(office, words):
    office.misused("connections", "push", *words, stdin=SECRET)
