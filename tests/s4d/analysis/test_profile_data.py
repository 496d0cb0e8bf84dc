"""Profiling the data path: the plain pipeline sees the same files and draws, rates and goals are what they say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from s4d.analysis import profile_data, profile_files, profile_goals
from s4d.analysis.gpu_wait import gpu_wait
from s4d.analysis.plain_pipeline import plain_batches
from s4d.analysis.profile_data import (
    Options,
    Setup,
    first_difference,
    measure,
    plain_samples,
    refusal_of,
    setups,
    split,
)
from s4d.analysis.profile_files import Files, found_files, generated_files
from s4d.data.cache.recipe import CacheRecipe
from s4d.data.cache.write import CacheOptions, write_cache
from s4d.data.decode_torchcodec import refusal
from s4d.errors import UsageError

QUICK = Options(batch=4, seconds=0.01, rounds=1, workers=(0,))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Four clips of 3 s and images, 16 names each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile_files, "SECONDS", (3,) * 4)
        patch.setattr(profile_files, "PICTURES", 4)
        return generated_files(tmp_path_factory.mktemp("profile"), 16)


@pytest.fixture(scope="module")
def caches(files: Files, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("caches")
    for modality, manifest in files.distinct.items():
        recipe = CacheRecipe(short_side=192, frames="16x4")
        write_cache(manifest, folder / modality, recipe, CacheOptions(workers=0), lambda *_: None)
    return {modality: folder / modality for modality in files.distinct}


def test_the_plain_pipeline_gives_the_same_pixels(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_difference(files, QUICK) is None
    real = profile_data.PlainDataset.__getitem__
    monkeypatch.setattr(
        profile_data.PlainDataset, "__getitem__", lambda self, number: real(self, number) ^ (number == 2)
    )
    found = first_difference(files, QUICK)
    assert found is not None and "pixels differ" in found


def test_plain_samples_follow_the_order_and_draws_of_our_run(files: Files) -> None:
    setup = Setup(backend="plain", modality="video", crop="recipe", workers=0)
    samples = plain_samples(files, setup, QUICK, 4)
    assert len({sample.path for sample in samples}) == 16
    assert {sample.flip for sample in samples} == {False, True}
    assert all(len(sample.frames) == 16 for sample in samples)
    batch = next(plain_batches(samples, batch=4, workers=0))
    assert batch.shape == (4, 16, 160, 160, 3) and batch.dtype == torch.uint8


def test_every_setup_gets_a_row(files: Files, caches: dict[str, Path]) -> None:
    options = Options(batch=4, seconds=0.01, rounds=1, workers=(0,), caches=caches)
    rows = measure(files, options)
    assert len(rows) == len(setups(files, options)) == 14
    assert {row["backend"] for row in rows} == {"plain", "plain_tuned", "pyav", "cache"}
    assert all(row["samples_per_second"] > 0 for row in rows)
    assert [outcome["state"] for outcome in profile_goals.evaluate(rows)].count("absent") == 0
    assert all(row["crop"] == "recipe" for row in measure(files, QUICK))


def test_dali_is_timed_on_what_it_decodes(files: Files) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install 's4d-engine[dali-cu13]'")
    cpu = torch.device("cpu")
    refusal = refusal_of("dali", files, "video", cpu)
    assert refusal is not None and refusal.startswith("cannot decode h264 on a CPU")
    assert refusal_of("dali", files, "image", cpu) is None
    rows = measure(files, dataclasses.replace(QUICK, optional={"dali": ("image",)}))
    assert [row["modality"] for row in rows if row["backend"] == "dali"] == ["image"]
    assert all(row["samples_per_second"] > 0 for row in rows)


def test_torchcodec_is_timed_on_videos_where_it_can_be_used(files: Files) -> None:
    reason = refusal_of("torchcodec", files, "video", torch.device("cpu"))
    assert reason == refusal()
    if reason:
        pytest.skip(f"torchcodec {reason}")
    rows = measure(files, dataclasses.replace(QUICK, optional={"torchcodec": ("video",)}))
    assert [row["modality"] for row in rows if row["backend"] == "torchcodec"] == ["video"]


@pytest.mark.launch
def test_decoding_processes_are_measured_too(files: Files) -> None:
    for backend in ("plain", "pyav"):
        setup = Setup(backend=backend, modality="image", crop="recipe", workers=1)
        assert profile_data._rate(setup, files, QUICK) > 0


def test_the_split_names_every_stage(files: Files, caches: dict[str, Path]) -> None:
    options = Options(batch=4, seconds=0.01, rounds=1, caches=caches)
    decoded, cached = split("video", files, options), split("video", files, options, cached=True)
    assert decoded.keys() == set(profile_data.STAGES) and min(decoded.values()) > 0
    assert decoded["decode"] > decoded["transform"] and cached["decode"] < decoded["decode"]


def test_goals_compare_the_best_rows() -> None:
    def row(backend: str, workers: int, rate: float, crop: str = "recipe") -> dict[str, object]:
        return {
            "modality": "video",
            "backend": backend,
            "crop": crop,
            "workers": workers,
            "samples_per_second": rate,
        }

    rows = [row("plain", 0, 10), row("plain", 2, 20), row("pyav", 0, 29), row("pyav", 2, 25), row("cache", 0, 120)]
    clips, recipe, plain = profile_goals.evaluate(rows)
    assert (clips["value"], clips["state"]) == (1.45, "fail")
    assert (recipe["value"], recipe["state"]) == (6.0, "pass")
    assert "tuned" not in str(clips["detail"])
    tuned = profile_goals.evaluate([*rows, row("plain_tuned", 2, 25)])[0]
    assert tuned["value"] == 1.45 and "1.16x the tuned one" in str(tuned["detail"])
    assert (plain["value"], plain["state"]) == (None, "absent")


def test_waiting_is_a_share_of_all_time(files: Files) -> None:
    row = gpu_wait(files, torch.device("cpu"), workers=0, steps=1, case="tiny", views=1)
    assert 0 < row["wait_share"] < 1 and row["step_ms"] > 0


def test_a_folder_of_files_is_taken_as_it_is(files: Files, tmp_path: Path) -> None:
    media = files.manifests["video"].parent / "media"
    found = found_files(media, tmp_path / "made", 8)
    assert found.counts == {"video": 8, "image": 8}
    assert first_difference(found, QUICK) is None
    with pytest.raises(UsageError, match="--files: no such folder"):
        found_files(tmp_path / "gone", tmp_path, 8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="--files: no videos or images"):
        found_files(tmp_path / "empty", tmp_path, 8)


def test_too_few_files_are_told(files: Files) -> None:
    setup = Setup(backend="pyav", modality="image", crop="recipe", workers=0)
    with pytest.raises(UsageError, match="128 files are too few to time image samples by pyav, 0 processes"):
        profile_data._rate(setup, files, Options(batch=64, seconds=1000))
