"""What a terminal or log shows of each command: 80 columns, no control characters, numbers one below the other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from s4d.cli import bench_pipeline, bench_step_tables, bench_tables, main, profile_data, profile_scaling, profile_step
from s4d.cli.app import COMMANDS, GROUPS
from s4d.cli.output import print_document, print_fields, print_lines, print_table
from s4d.cli.tables import Column, render_table

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks" / "results" / "cpu-2c-amd-epyc"
WIDTH = 80
NAMES = [[], *([name] for name in (*COMMANDS, *GROUPS))]
NAMES += [[group, name] for group, (_, commands) in GROUPS.items() for name in commands]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


def assert_readable(text: str, width: int = WIDTH) -> None:
    """No control character, and no line over the width but for a single word with its indent."""
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    assert not [line for line in text.splitlines() if len(line) > width and len(line.split()) > 1]


@pytest.mark.parametrize("name", NAMES, ids=" ".join)
def test_help_fits_and_is_whole(name: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name, "--help"]) == 0
    text = capsys.readouterr().out
    assert_readable(text)
    assert "…" not in text, "a word is too long for its column"


@pytest.mark.parametrize(
    "arguments",
    [
        ["config", "show", "configs/finetune/demo.yaml"],
        ["config", "diff", "configs/pretrain/demo.yaml", "configs/finetune/demo.yaml"],
        ["plan", "--config", "configs/finetune/demo.yaml", "--samples", "affectnet=9", "--samples", "dfew=9"],
        ["bench", "projection"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_commands_that_need_no_data(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(arguments) == 0
    output = capsys.readouterr()
    assert_readable(output.out)
    assert output.out.count("\n") > 3 and not output.err


def read(name: str) -> dict:
    document: dict = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return document


@pytest.mark.parametrize(
    ("show", "name"),
    [
        (bench_tables.show, "all.json"),
        (bench_step_tables.show, "step.json"),
        (bench_pipeline._show, "pipeline.json"),
        (profile_data._show, "data.json"),
        (profile_scaling.show, "scaling_pretrain.json"),
        (profile_step._show, "profile_finetune.json"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_committed_results_fit(show: Callable[[dict], None], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    show(read(name))
    assert_readable(capsys.readouterr().out)


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_table_that_fits_is_one_and_its_numbers_end_in_one_column(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "samples", "UAR"), [("a", 9, "0.5000 [0.4, 0.6]"), ("bb", 1234, "-")])
    assert lines_of(capsys) == [
        "name  samples                UAR",
        "─" * 32,
        "a           9  0.5000 [0.4, 0.6]",
        "bb       1234                  -",
        "",
    ]


def test_columns_that_do_not_fit_follow_with_their_keys() -> None:
    columns = ("mode", "ranks", *(f"measured{n}" for n in range(9)))
    lines = list(render_table(columns, [("weak", "2", *map(str, range(9)))], width=40, keys=2))
    heads = [line.split() for line in lines if line.startswith("mode")]
    assert len(heads) > 1 and all(head[:2] == ["mode", "ranks"] for head in heads)
    assert [name for head in heads for name in head[2:]] == list(columns[2:])
    assert all(len(line) <= 40 for line in lines)


def test_names_in_front_are_broken_last() -> None:
    name, place = "release_vit_base_dfew_affectnet7.yaml", "a/place/with/forty/letters/for/a/file.mp4"
    lines = list(render_table(("file", "what"), [(name, f"words, then {place}")], width=70))
    assert any(line.startswith(name) for line in lines) and not any(place in line for line in lines)


@pytest.mark.parametrize("width", [40, 61, 80, 200])
def test_no_cell_is_lost_at_any_width(width: int) -> None:
    rows = [(f"folder/{'long/' * n}clip_{n}.mp4", "a reason of several words " * n, 10**n) for n in range(9)]
    lines = list(render_table(("sample", "why", "bytes"), [[str(cell) for cell in row] for row in rows], width=width))
    assert all(len(line) <= width for line in lines)
    letters = "".join(sorted("".join(line.replace("─", "") for line in lines).replace(" ", "")))
    shown = "".join(sorted("".join(map(str, sum(rows, ()))).replace(" ", "")))
    for letter in set(shown):
        assert letters.count(letter) >= shown.count(letter)


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [
        (("1", "22"), True),
        (("1.5e-3", "-"), True),
        (("+0.1 [-0.2, +0.3]", "no samples"), True),
        (("3 ms", "91%", "1.5x"), True),
        (("14-15.1", ""), True),
        (("0.2 +- 0.1",), True),
        (("3 x 4", "16"), False),
        (("00001.mp4",), False),
        (("ok", "3"), False),
        ((), False),
    ],
)
def test_what_counts_as_a_number(cells: tuple[str, ...], numeric: bool) -> None:
    assert Column(name="x", cells=cells).is_numeric is numeric


def test_an_empty_table_has_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("input", "label"), [])
    assert lines_of(capsys)[0] == "input  label"


def test_long_lines_go_on_indented_and_words_stay_whole(capsys: pytest.CaptureFixture[str]) -> None:
    path = "folder/" * 20
    print_lines(["word " * 30, f"  wrote {path}", "\x1b[31mred\x07"])
    lines = lines_of(capsys)
    assert_readable("\n".join(lines))
    assert lines[1].startswith("  word") and f"    {path}" in lines and lines[-1] == r"\x1b[31mred\x07"


def test_documents_are_left_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_document(["| a |" * 40])
    assert lines_of(capsys) == ["| a |" * 40]


def test_nested_records_are_no_python(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields({"stage": "finetune", "classes": {"dfew": ["fear", "anger"]}, "size": {"depth": 4, "init": None}})
    assert lines_of(capsys) == ["stage: finetune", "classes:", "  dfew: fear, anger", "size:", "  depth=4, init=none"]


def test_the_width_is_that_of_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    print_lines(["word " * 22])
    assert len(lines_of(capsys)) == 1
