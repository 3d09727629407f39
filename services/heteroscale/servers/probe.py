"""Whether something answers at an address, and which ports are free. A few bytes of each protocol, no client library."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
PORT_LAST = 65_535
_TIMEOUT_S = 1.0
_API_VERSIONS = 18


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def connects(host: str, port: int) -> bool:
    """Whether a TCP connection is taken."""
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT_S):
            return True
    except OSError:
        return False


def kafka_answers(host: str, port: int) -> bool:
    """Whether a broker answers an ApiVersions request (version 0, no client id) with its correlation id."""
    body = struct.pack(">hhih", _API_VERSIONS, 0, 7, -1)
    reply = _exchange(host, port, struct.pack(">i", len(body)) + body)
    return len(reply) >= 8 and struct.unpack(">i", reply[4:8])[0] == 7


def redis_answers(host: str, port: int) -> bool:
    """Whether a Redis answers PING (one that asks for a password answers too; one that still loads does not)."""
    return _exchange(host, port, b"PING\r\n").startswith((b"+PONG", b"-NOAUTH"))


def kafka_connects(bootstrap: str) -> bool:
    """Whether any of `a:9092,b:9092` takes a connection. Raises ValueError that says what to write."""
    pairs: list[tuple[str, int]] = []
    for part in bootstrap.split(","):
        host, separator, port = part.strip().rpartition(":")
        if not separator or not host or not port.isdigit() or not 0 < int(port) <= PORT_LAST:
            raise ValueError(f"{bootstrap!r} is not a Kafka address; write host:port, such as 127.0.0.1:9092")
        pairs.append((host.strip("[]"), int(port)))
    return any(connects(host, port) for host, port in pairs)


def redis_connects(url: str) -> bool:
    """Whether the Redis of a URL takes a connection. Raises ValueError that says what to write."""
    parts = urlsplit(url)
    if parts.scheme == "unix" and parts.path:
        return Path(parts.path).is_socket()
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname or not has_port(url):
        raise ValueError(f"{without_password(url)!r} is not a Redis address; write redis://host:port/0, such as redis://127.0.0.1:6379/0")
    return connects(parts.hostname, parts.port or 6379)


def has_port(url: str) -> bool:
    """Whether a URL names a port that can be, or none."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def without_password(url: str) -> str:
    """A URL that may be shown."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user = parts.username or ""
    return parts._replace(netloc=f"{user}:***@{parts.netloc.rpartition('@')[2]}").geturl()


def _exchange(host: str, port: int, request: bytes) -> bytes:
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT_S) as connection:
            connection.sendall(request)
            return connection.recv(64)
    except OSError:
        return b""
