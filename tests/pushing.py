"""What providers send to the push function, signed or not, as a function URL hands it over."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from pollwire.events import iso

EXTENSION, OTHER = "133165004", "133165005"
NUMBER = "106540352242922"

#: What verifies notifications, and what is in them: nothing of this may be seen anywhere.
TOKEN, SECRET = "canary-verification-token", "whsec_canary-signing-secret"
TEXT = "canary-text-of-a-message"


def request(
    path: str,
    body: str | bytes = "",
    headers: Mapping[str, str] | None = None,
    method: str = "POST",
) -> dict[str, Any]:
    """Write a request; bytes come as Lambda hands over what is no text."""
    return {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "",
        "headers": dict(headers or {}),
        "requestContext": {"http": {"method": method, "path": path}},
        "body": base64.b64encode(body).decode() if isinstance(body, bytes) else body,
        "isBase64Encoded": isinstance(body, bytes),
    }


def told(at_ms: int, extension: str = EXTENSION, **fields: Any) -> str:
    """Write what RingCentral notifies of a message."""
    return json.dumps(
        {
            "uuid": "1271cdfc-aa5c-4976-bf42-a4ea472b87a8",
            "event": f"/restapi/v1.0/account/133128004/extension/{extension}/message-store",
            "timestamp": iso(at_ms),
            "subscriptionId": "3fcf4b0e-86aa-48ca-b519-e13fd83713a6",
            "ownerId": "133128004",
            "body": {"extensionId": extension, "changes": [{"type": "SMS", "newCount": 1}]},
            "text": TEXT,
            **fields,
        }
    )


def received(number: str = NUMBER) -> str:
    """Write what Kirimdev passes on of a message that Meta told it of."""
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "62851176008029", "phone_number_id": number},
        "messages": [{"from": "628111111111", "type": "text", "text": {"body": TEXT}}],
    }
    change = {"value": value, "field": "messages"}
    return json.dumps(
        {"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [change]}]}
    )


def signed(body: str | bytes, at_s: int, secret: str = SECRET) -> str:
    """Sign as Kirimdev does."""
    raw = body if isinstance(body, bytes) else body.encode()
    digest = hmac.new(secret.encode(), f"{at_s}.".encode() + raw, hashlib.sha256)
    return f"t={at_s},v1={digest.hexdigest()}"


def forged(body: str, at_s: int) -> dict[str, str]:
    """Name signatures that are none, by what is wrong with them."""
    good = signed(body, at_s)
    digest = good.partition("v1=")[2]
    return {
        "none": "",
        "no time": f"v1={digest}",
        "no signature": f"t={at_s}",
        "an empty signature": f"t={at_s},v1=",
        "another secret's": signed(body, at_s, "another"),
        "an empty secret's": signed(body, at_s, ""),
        "another body's": signed(body + " ", at_s),
        "another time's": good.replace(str(at_s), str(at_s + 1), 1),
        "two times": f"t={at_s - 1},{good}",
        "in capitals": f"t={at_s},v1={digest.upper()}",
        "old": signed(body, at_s - 301),
        "of the future": signed(body, at_s + 301),
        "a time that is none": f"t=\u0663{at_s},v1={digest}",
        "a long time": f"t={'9' * 400},v1={digest}",
        "a time below zero": f"t=-{at_s},v1={digest}",
        "half a character": f"t={at_s},v1=\ud800",
        "not ASCII": f"t={at_s},v1={'é' * 64}",
        "too many": f"t={at_s}," + "v1=x," * 10_000 + f"v1={digest}",
    }


#: Verification tokens of RingCentral that are none.
STOLEN = {
    "none": {},
    "empty": {"verification-token": ""},
    "shorter": {"verification-token": TOKEN[:-1]},
    "longer": {"verification-token": f"{TOKEN} "},
    "twice": {"verification-token": f"{TOKEN},{TOKEN}"},
    "not ASCII": {"verification-token": "é\ud800"},
    "of another header": {"validation-token": "", "authorization": TOKEN},
    "with a challenge": {"validation-token": "abc", "verification-token": "another"},
}
