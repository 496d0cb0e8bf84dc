from __future__ import annotations

import threading
from collections.abc import Callable, Generator

import pytest
import torch
from torch import Tensor

from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.data.batch_store import store_batch
from s4d.data.loader import build_batches
from s4d.data.micro_batches import Built
from s4d.data.upload import uploaded

CPU = torch.device("cpu")


def test_order_errors_and_the_end(batch_of: Callable[..., PackedBatch]) -> None:
    closed = []

    def numbers() -> Generator[int, None, None]:
        try:
            yield from range(5)
        finally:
            closed.append(True)

    def work(number: int) -> Built:
        if number == 3:
            raise ValueError("three")
        return batch_of(images=range(number + 1)), ()

    batches = uploaded(numbers(), work, CPU)
    assert [batch.groups[0].pixels.shape[0] for batch, _ in (next(batches) for _ in range(3))] == [1, 2, 3]
    with pytest.raises(ValueError, match="three"):
        next(batches)
    assert closed and not [thread for thread in threading.enumerate() if thread.name == "s4d-stage"]


def test_every_tensor_is_reached(batch_of: Callable[..., PackedBatch]) -> None:
    batch = batch_of(drop_path=0.5)
    seen: list[Tensor] = []
    same = batch.apply(lambda tensor: seen.append(tensor) or tensor)
    stored, record = store_batch(batch)
    assert {id(tensor) for tensor in seen} == {id(tensor) for tensor in stored.values()}
    assert store_batch(same)[1] == record


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_on_a_gpu_are_those_of_the_cpu(finetune_config: Callable[..., Config], workers: int) -> None:
    config = finetune_config(data={"backend": "pyav", "workers": workers})
    device = torch.device("cuda", 0)
    found, wanted = build_batches(config, 0, 1, device), build_batches(config, 0, 1)
    for [mine], [other] in zip(found.steps(0), wanted.steps(0), strict=True):
        tensors, _ = store_batch(mine)
        expected, _ = store_batch(other)
        assert {tensor.device for tensor in tensors.values()} == {device}
        assert all(torch.equal(tensor.cpu(), expected[name]) for name, tensor in tensors.items())
    found.close()
    wanted.close()
