"""VideoMAE V2: VideoMAE's names, as a bare file or below `model.` in the folders of its model hub pages.

Wang et al., "VideoMAE V2" (2023). The distilled small and base and the large and huge models fit; the giant one (width
1408, patches of 14 pixels, hidden layers 48/11 as wide) is none of our sizes and is refused by its width.
"""

from __future__ import annotations

from torch import Tensor

from s4d.models.foreign.forms import videomae
from s4d.models.foreign.forms.ledger import Ledger, Wishes

PREFIX = "model."


def convert(source: dict[str, Tensor], wishes: Wishes) -> Ledger:
    """Account for a pre-training file, a fine-tuned one, or a distilled encoder; ValueError says why it is refused."""
    bare = {name.removeprefix(PREFIX): tensor for name, tensor in source.items()}
    if len(bare) != len(source):
        raise ValueError(f"the same tensor stands below {PREFIX!r} and without it")
    ledger = videomae.convert(bare, wishes)
    if any(name.startswith(PREFIX) for name in source):
        ledger.restore_names({name.removeprefix(PREFIX): name for name in source})
    return ledger
