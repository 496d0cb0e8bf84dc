"""Says of everything in a trace which part of the step it belongs to, and whether forward or backward.

Forward: the innermost mark around it. Backward: autograd numbers the nodes of a graph as the forward makes them, and
names the number again when it runs one; a node belongs to the part that made it. A gradient that is added to a
parameter's belongs to the node before, which is the one that made the gradient.
"""

from __future__ import annotations

from typing import NamedTuple

from s4d.analysis.step_profile.marks import AROUND, BACKWARD, PREFIX, STEP
from s4d.analysis.step_profile.trace import DeviceWork, Span, Trace
from s4d.analysis.step_work import PARTS

FORWARD = "forward"
NODE = "autograd::engine::evaluate_function: "
COLLECTIVES = ("c10d::", "gloo:", "nccl", "record_param_comms", "ncclDevKernel")
# Ops of our own say themselves what they are, where a mark around a compiled module cannot.
OPS = (
    ("attention", ("attention",)),
    ("moae", ("moae", "per_expert", "ragged", "routing_plan", "triton_plan")),
    ("embed", ("patch",)),
    ("head and loss", ("masked_loss", "reconstruction")),
)


class Label(NamedTuple):
    """A part of the step; `phase` is forward or backward for the model's own parts and the rest of the backward."""

    part: str
    phase: str = ""


Labels = dict[Span, Label | None]


def label_spans(trace: Trace) -> Labels:
    """Label of every range, None outside of all marks."""
    labels: Labels = {}
    makers: dict[int, str] = {}
    latest: dict[str, str] = {}
    # On a GPU the backward has a thread of its own, where hooks run outside of nodes too.
    outermost = {span.thread: Label(BACKWARD, BACKWARD) for span in trace.spans if span.name.startswith(NODE)}
    for step in windows(trace):
        outermost.pop(step.thread, None)
    for span in trace.spans:
        around = labels[span.parent] if span.parent is not None else outermost.get(span.thread)
        label = _label(span, around, makers, latest)
        labels[span] = label
        if span.name.startswith(NODE) and label is not None:
            latest[span.thread] = label.part
        elif span.sequence is not None and label is not None and label.part in PARTS and not _in_node(span):
            # Ops without a node of their own carry the number of the next node; the last to carry it made it.
            makers[span.sequence] = label.part
    return labels


def _label(span: Span, around: Label | None, makers: dict[int, str], latest: dict[str, str]) -> Label | None:
    in_backward = around is not None and around.phase == BACKWARD
    if span.kind == "user_annotation" and span.name.startswith(PREFIX):
        part = span.name.removeprefix(PREFIX)
        if part in PARTS:
            return Label(part, BACKWARD if in_backward else FORWARD)
        return Label(part, BACKWARD if part == BACKWARD else "") if part in AROUND else None
    if span.kind != "cpu_op":
        return around
    if span.name.startswith(COLLECTIVES):
        return Label("communication")
    if span.name.startswith(NODE):
        if span.sequence is None:
            return Label(latest.get(span.thread, BACKWARD), BACKWARD)
        return Label(makers.get(span.sequence, BACKWARD), BACKWARD)
    if span.name.startswith("s4d::") and around is not None and around.part in PARTS:
        return Label(_own_op(span.name, around.part), around.phase)
    return around


def _own_op(name: str, around: str) -> str:
    for part, words in OPS:
        if any(word in name for word in words):
            side = "decoder" if around.startswith("decoder") else "encoder"
            return f"{side} attention" if part == "attention" else part
    return around


def _in_node(span: Span) -> bool:
    """Whether a range lies in a backward node without a mark between: then its number is the node's."""
    parent: Span | None = span
    while parent is not None and not parent.name.startswith(PREFIX):
        if parent.name.startswith(NODE):
            return True
        parent = parent.parent
    return False


def started_by(trace: Trace) -> dict[int | None, Span]:
    """The call that started what is on the device, by correlation."""
    return {span.correlation: span for span in trace.spans if span.correlation is not None}


def label_work(trace: Trace, labels: Labels) -> list[tuple[DeviceWork, Label]]:
    """Label of all that ran on the device: that of the call which started it.

    What was started outside of all marks fills batches beside the step: copies to the device, and decoding.
    """
    calls = started_by(trace)
    found = []
    for item in trace.work:
        call = calls.get(item.correlation)
        label = labels[call] if call is not None else None
        if item.name.startswith(COLLECTIVES):
            label = Label("communication")
        elif label is None:
            label = Label("host to device" if "HtoD" in item.name else "data wait")
        found.append((item, label))
    return found


def windows(trace: Trace) -> list[Span]:
    """The ranges of whole steps, in order."""
    return [span for span in trace.spans if span.kind == "user_annotation" and span.name == PREFIX + STEP]
