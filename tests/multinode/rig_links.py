"""Faults of the cables between nodes: cut, slow, late, deaf in one direction."""

from __future__ import annotations

import subprocess

from rig import Rig, cable
from rig_node import INTERFACE, Node


def cut(rig: Rig, node: Node) -> None:
    """Pull the cable: the node's interface loses its carrier, nobody gets a word."""
    rig.hub("ip", "link", "set", cable(node), "down")


def mend(rig: Rig, node: Node) -> None:
    """Put the cable back."""
    rig.hub("ip", "link", "set", cable(node), "up")


def slow(rig: Rig, node: Node, rate: str = "2mbit") -> None:
    """Limit both directions of a cable to `rate`."""
    shape = ("root", "tbf", "rate", rate, "burst", "16kb", "latency", "2s")
    node.network("tc", "qdisc", "replace", "dev", INTERFACE, *shape)
    rig.hub("tc", "qdisc", "replace", "dev", cable(node), *shape)


def late(rig: Rig, node: Node, delay: str = "50ms") -> str:
    """Delay both directions of a cable; the reason if this kernel cannot."""
    try:
        node.network("tc", "qdisc", "replace", "dev", INTERFACE, "root", "netem", "delay", delay)
        rig.hub("tc", "qdisc", "replace", "dev", cable(node), "root", "netem", "delay", delay)
    except subprocess.CalledProcessError as error:
        return f"this kernel has no netem: {str(error.stderr).strip()}"
    return ""


def deafen(node: Node, speaker: Node) -> None:
    """Let `node` hear nothing of `speaker`, who still hears it."""
    node.network("iptables", "-A", "INPUT", "-s", speaker.address, "-j", "DROP")
