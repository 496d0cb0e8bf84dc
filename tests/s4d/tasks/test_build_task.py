from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from s4d.config import Config
from s4d.data.loader import build_batches
from s4d.data.sources import load_source
from s4d.datasets.labels import ORDERS, numbering
from s4d.errors import UsageError
from s4d.models.description import check_description
from s4d.models.folder import write_folder
from s4d.tasks import TASKS, build_task
from s4d.tasks.finetune import FinetuneTask


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("batching", ["packed", "alternate"])
def test_every_task_trains_on_real_files(
    config_of: Callable[..., Config], manifests: Path, name: str, batching: str
) -> None:
    batch = {"per_step": {"faces": 2, "clips": 2}, "batching": batching}
    config = config_of(name, manifests=manifests, batch=batch, model={"drop_path": 0.2})
    task = build_task(config, rank=0, world_size=1, device=torch.device("cpu"))
    batches = build_batches(config, rank=0, world_size=1)
    steps = list(batches.steps(0))
    batches.close()
    assert len(steps) == 4
    for micro_batches in steps:
        statistics = task.begin_step(task.module, micro_batches)
        for batch_ in micro_batches:
            output = task.forward(task.module, batch_, statistics)
            output.loss.backward()
            assert math.isfinite(output.loss.item())
    assert all(parameter.grad is not None for parameter in task.module.parameters())


def test_heads_follow_the_manifests(config_of: Callable[..., Config], manifests: Path) -> None:
    task = build_task(config_of(manifests=manifests), rank=0, world_size=1, device=torch.device("cpu"))
    assert isinstance(task, FinetuneTask)
    assert task.classes == {"faces": ("a", "b", "c"), "clips": ("p", "q", "r", "s")}


def test_a_source_that_no_head_can_be_called_after(config_of: Callable[..., Config], manifests: Path) -> None:
    values = config_of(manifests=manifests).model_dump(mode="json")
    values["data"]["sources"][0]["name"] = "train"
    values["batch"]["per_step"] = {"train": 2, "clips": 2}
    with pytest.raises(UsageError, match=r"data\.sources: a head with such a name cannot be built: .*'train'"):
        build_task(Config.model_validate(values), rank=0, world_size=1, device=torch.device("cpu"))


def test_initial_weights(config_of: Callable[..., Config], manifests: Path, tmp_path: Path) -> None:
    device = torch.device("cpu")
    pretrain = build_task(config_of("pretrain", manifests=manifests, seed=7), rank=0, world_size=1, device=device)
    write_folder(tmp_path / "weights", pretrain.module.state_dict(), pretrain.describe())
    config = config_of(manifests=manifests, model={"init_from": str(tmp_path / "weights")})
    task = build_task(config, rank=0, world_size=1, device=device)
    taken = task.module.get_parameter("blocks.1.attn.qkv.weight")
    assert torch.equal(taken, pretrain.module.get_parameter("encoder.blocks.1.attn.qkv.weight"))


@pytest.mark.parametrize(
    ("backends", "named"),
    [({"attention": "nonsense"}, r"engine\.backends\.attention.*'nonsense'"), ({"atention": "sdpa"}, "'atention'")],
)
def test_unknown_backends(
    config_of: Callable[..., Config], manifests: Path, backends: dict[str, str], named: str
) -> None:
    config = config_of(manifests=manifests, engine={"steps": 1, "backends": backends})
    with pytest.raises(UsageError, match=named):
        build_task(config, rank=0, world_size=1, device=torch.device("cpu"))


def test_ranks_start_equal(config_of: Callable[..., Config], manifests: Path) -> None:
    config = config_of(manifests=manifests)
    tasks = [build_task(config, rank=rank, world_size=2, device=torch.device("cpu")) for rank in range(2)]
    states = [task.module.state_dict() for task in tasks]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_checkpoint_says_where_its_weights_come_from(config_of: Callable[..., Config], manifests: Path) -> None:
    config = config_of(manifests=manifests, evaluation={"protocol": "release"})
    task = build_task(config, rank=0, world_size=1, device=torch.device("cpu"))
    described = check_description(Path("config.json"), json.loads(json.dumps(task.describe())))
    faces, rows = described.data["faces"], load_source(config, "faces", "train")
    assert (faces.manifest_sha256, faces.samples, faces.modality) == (rows.fingerprint, len(rows.rows), "image")
    assert described.labels["clips"].index == {"p": 0, "q": 1, "r": 2, "s": 3}
    assert (described.labels["clips"].stated_in, described.labels["clips"].public_orders) == ("the manifest", [])
    assert described.training is not None and described.training.views_per_step == config.batch.per_step
    assert described.metrics is None and described.format == 1
    scores = task.evaluate(task.module, "val")
    metrics = check_description(Path("config.json"), json.loads(json.dumps(task.describe()))).metrics
    assert metrics is not None and (metrics.protocol, metrics.split) == ("release", "test")
    assert {f"{name}.uar": found.uar for name, found in metrics.sources.items()}.items() <= scores.items()
    assert metrics.sources["clips"].samples == len(load_source(config, "clips", "test").rows)


def test_a_pretrained_checkpoint_says_it_too(config_of: Callable[..., Config], manifests: Path) -> None:
    task = build_task(config_of("pretrain", manifests=manifests), rank=0, world_size=1, device=torch.device("cpu"))
    described = check_description(Path("config.json"), json.loads(json.dumps(task.describe())))
    assert set(described.data) == set(described.inputs) == {"faces", "clips"} and not described.labels
    assert described.training is not None and described.training.mode is None


def test_the_order_of_classes_says_what_it_is_equal_to() -> None:
    order = ORDERS["dfew"]["mae-dfer"]
    assert numbering(order, "the manifest", "dfew")["public_orders"] == ["s4d", "mae-dfer", "dfer-clip"]
    assert numbering(order[::-1], "the manifest", "dfew")["public_orders"] == []
    assert numbering(order, "the manifest")["dataset"] is None
