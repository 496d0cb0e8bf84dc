"""The table of the experiment against rows made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s4d.analysis.predictions import Predictions, predictions_npz
from s4d.errors import DataError
from s4d.metrics import scores
from s4d.science.page import arm_rows, page_lines, size_lines
from s4d.science.study import study_path, study_rows
from s4d.science.table import arms_in, gains, read_results, spread, to_dict

CLASSES = ("calm", "glad")
LABELS = np.array([0, 0, 0, 0, 1, 1])
MODALITIES = {"dfew": "video", "affectnet": "image"}


def write_row(folder: Path, arm: str, seed: int, said: dict[str, list[int]], **changes: Any) -> None:
    """A finished row whose heads said these class numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    heads = [
        Predictions(
            source=source,
            modality=MODALITIES[source],
            split="test",
            classes=CLASSES,
            sample_ids=tuple(f"s{number}" for number in range(len(LABELS))),
            labels=LABELS,
            logits=(10 * np.eye(2)[np.array(numbers)])[:, None].astype(np.float32),
        )
        for source, numbers in said.items()
    ]
    (folder / f"{arm}-{seed}.npz").write_bytes(predictions_npz(heads))
    document = {
        "kind": "measurement",
        "arm": arm,
        "seed": seed,
        "commit": "0123456789abcdef",
        "machine": {"device_name": "a processor"},
        "settings": {"data": {"clips": 6}},
        "data": {"training_samples": dict.fromkeys(said, 4)},
        "steps": 10,
        "seconds": 90.0 + 60 * seed,
        "curve": [{"step": 5, **{f"{source}.uar": 0.25 for source in said}}],
        "scores": {source: scores(LABELS, np.array(numbers), CLASSES).to_dict() for source, numbers in said.items()},
        **changes,
    }
    (folder / f"{arm}-{seed}.json").write_text(json.dumps(document))


RIGHT, WRONG, HALF = list(LABELS), list(1 - LABELS), [0, 0, 1, 1, 1, 0]


def test_scores_are_means_and_sample_deviations_over_seeds(tmp_path: Path) -> None:
    # UAR (1/2 + 1/2) / 2 and 1; WAR 3/6 and 1.
    write_row(tmp_path, "moae", 0, {"dfew": HALF, "affectnet": RIGHT})
    write_row(tmp_path, "moae", 1, {"dfew": RIGHT, "affectnet": RIGHT})
    (tmp_path / "pretrain-dual-0.json").write_text('{"kind": "pre-training"}')
    results = read_results(tmp_path)
    found = spread(results, "moae", "dfew", "uar")
    assert found is not None and found.mean == 0.75 and found.values == (0.5, 1.0)
    assert found.deviation == pytest.approx(0.125**0.5)  # ((1/4)^2 + (1/4)^2) / 1
    title, *cells = arm_rows(results, ["moae"])[0]
    assert title == "MoAE, s4d recipe (`moae`)"
    assert cells == ["0, 1", "0.750 +- 0.354", "0.750 +- 0.354", "1.000 +- 0.000", "1.000 +- 0.000", "2.0"]
    assert to_dict(results)["arms"][0]["scores"]["dfew"]["war"]["values"] == [0.5, 1.0]


def test_an_arm_without_a_head_has_no_score_for_it(tmp_path: Path) -> None:
    write_row(tmp_path, "sfer", 0, {"affectnet": HALF})
    results = read_results(tmp_path)
    assert spread(results, "sfer", "dfew", "uar") is None
    assert arm_rows(results, ["sfer"])[0][2:6] == ("-", "-", "0.500", "0.500")
    assert gains(results) == []
    crossed = {"source": "dfew", "uar": 0.25, "war": 0.5}
    write_row(tmp_path, "sfer", 0, {"affectnet": HALF}, cross_use=crossed)
    assert arm_rows(read_results(tmp_path), ["sfer"])[0][2:6] == ("(0.250)", "(0.500)", "0.500", "0.500")


def test_gains_are_of_the_same_samples_in_the_seeds_that_both_have(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_row(tmp_path, "dual", seed, {"dfew": WRONG})
        write_row(tmp_path, "moae", seed, {"dfew": RIGHT if seed == 0 else HALF, "affectnet": RIGHT})
    write_row(tmp_path, "moae", 2, {"dfew": RIGHT, "affectnet": RIGHT})
    (gain,) = gains(read_results(tmp_path))
    assert (gain.before, gain.after, gain.seeds) == ("dual", "moae", (0, 1))
    # 1 with one seed, 1/2 with the other.
    assert gain.scores is not None and gain.scores.uar.value == pytest.approx(0.75)
    assert gain.scores.uar.low < 0.75 < gain.scores.uar.high
    lines = size_lines("cpu", read_results(tmp_path))
    assert any(line.startswith("| clips (DFER) | `dual` | `moae` | 2 | +0.750 |") for line in lines)


def test_one_seed_has_an_interval_of_samples_alone_and_the_page_says_so(tmp_path: Path) -> None:
    write_row(tmp_path, "dual", 0, {"dfew": WRONG})
    write_row(tmp_path, "moae", 0, {"dfew": RIGHT, "affectnet": RIGHT})
    (gain,) = gains(read_results(tmp_path))
    assert gain.scores is not None
    assert (gain.scores.uar.low, gain.scores.uar.value, gain.scores.uar.high) == (1.0, 1.0, 1.0)
    assert "Unfinished: 0 seeds of all arms" in "\n".join(size_lines("cpu", read_results(tmp_path)))


def test_rows_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    write_row(tmp_path, "dual", 0, {"dfew": WRONG})
    write_row(tmp_path, "moae", 0, {"dfew": RIGHT})
    npz = tmp_path / "moae-0.npz"
    head = Predictions(
        source="dfew",
        modality="video",
        split="test",
        classes=CLASSES,
        sample_ids=tuple(f"other{number}" for number in range(len(LABELS))),
        labels=LABELS,
        logits=np.zeros((len(LABELS), 1, 2), np.float32),
    )
    npz.write_bytes(predictions_npz([head]))
    with pytest.raises(DataError, match=r"moae-0\.npz: dfew: other test samples"):
        gains(read_results(tmp_path))
    write_row(tmp_path, "sfer", 0, {"affectnet": RIGHT}, settings={"data": {"clips": 7}})
    with pytest.raises(DataError, match=r"settings\.data"):
        read_results(tmp_path)
    (tmp_path / "sfer-0.json").write_text("[]")
    with pytest.raises(DataError, match=r"sfer-0\.json: no result of"):
        read_results(tmp_path)


def test_the_scaling_ends_with_the_reference(tmp_path: Path) -> None:
    write_row(tmp_path, "moae", 0, {"dfew": RIGHT, "affectnet": RIGHT})
    assert arms_in(read_results(tmp_path), "scaling") == []
    write_row(tmp_path, "stills-0", 0, {"dfew": HALF})
    write_row(tmp_path, "stills-12.5", 0, {"dfew": HALF, "affectnet": HALF})
    assert arms_in(read_results(tmp_path), "scaling") == ["stills-0", "stills-12.5", "moae"]


def test_a_page_has_tables_and_pictures_of_each_size(tmp_path: Path) -> None:
    assert page_lines(tmp_path / "results", ["cpu"], tmp_path) == ["No result is committed yet."]
    for seed in (0, 1):
        write_row(tmp_path / "results" / "cpu", "moae", seed, {"dfew": HALF, "affectnet": RIGHT})
        write_row(tmp_path / "results" / "cpu", "stills-0", seed, {"dfew": HALF})
    lines = page_lines(tmp_path / "results", ["cpu", "gpu"], tmp_path)
    assert "### Size `cpu`" in lines and "### Size `gpu`" not in lines
    for name in ("curves", "scaling"):
        assert (tmp_path / f"experiments-{name}-cpu.png").read_bytes().startswith(b"\x89PNG")
        assert any(line.endswith(f"(experiments-{name}-cpu.png)") for line in lines)


def test_the_page_has_a_few_numbers_of_the_study(tmp_path: Path) -> None:
    def verdict(head: str, showing: str, chosen: str, uar: float) -> dict[str, Any]:
        return {"run": "moae-0", "head": head, "showing": showing, "chosen": chosen, "uar": uar}

    def checkpoint(cosine: float) -> dict[str, Any]:
        return {"shared": {"cosine": cosine, "images": 0.5, "clips": 0.25}}

    distance = {"value": 0.04, "low": 0.03, "high": 0.05, "by_chance": 0.01}
    document = {
        "runs": [{"run": "moae-0"}],
        "static": {"head": "affectnet"},
        "dynamic": {"head": "dfew"},
        "transfer": {"verdicts": [verdict("affectnet", "frames", "mean", 0.25), verdict("dfew", "clips", "mean", 0.5)]},
        "representation": {
            "centroids": {"diagonal": 0.75, "off_diagonal": -0.25, "p_value": 0.002},
            "cka_between_modalities": [
                {"first": "moae-0: clips", "second": "moae-0: middle frame", "by_layer": [0.5, 0.125]},
                {"first": "moae-0: stilled", "second": "moae-0: images", "by_layer": [1.0, 1.0]},
            ],
            "cka_between_runs": [{"first": "moae-0: images", "second": "sfer-0: images", "by_layer": [0.75, 0.25]}],
        },
        "gradients": {"runs": [{"run": "moae-0", "checkpoints": [checkpoint(0.25), checkpoint(-0.5)]}]},
        "routing": {
            "runs": [{"run": "moae-0", "layers": [{"layer": 2, "distance": distance, "overlap": 0.9, "dead": [3]}]}]
        },
        "labels": {
            "tables": {"images": {"off_diagonal": {"pearson": 0.5}, "off_diagonal_p_value": {"pearson": 0.004}}},
            "clips": {
                "pearson": {
                    "mean": {"value": 0.75},
                    "mean_with_another_clip_of_the_class": 0.5,
                    "mean_with_any_other_clip": 0.25,
                }
            },
        },
    }
    path = study_path(tmp_path)
    path.parent.mkdir()
    path.write_text(json.dumps(document))
    rows = study_rows(path)
    assert dict(row[::2] for row in rows) == {
        "UAR of clips, dynamic head": "0.500",
        "UAR of clips, static head, mean over frames": "0.250",
        "cosine of a class's centroids in stills and clips, against other classes'": "0.75 against -0.25 (p = 0.0020)",
        "CKA of clips and middle frame, layer by layer": "0.50, 0.12",
        "CKA of images and sfer-0: images, layer by layer": "0.75, 0.25",
        "cosine of SFER and DFER gradients, over checkpoints": "-0.50 to +0.25",
        "the same of two batches of stills": "+0.50 to +0.50",
        "the same of two batches of clips": "+0.25 to +0.25",
        "Jensen-Shannon distance of the tasks' routing, layer 2": (
            "0.040 (0.030 to 0.050); by chance 0.010; overlap 0.90; dead experts: 1"
        ),
        "correlation of both heads' confusions, stills against clips, beside the diagonal": "0.50 (p = 0.0040)",
        "correlation of both heads' answers on a clip, against another clip of its class and any": (
            "0.75 against 0.50 and 0.25"
        ),
    }
    assert {row[1] for row in rows} == {"moae-0"}
    path.write_text("{}")
    with pytest.raises(DataError, match=r"correlation\.json: no document of"):
        study_rows(path)
