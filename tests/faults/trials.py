"""Runs of `engine/train.py` to be disturbed: started fast or as a user starts them, watched, killed, compared.

    with trials.Bench(folder) as bench:
        run_file = bench.write_run("disturbed")                       # the tiny project of the engine's tests
        trial = bench.fork(run_file, "engine.steps=8")                # one rank, about a second
        trial = bench.fork(run_file, "engine.steps=8", ranks=2)       # two ranks, nobody above them
        trial = bench.launch(run_file, "engine.steps=8", ranks=2)     # `deepspeed engine/train.py`, about 8 s
        trial.until(lambda: trials.logged(run_file.with_suffix("")) >= 3)
        trial.kill()                                                  # SIGKILL to everything the run started
        trial = bench.fork(run_file, "engine.steps=8")
        assert trial.wait() == 0
        trial.close()                                                 # asserts that nothing is left of it
        trials.assert_same(run_file.with_suffix(""), calm)

Every run is a family (tests/scorecard/families.py) with a folder for temporary files of its own. Where the system
permits it, the runs of a bench share a `/dev/shm` that nobody else uses. A `sitecustomize.py` on `PYTHONPATH` in
`environment` is obeyed by both forms.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
for needed in (HERE.parent / "engine", HERE.parent / "scorecard"):
    if str(needed) not in sys.path:
        sys.path.append(str(needed))

import families  # noqa: E402 (found through the lines above)
from engine_ports import free_port  # noqa: E402
from engine_project import write_media, write_run  # noqa: E402

LIMIT_SECONDS = 150.0
GONE_SECONDS = 20.0
# A mount namespace with shared memory of its own; needs privileges, also inside containers.
PRIVATE = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh")
PLACEHOLDER = "0" * 32


class Bench:
    """A tiny project in `folder` and a server process that starts runs of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mark = uuid.uuid4().hex
        if not (folder / "clips.csv").exists():
            write_media(folder)
        self.private = subprocess.run([*PRIVATE, "true"], capture_output=True, check=False).returncode == 0
        outer = families.inner(self._mark)[families.MARK]
        bin_dir = Path(sys.executable).parent
        self._server = subprocess.Popen(
            [*(PRIVATE if self.private else ()), sys.executable, str(HERE / "trial_server.py")],
            env={
                **os.environ,
                families.MARK: f"{outer}/{PLACEHOLDER}",
                "DS_ACCELERATOR": "cpu",
                "OMP_NUM_THREADS": "1",
                "PYTHONWARNINGS": "ignore",
                "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._outer = outer
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n", "the server of the trials did not start"

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server and all that is left of its trials."""
        assert self._server.stdin is not None
        with suppress(BrokenPipeError):
            self._server.stdin.close()
        families.end(self._mark)
        self._server.wait()

    def write_run(self, name: str, task: str = "finetune") -> Path:
        """`<name>.yaml` of a run in `<name>/`."""
        return write_run(self.folder, name, task)

    def fork(self, run_file: Path, *arguments: str, ranks: int = 0, environment: dict[str, str] | None = None) -> Trial:
        """Training without a launcher, forked from a process that has imported everything; `ranks` 0 is one alone."""
        ports = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
        own = [{**ports, "LOCAL_SIZE": str(ranks), "RANK": str(n), "LOCAL_RANK": str(n)} for n in range(ranks)]
        arguments = ("--config", str(run_file), *arguments)
        return self._start("forked", list(arguments), [{**each, **(environment or {})} for each in own or [{}]])

    def launch(
        self, run_file: Path, *arguments: str, ranks: int = 2, environment: dict[str, str] | None = None
    ) -> Trial:
        """Training by `deepspeed --num_accelerators <ranks> engine/train.py`."""
        command = ["deepspeed", "--num_accelerators", str(ranks), "--master_port", str(free_port())]
        command += ["engine/train.py", "--config", str(run_file), *arguments]
        return self._start("command", command, [environment or {}])

    def command(self, *command: str, environment: dict[str, str] | None = None) -> Trial:
        """Any command, run in the repository root."""
        return self._start("command", list(command), [environment or {}])

    def _start(self, form: str, arguments: list[str], environments: list[dict[str, str]]) -> Trial:
        """One process for each environment."""
        mark = uuid.uuid4().hex
        # Not below `folder`: the address of a socket may not be long.
        temporary = Path(tempfile.mkdtemp(prefix="s4d-trial-"))
        out, err = (self.folder / f"{mark}.{name}" for name in ("out", "err"))
        own = {families.MARK: f"{self._outer}/{mark}", "TMPDIR": str(temporary)}
        before = self.shared_memory()
        request = {"start": form, "arguments": arguments, "cwd": str(ROOT), "out": str(out), "err": str(err)}
        pids = [self.ask({**request, "environment": {**own, **each}})["pid"] for each in environments]
        return Trial(self, pids, mark, forked=form == "forked", files=(out, err, temporary), shared_memory=before)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The server's answer."""
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer

    def shared_memory(self) -> set[str]:
        """Names in the `/dev/shm` of the runs."""
        root = Path(f"/proc/{self._server.pid}/root") if self.private else Path("/")
        return set(os.listdir(root / "dev/shm"))


class Trial:
    """One start of a run, and everything that it starts; `pids` are the processes started, one but for forked ranks."""

    def __init__(
        self,
        bench: Bench,
        pids: list[int],
        mark: str,
        *,
        forked: bool,
        files: tuple[Path, Path, Path],
        shared_memory: set[str],
    ) -> None:
        self.pids = pids
        self.pid = pids[0]
        self.mark = mark
        self.forked = forked
        self.began = time.monotonic()
        self._bench = bench
        self._out, self._err, self._temporary = files
        self._shared_memory = shared_memory
        self._killed = False

    def statuses(self) -> list[int | None]:
        """Exit status of each process started, negative for a signal, None while it lives."""
        return [self._bench.ask({"poll": pid})["status"] for pid in self.pids]

    def status(self) -> int | None:
        """The first exit status that is not 0; None while one of the processes started lives."""
        statuses = self.statuses()
        return None if None in statuses else next(filter(None, statuses), 0)

    @property
    def out(self) -> str:
        """Standard output so far."""
        return self._out.read_text(errors="replace") if self._out.exists() else ""

    @property
    def err(self) -> str:
        """Error output so far."""
        return self._err.read_text(errors="replace") if self._err.exists() else ""

    @property
    def errors(self) -> list[str]:
        """The lines of the error output that tell why a run ended."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    def members(self) -> list[int]:
        """Living processes of the family."""
        return families.members(self.mark)

    def ranks(self) -> dict[int, int]:
        """Process id of each living rank; decoding processes are none."""
        if self.forked:
            return {rank: pid for rank, pid in enumerate(self.pids) if pid in self.members()}
        found = {}
        for pid in self.members():
            with suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                rank = next((entry[5:] for entry in environment if entry.startswith(b"RANK=")), None)
                if rank is not None and command[2:3] == [b"engine/train.py"]:
                    found[int(rank)] = pid
        return found

    def launcher(self) -> int | None:
        """Process id of DeepSpeed's launcher of this node, if there is one."""
        for pid in self.members():
            with suppress(OSError):
                if b"deepspeed.launcher.launch" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    return pid
        return None

    def until(self, condition: Callable[[], object], seconds: float = LIMIT_SECONDS) -> None:
        """Wait for a condition; AssertionError with what was said if the run ends before, or time does."""
        end = time.monotonic() + seconds
        while not condition():
            status = self.status()
            assert status is None or condition(), f"ended with {status}:\n{self.out}\n{self.err}"
            assert time.monotonic() < end, f"nothing for {seconds:g} s:\n{self.out}\n{self.err}"
            time.sleep(0.005)

    def wait(self, seconds: float = LIMIT_SECONDS) -> int:
        """Exit status of the first process; AssertionError if it outlasts `seconds`."""
        end = time.monotonic() + seconds
        while (status := self.status()) is None:
            assert time.monotonic() < end, f"still running after {seconds:g} s:\n{self.out}\n{self.err}"
            time.sleep(0.005)
        return status

    def gone(self, seconds: float = GONE_SECONDS) -> float:
        """Wait until no process of the family is left; the seconds it took. AssertionError names who stays."""
        began = time.monotonic()
        while left := self.members():
            assert time.monotonic() < began + seconds, f"{named(left)} still there after {seconds:g} s:\n{self.err}"
            time.sleep(0.01)
        return time.monotonic() - began

    def signal(self, number: int, pid: int | None = None) -> bool:
        """Send a signal to a process, the first one by default; False if it is gone."""
        try:
            os.kill(self.pid if pid is None else pid, number)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> list[int]:
        """SIGKILL to every process of the family; returns who was alive."""
        self._killed = True
        alive = self.members()
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        families.end(self.mark)
        return alive

    def close(self) -> None:
        """Assert that no process, no shared memory and no temporary file is left; removes what it said.

        Killed processes may leave temporary files, nobody else.
        """
        self.gone()
        left = self._bench.shared_memory() - self._shared_memory
        end = time.monotonic() + (0 if self._bench.private else GONE_SECONDS)
        while left and time.monotonic() < end:
            # Others on the machine use it for a while.
            time.sleep(0.1)
            left &= self._bench.shared_memory()
        assert not left, f"left in /dev/shm: {sorted(left)}"
        files = sorted(path.name for path in self._temporary.iterdir())
        shutil.rmtree(self._temporary)
        assert not files or self._killed, f"left in the folder for temporary files: {files}"
        self._out.unlink(missing_ok=True)
        self._err.unlink(missing_ok=True)


def named(pids: list[int]) -> list[str]:
    """Command lines, as far as the processes are still there."""
    found = []
    for pid in pids:
        with suppress(OSError):
            found.append(f"{pid}: " + Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip())
    return found


def logged(run_dir: Path) -> int:
    """Number of whole lines in metrics.jsonl."""
    path = run_dir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def reached(run_dir: Path) -> int:
    """The last step in metrics.jsonl, 0 without one; a torn last line does not count."""
    path = run_dir / "metrics.jsonl"
    whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return max((json.loads(line)["step"] for line in whole), default=0)


def lines(run_dir: Path) -> list[dict[str, Any]]:
    """The log of a run without what depends on the clock."""
    entries = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in entry.items() if not name.startswith("time/")} for entry in entries]


def newest(run_dir: Path) -> Path | None:
    """The newest published checkpoint."""
    return max((run_dir / "checkpoints").glob("step-*"), default=None)


def saved_step(run_dir: Path) -> int:
    """Step of the newest published checkpoint, 0 without one."""
    folder = newest(run_dir)
    return int(folder.name.removeprefix("step-")) if folder else 0


def assert_same(run_dir: Path, calm: Path) -> None:
    """The newest checkpoints hold the same tensors to the bit, and both runs logged the same."""
    ours, theirs = newest(run_dir), newest(calm)
    assert ours is not None and theirs is not None and ours.name == theirs.name, (ours, theirs)
    files = sorted(path.name for path in theirs.glob("*.safetensors"))
    assert files and files == sorted(path.name for path in ours.glob("*.safetensors"))
    for file in files:
        assert (ours / file).read_bytes() == (theirs / file).read_bytes(), f"{file} differs"
    assert lines(run_dir) == lines(calm), "the logs differ"
