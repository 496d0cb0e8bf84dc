"""What ranks must have in common: the line about a difference, hashes of sources."""

from __future__ import annotations

from pathlib import Path

from engine.agreement import difference
from engine.sources import source_hash, versions


def test_the_first_difference_is_named_with_its_node() -> None:
    ranks = [["n0", "a", "1"], ["n0", "a", "1"], ["n1", "a", "2"], ["n1", "b", "2"]]
    line = difference(["torch", "OMP_NUM_THREADS"], ranks)
    assert line.startswith("node n1 differs: OMP_NUM_THREADS of rank 2 there is 2, of rank 0 on n0 1;")
    assert not difference(["torch", "OMP_NUM_THREADS"], ranks[:2])


def test_the_hash_is_that_of_all_sources(tmp_path: Path) -> None:
    hashes = set()
    for root, name, text in (("a", "one", "x"), ("b", "one", "y"), ("c", "two", "x"), ("d", "one", "x")):
        (tmp_path / root / "engine").mkdir(parents=True)
        (tmp_path / root / "engine" / f"{name}.py").write_text(text)
        hashes.add(source_hash(tmp_path / root))
    assert len(hashes) == 3 and versions()["the engine's sources"] not in hashes
