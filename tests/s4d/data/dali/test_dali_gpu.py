"""DALI on a GPU: H.264 by NVDEC and JPEG beside PyAV and Pillow, pixels that stay on the device, measured trials."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.data.loader import build_batches

pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install 's4d-engine[dali-cu13]'")
pytestmark = pytest.mark.gpu

MakeConfig = Callable[..., Config]
GPU = torch.device("cuda", 0)
COLORS = {"color_jitter": 0.4, "randaug_ops": 2, "interpolation": "random"}


def steps_of(config: Config, device: torch.device) -> list[PackedBatch]:
    batches = build_batches(config, 0, 1, device)
    try:
        return [batch for [batch] in batches.steps(0)]
    finally:
        batches.close()


@pytest.mark.parametrize("colors", [{}, COLORS], ids=["plain", "colours"])
@pytest.mark.parametrize("workers", [0, 1])
def test_h264_and_jpeg_batches_are_those_of_the_cpu(
    pretrain_config: MakeConfig, workers: int, colors: dict[str, object]
) -> None:
    changes = {"image": colors, "video": colors, "workers": workers}
    here = steps_of(pretrain_config(data={"backend": "pyav", **changes}), torch.device("cpu"))
    there = steps_of(pretrain_config(data={"backend": "dali", **changes}), GPU)
    for mine, other in zip(there, here, strict=True):
        assert torch.equal(mine.noise_keys, other.noise_keys)
        for got, wanted in zip(mine.groups, other.groups, strict=True):
            assert got.sample_ids == wanted.sample_ids
            assert got.pixels.device == GPU
            # Smooth pictures; another frame, crop or flip would be tens of levels off.
            assert (got.pixels.cpu().int() - wanted.pixels.int()).abs().double().mean() < (12 if colors else 6)
        moved = mine.to(GPU)
        for got, again in zip(mine.groups, moved.groups, strict=True):
            assert got.pixels.data_ptr() == again.pixels.data_ptr()
    assert not [thread for thread in threading.enumerate() if thread.name == "s4d-stage"]


def test_batches_are_equal_when_made_again(pretrain_config: MakeConfig) -> None:
    config = pretrain_config(data={"backend": "dali"})
    for first, second in zip(steps_of(config, GPU), steps_of(config, GPU), strict=True):
        for one, other in zip(first.groups, second.groups, strict=True):
            assert torch.equal(one.pixels, other.pixels)


def test_a_damaged_clip_neither_ends_a_run_nor_shortens_it(
    pretrain_config: MakeConfig, media_tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "videos").mkdir()
    for path in (media_tree / "videos").iterdir():
        content = bytearray(path.read_bytes())
        if path.name == "v1.mp4":
            # The index at the end is whole, all of the pictures are not.
            begin = content.index(b"mdat") + 4
            content[begin : begin + 2000] = bytes(2000)
        (tmp_path / "videos" / path.name).write_bytes(bytes(content))
    manifest = tmp_path / "videos.csv"
    manifest.write_text((media_tree / "videos.csv").read_text().replace(str(media_tree), str(tmp_path)))
    config = pretrain_config(data={"backend": "dali", "on_error": "skip"})
    sources = [
        source.model_copy(update={"manifest": str(manifest)}) if source.name == "videos" else source
        for source in config.data.sources
    ]
    config = config.model_copy(update={"data": config.data.model_copy(update={"sources": sources})})
    batches = build_batches(config, 0, 1, GPU)
    # NVDEC may hide damage, so the clip need not be refused.
    assert [batch.num_sequences for [batch] in batches.steps(0)] == [8] * 7


def test_auto_measures_both_backends(pretrain_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    batches = build_batches(pretrain_config(), 0, 1, GPU)
    with caplog.at_level(logging.INFO):
        next(iter(batches.steps(0)))
    batches.close()
    assert batches.choices()["data.backend"] in ("pyav", "dali")
    [line] = [record.getMessage() for record in caplog.records if "auto is" in record.getMessage()]
    assert "pyav " in line
    assert "dali " in line
    assert line.count("views/s") == 2
