"""R7: the disk refuses something in the middle of a save of a real run: said in one line, and nothing is lost."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "faults"))

import trials  # noqa: E402 (found through the line above)

from engine.checkpoint_files import verify_checkpoint  # noqa: E402
from engine.checkpoint_retention import published  # noqa: E402

COMPILER = shutil.which("g++")
ARGUMENTS = ("engine.steps=6", "engine.save_every=2", "engine.keep_last=2")
ALL_LATER = 1 << 40
# Which calls a disk in that state refuses.
CALLS = {
    errno.ENOSPC: "cwfrm",
    errno.EDQUOT: "cwfrm",
    errno.EROFS: "cwrmd",
    errno.EIO: "cwfrmd",
    errno.EACCES: "crmd",
    errno.ENAMETOOLONG: "crm",
}
LINE = re.compile(
    r"(\S+/checkpoints/step-\d{8}): cannot write the checkpoint: (.+?)( \([^)]*\))?; "
    r"(\d+) bytes needed, (\d+) bytes(?: and (\d+) files)? free"
)


@dataclass(kw_only=True)
class Held:
    """What all cases of a process share."""

    bench: trials.Bench
    calm: Path
    # Calls of each kind of failure in an undisturbed run, and bytes of one checkpoint.
    calls: dict[int, int]
    size: int


held: Held | None = None


def prepare(folder: Path) -> None:
    """Compile what refuses, start the server that has it loaded, see how many calls a run makes."""
    global held
    if COMPILER is None:
        return
    library = folder / "disk_fault.so"
    command = [COMPILER, "-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Werror", str(HERE / "disk_fault.cpp")]
    subprocess.run([*command, "-o", str(library), "-ldl"], check=True)
    before = os.environ.get("LD_PRELOAD")
    os.environ["LD_PRELOAD"] = str(library)
    try:
        bench = trials.Bench(folder)
    finally:
        del os.environ["LD_PRELOAD"]
        if before is not None:
            os.environ["LD_PRELOAD"] = before
    calm = bench.write_run("calm")
    shutil.rmtree(calm.with_suffix(""), ignore_errors=True)
    trial = bench.fork(calm, *ARGUMENTS, environment=refusing(folder, ALL_LATER, 1, errno.EIO))
    assert trial.wait() == 0, trial.err
    trial.close()
    kinds = dict(zip("cwfrmd", seen(folder)[2:], strict=True))
    calls = {number: sum(kinds[kind] for kind in named) for number, named in CALLS.items()}
    newest = published(calm.with_suffix("") / "checkpoints")[0]
    size = sum(path.stat().st_size for path in newest.iterdir())
    held = Held(bench=bench, calm=calm.with_suffix(""), calls=calls, size=size)


def run(number: int, folder: Path) -> str:
    """One run whose disk refuses, continued once it does not."""
    if held is None:
        return "skipped: no g++"
    draw = random.Random(f"refused {number}")
    run_file = held.bench.write_run("refused")
    shutil.rmtree(run_file.with_suffix(""), ignore_errors=True)
    ranks = 2 if number % 5 == 2 else 0
    if number % 4 == 1 and held.bench.private:
        outcome = on_a_small_disk(run_file, draw, ranks, inodes=number % 8 == 5)
    else:
        outcome = on_a_refusing_disk(run_file, draw, ranks, folder)
    shutil.rmtree(run_file.with_suffix(""))
    return outcome


def on_a_refusing_disk(run_file: Path, draw: random.Random, ranks: int, folder: Path) -> str:
    """System calls of one kind fail from a random one on, once or for ever."""
    assert held is not None
    error = draw.choice(list(CALLS))
    for_ever = draw.random() < 0.6
    allowed = draw.choice((0, 0, 1))
    # The first write that a full disk refuses is a short one, which alone is no failure.
    once = 2 if error in (errno.ENOSPC, errno.EDQUOT) else 1
    environment = refusing(folder, draw.randint(1, held.calls[error]), ALL_LATER if for_ever else once, error)
    trial = held.bench.fork(
        run_file, *ARGUMENTS, f"engine.save_failures={allowed}", ranks=ranks, environment=environment
    )
    status = trial.wait()
    refused = seen(folder)[1]
    assert refused, "nothing was refused"
    run_dir = run_file.with_suffix("")
    swept = not for_ever or "d" not in CALLS[error]
    what = judge(trial, run_dir, os.strerror(error), status=status, allowed=allowed, swept=swept)
    finish(run_file, ranks, run_dir, f"engine.save_failures={allowed}")
    return f"{errno.errorcode[error]}: {what}"


def on_a_small_disk(run_file: Path, draw: random.Random, ranks: int, *, inodes: bool) -> str:
    """A real file system that has room for one checkpoint and a part of the next; later it is given more."""
    assert held is not None
    disk = run_file.with_suffix("") / "checkpoints"
    disk.mkdir(parents=True)
    options = f"nr_inodes={draw.randint(11, 17)}" if inodes else f"size={int(held.size * draw.uniform(1.1, 1.9))}"
    command("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk))
    seen_by_run = Path(f"/proc/{held.bench._server.pid}/root{run_file.with_suffix('')}")
    try:
        trial = held.bench.fork(run_file, *ARGUMENTS, ranks=ranks)
        status = trial.wait()
        what = judge(trial, seen_by_run, os.strerror(errno.ENOSPC), status=status, allowed=0, swept=True)
        command("mount", "-o", "remount,size=1g,nr_inodes=100000", str(disk))
        finish(run_file, ranks, seen_by_run)
    finally:
        command("umount", str(disk))
    return f"no {'inodes' if inodes else 'space'}: {what}"


def judge(trial: trials.Trial, run_dir: Path, reason: str, *, status: int, allowed: int, swept: bool) -> str:
    """What must hold after the run, ended or not."""
    statuses = trial.statuses()
    assert len(set(statuses)) == 1, f"ranks do not agree: {statuses}"
    warnings = [line for line in trial.out.splitlines() if line.startswith("warning: ")]
    told = [*trial.errors, *warnings]
    for line in told:
        match = LINE.search(line)
        assert match, line
        assert match[2] == reason and int(match[4]) > 0, line
    assert len(warnings) <= allowed
    if status == 0:
        assert allowed and warnings and not trial.errors, f"status 0:\n{trial.out}\n{trial.err}"
    else:
        assert status == 1 and len(trial.errors) == 1, f"status {status}:\n{trial.err}"
    assert "Traceback" not in trial.err, trial.err
    trial.close()
    folder = run_dir / "checkpoints"
    for checkpoint in published(folder):
        verify_checkpoint(checkpoint)
    half = [path.name for path in folder.glob(".tmp-step-*")]
    assert not half or not swept, half
    # Of the checkpoints before, the newest is always there.
    steps = [int(path.name[5:]) for path in published(folder)]
    failing = [int(found[1]) for line in told for found in [re.search(r"step-(\d{8}): cannot", line)] if found]
    assert not failing or min(failing) == 2 or steps, "the checkpoint before is lost"
    if status:
        assert max(steps, default=0) >= failing[-1] - 2 * (1 + allowed), f"{steps} after a failure at {failing}"
    return "went on" if status == 0 else "ended"


def finish(run_file: Path, ranks: int, run_dir: Path, *arguments: str) -> None:
    """The same command on a disk that takes everything: the same end as of a run that nothing happened to."""
    assert held is not None
    trial = held.bench.fork(run_file, *ARGUMENTS, *arguments, ranks=ranks)
    assert trial.wait() == 0, f"{trial.out}\n{trial.err}"
    trial.close()
    # Where a failure was tolerated, an older one is kept in the place of the one that was never published.
    left = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert left[0] == "latest" and left[-1] == "step-00000006" and len(left) == 3, left
    assert all(name.startswith("step-") for name in left[1:]), left
    if not ranks:
        trials.assert_same(run_dir, held.calm)


def command(*words: str) -> None:
    """Run a command where the runs are."""
    assert held is not None
    trial = held.bench.command(*words)
    assert trial.wait() == 0, trial.err
    trial.close()


def refusing(folder: Path, first: int, count: int, error: int) -> dict[str, str]:
    """Environment of a run that is refused `count` calls from `first` on."""
    (folder / "seen").write_bytes(bytes(64))
    return {"S4D_DISK": f"/checkpoints|{first}|{count}|{error}|{CALLS[error]}", "S4D_DISK_SEEN": str(folder / "seen")}


def seen(folder: Path) -> list[int]:
    """Calls that were counted, calls that were refused, calls of each kind."""
    data = (folder / "seen").read_bytes()
    return [int.from_bytes(data[at : at + 8], "little") for at in range(0, 64, 8)]
