"""What a trace says of a GPU: kernels belong to the part that started them, forward and backward, each once."""

from __future__ import annotations

from typing import Any

import pytest

from s4d.analysis.step_profile import syncs, timeline
from s4d.analysis.step_profile.attribution import NODE, Label, label_spans, label_work, windows
from s4d.analysis.step_profile.document import divided
from s4d.analysis.step_profile.timeline import Window
from s4d.analysis.step_profile.trace import Trace, parse_trace

MAIN, AUTOGRAD = 1, 2


def host(kind: str, name: str, start: float, length: float, thread: int = MAIN, **arguments: Any) -> dict[str, Any]:
    return {
        "ph": "X",
        "cat": kind,
        "name": name,
        "pid": 7,
        "tid": thread,
        "ts": start,
        "dur": length,
        "args": {key.replace("_", " "): value for key, value in arguments.items()},
    }


def mark(part: str, start: float, length: float) -> dict[str, Any]:
    return host("user_annotation", f"s4d: {part}", start, length)


def op(name: str, start: float, length: float, thread: int = MAIN, **arguments: Any) -> dict[str, Any]:
    return host("cpu_op", name, start, length, thread, **arguments)


def launch(number: int, start: float, thread: int = MAIN) -> dict[str, Any]:
    return host("cuda_runtime", "cudaLaunchKernel", start, 1, thread, correlation=number)


def kernel(number: int, start: float, length: float, name: str = "gemm", kind: str = "kernel") -> dict[str, Any]:
    return host(kind, name, start, length, 99, correlation=number)


# One step on a GPU: the host is done with the forward at 40 and waits at 90, the device works from 12 to 96.
STEP = [
    mark("step", 0, 100),
    mark("host to device", 0, 10),
    mark("data wait", 1, 7),
    host("cuda_runtime", "cudaMemcpyAsync", 8, 1, correlation=1),
    kernel(1, 9, 2, "Memcpy HtoD (Pinned -> Device)", "gpu_memcpy"),
    mark("optimizer", 10, 85),
    mark("head and loss", 11, 29),
    mark("encoder linear", 12, 14),
    op("aten::linear", 13, 4, Sequence_number=5),
    op("aten::t", 13.5, 0.5, Sequence_number=5),
    op("aten::addmm", 14.5, 2, Sequence_number=6),
    launch(2, 15),
    mark("encoder attention", 18, 6),
    op("s4d::triton_attention", 19, 3, Sequence_number=7),
    host("cuda_driver", "cuLaunchKernelEx", 20, 1, correlation=3),
    op("aten::sum", 30, 3, Sequence_number=8),
    launch(4, 31),
    mark("backward", 41, 40),
    op("aten::mul", 42, 2, Sequence_number=9),
    launch(5, 43),
    op(f"{NODE}SumBackward0", 50, 3, AUTOGRAD, Sequence_number=8, Fwd_thread_id=1),
    launch(6, 51, AUTOGRAD),
    op(f"{NODE}GeneratedBackwardFor_s4d_triton_attention", 54, 5, AUTOGRAD, Sequence_number=7, Fwd_thread_id=1),
    launch(7, 55, AUTOGRAD),
    op(f"{NODE}AddmmBackward0", 60, 5, AUTOGRAD, Sequence_number=6, Fwd_thread_id=1),
    op("aten::mm", 61, 3, AUTOGRAD, Sequence_number=77),
    launch(8, 62, AUTOGRAD),
    op(f"{NODE}torch::autograd::AccumulateGrad", 66, 6, AUTOGRAD),
    launch(9, 67, AUTOGRAD),
    op("nccl:all_reduce", 69, 2, AUTOGRAD),
    launch(10, 70, AUTOGRAD),
    # A hook at the end of the backward, outside of all nodes.
    op("aten::copy_", 74, 3, AUTOGRAD),
    launch(14, 75, AUTOGRAD),
    op("aten::_fused_adamw_", 84, 3),
    launch(11, 85),
    host("cuda_runtime", "cudaStreamSynchronize", 88, 1, correlation=12),
    kernel(2, 16, 4),
    kernel(3, 20, 4, "attention_forward"),
    kernel(4, 33, 3, "reduce"),
    kernel(5, 44, 1),
    kernel(6, 52, 2),
    kernel(7, 56, 6, "attention_backward"),
    kernel(8, 63, 7),
    kernel(9, 70, 3),
    kernel(10, 71, 5, "ncclDevKernel_AllReduce"),
    kernel(14, 77, 2, "copy"),
    kernel(11, 86, 10, "adamw"),
    # Decoded beside the step, by a thread without marks.
    launch(13, 24, 3),
    kernel(13, 24, 20, "decode"),
]
MICRO = 1e-6


@pytest.fixture
def trace() -> Trace:
    return parse_trace(list(reversed(STEP)))


def test_the_step_of_a_gpu_is_divided_whole(trace: Trace) -> None:
    found, _ = divided(trace, on_gpu=True)
    expected = {
        Label("encoder linear", "forward"): 4,
        Label("encoder attention", "forward"): 4,
        Label("head and loss", "forward"): 3,
        Label("backward", "backward"): 1 + 2,
        Label("head and loss", "backward"): 2,
        Label("encoder attention", "backward"): 6,
        # The gradient's sum is the work of the part that made it.
        Label("encoder linear", "backward"): 7 + 3,
        # Two of five microseconds go on beside a kernel.
        Label("communication"): 3,
        Label("optimizer"): 10,
        Label("host to device"): 2,
        # The host waits from 1 to 8; the decoder's kernel runs alone but for the head's three.
        Label("data wait"): 7 + 20 - 3,
    }
    measured = {label: seconds / MICRO for label, seconds in found.items()}
    idle = measured.pop(timeline.IDLE)
    assert measured == pytest.approx(expected)
    assert idle == pytest.approx(100 - sum(expected.values()))


def test_every_kernel_has_a_label(trace: Trace) -> None:
    found = {item.name: label for item, label in label_work(trace, label_spans(trace))}
    assert found["ncclDevKernel_AllReduce"] == Label("communication")
    assert found["decode"] == Label("data wait")
    assert len(label_work(trace, label_spans(trace))) == 13


def test_kernels_are_counted_by_phase(trace: Trace) -> None:
    (step,) = windows(trace)
    counts = syncs.launches(trace, label_spans(trace), Window(step.start, step.end), on_gpu=True)
    assert counts == {"forward": 3, "backward": 6, "communication": 1, "optimizer": 1, "data wait": 1}


def test_waits_are_listed_with_phase_and_place() -> None:
    frames = [
        host("python_function", "s4d/tasks/finetune.py(90): forward", 11, 28),
        host("python_function", "torch/nn/modules/module.py(1): _call_impl", 12, 13),
        host("python_function", "<built-in method item of Tensor object>", 12.2, 1),
        host("cuda_runtime", "cudaStreamSynchronize", 12.5, 0.2, correlation=20),
        host("python_function", "deepspeed/runtime/engine.py(5): step", 84, 10),
        host("cuda_runtime", "cudaDeviceSynchronize", 64, 0.2, AUTOGRAD, correlation=21),
    ]
    trace = parse_trace(STEP + frames)
    (step,) = windows(trace)
    rows = syncs.host_syncs(trace, label_spans(trace), Window(step.start, step.end), on_gpu=True)
    assert {(row["phase"], row["place"], row["owner"]) for row in rows} == {
        ("forward", "s4d/tasks/finetune.py: forward", "ours"),
        ("optimizer", "deepspeed/runtime/engine.py: step", "deepspeed"),
        ("backward", f"{NODE}AddmmBackward0", "other"),
    }
    assert syncs.waits_of_ours(rows) == 2


def test_ops_that_would_wait_are_counted_once() -> None:
    trace = parse_trace(
        [
            mark("step", 0, 30),
            mark("head and loss", 1, 20),
            op("aten::masked_select", 2, 5),
            op("aten::nonzero", 3, 2),
            op("aten::item", 10, 3),
            op("aten::_local_scalar_dense", 11, 1),
            op("aten::add", 15, 1),
        ]
    )
    rows = syncs.host_syncs(trace, label_spans(trace), Window(0, 30), on_gpu=False)
    assert sorted((row["call"], row["place"], row["count"]) for row in rows) == [
        ("aten::_local_scalar_dense", "aten::item", 1),
        ("aten::masked_select", "aten::masked_select", 1),
    ]


def test_what_is_recomputed_in_the_backward_counts_there() -> None:
    again = [
        mark("step", 0, 10),
        mark("backward", 1, 8),
        op(f"{NODE}CheckpointBackward", 2, 6, Sequence_number=3),
        mark("moae", 3, 2),
        op("aten::mm", 3.5, 1, Sequence_number=9),
        op(f"{NODE}MmBackward0", 6, 1, Sequence_number=9),
    ]
    trace = parse_trace(again)
    found, _ = divided(trace, on_gpu=False)
    assert found[Label("moae", "backward")] == pytest.approx(3 * MICRO)
    assert sum(found.values()) == pytest.approx(10 * MICRO)


def test_ops_say_what_they_are_inside_a_compiled_block() -> None:
    trace = parse_trace(
        [
            mark("step", 0, 10),
            mark("decoder linear", 1, 8),
            op("CompiledFunction", 2, 6, Sequence_number=3),
            op("s4d::triton_attention", 3, 2),
            op("s4d::triton_moae", 6, 1),
        ]
    )
    found, _ = divided(trace, on_gpu=False)
    assert found[Label("decoder attention", "forward")] == pytest.approx(2 * MICRO)
    assert found[Label("moae", "forward")] == pytest.approx(1 * MICRO)
    assert found[Label("decoder linear", "forward")] == pytest.approx(5 * MICRO)
