"""The promises that are counted: one row each, with the module whose cases are tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

TESTS = Path(__file__).resolve().parents[1]
# A measured row keeps all its values to be judged again; rows with more cases than this must not measure.
MEASURED = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """What the cases of a row measure besides passing: how their values become one, and what it may be at most."""

    reduce: Callable[[Sequence[float]], float]
    limit: float
    unit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One promise.

    `module` in `folder` has `prepare(folder)`, called once in each process, and `run(number, folder)`, which tries the
    case of that number and returns its outcome in a word or two, with the value it measured if the row has a measure;
    an exception is a failure of the promise. A case must leave nothing behind: no process, no file outside `folder`.
    """

    name: str
    goal: str
    module: str
    target: int
    folder: str = "fuzz"
    # Share of the cases that may fail.
    may_fail: float = 0.0
    measure: Measure | None = None
    # A case that says nothing for so long hangs.
    case_seconds: float = 10.0
    # Cases may not grow the process that reads untrusted files beyond what a decoding process may have.
    small: bool = False
    # Cases tried by `make test`, and by one test of `make test-deep`.
    quick: int = 0
    deep: int = 0

    def __post_init__(self) -> None:
        if self.measure is not None and self.target > MEASURED:
            raise ValueError(f"{self.name}: a measured row has at most {MEASURED} cases")


ROWS = (
    Row(
        name="R1",
        goal="everything killed: continued to the same bits",
        module="row_kill_all",
        folder="faults",
        target=200,
        case_seconds=200.0,
        quick=6,
        deep=30,
    ),
    Row(
        name="R2",
        goal="one rank killed: others leave, continued",
        module="row_kill_rank",
        folder="faults",
        target=100,
        case_seconds=200.0,
        quick=3,
        deep=15,
    ),
    Row(
        name="R3",
        goal="order of a save on the disk",
        module="row_order",
        folder="checkpoints",
        target=20,
        case_seconds=120.0,
        quick=1,
        deep=4,
    ),
    Row(
        name="R4",
        goal="power lost in a save: old or new, never none",
        module="row_crash_states",
        folder="checkpoints",
        target=2_400,
        case_seconds=30.0,
        quick=80,
        deep=800,
    ),
    Row(
        name="R5",
        goal="damaged checkpoints: found, the last one taken",
        module="row_damage",
        folder="checkpoints",
        target=2_000,
        case_seconds=30.0,
        quick=100,
        deep=1_000,
    ),
    Row(
        name="R6",
        goal="nothing loadable: refused, never started over",
        module="row_refused",
        folder="faults",
        target=23,
        case_seconds=60.0,
        quick=4,
        deep=23,
    ),
    Row(
        name="R7",
        goal="disk refuses a save: said, nothing lost",
        module="row_refused_calls",
        folder="checkpoints",
        target=50,
        case_seconds=200.0,
        quick=3,
        deep=12,
    ),
    Row(
        name="R8",
        goal="two runs, one folder: the living stay",
        module="row_lease",
        folder="faults",
        target=100,
        measure=Measure(reduce=max, limit=2.0, unit="s to refuse"),
        case_seconds=60.0,
        quick=5,
        deep=20,
    ),
    Row(
        name="R9",
        goal="saved is what lived at that step",
        module="row_live_state",
        folder="checkpoints",
        target=98,
        case_seconds=200.0,
        quick=7,
        deep=28,
    ),
    Row(
        name="R10",
        goal="continued after any step: the same bits",
        module="row_every_step",
        folder="resume",
        target=819,
        case_seconds=300.0,
        quick=6,
        deep=45,
    ),
    Row(
        name="R11",
        goal="order and draws depend on the seed alone",
        module="row_sample_order",
        folder="resume",
        target=5_000,
        case_seconds=60.0,
        quick=200,
        deep=1_000,
    ),
    Row(
        name="R12",
        goal="other ranks and ZeRO stage: same state",
        module="row_other_ranks",
        folder="resume",
        target=162,
        case_seconds=300.0,
        quick=2,
        deep=60,
    ),
    Row(
        name="R13",
        goal="one loss curve, fp32: ranks, stages, offload",
        module="row_zero_fp32",
        folder="zero",
        target=46,
        measure=Measure(reduce=max, limit=1e-6, unit="largest gap"),
        case_seconds=400.0,
        quick=1,
        deep=4,
    ),
    Row(
        name="R13-bf16",
        goal="one loss curve, bf16: ranks, stages, offload",
        module="row_zero_bf16",
        folder="zero",
        target=46,
        measure=Measure(reduce=max, limit=5e-3, unit="largest gap"),
        case_seconds=400.0,
        quick=1,
        deep=4,
    ),
    Row(
        name="R14",
        goal="started again: same logs and weights",
        module="row_rerun",
        folder="resume",
        target=15,
        case_seconds=300.0,
        deep=3,
    ),
    Row(
        name="R15",
        goal="changed settings: logged or refused by name",
        module="row_drift",
        folder="resume",
        target=80,
        case_seconds=100.0,
        quick=3,
        deep=40,
    ),
    Row(
        name="R16",
        goal="a rank fails or hangs: all gone, one line",
        module="row_fault_matrix",
        folder="faults",
        target=108,
        measure=Measure(reduce=max, limit=20.0, unit="s until all are gone"),
        case_seconds=200.0,
        quick=2,
        deep=12,
    ),
    Row(
        name="R16-nodes",
        goal="the same on two nodes, and cut cables",
        module="row_nodes_faults",
        folder="multinode",
        target=120,
        measure=Measure(reduce=max, limit=20.0, unit="s until all are gone"),
        case_seconds=300.0,
    ),
    Row(
        name="R17",
        goal="a minute of slow phases: no false alarm",
        module="row_false_alarms",
        folder="faults",
        target=60,
        case_seconds=400.0,
        deep=2,
    ),
    Row(
        name="R18",
        goal="asked to stop: saved soon, nothing lost",
        module="row_stop_signals",
        folder="faults",
        target=100,
        measure=Measure(reduce=max, limit=25.0, unit="s to end"),
        case_seconds=200.0,
        quick=3,
        deep=10,
    ),
    Row(
        name="R18-nodes",
        goal="asked to stop over two nodes: saved, gone",
        module="row_nodes_stop",
        folder="multinode",
        target=60,
        measure=Measure(reduce=max, limit=25.0, unit="s until all are gone"),
        case_seconds=300.0,
    ),
    Row(
        name="R19",
        goal="NaN and infinities stay out of the state",
        module="row_nonfinite",
        folder="nonfinite",
        target=864,
        case_seconds=200.0,
        quick=8,
        deep=60,
    ),
    Row(
        name="R20",
        goal="faults all the time: the same bits in the end",
        module="row_chaos",
        folder="faults",
        target=20,
        measure=Measure(reduce=mean, limit=0.8, unit="of the time lost"),
        case_seconds=900.0,
    ),
    Row(
        name="R21",
        goal="from a kill to the next new step",
        module="row_recovery",
        folder="faults",
        target=20,
        measure=Measure(reduce=median, limit=15.0, unit="s, median"),
        case_seconds=200.0,
        deep=3,
    ),
    Row(
        name="R21-engine",
        goal="the same without start of Python and imports",
        module="row_engine_recovery",
        folder="faults",
        target=20,
        measure=Measure(reduce=median, limit=5.0, unit="s, median"),
        case_seconds=100.0,
        deep=5,
    ),
    Row(
        name="R22",
        goal="long runs grow in nothing",
        module="row_leaks",
        folder="faults",
        target=4,
        measure=Measure(reduce=max, limit=0.3, unit="KiB a step"),
        case_seconds=3000.0,
    ),
    Row(
        name="R23",
        goal="damaged media: pixels or one line",
        module="fuzz_media",
        target=20_000,
        small=True,
        quick=800,
    ),
    Row(
        name="R24",
        goal="cut media: found without a hash",
        module="fuzz_truncation",
        target=2_000,
        may_fail=0.01,
        small=True,
        quick=240,
    ),
    Row(
        name="R25",
        goal="other files under a medium's name: refused",
        module="fuzz_confusion",
        target=67,
        small=True,
        quick=67,
    ),
    Row(
        name="R26",
        goal="damaged label files, manifests, configs",
        module="fuzz_text",
        target=10_000,
        small=True,
        quick=300,
    ),
    Row(
        name="R27",
        goal="damaged checkpoints and manifests",
        module="fuzz_checkpoints",
        target=10_000,
        small=True,
        quick=100,
        deep=500,
    ),
    Row(
        name="R28",
        goal="poisoned pickles: refused, nothing run",
        module="fuzz_poison",
        target=848,
        case_seconds=120.0,
        quick=3,
        deep=150,
    ),
    Row(
        name="R29",
        goal="packages too old, too new, missing",
        module="fuzz_versions",
        target=300,
        quick=20,
    ),
)

BY_NAME = {row.name: row for row in ROWS}
