"""The commands on generated faces: nothing to complain about, then one fault of each kind planted."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s4d.cli import main
from s4d.data.manifest_io import Manifest, prepare_manifest, read_manifest, write_manifest
from s4d.data.validate import run, validate_manifest
from s4d.synth import synthesize

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with generated stills and clips and their manifests affectnet.csv and dfew.csv."""
    root = tmp_path_factory.mktemp("faces")
    synthesize(root, clips=35, images=70, identities=5, seed=4, size=48, workers=1, pretrain_clips=1)
    for name in ("affectnet", "dfew"):
        prepare_manifest(name, root / name, root / f"{name}.csv")
    return root


@pytest.fixture
def run_s4d(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str]:
        status = main([str(argument) for argument in arguments])
        return status, capsys.readouterr().out

    return call


@pytest.fixture
def faulty(faces: Path, tmp_path: Path) -> Path:
    """The stills with a fault of each kind."""
    good = read_manifest(faces / "affectnet.csv")
    root = tmp_path / "media"
    for row in good.rows:
        (root / row.path).parent.mkdir(parents=True, exist_ok=True)
        (root / row.path).write_bytes((good.root / row.path).read_bytes())
    train = [row for row in good.rows if row.split == "train"]
    test = [row for row in good.rows if row.split == "test"]
    cut, empty, gone, copied, recompressed = (root / row.path for row in train[:5])
    cut.write_bytes(cut.read_bytes()[:-5])
    empty.write_bytes(b"")
    gone.unlink()
    (root / test[0].path).write_bytes(copied.read_bytes())
    buffer = io.BytesIO()
    Image.open(recompressed).resize((96, 96), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=70)
    (root / test[1].path).write_bytes(buffer.getvalue())
    rows = [row for row in good.rows if not (row.split == "test" and row.label == "fear")]
    rows.append(replace(train[6], sample_id="again"))
    path = tmp_path / "faulty.csv"
    write_manifest(replace(good, rows=tuple(rows), root=root), path)
    return path


PLANTED = {
    "counts": 2,
    "unreadable": 1,
    "empty-file": 1,
    "missing-file": 1,
    "leak-content": 1,
    "leak-picture": 1,
    "duplicate-path": 1,
    "missing-class": 1,
}


@pytest.mark.parametrize("name", ["affectnet", "dfew"])
def test_generated_faces_are_in_order(faces: Path, run_s4d: Run, name: str) -> None:
    status, text = run_s4d("data", "validate", faces / f"{name}.csv", "--json", "--workers", 1)
    document = json.loads(text)
    assert status == 0
    assert document["severities"]["error"] == 0
    assert {finding["code"] for finding in document["findings"]} == {"counts"}
    assert document["media"] == {"affectnet": 70, "dfew": 35}[name]
    assert sum(sum(part.values()) for part in document["counts"].values()) == document["rows"]
    assert document["looked_at"].startswith("no scan file given: all ")


def test_planted_faults_are_found(faulty: Path, run_s4d: Run) -> None:
    codes = validate_manifest(faulty, workers=1).codes
    assert codes.pop("label-conflict", 1) == 1  # the copy may show another class
    assert codes == PLANTED
    status, text = run_s4d("data", "validate", faulty, "--workers", 1)
    assert status == 1
    assert all(f"[{code}]" in text for code in PLANTED)
    assert text.splitlines()[-1].endswith("6 errors, 4 warnings, 0 notes") or "7 errors" in text


def test_a_scan_spares_decoding(faulty: Path, tmp_path: Path, run_s4d: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = tmp_path / "scan.jsonl"
    status, text = run_s4d("data", "scan", faulty, "--out", scan, "--workers", 1)
    assert status == 1 and "with errors" in text
    status, text = run_s4d("data", "scan", faulty, "--out", scan, "--workers", 1, "--json")
    document = json.loads(text)
    # Only media that could not be read are looked at again.
    assert (status, document["scanned"], len(document["failed"])) == (1, 3, 3)
    decoded = validate_manifest(faulty, workers=1)
    monkeypatch.setattr(run, "probe_all", None)
    known = validate_manifest(faulty, scan=scan)
    assert known.items == decoded.items
    assert known.looked_at.endswith(f"media known from {scan}")


def test_a_sample_of_nothing_decodes_nothing(faulty: Path) -> None:
    found = validate_manifest(faulty, sample=0)
    assert set(found.codes) == {"counts", "empty-file", "missing-file", "duplicate-path", "missing-class"}
    assert "a sample of 0 of" in found.looked_at


def test_the_page(faulty: Path, tmp_path: Path, run_s4d: Run) -> None:
    out = tmp_path / "page"
    status, text = run_s4d("data", "validate", faulty, "--out", out, "--workers", 1, "--sample", 10)
    assert status == 1 and "index.html" in text
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "missing-file" in page and "Share of each class in its split" in page and "data:image/jpeg;base64," in page
    assert json.loads((out / "findings.json").read_text())["manifest"] == str(faulty)
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.height == 7 * 96 and sheet.width > 10 * 96
        red = np.all(np.asarray(sheet.convert("RGB")) == (255, 0, 0), axis=2)
    assert red.any(), "media that cannot be read are crossed"


def test_text_of_the_data_is_escaped(faces: Path, tmp_path: Path, run_s4d: Run) -> None:
    good = read_manifest(faces / "affectnet.csv")
    rows = (replace(good.rows[0], path="<script>alert(1)</script>.jpg"), *good.rows[1:])
    write_manifest(replace(good, rows=rows), tmp_path / "made.csv")
    run_s4d("data", "validate", tmp_path / "made.csv", "--out", tmp_path / "page", "--sample", 0, "--workers", 1)
    page = (tmp_path / "page/index.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page


def write_checkpoint(folder: Path, classes: object) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").touch()
    (folder / "config.json").write_text(json.dumps({"classes": classes}), encoding="utf-8")
    return folder


def test_against_a_checkpoint(faces: Path, tmp_path: Path, run_s4d: Run) -> None:
    manifest: Manifest = read_manifest(faces / "affectnet.csv")
    same = write_checkpoint(tmp_path / "same", {"faces": manifest.classes})
    other = write_checkpoint(tmp_path / "other", {"faces": manifest.classes[::-1]})
    call = ("data", "validate", faces / "affectnet.csv", "--sample", 0)
    assert run_s4d(*call, "--against", same)[0] == 0
    status, text = run_s4d(*call, "--against", other)
    assert status == 1 and "[label-order]" in text


def test_what_is_compared_with_must_be_readable(faces: Path, tmp_path: Path, run_s4d: Run) -> None:
    broken = write_checkpoint(tmp_path / "broken", ["calm"])
    call = ("data", "validate", faces / "affectnet.csv", "--sample", 0)
    assert run_s4d(*call, "--against", broken) == (1, "")
    assert run_s4d(*call, "--against", tmp_path / "none") == (1, "")
    assert run_s4d(*call, "--scan", tmp_path / "none.jsonl") == (1, "")


def test_an_unreadable_manifest_is_a_finding(tmp_path: Path, run_s4d: Run) -> None:
    (tmp_path / "a.csv").write_text("path,label,split,kind\na.jpg,calm,train,image\na.jpg,calm,train,image\n")
    (finding,) = validate_manifest(tmp_path / "a.csv").errors
    assert finding.code == "manifest" and "row 2" in finding.text and "occurs twice" in finding.text
    assert run_s4d("data", "validate", tmp_path / "a.csv", "--out", tmp_path / "page")[0] == 1
    assert not (tmp_path / "page").exists()
