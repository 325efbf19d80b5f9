"""
What can go wrong, named by what to do about it:

* PollwireError
  - Retryable            the same call may succeed later, not before retry_after_s
    + Unavailable          timeout, connection lost, 5xx, an answer cut short
    + RateLimited          429, or a provider's own way of saying so
    + Conflict             another worker wrote first; nothing was written
    + NotPublished         SQS or SNS took only part of a batch
    + Unasked              it was not the time to ask; nobody is to blame
  - Rejected             the credential: leave the account alone, longer each time
    + Forbidden            one thing only: leave that stream alone
  - Malformed            the provider broke its contract
  - Restart              a saved place in a list is no longer valid: read it from the start
  - Misconfigured        our own input is wrong; names the field and the remedy

Messages carry a host, a status, a field name or a count; never a URL, a header, a body or a secret.
"""

from __future__ import annotations


class PollwireError(Exception):
    """Something Pollwire can name went wrong."""


class Retryable(PollwireError):
    """
    The same call may succeed later.

    Attributes:
        retry_after_s: Seconds to wait at least; 0 if the other side did not say.
    """

    def __init__(self, message: str, *, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(Retryable):
    """The other side did not answer, or not completely."""


class RateLimited(Retryable):
    """The provider asks us to slow down."""


class Conflict(Retryable):
    """Another worker wrote first. Nothing was written."""


class NotPublished(Retryable):
    """SQS or SNS took only part of a batch. What it refused must be sent again."""


class Unasked(Retryable):
    """No time was left to ask, or a budget is used up, or another worker gets the token."""


class Rejected(PollwireError):
    """The provider refuses the credential; asking again soon does harm."""


class Forbidden(Rejected):
    """The provider refuses one thing, with a credential that is good."""


class Malformed(PollwireError):
    """The provider's answer does not follow its documentation."""


class Restart(PollwireError):
    """A saved place in a list is no longer valid; the drain begins again from its cursor."""


class Misconfigured(PollwireError):
    """Our own input is wrong. The message names the field and the remedy."""


def describe(error: BaseException | None) -> str:
    """Say what went wrong in words to be logged: a foreign error's text may hold a secret."""
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, PollwireError) else name
