"""GPUs as their data sheets have them, and the shares of those figures that real work reaches."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from s4d.errors import UsageError

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """Per GPU: FLOPs per second of dense products in bf16 and in fp32 outside the tensor cores, bytes per second and
    bytes of its memory, and bytes per second that it sends to others in its node and through its share of the network.
    """

    name: str
    bf16: float
    fp32: float
    memory_rate: float
    memory: float
    node_rate: float
    network_rate: float

    def flops(self, precision: str) -> float:
        """FLOPs per second by the data sheet."""
        return self.fp32 if precision == "fp32" else self.bf16


def _gpu(name: str, bf16: float, fp32: float, memory: tuple[float, float], node: float, network_bits: float) -> Gpu:
    """From TFLOP/s, (TB/s, GB), GB/s one way, and Gbit/s of the network adapter."""
    return Gpu(
        name=name,
        bf16=bf16 * TERA,
        fp32=fp32 * TERA,
        memory_rate=memory[0] * TERA,
        memory=memory[1] * GIGA,
        node_rate=node * GIGA,
        network_rate=network_bits * GIGA / 8,
    )


# NVIDIA's data sheets of each product: rates without sparsity (they print twice as much for tensor cores with it), the
# SXM form where there is one; NVLink, or PCIe for cards without it, as half of the rate both ways that they print.
# Networks: one adapter of this rate for each GPU in the DGX systems of that generation (ConnectX-6 at 200 Gbit/s in DGX
# A100, ConnectX-7 at 400 Gbit/s in DGX H100, H200 and B200, by their data sheets); for cards, 100 Gbit/s is assumed.
GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _gpu("h200", 989.4, 66.9, (4.8, 141), 450, 400),
        _gpu("h100", 989.4, 66.9, (3.35, 80), 450, 400),
        # 8 GPUs of a DGX B200 have 1,440 GB together.
        _gpu("b200", 2250, 80, (8.0, 180), 900, 400),
        _gpu("a100", 312, 19.5, (2.039, 80), 300, 200),
        _gpu("a100-40gb", 312, 19.5, (1.555, 40), 300, 200),
        _gpu("l40s", 362.05, 91.6, (0.864, 48), 32, 100),
        # 242 TFLOP/s with sparsity.
        _gpu("l4", 121, 30.3, (0.3, 24), 32, 100),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What a rank reaches: FLOPs and bytes of its memory per second, and bytes sent in a ring of all ranks."""

    flops: float
    memory: float
    link: float


# Large bf16 products reach about 790 of 989 TFLOP/s on H100 and H200 (their power limit), large copies 4.3 of 4.8 TB/s,
# collectives of large messages about four fifths of the link. A profile of the GPU replaces the first two.
PRODUCT_SHARE, COPY_SHARE, LINK_SHARE = 0.80, 0.90, 0.80


def find_gpu(name: str, network_gbits: float | None = None) -> Gpu:
    """A row of the table, with another network if one is given; UsageError for an unknown name."""
    if name not in GPUS:
        raise UsageError(f"--gpu: unknown GPU {name!r}; expected one of {', '.join(GPUS)}")
    gpu = GPUS[name]
    return gpu if network_gbits is None else dataclasses.replace(gpu, network_rate=network_gbits * GIGA / 8)


def reachable(gpu: Gpu, precision: str, *, nodes: int, gpus_per_node: int) -> Rates:
    """Rates of one rank of a cluster.

    Between nodes a collective is spread over the adapters of all GPUs of a node, so that a ring is as fast as these
    together, or as the links within a node if they are slower.
    """
    link = gpu.node_rate if nodes == 1 else min(gpu.node_rate, gpus_per_node * gpu.network_rate)
    if nodes > 1 and gpus_per_node == 1:
        link = gpu.network_rate
    return Rates(
        flops=PRODUCT_SHARE * gpu.flops(precision), memory=COPY_SHARE * gpu.memory_rate, link=LINK_SHARE * link
    )
