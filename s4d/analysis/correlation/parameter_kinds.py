"""Where in a classifier a parameter lies and what it belongs to, by its name."""

from __future__ import annotations

from typing import NamedTuple

KINDS = ("attention", "mlp", "experts", "routers", "rest")
EMBEDDING, NORM = "embedding", "final norm"


class Part(NamedTuple):
    """`layer` is `embedding`, `block 0`, `block 1`, ... or `final norm`; `kind` is one of KINDS."""

    layer: str
    kind: str


def shared_part(name: str) -> Part | None:
    """Part of a parameter that every task trains; None for the heads, of which each task has its own."""
    first, *rest = name.split(".")
    if first == "head":
        return None
    if first != "blocks":
        return Part(EMBEDDING if first == "patch_embed" else NORM, "rest")
    number, module, *_ = rest
    return Part(f"block {number}", _kind(module, rest[-1]))


def layer_order(layers: set[str]) -> list[str]:
    """Layers from the pixels to the heads."""

    def depth(layer: str) -> int:
        if layer.startswith("block "):
            return int(layer.removeprefix("block "))
        return -1 if layer == EMBEDDING else len(layers)

    return sorted(layers, key=depth)


def _kind(module: str, last: str) -> str:
    if module == "moae":
        return "routers" if last.startswith(("router", "noise")) else "experts"
    return {"attn": "attention", "mlp": "mlp"}.get(module, "rest")
