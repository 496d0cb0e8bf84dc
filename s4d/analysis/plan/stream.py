"""Layers over one packed stream of tokens, told to a tape: linear, norm, addition and attention."""

from __future__ import annotations

from dataclasses import dataclass

from s4d.analysis.plan.tape import Tape, Value

FP32 = 4
# Sequences up to so many rows lie in one tile of the Triton attention, which then keeps nothing but qkv.
_TILE_ROWS = 128
# Bytes of scores in a block of the attention by batched products on a CPU. Forward scores and softmax are alive at
# once; back softmax and two gradients, and with more than one block those of the last one while the next begins.
_BLOCK, _FORWARD_ARRAYS, _BACKWARD_ARRAYS, _LATER_ARRAYS = 2 << 20, 2, 3, 5


# Backends of each op whose memory is known here.
MODELLED: dict[str, tuple[str, ...]] = {
    "attention": ("triton", "native", "grouped", "sdpa"),
    "moae": ("triton", "per_expert", "grouped"),
    "patch": ("triton", "native", "gather", "reference"),
    "reconstruction": ("triton", "native", "reference"),
    "blocks": ("compiled", "plain"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Backends:
    """Which backend serves each op, and how blocks run."""

    attention: str
    moae: str
    patch: str
    reconstruction: str
    blocks: str = "plain"


class Stream:
    """T tokens of width D in runs of (count, length) sequences, as elements of 2 or 4 bytes."""

    def __init__(self, tape: Tape, backends: Backends, runs: list[tuple[int, int]], width: int, element: int) -> None:
        self.tape = tape
        self.backends = backends
        self.runs = runs
        self.width = width
        self.element = element
        self.tokens = sum(count * length for count, length in runs)

    @property
    def row_bytes(self) -> int:
        """Bytes of a tensor (T, D)."""
        return self.tokens * self.width * self.element

    def norm(self, x: Value) -> Value:
        """Layer norm: keeps its input, and mean and deviation of each row."""
        return self.tape.op([x], x.size, saves=[x], keeps=2 * FP32 * self.tokens, weights=2 * self.width * self.element)

    def linear(self, x: Value, outputs: int, *, inputs: int | None = None, bias: bool = True) -> Value:
        """Linear layer of `inputs` columns, D unless they are given: keeps its input."""
        columns = self.width if inputs is None else inputs
        weights = (columns + int(bias)) * outputs * self.element
        return self.tape.op([x], self.tokens * outputs * self.element, saves=[x], weights=weights)

    def add(self, x: Value, branch: Value, dropped: bool) -> Value:
        """Residual addition; drop path scales the branch first and keeps its factors alone, which are the batch's."""
        if dropped:
            branch = self.tape.op([branch], branch.size)
        total = self.tape.op([x, branch], x.size, grads=[None, None])
        if dropped:
            self.tape.release(branch)
        return total

    def attend(self, qkv: Value, heads: int) -> Value:
        """Attention of qkv (T, 3, H, D / H)."""
        size = self.row_bytes
        if self.backends.attention == "sdpa":
            return self._attend_by_runs(qkv, heads)
        streams = self.backends.attention == "triton" and max(length for _, length in self.runs) > _TILE_ROWS
        if streams:
            # Kept: output and log-sum-exp. Back: its correction per row, and in float32 the queries' gradient.
            row = FP32 * self.tokens * heads
            return self.tape.op(
                [qkv],
                size,
                saves=[qkv],
                saves_output=True,
                keeps=row,
                back_scratch=row + FP32 * self.tokens * self.width,
            )
        forward, backward = self._score_blocks(heads) if self.backends.attention == "grouped" else (0, 0)
        return self.tape.op([qkv], size, saves=[qkv], scratch=forward, back_scratch=backward)

    def _score_blocks(self, heads: int) -> tuple[int, int]:
        """Bytes of scores alive at once in the forward and the backward, in blocks of whole matrices."""
        matrix = max(length for _, length in self.runs) ** 2 * self.element
        wanted = max(count * heads * length**2 * self.element for count, length in self.runs)
        block = min(wanted, max(matrix, _BLOCK))
        return _FORWARD_ARRAYS * block, (_BACKWARD_ARRAYS if wanted <= block else _LATER_ARRAYS) * block

    def _attend_by_runs(self, qkv: Value, heads: int) -> Value:
        """One fused call per run, its outputs joined; each run's gradients are stacked, then all are joined."""
        outputs = []
        for count, length in self.runs:
            size = count * length * self.width * self.element
            outputs.append(
                self.tape.op(
                    [qkv],
                    size,
                    saves=[qkv],
                    saves_output=True,
                    keeps=FP32 * count * length * heads,
                    grads=[3 * size],
                    back_scratch=3 * size,
                )
            )
        joined = self.tape.op(outputs, self.row_bytes, grads=[output.size for output in outputs])
        self.tape.release(*outputs)
        return joined
