"""What a request may take: time, bytes and connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Short: request bytes are paid for at every poll.
USER_AGENT: Final = "Pollwire"

MIB: Final = 1024 * 1024


#: So many requests without any answer are no account's trouble, but the provider's.
SILENT_MIN = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What one request may take at most.

    Attributes:
        connect_s: Name lookup, TCP and TLS together. Three round trips to the far side of the
            world take less than a second; a third of the whole leaves time for the answer.

        request_s: All of one request, from the name lookup to the last byte of the body. A third
            of the shortest function timeout, so that a hanging provider cannot use it up.

        body_bytes: Decoded body of a delta. A full page of the largest provider is below 1 MiB.

        wire_bytes: Everything received for a delta, as it came: an endless stream that decodes to
            nothing must end too.

        check_bytes: Body of a check. Smaller, because :attr:`connections` of them are in memory at
            once, and together they must fit into a function of 256 MB.

        header_bytes: Status line and headers. What urllib3 reads of one line, and eight times
            what any of the providers sends.

        header_lines: As many as http.client reads.

        connections: Requests of one run at a time. A new TLS connection costs as much as 35 polls,
            so few that are kept are cheaper than many.

        idle_s: Connections idle for longer are not used again: load balancers forget them after a
            minute, a NAT or a frozen function environment without telling.
    """

    connect_s: float = 3.0
    request_s: float = 10.0
    body_bytes: int = 5 * MIB
    wire_bytes: int = 5 * MIB
    check_bytes: int = 2 * MIB
    header_bytes: int = 64 * 1024
    header_lines: int = 100
    connections: int = 64
    idle_s: int = 20
