"""The trunk of an image transformer as the beginning of our encoder, for the forms that have one.

Letters: D width, p patch size.
"""

from __future__ import annotations

import re

import torch

from s4d.models.foreign.forms.ledger import Ledger

TUBELET = 2
BLOCK = re.compile(r"blocks\.\d+\.(norm[12]|attn\.proj|mlp\.fc[12])\.(weight|bias)|blocks\.\d+\.attn\.qkv\.weight")
FUSED_BIAS = re.compile(r"(blocks\.\d+\.attn\.)qkv\.bias")


def place_trunk(ledger: Ledger, final_norm: str) -> None:
    """Patch embedding, blocks and the norm called `final_norm`; what a classifier token needs is left behind."""
    source = ledger.source
    ledger.stage = "encoder"
    _inflate_patches(ledger)
    for name in ledger.rest:
        if name == "cls_token":
            ledger.leave(name, "our model has no classifier token, it pools all tokens")
        elif name == "pos_embed":
            ledger.leave(name, "positions in one image; ours are the fixed sinusoid over a clip's tokens")
        elif name.startswith(f"{final_norm}."):
            ledger.take(name, f"encoder.norm.{name.removeprefix(f'{final_norm}.')}")
        elif BLOCK.fullmatch(name):
            ledger.take(name, f"encoder.{name}")
        elif match := FUSED_BIAS.fullmatch(name):
            if len(ledger.values(name, 1)) % 3:
                raise ValueError(f"tensor {name!r}: {len(source[name])} values are no queries, keys and values")
            query, _, value = source[name].chunk(3)
            prefix = f"encoder.{match[1]}"
            ledger.combine([name], {f"{prefix}q_bias": query, f"{prefix}v_bias": value})
            ledger.note(
                "biases of keys are left out: they add one number to all scores of a query, which softmax drops"
            )
    ledger.note("positions and the classifier token differ, so features differ: initial weights, not the same model")


def _inflate_patches(ledger: Ledger) -> None:
    """(D, 3, p, p) over the frames of a tubelet, each with an equal share.

    A still image meets the sum over the frames, so it is embedded as the image model did, and so is a clip that stands.
    """
    name = "patch_embed.proj.weight"
    if name not in ledger.source or ledger.source[name].ndim != 4 or ledger.source[name].shape[1] != 3:
        raise ValueError(f"tensor {name!r}: missing, or not (D, 3, p, p) as in an image model")
    weight = ledger.values(name, 4).to(torch.float32)
    inflated = (weight / TUBELET).unsqueeze(2).repeat(1, 1, TUBELET, 1, 1)
    ledger.combine([name], {f"encoder.{name}": inflated})
    if "patch_embed.proj.bias" in ledger.source:
        ledger.take("patch_embed.proj.bias", "encoder.patch_embed.proj.bias")
    ledger.note(f"patch embedding divided by {TUBELET} and repeated over the {TUBELET} frames of a tubelet")
