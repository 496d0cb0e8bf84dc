"""Batches decoded by DALI: the samples, substitutes and draws of other backends, in workers and in a stage behind."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from s4d.config import Config
from s4d.data import loader
from s4d.data.batch import PackedBatch
from s4d.data.loader import build_batches
from s4d.data.plan import build_plan
from s4d.data.trial import try_backend
from s4d.data.workers import in_order
from s4d.errors import DataError, UsageError

pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install 's4d-engine[dali-cu13]'")

from s4d.data.dali import decoder
from s4d.data.dali.drafts import Drafts
from s4d.data.dali.finish import Finisher, finished

MakeConfig = Callable[..., Config]
COLORS = {"color_jitter": 0.4, "randaug_ops": 2, "interpolation": "random"}


def steps_of(config: Config, start: int = 0) -> list[PackedBatch]:
    batches = build_batches(config, 0, 1)
    try:
        return [batch for [batch] in batches.steps(start)]
    finally:
        batches.close()


def staged_steps(config: Config) -> Iterator[PackedBatch]:
    """As on a GPU, drafts from the workers and pixels behind them, but on the CPU."""
    drafts = Drafts(config, build_plan(config, world_size=1), 0, on_cpu=True)
    stream = in_order(drafts, range(config.engine.steps or 0), config.data.workers)
    return (batch for batch, _ in finished(stream, Finisher(drafts, torch.device("cpu"))))


def described(batch: PackedBatch) -> list[object]:
    """Everything but pixels that depends on which samples are read and what is drawn for them."""
    ids = [group.sample_ids for group in batch.groups]
    return [ids, batch.noise_keys.tolist(), batch.visible_indices.tolist(), batch.step_samples, batch.layout]


def pixels_of(batch: PackedBatch) -> list[torch.Tensor]:
    return [group.pixels for group in batch.groups]


def test_batches_are_those_of_the_other_backend(vp9_config: MakeConfig) -> None:
    dali, pyav = steps_of(vp9_config()), steps_of(vp9_config(backend="pyav"))
    assert len(dali) == 4
    for mine, other in zip(dali, pyav, strict=True):
        assert described(mine) == described(other)
        for got, wanted in zip(pixels_of(mine), pixels_of(other), strict=True):
            # Bounds of pixels are in the parity test; here a wrong frame, crop, flip or place would be far off.
            assert (got.int() - wanted.int()).abs().double().mean() < 9
            assert got.double().std() > 20


def test_colours_are_drawn_as_for_the_other_backend(vp9_config: MakeConfig) -> None:
    changes = {"image": COLORS, "video": COLORS}
    plain = steps_of(vp9_config())
    for mine, other, bare in zip(
        steps_of(vp9_config(**changes)), steps_of(vp9_config(backend="pyav", **changes)), plain, strict=True
    ):
        for got, wanted, without in zip(pixels_of(mine), pixels_of(other), pixels_of(bare), strict=True):
            near = (got.int() - wanted.int()).abs().double().mean()
            far = (got.int() - without.int()).abs().double().mean()
            assert near < 12
            assert far > 2 * near


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_does_not_depend_on_who_makes_it(vp9_config: MakeConfig, workers: int) -> None:
    here = steps_of(vp9_config(image=COLORS))
    config = vp9_config(image=COLORS, workers=workers)
    for others in (steps_of(config), list(staged_steps(config))):
        for mine, other in zip(here, others, strict=True):
            assert described(mine) == described(other)
            assert all(map(torch.equal, pixels_of(mine), pixels_of(other)))


def test_frame_folders_are_decoded_file_by_file(finetune_config: MakeConfig) -> None:
    dali, pyav = steps_of(finetune_config(data={"backend": "dali"})), steps_of(finetune_config())
    for mine, other in zip(dali, pyav, strict=True):
        assert described(mine) == described(other)
        assert [head.targets.tolist() for head in mine.heads] == [head.targets.tolist() for head in other.heads]
        for got, wanted in zip(pixels_of(mine), pixels_of(other), strict=True):
            assert (got.int() - wanted.int()).abs().double().mean() < 1


@pytest.fixture
def damaged(vp9_tree: Path, tmp_path: Path) -> Path:
    """The media with an image and a clip whose headers are whole and whose content is not, and two files cut short."""
    root = tmp_path / "damaged"
    shutil.copytree(vp9_tree, root)
    for name in ("images", "vp9"):
        path = root / f"{name}.csv"
        path.write_text(path.read_text().replace(str(vp9_tree), str(root)))
    image = root / "images/i03.jpg"
    image.write_bytes(image.read_bytes()[:-30])
    (root / "images/i05.jpg").write_bytes(b"")
    clip = bytearray((root / "vp9/w1.webm").read_bytes())
    for place in range(600, len(clip) - 10, 3):
        clip[place] ^= 0x5A
    (root / "vp9/w1.webm").write_bytes(bytes(clip))
    whole = (root / "vp9/w4.webm").read_bytes()
    (root / "vp9/w4.webm").write_bytes(whole[:200])
    return root


@pytest.mark.parametrize("at_once", [1, 8])
def test_undecodable_files_are_replaced_as_by_the_other_backend(
    vp9_config: MakeConfig,
    damaged: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
) -> None:
    monkeypatch.setattr(decoder.Decoder, "_at_once", lambda self, shape: at_once)
    told = {}
    found = {}
    for backend in ("dali", "pyav"):
        caplog.clear()
        batches = build_batches(vp9_config(damaged, 9, backend=backend, on_error="skip"), 0, 1)
        with caplog.at_level(logging.WARNING):
            found[backend] = [described(batch) for [batch] in batches.steps(0)]
        told[backend] = (
            batches.counters(),
            sorted(
                record.getMessage().partition(":")[0]
                for record in caplog.records
                if "replaced by" in record.getMessage()
            ),
        )
    assert found["dali"] == found["pyav"]
    assert told["dali"] == told["pyav"]
    assert [Path(name).name for name in told["dali"][1]] == ["i03.jpg", "i05.jpg", "w1.webm", "w4.webm"]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_undecodable_file_stops_the_run_by_default(vp9_config: MakeConfig, damaged: Path, workers: int) -> None:
    for name in ("images/i05.jpg", "vp9/w4.webm"):
        shutil.copyfile(damaged / name.replace("5", "6").replace("w4", "w2"), damaged / name)
    config = vp9_config(damaged, 9, workers=workers)
    with pytest.raises(DataError, match=r"(i03\.jpg|w1\.webm): cannot decode: .*\(DALI\)$") as caught:
        steps_of(config)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"(i03\.jpg|w1\.webm): cannot decode: .*\(DALI\)$"):
        list(staged_steps(config))


def test_codecs_of_the_gpu_are_refused_on_a_cpu_before_the_run_starts(
    pretrain_config: MakeConfig, media_tree: Path
) -> None:
    with pytest.raises(
        UsageError, match=r"^data\.backend: dali: cannot decode h264 on a CPU \(.*/v\d\.mp4\); use pyav"
    ):
        build_batches(pretrain_config(data={"backend": "dali"}), 0, 1)
    config = pretrain_config()
    tried = try_backend("dali", config, build_plan(config, world_size=1), 0, torch.device("cpu"))
    assert tried.refusal is not None and tried.refusal.startswith("cannot decode h264 on a CPU")
    # A run that is stopped on a GPU and continued on a CPU meets the file in a decoding process.
    with pytest.raises(UsageError, match=r"^data\.backend: dali: cannot decode h264 on a CPU"):
        Drafts(config, build_plan(config, world_size=1), 0, on_cpu=True)[0]


def test_a_failure_of_the_machine_is_no_files_fault(vp9_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def feed_input(self, name: str, data: object) -> None:
            pass

        def run(self) -> None:
            raise RuntimeError("encountered:\n\nCUDA allocation failed\nCurrent pipeline object is no longer valid.")

    batches = build_batches(vp9_config(on_error="skip"), 0, 1)
    monkeypatch.setattr(decoder, "build_pipeline", lambda *_: Broken())
    with pytest.raises(DataError, match=r"^data\.backend: dali failed: CUDA allocation failed"):
        list(batches.steps(0))


def test_closing_a_staged_stream_ends_its_thread(vp9_config: MakeConfig) -> None:
    before = set(threading.enumerate())
    stream = staged_steps(vp9_config(workers=1, video={"crop": "center"}))
    next(stream)
    assert [thread for thread in threading.enumerate() if thread.name == "s4d-stage"]
    stream.close()
    del stream
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "s4d-stage"]


def test_training_batches_on_a_gpu_would_be_staged(vp9_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same call as on a CPU, with a device that is none: drafts go to a finisher for that device."""
    seen = []

    def recorded(stream: object, finisher: Finisher) -> Iterator[object]:
        seen.append(finisher.device)
        return (number for number in ())

    monkeypatch.setattr("s4d.data.dali.finish.finished", recorded)
    config = vp9_config()
    batches = loader.TrainBatches(config, build_plan(config, world_size=1), 0, torch.device("cuda", 0))
    with pytest.raises(RuntimeError, match="StopIteration"):
        next(batches.steps(0))
    assert seen == [torch.device("cuda", 0)]
