"""The native library: where it is found, why it is not, and its functions against the portable ones."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import kernels.native as native
from kernels.moae.plan import native_plan
from kernels.patch import Erase, Mix, embed_visible
from kernels.patch.gather import gathered_rows
from kernels.patch.request import PatchRequest
from kernels.patch.tubelets import token_grid

needs_library = pytest.mark.skipif(not native.status()[0], reason=native.status()[1])
SOURCES = Path(native.__file__).parent


@pytest.fixture
def fresh_load() -> Iterator[None]:
    """Forget what is loaded, before and after."""
    native._load.cache_clear()
    yield
    native._load.cache_clear()


@pytest.mark.usefixtures("fresh_load")
def test_missing_library_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "LIBRARY_NAME", "libabsent.so")
    available, reason = native.status()
    assert not available and "is not built" in reason
    with pytest.raises(RuntimeError, match="is not built"):
        native.library()


@pytest.mark.usefixtures("fresh_load")
def test_broken_library_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / native.LIBRARY_NAME
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(native, "_library_path", lambda: broken)
    available, reason = native.status()
    assert not available and "does not load" in reason and str(broken) in reason


@needs_library
@pytest.mark.usefixtures("fresh_load")
def test_library_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "ABI_VERSION", 999)
    available, reason = native.status()
    assert not available and "expected interface version 999" in reason


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_the_library_tells_which_instructions_its_loops_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built = tmp_path / native.LIBRARY_NAME
    sources = [SOURCES / name for name in ("instruction_set.cpp", "routing_plan.cpp")]
    subprocess.run(["g++", "-std=c++17", "-shared", "-fPIC", *sources, "-o", built], check=True)
    monkeypatch.setattr(native, "library", lambda: ctypes.CDLL(str(built)))
    flags = Path("/proc/cpuinfo").read_text().split()
    levels = {"x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, "x86-64-v3": {"avx2", "fma"}}
    fitting = [name for name, needed in levels.items() if needed <= set(flags)]
    assert native.instruction_set() in (fitting[0] if fitting else "x86-64", "one for every processor")
    monkeypatch.setattr(native, "library", lambda: ctypes.CDLL(None))
    assert native.instruction_set() is None, "a library that was built before"


def group(samples: int = 3, frames: int = 4, size: int = 24) -> Tensor:
    return torch.randint(0, 256, (samples, frames, size, size, 3), dtype=torch.uint8)


def changes(samples: int, *, noise: bool, boxes: bool) -> tuple[Mix, Erase]:
    def box() -> Tensor:
        corners = torch.randint(-3, 27, (samples, 2, 2)).sort(1).values
        return corners.flatten(1).to(torch.int32)

    mix = Mix(partner=torch.randperm(samples), lam=torch.rand(samples), box=box() if boxes else None)
    return mix, Erase(box=box(), seed=torch.randint(-(2**62), 2**62, (samples,)), noise=noise)


def rows_of_both(
    pixels: Tensor, indices: Tensor, patch: int, mix: Mix | None, erase: Erase | None
) -> tuple[Tensor, Tensor]:
    from kernels.patch.native import native_rows

    request = PatchRequest(
        pixels=pixels,
        indices=indices,
        mean=torch.tensor([0.485, 0.456, 0.406]),
        std=torch.tensor([0.229, 0.224, 0.225]),
        grid=token_grid(pixels, patch, 2),
        compute_dtype=torch.float32,
        mix=mix,
        erase=erase,
    )
    return native_rows(request), gathered_rows(request)


@needs_library
@pytest.mark.parametrize("frames", [1, 2, 6])
@pytest.mark.parametrize("patch", [3, 4, 8, 24])
def test_rows_equal_the_portable_ones_to_the_bit(frames: int, patch: int) -> None:
    pixels = group(frames=frames)
    tokens = 3 * max(frames // 2, 1) * (24 // patch) ** 2
    every = torch.randperm(tokens)
    ours, theirs = rows_of_both(pixels, every, patch, None, None)
    assert torch.equal(ours, theirs)
    for noise in (False, True):
        for boxes in (False, True):
            mix, erase = changes(3, noise=noise, boxes=boxes)
            ours, theirs = rows_of_both(pixels, every, patch, mix, erase)
            # Noise passes through two implementations of logarithm and cosine in float64.
            torch.testing.assert_close(ours, theirs, rtol=2e-7 if noise else 0, atol=2e-7 if noise else 0)


@needs_library
def test_rows_do_not_depend_on_the_number_of_threads() -> None:
    pixels, every = group(), torch.arange(3 * 2 * 36)
    mix, erase = changes(3, noise=True, boxes=True)
    one = rows_of_both(pixels, every, 4, mix, erase)[0]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        three = rows_of_both(pixels, every, 4, mix, erase)[0]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, three)


@needs_library
def test_indices_outside_are_refused() -> None:
    pixels = group()
    for wrong in (-1, 3 * 2 * 9):
        with pytest.raises(ValueError, match="expected places within"):
            rows_of_both(pixels, torch.tensor([0, wrong]), 8, None, None)
    mix = Mix(partner=torch.tensor([0, 1, 3]), lam=torch.ones(3))
    with pytest.raises(ValueError, match="expected places within"):
        rows_of_both(pixels, torch.tensor([0]), 8, mix, None)
    with pytest.raises(ValueError, match="topk_expert_ids: expected 0 to 3, got -1"):
        native_plan(torch.tensor([[0, -1]]), 4, None)


@needs_library
def test_custom_ops_are_registered_soundly() -> None:
    from kernels.native.ops import routing_plan, visible_patches

    ids = torch.rand(20, 8).argsort(1)[:, :2].contiguous()
    for capacity in (None, 3):
        torch.library.opcheck(routing_plan, (ids, 8, capacity))
    pixels, indices = group(), torch.tensor([3, 0, 17])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    mix, erase = changes(3, noise=True, boxes=True)
    tensors, sizes = (pixels, indices, mean, std), {"patch_size": 8, "frames_per_token": 2}
    for erased in ([], [erase.box], [erase.box, erase.seed]):
        for mixed in ([], [mix.partner, mix.lam], [mix.partner, mix.lam, mix.box]):
            torch.library.opcheck(visible_patches, (*tensors, erased, mixed), sizes)


def test_grouped_matmul_ops_are_registered_soundly() -> None:
    from kernels.moae.ragged import ragged_matmul, ragged_outer

    offsets = torch.tensor([0, 3, 3, 10], dtype=torch.int32)
    for dtype in (torch.float32, torch.float64):
        rows, matrices = torch.randn(10, 6, dtype=dtype), torch.randn(3, 6, 5, dtype=dtype)
        torch.library.opcheck(ragged_matmul, (rows, matrices, offsets))
        torch.library.opcheck(ragged_outer, (rows, torch.randn(10, 5, dtype=dtype), offsets))


def test_native_row_says_why_it_refuses() -> None:
    weight, bias = torch.zeros(4, 3, 2, 8, 8, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    mean = std = torch.full((3,), 0.5)
    for pixels in (group(), group().double()):
        with pytest.raises(ValueError, match="'native' cannot serve this call: "):
            embed_visible(pixels, torch.tensor([0]), weight, bias, mean, std, backend="native")


def test_parts_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_load", lambda: (None, "gone"))
    assert native.parts() == {"processor": "gone", "bfloat16 attention": "gone", "CUDA": "gone"}
    monkeypatch.setattr(native, "_load", lambda: (object(), ""))
    assert "without a CUDA compiler" in str(native.cuda_refuses())


@pytest.mark.skipif(
    not {"c++", "make"} <= {tool for tool in ("c++", "make") if shutil.which(tool)}, reason="no compiler"
)
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    command = ["make", "native-sanitize", f"SANITIZED={tmp_path}", "CXX=c++"]
    run = subprocess.run(command, cwd=SOURCES.parents[1], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    expected = native.attention_refuses(64) or "run"
    assert f"all good; attention: {expected}" in run.stdout


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_headers_are_plain_c_plus_plus(tmp_path: Path) -> None:
    probe = tmp_path / "probe.cpp"
    headers = ("s4d_native.h", "tokens.h", "bfloat16.h", "erase_noise.h", "huge_pages.h", "routing_plan_tiles.h")
    probe.write_text("".join(f'#include "{name}"\n' for name in headers) + "int main() { return 0; }\n")
    flags = ["-std=c++17", "-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only", f"-I{SOURCES}"]
    subprocess.run(["c++", *flags, str(probe)], check=True)
