"""What a batch says of each of its sequences, whatever batch they came in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from s4d.data.batch import PackedBatch

Record = tuple[Any, ...]


def packed_records(batch: PackedBatch) -> Iterator[Record]:
    """What a batch says of each of its sequences, pixels apart; positions are counted within the sequence."""
    targets = {
        int(at): (head.head, tuple(row.tolist()))
        for head in batch.heads
        for at, row in zip(head.sequences, head.targets, strict=True)
    }
    borders, masked = batch.cu_seqlens.tolist(), batch.masked_indices.numpy()
    place = 0
    for group in batch.groups:
        for inner, sample in enumerate(group.sample_ids):
            inside = masked[(masked >= borders[place]) & (masked < borders[place + 1])] - borders[place]
            mix, erase = group.mix, group.erase
            yield (
                sample,
                tuple(batch.layer_keys.tolist()),
                tuple(sorted(batch.step_samples.items())),
                int(batch.noise_keys[place]),
                tuple(inside.tolist()),
                targets.get(place),
                None if mix is None else float(mix.lam[inner]),
                None if mix is None or mix.box is None else _box(mix.box[inner]),
                None if erase is None else _box(erase.box[inner]),
                None if batch.drop_path_keep is None else tuple(batch.drop_path_keep[:, place].tolist()),
            )
            place += 1


def _box(values: Any) -> tuple[int, ...] | None:
    """A batch in which only others have a box fills in an empty one."""
    box = tuple(int(value) for value in values)
    return box if any(box) else None


def pixel_records(batch: PackedBatch) -> list[Record]:
    """Modality, sample, what was drawn and the pixels of each sequence."""
    pixels = [(group.modality, each.numpy().tobytes()) for group in batch.groups for each in group.pixels]
    return [(name, record, data) for (name, data), record in zip(pixels, packed_records(batch), strict=True)]
