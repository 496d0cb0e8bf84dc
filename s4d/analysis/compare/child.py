"""One side of `s4d bench compare`: times cases of the source tree that it is told, whichever revision that is.

Run by path as `python -P child.py TREE DEVICE [NATIVE]`, the same file for both sides, so it imports nothing of ours
but what is measured. It answers each line of JSON on stdin with one on stdout. A tree's own packages come from TREE and
its native library from the folder NATIVE, whatever is installed in the environment.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("kernels", "s4d", "engine")
LEARNING_RATE = 1e-4
WARM_CALLS = 2
CLASSES = 7

Call = Callable[[], object]


class MissingError(Exception):
    """This tree has no such case."""


def use_tree(tree: Path, native: Path | None) -> None:
    """Import our packages from `tree` alone; editable installs redirect them to the tree they were made from."""
    for finder in list(sys.meta_path):
        # Python's own finders are classes.
        if not isinstance(finder, type) and finder.find_spec("kernels", None) is not None:
            sys.meta_path.remove(finder)
    sys.path.insert(0, str(tree))
    importlib.invalidate_caches()
    if native is not None:
        # The library is looked for beside the module and along its package's path, when it is first used.
        importlib.import_module("kernels.native").__path__.append(str(native))


def origins() -> dict[str, Any]:
    """Where the packages, and the native library that is mapped into this process, come from."""
    usable, reason = importlib.import_module("kernels.native").status()
    lines = Path("/proc/self/maps").read_text().splitlines() if os.path.exists("/proc/self/maps") else []
    mapped = {line.split(maxsplit=5)[5] for line in lines if line.endswith("libs4d_native.so")}
    return {
        "packages": {name: importlib.import_module(name).__file__ for name in PACKAGES},
        "native": sorted(mapped) if usable else [],
        "native_reason": reason,
    }


def build_case(name: str, device: torch.device) -> Call:
    """The call of a case such as `moae/t1600` or `step/pretrain`: forward and backward, of a step the update too."""
    op, _, case = name.partition("/")
    return _whole_step(case, device) if op == "step" else _kernel(op, case, device)


def _kernel(op_name: str, case_name: str, device: torch.device) -> Call:
    ops = importlib.import_module("kernels.bench.ops").OPS
    if op_name not in ops or case_name not in ops[op_name].cases:
        raise MissingError(f"{op_name}/{case_name} is no case of kernels.bench")
    op = ops[op_name]
    case = op.cases[case_name]
    inputs = case.inputs(device, torch.bfloat16)
    automatic = op.automatic(inputs)
    run = next(peer for peer in op.peers(case) if peer.name == automatic).build(inputs)

    def call() -> None:
        outputs = run.outputs()
        if run.leaves:
            run.backward(outputs)

    return call


def _whole_step(task: str, device: torch.device) -> Call:
    try:
        steps = importlib.import_module("s4d.analysis.bench_step")
        build = importlib.import_module("s4d.models.build")
        shape = steps.StepShape(task=task, size="small", images=2, clips=2)
    except (ImportError, AttributeError, TypeError) as error:
        raise MissingError(f"step/{task}: {error}") from error
    arch = shape.architecture()
    heads = dict.fromkeys(("image", "video"), CLASSES)
    model = build.build_pretrain(arch, 0) if task == "pretrain" else build.build_finetune(arch, heads, 0)
    model.to(device, torch.bfloat16).train()
    batch = steps.random_batch(shape, arch).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def call() -> None:
        output = model(batch)
        parts = output.values() if task == "pretrain" else [each.logsumexp(1).sum() for each in output.logits.values()]
        torch.stack(list(parts)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return call


class Timer:
    """The case that is ready, if any."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._call: Call | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What one request asks for."""
        match request["do"]:
            case "origins":
                return origins()
            case "prepare":
                try:
                    self._call = build_case(request["case"], self._device)
                except MissingError as error:
                    return {"missing": str(error)}
                self._time(WARM_CALLS)
                return {"seconds": self._time(1)}
            case "time":
                return {"seconds": self._time(request["calls"])}
            case _:
                self._call = None
                gc.collect()
                return {}

    def _time(self, calls: int) -> float:
        assert self._call is not None, "a case is prepared before it is timed"
        gc.collect()
        gc.disable()
        try:
            self._wait()
            start = time.perf_counter()
            for _ in range(calls):
                self._call()
            self._wait()
            return (time.perf_counter() - start) / calls
        finally:
            gc.enable()

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def main(tree: str, device: str, native: str | None = None) -> None:
    """Answer requests until stdin ends; what else is printed goes to stderr."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        use_tree(Path(tree), Path(native) if native is not None else None)
        timer = Timer(torch.device(device))
        for line in sys.stdin:
            try:
                answer = timer.answer(json.loads(line))
            except Exception as error:
                first = (str(error).splitlines() or [""])[0]
                answer = {"error": f"{type(error).__name__}: {first}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
