"""Which expert takes which patch: on faces, and on the average over the test split."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from s4d.analysis.cells import write_cells
from s4d.analysis.picture import Picture, draw_picture
from s4d.analysis.pictures.drawing.tiles import (
    GAP,
    Blocks,
    described,
    draw_block,
    overlaid,
    palette,
    slice_frames,
    title_of,
)
from s4d.analysis.pictures.record import SourcePictures

MOST_LAYERS = 6
MOST_CLIPS = 2
# Width of the bars beside the maps, in tiles.
BAR = 0.5
# Inches below the tiles for the legend.
FOOT = 0.45
# Inches of a cell that has room for its number.
NUMBERED = 0.34


def expert_pictures(source: SourcePictures) -> list[Picture]:
    """Maps of single samples and the mean map; none without experts."""
    if not source.layers:
        return []
    return [expert_faces(source), expert_places(source)]


def shown_layers(layers: int) -> list[int]:
    """Which of the MoAE layers are drawn: all, or six spread over them from the first to the last."""
    return sorted(set(np.linspace(0, layers - 1, min(layers, MOST_LAYERS)).round().astype(int).tolist()))


def expert_faces(source: SourcePictures) -> Picture:
    """A row of frames per layer, each patch in the colour of its expert, and the experts' shares of that row."""
    samples = _shown_samples(source)
    layers = shown_layers(len(source.layers))
    experts = source.expert_counts.shape[-1]
    colors = np.array(palette(experts))
    frames = slice_frames(source)
    labels = ["frame", *(f"block {source.layers[layer]}" for layer in layers)]
    blocks = Blocks(source=source, rows=len(labels), samples=len(samples), bars=BAR, foot=FOOT)

    def draw(figure: Figure) -> None:
        for place, (number, axes) in enumerate(zip(samples, blocks.axes(figure), strict=True)):
            maps = [source.experts[number, layer] for layer in layers]
            rows = [frames[number], *(overlaid(frames[number], colors[chosen]) for chosen in maps)]
            named = labels if place == 0 or source.modality == "video" else [""] * len(labels)
            draw_block(axes, rows, named, title_of(source, number))
            _draw_shares(axes, [_shares(chosen, experts) for chosen in maps], colors, frames.shape[2])
        handles = [Patch(color=color, label=f"expert {expert}") for expert, color in enumerate(colors)]
        figure.legend(handles=handles, loc="lower center", ncols=min(8, experts))

    kinds = "the surest of the right and of the wrong predictions" if source.modality == "video" else "the stills above"
    left_out = "" if len(layers) == len(source.layers) else f" {len(layers)} of {len(source.layers)} MoAE layers."
    return draw_picture(
        draw,
        size=blocks.size,
        alt=f"First-choice expert of every patch, drawn over the frames of {len(samples)} samples of {source.name} for "
        f"blocks {', '.join(str(source.layers[layer]) for layer in layers)}. {described(source, samples)}.",
        caption=f"{source.name}: the expert that each patch is sent to first (the largest gate), for {kinds}.{left_out}"
        " Bars: shares of the experts in that row. An expert's number means something within its block alone: expert 0 "
        "of one block has nothing to do with expert 0 of another.",
    )


def expert_places(source: SourcePictures) -> Picture:
    """For each layer the commonest first choice at each place, and how common it is."""
    layers = shown_layers(len(source.layers))
    counts = source.expert_counts[layers]
    shares = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    strongest, strength = shares.argmax(-1), shares.max(-1)
    experts = counts.shape[-1]
    colors = np.array(palette(experts))
    side = min(2.4, 9.0 / len(layers))

    def draw(figure: Figure) -> None:
        fields = figure.subplots(3, len(layers), squeeze=False, height_ratios=(1, 1, 0.1))
        for layer, number in enumerate(layers):
            _draw_grid(fields[0, layer], colors[strongest[layer]])
            fields[0, layer].set_title(f"block {source.layers[number]}")
            written = "{:.0%}" if side / strength.shape[1] >= NUMBERED else ""
            image = write_cells(
                fields[1, layer], strength[layer], number=written, limits=(1 / experts, 1), fontsize=6.5
            )
            fields[1, layer].set_aspect("equal")
            _bare(fields[1, layer])
            _draw_total(fields[2, layer], counts[layer].sum((0, 1)), colors)
        bar = figure.colorbar(image, ax=fields[1], fraction=0.02, format=lambda value, _: f"{value:.0%}")
        bar.outline.set_visible(False)
        handles = [Patch(color=color, label=f"expert {expert}") for expert, color in enumerate(colors)]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(8, experts))

    told = "; ".join(
        f"block {source.layers[number]}: {_in_words(counts[layer])}" for layer, number in enumerate(layers)
    )
    return draw_picture(
        draw,
        size=(side * len(layers) + 0.6, 2.1 * side + 0.8),
        alt=f"Commonest first-choice expert at each place of the frame and its share for {source.name}. Over all "
        f"places, {told}.",
        caption=f"{source.name}: above, the expert that patches at each place of the frame are most often sent to "
        f"first, over all {source.samples} readable test samples{_unreadable(source)} and their temporal slices; "
        "below, how often. Bars: shares of the experts over the whole frame. A place tells something where its expert "
        "has more than there.",
    )


def _shown_samples(source: SourcePictures) -> list[int]:
    """All stills; of the clips, which take a row of frames per layer, the first right and the first wrong one."""
    if source.modality == "image":
        return list(range(len(source.drawn)))
    kinds: dict[bool, int] = {}
    for number, sample in enumerate(source.drawn):
        kinds.setdefault(sample.label == sample.prediction, number)
    return sorted(kinds.values())[:MOST_CLIPS]


def _draw_shares(axes: Axes, rows: list[NDArray[np.float64]], colors: NDArray[np.float64], height: int) -> None:
    """Stacked bars right of the rows below the first."""
    right = axes.get_xlim()[1] + 4 * GAP
    length = BAR * height - 6 * GAP
    for number, shares in enumerate(rows, start=1):
        start = right
        for share, color in zip(shares, colors, strict=True):
            axes.barh(number * (height + GAP) + height / 2, share * length, height / 3, left=start, color=color)
            start += share * length
    axes.set_xlim(axes.get_xlim()[0], right + length)


def _draw_total(axes: Axes, counts: NDArray[np.int64], colors: NDArray[np.float64]) -> None:
    """One stacked bar as wide as the field."""
    ends = counts.cumsum() / max(1, int(counts.sum()))
    lengths = np.diff(ends, prepend=0)
    axes.barh(0, lengths, left=ends - lengths, color=colors)
    axes.set_xlim(0, 1)
    _bare(axes)


def _draw_grid(axes: Axes, colors: NDArray[np.float64]) -> None:
    axes.imshow(colors, interpolation="nearest")
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _shares(chosen: NDArray[np.int16], experts: int) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = np.bincount(chosen.ravel(), minlength=experts) / chosen.size
    return shares


def _in_words(counts: NDArray[np.int64]) -> str:
    """Shares of the experts over all places of (R, C, E)."""
    shares = counts.sum((0, 1)) / max(1, int(counts.sum()))
    return ", ".join(f"expert {expert} {share:.0%}" for expert, share in enumerate(shares))


def _unreadable(source: SourcePictures) -> str:
    return f" ({source.unreadable} could not be read)" if source.unreadable else ""
