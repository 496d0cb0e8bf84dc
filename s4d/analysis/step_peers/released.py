"""What the released model classes themselves did, so that our re-creation of them can be seen to be no weaker.

They were measured on machines of two cores with ViT-B at 160 pixels; machines differ, so rates are compared per unit of
the rate of a large matrix product on the same machine in the same precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# A re-creation that does less than this share of the released rate would be an unfair rival.
LEAST_SHARE = 0.85


@dataclass(frozen=True, kw_only=True, slots=True)
class Released:
    """Clips per second and the machine's FLOP/s in a 4096 x 4096 product, as (lower, upper) over the machines."""

    case: str
    dtype: str
    clips_per_second: tuple[float, float]
    matmul: tuple[float, float]

    @property
    def per_matmul(self) -> float:
        """Clips per TFLOP of the product: slow machines go with slow products, the mean of both ends."""
        ends = zip(self.clips_per_second, self.matmul, strict=True)
        return sum(1e12 * rate / product for rate, product in ends) / 2


RELEASED = (
    Released(case="pretrain_8_clips", dtype="bf16", clips_per_second=(2.7, 2.9), matmul=(360e9, 360e9)),
    Released(case="pretrain_8_clips", dtype="fp32", clips_per_second=(0.8, 1.1), matmul=(107e9, 147e9)),
    Released(case="finetune_4_clips", dtype="bf16", clips_per_second=(0.30, 0.30), matmul=(360e9, 360e9)),
    Released(case="finetune_4_clips", dtype="fp32", clips_per_second=(0.10, 0.10), matmul=(107e9, 147e9)),
)


def baseline_shares(rows: Sequence[Mapping[str, Any]], matmul: Mapping[str, float]) -> list[dict[str, Any]]:
    """Each released figure beside our `release-eager` of the run; `matmul` is FLOP/s by precision.

    `share` is our rate per unit of matmul rate over the released one; a share above 1 is a stronger rival.
    """
    found = []
    for figure in RELEASED:
        for row in rows:
            if (row["peer"], row["case"], row["dtype"]) != ("release-eager", figure.case, figure.dtype):
                continue
            ours = 1e12 * row["clips_per_second"] / matmul[figure.dtype]
            found.append(
                {
                    "case": figure.case,
                    "dtype": figure.dtype,
                    "clips_per_second": row["clips_per_second"],
                    "clips_per_matmul_tflop": ours,
                    "released_clips_per_second": list(figure.clips_per_second),
                    "released_matmul": list(figure.matmul),
                    "released_clips_per_matmul_tflop": figure.per_matmul,
                    "share": ours / figure.per_matmul,
                    "within": ours / figure.per_matmul >= LEAST_SHARE,
                }
            )
    return found
