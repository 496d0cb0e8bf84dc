"""MAE-DFER: of its two encoders the plain one is ours; the local-global one computes something else.

Sun et al., "MAE-DFER" (2023). An LGI-Former block has three attentions (in a region, between the regions' messenger
tokens, from messengers back to regions), each with projections of its own. Our blocks have one attention over all
tokens: weights of the three, or the layers around them, would be numbers without their meaning.
"""

from __future__ import annotations

from torch import Tensor

from s4d.models.foreign.forms import videomae
from s4d.models.foreign.forms.ledger import Ledger, Wishes

IMAGE_SIZE = 160
LOCAL_GLOBAL = (".first_attn", ".second_attn", ".third_attn")


def convert(source: dict[str, Tensor], wishes: Wishes) -> Ledger:
    """Account for a file of the plain encoder; ValueError for one of the local-global encoder."""
    for name in source:
        if any(part in name for part in LOCAL_GLOBAL):
            raise ValueError(
                f"tensor {name!r}: an LGI-Former, whose blocks attend within regions and between them in three steps; "
                "our blocks have one attention over all tokens, so none of its blocks can be taken"
            )
    ledger = Ledger(source, image_size=IMAGE_SIZE)
    videomae.place(ledger, wishes)
    return ledger
