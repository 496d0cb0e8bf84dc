"""A golden file: geometry from its metadata, tensors handed out by name so that none is forgotten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from s4d.data.batch import MODALITIES, PackedBatch, PixelGroup
from s4d.errors import DataError
from s4d.models.folder import read_tensor_file
from s4d.models.release import from_release
from s4d.models.sizes import Architecture, MoaeArchitecture

# The position tables of the released models span 16 frames, whatever the clip's length.
POSITION_FRAMES = 16


class Fixture:
    """Stored tensors of one file; `unaccounted` lists those that nobody asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors = read_tensor_file(path)
        self.config = _read_config(path)
        self._seen: set[str] = set()

    @property
    def pretrained(self) -> bool:
        """Whether the file holds a masked autoencoder, else a classifier."""
        return "decoder" in self.config

    @property
    def modalities(self) -> list[str]:
        """Modalities with an input."""
        return [name for name in MODALITIES if f"{name}.input" in self.tensors]

    def take(self, name: str) -> Tensor:
        """One stored tensor; DataError if the file lacks it."""
        if name not in self.tensors:
            raise DataError(f"{self.path}: tensor {name!r} is missing")
        self._seen.add(name)
        return self.tensors[name]

    def named(self, prefix: str) -> dict[str, Tensor]:
        """All stored tensors whose name starts with `prefix`, without it."""
        found = {name[len(prefix) :]: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}
        self._seen.update(prefix + name for name in found)
        return found

    @property
    def unaccounted(self) -> tuple[str, ...]:
        """Tensors not taken so far."""
        return tuple(sorted(set(self.tensors) - self._seen))

    def architecture(self) -> Architecture:
        """Geometry of the stored model; DataError names a field of the metadata that is missing or wrong."""
        config = self.config
        try:
            encoder = config["encoder"] if self.pretrained else config
            decoder = config["decoder"] if self.pretrained else {**encoder, "depth": 0}
            return Architecture(
                embed_dim=encoder["dim"],
                depth=encoder["depth"],
                num_heads=encoder["heads"],
                decoder_embed_dim=decoder["dim"],
                decoder_depth=decoder["depth"],
                decoder_num_heads=decoder["heads"],
                image_size=config["img_size"],
                num_frames=config["num_frames"],
                patch_size=config.get("patch_size", 16),
                tubelet_size=config.get("tubelet_size", 2),
                position_frames=POSITION_FRAMES,
                mlp_ratio=config.get("mlp_ratio", 4),
                experts=_experts(config.get("moe")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self.path}: metadata 'config': {error!r}") from error

    def load_state(self, model: nn.Module) -> None:
        """Fill `model` with the stored state; DataError unless the names and shapes are exactly the model's."""
        try:
            ours, _, _ = from_release(self.named("state."))
            model.load_state_dict(ours, strict=True)
        except (RuntimeError, ValueError) as error:
            lines = [line.strip() for line in str(error).splitlines()]
            raise DataError(f"{self.path}: state does not fit the metadata: {' '.join(lines[:3])}") from error


def batch_of(fixture: Fixture, modality: str, arch: Architecture, dtype: torch.dtype) -> PackedBatch:
    """All samples of one modality with float pixels; masked as stored in a pre-training file, else all visible."""
    stored = fixture.take(f"{modality}.input").to(dtype)
    frames = stored.unsqueeze(2) if stored.ndim == 4 else stored
    pixels = frames.permute(0, 2, 3, 4, 1).contiguous()
    count, tokens = pixels.shape[0], arch.tokens(modality)
    masked = torch.zeros(count, tokens, dtype=torch.bool)
    if fixture.pretrained:
        masked = fixture.take(f"{modality}.mask").to(torch.bool)
    if masked.shape != (count, tokens) or (masked.sum(1) != masked[0].sum()).any():
        wanted = f"({count}, {tokens}), equally many masked in each row"
        raise DataError(f"{fixture.path}: tensor '{modality}.mask': expected {wanted}")
    places = torch.arange(count * tokens)
    visible = tokens - int(masked[0].sum())
    return PackedBatch(
        groups=(PixelGroup(pixels=pixels, modality=modality, sample_ids=tuple(map(str, range(count)))),),
        cu_seqlens=_borders(count, tokens),
        max_seqlen=tokens,
        layout=((count, tokens),),
        visible_indices=places[~masked.flatten()],
        masked_indices=places[masked.flatten()],
        cu_seqlens_visible=_borders(count, visible),
        max_seqlen_visible=visible,
        layout_visible=((count, visible),),
        positions=places % tokens,
        modality=torch.full((count,), MODALITIES.index(modality)),
        heads=(),
        step_samples={modality: count},
        noise_keys=torch.arange(count),
        layer_keys=torch.zeros(arch.depth, dtype=torch.int64),
    )


def _borders(count: int, length: int) -> Tensor:
    return torch.arange(count + 1, dtype=torch.int32) * length


def _experts(moe: dict[str, Any] | None) -> MoaeArchitecture | None:
    if not moe or not moe["layers"]:
        return None
    return MoaeArchitecture(
        layers=tuple(moe["layers"]),
        num_experts=moe["num_experts"],
        top_k=moe["top_k"],
        hidden_dim=moe["hidden"],
        capacity_factor=moe["capacity_factor"],
        router_noise="always",
        zero_init=False,
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("config")
        config = json.loads(text or "null")
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path}: metadata 'config' is not readable: {error}") from error
    if not isinstance(config, dict):
        raise DataError(f"{path}: metadata 'config' is missing: not a golden file")
    return config
