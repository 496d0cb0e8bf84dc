"""MAE on ImageNet: the encoder of an image autoencoder as initial weights of ours.

He et al., "Masked Autoencoders Are Scalable Vision Learners" (2022).
"""

from __future__ import annotations

from torch import Tensor

from s4d.models.foreign.forms.image_vit import place_trunk
from s4d.models.foreign.forms.ledger import Ledger, Wishes

IMAGE_SIZE = 224
DECODER = ("decoder_embed.", "decoder_blocks.", "decoder_norm.", "decoder_pred.")
DECODER_TOKENS = ("mask_token", "decoder_pos_embed")


def convert(source: dict[str, Tensor], wishes: Wishes) -> Ledger:
    """Account for a pre-training file, with or without its decoder, or a fine-tuned one."""
    del wishes
    ledger = Ledger(source, image_size=IMAGE_SIZE)
    for name in source:
        if name.startswith(DECODER) or name in DECODER_TOKENS:
            ledger.leave(name, "decoder of single images, of another shape")
        elif name.startswith(("head.", "fc_norm.")):
            ledger.leave(name, "classifier of ImageNet on features that our model does not compute")
    place_trunk(ledger, "norm")
    return ledger
