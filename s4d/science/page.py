"""The part of docs/experiments.md that is written from the results, and its pictures."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Sequence
from pathlib import Path

from s4d.analysis.picture import Picture
from s4d.atomic_files import write_atomically
from s4d.science.arms import ARMS, DYNAMIC, GROUPS, STATIC, Group, arm_named
from s4d.science.curves import SET_TITLES, learning_curves, scaling_picture
from s4d.science.study import COLUMNS as STUDY_COLUMNS
from s4d.science.study import study_path, study_rows
from s4d.science.table import SCORES, Gain, Result, Spread, arms_in, gains, read_results, spread
from s4d.statistics import Interval

COLUMNS = ("arm", "seeds", "DFER UAR", "DFER WAR", "SFER UAR", "SFER WAR", "minutes")
GAIN_COLUMNS = ("set", "from", "to", "seeds", "gain in UAR", "95 % interval", "gain in WAR", "95 % interval")
# A terminal has room for what is asked for most: WAR is on the page and in the JSON.
TERMINAL_COLUMNS = ("arm", "seeds", "DFER UAR", "SFER UAR", "minutes")
TERMINAL_GAIN_COLUMNS = ("set", "from", "to", "seeds", "gain in UAR", "95 % interval")
MODALITY = {DYNAMIC: "DFER", STATIC: "SFER"}
TITLES: dict[Group, str] = {"claim": "Arms", "scaling": "Amount of SFER data", "variation": "Variations"}


def page_lines(results_root: Path, sizes: Sequence[str], pictures: Path) -> list[str]:
    """Tables and pictures of every size with a result; the pictures are written into the folder of the page."""
    lines: list[str] = []
    for size in sizes:
        results = read_results(results_root / size)
        if results:
            lines += [*size_lines(size, results), *_pictures(size, results, pictures)]
            study = study_path(results_root / size)
            if study.exists():
                lines += ["Of the correlation study:", "", *_table(STUDY_COLUMNS, study_rows(study)), ""]
    return lines[:-1] if lines else ["No result is committed yet."]


def size_lines(size: str, results: Sequence[Result]) -> list[str]:
    """The tables of one size."""
    machines = sorted({result.document["machine"]["device_name"] for result in results})
    commits = sorted({(result.document["commit"] or "unknown")[:10] for result in results})
    first = results[0].document
    lines = [
        f"### Size `{size}`",
        "",
        f"{', '.join(machines)}; commit {', '.join(commits)}; {first['steps']} steps; training samples: "
        f"{_training_samples(results)}. {_seed_sentence(results)}",
        "",
    ]
    for group in GROUPS:
        if names := arms_in(results, group):
            lines += [f"{TITLES[group]}:", "", *_table(COLUMNS, arm_rows(results, names, group)), ""]
    answers = gains(results)
    if answers:
        lines += ["Gains, on the same test samples:", "", *_table(GAIN_COLUMNS, [gain_row(gain) for gain in answers])]
        lines += [""]
    return lines


def arm_rows(results: Sequence[Result], names: Sequence[str], group: Group = "claim") -> list[tuple[str, ...]]:
    """Cells of `COLUMNS` for each arm."""
    rows = []
    for name in names:
        own = [result for result in results if result.arm == name]
        arm = arm_named(name)
        title = f"{100 * arm.stills:g} % of the stills" if group == "scaling" else arm.title
        title = f"{title} (`{name}`)"
        scores = [_cell(spread(results, name, source, score)) for source in (DYNAMIC, STATIC) for score in SCORES]
        minutes = statistics.mean(result.document["seconds"] for result in own) / 60
        rows.append((title, ", ".join(str(result.seed) for result in own), *scores, f"{minutes:.1f}"))
    return rows


def terminal_rows(results: Sequence[Result], names: Sequence[str]) -> list[tuple[str, ...]]:
    """Cells of `TERMINAL_COLUMNS` for each arm."""
    return [(name, row[1], row[2], row[4], row[6]) for name, row in zip(names, arm_rows(results, names), strict=True)]


def _cell(found: Spread | None) -> str:
    if found is None:
        return "-"
    text = f"{found.mean:.3f}" + ("" if found.deviation is None else f" +- {found.deviation:.3f}")
    return f"({text})" if found.is_cross else text


def gain_row(gain: Gain) -> tuple[str, ...]:
    """Cells of `GAIN_COLUMNS`."""
    assert gain.scores is not None
    cells = [cell for interval in (gain.scores.uar, gain.scores.war) for cell in _interval(interval)]
    before, after = (f"`{name}`" for name in (gain.before, gain.after))
    return (SET_TITLES[gain.source], before, after, str(len(gain.seeds)), *cells)


def terminal_gain(gain: Gain) -> tuple[str, ...]:
    """Cells of `TERMINAL_GAIN_COLUMNS`."""
    return (MODALITY[gain.source], gain.before, gain.after, *gain_row(gain)[3:6])


def _interval(interval: Interval) -> tuple[str, str]:
    return f"{interval.value:+.3f}", f"{interval.low:+.3f} to {interval.high:+.3f}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *(f"| {' | '.join(row)} |" for row in rows)]


def _training_samples(results: Sequence[Result]) -> str:
    largest: dict[str, int] = {}
    for result in results:
        for name, count in result.document["data"]["training_samples"].items():
            largest[name] = max(count, largest.get(name, 0))
    titles = {DYNAMIC: "labelled clips", STATIC: "labelled stills"}
    return ", ".join(f"{count} {titles[name]}" for name, count in sorted(largest.items(), reverse=True))


def _seed_sentence(results: Sequence[Result]) -> str:
    seeds = {arm.name: {result.seed for result in results if result.arm == arm.name} for arm in ARMS}
    claim = [seeds[arm.name] for arm in ARMS if arm.group == "claim"]
    whole = set.intersection(*claim)
    if len(whole) >= 3:
        return f"Seeds that all arms have: {', '.join(map(str, sorted(whole)))}."
    return (
        f"Unfinished: {len(whole)} seed{'' if len(whole) == 1 else 's'} of all arms, where at least 3 are wanted; an "
        "interval from one seed is of test samples alone and says nothing about other seeds."
    )


def _pictures(size: str, results: Sequence[Result], folder: Path) -> list[str]:
    drawn = {"curves": learning_curves(results)}
    if arms_in(results, "scaling"):
        drawn["scaling"] = scaling_picture(results)
    lines = []
    for name, picture in drawn.items():
        path = folder / f"experiments-{name}-{size}.png"
        write_atomically(path, png_of(picture))
        lines += [f"![{picture.alt}]({path.name})", "", picture.caption, ""]
    return lines


def png_of(picture: Picture) -> bytes:
    """The picture for light pages as a file."""
    return base64.b64decode(picture.light.partition(",")[2])
