"""The harness of the crash trials itself: it starts, sees, kills and compares what it says."""

from __future__ import annotations

import os
import signal
import time

import pytest
import trials

SHORT = ("engine.steps=6", "engine.save_every=2", "engine.zero_stage=0")


def test_a_forked_run_is_a_family_of_its_own(bench: trials.Bench) -> None:
    calm = bench.write_run("calm")
    first, second = bench.fork(calm, *SHORT), bench.fork(bench.write_run("other"), *SHORT)
    assert first.members() == [first.pid] and second.members() == [second.pid]
    second.kill()
    assert second.wait(5) == -signal.SIGKILL and not second.members()
    assert first.ranks() == {0: first.pid} or first.status() == 0
    assert first.wait() == 0, first.err
    for trial in (first, second):
        trial.close()
    assert trials.saved_step(calm.with_suffix("")) == 6


def test_a_killed_run_is_compared_to_the_bit(bench: trials.Bench) -> None:
    files = [bench.write_run(name) for name in ("whole", "killed", "reseeded")]
    whole, killed, reseeded = (file.with_suffix("") for file in files)
    assert bench.fork(files[0], *SHORT).wait() == 0
    trial = bench.fork(files[1], *SHORT)
    trial.until(lambda: trials.logged(killed) >= 3 and trials.saved_step(killed) >= 2)
    trial.kill()
    trial.close()
    trial = bench.fork(files[1], *SHORT)
    assert trial.wait() == 0 and "continuing from" in trial.out, trial.err
    trials.assert_same(killed, whole)
    assert bench.fork(files[2], *SHORT, "seed=1").wait() == 0
    with pytest.raises(AssertionError, match=r"model.safetensors differs|ema.safetensors differs"):
        trials.assert_same(reseeded, whole)


def test_forked_ranks_are_one_trial(bench: trials.Bench) -> None:
    run_file = bench.write_run("pair")
    trial = bench.fork(run_file, *SHORT, ranks=2)
    trial.until(lambda: trials.logged(run_file.with_suffix("")) >= 1)
    assert trial.ranks() == dict(enumerate(trial.pids))
    assert trial.signal(signal.SIGKILL, trial.pids[1])
    assert trial.wait(20) == 4 and trial.statuses() == [4, -signal.SIGKILL], trial.err
    trial.close()
    again = bench.fork(run_file, *SHORT, ranks=2)
    assert again.wait() == 0, again.err
    again.close()


def test_what_a_run_leaves_behind_is_seen(bench: trials.Bench) -> None:
    orphan = bench.command("sh", "-c", "setsid sleep 50 & touch $TMPDIR/left /dev/shm/s4d-trial-left")
    assert orphan.wait(10) == 0
    assert orphan.members()
    with pytest.raises(AssertionError, match=r"sleep 50.* still there"):
        orphan.gone(0.2)
    orphan.kill()
    with pytest.raises(AssertionError, match=r"left in /dev/shm: \['s4d-trial-left'\]"):
        orphan.close()
    cleaner = bench.command("rm", "/dev/shm/s4d-trial-left")
    assert cleaner.wait(10) == 0
    left = bench.command("sh", "-c", "touch $TMPDIR/left")
    assert left.wait(10) == 0
    with pytest.raises(AssertionError, match=r"temporary files: \['left'\]"):
        left.close()
    assert not os.path.exists("/dev/shm/s4d-trial-left")


def test_waiting_ends(bench: trials.Bench) -> None:
    trial = bench.command("sleep", "50")
    began = time.monotonic()
    with pytest.raises(AssertionError, match="still running"):
        trial.wait(0.2)
    with pytest.raises(AssertionError, match="nothing for"):
        trial.until(lambda: False, 0.2)
    trial.kill()
    with pytest.raises(AssertionError, match="ended with -9"):
        trial.until(lambda: False)
    assert time.monotonic() - began < 20
    trial.close()


@pytest.mark.launch
def test_a_launched_run_has_its_ranks_and_launcher(bench: trials.Bench) -> None:
    run_file = bench.write_run("launched")
    trial = bench.launch(run_file, *SHORT)
    trial.until(lambda: trials.logged(run_file.with_suffix("")) >= 1)
    ranks, launcher = trial.ranks(), trial.launcher()
    assert sorted(ranks) == [0, 1] and launcher not in (None, trial.pid, *ranks.values())
    assert trial.wait() == 0, trial.err
    trial.close()
