"""The page of a profile holds its figures and words, and shows names without obeying them."""

from __future__ import annotations

from typing import Any

from kernels.launch import Work
from s4d.analysis.step_profile.attribution import Label
from s4d.analysis.step_profile.load import Load
from s4d.analysis.step_profile.page import profile_page
from s4d.analysis.step_profile.result import largest_gaps, optimizer_row, part_rows, split
from s4d.analysis.step_profile.table import summary, table
from s4d.analysis.step_work import PARTS, PartWork

LIMITS = {"flops": 1e12, "bytes": 1e11}


def document(**run: Any) -> dict[str, Any]:
    """Every part takes 0.1 s forward and 0.2 s backward, but the decoder's linears 1 s and 2.1 s; nothing is idle."""
    work = dict.fromkeys(PARTS, PartWork(forward=Work(flops=5e10, bytes=1e9), backward=Work(flops=1e11, bytes=2e9)))
    work["decoder linear"] = PartWork(forward=Work(flops=7e11, bytes=1e9), backward=Work(flops=1.2e12, bytes=1e9))
    times = {
        Label(part, phase): 0.1 * (1 + (phase == "backward")) for part in PARTS for phase in ("forward", "backward")
    }
    times |= {Label("decoder linear", "forward"): 1.0, Label("decoder linear", "backward"): 2.1}
    times |= {Label("optimizer"): 0.25, Label("backward", "backward"): 0.05}
    load = Load(samples={"video": 4.0}, tokens=100, visible=50, work=work)
    step = sum(times.values())
    numbers: dict[str, Any] = {
        "run": {
            "name": "a run",
            "task": "pretrain",
            "size": "base",
            "precision": "bf16",
            "zero_stage": 1,
            "per_step": {"voxceleb2": 4},
            "synthetic": False,
            "backends": {"attention(device=cpu)": "native"},
            "step": "plain (no GPU)",
            "undisturbed_steps": 2,
            "replayed_steps": 0,
        }
        | run,
        "machine": {"device_name": "a device", "device": "cpu"},
        "limits": LIMITS,
        "rates": {
            "step_seconds": step,
            "clips_per_second": 4 / step,
            "images_per_second": 0.0,
            "tokens_per_second": 100 / step,
        },
        "profiler": {"slow_down": 1.25},
        "split": split(times),
        "parts": part_rows(times, load, LIMITS),
        "backward_outside_seconds": 0.05,
        "python_seconds": 0.0123,
        "optimizer": optimizer_row(0.25, 10**8, "bf16", LIMITS),
        "utilisation": {"share": load.flops / step / 1e12},
        "launches": {"forward": 10, "backward": 20},
        "host_syncs": {
            "ours_in_forward_and_backward": 0,
            "rows": [{"phase": "optimizer", "call": "item", "place": "deepspeed/x.py: step", "count": 2}],
        },
        "memory": {"step_peak": 5_000_000},
    }
    return numbers | {"gaps": largest_gaps(numbers)}


def test_the_largest_gaps_are_said_in_words() -> None:
    gaps = document()["gaps"]
    assert len(gaps) == 5
    assert gaps[0]["text"] == "decoder linear: 3.1 s, floor 1.9 s"
    assert [gap["gap_seconds"] for gap in gaps] == sorted((gap["gap_seconds"] for gap in gaps), reverse=True)
    assert gaps[1]["text"] == "optimizer: 250 ms, floor 30 ms"


def test_rows_state_rates_and_what_bounds_them() -> None:
    parts = document()["parts"]
    row = parts["decoder linear"]["forward"]
    assert (row["flops_per_second"], row["bound"], row["floor_seconds"]) == (7e11, "arithmetic", 0.7)
    quiet = part_rows(
        {},
        Load(
            samples={},
            tokens=0,
            visible=0,
            work={part: PartWork(forward=Work(flops=0, bytes=0), backward=Work(flops=0, bytes=5e9)) for part in PARTS},
        ),
        LIMITS,
    )
    assert quiet["moae"]["backward"]["flops_per_second"] is None and quiet["moae"]["backward"]["bound"] == "traffic"


def test_the_table_ends_with_the_whole_step() -> None:
    found = document()
    rows = table(found)
    assert [row[0] for row in rows[: len(PARTS)]] == list(PARTS)
    assert rows[-1][:4] == ("step", "1.85 s", "3.35 s", "100%")
    assert not any(len(row) != len(rows[0]) for row in rows)
    synthetic = document(synthetic=True)
    assert ("data wait", "not measured") in [row[:2] for row in table(synthetic)]
    assert any("waiting for data is not measured" in line for line in summary(synthetic))
    assert "Python between ops, in all parts: 12.3 ms" in summary(found)
    assert not any("Python" in line for line in summary(found | {"python_seconds": None}))


def test_the_page_has_all_of_it() -> None:
    page = profile_page(document())
    assert page.count("data:image/png;base64,") == 4, "two figures in two schemes"
    for text in ("decoder linear: 3.1 s, floor 1.9 s", "deepspeed/x.py: step", "attention(device=cpu): native"):
        assert text in page


def test_a_hostile_name_is_only_shown() -> None:
    name = "</title><script>alert('x')</script>\"><img src=x onerror=y>"
    found = document(name=name, backends={name: name})
    found["host_syncs"]["rows"][0]["place"] = name
    page = profile_page(found)
    assert "<script" not in page and "<img src=x" not in page
    assert "&lt;script&gt;alert(" in page
