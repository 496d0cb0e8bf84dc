"""A program of `torch.export` (.pt2) and an ONNX file: uint8 frames of one shape in, logits or tokens out."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from s4d.errors import DataError, UsageError
from s4d.models.export.portable import BACKENDS, fixed_program, portable_plan
from s4d.models.export.source import ExportReport, Source, Wanted, kept_if_good, random_frames, refuse_if_far

TOLERANCE = 1e-4
NEEDED_FOR_ONNX = ("onnx", "onnxscript", "onnxruntime")
# A file of ONNX is one message of protobuf, which ends there.
MOST_BYTES = 2_000_000_000
SEEDS = (0, 1)
Run = Callable[[Tensor], Tensor]


def export_program(source: Source, out: Path, wanted: Wanted) -> ExportReport:
    """Write a .pt2 file, load it again and compare."""

    def write(program: ExportedProgram, frames: Tensor, path: Path) -> Run:
        # Written by torch itself, a full disk would end this process instead of raising an error.
        content = io.BytesIO()
        torch.export.save(program, content)
        path.write_bytes(content.getbuffer())
        with path.open("rb") as stream:
            loaded: Run = torch.export.load(stream).module()
        return loaded

    return _export(source, out, wanted, write)


def export_onnx(source: Source, out: Path, wanted: Wanted) -> ExportReport:
    """Write an .onnx file, run it with onnxruntime and compare."""
    for name in NEEDED_FOR_ONNX:
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"--to onnx needs {name}, which is not installed: pip install 's4d-engine[onnx]'")
    size = sum(tensor.nbytes for tensor in source.tensors.values())
    if size > MOST_BYTES:
        raise UsageError(f"{source.folder}: {size / 1e9:.1f} GB of weights; one ONNX file holds 2 GB")
    return _export(source, out, wanted, _write_onnx)


def _export(
    source: Source, out: Path, wanted: Wanted, write: Callable[[ExportedProgram, Tensor, Path], Run]
) -> ExportReport:
    head = source.head_for(wanted.head)
    modality = source.modalities[head] if head else wanted.modality
    inputs = [random_frames(source.arch, modality, wanted.batch, seed) for seed in SEEDS]
    with quiet(), torch.no_grad(), portable_plan(), kept_if_good(out) as aside:
        ours = fixed_program(source, head, modality, batch=wanted.batch)
        # Before anything is traced, so that what is computed once and kept is no part of a trace.
        expected = [ours(frames) for frames in inputs]
        module = fixed_program(source, head, modality, batch=wanted.batch, backends=BACKENDS)
        program = _without_checks(torch.export.export(module, (inputs[0],)).run_decompositions({}))
        run = write(program, inputs[0], aside)
        pairs = {f"outputs {n}": (run(frames), expected[n]) for n, frames in enumerate(inputs)}
        largest = refuse_if_far(out, pairs, TOLERANCE)
    experts = source.arch.experts
    noise = experts is not None and experts.router_noise == "always"
    shape = " x ".join(map(str, inputs[0].shape))
    return ExportReport(
        out=out,
        compared=f"{'logits of ' + head if head else 'tokens'} for {len(SEEDS)} inputs of {shape} uint8",
        largest_difference=largest,
        notes=("router noise, which this model keeps in evaluation, is left out",) if noise else (),
    )


def _without_checks(program: ExportedProgram) -> ExportedProgram:
    """Without what only checks or reports: statistics of routing are no output, and other runtimes have no such ops."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _write_onnx(program: ExportedProgram, frames: Tensor, path: Path) -> Run:
    import onnxruntime

    try:
        made = torch.onnx.export(
            program,
            (frames,),
            dynamo=True,
            external_data=False,
            input_names=["frames"],
            output_names=["output"],
            custom_translation_table={torch.ops.aten.sort.stable: _stable_sort()},
        )
    except Exception as error:
        lines = [line for line in str(error).splitlines() if "Error" in line or "No ONNX function" in line]
        raise DataError(f"{path.name}: not kept: {(lines or [type(error).__name__])[0][:300]}") from error
    assert made is not None
    made.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda values: torch.from_numpy(session.run(None, {"frames": values.numpy()})[0])


def _stable_sort() -> Callable[..., Any]:
    """ONNX has no stable sort, but TopK of all elements states the same rule: of equal ones the lower index first."""
    from onnxscript import opset18 as ops

    def stable_sort(self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
        size = ops.Gather(ops.Shape(self), ops.Constant(value_ints=[dim]))
        return ops.TopK(self, size, axis=dim, largest=int(descending), sorted=1)

    return stable_sort


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' own progress and advice, which is for their developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
