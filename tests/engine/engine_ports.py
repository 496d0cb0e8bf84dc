"""A port nobody uses right now, so that launches can run side by side."""

from __future__ import annotations

import socket


def free_port() -> int:
    """TCP port on the loopback interface, free at the time of asking."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
