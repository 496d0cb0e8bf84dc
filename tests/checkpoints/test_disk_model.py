"""The model of a failing disk finds what it is there to find: saves that leave out a flush lose checkpoints."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import row_order
from disk_crash import Disk
from disk_trace import MISSING, Operation, parse
from row_crash_states import judge
from traced_saves import Situation, record_one

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Situation:
    return record_one(tmp_path_factory.mktemp("recorded") / "next", "next")


def flushes_a_file(operation: Operation) -> bool:
    return operation.kind == "flush" and "/step-" not in operation.path and "/.tmp-step-" in operation.path


LEFT_OUT: dict[str, Callable[[Operation], bool]] = {
    "files": flushes_a_file,
    "folder of checkpoints": lambda operation: operation.kind == "flush" and operation.path.endswith("/checkpoints"),
    "pointer": lambda operation: operation.kind == "flush" and operation.path.endswith("/.tmp-latest"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_flush_that_is_left_out_is_noticed(recorded: Situation, tmp_path: Path, name: str) -> None:
    fewer = [operation for operation in recorded.operations if not LEFT_OUT[name](operation)]
    assert len(fewer) < len(recorded.operations)
    assert not row_order.violations(recorded.operations) and row_order.violations(fewer)
    lost = 0
    for number in range(60):
        disk = Disk(str(recorded.root.resolve()), recorded.before)
        for operation in fewer[: len(fewer) - number % 12]:
            disk.take(operation)
        root = tmp_path / "crashed"
        disk.write_crashed(random.Random(number), root)
        try:
            judge(root, recorded)
        except Exception:
            lost += 1
    assert lost


def test_interrupted_calls_of_several_threads_are_put_together() -> None:
    path = "".join(f"\\x{byte:02x}" for byte in b"/run/a")
    lines = [
        f'7 write(3<{path}>, "\\x61\\x62", 2 <unfinished ...>',
        "8 fsync(9</elsewhere>) = 0",
        "7 <... write resumed>) = 2",
        f"7 fsync(3<{path}>) = -1 EIO (Input/output error)",
        "7 +++ exited with 0 +++",
    ]
    assert parse("\n".join(lines), "/run") == [Operation(kind="write", path="/run/a", data=b"ab")]
