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


@pytest.mark.parametrize("number", stop.SIGNALS)
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


def test_a_second_signal_ends_the_run_unless_it_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(stop.time, "monotonic", lambda: clock[0])
    request = StopRequest()
    request._note(signal.SIGTERM, None)
    clock[0] += stop.REPEAT_SECONDS - 1
    request._note(signal.SIGTERM, None)
    clock[0] += 2
    with pytest.raises(stop.StoppedAtOnceError, match="stopped by a second SIGUSR1") as caught:
        request._note(signal.SIGUSR1, None)
    assert caught.value.exit_code == 128 + signal.SIGUSR1
    # What is done on the way out is not interrupted.
    clock[0] += 100
    request._note(signal.SIGTERM, None)


def test_death_of_the_launcher_is_a_request(tmp_path: Path) -> None:
    """A stand-in for the launcher starts a rank and is killed: the rank notices."""
    rank = (
        "import time; from engine.stop import StopRequest; request = StopRequest(); request.install(); "
        "print('ready', flush=True)\n"
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
    assert stop._launcher_chain() == ()
