"""Draws architecture.svg: `python docs/pictures/draw_architecture.py` writes it beside this file."""

from __future__ import annotations

from pathlib import Path

from svg_parts import arrow, box, document, rectangle, text

WIDTH, HEIGHT = 460, 1046
TITLE = "From media files to a checkpoint, and which package imports which"
DESCRIPTION = (
    "Media are listed in a manifest; the plan chooses views; decoding gives pixel groups, which are packed to one "
    "batch. The model embeds patches, runs blocks of attention and MLP with experts, then decodes for the "
    "reconstruction loss or pools for heads. Four ops of kernels are called by these steps. The engine makes the "
    "update and writes checkpoints. Below: kernels is imported by s4d and by engine; s4d by engine/train.py alone; "
    "engine by s4d/cli alone."
)
# Upper left corners of two columns of boxes.
LEFT, RIGHT, BROAD = 30, 245, 185


def picture() -> str:
    """The whole drawing."""
    return document(WIDTH, HEIGHT, TITLE, DESCRIPTION, [*_data(), *_model(), *_engine(), *_imports()])


def _data() -> list[str]:
    return [
        rectangle(15, 34, 430, 268, "band"),
        text(20, 26, "s4d/datasets, s4d/data", "name", "start"),
        *box(LEFT, 48, BROAD, 70, "data", "media", "pictures and clips,", "in any public layout"),
        *box(RIGHT, 48, BROAD, 70, "data", "manifest", "one row a sample,", "class by name"),
        *box(RIGHT, 148, BROAD, 70, "data", "plan", "views of each step, from", "seed, epoch and step"),
        *box(LEFT, 148, BROAD, 70, "data", "PixelGroup", "decoded, cropped,", "uint8 to the device"),
        *box(LEFT, 240, 400, 50, "data", "PackedBatch", "all tokens in one stream, without padding"),
        arrow(f"M{LEFT + BROAD} 83 H{RIGHT - 2}"),
        arrow(f"M{RIGHT + BROAD / 2} 118 V146"),
        arrow(f"M{RIGHT} 183 H{LEFT + BROAD + 2}"),
        arrow(f"M{LEFT + BROAD / 2} 218 V238"),
    ]


def _model() -> list[str]:
    steps = (
        (356, ("patch embedding", "wanted tokens alone"), "kernels/patch"),
        (436, ("attention", "within each sequence"), "kernels/attention"),
        (516, ("MLP and experts", "routed token by token"), "kernels/moae"),
        (636, ("pre-training", "decoder, pixel head, loss"), "kernels/reconstruction"),
    )
    parts = [
        rectangle(15, 342, 217, 246, "band"),
        text(20, 334, "s4d/models", "name", "start"),
        rectangle(15, 622, 217, 170, "band"),
        text(20, 614, "s4d/tasks", "name", "start"),
        rectangle(243, 342, 202, 366, "band"),
        text(248, 334, "kernels", "name", "start"),
        arrow("M150 290 V354"),
    ]
    for number, (y, words, op) in enumerate(steps):
        parts += box(LEFT, y, BROAD, 56, "model", *words)
        parts += box(258, y, 172, 56, "ops", op.removeprefix("kernels/"), "definition + backends")
        parts.append(arrow(f"M258 {y + 28} H{LEFT + BROAD + 2}"))
        if number in (0, 1):
            parts.append(arrow(f"M{LEFT + BROAD / 2} {y + 56} V{y + 78}"))
    parts += box(LEFT, 722, BROAD, 56, "model", "fine-tuning", "pooled, a head a dataset")
    parts.append(arrow(f"M{LEFT + BROAD / 2} 572 V634"))
    # Both tasks follow the blocks: the second line passes the first task on its left.
    parts.append(arrow(f"M{LEFT + BROAD / 2} 628 H22 V750 H{LEFT - 2}"))
    # The blocks are repeated.
    parts.append(arrow("M180 572 V581 H224 V424 H140 V434"))
    return parts


def _engine() -> list[str]:
    return [
        text(252, 740, "losses: sums, divided by", "note", "start"),
        text(252, 758, "counts over all ranks", "note", "start"),
        '<path class="line" d="M180 692 V706 H226 V750"/>',
        arrow("M215 750 H240 V838"),
        rectangle(15, 826, 430, 78, "band"),
        text(20, 818, "engine", "name", "start"),
        *box(LEFT, 840, 235, 52, "run", "backward, update", "DeepSpeed ZeRO, AdamW"),
        *box(305, 840, 125, 52, "run", "checkpoint", "resume, export"),
        arrow("M265 866 H303"),
    ]


def _imports() -> list[str]:
    return [
        text(20, 946, "Which package imports which", "name", "start"),
        *box(25, 980, 105, 44, "ops", "kernels"),
        *box(175, 980, 105, 44, "model", "s4d"),
        *box(330, 980, 105, 44, "run", "engine"),
        arrow("M175 1002 H132"),
        arrow("M330 992 H282"),
        arrow("M280 1014 H328"),
        arrow("M382 980 V962 H77 V978"),
        text(306, 977, "train.py", "note"),
        text(306, 1034, "s4d/cli", "note"),
    ]


if __name__ == "__main__":
    (Path(__file__).parent / "architecture.svg").write_text(picture(), encoding="utf-8")
