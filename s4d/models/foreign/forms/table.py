"""Every public form of checkpoint that can be imported, a row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from s4d.models.foreign.forms import mae, mae_dfer, s2d, videomae, videomae_v2
from s4d.models.foreign.forms.ledger import Ledger, Wishes


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What one form is, and how its tensors are accounted for."""

    title: str
    convert: Callable[[dict[str, Tensor], Wishes], Ledger]


# Files. The folders of transformers, which come with a configuration, are read by `hf_videomae`.
FORMS = {
    "videomae": Form(title="VideoMAE, pre-training or fine-tuned .pth", convert=videomae.convert),
    "videomae-v2": Form(title="VideoMAE V2, .pth or model hub safetensors", convert=videomae_v2.convert),
    "mae-dfer": Form(title="MAE-DFER with the plain encoder", convert=mae_dfer.convert),
    "s2d": Form(title="S2D, the image transformer in it", convert=s2d.convert),
    "mae": Form(title="MAE on ImageNet, the encoder", convert=mae.convert),
}
