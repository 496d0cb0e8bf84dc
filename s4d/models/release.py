"""The released checkpoints: names, safe reading and import into a model folder of ours.

Released names differ from ours in the experts only, which are stacked here, one tensor per layer and kind.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import s4d
from s4d.data.batch import MODALITIES
from s4d.datasets.labels import numbering
from s4d.errors import DataError, UsageError
from s4d.models.card import model_card
from s4d.models.description import FORMAT
from s4d.models.fit import expected_shapes, refuse_lying_sizes, refuse_other_shapes, shapes_of
from s4d.models.folder import read_tensor_file, refuse_not_finite, write_folder
from s4d.models.foreign.assumed import assumed_inputs, note_on_inputs
from s4d.models.foreign.isolated import find_shards, read_isolated
from s4d.models.keys import KeyReport
from s4d.models.sizes import SIZES, Architecture, MoaeArchitecture

ROUTER = re.compile(r"blocks\.(\d+)\.moe_layer\.router\.(topkroute|noise)_linear\.(weight|bias)")
EXPERT = re.compile(r"blocks\.(\d+)\.moe_layer\.experts\.(\d+)\.(fc1|fc2)\.(weight|bias)")
ROUTER_OF_OURS = re.compile(r"blocks\.(\d+)\.moae\.(router|noise)_(weight|bias)")
EXPERT_OF_OURS = re.compile(r"blocks\.(\d+)\.moae\.(fc1|fc2)_(weight|bias)")
HEAD = re.compile(r"head\.([^.]+)\.(weight|bias)")

# Settings of the released fine-tuning that no tensor shows.
RELEASED_TOP_K = 2
RELEASED_CAPACITY = 1.0
WEIGHT_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def from_release(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str], dict[str, str]]:
    """Tensors under our names, and which released names were taken as they are or combined (to our name).

    Raises ValueError where two tensors would be one of ours, or experts of a layer do not make a stack.
    """
    ours: dict[str, Tensor] = {}
    mapped: dict[str, str] = {}
    combined: dict[str, str] = {}
    stacks: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if match := EXPERT.fullmatch(name):
            layer, expert, linear, kind = match.groups()
            combined[name] = f"blocks.{layer}.moae.{linear}_{kind}"
            _put(stacks[combined[name]], int(expert), tensor, combined[name])
            continue
        if match := ROUTER.fullmatch(name):
            layer, linear, kind = match.groups()
            mapped[name] = f"blocks.{layer}.moae.{'router' if linear == 'topkroute' else linear}_{kind}"
        else:
            mapped[name] = name
        _put(ours, mapped[name], tensor, mapped[name])
    for name, experts in stacks.items():
        _put(ours, name, _stacked(name, experts), name)
    return ours, mapped, combined


def _put(places: dict[Any, Tensor], key: str | int, tensor: Tensor, name: str) -> None:
    if key in places:
        raise ValueError(f"two tensors of the file are the same part of {name!r}")
    places[key] = tensor


def _stacked(name: str, experts: Mapping[int, Tensor]) -> Tensor:
    if sorted(experts) != list(range(len(experts))):
        raise ValueError(f"{name}: experts are numbered {sorted(experts)}")
    for number, tensor in experts.items():
        if tensor.shape != experts[0].shape:
            shapes = f"{tuple(tensor.shape)} in expert {number}, {tuple(experts[0].shape)} in expert 0"
            raise ValueError(f"tensor {name!r}: experts differ in shape: {shapes}")
    return torch.stack([experts[number] for number in range(len(experts))])


def to_release(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of ours under the released names, experts taken apart; the inverse of `from_release`."""
    released: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := EXPERT_OF_OURS.fullmatch(name):
            layer, linear, kind = match.groups()
            for expert, part in enumerate(tensor):
                released[f"blocks.{layer}.moe_layer.experts.{expert}.{linear}.{kind}"] = part
        elif match := ROUTER_OF_OURS.fullmatch(name):
            layer, linear, kind = match.groups()
            linear = "topkroute" if linear == "router" else linear
            released[f"blocks.{layer}.moe_layer.router.{linear}_linear.{kind}"] = tensor
        else:
            released[name] = tensor
    return released


def read_release(path: Path) -> dict[str, Tensor]:
    """The model's tensors in a released file; refuses anything but plain data. DataError says why.

    A pickle is read by a process that can do nothing else and hands tensors back. Our own export writes safetensors.
    """
    return read_tensor_file(path) if path.suffix == ".safetensors" else read_isolated("release", [path])


def import_release(path: Path, out: Path, *, classes: Mapping[str, tuple[str, ...]] | None = None) -> KeyReport:
    """Write a released checkpoint as a model folder `out`; a fine-tuned one needs the class names of its heads.

    Every tensor of the file is accounted for in the report. DataError for a file that is not one of the released forms,
    UsageError for class names that do not fit.
    """
    return import_tensors(path, read_release(path), out, classes=classes)


def import_deepspeed(path: Path, out: Path, *, classes: Mapping[str, tuple[str, ...]] | None = None) -> KeyReport:
    """The same for a folder that DeepSpeed's own `save_checkpoint` wrote, at any ZeRO stage and number of ranks."""
    return import_tensors(path, read_isolated("deepspeed", find_shards(path)), out, classes=classes)


def import_tensors(
    path: Path, tensors: Mapping[str, Tensor], out: Path, *, classes: Mapping[str, tuple[str, ...]] | None
) -> KeyReport:
    """Write tensors read from `path`, under released names or ours, as a model folder."""
    try:
        for name, tensor in tensors.items():
            # Before experts are joined to one tensor, whose type would be that of the widest.
            refuse_type(name, tensor)
        ours, mapped, combined = from_release(tensors)
        arch = architecture_of(ours)
        pretrained = "mask_token" in ours
        stage = "pretrain" if pretrained else "finetune"
        refuse_lying_sizes(str(path), arch, stage, shapes_of(ours))
        heads = {} if pretrained else _heads(ours)
        expected = expected_shapes(arch, heads, pretrained)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    names = _check_classes(path, heads, classes or {})
    refuse_differences(path, ours, expected)
    modalities = {head: head for head in names if head in MODALITIES}
    config: dict[str, Any] = {
        "format": FORMAT,
        "stage": stage,
        "architecture": arch.to_dict(),
        "classes": {head: list(labels) for head, labels in names.items()},
        "labels": {head: numbering(labels, "the command line of the import") for head, labels in names.items()},
        "inputs": assumed_inputs(arch, modalities, released=True),
        "version": s4d.__version__,
        "source": path.name,
    }
    weights = {name: tensor.to(torch.float32) for name, tensor in ours.items()}
    write_folder(out, weights, config, card=model_card(config, weights, name=out.name))
    notes = (note_on_inputs(arch),) if modalities else ()
    return KeyReport(source=str(path), mapped=mapped, transformed=combined, notes=notes)


def refuse_differences(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    """DataError for the first tensor, by name, that is missing, not expected, of another shape, or no usable weights.

    float64 is refused too: rounding it would be a change that nobody asked for.
    """
    refuse_other_shapes(str(path), shapes_of(tensors), expected)
    try:
        for name, tensor in sorted(tensors.items()):
            refuse_type(name, tensor)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    refuse_not_finite(path, tensors)


def refuse_type(name: str, tensor: Tensor) -> None:
    """ValueError unless the tensor is of a type that weights are read in."""
    if tensor.dtype not in WEIGHT_TYPES:
        problem = f"expected floating-point numbers, got {tensor.dtype}; float32, float16 and bfloat16 are read"
        raise ValueError(f"tensor {name!r}: {problem}")


def architecture_of(ours: Mapping[str, Tensor]) -> Architecture:
    """Read off the shapes; head counts and frame geometry are those of the released sizes."""
    prefix = "encoder." if any(name.startswith("encoder.") for name in ours) else ""
    patch = ours.get(f"{prefix}patch_embed.proj.weight")
    if patch is None or patch.ndim != 5:
        name = f"{prefix}patch_embed.proj.weight"
        raise ValueError(f"no checkpoint of such a model: tensor {name!r} is missing or not (D, 3, t, p, p)")
    rows = [size for size in SIZES.values() if size.embed_dim == patch.shape[0]]
    if not rows:
        raise ValueError(f"width {patch.shape[0]} is none of the known sizes {[s.embed_dim for s in SIZES.values()]}")
    size = rows[0]
    layers = sorted({_block_of(name, "blocks.") for name in ours if ".moae." in name})
    experts = None
    if layers:
        fc1 = ours.get(f"blocks.{layers[0]}.moae.fc1_weight")
        if fc1 is None:
            raise ValueError(f"block {layers[0]} has a router but no experts")
        if fc1.ndim != 3:
            raise ValueError(f"tensor 'blocks.{layers[0]}.moae.fc1_weight': {fc1.ndim} dimensions instead of 3")
        experts = MoaeArchitecture(
            layers=tuple(layers),
            num_experts=fc1.shape[0],
            top_k=RELEASED_TOP_K,
            hidden_dim=fc1.shape[1],
            capacity_factor=RELEASED_CAPACITY,
            router_noise="always",
            zero_init=False,
        )
    return Architecture(
        embed_dim=size.embed_dim,
        depth=_depth(ours, f"{prefix}blocks."),
        num_heads=size.num_heads,
        decoder_embed_dim=size.decoder_embed_dim,
        decoder_depth=_depth(ours, "decoder.blocks.") or size.decoder_depth,
        decoder_num_heads=size.decoder_num_heads,
        patch_size=patch.shape[3],
        tubelet_size=patch.shape[2],
        experts=experts,
    )


def _depth(ours: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max((_block_of(name, prefix) for name in ours if name.startswith(prefix)), default=-1)


def _block_of(name: str, prefix: str) -> int:
    number = name.removeprefix(prefix).partition(".")[0]
    if not number.isdecimal():
        raise ValueError(f"tensor {name!r}: has no number of a block behind {prefix!r}")
    return int(number)


def _heads(ours: Mapping[str, Tensor]) -> dict[str, int]:
    """Classes of each head; ValueError for a classifier of another program, which has no name."""
    heads: dict[str, int] = {}
    for name, tensor in ours.items():
        if name.startswith("head."):
            match = HEAD.fullmatch(name)
            if match is None or tensor.ndim == 0:
                raise ValueError(
                    f"tensor {name!r}: not of a released model, whose heads are called head.NAME.weight and "
                    "head.NAME.bias; --from names the program that wrote the file"
                )
            heads[match[1]] = len(tensor)
    return heads


def _check_classes(
    path: Path, heads: Mapping[str, int], classes: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    for head, count in heads.items():
        if head not in classes:
            raise UsageError(f"{path}: give the {count} class names of head {head!r}, which the file does not hold")
        if len(classes[head]) != count:
            raise UsageError(f"{path}: head {head!r} has {count} classes, got {len(classes[head])} names")
        if "" in classes[head] or len(set(classes[head])) != count:
            raise UsageError(f"{path}: a class name of head {head!r} is empty or given twice")
    unknown = [head for head in classes if head not in heads]
    if unknown:
        raise UsageError(f"{path}: has no head {unknown[0]!r} (heads: {', '.join(heads) or 'none'})")
    return {head: tuple(classes[head]) for head in heads}
