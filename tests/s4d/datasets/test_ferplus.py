"""FERPlus: votes to labels and shares under both rules, and the export of the pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees_static import FERPLUS_HEADER, ferplus

from s4d.cli.data_unpack import unpack as unpack_command
from s4d.config import Config
from s4d.data.loader import build_batches
from s4d.data.manifest_io import Manifest, prepare_manifest
from s4d.datasets import CLASS_NAMES
from s4d.datasets.ferplus_pixels import unpack
from s4d.datasets.published import PUBLISHED
from s4d.errors import DataError, UsageError

CLASSES = CLASS_NAMES["ferplus"]


def prepared(tmp_path: Path, dataset: str = "ferplus", build: Callable[[Path], None] | None = None) -> Manifest:
    (build or ferplus())(tmp_path / "data")
    return prepare_manifest(dataset, tmp_path / "data", tmp_path / "out.parquet")


def test_the_majority_rule(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = {row.sample_id: row for row in prepared(tmp_path).rows}
    assert Counter(row.split for row in rows.values()) == {"train": 8, "val": 8, "test": 8}
    assert Counter(row.label for row in rows.values()) == dict.fromkeys(CLASSES, 3)
    first = rows["fer0000000"]
    assert (first.label, first.path) == ("neutral", "images/FER2013Train/fer0000000.png")
    # 6 and 3 of 10 votes; the single one for "unknown" is dropped.
    assert dict(first.distribution or ()) == pytest.approx(dict(zip(CLASSES, (2 / 3, 1 / 3, *(0.0,) * 6), strict=True)))
    assert "fer2013new.csv: left out: 6 without a majority, 3 without an image" in caplog.text


def test_media_is_a_folder_below_the_root(tmp_path: Path) -> None:
    ferplus("mine")(tmp_path / "data")
    root, out = tmp_path / "data", tmp_path / "out.parquet"
    rows = prepare_manifest("ferplus", root, out, media="./mine/").rows
    assert rows[0].path == "mine/FER2013Train/fer0000000.png"
    for wrong in ("../data/mine", str(root / "mine"), "gone"):
        with pytest.raises(UsageError, match=r"--media .*: no such folder below"):
            prepare_manifest("ferplus", root, out, media=wrong)


def test_every_image_with_a_vote(tmp_path: Path) -> None:
    rows = {row.sample_id: row for row in prepared(tmp_path, "ferplus_votes").rows}
    assert len(rows) == 30
    draw = rows["fer0000008"]
    assert draw.label == "neutral"
    assert dict(draw.distribution or ()) == pytest.approx(
        dict(zip(CLASSES, (0.4, 0.4, 0.1, 0.1, *(0.0,) * 4), strict=True))
    )
    unknown = rows["fer0000009"]
    assert (unknown.label, dict(unknown.distribution or ())["neutral"]) == ("neutral", 1.0)


@pytest.mark.parametrize(
    ("votes", "strict", "loose"),
    [
        ([10, 0, 0, 0, 0, 0, 0, 0, 0, 0], "neutral", "neutral"),
        # Half is no majority; one more vote is.
        ([4, 4, 0, 0, 0, 0, 0, 0, 0, 0], None, "neutral"),
        ([0, 5, 4, 0, 0, 0, 0, 0, 0, 0], "happiness", "happiness"),
        # Single votes do not count, so 4 of 10 can be most of what is left.
        ([0, 4, 1, 1, 1, 1, 1, 1, 0, 0], "happiness", "happiness"),
        # "unknown" and "NF" count against an expression, but are no labels.
        ([0, 0, 0, 0, 4, 0, 0, 0, 5, 0], None, "anger"),
        ([0, 0, 0, 0, 0, 0, 0, 4, 2, 2], None, "contempt"),
        ([1, 0, 0, 0, 0, 0, 0, 0, 0, 9], None, "neutral"),
        ([0, 0, 0, 0, 0, 0, 0, 0, 4, 6], None, None),
    ],
)
def test_rules_vote_by_vote(tmp_path: Path, votes: list[int], strict: str | None, loose: str | None) -> None:
    def build(root: Path) -> None:
        ferplus()(root)
        row = ",".join(map(str, votes))
        path = root / "fer2013new.csv"
        lines = path.read_text().splitlines()
        lines[1] = f"Training,fer0000000.png,{row}"
        path.write_text("\n".join(lines) + "\n")

    prepared(tmp_path, "ferplus", build)
    for dataset, expected in (("ferplus", strict), ("ferplus_votes", loose)):
        rows = prepare_manifest(dataset, tmp_path / "data", tmp_path / "out.csv").rows
        assert next((row.label for row in rows if row.sample_id == "fer0000000"), None) == expected


def test_shares_reach_the_targets_of_a_batch(tmp_path: Path) -> None:
    manifest = prepared(tmp_path)
    source = {"name": "fer", "modality": "image", "manifest": str(tmp_path / "out.parquet"), "targets": "distribution"}
    config = Config.model_validate(
        {
            "name": "made",
            "run_dir": "runs/made",
            "task": "finetune",
            "model": {"size": "tiny", "image_size": 32, "num_frames": 4},
            "data": {"sources": [source], "workers": 0},
            "batch": {"per_step": {"fer": 8}},
            "optim": {"lr": 1e-3},
            "engine": {"steps": 1},
        }
    )
    [[batch]] = build_batches(config, 0, 1).steps(0)
    shares = {row.sample_id: dict(row.distribution or ()) for row in manifest.rows}
    expected = [[shares[sample_id][name] for name in CLASSES] for sample_id in batch.groups[0].sample_ids]
    np.testing.assert_allclose(batch.heads[0].targets.numpy(), expected, atol=1e-6)
    assert (batch.heads[0].targets.sort(1).values[:, -2] > 0.3).all()


def test_pixels_become_the_same_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ferplus("made", pixels=True)(tmp_path)
    with pytest.raises(DataError, match=r"no exported images .*fer2013\.csv has them as pixels: `s4d data unpack"):
        prepare_manifest("ferplus", tmp_path, tmp_path / "out.csv")
    unpack_command(tmp_path)
    assert "wrote 30 images to" in capsys.readouterr().out
    written = sorted(path.relative_to(tmp_path / "images") for path in (tmp_path / "images").rglob("*.png"))
    exported = sorted(path.relative_to(tmp_path / "made") for path in (tmp_path / "made").rglob("*.png"))
    assert written == exported and len(written) == 30
    for name in written:
        with Image.open(tmp_path / "images" / name) as ours, Image.open(tmp_path / "made" / name) as theirs:
            assert (ours.mode, ours.size) == ("L", (48, 48))
            assert ours.tobytes() == theirs.tobytes()
    assert len(prepare_manifest("ferplus", tmp_path, tmp_path / "out.csv").rows) == 24
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(DataError, match="images: is there already"):
        unpack(tmp_path)


def change(root: Path, name: str, line: int, old: str, new: str) -> None:
    path = root / name
    lines = path.read_text().splitlines()
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("name", "line", "old", "new", "message"),
    [
        ("fer2013.csv", 5, ",Training", ",PublicTest", "fer2013.csv: line 5: field 'Usage': 'PublicTest', but line 5"),
        (
            "fer2013.csv",
            5,
            ",Training",
            " 7,Training",
            "fer2013.csv: line 5: field 'pixels': expected 2304 grey values",
        ),
        ("fer2013.csv", 5, "0,", "0,256 ", "line 5: field 'pixels': expected 2304 grey values, got 2305"),
        ("fer2013.csv", 5, "0,", "0,x", "line 5: field 'pixels': expected grey values"),
        ("fer2013.csv", 5, "0,", "0,900", "line 5: field 'pixels': expected grey values of 0 to 255"),
        ("fer2013.csv", 5, "0,", "0,0,", "fer2013.csv: line 5: expected 3 fields, got 4"),
        ("fer2013.csv", 1, "pixels", "pixel", "fer2013.csv: line 1: expected the header emotion,pixels,Usage"),
        (
            "fer2013new.csv",
            5,
            "fer0000003.png",
            "../a.png",
            "fer2013new.csv: line 5: field 'Image name': '../a.png' leads",
        ),
        (
            "fer2013new.csv",
            5,
            "fer0000003.png",
            "fer0000002.png",
            "line 5: field 'Image name': 'fer0000002.png' is listed twice",
        ),
        ("fer2013new.csv", 5, "fer0000003.png", "fer0000003.exe", "expected the name of a .png file"),
        ("fer2013new.csv", 5, "Training", "Trainin", "fer2013new.csv: line 5: field 'Usage': unknown part 'Trainin'"),
    ],
)
def test_wrong_tables_leave_no_images(tmp_path: Path, name: str, line: int, old: str, new: str, message: str) -> None:
    ferplus(exported=False, pixels=True)(tmp_path)
    change(tmp_path, name, line, old, new)
    with pytest.raises(DataError) as caught:
        unpack(tmp_path)
    assert message in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fer2013.csv", "fer2013new.csv"]


@pytest.mark.parametrize(("drop", "message"), [("fer2013.csv", "has 32 rows, but"), ("fer2013new.csv", "32 rows only")])
def test_tables_of_different_length(tmp_path: Path, drop: str, message: str) -> None:
    ferplus(exported=False, pixels=True)(tmp_path)
    lines = (tmp_path / drop).read_text().splitlines()[:-1]
    (tmp_path / drop).write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        unpack(tmp_path)


def test_nothing_to_unpack(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no table of pixels \(looked for fer2013.csv, icml_face_data.csv\)"):
        unpack(tmp_path)


def test_votes_that_are_no_numbers_and_no_rows(tmp_path: Path) -> None:
    ferplus()(tmp_path)
    path = tmp_path / "fer2013new.csv"
    path.write_text(f"{FERPLUS_HEADER}\nTraining,fer0000000.png,10,0,0,0,0,0,0,-1,0,0\n")
    with pytest.raises(DataError, match="line 2: field 'contempt': expected a number of votes, got '-1'"):
        prepare_manifest("ferplus", tmp_path, tmp_path / "out.csv")
    path.write_text(f"{FERPLUS_HEADER}\nTraining,a/fer0000000.png,10,0,0,0,0,0,0,0,0,0\n")
    with pytest.raises(
        DataError, match=r"line 2: field 'Image name': 'a/fer0000000\.png': expected the name of a \.png"
    ):
        prepare_manifest("ferplus", tmp_path, tmp_path / "out.csv")
    path.write_text(f"{FERPLUS_HEADER}\n")
    with pytest.raises(DataError, match="holds no rows"):
        prepare_manifest("ferplus", tmp_path, tmp_path / "out.csv")


def test_published_counts() -> None:
    totals = {name: [count.total for count in PUBLISHED[name]] for name in ("ferplus", "ferplus_votes")}
    assert totals == {"ferplus": [25_060, 3_199, 3_153], "ferplus_votes": [28_559, 3_579, 3_573]}
