"""Whether a description and the weights beside it belong together, before a model is built or a tensor is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4d.errors import DataError
from s4d.models.description import STAGES
from s4d.models.folder import CONFIG_FILE, MODEL_FILE, read_architecture
from s4d.models.sizes import Architecture
from s4d.models.tensor_header import read_header

Shapes = Mapping[str, Sequence[int]]
# Of an encoder alone, its last norm may be missing: it starts anew.
OPTIONAL = ("encoder.norm.weight", "encoder.norm.bias")


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """Shape of each tensor."""
    return {name: tensor.shape for name, tensor in tensors.items()}


def refuse_misfit(folder: Path, described: Mapping[str, Any], shapes: Shapes | None = None) -> None:
    """DataError names the field of `config.json`, or the tensor, in which they contradict each other.

    `shapes` are those of the file's header unless given. A description without an architecture, or of a stage that is
    not known, cannot contradict anything.
    """
    stage = described.get("stage")
    if stage not in STAGES or "architecture" not in described:
        return
    config, arch = folder / CONFIG_FILE, read_architecture(folder, described)
    if shapes is None:
        shapes = {name: form.shape for name, form in read_header(folder / MODEL_FILE).items()}
    refuse_lying_sizes(f"{config}: field 'architecture'", arch, stage, shapes)
    heads = {head: len(names) for head, names in (described.get("classes") or {}).items()}
    if stage == "finetune":
        _check_heads(config, heads, shapes)
    expected = _expected(config, arch, stage, heads)
    if stage == "encoder":
        expected = {name: shape for name, shape in expected.items() if name in shapes or name not in OPTIONAL}
    refuse_other_shapes(f"{folder / MODEL_FILE}: does not fit {CONFIG_FILE}", shapes, expected)


def refuse_other_shapes(where: str, shapes: Shapes, expected: Shapes) -> None:
    """DataError, with `where` in front, for the first tensor that is missing, not expected or of another shape."""
    for name in sorted({*shapes, *expected}):
        if name not in expected or name not in shapes or tuple(shapes[name]) != tuple(expected[name]):
            got = f"shape {tuple(shapes[name])}" if name in shapes else "nothing"
            wanted = f"shape {tuple(expected[name])}" if name in expected else "no such tensor"
            raise DataError(f"{where}: tensor {name!r}: expected {wanted}, got {got}")


def expected_shapes(arch: Architecture, heads: Mapping[str, int], pretrained: bool) -> dict[str, torch.Size]:
    """Shape of every tensor of a model, which is not built; ValueError for a head that cannot be called so."""
    from s4d.models.classifier import FinetuneModel
    from s4d.models.mae import PretrainModel

    with torch.device("meta"):
        model = PretrainModel(arch) if pretrained else FinetuneModel(arch, heads)
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def count_blocks(shapes: Shapes, prefix: str) -> int:
    """Blocks that a file has under `prefix`, which ends with a dot."""
    numbers = {name[len(prefix) :].partition(".")[0] for name in shapes if name.startswith(prefix)}
    return len(numbers)


def refuse_lying_sizes(where: str, arch: Architecture, stage: str, shapes: Shapes) -> None:
    """DataError, with `where` in front, unless what decides how much is built is there as weights too.

    A few letters could otherwise ask for a billion blocks.
    """
    encoder = "" if stage == "finetune" else "encoder."
    depths = {"depth": f"{encoder}blocks."} | ({"decoder_depth": "decoder.blocks."} if stage == "pretrain" else {})
    for field, prefix in depths.items():
        found = count_blocks(shapes, prefix)
        if getattr(arch, field) != found:
            stated = f"{field} {getattr(arch, field)}"
            raise DataError(f"{where}: {stated} does not fit the weights, which have {found} blocks")
    name = f"{encoder}patch_embed.proj.weight"
    wanted = (arch.embed_dim, 3, arch.tubelet_size, arch.patch_size, arch.patch_size)
    if name not in shapes or tuple(shapes[name]) != wanted:
        got = f"of shape {tuple(shapes[name])}" if name in shapes else "missing"
        raise DataError(f"{where}: does not fit the weights: tensor {name!r} of shape {wanted} is needed, it is {got}")


def _check_heads(config: Path, heads: Mapping[str, int], shapes: Shapes) -> None:
    stored = {name.split(".")[1]: shapes[name] for name in shapes if name.startswith("head.")}
    for head in sorted({*heads, *stored}):
        where = f"{config}: field 'classes': does not fit {MODEL_FILE}:"
        if head not in stored:
            raise DataError(f"{where} it has no head {head!r}")
        if head not in heads:
            raise DataError(f"{where} no class names for its head {head!r}")
        if not stored[head] or stored[head][0] != heads[head]:
            raise DataError(f"{where} head {head!r} has shape {tuple(stored[head])}, {heads[head]} classes are named")


def _expected(config: Path, arch: Architecture, stage: str, heads: Mapping[str, int]) -> dict[str, torch.Size]:
    try:
        if stage == "encoder":
            shapes = expected_shapes(arch, {}, pretrained=True)
            return {name: shape for name, shape in shapes.items() if name.startswith("encoder.")}
        return expected_shapes(arch, heads, pretrained=stage == "pretrain")
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        # Such as a head with a name that a module may not have.
        raise DataError(f"{config}: describes no model that can be built: {str(error)[:200]!r}") from error
