"""The comparison with another revision: what counts as a slow-down, whose code is timed, and what is left behind."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

from s4d.analysis.compare.process import ProcessSide, both_sides
from s4d.analysis.compare.rounds import AbsentError, Comparison, compare
from s4d.analysis.compare.statistic import change_of
from s4d.analysis.compare.worktree import commit_of, work_tree
from s4d.errors import DataError, UsageError

ROUNDS = 15


class Machine:
    """A machine on which each turn costs what `cost(turn)` says times noise of `spread`."""

    def __init__(self, spread: float = 0.0, cost: Callable[[int], float] = lambda turn: 1.0) -> None:
        self._noise = np.random.default_rng(3)
        self._spread, self._cost = spread, cost
        self.turn = 0
        self.log: list[str] = []

    def seconds(self, name: str) -> float:
        self.turn += 1
        self.log.append(name)
        return self._cost(self.turn) * float(np.exp(self._spread * self._noise.standard_normal()))


class FakeSide:
    """A side whose cases take these many times a machine's unit; a list is used up by one start after another."""

    def __init__(self, name: str, machine: Machine, factors: dict[str, float]) -> None:
        self.name, self._machine, self._factors = name, machine, factors
        self._factor = 0.0

    def prepare(self, case: str) -> float:
        if case not in self._factors:
            raise AbsentError(f"{self.name} knows nothing of {case}")
        self._factor = self._factors[case]
        return self._factor

    def time(self, calls: int) -> float:
        return self._factor * self._machine.seconds(self.name)

    def release(self) -> None:
        self._factor = 0.0


def run(machine: Machine, base: dict[str, float], *heads: dict[str, float]) -> Comparison:
    """Compare; the first of `heads` is what the first processes do, the next what those started later do."""
    left = list(heads)

    @contextmanager
    def sides() -> Iterator[tuple[FakeSide, FakeSide]]:
        head = left.pop(0) if len(left) > 1 else left[0]
        yield FakeSide("base", machine, base), FakeSide("head", machine, head)

    cases = list(dict.fromkeys([*base, *heads[0]]))
    return compare(sides, cases, ROUNDS, lambda line: None)


@pytest.mark.parametrize("seed", range(20))
def test_a_slow_down_of_a_tenth_is_found_under_noise_and_noise_alone_is_none(seed: int) -> None:
    noise = np.random.default_rng(seed)
    base, head = (np.exp(0.03 * noise.standard_normal(ROUNDS)) for _ in range(2))
    assert change_of(base, 1.10 * head).is_slower
    assert not change_of(base, head).is_slower and not change_of(base, head).is_faster
    assert change_of(1.10 * base, head).is_faster


def test_certain_but_small_and_large_but_uncertain_are_no_slow_downs() -> None:
    assert change_of([1.0] * ROUNDS, [1.03] * ROUNDS).low > 0.02
    assert not change_of([1.0] * ROUNDS, [1.03] * ROUNDS).is_slower
    wild = change_of([1.0] * 10, [0.6, 1.7, 0.5, 1.8, 0.6, 1.7, 1.9, 0.4, 1.6, 1.5])
    assert wild.median > 0.05 and wild.low < 0 and not wild.is_slower


@pytest.mark.parametrize("seconds", [([], []), ([1.0], [1.0, 2.0])])
def test_rounds_come_in_pairs(seconds: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="expected as many on both sides"):
        change_of(*seconds)


def test_planted_slow_downs_are_named_after_a_second_look() -> None:
    factors = {"a": 1.0, "b": 1.0, "c": 1.0}
    found = run(Machine(0.03), factors, {**factors, "b": 1.10, "c": 0.8})
    assert {row["case"]: row["verdict"] for row in found.rows} == {"a": "same", "b": "slower", "c": "faster"}
    assert [row["case"] for row in found.slower] == ["b"]
    assert found.slower[0]["again"]["change"]["median"] == pytest.approx(0.10, abs=0.04)


def test_what_fresh_processes_do_not_repeat_is_no_slow_down() -> None:
    found = run(Machine(0.01), {"a": 1.0}, {"a": 1.2}, {"a": 1.0})
    assert [row["verdict"] for row in found.rows] == ["slower once"] and not found.slower


@pytest.mark.parametrize(
    "cost",
    [
        lambda turn: 1.0 + 0.02 * turn,
        lambda turn: 1.02**-turn,
        lambda turn: 1.0 if turn < 14 else 1.5,
        lambda turn: 1.0 + 0.3 * np.sin(turn / 5),
    ],
    ids=["slower and slower", "faster and faster", "a step", "waves"],
)
def test_drift_of_the_machine_is_no_slow_down(cost: Callable[[int], float]) -> None:
    assert [row["verdict"] for row in run(Machine(0.005, cost), {"a": 1.0}, {"a": 1.0}).rows] == ["same"]


def test_turns_alternate_and_who_begins_does_too() -> None:
    machine = Machine()
    run(machine, {"a": 1.0}, {"a": 1.0})
    assert machine.log[:8] == ["base", "head", "head", "base", "base", "head", "head", "base"]
    assert machine.log.count("base") == machine.log.count("head") == ROUNDS


def test_a_case_of_one_side_is_listed() -> None:
    found = run(Machine(), {"a": 1.0, "old": 1.0}, {"a": 1.0, "new": 1.0})
    assert [row["case"] for row in found.rows] == ["a"]
    assert {item["case"]: item["missing"] for item in found.one_sided} == {"old": "working tree", "new": "base"}


PACKAGES = {
    "kernels/__init__.py": "",
    "kernels/native/__init__.py": "def status():\n    return False, 'not built'\n",
    "kernels/bench/__init__.py": "",
    "kernels/bench/ops.py": """
from types import SimpleNamespace as Record
import time
def broken(device, dtype): raise TypeError("an old interface")
def op(name, inputs):
    run = Record(outputs=lambda: time.sleep(0.001), leaves=())
    peers = lambda case: [Record(name="other", build=None), Record(name="chosen", build=lambda inputs: run)]
    return Record(cases={"small": Record(inputs=inputs)}, peers=peers, automatic=lambda inputs: "chosen")
OPS = {"sleep": op("sleep", lambda device, dtype: None), "broken": op("broken", broken)}
""",
    "s4d/__init__.py": "",
    "engine/__init__.py": "",
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    for name, text in PACKAGES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    named = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    for command in (["init", "-q"], ["add", "."], [*named, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    return root


def left_behind(root: Path, tree: Path) -> bool:
    listed = subprocess.run(["git", "-C", str(root), "worktree", "list"], check=True, capture_output=True, text=True)
    return tree.exists() or tree.parent.exists() or len(listed.stdout.splitlines()) > 1


def interrupt() -> None:
    raise KeyboardInterrupt


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def fail() -> None:
    raise DataError("a side failed")


@pytest.mark.parametrize(
    ("stop", "error"), [(interrupt, KeyboardInterrupt), (terminate, SystemExit), (fail, DataError)]
)
def test_the_work_tree_is_gone_however_the_run_ends(
    repository: Path, stop: Callable[[], None], error: type[BaseException]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(error), work_tree(repository, commit_of(repository, "HEAD")) as tree:
        assert (tree / "kernels" / "native" / "__init__.py").is_file()
        (tree / "left.txt").write_text("untracked")
        stop()
    assert not left_behind(repository, tree)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_revision_that_is_none_is_refused(repository: Path, tmp_path: Path) -> None:
    for root, revision in ((repository, "nowhere"), (repository, "--help"), (tmp_path, "HEAD")):
        with pytest.raises(UsageError, match=r"--base: .* is no commit of the git repository"):
            commit_of(root, revision)


def test_each_side_runs_its_own_code(repository: Path) -> None:
    """The installed packages are redirected to this checkout, whose code a side of another tree must not run."""
    with work_tree(repository, commit_of(repository, "HEAD")) as tree:
        sides: AbstractContextManager[tuple[ProcessSide, ProcessSide]] = both_sides(
            tree, repository, "cpu", (None, None)
        )
        with sides as (base, head):
            for side, own in ((base, tree), (head, repository)):
                assert side.prove()["packages"]["kernels"] == str(own / "kernels" / "__init__.py")
            head._tree = tree
            with pytest.raises(DataError, match=r"working tree: kernels was imported from .*repository/kernels"):
                head.prove()
            head._tree, head._native = repository, tree
            with pytest.raises(DataError, match=r"no native library \(not built\) was loaded, not .*libs4d_native.so"):
                head.prove()
            assert base.prepare("sleep/small") >= 0.001 and base.time(2) >= 0.001
            base.release()
            with pytest.raises(AbsentError, match="nothing/small is no case"):
                head.prepare("nothing/small")
            with pytest.raises(AbsentError, match="an old interface"):
                base.prepare("broken/small")
            with pytest.raises(DataError, match="working tree: broken/small: TypeError: an old interface"):
                head.prepare("broken/small")
            base._process.kill()
            with pytest.raises(DataError, match="base: its process ended with status -9"):
                base.time(1)
