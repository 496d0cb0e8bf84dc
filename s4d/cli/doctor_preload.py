"""Imported by the server that the processes of `s4d doctor` are forked from: what most of them need.

Without torch each of them finds that out by itself.
"""

from __future__ import annotations

import importlib
from contextlib import suppress

for _name in ("torch", "kernels.attention", "kernels.moae"):
    with suppress(Exception):
        importlib.import_module(_name)
