"""R8: two runs and one run folder: a living owner is named, a dead one replaced, of several at once one wins."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import families
import trials

from engine.errors import StateRefusedError
from engine.lease import Lease

HOLDER = Path(__file__).resolve().parent / "lease_holder.py"
SILENCE = 2.5
LIMIT_SECONDS = 20.0


class Holders:
    """Processes that want the lease of a folder, killed in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mark = uuid.uuid4().hex

    def __enter__(self) -> Holders:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        families.end(self._mark)
        shutil.rmtree(self.folder)

    def start(self, host: str = "-", silence: float = SILENCE) -> subprocess.Popen[str]:
        """One more process that wants it."""
        return subprocess.Popen(
            [sys.executable, str(HOLDER), str(self.folder), host, str(silence)],
            stdout=subprocess.PIPE,
            text=True,
            env=families.inner(self._mark),
        )

    def owner(self, host: str = "-") -> subprocess.Popen[str]:
        """A process that has it."""
        process = self.start(host)
        assert said(process) == "taken\n"
        return process

    def refused(self, owner: subprocess.Popen[str]) -> float:
        """Seconds until this process is refused by a message with host, process and start."""
        known = json.loads(max(self.folder.glob(".lease-*")).read_text())
        began = time.monotonic()
        try:
            Lease(self.folder).take()
        except StateRefusedError as error:
            seconds = time.monotonic() - began
            text = f"in use by process {owner.pid} on {known['host']} since {known['since']}"
            assert text in str(error), f"{error} does not say: {text}"
            return seconds
        raise AssertionError("a living owner was replaced")

    def taken(self, silence: float = SILENCE) -> None:
        """Take it and leave it."""
        lease = Lease(self.folder, silence_seconds=silence)
        lease.take()
        lease.check()
        lease.release()


def said(process: subprocess.Popen[str]) -> str:
    """The next line of a process."""
    assert process.stdout is not None
    return process.stdout.readline()


def same_host(holders: Holders) -> float:
    """The owner lives here."""
    return holders.refused(holders.owner())


def other_host(holders: Holders) -> float:
    """The owner lives elsewhere; its clock and ours do not count."""
    return holders.refused(holders.owner("elsewhere"))


def at_once(holders: Holders) -> float:
    """Several start together, here and elsewhere."""
    wanting = [holders.start(host) for host in ("-", "a", "-", "b")]
    answers = [said(process) for process in wanting]
    assert sorted(answer[:5] for answer in answers) == ["refus"] * 3 + ["taken"], answers
    return 0.0


def killed(holders: Holders) -> float:
    """The owner was killed."""
    owner = holders.owner()
    owner.kill()
    owner.wait()
    holders.taken(silence=60.0)
    return 0.0


def reused_number(holders: Holders) -> float:
    """Another process has the number of the owner."""
    owner = holders.owner()
    owner.kill()
    owner.wait()
    file = max(holders.folder.glob(".lease-*"))
    stranger = subprocess.Popen(["sleep", "60"], env=families.inner(holders._mark))
    file.write_text(json.dumps({**json.loads(file.read_text()), "pid": stranger.pid}))
    holders.taken(silence=60.0)
    return 0.0


def lost_host(holders: Holders) -> float:
    """The owner's machine is gone."""
    owner = holders.owner("elsewhere")
    owner.kill()
    holders.taken()
    return 0.0


def frozen(holders: Holders) -> float:
    """The owner's machine stands still, is replaced, and wakes up: it learns so before it does anything."""
    owner = holders.owner("elsewhere")
    owner.send_signal(signal.SIGSTOP)
    holders.taken()
    owner.send_signal(signal.SIGCONT)
    assert said(owner).startswith("refused: ") and owner.wait(LIMIT_SECONDS) == 3
    return 0.0


def run_in_use(holders: Holders) -> float:
    """A run of the engine is refused in a folder that is held, with exit status 3."""
    run_dir = bench.folder / "held"
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir()
    held = Lease(run_dir)
    held.take()
    trial = bench.fork(bench.write_run("held"), "engine.steps=2")
    assert trial.wait() == 3 and "in use by process" in trial.err, f"{trial.status()}: {trial.err}"
    trial.close()
    held.release()
    return 0.0


KINDS: tuple[Callable[[Holders], float], ...] = (
    same_host,
    killed,
    other_host,
    lost_host,
    at_once,
    reused_number,
    same_host,
    frozen,
    run_in_use,
    killed,
)
bench: trials.Bench


def prepare(folder: Path) -> None:
    """Start the server of the trials."""
    global bench
    bench = trials.Bench(folder)


def run(number: int, folder: Path) -> tuple[str, float]:
    """One meeting of two or more; the value is how long a refusal by a living owner took."""
    kind = KINDS[number % len(KINDS)]
    with Holders(folder / "leased") as holders:
        return kind.__name__.replace("_", " "), kind(holders)
