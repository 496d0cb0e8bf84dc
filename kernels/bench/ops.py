"""The table of ops with benchmarks."""

from __future__ import annotations

from kernels.bench import attention, moae, moae_plan, patch, reconstruction, tile_map
from kernels.bench.attention_peers import attention_backend, attention_peers
from kernels.bench.backend_peers import automatic, unless_interpreted
from kernels.bench.moae_peers import moae_backend, moae_peers
from kernels.bench.records import Op
from kernels.bench.tile_peers import attention_tiles, moae_tiles

OPS: dict[str, Op] = {
    "attention": Op(
        name="attention",
        cases=attention.CASES,
        peers=attention_peers,
        expected=attention.expected,
        automatic=lambda i: automatic("attention", lambda: attention.call_backend(i, i.qkv, None)),
        tile_peers=attention_tiles(unless_interpreted(attention_backend, "triton")),
    ),
    "tile_map": Op(
        name="tile_map",
        cases=tile_map.CASES,
        peers=tile_map.tile_map_peers,
        expected=None,
        automatic=tile_map.automatic,
    ),
    "moae": Op(
        name="moae",
        cases=moae.CASES,
        peers=moae_peers,
        expected=moae.expected,
        automatic=lambda i: automatic("moae", lambda: moae.call_backend(i, i.leaves, None)),
        reductions=moae.reductions,
        tile_peers=moae_tiles(unless_interpreted(moae_backend, "triton")),
    ),
    "moae_plan": Op(
        name="moae_plan",
        cases=moae_plan.CASES,
        peers=moae_plan.plan_peers,
        expected=None,
        automatic=lambda i: automatic("moae_plan", lambda: moae_plan.call_backend(i, None)),
    ),
    "patch": Op(
        name="patch",
        cases=patch.CASES,
        peers=patch.patch_peers,
        expected=patch.expected,
        automatic=lambda i: automatic("patch", lambda: patch.call_backend(i, i.weight, i.bias, None)),
        reductions=patch.reductions,
    ),
    "reconstruction": Op(
        name="reconstruction",
        cases=reconstruction.CASES,
        peers=reconstruction.reconstruction_peers,
        expected=reconstruction.expected,
        automatic=lambda i: automatic(
            "reconstruction", lambda: reconstruction.call_backend(i, (i.hidden, i.weight, i.bias), None)
        ),
        reductions=reconstruction.reductions,
    ),
}
