"""Which samples are looked at, how, and their views, decoded here or in worker processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from s4d.config import load
from s4d.config_data import SourceConfig
from s4d.data.buffers import pixel_buffer
from s4d.data.draw_sample import EvalView
from s4d.data.draws import SampleDraw
from s4d.data.input_recipe import InputRecipe
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import read_manifest
from s4d.data.media import Media
from s4d.data.reading import read_views
from s4d.data.sources import Source
from s4d.errors import DataError, UsageError
from s4d.models.trained import TrainedModel

CONFIG_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Samples of one manifest and modality, in the order of their ids, and how each is shown to the model."""

    manifest: str
    modality: str
    recipe: InputRecipe
    source: Source

    @property
    def views(self) -> list[EvalView]:
        """Views of every sample."""
        return self.recipe.views


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleViews:
    """Pixels (V, F, S, S, 3) of a sample's views with their noise keys, or the line that says why there are none."""

    pixels: Tensor
    noise_keys: tuple[int, ...]
    problem: str | None


def manifests_of(paths: Sequence[Path]) -> list[str]:
    """The manifests that are given, or that the sources of a given run configuration name, each once."""
    found: list[str] = []
    for path in paths:
        if path.suffix in CONFIG_SUFFIXES:
            found.extend(source.manifest for source in load(path, ["model.init_from=null"]).data.sources)
        else:
            found.append(str(path))
    return list(dict.fromkeys(found))


def read_groups(
    manifests: Sequence[str], trained: TrainedModel, recipes: Mapping[str, InputRecipe], head: str | None
) -> list[Group]:
    """All samples of the manifests, whatever their split or label; a sample of several folds is there once.

    `head` chooses among heads that take the same modality in different ways. UsageError where one has to be chosen,
    DataError where the model has none for a sample's modality.
    """
    if head is not None and head not in recipes:
        raise UsageError(f"--head {head}: the model has no such head (heads: {', '.join(recipes)})")
    groups = []
    for name in manifests:
        manifest = read_manifest(name)
        rows: dict[str, ManifestRow] = {}
        for row in manifest.rows:
            first = rows.setdefault(row.sample_id, row)
            if first.path != row.path:
                raise DataError(f"{name}: sample {row.sample_id!r}: has another path in another fold")
        for modality in ("image", "video"):
            chosen = [rows[key] for key in sorted(rows) if (rows[key].kind == "image") == (modality == "image")]
            if not chosen:
                continue
            recipe = _recipe(modality, recipes, head, f"{name}: sample {chosen[0].sample_id!r}", trained.folder)
            # Decoding at a fraction of the size is what a source of one view does.
            config = SourceConfig(
                name="extracted",
                modality="image" if modality == "image" else "video",
                manifest=name,
                views=1 if recipe.small_decode else 2,
            )
            source = Source(
                config=config,
                rows=tuple(chosen),
                labels=(-1,) * len(chosen),
                classes=(),
                root=manifest.root,
                fingerprint=manifest.fingerprint,
            )
            groups.append(Group(manifest=name, modality=modality, recipe=recipe, source=source))
    return groups


def one_view(group: Group) -> Group:
    """The group with a single view of each sample: the middle crop of frames spread over the whole clip."""
    return replace(group, recipe=replace(group.recipe, temporal_views=1, spatial_views=1))


def _recipe(
    modality: str, recipes: Mapping[str, InputRecipe], head: str | None, sample: str, folder: Path
) -> InputRecipe:
    fitting = {name: recipe for name, recipe in recipes.items() if recipe.modality == modality}
    if head in fitting:
        return fitting[head]
    if not fitting:
        raise DataError(f"{sample}: is of modality {modality}, for which {folder} has no head")
    if len(set(fitting.values())) > 1:
        raise UsageError(f"--head: {', '.join(fitting)} take {modality} samples in different ways: choose one")
    return next(iter(fitting.values()))


class ViewReader:
    """Views of sample number n of a group, computable in any process."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def __getitem__(self, number: int) -> SampleViews:
        recipe, source = self.group.recipe, self.group.source
        views = self.group.views
        pixels = pixel_buffer((len(views), *recipe.spec.shape))
        sample_id = source.rows[number].sample_id

        def draw(media: Media) -> list[SampleDraw]:
            return recipe.draws(sample_id, views, frame_count=media.frame_count, size=media.size)

        try:
            draws = read_views(source, number, recipe.order, pixels.numpy(), draw=draw)
        except DataError as error:
            return SampleViews(pixels=pixels, noise_keys=(), problem=str(error))
        return SampleViews(pixels=pixels, noise_keys=tuple(item.noise_key for item in draws), problem=None)
