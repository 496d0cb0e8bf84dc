"""The board that ranks and watchdog share, and the limits of phases."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.watchdog.heartbeat import Board, Mark, Pulse
from engine.watchdog.phases import CONTACT, DEFAULTS, Limits, Phase
from s4d.config import PHASES, load
from s4d.errors import UsageError

ROOT = Path(__file__).resolve().parents[3]


def test_a_rank_writes_its_slot_and_no_other() -> None:
    board = Board.create(2)
    seen = Board.of(os.getpid(), board.descriptor, 2)
    pulse = Pulse()
    pulse.enter(Phase.LOAD, 0)
    pulse.attach(seen, 1)
    pulse.enter(Phase.DATA, 7)
    pulse.enter(Phase.FORWARD)
    beat = board.read(1)
    assert (beat.phase, beat.step, beat.first_step, beat.mark) == (Phase.FORWARD, 7, True, Mark.RUNNING)
    pulse.enter(Phase.DATA, 8)
    assert not board.read(1).first_step and board.read(1).count == beat.count + 1
    assert board.read(0).count == 0


def test_the_first_word_of_a_rank_that_leaves_counts() -> None:
    board, pulse = Board.create(1), Pulse()
    pulse.attach(board, 0)
    assert pulse.told_status() is None
    pulse.leave(Mark.TOLD, 3, "é" * 600)
    pulse.leave(Mark.FINISHED, 0)
    beat = board.read(0)
    assert (beat.mark, beat.status, pulse.told_status()) == (Mark.TOLD, 3, 3)
    assert set(beat.text) <= {"é", "\N{REPLACEMENT CHARACTER}"} and len(beat.text) > 400


def test_an_order_survives_nothing_but_a_new_watchdog() -> None:
    board = Board.create(1)
    assert not board.ordered_to_leave and board.watchdog == (0, 0)
    board.sign(4711)
    board.order_to_leave()
    assert board.ordered_to_leave and board.watchdog == (os.getpid(), 4711)


def test_a_phase_of_the_first_step_may_take_as_long_as_the_start() -> None:
    limits = Limits({"start": 100.0, "forward": 5.0, "save": 400.0})
    assert limits.of(Phase.FORWARD, first_step=True) == 100 and limits.of(Phase.FORWARD, first_step=False) == 5
    assert limits.of(Phase.SAVE, first_step=True) == 400
    assert limits.longest == DEFAULTS["evaluate"] and limits.contact == DEFAULTS[CONTACT]


def test_phases_are_set_by_name(tmp_path: Path) -> None:
    assert list(PHASES) == list(DEFAULTS) == [*(phase.label for phase in Phase), CONTACT]
    demo = ROOT / "configs/pretrain/demo.yaml"
    assert load(demo, ["engine.phase_seconds={forward: 7}"]).engine.phase_seconds == {"forward": 7}
    for wrong, said in (("{forwards: 7}", "unknown phase 'forwards'"), ("{save: 0}", "greater than 0")):
        with pytest.raises(UsageError, match=r"engine\.phase_seconds") as refusal:
            load(demo, [f"engine.phase_seconds={wrong}"])
        assert said in str(refusal.value)


def test_the_watchdog_needs_nothing_but_the_standard_library() -> None:
    code = "import sys, engine.watchdog.node; print([m for m in sys.modules if m in ('torch', 'numpy', 's4d')])"
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
