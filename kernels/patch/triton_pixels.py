"""Device functions that read tokens as pixels: where a token lies, and the normalised, erased and mixed values of it.

A tubelet is numbered frame, row, column, channel: value k lies in line k // (3 * PATCH), whose bytes are contiguous.
Tokens and values arrive as tensors that broadcast against each other, so one function serves tiles of either
orientation. Byte offsets are 64-bit.
"""

# Triton reads annotations of kernel parameters itself.
# mypy: allow-untyped-defs
import triton
import triton.language as tl

# What is erased and mixed, known when a kernel is compiled.
NO_ERASING = tl.constexpr(0)
BLACK_BOX = tl.constexpr(1)
NOISE_BOX = tl.constexpr(2)
NO_MIXING = tl.constexpr(0)
MIXUP = tl.constexpr(1)
CUTMIX = tl.constexpr(2)

# Key (0, 0x45524153): the stream of erasing noise.
_ERASE_KEY = tl.constexpr(0x4552415300000000)


@triton.jit
def place_tokens(token, frames, height, width, PATCH: tl.constexpr, FRAMES: tl.constexpr):
    """Sample, first frame, top row and left column of each token."""
    token = token.to(tl.int32)
    columns = width // PATCH
    rows = height // PATCH
    slices = frames // FRAMES
    spatial = token // columns
    temporal = spatial // rows
    return temporal // slices, temporal % slices * FRAMES, spatial % rows * PATCH, token % columns * PATCH


@triton.jit
def first_bytes(sample, frame, y, x, frames, height, width):
    """Offset of the first byte of each tubelet."""
    line = (sample.to(tl.int64) * frames + frame) * height + y
    return (line * width + x) * 3


@triton.jit
def value_offsets(k, height, width, PATCH: tl.constexpr):
    """Offset of value k of a tubelet from its first byte."""
    line = k // (3 * PATCH)
    return (line // PATCH * height + line % PATCH) * (width * 3) + k % (3 * PATCH)


@triton.jit
def by_channel(channel, red, green, blue):
    """One of three values by channel number."""
    return tl.where(channel == 0, red, tl.where(channel == 1, green, blue))


@triton.jit
def _unit_normal(seed, pixel, channel):
    """Unit normals of a pixel's channels by Box-Muller: red and green share one pair of words, blue has its own.

    The angle is reduced exactly, in turns, to an eighth of a turn around a quarter; there short polynomials are as
    exact as float32, and unlike a library cosine they need no local memory for large arguments.
    """
    pixel = pixel.to(tl.uint32)
    zero = pixel * 0
    low = seed.to(tl.uint32) + zero
    high = (seed >> 32).to(tl.uint32) + zero
    w0, w1, w2, w3 = tl.philox(_ERASE_KEY, low, high, pixel, zero)
    radius_word = tl.where(channel == 2, w2, w0) >> 8
    angle_word = tl.where(channel == 2, w3, w1) >> 8
    radius = tl.sqrt(-2.0 * tl.log((radius_word + 1).to(tl.float32) * 5.9604644775390625e-08))
    # Green wants a sine: a cosine a quarter of a turn later.
    turn = angle_word.to(tl.int32) - tl.where(channel == 1, 1 << 22, 0)
    quarter = (turn + (1 << 21)) >> 22
    angle = (turn - (quarter << 22)).to(tl.float32) * 3.7450702829239305e-07
    square = angle * angle
    cosine = 2.443315711809948e-5 * square - 1.388731625493765e-3
    cosine = (cosine * square + 4.166664568298827e-2) * square * square - 0.5 * square + 1.0
    sine = -1.9515295891e-4 * square + 8.3321608736e-3
    sine = ((sine * square - 1.6666654611e-1) * square) * angle + angle
    value = tl.where(quarter & 1 == 0, cosine, sine)
    return radius * tl.where((quarter + 1) & 2 == 0, value, -value)


@triton.jit
def _inside(box, y, x):
    """Whether each pixel lies in the box [y0, x0, y1, x1) that the pointers ``box`` lead to."""
    below = (y >= tl.load(box)) & (y < tl.load(box + 2))
    return below & (x >= tl.load(box + 1)) & (x < tl.load(box + 3))


@triton.jit
def _sample_values(
    pixels,
    erase_box,
    erase_seed,
    sample,
    frame,
    y,
    x,
    k,
    wanted,
    scale,
    shift,
    frames,
    height,
    width,
    PATCH: tl.constexpr,
    ERASE: tl.constexpr,
):
    """Normalised and erased values of one sample's tubelets."""
    first = first_bytes(sample, frame, y, x, frames, height, width)
    values = tl.load(pixels + first + value_offsets(k, height, width, PATCH), mask=wanted, other=0)
    values = values.to(tl.float32) * scale + shift
    if ERASE != NO_ERASING:
        line = k // (3 * PATCH)
        row = y + line % PATCH
        column = x + k % (3 * PATCH) // 3
        erased = _inside(erase_box + sample * 4, row, column) & wanted
        if ERASE == BLACK_BOX:
            values = tl.where(erased, shift, values)
        # Noise costs far more than the product: tiles outside every box skip it.
        elif tl.max(erased.to(tl.int32)) > 0:
            pixel = ((frame + line // PATCH) * height + row) * width + column
            values = tl.where(erased, _unit_normal(tl.load(erase_seed + sample), pixel, k % 3), values)
    return values


@triton.jit
def token_values(
    pixels,
    mean,
    std,
    erase_box,
    erase_seed,
    partner,
    lam,
    mix_box,
    token,
    k,
    wanted,
    frames,
    height,
    width,
    PATCH: tl.constexpr,
    FRAMES: tl.constexpr,
    ERASE: tl.constexpr,
    MIX: tl.constexpr,
):
    """Values k of the tubelets of ``token`` as float32: normalised, then erased, then mixed; unwanted ones finite."""
    sample, frame, y, x = place_tokens(token, frames, height, width, PATCH, FRAMES)
    deviation = by_channel(k % 3, tl.load(std), tl.load(std + 1), tl.load(std + 2)).to(tl.float32)
    shift = -by_channel(k % 3, tl.load(mean), tl.load(mean + 1), tl.load(mean + 2)).to(tl.float32) / deviation
    scale = 1.0 / (255.0 * deviation)
    # fmt: off
    values = _sample_values(
        pixels, erase_box, erase_seed, sample, frame, y, x, k, wanted, scale, shift, frames, height, width, PATCH, ERASE
    )
    # fmt: on
    if MIX != NO_MIXING:
        other = tl.load(partner + sample).to(tl.int32)
        # fmt: off
        theirs = _sample_values(
            pixels, erase_box, erase_seed, other, frame, y, x, k, wanted, scale, shift, frames, height, width, PATCH,
            ERASE,
        )
        # fmt: on
        share = tl.load(lam + sample).to(tl.float32)
        if MIX == CUTMIX:
            box = mix_box + sample * 4
            is_box = (tl.load(box + 2) > tl.load(box)) & (tl.load(box + 3) > tl.load(box + 1))
            outside = ~_inside(box, y + k // (3 * PATCH) % PATCH, x + k % (3 * PATCH) // 3)
            share = tl.where(is_box, outside.to(tl.float32), share)
        values = share * values + (1.0 - share) * theirs
    return values
