"""S4D: one vision transformer for static and dynamic facial expressions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s4d.inference.model import S4D as S4D

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`s4d.S4D`, loaded when it is asked for: every part of the project imports this package."""
    if name != "S4D":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from s4d.inference.model import S4D

    return S4D
