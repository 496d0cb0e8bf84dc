"""What there is to compile: every distinct launch of the compile cases, specialised as a real launch would be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from kernels.launch import CompileCase, Launch, Work, is_interpreted, recording


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One kernel to compile: for which architecture, with which types, constants and options, and who asked for it.

    ``cases`` names every case that starts it; ``grid`` and ``work`` are those of the first.
    """

    op: str
    cases: tuple[str, ...]
    dtype: torch.dtype
    architecture: int
    kernel: Any
    grid: tuple[int, ...]
    signature: Mapping[str, str]
    constants: Mapping[tuple[int, ...], Any]
    attributes: Mapping[tuple[int, ...], Any]
    options: Any
    work: Work | None

    @property
    def kernel_name(self) -> str:
        """Name of the kernel function."""
        return str(self.kernel.__name__)

    @property
    def tile(self) -> str:
        """Compile-time constants, warps and stages in one line."""
        names = self.kernel.arg_names
        constants = (f"{names[path[0]]}={_text(value)}" for path, value in self.constants.items())
        return " ".join((*constants, f"w{self.options.num_warps}", f"s{self.options.num_stages}"))


def collect(op: str, cases: Iterable[CompileCase], architecture: int) -> list[Job]:
    """Jobs of the launches that ``cases`` record for ``architecture``, each once, in the order they appear.

    Raises RuntimeError under TRITON_INTERPRET, which replaces kernels by something that cannot be compiled.
    """
    if is_interpreted():
        raise RuntimeError("TRITON_INTERPRET is set: kernels defined under it cannot be compiled")
    jobs: dict[object, Job] = {}
    for case in cases:
        with recording(dry=True, architecture=architecture) as launches:
            case.run()
        if not launches:
            raise ValueError(f"{op}: compile case {case.name!r} starts no kernel")
        for launch in launches:
            job = _specialise(op, case, launch, architecture)
            key = (job.kernel, *map(repr, (job.signature, job.constants, job.attributes, job.options)))
            known = jobs.get(key)
            if known is None:
                jobs[key] = job
            elif case.name not in known.cases:
                jobs[key] = replace(known, cases=(*known.cases, case.name))
    return list(jobs.values())


def target_of(architecture: int) -> Any:
    """Triton's description of a CUDA device of ``architecture``."""
    from triton.backends.compiler import GPUTarget

    return GPUTarget("cuda", architecture, 32)


def _specialise(op: str, case: CompileCase, launch: Launch, architecture: int) -> Job:
    """Let Triton's own binder see the arguments, so that ints of 1, multiples of 16 and aligned pointers count.

    Meta tensors have address 0, views of them their offset: what an allocator that aligns to 16 bytes would give.
    """
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    kernel = launch.kernel
    backend = make_backend(target_of(architecture))
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialised, extra = bind(
        *launch.arguments.values(),
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
        **launch.constants,
    )
    options, signature, constants, attributes = kernel._pack_args(backend, extra, bound, specialised, extra)
    return Job(
        op=op,
        cases=(case.name,),
        dtype=case.dtype,
        architecture=architecture,
        kernel=kernel,
        grid=launch.grid,
        signature=signature,
        constants=constants,
        attributes=attributes,
        options=options,
        work=case.work.get(launch.name),
    )


def _text(value: Any) -> str:
    return str(getattr(value, "__name__", value))
