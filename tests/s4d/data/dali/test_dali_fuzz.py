"""Mutated files beside a whole one in the same batch of DALI: no crash, bad ones named, the whole one untouched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from s4d.data.draws import SampleDraw
from s4d.data.media import open_media
from s4d.errors import DataError

pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install 's4d-engine[dali-cu13]'")

from s4d.data.dali.decoder import Decoder
from s4d.data.dali.files import ByteStore, EncodedFile, image_cuts, video_cuts

SIZE = 32


def draw_of(indices: tuple[int, ...]) -> SampleDraw:
    return SampleDraw(
        frame_indices=indices,
        resized=(64, 48),
        crop_box=(4.0, 4.0, 50.0, 40.0),
        flip=False,
        interpolation="bilinear",
        jitter=None,
        color_ops=(),
        erase_box=None,
        mask_seed=0,
        noise_key=0,
    )


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, overwritten in a row, taken out, or the end cut off."""
    data = bytearray(content)
    place, length = int(rng.integers(len(data))), int(rng.integers(1, 300))
    kind = rng.integers(4)
    if kind == 0:
        for _ in range(int(rng.integers(1, 30))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
    elif kind == 1:
        data[place : place + length] = rng.bytes(length)
    elif kind == 2:
        del data[place : place + length]
    else:
        del data[place + 1 :]
    return bytes(data)


def decode(decoder: Decoder, paths: list[Path], indices: tuple[int, ...]) -> tuple[torch.Tensor, dict[int, str]]:
    """Pixels of one view of each file, and what is wrong with which."""
    store, files, draw = ByteStore(), [], draw_of(indices)
    for row, path in enumerate(paths):
        begin, end = store.add(path)
        if path.suffix == ".webm":
            frames, cuts = video_cuts([draw], "video", range(row, row + 1))
        else:
            frames, cuts = (), image_cuts([draw], "video", range(row, row + 1))[0]
        files.append(
            EncodedFile(sample=(0, row), path=path, video=bool(frames), begin=begin, end=end, frames=frames, cuts=cuts)
        )
    pixels = torch.zeros((len(paths), len(indices), SIZE, SIZE, 3), dtype=torch.uint8)
    problems = decoder.fill(files, store.join(), {"video": pixels})
    return pixels, {row: problem for (_, row), problem in problems.items()}


def run(tree: Path, folder: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a GPU: several files at once, of which DALI fails all or none.
    monkeypatch.setattr(Decoder, "_at_once", lambda self, shape: 4)
    decoder, refused = Decoder(torch.device("cpu"), SIZE), 0
    for kind, indices in (("image", (0,)), ("video", (0, 3, 6, 9))):
        whole = tree / ("images/i01.jpg" if kind == "image" else "vp9/w1.webm")
        alone, problems = decode(decoder, [whole], indices)
        assert not problems
        rng = np.random.default_rng(7)
        for number in range(count):
            path = folder / f"{kind}{number}{whole.suffix}"
            path.write_bytes(mutated(whole.read_bytes(), rng))
            try:
                if open_media(path, kind).frame_count <= max(indices):
                    continue
            except DataError:
                continue
            pixels, problems = decode(decoder, [whole, path, whole], indices)
            assert set(problems) <= {1}, number
            assert torch.equal(pixels[0], alone[0])
            assert torch.equal(pixels[2], alone[0])
            for line in problems.values():
                refused += 1
                assert line.startswith(f"{path}: cannot decode: ")
                assert "\n" not in line
    assert refused > count // 10


def test_a_few(vp9_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(vp9_tree, tmp_path, 30, monkeypatch)


@pytest.mark.deep
def test_many(vp9_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(vp9_tree, tmp_path, 1000, monkeypatch)
