"""One safetensors file under the names of the released S4D code, experts apart."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from s4d.errors import DataError
from s4d.models.export.source import ExportReport, Source, Wanted, kept_if_good, refuse_unless_equal
from s4d.models.folder import read_tensor_file
from s4d.models.release import from_release, to_release

RELEASED_HEADS = ("image", "video")


def export(source: Source, out: Path, wanted: Wanted) -> ExportReport:
    """Write all tensors; heads are called after their modality, as the released code looks for them."""
    del wanted
    ours = _with_released_heads(source)
    for name in ours:
        if ".moae.shared." in name or name.endswith(".moae.modality_bias"):
            raise DataError(f"{source.folder}: tensor {name!r}: the released code has nothing like it")
    if source.arch.decoder != "joint":
        raise DataError(f"{source.folder}: its decoder is {source.arch.decoder!r}, the released code has the joint one")
    with kept_if_good(out) as aside:
        aside.write_bytes(save({name: tensor.clone().contiguous() for name, tensor in to_release(ours).items()}))
        written = read_tensor_file(aside)
        refuse_unless_equal(out, from_release(written)[0], ours)
    compared = f"{len(written)} tensors read back, equal to the bit"
    return ExportReport(out=out, compared=compared, largest_difference=0.0)


def _with_released_heads(source: Source) -> dict[str, Tensor]:
    names = {head: head if head in RELEASED_HEADS else source.modalities[head] for head in source.classes}
    if len(set(names.values())) != len(names):
        raise DataError(f"{source.folder}: heads {', '.join(names)}: the released code has one for each modality")
    ours = {}
    for name, tensor in source.tensors.items():
        part, _, rest = name.partition(".")
        head, _, kind = rest.partition(".")
        ours[f"head.{names[head]}.{kind}" if part == "head" else name] = tensor
    return ours
