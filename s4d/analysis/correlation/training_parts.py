"""The parts of the page about training: agreement of the tasks' gradients, and who uses which experts."""

from __future__ import annotations

from s4d.analysis.correlation.agreement import Agreement
from s4d.analysis.correlation.gradient_pictures import gradient_pictures
from s4d.analysis.correlation.gradients import GradientStudy, RunGradients
from s4d.analysis.correlation.page import Part, Table
from s4d.analysis.correlation.parameter_kinds import KINDS
from s4d.analysis.correlation.routing import LayerRouting, RoutingStudy, RunRouting
from s4d.analysis.correlation.routing_numbers import Tested
from s4d.analysis.correlation.routing_pictures import routing_pictures

GRADIENTS = (
    "At every checkpoint that a run kept, the gradients of the images' and of the clips' cross-entropy are taken on "
    "training batches, augmented as in training, the same at every checkpoint and for every run that reads the same "
    "data; loss weights and the balance term are left out, and so are the heads, which no task shares. Cosines are "
    "over all weights of a layer, or of a kind in all layers; below 0 a step for one task undoes the other's. No "
    "sample is in two batches: the cosine of two batches of one task is the ceiling that noise leaves. The corrected "
    "cosine takes that noise out: mean product of images' and clips' gradients over the root of the mean products of "
    "different batches of each task; it is left out where a ceiling is not 2.5 standard errors above 0. Norms is the "
    "mean ratio of the clips' gradient to the images'."
)
ROUTING = (
    "Every token of every view of the test samples chooses its experts without router noise. A sample's routing is the "
    "share of its tokens' choices on each expert, a modality's the mean over its samples. Between modalities: "
    "Jensen-Shannon distance (root of the divergence in bits; 0 the same, 1 no expert in common) with 95 % bootstrap "
    "intervals, what it is when samples change sides at random (95th percentile and p), the same with all shared "
    "classes counted equally and exchanges within classes alone, and the overlap, the sum of each expert's smaller "
    "share. An expert is dead below the stated share in both modalities. Class information is the mutual information "
    "of class and expert, adjusted for the mean of shuffled classes (1: all that can be told). Lift compares pairs of "
    "experts with independent choices without repetition."
)


def gradient_part(study: GradientStudy) -> Part:
    """Part (c)."""
    return Part(
        key="gradients",
        title="(c) Gradients",
        method=GRADIENTS,
        numbers=study.to_dict(),
        headline={f"gradient cosine over training, {run.run}": _number(_mean_cosine(run)) for run in study.runs},
        tables=gradient_tables(study),
        pictures=tuple(gradient_pictures(study)),
    )


def routing_part(study: RoutingStudy) -> Part:
    """Part (d)."""
    return Part(
        key="routing",
        title="(d) Routing",
        method=ROUTING,
        numbers=study.to_dict(),
        headline={
            f"routing distance of images and clips, {run.run}": f"{_mean_distance(run):.2f}"
            for run in study.runs
            if all(layer.distance is not None for layer in run.layers)
        },
        tables=routing_tables(study),
        pictures=tuple(routing_pictures(study)),
    )


def gradient_tables(study: GradientStudy) -> tuple[Table, ...]:
    """All shared weights over steps, then the kinds of weights at the last step."""
    over_time = Table(
        columns=("run", "step", "cosine", "batches below 0", "ceiling, images", "ceiling, clips", "corrected", "norms"),
        rows=tuple((run.run, str(item.step), *_told(item.shared)) for run in study.runs for item in run.checkpoints),
    )
    kinds = [kind for kind in KINDS if any(kind in run.checkpoints[-1].kinds for run in study.runs)]
    last = Table(
        columns=("last step: corrected cosine (cosine)", *kinds),
        rows=tuple((run.run, *(_kind(run, kind) for kind in kinds)) for run in study.runs),
    )
    return over_time, last


def routing_tables(study: RoutingStudy) -> tuple[Table, ...]:
    """Stills against clips by block, then what experts tell of the class by source and block."""
    return (
        Table(
            columns=("run and block", "distance", "95 %", "by chance", "p", "classes matched", "p", "overlap", "dead"),
            rows=tuple(
                (f"{run.run}, block {layer.layer}", *_layer(layer)) for run in study.runs for layer in run.layers
            ),
        ),
        Table(
            columns=("class told by the expert", "block", "bits", "by chance", "adjusted", "p"),
            rows=tuple(
                (
                    f"{run.run}, {source.source}",
                    str(layer.layer),
                    f"{item.bits:.3f}",
                    f"{item.by_chance:.3f}",
                    _number(item.adjusted),
                    f"{item.p_value:.3g}",
                )
                for run in study.runs
                for source in run.sources
                for layer, item in zip(run.layers, source.information, strict=True)
            ),
        ),
    )


def _told(found: Agreement) -> tuple[str, ...]:
    deviation = "" if found.deviation != found.deviation else f" ± {found.deviation:.3f}"
    return (
        f"{_number(found.cosine)}{deviation}",
        "-" if not found.batches else f"{found.negative_share:.0%}",
        _number(found.images),
        _number(found.clips),
        _number(found.corrected),
        "-" if found.norm_ratio != found.norm_ratio else f"{found.norm_ratio:.2f}",
    )


def _kind(run: RunGradients, kind: str) -> str:
    found = run.checkpoints[-1].kinds.get(kind)
    return "-" if found is None else f"{_number(found.corrected)} ({_number(found.cosine)})"


def _mean_cosine(run: RunGradients) -> float:
    return sum(item.shared.cosine for item in run.checkpoints) / len(run.checkpoints)


def _mean_distance(run: RunRouting) -> float:
    found = [layer.distance.value for layer in run.layers if layer.distance is not None]
    return sum(found) / len(found)


def _layer(layer: LayerRouting) -> tuple[str, ...]:
    dead = ", ".join(str(expert) for expert in layer.dead) or "none"
    if layer.distance is None:
        return "-", "-", "-", "-", "-", "-", "-", dead
    matched: Tested | None = layer.class_matched
    return (
        f"{layer.distance.value:.3f}",
        f"{layer.distance.low:.3f} to {layer.distance.high:.3f}",
        f"{layer.distance.by_chance:.3f}",
        f"{layer.distance.p_value:.3g}",
        "-" if matched is None else f"{matched.value:.3f}",
        "-" if matched is None else f"{matched.p_value:.3g}",
        "-" if layer.overlap is None else f"{layer.overlap:.2f}",
        dead,
    )


def _number(value: float) -> str:
    return "-" if value != value else f"{value:+.3f}"
