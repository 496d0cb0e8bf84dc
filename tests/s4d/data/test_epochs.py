"""An epoch visits every sample exactly once, on any number of ranks and every backend, and again after a resumption."""

from __future__ import annotations

import dataclasses
import importlib.util
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.data.cache.recipe import CacheRecipe
from s4d.data.cache.write import CacheOptions, write_cache
from s4d.data.decode_torchcodec import refusal
from s4d.data.loader import TrainBatches
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import Manifest, write_manifest
from s4d.data.micro_batches import Built
from s4d.data.plan import build_plan
from s4d.data.sources import load_sources
from s4d.data.workers import in_order

SAMPLES = {"images": 24, "clips": 12, "folders": 12}
MODALITY = {"images": "image", "clips": "video", "folders": "video"}
VIEWS = {"images": 1, "clips": 2, "folders": 2}
STEPS_AN_EPOCH, STEPS = 2, 3
CPU = torch.device("cpu")
NEEDS_DALI = pytest.mark.skipif(
    importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None,
    reason="DALI is not installed: pip install 's4d-engine[dali-cu13]'",
)
NEEDS_TORCHCODEC = pytest.mark.skipif(refusal() is not None, reason=f"torchcodec {refusal()}")


class Staged(TrainBatches):
    """Decoded behind the workers, as on a GPU, by DALI's CPU operators."""

    def _stream_of(self, indices: Sequence[int]) -> Generator[Built, None, None]:
        from s4d.data.dali.drafts import Drafts
        from s4d.data.dali.finish import Finisher, finished

        drafts = Drafts(self.config, self.plan, self.rank, on_cpu=True)
        return finished(in_order(drafts, indices, 0), Finisher(drafts, CPU))


# The backend a run is configured with, and what makes its batches; `cache` reads decoded frames of every source.
BACKENDS = [
    pytest.param("pyav", TrainBatches, id="pyav"),
    pytest.param("dali", TrainBatches, id="dali", marks=NEEDS_DALI),
    pytest.param("dali", Staged, id="dali-staged", marks=NEEDS_DALI),
    pytest.param("torchcodec", TrainBatches, id="torchcodec", marks=NEEDS_TORCHCODEC),
    pytest.param("cache", TrainBatches, id="cache"),
]


@pytest.fixture(scope="module")
def epoch_tree(
    tmp_path_factory: pytest.TempPathFactory, write_vp9: Callable[..., Path], picture_of: Callable[..., np.ndarray]
) -> Path:
    """Images, VP9 clips and frame folders with a manifest of each, and a cache of each in cache/."""
    root = tmp_path_factory.mktemp("epochs")
    rows: dict[str, list[ManifestRow]] = {name: [] for name in SAMPLES}

    def add(name: str, path: str, kind: str) -> Path:
        sample_id = Path(path).stem
        rows[name].append(
            ManifestRow(sample_id=sample_id, path=path, kind=kind, dataset="made", split="train")  # type: ignore[arg-type]
        )
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        return root / path

    for i in range(SAMPLES["images"]):
        Image.fromarray(picture_of(i)).save(add("images", f"images/i{i:02d}.jpg", "image"))
    for i in range(SAMPLES["clips"]):
        write_vp9(add("clips", f"clips/c{i:02d}.webm", "video"), [picture_of(10 * i + k) for k in range(6)])
    for i in range(SAMPLES["folders"]):
        folder = add("folders", f"folders/f{i:02d}", "frames")
        folder.mkdir()
        for k in range(3):
            Image.fromarray(picture_of(100 * i + k)).save(folder / f"{k}.jpg")
    for name, its_rows in rows.items():
        path = root / f"{name}.csv"
        write_manifest(Manifest(rows=tuple(its_rows), root=root, dataset=name, classes=(), fingerprint=""), path)
        options = CacheOptions(workers=0)
        write_cache(path, root / "cache" / name, CacheRecipe(short_side=48), options, lambda *told: None)
    return root


def config_of(root: Path, backend: str) -> Config:
    from_cache = backend == "cache"
    sources = [
        {
            "name": name,
            "modality": modality,
            "manifest": str(root / f"{name}.csv"),
            "views": VIEWS[name],
            "stride": 1,
            "cache": str(root / "cache" / name) if from_cache else None,
        }
        for name, modality in MODALITY.items()
    ]
    values = {
        "name": "made",
        "run_dir": "runs/made",
        "task": "pretrain",
        "model": {"size": "tiny", "image_size": 32, "num_frames": 4},
        "data": {"sources": sources, "workers": 0, "backend": "auto" if from_cache else backend},
        "batch": {"per_step": {name: SAMPLES[name] * VIEWS[name] // STEPS_AN_EPOCH for name in SAMPLES}},
        "optim": {"lr": 1e-3},
        "engine": {"steps": STEPS},
    }
    values["data"]["video"] = {"color_jitter": 0.3, "randaug_ops": 1}  # type: ignore[index]
    return Config.model_validate(values)


def steps_of(
    make: type[TrainBatches], config: Config, rank: int, world_size: int, start: int = 0
) -> list[list[PackedBatch]]:
    batches = make(config, build_plan(config, world_size=world_size), rank)
    try:
        return list(batches.steps(start))
    finally:
        batches.close()


def plain(record: object) -> object:
    """A batch in values that == compares, tensors as their bytes."""
    if isinstance(record, torch.Tensor):
        return record.dtype, tuple(record.shape), record.contiguous().numpy().tobytes()
    if dataclasses.is_dataclass(record):
        return {field.name: plain(getattr(record, field.name)) for field in dataclasses.fields(record)}
    return [plain(item) for item in record] if isinstance(record, tuple | list) else record


def ids_of(steps: list[list[PackedBatch]]) -> Counter[str]:
    return Counter(
        sample_id for step in steps for batch in step for group in batch.groups for sample_id in group.sample_ids
    )


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize(("backend", "make"), BACKENDS)
def test_an_epoch_visits_every_sample_once_and_again_after_a_resumption(
    epoch_tree: Path, backend: str, make: type[TrainBatches], world_size: int
) -> None:
    config = config_of(epoch_tree, backend)
    expected = Counter(
        {row.sample_id: VIEWS[source.config.name] for source in load_sources(config) for row in source.rows}
    )
    assert len(expected) == sum(SAMPLES.values())
    ranks = [steps_of(make, config, rank, world_size) for rank in range(world_size)]
    visited: Counter[str] = Counter()
    for steps in ranks:
        visited += ids_of(steps[:STEPS_AN_EPOCH])
    assert visited == expected
    # In the middle of the first epoch, and on into the second.
    for rank, steps in enumerate(ranks):
        assert plain(steps_of(make, config, rank, world_size, start=1)) == plain(steps[1:])
    assert not [thread for thread in threading.enumerate() if thread.name == "s4d-stage"]
    # Ranks share the batch of one process, whatever decodes it.
    alone = make(config, build_plan(config, world_size=1), 0)
    [whole] = next(iter(alone.steps(0)))
    alone.close()
    parts = torch.cat(
        [steps[0][0].groups[1].pixels[: len(whole.groups[1].pixels) // 2 // world_size] for steps in ranks]
    )
    assert torch.equal(parts, whole.groups[1].pixels[: len(parts)])
