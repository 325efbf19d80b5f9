"""
What an answer means: pure, and the same for both engines.

    failure_of         the error that a status stands for
    kept_headers       what a check may want of the lines that came
    require_encoding   one that was asked for; then unpacked, then complete
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

from pollwire.errors import Forbidden, Malformed, PollwireError, RateLimited, Rejected, Unavailable
from pollwire.exchange import Response
from pollwire.http.limits import Limits

#: What a provider asks for when it says 429 without saying how long, or says nonsense:
#: RingCentral documents 30 s as the least, and punishes who comes back earlier.
RETRY_AFTER_S: Final = 30

#: An hour: whatever a provider says, an account is not forgotten for longer.
RETRY_AFTER_LONGEST_S: Final = 3600

#: What both engines say, behind the host, of an answer that is none.
LATE: Final = "no complete answer in time"
NOT_HTTP: Final = "the answer is not HTTP as it should be"
NOT_PUBLIC: Final = (
    "the name leads to an address that is not public;"
    " an internal host is allowed by its IP address in AllowedHosts"
)
SPENT: Final = "the provider says that its rate budget is used up"
TOO_LARGE: Final = "the answer is larger than the cap"
UNREACHABLE: Final = "cannot be reached"


def retry_after_s(value: str, now_s: float) -> int:
    """
    Read a ``Retry-After``: a number of seconds, or a date.

    Args:
        now_s: Seconds since the epoch, for a date.

    Returns:
        1 to 3,600; 30 for anything that cannot be read.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        seconds = float(value)  # int() refuses 5,000 digits
    else:
        try:
            date = parsedate_to_datetime(value)
            seconds = date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now_s
        except (ValueError, TypeError, IndexError, OverflowError):
            return RETRY_AFTER_S
    return int(min(max(seconds, 1), RETRY_AFTER_LONGEST_S))


def failure_of(
    status: int, expect: frozenset[int], host: str, retry_after: str, now_s: float
) -> PollwireError | None:
    """
    Name what a status means, or return ``None`` for one that the request expects.

    Args:
        retry_after: The header of that name; empty if there is none.

        now_s: Seconds since the epoch.
    """
    if status in expect:
        return None
    if status == 401:
        return Rejected(f"{host}: {status}")
    if status == 403:
        return Forbidden(f"{host}: {status}")
    if status == 429:
        return RateLimited(f"{host}: {status}", retry_after_s=retry_after_s(retry_after, now_s))
    if status == 408 or 500 <= status < 600:
        wait_s = retry_after_s(retry_after, now_s) if status == 503 and retry_after else 0
        return Unavailable(f"{host}: {status}", retry_after_s=wait_s)
    if 300 <= status < 400 and status != 304:
        return Malformed(f"{host}: {status}; redirects are not followed")
    return Malformed(f"{host}: {status} is no answer to this request")


def spent(wait_s: int) -> RateLimited:
    """Stand for an answer that is not asked for: an earlier one said what it would be."""
    return RateLimited(SPENT, retry_after_s=wait_s)


def require_encoding(
    status: int, headers: Mapping[str, str], accepted: tuple[str, ...], host: str
) -> str:
    """
    Return the encoding of the body in lower case.

    Raises:
        Malformed: It is none of the *accepted* ones.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in accepted:
        raise Malformed(f"{host}: {status} in an encoding that was not asked for")
    return encoding


def complete(status: int, headers: Mapping[str, str], body: bytes, host: str) -> Response:
    """
    Make the answer of its parts.

    Raises:
        Unavailable: It is a 200 with nothing in it. No provider means that.
    """
    if status == 200 and not body:
        raise Unavailable(f"{host}: {status} with nothing in it")
    return Response(status, headers, body)


def unpacked(body: bytes, most_bytes: int, host: str) -> bytes:
    """
    Unpack one gzip member, no further than the cap. urllib3 accepts one that was cut.

    Raises:
        Malformed: It is no gzip, not complete, not alone, or larger than *most_bytes*.
    """
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        plain = unpacker.decompress(body, most_bytes + 1)
    except zlib.error:
        raise Malformed(f"{host}: the answer says gzip and is not") from None
    if len(plain) > most_bytes:
        raise Malformed(f"{host}: {TOO_LARGE}")
    if not unpacker.eof or unpacker.unused_data:
        raise Malformed(f"{host}: the answer is not one complete gzip member")
    return plain


#: The headers that anyone reads after a check, by their names on the wire.
_KEPT: Final = {
    name.encode(): name
    for name in (
        *("content-encoding", "content-type", "date", "etag", "last-modified", "retry-after"),
        *(f"x-rate-limit-{name}" for name in ("remaining", "window", "reset")),
        *(f"x-ratelimit-{name}" for name in ("remaining", "window", "reset")),
    )
}


def kept_headers(lines: list[bytes], limits: Limits) -> dict[str, str] | None:
    """
    Read the headers of the last answer in *lines*, which may follow some with a status of 1xx.

    Returns:
        The kept ones in lower case, or ``None`` if they do not end, or there are too many.
    """
    headers: dict[str, str] = {}
    ended = False
    if len(lines) > limits.header_lines or len(b"".join(lines)) > limits.header_bytes:
        return None
    for line in lines:
        kind, text = _read_line(line) if len(line) <= LINE_BYTES_KNOWN else _read_line_anew(line)
        if kind is _OTHER:
            continue
        if kind is _BEGIN:
            headers, ended = {}, False
        elif kind is _END:
            ended = True
        elif not ended:  # what follows is a trailer, of no meaning to us
            headers[kind] = f"{headers[kind]}, {text}" if kind in headers else text
    return headers if ended else None


#: What a line is, if it is none of the kept headers. No header's name has a blank in it.
_BEGIN: Final = "a status line"
_END: Final = "an empty line"
_OTHER: Final = "any other line"

#: Lines up to this long are remembered as they were read: of a thousand answers that say the same
#: thing, most lines are the same.
LINE_BYTES_KNOWN: Final = 256


def _read_line_anew(line: bytes) -> tuple[str, str]:
    """Tell what a line is: the name of a kept header and its text, or one of the three others."""
    name, colon, value = line.partition(b":")
    if line.startswith(b"HTTP/"):
        return _BEGIN, ""
    if not colon:
        return (_OTHER, "") if line.strip() else (_END, "")
    kept = _KEPT.get(name.lower())
    return (_OTHER, "") if kept is None else (kept, value.strip().decode("latin-1"))


_read_line: Final = lru_cache(maxsize=1024)(_read_line_anew)


def bare(error: PollwireError) -> PollwireError:
    """Strip *error* of what it was raised from: what a library raises may hold the URL."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
