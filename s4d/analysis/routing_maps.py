"""Which experts serve which tokens: load by layer, modality and class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from s4d.analysis.cells import write_cells
from s4d.analysis.picture import Picture, draw_picture

DEAD_SHARE = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Routing:
    """Served assignments of one source's test samples: `counts` (layers, classes, experts), layer numbers, classes."""

    source: str
    modality: str
    layers: tuple[int, ...]
    classes: tuple[str, ...]
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.counts.ndim != 3 or self.counts.shape[:2] != (len(self.layers), len(self.classes)):
            raise ValueError(
                f"{self.source}: expected counts ({len(self.layers)}, {len(self.classes)}, experts), "
                f"got {self.counts.shape}"
            )

    def by_layer(self) -> NDArray[np.float64]:
        """Share of each expert in each layer, (layers, experts); rows sum to 1."""
        return _shares(self.counts.sum(axis=1))

    def by_class(self) -> NDArray[np.float64]:
        """Share of each expert for each class over all layers, (classes, experts); rows sum to 1."""
        return _shares(self.counts.sum(axis=0))


def routing_numbers(routing: Routing) -> list[dict[str, float]]:
    """For each layer: entropy of the load relative to even load, largest load relative to the mean, idle experts."""
    numbers = []
    for layer, shares in zip(routing.layers, routing.by_layer(), strict=True):
        experts = len(shares)
        used = shares[shares > 0]
        even = np.log(experts) if experts > 1 else 1.0
        numbers.append(
            {
                "layer": layer,
                "entropy": float(-(used * np.log(used)).sum() / even),
                "max_over_mean": float(shares.max() * experts),
                "idle_experts": int((shares < DEAD_SHARE).sum()),
            }
        )
    return numbers


def routing_pictures(routings: Sequence[Routing]) -> list[Picture]:
    """Heat maps by layer and by class for each source, on one colour scale."""
    top = max((float(np.nanmax(m)) for r in routings for m in (r.by_layer(), r.by_class())), default=1.0)
    pictures = []
    for routing in routings:
        name = f"{routing.source} ({routing.modality})"
        layers = [f"block {layer}" for layer in routing.layers]
        for rows, values, kind in (
            (layers, routing.by_layer(), "layer"),
            (routing.classes, routing.by_class(), "class"),
        ):
            pictures.append(_heat_map(values, rows, top, name=name, kind=kind))
    return pictures


def _heat_map(values: NDArray[np.float64], rows: Sequence[str], top: float, *, name: str, kind: str) -> Picture:
    experts = values.shape[1]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        image = write_cells(axes, values, number="{:.0%}", limits=(0, top))
        axes.set_xticks(range(experts), [str(expert) for expert in range(experts)])
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xlabel("expert")
        axes.set_title(f"{name}: load by {kind}", loc="left")
        bar = figure.colorbar(image, ax=axes, fraction=0.05, format=lambda value, _: f"{value:.0%}")
        bar.outline.set_visible(False)

    busiest = "; ".join(
        f"{row}: expert {int(np.argmax(v))} with {np.max(v):.0%}" for row, v in zip(rows, values, strict=True)
    )
    return draw_picture(
        draw,
        size=(4.8, 0.34 * len(rows) + 1.2),
        alt=f"Heat map of expert load by {kind} for {name}. Busiest: {busiest}.",
        caption=f"Share of the routed tokens that each expert serves, by {kind}; even load is {1 / experts:.0%}.",
    )


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
