"""S2D: the image transformer inside it as initial weights of our encoder.

Chen et al., "From Static to Dynamic" (2024). It looks at frames one by one, with landmarks as prompts and small
temporal adapters between blocks; only the image transformer has a counterpart here.
"""

from __future__ import annotations

from torch import Tensor

from s4d.models.foreign.forms.image_vit import place_trunk
from s4d.models.foreign.forms.ledger import Ledger, Wishes

IMAGE_SIZE = 224
LEFT = {
    "prompt_blocks.": "landmark prompts and temporal adapters, which our blocks do not have",
    "prompt_norms.": "norms of the landmark prompts",
    "patch_embed_prompt.": "embedding of landmark features",
    "temporal_embedding": "learned times of frames; our tokens span frames and have fixed positions",
    "landmark": "landmark network",
    "head.": "classifier on features that our model does not compute",
    "fc_norm.": "norm of that classifier",
}


def convert(source: dict[str, Tensor], wishes: Wishes) -> Ledger:
    """Account for a file of the static or the dynamic stage."""
    del wishes
    ledger = Ledger(source, image_size=IMAGE_SIZE)
    for name in source:
        for prefix, reason in LEFT.items():
            if name.startswith(prefix):
                ledger.leave(name, reason)
    # The static stage has `norm`, which the dynamic one calls `ln_post`.
    place_trunk(ledger, "ln_post" if "ln_post.weight" in source else "norm")
    return ledger
