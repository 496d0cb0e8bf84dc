"""The oldest versions of other packages that this program runs with, checked before any of them is imported.

Older ones unpickle without limits, crash on damaged media or lack what is called here. Plain numbers are compared, so
that builds of a vendor (2.11.0a0+vendor) count as the release they are made from.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

# Package: oldest version, and the first one that is too new.
NEEDED: dict[str, tuple[str, str | None]] = {
    "torch": ("2.11", None),
    "deepspeed": ("0.19", "0.20"),
    "safetensors": ("0.5", None),
    "numpy": ("2.0", None),
    "av": ("18.1", None),
    "pillow": ("13", None),
    "pyyaml": ("6.0", None),
    "pydantic": ("2.9", None),
}
# The same of packages that a machine can do without.
OPTIONAL: dict[str, tuple[str, str | None]] = {
    "triton": ("3.6", None),
    "xformers": ("0.0.35", None),
    "nvidia-dali-cuda130": ("2.4", None),
    "nvidia-dali-cuda120": ("2.4", None),
    "torchcodec": ("0.13", "0.14"),
}
NUMBERS = re.compile(r"(?:[0-9]+!)?([0-9]+(?:\.[0-9]+)*)")
REFUSED = 2


def find_unfit() -> list[str]:
    """A line about each package that is missing or of a version that does not fit, with what to do."""
    return [line for package in NEEDED if (line := find_misfit(package, NEEDED))]


def installed(package: str) -> str | None:
    """Version of a package, empty if it does not say; None if it is not there."""
    try:
        return version(package) or ""
    except PackageNotFoundError:
        return None


def find_misfit(package: str, table: Mapping[str, tuple[str, str | None]]) -> str:
    """A line about a package of `table` that is missing or does not fit, with what to do; empty if it fits."""
    oldest, newest = table[package]
    needed = f"{package}>={oldest}" + (f",<{newest}" if newest else "")
    fix = f"pip install '{needed}', or make env"
    found = installed(package)
    if found is None:
        return f"{package}: not installed, {needed} is needed; {fix}"
    numbers = NUMBERS.match(found)
    if numbers is None:
        return f"{package}: version {found!r} is no version, {needed} is needed; {fix}"
    if _is_before(numbers[1], oldest) or (newest is not None and not _is_before(numbers[1], newest)):
        return f"{package}: version {found} is there, {needed} is needed; {fix}"
    return ""


def _is_before(one: str, other: str) -> bool:
    first, second = ([int(part) for part in text.split(".")] for text in (one, other))
    width = max(len(first), len(second))
    return first + [0] * (width - len(first)) < second + [0] * (width - len(second))


def require_dependencies() -> None:
    """End the process with status 2 and one line where a package does not fit; of a node's ranks the first speaks."""
    problems = find_unfit()
    if not problems:
        return
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        print(f"error: {problems[0]}", file=sys.stderr, flush=True)
    raise SystemExit(REFUSED)
