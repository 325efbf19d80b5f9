"""
YouMail: one line of digits says when each kind of thing last changed; then one lookup a kind.

    GET {poll}/vm/poll/{last digit of id}/{id}   no credential; 304 and 404 (new user) are answers
        243427273,34437373103,3373712092,...     history, entry, contact, ...: see FIELDS

    GET {api}/api/v4/authenticate                YouMail-User, YouMail-Password -> authToken
    GET {api}/api/v4/...                         Authorization: YouMail <authToken>

        entry        messagebox/entry/query              updatedFrom   entries[]     paged
        history      messagebox/entry/history/query      startDate     histories[]   paged
        contact      contacts/query                      updatedFrom   contacts[]    paged
        greeting     greetings/query                                   greetings[]
        account      accounts/phone/{phone}                            account{}
        settings     settings/                                         settings{}
        ecommerce    status/accountStatus/ecommerceStatus              ecommerceStatus{}
        entitlement  no lookup is known: account{} and ecommerceStatus{} stand in for it

The mark of a stream is compared and never sent anywhere: the poll host's clock is not the rows'
clock, it can be ahead of what the lookup shows, and its answer can be forged (it is plain http).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from pollwire.errors import Forbidden, Malformed, Misconfigured, Rejected, Restart, Unavailable
from pollwire.exchange import Fetch, Request
from pollwire.model import KNOWN_EMPTY, NOTHING, Account, Checking, Page, Row, Seen, Start, Stream
from pollwire.providers import (
    canonical_id,
    fits_header,
    instant_ms,
    iso,
    rows_of,
    setting,
    without_query,
)

PAGE_LENGTH: Final = 100
VALIDATOR_BYTES_MAX: Final = 256

# A recording's address is signed anew at every look.
_SIGNED: Final = frozenset({"messageDataUrl", "imageUrl", "avatarUrl", "audioUrl", "dataUrl"})
_LISTED: Final = Stream(overlap_s=120, volatile=_SIGNED)
_WHOLE: Final = Stream(overlap_s=120, snapshot=True, volatile=_SIGNED)

#: In the order of the composite answer.
STREAMS: Final = {
    # A call is listed under its start, a recording as well, when it is over.
    "history": Stream(overlap_s=120, reread_s=4 * 3600, volatile=_SIGNED),
    "entry": Stream(overlap_s=120, reread_s=3600, volatile=_SIGNED, path="message-store"),
    "contact": _LISTED,
    "entitlement": _WHOLE,
    "greeting": _WHOLE,
    "account": _WHOLE,
    "settings": _WHOLE,
    "ecommerce": _WHOLE,
}

#: Stream by index of the composite answer, unless the setting ``fields`` says otherwise: index 3
#: was something else in 2018. Fields beyond the last name are ignored.
FIELDS: Final = tuple(STREAMS)

CREATED: Final = ("created", "createTime")
UPDATED: Final = ("updated", "updateTime", "lastUpdated", "lastUpdateTime")

ENTRY_FIELDS: Final = (
    "id,status,source,destination,callerName,length,created,createTime,updated,updateTime,"
    "lastUpdated,lastUpdateTime,folderId,deleted,deleteType,messageDataUrl,flagged,preview,"
    "transcript,transcriptionState,createSource,phonebookSourceType,phonebookSourceId,imageUrl,"
    "city,countryState,body,impliedCallerName,messageType,mediaType,contactActionType,notes,"
    "shared,userId"
)


class Listing(NamedTuple):
    """A lookup in pages: its path, the name of its list, and the parameter that means "since"."""

    path: str
    root: str
    since: str
    query: Mapping[str, str]


# Ascending by creation: a row that arrives while pages are turned comes last and moves none.
# Clients disagree on the name of the parameter that lists fields, so both are sent.
LISTINGS: Final = {
    "entry": Listing(
        "messagebox/entry/query",
        "entries",
        "updatedFrom",
        {"folderId": "-1", "deleteType": "0", "sortBy": "created", "dataFormat": "MP3"}
        | {"includeList": ENTRY_FIELDS, "fields": ENTRY_FIELDS},
    ),
    "history": Listing(
        "messagebox/entry/history/query", "histories", "startDate", {"sortBy": "created"}
    ),
    "contact": Listing(
        "contacts/query", "contacts", "updatedFrom", {"deleteType": "0", "contactType": "-1"}
    ),
}

#: Path and root of the lookups that answer with one object.
OBJECTS: Final = {
    "account": ("accounts/phone/{phone}", "account"),
    "settings": ("settings/", "settings"),
    "ecommerce": ("status/accountStatus/ecommerceStatus", "ecommerceStatus"),
}

#: Lists of ``ecommerceStatus`` and what one of their rows is called. Only the first must be there.
ECOMMERCE: Final = {"orders": "order", "trials": "trial", "recommendations": "recommendation"}

TRASH: Final = "5322"
READ_STATUS: Final = {"1": "Unread", "2": "Read"}

#: What the normal form of a voicemail or a call says under a name of ours.
RENAMED: Final = {"status", *CREATED, "source", "callerName", "destination", "length"}

#: Endings of names of what opens something: not published, should an object carry it.
SECRETS: Final = ("password", "pin", "token", "secret", "sharekey")

_POLLED: Final = frozenset({200, 304, 404})

_COMPOSITE = re.compile(r"[0-9]{1,16}(?:,[0-9]{1,16}){0,63}")
_DIGITS = re.compile(r"[0-9]{1,20}")
_PAGE_NUMBER = re.compile(r"[1-9][0-9]{0,5}")
_LATER = re.compile(r"ServiceUnavailable|429|5[0-9]{2}")
_REFUSAL = re.compile(
    r"InvalidAuthToken|InvalidUser|TermsNotAgreed|AccountExpired|AccountDeleted|401|403"
)


class YouMail:
    name = "youmail"
    hosts: Mapping[str, str] = MappingProxyType(
        {"poll": "http://apipoll.youmail.com", "api": "https://api.youmail.com"}
    )
    streams: Mapping[str, Stream] = MappingProxyType(STREAMS)
    credential_fields: tuple[str, ...] = ("username", "password")
    check_needs_credential = False
    fastest_s = 1
    shares_rate = False

    def check(self, account: Account, seen: Seen) -> Checking:
        if not _DIGITS.fullmatch(account.id):
            raise Misconfigured("account.id is not YouMail's userId (digits); correct the account")
        stored = "" if seen.raw == KNOWN_EMPTY else seen.raw
        response = yield Request(
            f"{account.hosts['poll']}/vm/poll/{account.id[-1]}/{account.id}",
            headers=_validators(seen) if seen.etag or seen.modified else NOTHING,
            expect=_POLLED,
        )
        if response.status == 304:
            if not (seen.etag or seen.modified):
                raise Malformed("304, but nothing was sent that it could confirm")
            return seen
        if response.status == 404:
            if stored:
                raise Unavailable("404: the poll host lost an account it knew; its state is kept")
            return seen if seen.raw else Seen(raw=KNOWN_EMPTY)
        raw = response.body.strip().decode("ascii", "replace")
        return seen if stored and raw == stored else _changed(stored, raw, response.headers)

    def marks(self, account: Account, raw: str) -> dict[str, str]:
        if raw in ("", KNOWN_EMPTY):
            return {}
        _composite(raw)
        names = _field_names(account)
        return {name: mark for name, mark in zip(names, raw.split(","), strict=False) if name}

    def delta(self, account: Account, stream: str, start: Start, fetch: Fetch) -> Iterator[Page]:
        if stream in LISTINGS:
            yield from _pages(account, stream, start, fetch)
        elif start.resume:
            raise Restart(f"{stream}: there is one page only")
        elif stream == "greeting":
            raw_rows, date_ms = _get(account, fetch, "greetings/query", "greetings")
            yield Page(
                *rows_of(raw_rows, "greetings", partial(_read, account, stream)), date_ms=date_ms
            )
        elif stream == "ecommerce":
            yield _ecommerce(account, fetch)
        else:
            names = ("account", "ecommerce") if stream == "entitlement" else (stream,)
            found = [(name, *_object(account, fetch, name)) for name in names]
            rows = tuple(_read(account, stream, raw, name) for name, raw, _ in found)
            yield Page(rows, date_ms=found[0][2])


def _validators(seen: Seen) -> dict[str, str]:
    validators = {"If-None-Match": seen.etag} if seen.etag else {}
    if seen.modified:
        validators["If-Modified-Since"] = seen.modified
    return validators


def _changed(stored: str, raw: str, headers: Mapping[str, str]) -> Seen:
    values, before = _composite(raw), _composite(stored) if stored else []
    # Fields that mean nothing to us are none to be missed, so a forged surplus does no harm.
    if len(values) < min(len(before), len(FIELDS)):
        raise Malformed(f"{len(values)} fields after {len(before)}: the answer is cut short")
    if any(new < old for new, old in zip(values, before, strict=False)):
        # Its validators would confirm what may be damaged: none is kept.
        return Seen(raw=raw, doubtful=True)
    etag, modified = headers.get("etag", ""), headers.get("last-modified", "")
    return Seen(raw=raw, etag=_validator(etag), modified=_validator(modified))


def _composite(raw: str) -> list[int]:
    # A page of HTML with status 200, "+5", "12_3" and digits of other scripts all end here.
    if not _COMPOSITE.fullmatch(raw):
        raise Malformed("the composite answer is no list of numbers")
    return [int(value) for value in raw.split(",")]


def _validator(value: str) -> str:
    return value if fits_header(value) and len(value) <= VALIDATOR_BYTES_MAX else ""


def _field_names(account: Account) -> tuple[str, ...]:
    if "fields" not in account.settings:
        return FIELDS
    names = tuple(name.strip() for name in account.settings["fields"].split(","))
    used = [name for name in names if name]
    if not set(used) <= set(FIELDS) or len(set(used)) < len(used):
        raise Misconfigured(
            f"settings.fields takes each of {', '.join(FIELDS)} at most once, "
            "and nothing between two commas for a field to ignore; correct it"
        )
    return names


def _pages(account: Account, stream: str, start: Start, fetch: Fetch) -> Iterator[Page]:
    if start.resume and not _PAGE_NUMBER.fullmatch(start.resume):
        raise Restart(f"{stream}: the place to go on from is no page number")
    listing = LISTINGS[stream]
    since = {} if start.since_ms is None else {listing.since: str(max(0, start.since_ms))}
    query = {**listing.query, **since, "pageLength": str(PAGE_LENGTH)}
    number, previous, more = int(start.resume or 1), None, True
    while more:
        page_query = {**query, "pageNumber": str(number)}
        found, date_ms = _get(account, fetch, listing.path, listing.root, page_query)
        rows, bad = rows_of(found, listing.root, partial(_read, account, stream))
        more = len(found) >= PAGE_LENGTH  # As it came: rows that cannot be read count too.
        if more and found == previous:
            if len(found) == PAGE_LENGTH:
                raise Malformed(f"{listing.root}: a page repeats the one before; it never ends")
            # More than was asked for, twice: this list has no pages and told all at once.
            rows, bad, more = (), (), False
        previous, number = found, number + 1
        yield Page(rows, bad, resume=str(number) if more else "", date_ms=date_ms)


def _ecommerce(account: Account, fetch: Fetch) -> Page:
    """
    List orders, trials and recommendations, each as a row of its own.

    They are documented without an id, so one is made of what does not vary over a life from
    purchase to cancellation: kind, order type, product type, product name.
    """
    status, date_ms = _object(account, fetch, "ecommerce")
    pages = [
        rows_of(status.get(root), root, partial(_order, account, kind))
        for root, kind in ECOMMERCE.items()
        if root == "orders" or status.get(root) is not None
    ]
    rows = tuple(row for page, _ in pages for row in page)
    # An order's id of its own is not the one that we made for it.
    bad = tuple(replace(row, id="") for _, bad_rows in pages for row in bad_rows)
    return Page(rows, bad, date_ms=date_ms)


def _order(account: Account, kind: str, raw: dict[str, Any]) -> Row:
    parts = [raw.get(name) or "" for name in ("orderType", "productType", "productName")]
    if raw.get("id") is not None:
        parts = [canonical_id(raw["id"])]
    if not any(parts):
        raise Malformed(f"{kind}: neither an id nor a product")
    identity = "/".join(quote(str(part), safe="", errors="surrogatepass") for part in parts)
    return _read(account, "ecommerce", raw, f"{kind}:{identity}")


def _object(account: Account, fetch: Fetch, name: str) -> tuple[dict[str, Any], int | None]:
    path, root = OBJECTS[name]
    if name == "account":
        path = path.format(phone=quote(_phone(account), safe=""))
    found, date_ms = _get(account, fetch, path, root)
    if not isinstance(found, dict):
        raise Malformed(f"{root}: an object is expected")
    return found, date_ms


def _phone(account: Account) -> str:
    username = account.credential.get("username", "")
    if not account.settings.get("phone") and _DIGITS.fullmatch(username):
        return username
    return setting(account.settings, "phone", "settings")


def _get(
    account: Account, fetch: Fetch, path: str, root: str, query: Mapping[str, str] = NOTHING
) -> tuple[Any, int | None]:
    """Fetch what lies under *root*, and YouMail's clock; renew a refused token once."""
    token = account.token.value
    if token:
        try:
            return _ask(account, fetch, path, root, query)
        except Rejected:
            # Most likely it is too old. If not, the next refusal is final.
            account.token.refuse(token)
    if not account.token.value:
        _authenticate(account, fetch)
    try:
        return _ask(account, fetch, path, root, query)
    except Rejected as error:
        # YouMail has just taken the credential: it is this lookup that it refuses.
        raise Forbidden(f"{root}: {error}") from error


def _ask(
    account: Account, fetch: Fetch, path: str, root: str, query: Mapping[str, str]
) -> tuple[Any, int | None]:
    headers = {"Authorization": f"YouMail {account.token.value}", "Accept": "application/json"}
    url = f"{account.hosts['api']}/api/v4/{path}"
    response = fetch(Request(url, query=query, headers=headers, secret=True))
    body = response.json()
    _raise_for_error(body)
    if root not in body:
        raise Malformed(f"{root} is missing")
    return body[root], response.date_ms


def _authenticate(account: Account, fetch: Fetch) -> None:
    headers = {"Accept": "application/json"}
    for header, name in (("YouMail-User", "username"), ("YouMail-Password", "password")):
        headers[header] = setting(account.credential, name, "credential")
        if not fits_header(headers[header]):
            raise Misconfigured(f"credential.{name} has a character no header can carry; change it")
    url = f"{account.hosts['api']}/api/v4/authenticate"
    try:
        body = fetch(Request(url, headers=headers, secret=True)).json()
    except Forbidden as error:
        raise Rejected("YouMail refuses the username or the password") from error
    _raise_for_error(body)
    token = body.get("authToken")
    if not isinstance(token, str) or not token or not fits_header(token):
        raise Malformed("authToken is missing, or no header can carry it")
    account.token.renew(token)


def _raise_for_error(body: Mapping[str, Any]) -> None:
    """Raise what an error body means: ``response{statusCode, errors[{errorCode}]}``."""
    response = body.get("response")
    if not isinstance(response, dict):
        return
    errors = response.get("errors")
    status = str(response.get("statusCode") or 200)
    if not errors and status.startswith("2"):
        return
    listed = errors if isinstance(errors, list) else []
    codes = [status, *(str(error.get("errorCode")) for error in listed if isinstance(error, dict))]
    if any(_REFUSAL.fullmatch(code) for code in codes):
        raise Rejected("YouMail refuses the credential or the account in an error body")
    if any(_LATER.fullmatch(code) for code in codes):
        raise Unavailable("YouMail is not available, says an error body")
    raise Malformed("YouMail answers with an error body without a known meaning")


def _read(account: Account, stream: str, raw: dict[str, Any], identity: str = "") -> Row:
    """
    Turn one of YouMail's rows into ours.

    Args:
        identity: Its id, where the row itself has none.

    Raises:
        Malformed: A field is not what it should be, or the row is another account's.
    """
    for owner in ("userId", "accountId"):
        if raw.get(owner) is not None and str(raw[owner]) != account.id:
            raise Malformed(f"{owner}: the row is another account's")
    is_call = stream in ("entry", "history")
    type_ = "VoiceMail" if stream == "entry" else ""
    identity = identity or canonical_id(raw.get("id"))
    updated_at, at_ms = _updated(raw, stream)
    body = {
        name: value for name, value in _published(raw).items() if not (is_call and name in RENAMED)
    }
    body |= {"id": identity} | (_call(raw, type_) if is_call else {})
    deleted = (
        str(raw.get("folderId")) == TRASH
        or str(raw.get("deleted")).lower() in ("true", "1")
        or str(raw.get("deleteType")) == "2"
    )
    return Row(identity, updated_at, at_ms, body, deleted, type_, "Inbound" if is_call else "")


def _call(raw: Mapping[str, Any], type_: str) -> dict[str, Any]:
    """Say under our names what a voicemail and a call have in common, if it is said at all."""
    field, created = _first(raw, CREATED)
    status, called = raw.get("status"), raw.get("destination")
    caller = {"phoneNumber": raw.get("source"), "name": raw.get("callerName")}
    said = {
        "type": type_ or None,
        "direction": "Inbound",
        "readStatus": READ_STATUS.get(str(status), status),
        "creationTime": iso(instant_ms(created, field)) if field else None,
        "from": {name: value for name, value in caller.items() if value is not None} or None,
        "to": None if called is None else [{"phoneNumber": called}],
        "durationMs": raw.get("length"),
    }
    return {name: value for name, value in said.items() if value is not None}


def _updated(raw: Mapping[str, Any], stream: str) -> tuple[str, int]:
    """Find when a row last changed, in YouMail's words and as an instant."""
    # When an object was created says nothing of its changes; of a row it is the least we know.
    is_object = stream in (*OBJECTS, "entitlement")
    field, value = _first(raw, UPDATED if is_object else UPDATED + CREATED)
    if not field and stream in LISTINGS:
        raise Malformed("updated: neither a time of change nor one of creation")
    return (str(value), instant_ms(value, field)) if field else ("", 0)


def _first(raw: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, Any]:
    """Find the first of *names* that is said, and its value; 0 is how "never" is written."""
    return next(((name, raw[name]) for name in names if raw.get(name) not in (None, 0)), ("", None))


def _published(value: Any) -> Any:
    """Leave out what opens something, wherever it stands."""
    if isinstance(value, list):
        return [_published(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: without_query(one) if name.endswith("Url") else _published(one)
        for name, one in value.items()
        if not name.lower().endswith(SECRETS)
    }
