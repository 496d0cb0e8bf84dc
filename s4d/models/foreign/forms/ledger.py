"""An account of a foreign file's tensors while they are put under our names: nothing is left unexplained.

Letters: D width, N rows of a position table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from s4d.models.positions import sinusoid_table
from s4d.models.release import refuse_type
from s4d.models.sizes import Architecture

# Two programs that compute the same table, one of them in float32, differ by less.
TABLE_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What the user said about a file: class names by head, and whether its classifier is to be left behind."""

    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    drop_head: bool = False


class Ledger:
    """Tensors of a file, and what became of each: taken under our name, combined into ours, or left with a reason.

    `tensors` are ours so far, `stage` says what they are: `pretrain`, `finetune`, or `encoder` for an encoder alone.
    `image_size` is that of the model's input, `classes` the names that the file itself has, `arch` the architecture
    where it is stated and not to be read off the shapes.
    """

    def __init__(self, source: Mapping[str, Tensor], *, image_size: int) -> None:
        self.source = source
        self.tensors: dict[str, Tensor] = {}
        self.mapped: dict[str, str] = {}
        self.transformed: dict[str, str] = {}
        self.unused: dict[str, str] = {}
        self.notes: list[str] = []
        self.stage = "encoder"
        self.classes: dict[str, tuple[str, ...]] = {}
        self.image_size = image_size
        self.arch: Architecture | None = None

    @property
    def rest(self) -> list[str]:
        """Names not accounted for yet, in the file's order."""
        done = self.mapped.keys() | self.transformed.keys() | self.unused.keys()
        return [name for name in self.source if name not in done]

    def take(self, name: str, ours: str) -> None:
        """The tensor as it is, under our name; ValueError if another one has that name already."""
        self._put(ours, self.source[name])
        self.mapped[name] = ours

    def combine(self, names: Sequence[str], made: Mapping[str, Tensor]) -> None:
        """The tensors `names` became those of `made`, by our names."""
        for ours, tensor in made.items():
            self._put(ours, tensor)
        for name in names:
            self.transformed[name] = ", ".join(made)

    def values(self, name: str, num_dims: int) -> Tensor:
        """The tensor to compute with; ValueError unless it holds weights and has as many dimensions."""
        tensor = self.source[name]
        refuse_type(name, tensor)
        if tensor.ndim != num_dims:
            raise ValueError(f"tensor {name!r}: expected {num_dims} dimensions, got shape {tuple(tensor.shape)}")
        return tensor

    def leave(self, name: str, reason: str) -> None:
        """The tensor is not used."""
        self.unused[name] = reason

    def note(self, text: str) -> None:
        """Something the user should know, once."""
        if text not in self.notes:
            self.notes.append(text)

    def restore_names(self, stored: Mapping[str, str]) -> None:
        """Account under the names `stored` of the file, which a form has shortened to those it was asked by."""
        for field_name in ("mapped", "transformed", "unused"):
            setattr(self, field_name, {stored[name]: value for name, value in getattr(self, field_name).items()})
        self.source = {stored[name]: tensor for name, tensor in self.source.items()}

    def leave_sinusoid(self, name: str) -> None:
        """A stored position table (1, N, D) that is the one our model computes; ValueError where it is another."""
        table = self.source[name].to(torch.float32).squeeze(0)
        if table.ndim != 2 or not torch.allclose(table, sinusoid_table(*table.shape), atol=TABLE_TOLERANCE, rtol=0):
            raise ValueError(f"tensor {name!r}: a position table of its own, where our model has the fixed sinusoid")
        self.leave(name, "equal to the fixed position table")

    def _put(self, ours: str, tensor: Tensor) -> None:
        if ours in self.tensors:
            raise ValueError(f"two tensors of the file are {ours!r}")
        self.tensors[ours] = tensor


def place_head(ledger: Ledger, weight: str, bias: str, wishes: Wishes) -> None:
    """A linear classifier goes to the head that the class names are given for, or is left behind.

    Where the file has names itself, those given must be the same ones; rows are brought into the order given.
    """
    if wishes.drop_head:
        for name in (weight, bias):
            ledger.leave(name, "classifier dropped as asked")
        ledger.classes = {}
        return
    known = next(iter(ledger.classes.values()), ())
    classes = wishes.classes or ledger.classes
    count = len(ledger.values(weight, 2))
    if len(ledger.values(bias, 1)) != count:
        raise ValueError(f"tensor {bias!r}: {len(ledger.source[bias])} values, {count} rows in {weight!r}")
    if len(classes) != 1:
        raise ClassNamesError(
            f"the file has one classifier of {count} classes without names: "
            "give --classes HEAD=name,name,... in its order, or --drop-head"
        )
    ((head, names),) = classes.items()
    if len(names) != count:
        raise ClassNamesError(f"its classifier has {count} classes, got {len(names)} names for {head!r}")
    if "" in names or len(set(names)) != count:
        raise ClassNamesError(f"a class name of {head!r} is empty or given twice")
    if known and len(known) != count:
        raise ClassNamesError(f"its classifier has {count} classes, the file names {len(known)}: {', '.join(known)}")
    if known and set(known) != set(names):
        other = sorted(set(names) - set(known))
        raise ClassNamesError(f"class {other[0]!r} of {head!r} is not one of the file's own: {', '.join(known)}")
    ledger.classes = {head: tuple(names)}
    for name, ours in ((weight, f"head.{head}.weight"), (bias, f"head.{head}.bias")):
        if known in ((), tuple(names)):
            ledger.take(name, ours)
        else:
            order = [known.index(wanted) for wanted in names]
            ledger.combine([name], {ours: ledger.source[name][order]})


class ClassNamesError(ValueError):
    """Class names are missing or do not fit: the user's to give."""
