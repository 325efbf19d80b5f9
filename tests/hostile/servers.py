"""Small servers on raw sockets that answer as a script says, however wrong that is."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: Gets the talk and the request; a false result keeps the connection, a true one closes it.
Script = Callable[["Talk", bytes], object]


class Talk:
    """One connection, seen from the server."""

    def __init__(self, server: Server, sock: socket.socket, connection: int) -> None:
        self.server = server
        self.sock = sock
        self.connection = connection

    def send(self, *parts: bytes) -> None:
        self.sock.sendall(b"".join(parts))

    def drip(self, part: bytes) -> None:
        """Send *part* again and again, until the client has had enough or the test is over."""
        while not self.server.stopping.wait(0.02):
            self.send(part)

    def hang(self) -> None:
        self.server.stopping.wait()

    def reset(self) -> bool:
        """Close so that the client gets a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return True


class Server:
    """
    Listens on 127.0.0.1 for as long as the ``with`` block lasts, and joins its threads at its end.

    Attributes:
        connections: Connections accepted.

        requests: Everything that came, request by request, headers and body.

        received: Bytes that came, whether or not they are a request.
    """

    def __init__(
        self,
        script: Script,
        *,
        certificate: Path | None = None,
        newest: ssl.TLSVersion | None = None,
        silent: bool = False,
    ) -> None:
        self._script = script
        self._silent = silent
        self._context = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate)
            if newest is not None:  # Versions that OpenSSL itself calls insecure included.
                self._context.set_ciphers("ALL:@SECLEVEL=0")
                self._context.minimum_version = ssl.TLSVersion.TLSv1
                self._context.maximum_version = newest
        self._lock = threading.Lock()
        self._socks: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.stopping = threading.Event()
        self.connections = 0
        self.requests: list[bytes] = []
        self.received = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        scheme = "http" if certificate is None else "https"
        self.base = f"{scheme}://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            socks, threads = list(self._socks), list(self._threads)
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()

    def _spawn(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                connection = self.connections
                self.connections += 1
                self._socks.append(sock)
            self._spawn(lambda sock=sock, connection=connection: self._serve(sock, connection))

    def _serve(self, sock: socket.socket, connection: int) -> None:
        with contextlib.suppress(OSError, ssl.SSLError), contextlib.ExitStack() as stack:
            stack.callback(sock.close)
            if self._silent:
                self.stopping.wait()
                return
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
                stack.callback(sock.close)
                with self._lock:
                    self._socks.append(sock)
            talk = Talk(self, sock, connection)
            while request := self._request(sock):
                if self._script(talk, request):
                    return

    def _request(self, sock: socket.socket) -> bytes:
        """Read one request; nothing if the client closes first."""
        request = b""
        while not _complete(request):
            part = sock.recv(65536)
            if not part:
                return b""
            request += part
            with self._lock:
                self.received += len(part)
        with self._lock:
            self.requests.append(request)
        return request


def _complete(request: bytes) -> bool:
    head, blank, body = request.partition(b"\r\n\r\n")
    if not blank:
        return False
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(body) >= int(value)
    return True


def answer(
    body: bytes = b"{}", *headers: str, status: str = "200 OK", length: int | None = None
) -> bytes:
    """Write an answer with a ``Content-Length``."""
    length = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {length}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def says(reply: bytes, *, close: bool = False) -> Script:
    """Make a script that always sends *reply*."""

    def script(talk: Talk, request: bytes) -> bool:
        talk.send(reply)
        return close

    return script


def make_certificate(path: Path, host: str = "127.0.0.1") -> Path:
    """Write a self-signed certificate for *host* and its key into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    try:
        subject: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([subject]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path
