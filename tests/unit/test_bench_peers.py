"""What the comparison with others rests on: its provider is the simulated one, its AWS the fake."""

from __future__ import annotations

import json

import boto3
import pytest

from local.processes import Failed
from local.simulators.kirimdev import Kirimdev
from tests.bench.peers import __main__ as bench
from tests.bench.peers.aws import Service
from tests.bench.peers.provider import Provider, iso
from tests.simulation.aws import Aws
from tests.simulation.deployed import deployed

ACCOUNT = "106540352242923"
NOW_MS = 1_800_000_000_000
KEY = "kdv_live_benchBENCHbenchBENCHbench"

QUERIES = [
    "updated_since=2000-01-01T00:00:00.000Z&limit=25",
    "limit=100",
    f"updated_since={iso(NOW_MS + 60)}&limit=100",
    f"updated_since={iso(NOW_MS + 130)}&limit=100",
]


@pytest.fixture
def both():
    """The simulated provider and the fast one, with the same 130 rows."""
    slow = Kirimdev(lambda: NOW_MS / 1000, cache_s=0)
    slow.add_organisation("bench", KEY)
    slow.add_account("bench", ACCOUNT)
    fast = Provider()
    for number in range(130):
        at_ms = NOW_MS + number
        identity = slow.new_conversation(ACCOUNT, at_ms=at_ms)
        fast.rows([(ACCOUNT, identity, at_ms)])
    return slow, fast


def asked(both, text, etag=""):
    """Ask both; each answer as status, ETag, and its body without cursor and contact."""
    slow, fast = both
    path = f"/v1/{ACCOUNT}/conversations"
    query = dict(pair.split("=", 1) for pair in text.split("&"))
    headers = {"authorization": f"Bearer {KEY}"} | ({"if-none-match": etag} if etag else {})
    status, more, body = slow.handle("GET", path, query, headers, b"")
    answers = [(status, more["etag"], body), fast.answer(f"{path}?{text}", etag)]
    return [(status, etag, _read(body)) for status, etag, body in answers]


def _read(body):
    if not body:
        return None
    read = json.loads(body)
    assert (read.pop("next_cursor") is not None) is read["has_more"]
    for row in read["data"]:
        row.pop("contact")
    return {**read, "request_id": ""}


@pytest.mark.parametrize("text", QUERIES)
def test_both_providers_answer_alike(both, text):
    slow, fast = asked(both, text)
    assert fast == slow
    assert asked(both, text, slow[1]) == [(304, slow[1], None)] * 2


def test_the_second_page_goes_on_behind_the_first(both):
    _, fast = both
    path = f"/v1/{ACCOUNT}/conversations"
    first = json.loads(fast.answer(f"{path}?limit=100", "")[2])
    second = json.loads(fast.answer(f"{path}?limit=100&cursor={first['next_cursor']}", "")[2])
    ids = [row["id"] for page in (first, second) for row in page["data"]]
    assert len(ids) == len(set(ids)) == 130
    assert (second["has_more"], second["next_cursor"]) == (False, None)


@pytest.mark.parametrize(("strict", "found"), [(True, 1), (False, 2)])
def test_since_takes_its_own_instant_in_or_not(both, strict, found):
    _, fast = both
    fast.strict = strict
    target = f"/v1/{ACCOUNT}/conversations?updated_since={iso(NOW_MS + 128)}"
    assert len(json.loads(fast.answer(target, "")[2])["data"]) == found


def test_a_new_row_shows_at_once(both):
    _, fast = both
    target = f"/v1/{ACCOUNT}/conversations?limit=25"
    etag = fast.answer(target, "")[1]
    fast.rows([(ACCOUNT, "cnv_new", NOW_MS + 500)])
    status, _, body = fast.answer(target, etag)
    assert (status, json.loads(body)["data"][0]["id"]) == (200, "cnv_new")


@pytest.fixture
def aws():
    """The fake behind HTTP, and a way to make clients of it."""
    service = Service(Aws(deployed(), lambda: NOW_MS))
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    with service.served() as url:
        yield service, lambda name: session.client(name, endpoint_url=url)


def test_bytes_go_in_and_come_out(aws):
    service, client = aws
    table, item = deployed().table, {"pk": {"S": "a"}, "sk": {"S": "b"}, "x": {"B": b"\xff\x00"}}
    dynamodb = client("dynamodb")
    dynamodb.put_item(TableName=table, Item=item)
    assert (
        dynamodb.get_item(TableName=table, Key={"pk": item["pk"], "sk": item["sk"]})["Item"] == item
    )
    assert (service.calls["items"], service.calls["GetItem"]) == (1, 1)
    kms, context = client("kms"), {"account": "1"}
    key = deployed().key_arn
    sealed = kms.encrypt(KeyId=key, Plaintext=b"\x00secret", EncryptionContext=context)
    opened = kms.decrypt(CiphertextBlob=sealed["CiphertextBlob"], EncryptionContext=context)
    assert opened["Plaintext"] == b"\x00secret"


def test_a_refusal_has_its_name(aws):
    _, client = aws
    dynamodb = client("dynamodb")
    with pytest.raises(dynamodb.exceptions.ConditionalCheckFailedException):
        dynamodb.put_item(
            TableName=deployed().table,
            Item={"pk": {"S": "a"}, "sk": {"S": "b"}},
            ConditionExpression="attribute_exists(pk)",
        )


def test_a_batch_reaches_the_subscriber(aws):
    service, client = aws
    entry = {
        "Id": "0",
        "Message": '{"a": "<&>"}',
        "MessageGroupId": "g",
        "MessageDeduplicationId": "d",
        "MessageAttributes": {"stream": {"DataType": "String", "StringValue": "x"}},
    }
    answer = client("sns").publish_batch(
        TopicArn=deployed().topic, PublishBatchRequestEntries=[entry]
    )
    assert [one["Id"] for one in answer["Successful"]] == ["0"]
    (subscription,) = deployed().subscriptions
    (message,) = service.aws.messages(subscription.queue)
    assert message.body == entry["Message"]


@pytest.mark.parametrize("text", ["abc", "0", "-5", "1e3", "9", "20001", "1000 "])
def test_a_number_of_accounts_that_is_none_says_so(text, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", f"--accounts={text}"])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "ACCOUNTS=" in line
    assert "try make bench-peers ACCOUNTS=1000" in line


def test_a_peer_that_cannot_be_made_is_named_and_the_others_are_made(monkeypatch, tmp_path):
    made = []

    def make(folder, processes):
        if folder == ".venv-peers-singer":
            raise Failed("the disk is full; make room and try again")
        made.append(folder)

    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(bench, "is_made", lambda folder: False)
    monkeypatch.setattr(bench, "make", make)
    assert bench._make_missing() == {
        ".venv-peers-singer": "the disk is full; make room and try again"
    }
    assert made == [".venv-peers-airbyte", ".venv-peers-dlt"]
