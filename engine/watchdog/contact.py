"""How the watchdogs of several nodes talk: lines of JSON over TCP, all with the serving one, beside collectives.

Every link says something at least once a second; who says nothing for too long counts as lost.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from typing import Any

Message = dict[str, Any]
ALIVE_SECONDS = 1.0
CONNECT_SECONDS = 10.0
HELLO_SECONDS = 30.0
# Far more than the stacks of all ranks of a node.
MAX_LINE_BYTES = 16 << 20


class Link:
    """One connection; `lost` once it broke or ended without a goodbye, `over` once it ended with one."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        self.name = name
        self.met = self.heard = time.monotonic()
        self.lost = self.over = False
        self._connection = connection
        self._incoming = b""
        self._outgoing = b""
        self._said = 0.0

    def fileno(self) -> int:
        """For `select`; -1 when closed."""
        return self._connection.fileno()

    @property
    def usable(self) -> bool:
        """True while both sides are there."""
        return not (self.lost or self.over)

    def say(self, message: Message) -> None:
        """Send, or keep for the next call what the connection does not take now."""
        self._said = time.monotonic()
        self._outgoing += json.dumps(message).encode() + b"\n"
        self._flush()

    def keep_alive(self) -> None:
        """Say something if nothing was said for a while."""
        if self.usable and time.monotonic() - self._said >= ALIVE_SECONDS:
            self.say({})

    def _flush(self) -> None:
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[self._connection.send(self._outgoing) :]
        except BlockingIOError:
            pass
        except OSError:
            self.lost = True

    def hear(self) -> list[Message]:
        """Messages that have come since the last call."""
        self._flush()
        try:
            while piece := self._connection.recv(1 << 16):
                self._incoming += piece
                self.heard = time.monotonic()
            self.lost = True
        except BlockingIOError:
            pass
        except OSError:
            self.lost = True
        *lines, self._incoming = self._incoming.split(b"\n")
        self.lost |= len(self._incoming) > MAX_LINE_BYTES
        messages = []
        for line in lines:
            message = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError(f"node {self.name}: not an object: {message!r}")
            if "bye" in message:
                self.over = True
            elif message:
                messages.append(message)
        return messages

    def goodbye(self) -> None:
        """End the connection in peace."""
        if self.usable:
            self.say({"bye": True})
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        self._connection.close()
        self.over = True


def serve(address: str) -> socket.socket:
    """A server on a free port of the interface with that address, or of all where it cannot be had."""
    try:
        return socket.create_server((address, 0))
    except OSError:
        return socket.create_server(("", 0))


def join(address: str, port: int, *, token: str, host: str, server_host: str) -> Link:
    """Connect to the serving watchdog; OSError if it cannot be reached."""
    connection = socket.create_connection((address, port), timeout=CONNECT_SECONDS)
    link = Link(connection, server_host)
    link.say({"token": token, "host": host})
    return link


class Contacts:
    """The links of one node's watchdog: none, one to the serving one, or those of all others."""

    def __init__(self, *, token: str, server: socket.socket | None = None, links: list[Link] | None = None) -> None:
        self._token = token
        self._server = server
        self._strangers: list[Link] = []
        self.serves = server is not None
        self.links = links or []

    def descriptors(self) -> list[int]:
        """What to wait for."""
        server = [self._server.fileno()] if self._server else []
        return server + [link.fileno() for link in self.links + self._strangers if link.usable]

    def hear(self) -> list[tuple[Link, Message]]:
        """What came since the last call, new nodes admitted."""
        if self._server is not None:
            self._server.setblocking(False)
            with suppress(BlockingIOError):
                self._strangers.append(Link(self._server.accept()[0], "a stranger"))
        found = [(link, message) for link in self.links if link.usable for message in link.hear()]
        for stranger in list(self._strangers):
            found += [(stranger, message) for message in self._meet(stranger)]
        return found

    def _meet(self, stranger: Link) -> list[Message]:
        # Whoever does not begin with the token of this run is not listened to any further. One that is lost again
        # already is a node that is lost.
        try:
            messages = stranger.hear()
        except ValueError:
            messages = [{"token": None}]
        if not messages and stranger.usable and time.monotonic() - stranger.met < HELLO_SECONDS:
            return []
        self._strangers.remove(stranger)
        if not messages or messages[0].get("token") != self._token:
            stranger.goodbye()
            return []
        stranger.name = str(messages[0]["host"])
        self.links.append(stranger)
        return messages[1:]

    def say(self, message: Message) -> bool:
        """Tell all; False if nobody can be told."""
        usable = [link for link in self.links if link.usable]
        for link in usable:
            link.say(message)
        return any(link.usable for link in usable)

    def keep_alive(self) -> None:
        """Let nobody wait for a sign."""
        for link in self.links:
            link.keep_alive()

    def goodbye(self) -> None:
        """Leave in peace."""
        for link in self.links:
            link.goodbye()
        if self._server is not None:
            self._server.close()
