"""Attention rollout as heat over the frames."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from s4d.analysis.picture import Picture, draw_picture
from s4d.analysis.pictures.drawing.tiles import (
    Blocks,
    described,
    draw_block,
    overlaid,
    slice_frames,
    title_of,
)
from s4d.analysis.pictures.record import SourcePictures

COLORS = "inferno"
# Most patches have little; without a root the few that have much would be all there is to see.
POWER = 0.5
# Inches right of the tiles for the scale.
MARGIN = 0.8
# Inches below the tiles, so that the last number of the scale is not cut.
FOOT = 0.08
TOP_SHARE = 0.1


def rollout_picture(source: SourcePictures) -> Picture:
    """Two rows per sample: its frames, and the relevance of each patch on one scale for all samples."""
    count = len(source.drawn)
    relative = source.relevance * source.relevance[0].size
    scale = PowerNorm(POWER, 0.0, float(relative.max()))
    heat = overlaid(slice_frames(source), matplotlib.colormaps[COLORS](scale(relative))[..., :3])
    blocks = Blocks(source=source, rows=2, samples=count, foot=FOOT, margin=MARGIN)

    def draw(figure: Figure) -> None:
        for number, axes in enumerate(blocks.axes(figure)):
            rows = (slice_frames(source)[number], heat[number])
            labels = ("frame", "relevance") if number == 0 or source.modality == "video" else ("", "")
            draw_block(axes, rows, labels, title_of(source, number))
        width, height = blocks.size
        tall = blocks.rows * blocks.side
        place = (1 - (MARGIN - 0.15) / width, 1 - (blocks.title + tall) / height, 0.15 / width, tall / height)
        bar = figure.colorbar(ScalarMappable(scale, COLORS), cax=figure.add_axes(place))
        bar.outline.set_visible(False)
        bar.set_label("relevance, 1 = even share")

    top = max(1, round(TOP_SHARE * relative[0].size))
    shares = np.sort(source.relevance.reshape(count, -1), axis=1)[:, -top:].sum(1)
    return draw_picture(
        draw,
        size=blocks.size,
        alt=f"Attention rollout of {count} test samples of {source.name}, each patch coloured over the frame. "
        f"{described(source, range(count))}. The most relevant tenth of the patches carries "
        f"{', '.join(f'{share:.0%}' for share in shares)}.",
        caption=f"{source.name}: attention rollout from the pooled feature back to the patches (mean over heads, equal "
        "weight for the residual path). Shown are the surest and the median of the right and of the wrong predictions, "
        "with the true and the predicted class above each. The most relevant tenth of the patches carries "
        f"{shares.min():.0%} to {shares.max():.0%} of a sample's relevance. Rollout follows attention alone: it does "
        "not know what the MLPs, experts and heads make of it.",
    )
