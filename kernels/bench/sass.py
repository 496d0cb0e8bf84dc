"""What a compiled kernel holds: registers, stack and static shared memory from the cubin, opcodes from its SASS."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
# An instruction line: its offset, perhaps a predicate, the opcode with its modifiers behind dots.
_OPCODE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", re.MULTILINE)
_MATRIX = re.compile(r"^(?:[A-Z]?MMA|[A-Z]GMMA|UTC[A-Z]*MMA)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cubin:
    """Resources of one kernel (``stack``, ``static_shared`` in bytes) and how often each opcode occurs in its SASS."""

    registers: int
    stack: int
    static_shared: int
    opcodes: Mapping[str, int]
    sass: str

    @property
    def loads(self) -> int:
        """Loads from local memory: registers that were spilled, or arrays that are indexed at run time."""
        return self.opcodes.get("LDL", 0)

    @property
    def stores(self) -> int:
        """Stores to local memory."""
        return self.opcodes.get("STL", 0)

    @property
    def instructions(self) -> int:
        """All instructions, without the padding behind the last one."""
        return sum(count for name, count in self.opcodes.items() if name != "NOP")

    @property
    def matrix(self) -> dict[str, int]:
        """Matrix instructions by family: HMMA, HGMMA, UTCHMMA and their kin."""
        return {name: count for name, count in sorted(self.opcodes.items()) if _MATRIX.match(name)}


def read_cubin(path: Path) -> Cubin:
    """Disassemble the cubin at ``path`` with the tools that come with Triton; it must hold one kernel."""
    text = _cuobjdump(path)
    resources = _RESOURCES.findall(text)
    if len(resources) != 1:
        raise ValueError(f"{path}: expected one kernel, found {len(resources)}")
    registers, stack, shared, local = map(int, resources[0])
    return Cubin(
        registers=registers,
        stack=max(stack, local),
        static_shared=shared,
        opcodes=count_opcodes(text),
        sass=text,
    )


def count_opcodes(sass: str) -> dict[str, int]:
    """How often each opcode, without its modifiers, occurs in a listing of cuobjdump."""
    return dict(Counter(_OPCODE.findall(sass)))


def _cuobjdump(path: Path) -> str:
    from triton import knobs

    command = [knobs.nvidia.cuobjdump.path, "-res-usage", "-sass", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"cuobjdump {path}: status {done.returncode}: {done.stderr.strip()[-200:]}")
    return done.stdout
