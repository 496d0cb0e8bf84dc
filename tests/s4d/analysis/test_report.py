"""The report of made-up runs: its files, its numbers, and what it says about what is missing or broken."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path

import numpy as np
import pytest

from s4d.analysis.class_scores import HeadScores
from s4d.analysis.curves import smoothed
from s4d.analysis.numbers import report_numbers
from s4d.analysis.report import write_report
from s4d.analysis.routing_maps import Routing, routing_numbers
from s4d.analysis.run_folder import find_runs, read_run
from s4d.analysis.step_time import time_split
from s4d.cli import main
from s4d.errors import DataError, UsageError


class Page(html.parser.HTMLParser):
    """Collects images, headings, links and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.fetched: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.images.append(values)
        self.fetched += [str(values[key]) for key in ("src", "srcset", "href") if key in values]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page_and_numbers(untouched_demo: Path, demo_report: tuple[Path, dict]) -> tuple[Page, dict]:
    path, numbers = demo_report
    assert path == untouched_demo / "report" / "index.html"
    assert json.loads(path.with_name("report.json").read_text()) == numbers
    return Page(path.read_text(encoding="utf-8")), numbers


def test_headline_numbers_are_those_of_the_evaluation(
    page_and_numbers: tuple[Page, dict], untouched_demo: Path
) -> None:
    _, numbers = page_and_numbers
    expected = json.loads((untouched_demo / "finetune" / "evaluation.json").read_text())["sources"]
    scratch = json.loads((untouched_demo / "scratch" / "evaluation.json").read_text())["sources"]
    assert numbers["image"]["uar"] == expected["affectnet"]["uar"]
    assert numbers["video"]["war"] == expected["dfew"]["war"]
    assert numbers["video"]["best_frame_uar"] == expected["dfew"]["best_frame_uar"]
    assert numbers["scratch"]["video"]["uar"] == scratch["dfew"]["uar"]
    assert numbers["scratch"]["image"]["uar"] == scratch["affectnet"]["uar"]


def test_losses_are_the_first_and_last_logged(page_and_numbers: tuple[Page, dict], untouched_demo: Path) -> None:
    _, numbers = page_and_numbers
    for run in ("pretrain", "finetune"):
        lines = (untouched_demo / run / "metrics.jsonl").read_text().splitlines()
        assert numbers[run]["loss"]["first"] == json.loads(lines[0])["loss"]
        assert numbers[run]["loss"]["last"] == json.loads(lines[-1])["loss"]
    details = numbers["runs"]["finetune"]
    assert details["scores"]["last"]["dfew"]["recall"]["anger"] > 0
    assert details["step_seconds"]["data"] == pytest.approx(0.12)
    assert sum(details["routing"]["dfew"]["load_by_layer"]["3"]) == pytest.approx(1)


def test_page_is_one_file_with_described_pictures(page_and_numbers: tuple[Page, dict]) -> None:
    page, _ = page_and_numbers
    assert all(target.startswith(("data:image/png;base64,", "#")) for target in page.fetched)
    assert all(image["alt"] for image in page.images)
    for part in (
        "Training",
        "Reconstructions",
        "Recognition: dfew (video)",
        "Expert routing",
        "Step time",
        "Configuration",
    ):
        assert part in page.text
    assert "Pre-trained against from scratch" in page.text
    assert "Not recorded" not in page.text
    # Curves 4, 4, 4; grids 2; heads 2 x (3 + 3 + frames); routing 2 x 4; times 3.
    assert len(page.images) == 12 + 2 + 14 + 8 + 3


def test_missing_files_are_named_not_fatal(demo_folder: Path) -> None:
    for name in ("metrics.jsonl", "evaluation.json", "routing.json", "env.json"):
        (demo_folder / "finetune" / name).unlink()
    path, numbers = write_report(demo_folder / "finetune")
    page = Page(path.read_text(encoding="utf-8"))
    assert page.text.count("Not recorded by this run.") == 4
    assert "image" not in numbers
    assert numbers["finetune"]["loss"] == {"first": None, "last": None, "last_mean": None}


def test_averaged_weights_have_their_own_rows(demo_folder: Path) -> None:
    folder = demo_folder / "finetune"
    (folder / "evaluation-ema.json").write_text((demo_folder / "scratch" / "evaluation.json").read_text())
    path, numbers = write_report(folder)
    assert set(numbers["runs"]["finetune"]["scores"]) == {"last", "ema"}
    assert "dfew (video), ema weights" in Page(path.read_text(encoding="utf-8")).text


def test_a_line_cut_by_a_crash_is_left_out_but_a_broken_one_is_refused(demo_folder: Path) -> None:
    metrics = demo_folder / "pretrain" / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole + '{"step": 405, "lo')
    assert read_run(demo_folder / "pretrain").metrics[-1]["step"] == 400
    metrics.write_text('{"step": 5\n' + whole)
    with pytest.raises(DataError, match="line 1: not JSON"):
        read_run(demo_folder / "pretrain")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("evaluation.json", "[]", "expected a JSON object"),
        ("evaluation.json", '{"sources": {"dfew": {"modality": "video"}}}', "sources.dfew: 'classes' is missing"),
        (
            "evaluation.json",
            '{"sources": {"dfew": {"modality": "video", "classes": ["a"], "confusion": [[1, 2]]}}}',
            "sources.dfew: dfew: 1 classes, confusion of shape",
        ),
        (
            "routing.json",
            '{"layers": [1], "sources": {"d": {"modality": "video", "classes": ["a"], "counts": [1]}}}',
            "sources.d",
        ),
        ("reconstructions.npz", "no archive", "reconstructions.npz"),
    ],
)
def test_broken_files_are_named(demo_folder: Path, name: str, content: str, expected: str) -> None:
    (demo_folder / "finetune" / name).write_text(content)
    with pytest.raises(DataError, match=name) as caught:
        read_run(demo_folder / "finetune")
    assert expected in str(caught.value)


def test_folder_without_runs_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        find_runs(tmp_path)


def test_names_are_escaped(demo_folder: Path) -> None:
    (demo_folder / "pretrain" / "config.yaml").write_text("name: <script>alert(1)</script>\ntask: pretrain\n")
    path, _ = write_report(demo_folder / "pretrain")
    assert "<script>" not in path.read_text(encoding="utf-8")


def test_command_writes_both_files(demo_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(demo_folder / "pretrain"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pretrain"]["run"] == "pretrain"
    assert (demo_folder / "pretrain" / "report" / "index.html").is_file()


def test_run_order_and_roles(untouched_demo: Path) -> None:
    runs = find_runs(untouched_demo)
    assert [run.name for run in runs] == ["pretrain", "finetune", "scratch"]
    numbers = report_numbers([run for run in runs if run.name == "scratch"])
    assert "loss" in numbers["scratch"]  # type: ignore[operator]


def test_class_without_samples_has_no_recall() -> None:
    head = HeadScores(
        source="s", modality="image", classes=("a", "b"), confusion=np.array([[3, 1], [0, 0]]), numbers={"uar": 0.75}
    )
    assert head.recalls == [0.75, None]


def test_routing_numbers_of_even_and_one_sided_load() -> None:
    counts = np.array([[[5, 5, 5, 5]], [[20, 0, 0, 0]]])
    even, one_sided = routing_numbers(
        Routing(source="s", modality="image", layers=(1, 2), classes=("a",), counts=counts)
    )
    assert even == {"layer": 1, "entropy": pytest.approx(1), "max_over_mean": pytest.approx(1), "idle_experts": 0}
    assert one_sided == {"layer": 2, "entropy": pytest.approx(0), "max_over_mean": pytest.approx(4), "idle_experts": 3}


def test_time_split_leaves_out_the_first_record() -> None:
    metrics = [{"step": 1, "time/step": 9.0, "time/data": 8.0}] + [
        {"step": s, "time/step": 1.0, "time/data": 0.25, "time/samples_per_second": 4.0} for s in (2, 3)
    ]
    assert time_split(metrics) == {"step": 1.0, "data": 0.25, "compute": 0.75}
    assert time_split([{"step": 1, "loss": 1.0}]) == {}


def test_smoothing_keeps_length_and_mean_of_a_constant() -> None:
    assert smoothed([2.0] * 50) == [2.0] * 50
    assert len(smoothed([1.0])) == 1
