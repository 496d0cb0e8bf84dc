"""All sides of the step benchmark but our engine's, which the command adds: this package knows no engine."""

from __future__ import annotations

import functools

from s4d.analysis.step_peers.compile_sdpa import DENSE, GROUPED, compile_dense, compile_sdpa, dense_refuses
from s4d.analysis.step_peers.equality import backends_equality, release_equality
from s4d.analysis.step_peers.ours import bare
from s4d.analysis.step_peers.release_step import release_eager
from s4d.analysis.step_peers.side import StepPeer

HALF = {"cpu": ("bf16",), "cuda": ("bf16",)}

PEERS = (
    StepPeer(name="bare", precisions=HALF, build=bare, ours=True),
    StepPeer(
        name="release-eager",
        # What the released code runs in on a GPU is float16; on a CPU, where nothing asks for less, float32.
        precisions={"cpu": ("bf16", "fp32"), "cuda": ("fp16", "bf16")},
        build=release_eager,
        equality=release_equality,
    ),
    StepPeer(
        name="compile-sdpa",
        precisions=HALF,
        build=compile_sdpa,
        equality=functools.partial(backends_equality, backends=GROUPED),
    ),
    StepPeer(
        name="compile-dense",
        precisions=HALF,
        build=compile_dense,
        equality=functools.partial(backends_equality, backends=DENSE),
        refuse=dense_refuses,
    ),
)
