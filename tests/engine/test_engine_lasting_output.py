"""A rank whose output nobody reads any more goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SPEAKER = """
import pathlib, sys
from engine.lasting_output import outlive_readers
outlive_readers()
print("hell\\u00f6", flush=True)
print("there", file=sys.stderr)
sys.stdin.readline()
for _ in range(3):
    print("nobody reads this", flush=True)
    print("nor this", file=sys.stderr)
pathlib.Path(sys.argv[1]).write_text("went on")
"""


def test_output_without_a_reader_ends_nobody(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SPEAKER, str(tmp_path / "end")]
    ends, pipe = os.pipe(), subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=ends[1], stderr=ends[1]) as process:
        os.close(ends[1])
        said = b""
        while b"there" not in said:
            said += os.read(ends[0], 1000)
        os.close(ends[0])
        assert said.decode() == "hellö\nthere\n"
        process.communicate(b"\n", timeout=60)
    assert process.returncode == 0 and (tmp_path / "end").read_text() == "went on"
