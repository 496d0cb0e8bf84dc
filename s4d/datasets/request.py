"""What `s4d data prepare` asks of a reader besides the folder."""

from __future__ import annotations

from dataclasses import dataclass

from s4d.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Options of one preparation; every field has a value that means "not asked for".

    `fold` is one fold of a dataset that has several. `order` is the class order that bare numbers in label files count
    in, where a dataset's files do not settle it themselves. `media` is the folder of the media below the root, for a
    dataset that exists in several forms.
    """

    fold: int | None = None
    order: tuple[str, ...] = ()
    media: str | None = None

    def refuse(self, dataset: str, *names: str) -> None:
        """UsageError where one of the options `names` is asked of a dataset that cannot serve it."""
        reasons = {"fold": "has no folds", "media": "has its media in one place only"}
        for name in names:
            if getattr(self, name) is not None:
                raise UsageError(f"--{name} {getattr(self, name)}: dataset {dataset} {reasons[name]}")
