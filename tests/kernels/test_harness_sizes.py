"""Offsets that 32 bits cannot count, in dense operands; strided ones are a placement of the guards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from harness.attention_cases import ATTENTION, AttentionCase
from harness.operation import Operation, Run, check_case, device_of, dtypes_of, execute, refusal
from harness.table import OPERATIONS, pairs

PIXEL_OPS = ("patch", "reconstruction")
BEYOND = (1 << 31) + (1 << 20)


@pytest.mark.parametrize(
    ("op", "backend"), [pair for pair in pairs() if pair.values[0].name in PIXEL_OPS and "reference" not in pair.id]
)
def test_pixels_beyond_two_gigabytes(op: Operation, backend: str) -> None:
    """The last sample of a batch of 2 GiB gives the bits it gives alone; memory that nobody reads costs nothing."""
    dtype = next(iter(dtypes_of(op, backend)))
    reason = refusal(op, backend, dtype)
    if reason is not None:
        pytest.skip(reason)
    case = replace(op.smooth, samples=1, mix="none") if op.name == "patch" else op.smooth
    device = device_of(op, backend, dtype)
    alone = op.operands(case, dtype)
    sample = alone.fixed["pixels"]
    samples = BEYOND // sample.numel()
    pixels = torch.empty(samples, *sample.shape[1:], dtype=torch.uint8, device=device)
    pixels[-1:] = sample
    indices = alone.fixed["indices"] + (samples - 1) * case.tokens
    together = replace(alone, fixed={**alone.fixed, "pixels": pixels, "indices": indices})
    # Placing copies; what is given as it is stays one allocation of untouched zeros.
    expected = execute(op.on(backend), case, alone, dtype, device=device)
    found = execute(op.on(backend), case, together, dtype, device=device, placement="as given")
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


@pytest.mark.gpu
@pytest.mark.parametrize("backend", [name for name in ATTENTION.rivals if name not in ATTENTION.library])
def test_attention_over_more_than_two_billion_values(backend: str) -> None:
    """The last sequences of a batch whose qkv holds more than 2^31 values, against the same sequences alone."""
    op, dtype = OPERATIONS["attention"], torch.bfloat16
    if refusal(op, backend, dtype) is not None or device_of(op, backend, dtype) != "cuda":
        pytest.skip(refusal(op, backend, dtype) or "serves the CPU")
    small = AttentionCase(layout=((50, 40),), heads=12, head_dim=64)
    check_case(op, small, backend, dtype)
    count = BEYOND // (40 * 3 * 12 * 64) + 50
    large = replace(small, layout=((count, 40),))
    alone = op.operands(small, dtype)
    qkv = torch.zeros(large.tokens, 3, 12, 64, dtype=dtype, device="cuda")
    qkv[-small.tokens :] = alone.leaves["qkv"].to(qkv)
    qkv.requires_grad_()
    cu_seqlens = torch.arange(0, large.tokens + 1, 40, dtype=torch.int32, device="cuda")
    output = op.forward(large, {"qkv": qkv}, {"cu_seqlens": cu_seqlens}, backend)["output"]
    upstream = torch.zeros_like(output)
    upstream[-small.tokens :] = alone.upstream["output"].to(output)
    output.backward(upstream)
    run = Run(op=op, case=small, dtype=dtype, backward=True, placement="plain", steps=1, device="cuda")
    native, exact = run.of(op.native), run.exact()
    assert qkv.grad is not None
    for name, value in (("output", output.detach()), ("d_qkv", qkv.grad)):
        comparison = run.compare(name, value[-small.tokens :], native[name], exact[name])
        assert comparison.passed, str(comparison)
