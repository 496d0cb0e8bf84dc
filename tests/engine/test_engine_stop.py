from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import stop
from engine.stop import StopRequest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_noted_and_nothing_is_interrupted(number: signal.Signals) -> None:
    earlier = {each: signal.getsignal(each) for each in stop.SIGNALS}
    try:
        request = StopRequest()
        request.install()
        assert not request.requested
        os.kill(os.getpid(), number)
        assert request.requested
    finally:
        for each, handler in earlier.items():
            signal.signal(each, handler)


def test_death_of_the_launcher_is_a_request(tmp_path: Path) -> None:
    """A stand-in for the launcher starts a rank and is killed: the rank notices."""
    rank = (
        "import time; from engine.stop import StopRequest; request = StopRequest(); print('ready', flush=True)\n"
        "begin = time.time()\n"
        "while not request.requested and time.time() - begin < 20: time.sleep(0.02)\n"
        f"open({str(tmp_path / 'seen')!r}, 'w').write(str(request.requested))"
    )
    launcher = (
        "import subprocess, sys; rank = subprocess.Popen([sys.executable, '-c', sys.argv[2]], "
        f"cwd={str(ROOT)!r}); rank.wait()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", launcher, "deepspeed.launcher.launch", rank], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while not (tmp_path / "seen").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.1)
    assert (tmp_path / "seen").read_text() == "True"


def test_plain_parents_may_go() -> None:
    assert StopRequest()._launcher == ()
