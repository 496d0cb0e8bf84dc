from __future__ import annotations

import math

import pytest
import torch

from kernels.philox import NoiseKey, normal, philox, uniform

# Known answers published with Random123 for philox4x32-10: counter, key, result.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def noise_key(rows: torch.Tensor, **changes: int) -> NoiseKey:
    fields = {"seed": 7, "epoch": 2, "layer": 9} | changes
    return NoiseKey.of(sample_key=rows * 0x1234567_89AB, token=rows % 13, **fields)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    words = philox(tuple(torch.tensor([word, 1]) for word in counter), key)
    assert tuple(int(word[0]) for word in words) == expected


def test_counter_words_wrap_at_32_bits() -> None:
    small = philox(tuple(torch.tensor(word) for word in (1, 2, 3, 4)), (5, 6))
    large = philox(tuple(torch.tensor(word + (7 << 32)) for word in (1, 2, 3, 4)), (5, 6))
    negative = philox(tuple(torch.tensor(word) for word in (-1, 0, 0, 0)), (0, 0))
    unsigned = philox(tuple(torch.tensor(word) for word in (0xFFFFFFFF, 0, 0, 0)), (0, 0))
    assert torch.equal(torch.stack(small), torch.stack(large))
    assert torch.equal(torch.stack(negative), torch.stack(unsigned))


def test_uniform_and_normal_ranges() -> None:
    words = torch.tensor([0, 0xFFFFFFFF])
    assert uniform(words).tolist() == [0.0, 1.0 - 2.0**-24]
    cosine, sine = normal(words, torch.zeros(2, dtype=torch.int64))
    assert cosine.tolist() == [math.sqrt(48 * math.log(2)), 0.0]
    assert sine.tolist() == [0.0, 0.0]


def test_noise_moments() -> None:
    values = noise_key(torch.arange(50_000)).normal(8, torch.float64)
    assert values.mean().abs() < 4 / math.sqrt(values.numel())
    assert (values.square().mean() - 1).abs() < 4 * math.sqrt(2 / values.numel())
    correlation = torch.corrcoef(values.T) - torch.eye(8)
    assert correlation.abs().max() < 5 / math.sqrt(values.shape[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_noise_does_not_depend_on_place(dtype: torch.dtype) -> None:
    rows = torch.arange(1009)
    whole = noise_key(rows).normal(8, dtype)
    order = torch.randperm(1009)
    assert torch.equal(noise_key(rows[order]).normal(8, dtype), whole[order])
    for start, end in [(0, 1), (3, 4), (5, 12), (13, 31), (500, 1009)]:
        assert torch.equal(noise_key(rows[start:end]).normal(8, dtype), whole[start:end])
    for columns in (1, 3, 5):
        assert torch.equal(noise_key(rows).normal(columns, dtype), whole[:, :columns])


def test_every_part_of_the_key_matters() -> None:
    rows = torch.arange(64)
    base = noise_key(rows).normal(4)
    for changes in ({"seed": 8}, {"seed": 7 + (1 << 32)}, {"epoch": 3}, {"epoch": 2 + (1 << 32)}, {"layer": 10}):
        assert not torch.isclose(noise_key(rows, **changes).normal(4), base).any()
    far = NoiseKey.of(seed=7, epoch=2, layer=9, sample_key=rows * 0x123456789AB + (1 << 40), token=rows % 13)
    assert not torch.isclose(far.normal(4), base).any()


def test_empty_noise() -> None:
    assert noise_key(torch.arange(0)).normal(8).shape == (0, 8)


def test_noise_key_errors() -> None:
    token = torch.arange(3)
    with pytest.raises(ValueError, match=r"sample_key: expected int64 \(T,\), got torch.float32 \(3,\)"):
        NoiseKey.of(seed=0, epoch=0, layer=0, sample_key=torch.zeros(3), token=token)
    with pytest.raises(ValueError, match=r"expected one token per sample_key \(3,\), got \(2,\)"):
        NoiseKey.of(seed=0, epoch=0, layer=0, sample_key=token, token=token[:2])
    with pytest.raises(ValueError, match=r"key: expected int64 \(1,\), got torch.int64 \(3,\)"):
        NoiseKey(key=token, sample_key=token, token=token)


@pytest.mark.gpu
def test_gpu_gives_the_same_words_and_noise() -> None:
    rows = torch.arange(1009)
    words = philox((rows, rows >> 3, rows * 5, rows), (1, 2))
    on_device = philox(tuple(word.cuda() for word in (rows, rows >> 3, rows * 5, rows)), (1, 2))
    assert torch.equal(torch.stack(words), torch.stack(on_device).cpu())
    # Libraries differ by a unit of float64 in log and cos.
    torch.testing.assert_close(
        noise_key(rows.cuda()).normal(8, torch.float64).cpu(),
        noise_key(rows).normal(8, torch.float64),
        atol=0,
        rtol=1e-13,
    )
