"""Varlen attention by ``xformers.ops.memory_efficient_attention`` with a block-diagonal mask.

A rival to measure against: its backward adds gradients atomically and does not repeat to the bit, so it is used only
where it is asked for by name. xformers is imported at the first such call.
"""

from __future__ import annotations

import functools
import logging
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from kernels.backends import Facts
from kernels.varlen import Layout


def xformers_refuses(facts: Facts) -> str | None:
    """Why xformers cannot serve the call, or None."""
    if facts["device"] != "cuda":
        return f"serves CUDA tensors, not {facts['device']}"
    if not facts["layout_known"]:
        return "layout is unknown and the mask needs the lengths on the host"
    return missing_xformers() or no_operator(facts["device"], facts["dtype"], facts["head_dim"])


@functools.cache
def missing_xformers() -> str | None:
    """Why xformers has no operators for this torch, in one line, or None; imports it without its warnings."""
    if find_spec("xformers") is None:
        return "xformers is not installed"
    try:
        library = _import("xformers._cpp_lib")
        _import("xformers.ops")
    except Exception as error:  # an extension for another torch may fail in any way
        return f"xformers does not load: {type(error).__name__}: {' '.join(str(error).split())}"
    failure = library._cpp_library_load_exception
    if failure is None:
        return None
    known = getattr(failure, "build_info", None)
    if known is None:
        return "xformers is installed without its operators"
    cuda = known.cuda_version
    return (
        f"xformers was built for torch {known.torch_version} and CUDA {cuda // 100}.{cuda % 100}, "
        f"its operators do not load under torch {torch.__version__}"
    )


def _import(name: str) -> Any:
    """Import a module of xformers; what it warns of at import is part of the reason given here."""
    import importlib

    logger = logging.getLogger("xformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return importlib.import_module(name)
    finally:
        logger.setLevel(level)


@functools.cache
def no_operator(device: str, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why no operator of xformers takes a block-diagonal mask with this dtype and head_dim on ``device``, or None."""
    fmha = _import("xformers.ops.fmha")
    example = torch.empty(1, 8, 1, head_dim, dtype=dtype, device=device)
    inputs = fmha.Inputs(query=example, key=example, value=example, attn_bias=block_diagonal_mask(((2, 4),), None))
    operator = "forward"
    try:
        forward = fmha.dispatch._dispatch_fw(inputs, True)
        operator = "backward"
        fmha.dispatch._dispatch_bw(inputs, forward.VARLEN_LSE_PACKED)
    except NotImplementedError as error:
        # The inputs are listed five columns in, the reasons of each operator four.
        reasons = [line.strip() for line in str(error).splitlines() if line[:4].isspace() and line[4:5].strip()]
        return f"no {operator} operator: {'; '.join(dict.fromkeys(reasons))}"
    return None


def xformers_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, *, layout: Layout | None, scale: float
) -> Tensor:
    """Attention under a mask made from the host's ``layout`` and the device's ``cu_seqlens``; nothing is copied."""
    assert layout is not None
    if qkv.shape[0] == 0:
        return qkv[:, 0].clone()
    q, k, v = (qkv if qkv.stride(-1) == 1 else qkv.contiguous()).unbind(1)
    operator = _import("xformers.ops").memory_efficient_attention
    out: Tensor = operator(q[None], k[None], v[None], attn_bias=block_diagonal_mask(layout, cu_seqlens), scale=scale)
    return out[0]


def block_diagonal_mask(layout: Layout, cu_seqlens: Tensor | None) -> Any:
    """Block-diagonal mask of ``layout``, whose device half is ``cu_seqlens`` itself."""
    mask = _import("xformers.ops.fmha.attn_bias").BlockDiagonalMask.from_seqlens(
        [length for count, length in layout for _ in range(count)], device=torch.device("cpu")
    )
    if cu_seqlens is not None:
        mask.q_seqinfo.seqstart = mask.k_seqinfo.seqstart = cu_seqlens
    return mask
