"""fp32 weights and AdamW moments of a DeepSpeed engine as full tensors with names, at every ZeRO stage.

AdamW updates a few fp32 tensors on each rank, here called shards: the parameters themselves, or flat slices of fp32
copies of them. `MasterState` knows which part of which parameter lies where, so that anything shaped like
the shards (weights, moments, a moving average) can be gathered into, and set from, full tensors under parameter names.
Offloaded, the shards lie in host memory while the device, over which the ranks talk, is a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")
BUCKET_ELEMENTS = 1 << 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Fragment:
    """The part of a parameter that one rank owns: `numel` elements from `offset`, at `shard_offset` of a shard."""

    shard: int
    shard_offset: int
    offset: int
    numel: int


Layout = tuple[list[Tensor], dict[str, Fragment | None], bool]


class MasterState:
    """Named view of what AdamW updates. Methods that gather are collective: every rank calls them in step."""

    def __init__(self, engine: Any, module: nn.Module) -> None:
        self._engine = engine
        self._optimizer: torch.optim.AdamW = engine.basic_optimizer
        parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self.shapes = {name: tuple(getattr(value, "ds_shape", value.shape)) for name, value in parameters.items()}
        layout, self._push = KINDS[type(engine.optimizer).__name__]
        self.shards, self._fragments, self._replicated = layout(engine, parameters)

    def moments(self, key: str) -> list[Tensor]:
        """AdamW's `exp_avg` or `exp_avg_sq`, one tensor per shard."""
        return [self._optimizer.state[shard][key] for shard in self.shards]

    @property
    def updates(self) -> int:
        """Steps that AdamW has taken: those that were not left out."""
        return int(self._optimizer.state[self.shards[0]]["step"])

    def reset_optimizer(self, step: int) -> None:
        """Give every shard zero moments and AdamW's step counter, whatever the engine put there at its start."""
        self._optimizer.state.clear()
        for shard in self.shards:
            counter = torch.tensor(float(step), dtype=torch.float32, device=shard.device)
            moments = {key: torch.zeros_like(shard, memory_format=torch.preserve_format) for key in MOMENTS}
            self._optimizer.state[shard] = {"step": counter, **moments}

    def gather(self, tensors: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, full fp32 tensor) in parameter order from `tensors`, which are laid out like the shards.

        Where this rank holds all of a parameter, what is yielded is that memory itself, not a copy; else it is memory
        of the device over which the ranks talk.
        """
        if self._replicated or dist.get_world_size() == 1:
            yield from self._own_memory(tensors)
            return
        for names in self._buckets():
            sizes = [torch.Size(self.shapes[name]).numel() for name in names]
            flat = torch.zeros(sum(sizes), dtype=torch.float32, device=self._engine.device)
            views = dict(zip(names, flat.split(sizes), strict=True))
            for name, view in views.items():
                self._copy(view, self._fragments[name], tensors, into_view=True)
            # Every element has one owner and is zero elsewhere; added as integers the bits survive unchanged.
            dist.all_reduce(flat.view(torch.int32))
            for name, view in views.items():
                yield name, view.view(self.shapes[name])

    @torch.no_grad()
    def scatter(self, tensors: Sequence[Tensor], full: Callable[[str], Tensor]) -> None:
        """Fill `tensors`, laid out like the shards, from full tensors looked up by name; not collective."""
        for name, fragment in self._fragments.items():
            if fragment is not None:
                value = full(name).to(device=self.shards[0].device, dtype=torch.float32)
                self._copy(value.reshape(-1), fragment, tensors, into_view=False)

    def push(self) -> None:
        """Copy the fp32 weights into the weights the model computes with; collective when they are sharded."""
        with torch.no_grad():
            self._push(self._engine)

    def _own_memory(self, tensors: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, fragment in self._fragments.items():
            assert fragment is not None, f"{name}: no rank holds it"
            flat = tensors[fragment.shard].detach().view(-1)
            yield name, flat.narrow(0, fragment.shard_offset, fragment.numel).view(self.shapes[name])

    def _buckets(self) -> Iterator[list[str]]:
        names: list[str] = []
        elements = 0
        for name, shape in self.shapes.items():
            size = torch.Size(shape).numel()
            if names and elements + size > BUCKET_ELEMENTS:
                yield names
                names, elements = [], 0
            names.append(name)
            elements += size
        if names:
            yield names

    @staticmethod
    @torch.no_grad()
    def _copy(view: Tensor, fragment: Fragment | None, tensors: Sequence[Tensor], *, into_view: bool) -> None:
        if fragment is None:
            return
        mine = tensors[fragment.shard].view(-1).narrow(0, fragment.shard_offset, fragment.numel)
        theirs = view.narrow(0, fragment.offset, fragment.numel)
        if into_view:
            theirs.copy_(mine)
        else:
            mine.copy_(theirs)


def _own_parameters(engine: Any, parameters: Mapping[str, nn.Parameter]) -> Layout:
    fragments: dict[str, Fragment | None] = {
        name: Fragment(shard=index, shard_offset=0, offset=0, numel=parameter.numel())
        for index, (name, parameter) in enumerate(parameters.items())
    }
    return list(parameters.values()), fragments, True


def _flat_slices(shards: list[Tensor], parameters: Mapping[str, Any]) -> Layout:
    fragments: dict[str, Fragment | None] = {}
    for name, parameter in parameters.items():
        link = parameter._hp_mapping
        fragments[name] = (
            None
            if link is None
            else Fragment(
                shard=link.param_group_index,
                shard_offset=link.hp_fragment_address.start,
                offset=link.lp_fragment_address.start,
                numel=link.lp_fragment_address.numel,
            )
        )
    return shards, fragments, False


def _zero_1_and_2(engine: Any, parameters: Mapping[str, nn.Parameter]) -> Layout:
    return _flat_slices(engine.optimizer.single_partition_of_fp32_groups, parameters)


def _zero_1_bf16(engine: Any, parameters: Mapping[str, nn.Parameter]) -> Layout:
    return _flat_slices(engine.optimizer.fp32_groups_flat_partition, parameters)


def _zero_3(engine: Any, parameters: Mapping[str, Any]) -> Layout:
    optimizer = engine.optimizer
    fragments: dict[str, Fragment | None] = {}
    for name, parameter in parameters.items():
        shard, shard_offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
        offset = size * dist.get_rank()
        # The last ranks hold padding where the size is no multiple of the world size.
        numel = min(size, parameter.ds_numel - offset)
        fragments[name] = (
            None if numel <= 0 else Fragment(shard=shard, shard_offset=shard_offset, offset=offset, numel=numel)
        )
    return optimizer.fp32_partitioned_groups_flat, fragments, False


def _push_nothing(engine: Any) -> None:
    """The model computes with the fp32 weights themselves, or rounds them where it does."""


def _push_flat(engine: Any) -> None:
    engine.optimizer.update_lp_params()


def _push_zero_3(engine: Any) -> None:
    optimizer = engine.optimizer
    # Small parameters stay gathered between steps: let go of the old copies, gather them again from the new shards.
    optimizer._partition_all_parameters()
    for index in range(len(optimizer.fp32_partitioned_groups_flat)):
        optimizer._reassign_or_swap_out_partitioned_parameters(index)
    if optimizer.persistent_parameters:
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


# DeepSpeed's optimizer class -> where the fp32 weights lie, how to hand them to the model.
KINDS: dict[str, tuple[Callable[[Any, Mapping[str, Any]], Layout], Callable[[Any], None]]] = {
    "WholeAdamW": (_own_parameters, _push_nothing),
    "DeepSpeedZeroOptimizer": (_zero_1_and_2, _push_flat),
    "BF16_Optimizer": (_zero_1_bf16, _push_flat),
    "DeepSpeedZeroOptimizer_Stage3": (_zero_3, _push_zero_3),
}
