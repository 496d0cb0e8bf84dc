from __future__ import annotations

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
        # Not to the process: another thread could take it, and later.
        signal.raise_signal(number)
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


@pytest.mark.parametrize("joins", [False, True])
def test_a_request_ends_a_wait_for_other_ranks_that_no_signal_ends(joins: bool) -> None:
    # A read that goes on after a signal is like the wait for a store: Python's own handlers have to wait.
    rank = (
        "import ctypes, os, signal, sys, time\n"
        "from engine import stop\n"
        "stop.JOIN_SECONDS = 0.5\n"
        "stop.stop.install()\n"
        "signal.siginterrupt(signal.SIGTERM, False)\n"
        "waiting, writing = os.pipe()\n"
        "print('ready', flush=True)\n"
        "with stop.stop.heeded_while_joining():\n"
        f"    {'time.sleep(0.1)' if joins else 'ctypes.CDLL(None).read(waiting, ctypes.create_string_buffer(1), 1)'}\n"
        "time.sleep(1.5)\n"
        "sys.exit(3 if stop.stop.requested else 4)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", rank], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, errors) == ((3, "") if joins else (75, "stopped before all ranks had joined\n"))
