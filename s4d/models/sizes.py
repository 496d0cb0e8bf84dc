"""Model sizes and the resolved architecture of one model, all dimensions as host integers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from s4d.config import ModelConfig
from s4d.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Depth, width and heads of an encoder and of the decoder it is pre-trained with."""

    embed_dim: int
    depth: int
    num_heads: int
    decoder_embed_dim: int
    decoder_depth: int
    decoder_num_heads: int


SIZES: dict[str, Size] = {
    "tiny": Size(embed_dim=192, depth=12, num_heads=3, decoder_embed_dim=96, decoder_depth=4, decoder_num_heads=3),
    "small": Size(embed_dim=384, depth=12, num_heads=6, decoder_embed_dim=192, decoder_depth=4, decoder_num_heads=3),
    "base": Size(embed_dim=768, depth=12, num_heads=12, decoder_embed_dim=384, decoder_depth=4, decoder_num_heads=6),
    "large": Size(embed_dim=1024, depth=24, num_heads=16, decoder_embed_dim=512, decoder_depth=4, decoder_num_heads=8),
    "huge": Size(embed_dim=1280, depth=32, num_heads=16, decoder_embed_dim=640, decoder_depth=4, decoder_num_heads=8),
}

DECODERS = ("joint", "cross")
NOISES = ("off", "train", "always")
# Far beyond any model, and small enough that no product of two or three overflows.
LARGEST = 1 << 20
MOST_BLOCKS = 1 << 10
# The position table is the one tensor that no file holds and the architecture alone sizes.
MOST_POSITIONS = 1 << 17


@dataclass(frozen=True, kw_only=True, slots=True)
class MoaeArchitecture:
    """Which blocks carry adapter experts and how tokens are routed to them.

    `modality_prior`: a learned router bias for each modality; `shared_experts` serve every token beside routed ones.
    """

    layers: tuple[int, ...]
    num_experts: int
    top_k: int
    hidden_dim: int
    capacity_factor: float | None = None
    router_noise: str = "train"
    zero_init: bool = True
    modality_prior: bool = False
    shared_experts: int = 0

    def __post_init__(self) -> None:
        _check_whole(self, ("num_experts", "top_k"), 1)
        _check_whole(self, ("hidden_dim", "shared_experts"), 0)
        _check_flags(self, ("zero_init", "modality_prior"))
        if self.router_noise not in NOISES:
            raise ValueError(f"router_noise must be one of {', '.join(NOISES)}, got {self.router_noise!r}")
        if self.capacity_factor is not None and not _is_positive(self.capacity_factor):
            raise ValueError(f"capacity_factor must be a number above 0 or null, got {self.capacity_factor!r}")
        if not all(type(layer) is int for layer in self.layers):
            raise ValueError(f"layers must be whole numbers, got {self.layers!r:.200}")
        if self.modality_prior and self.capacity_factor is not None:
            raise ValueError("moae.modality_prior needs experts without a capacity, got capacity_factor")
        if not 1 <= self.top_k <= self.num_experts:
            raise ValueError(f"moae.top_k must lie in 1..{self.num_experts}, got {self.top_k}")
        if self.hidden_dim < 1:
            raise ValueError(f"moae.hidden_ratio leaves experts of width {self.hidden_dim}")
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"moae.first_layer leaves no ascending blocks with experts: {self.layers}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Everything that decides the shapes of a model; `experts` is None for a model without MoAE.

    `decoder` says how mask tokens look at the visible ones, see `s4d.models.mae`.
    """

    embed_dim: int
    depth: int
    num_heads: int
    decoder_embed_dim: int
    decoder_depth: int
    decoder_num_heads: int
    image_size: int = 160
    num_frames: int = 16
    patch_size: int = 16
    tubelet_size: int = 2
    position_frames: int = 16
    mlp_ratio: int = 4
    decoder: str = "joint"
    experts: MoaeArchitecture | None = None

    def __post_init__(self) -> None:
        _check_whole(self, DEPTHS, 0, MOST_BLOCKS)
        _check_whole(self, WHOLE, 1)
        if self.experts is not None and not isinstance(self.experts, MoaeArchitecture):
            raise ValueError(f"experts must be an object or null, got {type(self.experts).__name__}")
        if self.decoder not in DECODERS:
            raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, got {self.decoder!r}")
        for width, heads in (("embed_dim", "num_heads"), ("decoder_embed_dim", "decoder_num_heads")):
            if getattr(self, width) % getattr(self, heads):
                raise ValueError(f"{width} {getattr(self, width)} is not a multiple of {heads} {getattr(self, heads)}")
        if self.position_frames < self.num_frames or self.position_frames % self.tubelet_size:
            raise ValueError(
                f"position_frames {self.position_frames} must be a multiple of tubelet_size {self.tubelet_size} "
                f"and at least num_frames {self.num_frames}"
            )
        if self.experts is not None and not 0 <= self.experts.layers[0] <= self.experts.layers[-1] < self.depth:
            raise ValueError(f"moae.first_layer: blocks {self.experts.layers} do not lie in 0..{self.depth - 1}")

        if self.position_tokens > MOST_POSITIONS:
            raise ValueError(
                f"image_size {self.image_size} and position_frames {self.position_frames} make {self.position_tokens} "
                f"tokens, at most {MOST_POSITIONS} have positions"
            )

    @property
    def side(self) -> int:
        """Patch rows (and columns) of a frame."""
        return self.image_size // self.patch_size

    @property
    def position_tokens(self) -> int:
        """Rows of the position tables."""
        return self.position_frames // self.tubelet_size * self.side**2

    @property
    def token_values(self) -> int:
        """Pixel values of one token: channels x frames x height x width of a tubelet."""
        return 3 * self.tubelet_size * self.patch_size**2

    def tokens(self, modality: str) -> int:
        """Tokens of one sample of a modality."""
        return self.side**2 * (1 if modality == "image" else self.num_frames // self.tubelet_size)

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON; `from_dict` is the inverse."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, object]) -> Architecture:
        """Rebuild from `to_dict`; raises TypeError on unknown or missing fields, ValueError on bad values."""
        experts = values.get("experts")
        if isinstance(experts, dict):
            values = {**values, "experts": MoaeArchitecture(**{**experts, "layers": tuple(experts["layers"])})}
        return Architecture(**values)  # type: ignore[arg-type]


DEPTHS = ("depth", "decoder_depth")
WHOLE = tuple(
    field.name for field in dataclasses.fields(Architecture) if field.name not in (*DEPTHS, "decoder", "experts")
)


def _check_whole(
    values: Architecture | MoaeArchitecture, names: tuple[str, ...], least: int, most: int = LARGEST
) -> None:
    for name in names:
        value = getattr(values, name)
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{name} must be a whole number in {least}..{most}, got {value!r:.80}")


def _check_flags(values: MoaeArchitecture, names: tuple[str, ...]) -> None:
    for name in names:
        if type(getattr(values, name)) is not bool:
            raise ValueError(f"{name} must be true or false, got {getattr(values, name)!r:.80}")


def _is_positive(value: object) -> bool:
    return type(value) in (int, float) and 0 < value < float("inf")  # type: ignore[operator]


def architecture(model: ModelConfig, *, experts: bool) -> Architecture:
    """Resolve the size and overrides of a configuration; UsageError names the field that does not fit."""
    if model.size not in SIZES:
        raise UsageError(f"model.size: unknown size {model.size!r}; expected one of {', '.join(SIZES)}")
    dims = dataclasses.asdict(SIZES[model.size])
    for name in dims:
        value = getattr(model, name)
        if value is not None:
            dims[name] = value
    try:
        return Architecture(
            **dims,
            image_size=model.image_size,
            num_frames=model.num_frames,
            patch_size=model.patch_size,
            tubelet_size=model.tubelet_size,
            position_frames=model.position_frames or model.num_frames,
            decoder=model.decoder,
            experts=_experts(model, dims["embed_dim"], dims["depth"]) if experts else None,
        )
    except ValueError as error:
        raise UsageError(f"model.{error}") from error


def _experts(model: ModelConfig, embed_dim: int, depth: int) -> MoaeArchitecture:
    first = depth // 2 if model.moae.first_layer is None else model.moae.first_layer
    return MoaeArchitecture(
        layers=tuple(range(first, depth)),
        num_experts=model.moae.num_experts,
        top_k=model.moae.top_k,
        hidden_dim=int(embed_dim * model.moae.hidden_ratio),
        capacity_factor=model.moae.capacity_factor,
        router_noise=model.moae.router_noise,
        zero_init=model.moae.zero_init,
        modality_prior=model.moae.modality_prior,
        shared_experts=model.moae.shared_experts,
    )
