"""The weights in a checkpoint written by DeepSpeed itself, at any ZeRO stage, put together in full precision.

Works on what was unpickled and trusts none of it: ValueError says what does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

MODEL_STATES, OPTIMIZER_STATES = "model_states.pt", "optim_states.pt"


def merged(states: Sequence[Mapping[str, Any]], shards: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Whole fp32 weights by name, from model files (one, or one per rank at stage 3) and optimizer files in rank order.

    Master weights are taken wherever DeepSpeed keeps them; the 16-bit copies only for what is not trained.
    """
    module = _tensors(_field(states[0], "module"))
    buffers = states[0].get("buffer_names") or []
    if not shards:
        return _unsharded(module, buffers, states[0].get("optimizer"))
    parts = [_field(shard, "optimizer_state_dict") for shard in shards]
    stage = int(_field(parts[0], "zero_stage"))
    if any(int(_field(part, "zero_stage")) != stage for part in parts):
        raise ValueError("its optimizer files are of different ZeRO stages")
    count = _field(parts[0], "partition_count")
    count = max(count) if isinstance(count, list) else count
    if count != len(parts):
        raise ValueError(f"written by {count} ranks, {len(parts)} optimizer files are there")
    groups = [_shapes(group) for group in _field(states[0], "param_shapes")]
    found = _from_flat_groups(groups, parts) if stage < 3 else _from_shards(groups, parts)
    found |= _frozen(states, len(parts)) if stage == 3 else {}
    # What is neither trained nor sharded is whole in the model file.
    for name, tensor in module.items():
        if name not in found and name not in buffers and not (stage == 3 and tensor.numel() == 0):
            found[name] = tensor
    for name, same in (states[0].get("shared_params") or {}).items():
        found[name] = found[same]
    return {name: tensor.to(torch.float32) for name, tensor in found.items()}


def _unsharded(module: dict[str, Tensor], buffers: Sequence[str], optimizer: Any) -> dict[str, Tensor]:
    """Weights of a run without ZeRO, whose 16-bit model has masters in the order of the optimizer, without names."""
    weights = {name: tensor for name, tensor in module.items() if name not in buffers}
    if all(tensor.dtype == torch.float32 for tensor in weights.values()):
        return weights
    groups = optimizer.get("fp32_groups") if isinstance(optimizer, dict) else None
    if not isinstance(groups, list):
        raise ValueError("16-bit weights, and no full-precision copies in a known form")
    masters = [tensor for group in groups for tensor in group]
    if any(not isinstance(tensor, Tensor) or tensor.dtype != torch.float32 for tensor in masters):
        raise ValueError("entry 'fp32_groups' of the optimizer holds something else than fp32 tensors")
    return {name: _master_of(name, tensor, masters).to(torch.float32) for name, tensor in weights.items()}


def _master_of(name: str, tensor: Tensor, masters: list[Tensor]) -> Tensor:
    """The one master that rounds to these 16-bit values; those of a frozen tensor stand for themselves."""
    same = [m for m in masters if m.shape == tensor.shape and torch.equal(m.to(tensor.dtype), tensor)]
    if any(not torch.equal(same[0], other) for other in same):
        raise ValueError(f"tensor {name!r}: {len(same)} full-precision copies fit it")
    return same[0] if same else tensor


def _from_flat_groups(groups: list[dict[str, tuple[int, ...]]], parts: list[Any]) -> dict[str, Tensor]:
    """Stages 1 and 2: each group is one long vector, cut over the ranks."""
    flats = [_vectors(_field(part, "single_partition_of_fp32_groups"), len(groups)) for part in parts]
    paddings = parts[0].get("param_alignment_paddings") or [[0] * len(group) for group in groups]
    found: dict[str, Tensor] = {}
    for number, group in enumerate(groups):
        whole = torch.cat([flat[number] for flat in flats])
        at = 0
        for (name, shape), padding in zip(group.items(), paddings[number], strict=True):
            found[name] = _cut(name, whole, at, shape)
            at += math.prod(shape) + int(padding)
        # Vectors are filled up to a multiple of twice the ranks.
        if not 0 <= whole.numel() - at < 2 * len(parts):
            raise ValueError(f"group {number}: {at} values are named, {whole.numel()} are there")
    return found


def _from_shards(groups: list[dict[str, tuple[int, ...]]], parts: list[Any]) -> dict[str, Tensor]:
    """Stage 3: each tensor is cut over the ranks, whose pieces follow each other over all groups."""
    flats = [torch.cat(_vectors(_field(part, "fp32_flat_groups"), None)) for part in parts]
    found: dict[str, Tensor] = {}
    at = 0
    for name, shape in {name: shape for group in groups for name, shape in group.items()}.items():
        piece = math.ceil(math.prod(shape) / len(parts))
        pieces = [_cut(name, flat, at, (piece,)) for flat in flats]
        found[name] = _cut(name, torch.cat(pieces), 0, shape)
        at += piece
    if any(flat.numel() != at for flat in flats):
        raise ValueError(f"{at} values of each rank are named, {[flat.numel() for flat in flats]} are there")
    return found


def _frozen(states: Sequence[Mapping[str, Any]], ranks: int) -> dict[str, Tensor]:
    shapes = _shapes(states[0].get("frozen_param_shapes") or {})
    if not shapes:
        return {}
    if len(states) != ranks:
        raise ValueError(f"written by {ranks} ranks, {len(states)} model files are there")
    pieces = [_tensors(_field(state, "frozen_param_fragments")) for state in states]
    return {
        name: _cut(name, torch.cat([_field(piece, name).view(-1) for piece in pieces]), 0, shape)
        for name, shape in shapes.items()
    }


def _field(content: Any, name: str) -> Any:
    if not isinstance(content, Mapping) or content.get(name) is None:
        raise ValueError(f"no entry {name!r}: not a DeepSpeed checkpoint of a known form")
    return content[name]


def _tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise ValueError("holds no model (a dictionary of tensors)")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"entry {name!r} of the model is no tensor")
    return dict(content)


def _shapes(content: Any) -> dict[str, tuple[int, ...]]:
    if not isinstance(content, Mapping):
        raise ValueError("entry 'param_shapes' is in no known form")
    found = {name: tuple(shape) for name, shape in content.items()}
    for name, shape in found.items():
        if not isinstance(name, str) or any(type(size) is not int or size < 0 for size in shape):
            raise ValueError(f"tensor {name!r} is said to have shape {shape}")
    return found


def _vectors(content: Any, count: int | None) -> list[Tensor]:
    flat = list(content)
    good = all(isinstance(v, Tensor) and v.ndim == 1 and v.dtype == torch.float32 for v in flat)
    if not flat or not good or count not in (None, len(flat)):
        raise ValueError("the parts of its full-precision weights are in no known form")
    return flat


def _cut(name: str, flat: Tensor, at: int, shape: tuple[int, ...]) -> Tensor:
    size = math.prod(shape)
    if at + size > flat.numel():
        raise ValueError(f"tensor {name!r}: {flat.numel() - at} of its {size} values are there")
    return flat[at : at + size].view(shape)
