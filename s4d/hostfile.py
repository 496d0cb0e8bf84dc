"""DeepSpeed's hostfile and its `.deepspeed_env`, read more strictly than DeepSpeed does."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from s4d.errors import UsageError

EXPORTS = ".deepspeed_env"
# A name must not look like an option to ssh.
_LINE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s+slots=(?P<slots>[1-9][0-9]{0,3})")
_EXPORT = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>.*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """One line of a hostfile: a machine and the number of ranks it runs."""

    name: str
    slots: int


def read_hostfile(path: Path) -> list[Host]:
    """Hosts in order; UsageError names the line that is not `name slots=N` or names a host again."""
    hosts: list[Host] = []
    for number, text in enumerate(_lines_of(path, "--hostfile"), 1):
        line = text.partition("#")[0].strip()
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise UsageError(f"{path}:{number}: {line!r}: expected a host like 'node1 slots=8'")
        if any(host.name == match["name"] for host in hosts):
            raise UsageError(f"{path}:{number}: {match['name']} is listed twice; give it one line with all its slots")
        hosts.append(Host(name=match["name"], slots=int(match["slots"])))
    if not hosts:
        raise UsageError(f"{path}: names no host; expected lines like 'node1 slots=8'")
    return hosts


def read_exports(path: Path) -> dict[str, str]:
    """Variables that DeepSpeed gives to all nodes; UsageError names a line that would end it, such as an empty one."""
    found = {}
    for number, line in enumerate(_lines_of(path, path.name), 1):
        match = _EXPORT.fullmatch(line.strip())
        if match is None:
            raise UsageError(f"{path}:{number}: {line!r}: every line must be NAME=value; DeepSpeed stops at others")
        found[match["name"]] = match["value"]
    return found


def read_exported() -> dict[str, str]:
    """What DeepSpeed's pdsh launcher would give to all nodes if started here: of the home folder, then of this one."""
    found: dict[str, str] = {}
    for folder in (Path.home(), Path.cwd()):
        if (folder / EXPORTS).is_file():
            found |= read_exports(folder / EXPORTS)
    return found


def _lines_of(path: Path, what: str) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"{what}: {path}: {reason}") from error
