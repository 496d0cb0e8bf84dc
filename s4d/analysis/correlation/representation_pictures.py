"""Pictures of part (b): centroids, and layers compared by CKA."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from s4d.analysis.correlation.heat_map import ALIGNMENTS, COSINES, Grid, heat_maps
from s4d.analysis.correlation.representation import CentroidStudy, Comparison, MatchedPairs
from s4d.analysis.correlation.study import RepresentationStudy
from s4d.analysis.picture import SERIES, Picture, draw_picture


def representation_pictures(study: RepresentationStudy) -> list[Picture]:
    """Centroid cosines and their contrast by block, CKA by block, and of all blocks with all."""
    pictures = []
    if study.centroids is not None:
        pictures += [_centroids(study.centroids), _contrast(study.centroids)]
    pictures.append(_modalities(study.modalities, study.matched))
    if study.runs:
        pictures.append(_runs(study.runs))
    return [*pictures, *(_all_blocks(item) for item in (*study.modalities, *study.runs))]


def _centroids(study: CentroidStudy) -> Picture:
    found = study.pooled
    grid = Grid(
        values=found.cosines,
        rows=found.classes,
        columns=found.classes,
        title=f"Class centroids (contrast {found.contrast:+.2f}, p = {found.p_value:.2g})",
        down="images",
        across="clips",
    )
    return heat_maps(
        [grid],
        COSINES,
        alt=f"Cosines of class centroids of images and clips: {found.diagonal:+.2f} on the diagonal, "
        f"{found.off_diagonal:+.2f} beside it.",
        caption="Cosine of centred class centroids of the pooled features: rows images, columns clips.",
    )


def _contrast(study: CentroidStudy) -> Picture:
    blocks = range(len(study.by_layer))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(blocks, study.by_layer, color=SERIES[0], marker="o", markersize=4)
        axes.axhline(0, color="#888888", linestyle=":", linewidth=1.2)
        axes.set_xticks(blocks)
        axes.set_xlabel("block")
        axes.set_ylabel("contrast")
        axes.grid(axis="y")
        axes.set_title("Centroid contrast by block", loc="left")

    listed = ", ".join(f"{value:+.2f}" for value in study.by_layer)
    return draw_picture(
        draw,
        size=(4.8, 3.2),
        alt=f"Line chart of the centroid contrast after each block: {listed}.",
        caption="Mean cosine of the same class less that of different ones, after each block; dotted: no alignment.",
    )


def _modalities(comparisons: Sequence[Comparison], matched: MatchedPairs | None) -> Picture:
    curves: list[tuple[str, Sequence[float]]] = [(item.pairs, item.cka.by_layer.tolist()) for item in comparisons]
    if matched is not None:
        curves += [
            ("images and clips of the same class", matched.same_class),
            ("images and clips of any class", matched.any_class),
        ]
    return _curves(curves, "One model, both modalities")


def _runs(comparisons: Sequence[Comparison]) -> Picture:
    curves = [(f"{item.second}", item.cka.by_layer.tolist()) for item in comparisons]
    return _curves(curves, f"Runs compared with {comparisons[0].first.rpartition(': ')[0]}")


def _curves(curves: Sequence[tuple[str, Sequence[float]]], title: str) -> Picture:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, (name, values) in enumerate(curves):
            color, dashes = SERIES[index % len(SERIES)], "--" if index >= len(SERIES) else "-"
            axes.plot(range(len(values)), values, dashes, color=color, marker="o", markersize=3.5, label=name)
        axes.axhline(0, color="#888888", linestyle=":", linewidth=1.2)
        axes.set_xticks(range(max(len(values) for _, values in curves)))
        axes.set_ylim(top=1.02)
        axes.set_xlabel("block")
        axes.set_ylabel("CKA (debiased)")
        axes.grid(axis="y")
        axes.set_title(title, loc="left")
        figure.legend(loc="outside lower center", ncols=1, fontsize=8)

    listed = "; ".join(f"{name}: " + ", ".join(f"{value:.2f}" for value in values) for name, values in curves)
    return draw_picture(
        draw,
        size=(4.8, 3.2 + 0.18 * len(curves)),
        alt=f"Line chart of CKA by block. {listed}.",
        caption="Debiased linear CKA of blocks of the same number; 1: alike up to rotation and scale, 0: unrelated.",
    )


def _all_blocks(item: Comparison) -> Picture:
    values = item.cka.debiased
    grid = Grid(
        values=values,
        rows=[str(block) for block in range(values.shape[0])],
        columns=[str(block) for block in range(values.shape[1])],
        title=f"Blocks: {item.pairs}",
        down=item.first,
        across=item.second,
    )
    return heat_maps(
        [grid],
        ALIGNMENTS,
        alt=f"Debiased CKA of all blocks of {item.first} with all of {item.second}.",
        caption=f"Debiased CKA over {item.cka.samples} samples: {item.pairs}.",
    )
