"""The classifier's answer for each temporal slice of a clip, above its frames."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s4d.analysis.cells import ink_on, shades
from s4d.analysis.picture import Picture, draw_picture
from s4d.analysis.pictures.drawing.tiles import described, slice_frames, title_of
from s4d.analysis.pictures.record import SourcePictures

# Inches.
WIDTH, LABEL_WIDTH, TITLE_HEIGHT, CLASS_HEIGHT = 9.6, 1.1, 0.36, 0.19
# The whole clip stands apart from its slices, in column widths.
APART = 0.25
SHOWN_FROM = 0.1


def activation_picture(source: SourcePictures) -> Picture | None:
    """A strip of probabilities per clip; None for a source of still images."""
    if source.modality == "image":
        return None
    count, slices, classes = source.slice_probabilities.shape
    column = (WIDTH - LABEL_WIDTH) / (slices + 1 + APART)
    column = min(column, 1.5)
    width = LABEL_WIDTH + column * (slices + 1 + APART)
    block = TITLE_HEIGHT + classes * CLASS_HEIGHT + column
    height = count * block

    def draw(figure: Figure) -> None:
        figure.set_layout_engine("none")
        left, across = LABEL_WIDTH / width, 1 - LABEL_WIDTH / width
        for number in range(count):
            bottom = height - (number + 1) * block
            strip = figure.add_axes((left, (bottom + column) / height, across, classes * CLASS_HEIGHT / height))
            _draw_strip(strip, source, number)
            frames = figure.add_axes((left, bottom / height, across, 0.97 * column / height))
            _draw_frames(frames, source, number)

    return draw_picture(
        draw,
        size=(width, height),
        alt=f"Class probabilities of each of {slices} temporal slices of {count} clips of {source.name}. "
        f"{described(source, range(count))}.",
        caption=f"{source.name}: what the head says of each temporal slice alone (mean of its patches, final norm, "
        "head), above the slice's first frame; right, of the whole clip. The true class is bold. The clip's pooled "
        "feature is exactly the mean of the slices'; norm and softmax come after it. Slices have seen each other "
        "through attention, so a slice tells where the evidence ended up, not what its own frames show.",
    )


def _draw_strip(axes: Axes, source: SourcePictures, number: int) -> None:
    shares = source.slice_probabilities[number].T
    whole = source.probabilities[number][:, None]
    classes, slices = shares.shape
    colours = shades()
    for values, start in ((shares, 0.0), (whole, slices + APART)):
        axes.imshow(
            values, cmap=colours, vmin=0, vmax=1, aspect="auto", extent=(start, start + values.shape[1], classes, 0)
        )
        for row, line in enumerate(values):
            for place, value in enumerate(line):
                if value >= SHOWN_FROM:
                    at, ink = (start + place + 0.5, row + 0.5), ink_on(colours(value))
                    axes.text(*at, f"{value:.0%}", ha="center", va="center", color=ink, fontsize=7.5)
    axes.set_xlim(0, slices + 1 + APART)
    axes.set_ylim(classes, 0)
    axes.set_xticks([])
    axes.set_yticks([row + 0.5 for row in range(classes)], source.classes, fontsize=8)
    for name, label in zip(source.classes, axes.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if name == source.drawn[number].label else "normal")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title_of(source, number), loc="left", fontsize=9, pad=3)


def _draw_frames(axes: Axes, source: SourcePictures, number: int) -> None:
    frames = slice_frames(source)[number]
    for place, frame in enumerate(frames):
        axes.imshow(frame, extent=(place + 0.02, place + 0.98, 0, 1), aspect="auto", interpolation="nearest")
    axes.set_xlim(0, len(frames) + 1 + APART)
    axes.set_ylim(0, 1)
    axes.text(len(frames) + APART + 0.5, 0.5, "whole clip", ha="center", va="center", fontsize=8.5)
    axes.set_axis_off()
