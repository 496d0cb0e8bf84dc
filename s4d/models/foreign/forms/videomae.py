"""VideoMAE's own files: the names are those of our models, but for the one head of a classifier.

Tong et al., "VideoMAE" (2022). Checked against the public source: sinusoid positions over the raster index, queries and
values with a bias and keys without, layer norms with epsilon 1e-6, exact GELU, mean pooling before `fc_norm`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from s4d.models.foreign.forms.ledger import Ledger, Wishes, place_head

SCALED = re.compile(r"(.*blocks\.\d+\.)gamma_([12])")
PRETRAINING = ("encoder.", "decoder.", "encoder_to_decoder.", "mask_token")
CLASSIFIER = ("patch_embed.", "blocks.", "fc_norm.")
IMAGE_SIZE = 224


def convert(source: dict[str, Tensor], wishes: Wishes) -> Ledger:
    """Account for a pre-training file or a fine-tuned one; ValueError says why a file cannot be taken."""
    ledger = Ledger(source, image_size=IMAGE_SIZE)
    place(ledger, wishes)
    return ledger


def place(ledger: Ledger, wishes: Wishes) -> None:
    """Account for tensors under VideoMAE's names."""
    source = ledger.source
    _refuse_other_kinds(source)
    for name in ledger.rest:
        if name.endswith("pos_embed"):
            ledger.leave_sinusoid(name)
    _fold_scales(ledger)
    if any(name.startswith("encoder.") for name in source):
        ledger.stage = "pretrain"
        for name in ledger.rest:
            if name.startswith(PRETRAINING):
                ledger.take(name, name)
        return
    ledger.stage = "finetune"
    if "norm.weight" in source and "fc_norm.weight" not in source:
        _place_without_pooling(ledger, wishes)
        return
    if "head.weight" in source and "head.bias" in source:
        place_head(ledger, "head.weight", "head.bias", wishes)
    for name in ledger.rest:
        if name.startswith(CLASSIFIER):
            ledger.take(name, name)


def _place_without_pooling(ledger: Ledger, wishes: Wishes) -> None:
    """A model that classifies by its first token: an encoder with a final norm, and a head that ours cannot use."""
    if "head.weight" in ledger.source and not wishes.drop_head:
        raise ValueError("tensor 'norm.weight': it classifies by the first token, ours by the mean; give --drop-head")
    ledger.stage = "encoder"
    for name in ledger.rest:
        if name.startswith("head."):
            ledger.leave(name, "classifier dropped as asked")
        elif name.startswith(("patch_embed.", "blocks.", "norm.")):
            ledger.take(name, f"encoder.{name}")


def _fold_scales(ledger: Ledger) -> None:
    """Layer scales are factors of a branch's output, hence of the rows of its last linear layer."""
    for name in ledger.rest:
        match = SCALED.fullmatch(name)
        if match is None:
            continue
        block, which = match.groups()
        linear = f"{block}{'attn.proj' if which == '1' else 'mlp.fc2'}"
        weight, bias = f"{linear}.weight", f"{linear}.bias"
        if weight not in ledger.source or bias not in ledger.source:
            raise ValueError(f"tensor {name!r}: a layer scale without {weight!r} and its bias")
        # In full precision: products of 16-bit numbers would be rounded once more.
        scale, rows, offset = (
            ledger.values(part, num_dims).to(torch.float32) for part, num_dims in ((name, 1), (weight, 2), (bias, 1))
        )
        if not len(scale) == len(rows) == len(offset):
            raise ValueError(f"tensor {name!r}: {len(scale)} scales for {len(rows)} rows of {weight!r}")
        made = {weight: rows * scale[:, None], bias: offset * scale}
        ledger.combine([name, weight, bias], made)


def _refuse_other_kinds(source: Mapping[str, Tensor]) -> None:
    for name in source:
        if ".attn.scale" in name:
            raise ValueError(f"tensor {name!r}: cosine attention, which our model does not have")
        if "relative_position" in name:
            raise ValueError(f"tensor {name!r}: relative positions, which our model does not have")
