"""What ``pollwire subscribe``, ``unsubscribe`` and ``subscriptions`` promise."""

from __future__ import annotations

import json

import pytest
from botocore.exceptions import ClientError
from pollwire_cli.queues import Queue, QueueArn, job_queues, sid

from tests import stack

TOPIC = "arn:aws:sns:us-east-1:123456789012:pollwire-events.fifo"
CRM = "arn:aws:sqs:us-east-1:123456789012:crm.fifo"
DEFAULT = "arn:aws:sqs:us-east-1:123456789012:pollwire-subscriber.fifo"
FOREIGN = "arn:aws:sqs:us-east-1:999999999999:crm.fifo"
MADE = "pollwire-undelivered-crm.fifo"
FAXES = "/restapi/v1.0/account/~/extension/~/message-store?type=Fax&direction=Outbound"
CONTACTS = "/pollwire/v1/youmail/account/~/contact"
DELETED = "/pollwire/v1/~/account/~/entry?change=deleted"
OWN = {"Sid": "Own", "Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sqs:ReceiveMessage"}


@pytest.fixture
def sqs(operator):
    return operator.clients("sqs")


@pytest.fixture
def make(sqs):
    """Make a queue; return its URL."""

    def made(name="crm.fifo", **attributes):
        fifo = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
        return sqs.create_queue(QueueName=name, Attributes=fifo | attributes)["QueueUrl"]

    return made


def attributes_of(sqs, name):
    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    return sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]


def statements_of(sqs, name="crm.fifo"):
    return json.loads(attributes_of(sqs, name).get("Policy", '{"Statement": []}'))["Statement"]


def subscribed(operator, endpoint=CRM):
    """The attributes of a queue's subscription, or None."""
    sns = operator.clients("sns")
    for one in sns.list_subscriptions_by_topic(TopicArn=TOPIC)["Subscriptions"]:
        if one["Endpoint"] == endpoint:
            return sns.get_subscription_attributes(SubscriptionArn=one["SubscriptionArn"])[
                "Attributes"
            ]
    return None


def test_a_queue_is_subscribed_with_all_that_it_takes(operator, sqs, make):
    make()

    answer = operator.done("subscribe", CRM, FAXES)

    found = subscribed(operator)
    assert found["RawMessageDelivery"] == "true"
    assert json.loads(found["FilterPolicy"])["type"] == ["Fax"]
    dead = json.loads(found["RedrivePolicy"])["deadLetterTargetArn"]
    assert dead.rpartition(":")[2] == MADE
    assert statements_of(sqs) == [
        {
            "Sid": sid(TOPIC),
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": CRM,
            "Condition": {"ArnEquals": {"aws:SourceArn": TOPIC}},
        }
    ]
    assert FAXES in answer.out
    assert MADE in answer.out


def test_the_dead_letter_queue_that_is_made_is_safe(operator, sqs, make):
    make()

    operator.done("subscribe", CRM)

    found = attributes_of(sqs, MADE)
    assert (found["FifoQueue"], found["SqsManagedSseEnabled"]) == ("true", "true")
    assert found["MessageRetentionPeriod"] == str(14 * 24 * 3600)
    allowed, denied = json.loads(found["Policy"])["Statement"]
    assert allowed["Condition"] == {"ArnEquals": {"aws:SourceArn": TOPIC}}
    assert denied["Effect"] == "Deny"
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_an_event_reaches_the_queue(operator, sqs, make):
    url = make()
    operator.done("subscribe", CRM, CONTACTS)

    for stream in ("contact", "entry"):
        operator.clients("sns").publish(
            TopicArn=TOPIC,
            Message=stream,
            MessageGroupId="g",
            MessageDeduplicationId=stream,
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value}
                for name, value in (("provider", "youmail"), ("stream", stream))
            },
        )

    messages = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    assert [one["Body"] for one in messages] == ["contact"]


@pytest.mark.parametrize("form", [list, lambda statements: statements[0]], ids=["list", "object"])
def test_what_else_a_policy_says_stays(operator, sqs, make, form):
    theirs = {**OWN, "Resource": CRM}
    make(Policy=json.dumps({"Version": "2012-10-17", "Id": "mine", "Statement": form([theirs])}))

    operator.done("subscribe", CRM)
    operator.done("subscribe", CRM)

    assert [one["Sid"] for one in statements_of(sqs)] == ["Own", sid(TOPIC)]
    operator.done("unsubscribe", CRM, "--yes")
    assert statements_of(sqs) == [theirs]
    assert json.loads(attributes_of(sqs, "crm.fifo")["Policy"])["Id"] == "mine"


def test_subscribing_again_changes_the_filter(operator, make):
    make()
    first = operator.done("subscribe", CRM, FAXES, "--json").json
    assert (first["done"], first["filters"]) == ("subscribed", [FAXES])

    second = operator.done("subscribe", CRM, CONTACTS, DELETED, "--json").json
    third = operator.done("subscribe", CRM, "--json").json

    assert (second["done"], second["filters"]) == ("changed", [CONTACTS, DELETED])
    assert (third["filters"], third["policy"]) == ([], {})
    assert first["dead_letters"] == third["dead_letters"]
    sns = operator.clients("sns")
    assert len(sns.list_subscriptions_by_topic(TopicArn=TOPIC)["Subscriptions"]) == 2


def test_filters_that_sns_finds_too_complex_are_refused(operator, make):
    make()

    said = operator.refused("subscribe", CRM, CONTACTS, FAXES)

    assert "filter: SNS finds the policy" in said


def test_a_policy_over_bodies_gives_way(operator, make):
    make()
    operator.done("subscribe", CRM)
    (arn,) = [
        one["SubscriptionArn"]
        for one in operator.clients("sns").list_subscriptions_by_topic(TopicArn=TOPIC)[
            "Subscriptions"
        ]
        if one["Endpoint"] == CRM
    ]
    for name, value in (
        ("FilterPolicyScope", "MessageBody"),
        ("FilterPolicy", '{"body": {"stream": ["entry"]}}'),
    ):
        operator.clients("sns").set_subscription_attributes(
            SubscriptionArn=arn, AttributeName=name, AttributeValue=value
        )
    (before,) = [
        one for one in operator.done("subscriptions", "--json").lines if one["queue"] == CRM
    ]

    operator.done("subscribe", CRM, CONTACTS)

    assert before["filters"] is None
    assert before["policy"] == {"body": {"stream": ["entry"]}}
    after = subscribed(operator)
    assert after["FilterPolicyScope"] == "MessageAttributes"
    assert json.loads(after["FilterPolicy"]) == {"provider": ["youmail"], "stream": ["contact"]}


def test_a_dead_letter_queue_of_ones_own_is_used_and_kept(operator, sqs, make):
    make()
    make("lost.fifo")
    lost = CRM.replace("crm", "lost")

    operator.done("subscribe", CRM, "--dead-letters", lost)
    operator.done("subscribe", CRM, FAXES)

    assert json.loads(subscribed(operator)["RedrivePolicy"])["deadLetterTargetArn"] == lost
    assert [one["Sid"] for one in statements_of(sqs, "lost.fifo")] == [sid(TOPIC)]
    with pytest.raises(sqs.exceptions.QueueDoesNotExist):
        attributes_of(sqs, MADE)


def test_a_dead_letter_queue_that_is_gone_is_made_again(operator, sqs, make):
    make()
    operator.done("subscribe", CRM)
    sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=MADE)["QueueUrl"])

    operator.done("subscribe", CRM)

    assert attributes_of(sqs, MADE)["FifoQueue"] == "true"


def test_a_standard_queue_is_warned_of(operator, make):
    make("crm")

    answer = operator.done("subscribe", CRM.removesuffix(".fifo"), "--json")

    assert "no FIFO queue" in answer.err
    assert answer.json["dead_letters"].endswith(":pollwire-undelivered-crm.fifo")


def test_names_of_dead_letter_queues_fit_and_differ(operator, make):
    names = [f"{'x' * 74}{end}.fifo" for end in "ab"]
    for name in names:
        make(name)
        operator.done("subscribe", f"arn:aws:sqs:us-east-1:123456789012:{name}")

    found = [
        one["dead_letters"].rpartition(":")[2]
        for one in operator.done("subscriptions", "--json").lines
        if one["queue"] != DEFAULT
    ]
    assert len(set(found)) == len(names)
    assert all(len(one) <= 80 and one.endswith(".fifo") for one in found)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["crm.fifo"], "no ARN of a queue", id="name"),
        pytest.param([""], "no ARN of a queue", id="empty"),
        pytest.param([TOPIC], "no ARN of a queue", id="topic"),
        pytest.param([f"{CRM}\n"], "no ARN of a queue", id="line feed"),
        pytest.param([CRM.replace("crm", "x" * 77)], "no ARN of a queue", id="long"),
        pytest.param([CRM, "contacts"], "a path is", id="filter"),
        pytest.param([CRM, CONTACTS, f"{FAXES}&type=Letter"], "is none of", id="second filter"),
        pytest.param([CRM, "--dead-letters", "lost"], "--dead-letters", id="dead letters"),
        pytest.param([], "QUEUE_ARN", id="nothing"),
    ],
)
def test_what_is_no_queue_or_filter_is_not_understood(operator, make, words, said):
    make()

    answer = operator.misused("subscribe", *words)

    assert said in " ".join(answer.replace("│", " ").split())
    assert subscribed(operator) is None


@pytest.mark.parametrize(
    ("arn", "said"),
    [
        pytest.param(CRM.replace("crm", "none"), "there is none in account", id="missing"),
        pytest.param(CRM.replace("us-east-1", "eu-west-1"), "its own region only", id="region"),
        pytest.param(DEFAULT, "DefaultSubscriber=false", id="default"),
        *(
            pytest.param(CRM.replace("crm.fifo", name), "one of Pollwire's own", id=name)
            for name in (
                "pollwire-checks-youmail",
                "pollwire-deltas-entry.fifo",
                "pollwire-dead-deltas-entry.fifo",
                "pollwire-undelivered.fifo",
                "pollwire-tail-12345678.fifo",
            )
        ),
    ],
)
def test_a_queue_that_cannot_be_subscribed_is_refused(operator, arn, said):
    before = operator.clients("sns").list_subscriptions_by_topic(TopicArn=TOPIC)["Subscriptions"]

    assert said in operator.refused("subscribe", arn)

    after = operator.clients("sns").list_subscriptions_by_topic(TopicArn=TOPIC)["Subscriptions"]
    assert after == before


@pytest.mark.parametrize(
    ("dead", "said"),
    [
        pytest.param(CRM, "the queue itself", id="itself"),
        pytest.param(CRM.replace("crm.fifo", "lost"), "FIFO queue in the topic's", id="standard"),
        pytest.param(FOREIGN, "FIFO queue in the topic's", id="account"),
        pytest.param(
            CRM.replace("us-east-1", "eu-west-1"), "FIFO queue in the topic's", id="region"
        ),
        pytest.param(CRM.replace("crm", "nowhere"), "there is none", id="missing"),
        *(
            pytest.param(CRM.replace("crm", name), "Pollwire's own", id=name)
            for name in (
                "pollwire-deltas-entry",
                "pollwire-dead-subscriber",
                "pollwire-undelivered",
                "pollwire-undelivered-erp",
                "pollwire-subscriber",
            )
        ),
    ],
)
def test_a_dead_letter_queue_that_sns_would_not_take_is_refused(operator, make, dead, said):
    make()
    make("lost")

    code = 2 if dead == CRM else 1
    assert said in operator.refused("subscribe", CRM, "--dead-letters", dead, code=code)
    assert subscribed(operator) is None


def test_the_queues_of_jobs_are_those_of_the_template():
    resources = stack.load()["Resources"].values()
    names = [
        one["Properties"]["FunctionName"]["Fn::Sub"]
        for one in resources
        if one["Type"] == "AWS::Serverless::Function"
        and "Checks" in one["Properties"].get("Events", ())
    ]

    assert len([one for one in job_queues("pollwire") if "-checks-" in one]) == len(names)


# Encryption


def test_awss_own_key_is_refused(operator, make):
    make(KmsMasterKeyId="alias/aws/sqs")

    assert "never lets SNS in" in operator.refused("subscribe", CRM)
    assert subscribed(operator) is None


@pytest.mark.parametrize(("lets", "warned"), [(False, True), (True, False)])
def test_a_key_that_does_not_let_sns_in_is_warned_of(operator, make, lets, warned):
    kms = operator.clients("kms")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    if lets:
        allowed = {
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": ["kms:GenerateDataKey*", "kms:Decrypt"],
            "Resource": "*",
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        kms.put_key_policy(KeyId=key, PolicyName="default", Policy=policy)
    make(KmsMasterKeyId=key)

    answer = operator.done("subscribe", CRM)

    assert ("kms:GenerateDataKey*" in answer.err) is warned


# Another account's queue


@pytest.fixture
def confirmed(monkeypatch, operator):
    """SNS as it is across accounts: a subscription is pending until it is confirmed."""
    sns = operator.clients("sns")
    state = {"pending": True}
    original = type(sns)._make_api_call

    def call(self, operation, given):
        answer = original(self, operation, given)
        if operation == "ListSubscriptionsByTopic" and state["pending"]:
            for one in answer["Subscriptions"]:
                if one["Endpoint"] == FOREIGN:
                    one["SubscriptionArn"] = "PendingConfirmation"
        if operation == "GetSubscriptionAttributes":
            foreign = answer["Attributes"]["Endpoint"] == FOREIGN
            answer["Attributes"]["PendingConfirmation"] = str(foreign and state["pending"]).lower()
        return answer

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", call)
    return state


def test_the_owner_of_another_accounts_queue_is_told_what_to_do(operator):
    answer = operator.run("subscribe", FOREIGN)
    as_json = operator.run("subscribe", FOREIGN, "--json")

    assert (answer.code, as_json.code) == (1, 1)
    wanted = json.loads(answer.out)
    assert wanted["Resource"] == FOREIGN
    assert wanted["Condition"] == {"ArnEquals": {"aws:SourceArn": TOPIC}}
    assert "--policy-is-set" in answer.err
    assert as_json.json == {"queue": FOREIGN, "done": "nothing", "statement": wanted}
    assert subscribed(operator, FOREIGN) is None


def test_another_accounts_queue_is_pending_until_its_owner_confirms(operator, confirmed):
    answer = operator.done("subscribe", FOREIGN, FAXES, "--policy-is-set")
    listed = operator.done("subscriptions", "--json").lines
    said = operator.refused("unsubscribe", FOREIGN, "--yes")
    confirmed["pending"] = False
    later = operator.done("subscriptions", "--json").lines
    operator.done("unsubscribe", FOREIGN, "--yes")

    assert "aws sns confirm-subscription" in answer.out
    assert "before it is confirmed" in said
    assert [(one["pending"], one["filters"]) for one in listed if one["queue"] == FOREIGN] == [
        (True, None)
    ]
    (after,) = [one for one in later if one["queue"] == FOREIGN]
    assert (after["pending"], after["filters"]) == (False, [FAXES])
    assert "999999999999" in after["dead_letters"]
    assert subscribed(operator, FOREIGN) is None


# The end of it


def test_a_queue_is_unsubscribed(operator, sqs, make):
    make()
    operator.done("subscribe", CRM)

    answer = operator.done("unsubscribe", CRM, "--yes", "--json")

    assert subscribed(operator) is None
    assert "Policy" not in attributes_of(sqs, "crm.fifo")
    assert attributes_of(sqs, MADE)
    assert answer.json == {
        "queue": CRM,
        "done": "unsubscribed",
        "dead_letters": CRM.replace("crm.fifo", MADE),
        "dead_letters_deleted": False,
    }


def test_what_ends_deliveries_asks_first(operator, make, terminal):
    make()
    operator.done("subscribe", CRM)

    assert "nothing was removed" in operator.run("unsubscribe", CRM, stdin="n\n").err
    assert subscribed(operator)
    operator.done("unsubscribe", CRM, stdin="y\n")
    assert subscribed(operator) is None


def test_without_a_terminal_nothing_ends_unasked(operator, make):
    make()
    operator.done("subscribe", CRM)

    assert "give --yes" in operator.refused("unsubscribe", CRM)
    assert subscribed(operator)


@pytest.mark.parametrize("filled", [False, True])
def test_a_dead_letter_queue_is_deleted_if_it_is_empty(operator, sqs, make, filled):
    make()
    operator.done("subscribe", CRM)
    url = sqs.get_queue_url(QueueName=MADE)["QueueUrl"]
    if filled:
        sqs.send_message(
            QueueUrl=url, MessageBody="x", MessageGroupId="g", MessageDeduplicationId="d"
        )

    answer = operator.done("unsubscribe", CRM, "--yes", "--delete-dead-letters", "--json")

    assert answer.json["dead_letters_deleted"] is not filled
    assert ("not empty" in answer.err) is filled
    if filled:
        assert len(sqs.receive_message(QueueUrl=url)["Messages"]) == 1
    else:
        with pytest.raises(sqs.exceptions.QueueDoesNotExist):
            attributes_of(sqs, MADE)


def test_a_dead_letter_queue_of_ones_own_is_never_deleted(operator, sqs, make):
    make()
    make("lost.fifo")
    operator.done("subscribe", CRM, "--dead-letters", CRM.replace("crm", "lost"))

    answer = operator.done("unsubscribe", CRM, "--yes", "--delete-dead-letters")

    assert "not made here" in answer.err
    assert attributes_of(sqs, "lost.fifo")


def test_a_queue_that_is_gone_is_unsubscribed(operator, sqs, make):
    url = make()
    operator.done("subscribe", CRM)
    sqs.delete_queue(QueueUrl=url)

    answer = operator.done("unsubscribe", CRM, "--yes")

    assert "there is none" in answer.err
    assert subscribed(operator) is None


def test_a_policy_that_may_not_be_changed_is_a_warning(operator, make, monkeypatch):
    make()
    operator.done("subscribe", CRM)

    def refused(*_):
        raise ClientError(
            {"Error": {"Code": "AccessDenied", "Message": "no"}}, "SetQueueAttributes"
        )

    monkeypatch.setattr(Queue, "close_to", refused)
    monkeypatch.setattr("pollwire_cli.subscriptions._deleted", refused)
    answer = operator.done("unsubscribe", CRM, "--yes", "--delete-dead-letters")

    assert "its policy stays as it is: AWS refused SetQueueAttributes" in answer.err
    assert f"{MADE} stays" in answer.err
    assert subscribed(operator) is None


@pytest.mark.parametrize(
    ("arn", "said"),
    [
        pytest.param(CRM, "is not subscribed; see pollwire subscriptions", id="unknown"),
        pytest.param(DEFAULT, "belongs to the stack", id="default"),
    ],
)
def test_what_cannot_end_is_refused(operator, arn, said):
    assert said in operator.refused("unsubscribe", arn, "--yes")
    assert subscribed(operator, DEFAULT)


# The list


def test_the_stacks_own_subscriber_is_listed(operator):
    answer = operator.done("subscriptions")
    (found,) = operator.done("subscriptions", "--json").lines

    assert "everything" in answer.out
    assert (found["queue"], found["state"], found["filters"]) == (DEFAULT, "the stack's", [])


def test_what_could_not_be_delivered_is_counted(operator, sqs, make):
    make()
    operator.done("subscribe", CRM)
    url = sqs.get_queue_url(QueueName=MADE)["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="x", MessageGroupId="g", MessageDeduplicationId="d")

    lines = operator.done("subscriptions", "--json").lines

    assert [one["undelivered"] for one in lines if one["queue"] == CRM] == [1]


def test_a_dead_letter_queue_that_cannot_be_read_is_unknown(operator, make, monkeypatch):
    make()
    operator.done("subscribe", CRM)

    def refused(*_):
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetQueueUrl")

    monkeypatch.setattr("pollwire_cli.subscriptions.Queue", refused)

    lines = operator.done("subscriptions", "--json").lines
    assert [one["undelivered"] for one in lines if one["queue"] == CRM] == [None]
    assert "?" in operator.done("subscriptions").out


def test_a_queues_arn_is_read_and_written():
    assert str(QueueArn.read(CRM)) == CRM
    assert str(QueueArn.read(CRM.replace("aws:", "aws-cn:"))) == CRM.replace("aws:", "aws-cn:")
