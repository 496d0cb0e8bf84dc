"""Lifetimes of tensors in a forward and backward, as Python's names and torch's autograd hold and drop them.

A model is told to the tape op by op: what an op reads, writes and keeps for the backward. The backward then runs in
reverse, and the tape knows how many bytes were alive at most. Nothing is computed and nothing allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Piece:
    """Memory that several tensors may share."""

    size: int
    references: int = 1


@dataclass(slots=True, eq=False)
class Value:
    """A tensor of `size` bytes; a view shares the piece of another."""

    size: int
    piece: _Piece


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One differentiable op: what its backward reads, and what that allocates.

    `grads` are the bytes of each input's gradient, None where it is the output's gradient itself. `again` tells ops
    that kept nothing a second time, in the backward.
    """

    inputs: tuple[Value, ...]
    output: Value
    held: list[_Piece] = field(default_factory=list)
    grads: tuple[int | None, ...]
    scratch: int = 0
    weights: int = 0
    again: Callable[[Value], Value] | None = None


class Tape:
    """Bytes alive, now and at most; with `keeps_gradients` those of weights stay to the end."""

    def __init__(self, *, keeps_gradients: bool = False) -> None:
        self.live = 0
        self.peak = 0
        self._keeps_gradients = keeps_gradients
        self._nodes: list[Node] = []
        self._saves = True

    def new(self, size: int) -> Value:
        """A tensor that no gradient flows to; its maker holds it until `release`."""
        return Value(size, self._allocate(size))

    def release(self, *values: Value) -> None:
        """Python lets go of names."""
        for value in values:
            self._drop(value.piece)

    def scratch(self, size: int) -> None:
        """Memory that an op takes and gives back."""
        self.peak = max(self.peak, self.live + size)

    def op(
        self,
        inputs: Sequence[Value],
        size: int,
        *,
        saves: Sequence[Value] = (),
        saves_output: bool = False,
        keeps: int = 0,
        view: bool = False,
        grads: Sequence[int | None] | None = None,
        scratch: int = 0,
        back_scratch: int = 0,
        weights: int = 0,
    ) -> Value:
        """The output of an op, `size` bytes or a view of its first input.

        `inputs` are those with a gradient, of their own sizes unless `grads` says otherwise. For the backward it
        `saves` tensors, its output if asked to, and `keeps` bytes of its own. `scratch` is alive beside its results,
        `weights` are the bytes of its weights' gradients.
        """
        held = [value.piece for value in saves] if self._saves else []
        for piece in held:
            piece.references += 1
        if keeps and self._saves:
            held.append(self._allocate(keeps))
        if view:
            inputs[0].piece.references += 1
            output = Value(size, inputs[0].piece)
        else:
            output = Value(size, self._allocate(size))
        if saves_output and self._saves:
            output.piece.references += 1
            held.append(output.piece)
        self.scratch(scratch if self._saves else scratch + keeps)
        self._nodes.append(
            Node(
                inputs=tuple(inputs),
                output=output,
                held=held,
                grads=tuple(value.size for value in inputs) if grads is None else tuple(grads),
                scratch=back_scratch,
                weights=weights,
            )
        )
        return output

    def recomputed(self, tell: Callable[[Value], Value], x: Value, reads: Sequence[Value] = ()) -> Value:
        """The output of ops that keep nothing for the backward but `x`, and what else of outside they `reads`.

        `tell` tells those ops, here and once more in the backward; it takes over the name of what it is given.
        """
        held = [value.piece for value in (x, *reads)]
        for piece in held:
            piece.references += 1
        nodes, self._saves = self._nodes, False
        self._nodes = []
        output = tell(x)
        self._nodes, self._saves = nodes, True
        self._nodes.append(Node(inputs=(x,), output=output, held=held, grads=(), again=tell))
        return output

    def backward(self) -> None:
        """Run back from the last op, in the reverse of the order in which ops were told."""
        last = self._nodes[-1].output
        self._run(self._nodes, {id(last): self._allocate(last.size)})

    def _run(self, nodes: list[Node], found: dict[int, _Piece]) -> None:
        for node in reversed(nodes):
            upstream = found.pop(id(node.output), None)
            if upstream is not None and node.again is not None:
                self._tell_again(node, node.again, upstream, found)
            elif upstream is not None:
                self._back(node, upstream, found)
            for piece in node.held:
                self._drop(piece)

    def _tell_again(
        self, node: Node, tell: Callable[[Value], Value], upstream: _Piece, found: dict[int, _Piece]
    ) -> None:
        (x,) = node.inputs
        x.piece.references += 1
        nodes, self._nodes = self._nodes, []
        output = tell(x)
        again, self._nodes = self._nodes, nodes
        self.release(output)
        found[id(output)] = upstream
        self._run(again, found)

    def _back(self, node: Node, upstream: _Piece, found: dict[int, _Piece]) -> None:
        pieces = []
        for size in node.grads:
            if size is None:
                upstream.references += 1
            pieces.append(upstream if size is None else self._allocate(size))
        weights = self._allocate(node.weights)
        self.scratch(node.scratch)
        if not self._keeps_gradients:
            self._drop(weights)
        self._drop(upstream)
        for value, piece in zip(node.inputs, pieces, strict=True):
            earlier = found.get(id(value))
            if earlier is None:
                found[id(value)] = piece
            elif earlier.references == 1:
                # torch adds in place to a sum that nobody else holds.
                self._drop(piece)
            else:
                found[id(value)] = self._allocate(value.size)
                self._drop(earlier)
                self._drop(piece)

    def _allocate(self, size: int) -> _Piece:
        self.live += size
        self.peak = max(self.peak, self.live)
        return _Piece(size)

    def _drop(self, piece: _Piece) -> None:
        piece.references -= 1
        if piece.references == 0:
            self.live -= piece.size
