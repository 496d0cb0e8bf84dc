"""`s4d bench decoder`: parts that are kept, what is missing, the table of the documentation; a rehearsal of it all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from s4d.cli.bench_decoder import BEGIN, END, Amount, Trade, build_document, docs_lines, write_docs
from s4d.errors import DataError

CPU = torch.device("cpu")


@pytest.fixture
def trade(tmp_path: Path) -> Trade:
    return Trade(CPU, Amount(steps=5), tmp_path / "work", tiny=True)


def test_a_part_is_measured_once_for_an_amount(trade: Trade, tmp_path: Path) -> None:
    calls: list[str] = []

    def measure() -> dict[str, Any]:
        calls.append("measured")
        return {"figures": {"loss/image": 1.5}}

    assert not trade.is_done("cross-0")
    assert trade.result("cross-0", measure) == trade.result("cross-0", measure) and calls == ["measured"]
    again = Trade(CPU, Amount(steps=5), tmp_path / "work", tiny=True)
    assert again.is_done("cross-0")
    longer = Trade(CPU, Amount(steps=6), tmp_path / "work", tiny=True)
    assert not longer.is_done("cross-0")
    (tmp_path / "work" / "parts" / "cross-0.json").write_text("[]")
    with pytest.raises(DataError, match=r"cross-0\.json: no part of"):
        again.is_done("cross-0")


def test_every_decoder_has_every_seed_and_one_seed_comes_before_the_next(trade: Trade) -> None:
    names = list(trade.parts(2, 7))
    assert names[0] == "speed-7" and len(names) == 1 + 2 * 5
    assert [name.rpartition("-")[2] for name in names[1:]] == ["0"] * 5 + ["1"] * 5


def test_a_document_says_what_is_missing(trade: Trade) -> None:
    found = {"cross-0": {"arm": "cross", "seed": 0, "figures": {"uar/image": 0.5}}}
    document = build_document(CPU, trade.amount, 1, found, 6)
    assert document["complete"] is False and document["quality"] == list(found.values())
    assert document["options"]["steps"] == 5 and [line["arm"] for line in document["summary"]] == ["cross"]
    assert build_document(CPU, trade.amount, 1, found, 1)["complete"] is True


def test_the_documentation_has_the_committed_results(trade: Trade, tmp_path: Path) -> None:
    docs = tmp_path / "docs" / "throughput.md"
    docs.parent.mkdir()
    docs.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_docs(tmp_path)
    assert docs.read_text() == f"before\n{BEGIN}\n\nNo result is committed yet.\n\n{END}\nafter\n"
    found = {"cross-0": {"arm": "cross", "seed": 0, "figures": {"uar/image": 0.5}}}
    folder = tmp_path / "benchmarks" / "results" / "cpu"
    folder.mkdir(parents=True)
    (folder / "decoder.json").write_text(json.dumps(build_document(CPU, trade.amount, 1, found, 1)))
    write_docs(tmp_path)
    assert "| cross |  |  |  |  |  |  | 0.500 |  |" in docs.read_text() and "old" not in docs.read_text()
    (folder / "decoder.json").write_text("{}")
    with pytest.raises(DataError, match=r"decoder\.json: no results"):
        write_docs(tmp_path)
    docs.write_text("nothing")
    (folder / "decoder.json").unlink()
    with pytest.raises(DataError, match="expected a line"):
        write_docs(tmp_path)


def test_the_table_names_device_and_amount(trade: Trade) -> None:
    lines = docs_lines([build_document(CPU, trade.amount, 3, {}, 0)])
    assert lines[0].endswith(", 3 seeds of 5 steps:") and lines[-1].startswith("|---")


@pytest.mark.deep
@pytest.mark.launch
def test_a_rehearsal_of_everything(tmp_path: Path) -> None:
    """All parts on almost nothing; a second call measures nothing anew."""
    from s4d.cli import main

    work = tmp_path / "work"
    command = ["bench", "decoder", "--tiny", "--device", "cpu", "--steps", "3", "--seeds", "1", "--repeats", "1"]
    command += ["--work", str(work)]
    assert main([*command, "--minutes", "0"]) == 1
    assert main(command) == 0
    document = json.loads((work / "decoder.json").read_text())
    assert document["complete"] and len(document["quality"]) == 5 and len(document["speed"]) == 4
    for row in document["quality"]:
        kinds = {"uar"} if row["arm"] == "untrained" else {"uar", "loss"}
        assert set(row["figures"]) == {f"{kind}/{modality}" for kind in kinds for modality in ("image", "video")}
    before = {path: path.stat().st_mtime_ns for path in (work / "parts").iterdir()}
    assert main(command) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (work / "parts").iterdir()}
