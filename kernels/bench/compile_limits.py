"""What one streaming multiprocessor offers, by architecture, and how many programs of a kernel it holds at once."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
_PARTITIONS = 4
_REGISTERS_PER_PARTITION = 16384
_REGISTERS_AT_ONCE = 256
# Kept by the system in every block from compute capability 8.0 on.
_RESERVED_SHARED = KIB
TENSOR_COLUMNS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bytes of shared memory a block may ask for and a multiprocessor has; warps and blocks it holds.

    ``matrix`` is the SASS family and ``product`` the Triton GPU operation that half-precision products must become.
    """

    block_shared: int
    shared: int
    warps: int
    blocks: int
    matrix: str
    product: str


# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
LIMITS = {
    80: Limits(block_shared=163 * KIB, shared=164 * KIB, warps=64, blocks=32, matrix="HMMA", product="mma"),
    86: Limits(block_shared=99 * KIB, shared=100 * KIB, warps=48, blocks=16, matrix="HMMA", product="mma"),
    89: Limits(block_shared=99 * KIB, shared=100 * KIB, warps=48, blocks=24, matrix="HMMA", product="mma"),
    90: Limits(block_shared=227 * KIB, shared=228 * KIB, warps=64, blocks=32, matrix="HGMMA", product="wgmma"),
    100: Limits(block_shared=227 * KIB, shared=228 * KIB, warps=64, blocks=32, matrix="UTCHMMA", product="tcgen05"),
}


def own_shared(architecture: int, static_shared: int, dynamic_shared: int) -> int:
    """Shared memory that counts against the limit of a block, in bytes; cubins from sm_90 on list the reserved part."""
    return max(0, static_shared - (_RESERVED_SHARED if architecture >= 90 else 0)) + dynamic_shared


def blocks_per_multiprocessor(
    architecture: int, *, registers: int, shared: int, warps: int, tensor_columns: int = 0
) -> int:
    """Blocks that fit one multiprocessor at once: the least of what registers, memories and slots allow."""
    limits = LIMITS[architecture]
    per_warp = -(-max(registers, 1) * 32 // _REGISTERS_AT_ONCE) * _REGISTERS_AT_ONCE
    return min(
        _REGISTERS_PER_PARTITION // per_warp * _PARTITIONS // warps,
        limits.shared // (shared + _RESERVED_SHARED),
        limits.warps // warps,
        limits.blocks,
        TENSOR_COLUMNS // tensor_columns if tensor_columns else limits.blocks,
    )
