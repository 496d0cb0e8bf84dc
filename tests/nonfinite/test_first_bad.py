"""The search for the first bad tensor and the dump of a step, on small models without ranks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_fakes import FEATURES, TinyBatch, TinyTask

from engine.errors import DumpError
from engine.first_bad import Search, listed
from engine.step_dump import MOST_DUMPS, has_room, read_dump, write_dump

NAN = float("nan")


def batch(rows: int = 4) -> TinyBatch:
    return TinyBatch(
        x=torch.ones(rows, FEATURES), y=torch.zeros(rows, 3), sample_ids=tuple(f"{row}.jpg" for row in range(rows))
    )


def searched(task: TinyTask, *batches: TinyBatch) -> str:
    found = Search(task, task.module, batches).run(scale=1.0, agree=lambda good: good)
    assert found is not None
    assert all(value.grad is None for value in task.module.parameters())
    return found.text + " (guess)" * found.is_guess


def test_the_first_of_many_is_named() -> None:
    bad = batch()
    bad.x[2, 1] = float("inf")
    assert searched(TinyTask(), batch(), bad) == "input x (sample ids 2.jpg)"


def test_weights_come_before_what_they_spoil() -> None:
    task = TinyTask()
    task.module.get_parameter("norm.weight").data[0] = NAN
    assert searched(task, batch()) == "weight norm.weight"


def test_the_inner_module_is_named_and_its_sample() -> None:
    task = TinyTask()

    def spoil(module: object, inputs: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[1] = NAN
        return output

    task.module.get_submodule("head.linear").register_forward_hook(spoil)
    assert searched(task, batch()) == "output of head.linear (sample ids 1.jpg)"


def test_gradients_are_named_in_the_order_in_which_they_come() -> None:
    task = TinyTask()
    for name in ("stem.weight", "norm.bias"):
        task.module.get_parameter(name).register_hook(lambda gradient: gradient * NAN)
    assert searched(task, batch()) == "gradient of norm.bias (sample ids 0.jpg, 1.jpg, 2.jpg, 3.jpg)"


def test_finite_gradients_of_a_norm_that_is_not_are_a_guess() -> None:
    task = TinyTask()
    task.module.get_parameter("stem.bias").register_hook(lambda gradient: torch.full_like(gradient, 1e30))
    assert searched(task, batch()).endswith("the largest value is 1.0e+30 in stem.bias (guess)")


def test_names_stay_one_line() -> None:
    assert listed(["a\nb.jpg", *map(str, range(20))]) == "a\\nb.jpg, 0, 1, 2, 3, 4, 5, 6 and 13 more"


def save_config(path: Path) -> None:
    path.write_text("name: tiny\n")


def test_a_dump_is_read_back_whole_and_never_seen_in_halves(tmp_path: Path) -> None:
    target = tmp_path / "nonfinite" / "step-00000003-rank1"
    kept = batch()
    kept.x[0, 0] = NAN
    weights = {"w": torch.tensor([1.0, NAN])}
    write_dump(target, {"step": 3}, weights=weights, batches=[kept], save_config=save_config)
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    dump = read_dump(target)
    assert dump.record["step"] == 3 and dump.config.read_text() == "name: tiny\n"
    assert torch.equal(dump.weights["w"], weights["w"]) or bool(dump.weights["w"][1].isnan())
    tensors, rest = dump.batches[0]
    assert bool(tensors["x"][0, 0].isnan()) and torch.equal(tensors["y"], kept.y)
    assert tuple(rest["sample_ids"]) == kept.sample_ids

    def refuse(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    with pytest.raises(OSError, match="No space"):
        write_dump(target.with_name("step-00000004-rank1"), {}, weights={}, batches=[], save_config=refuse)
    assert os.listdir(target.parent) == [target.name]


def test_dumps_are_limited_in_number(tmp_path: Path) -> None:
    for number in range(MOST_DUMPS):
        name = f"step-{number:08d}-rank0"
        assert has_room(tmp_path, name)
        (tmp_path / name).mkdir()
        assert not has_room(tmp_path, name), "a step that is met again is not kept again"
    assert not has_room(tmp_path, "step-00000099-rank0")


@pytest.mark.parametrize("damage", ["record", "weights", "absent"])
def test_a_damaged_dump_is_one_error(tmp_path: Path, damage: str) -> None:
    target = tmp_path / "step-00000003-rank0"
    write_dump(target, {"step": 3}, weights={"w": torch.ones(2)}, batches=[batch()], save_config=save_config)
    if damage == "record":
        (target / "step.json").write_text("[]")
    elif damage == "weights":
        (target / "weights.safetensors").write_bytes(b"\x08")
    else:
        (target / "batch-0.safetensors").unlink()
    with pytest.raises(DumpError, match="step-00000003-rank0"):
        read_dump(target)


def test_a_stored_batch_comes_back(tmp_path: Path, real_batch: Any) -> None:
    from s4d.data.batch_store import restore_batch, store_batch
    from s4d.errors import DataError

    tensors, rest = store_batch(real_batch)
    again = restore_batch(tensors, rest)
    assert again.sample_ids == real_batch.sample_ids and again.layout == real_batch.layout
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(again.groups, real_batch.groups, strict=True))
    assert store_batch(again)[1] == rest
    del tensors["batch.positions"]
    with pytest.raises(DataError, match="stored batch"):
        restore_batch(tensors, rest)


def test_rows_belong_to_samples(real_batch: Any) -> None:
    borders = real_batch.cu_seqlens
    owners = real_batch.row_owners(int(borders[-1]))
    assert owners.bincount().tolist() == borders.diff().tolist()
    masked = real_batch.row_owners(real_batch.masked_indices.numel())
    for index, owner in zip(real_batch.masked_indices.tolist(), masked.tolist(), strict=True):
        assert borders[owner] <= index < borders[owner + 1]
    assert real_batch.row_owners(real_batch.num_sequences).tolist() == list(range(real_batch.num_sequences))
    assert real_batch.row_owners(int(borders[-1]) + 1) is None
