"""People from `identities.csv`: which samples they reach in each dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tree_case import Tree, ids, put
from trees import TREES

from s4d.data.manifest_io import prepare_manifest
from s4d.datasets.listing import read_identities
from s4d.errors import DataError

# The others say themselves who is to be seen.
OWN = {"voxceleb2", "celebv_hq", "celebv_text"}
ANONYMOUS: Sequence[Tree] = [tree for tree in TREES if tree.dataset not in OWN and tree.listed != "labels.csv"]


@pytest.mark.parametrize("tree", ANONYMOUS, ids=ids(ANONYMOUS))
def test_people_are_found_by_sample_and_by_path(tree: Tree, tmp_path: Path) -> None:
    root = tmp_path / "data"
    tree.build(root)
    rows = prepare_manifest(tree.dataset, root, tmp_path / "m.csv").rows
    one, two = list({row.sample_id: row for row in rows}.values())[:2]
    put(root / "identities.csv", f'sample,identity\n"{one.sample_id}",anna\n"{two.path}",bert\n')
    people = {row.sample_id: row.identity for row in prepare_manifest(tree.dataset, root, tmp_path / "m.csv").rows}
    assert {sample: person for sample, person in people.items() if person is not None} == {
        one.sample_id: "anna",
        two.sample_id: "bert",
    }


@pytest.mark.parametrize("column", ["sample", "sample_id", "path"])
def test_a_sample_may_be_listed_twice_with_one_identity(column: str, tmp_path: Path) -> None:
    put(tmp_path / "identities.csv", f"{column},identity\na,anna\n\nb,bert\na,anna\nc,\n")
    assert read_identities(tmp_path) == {"a": "anna", "b": "bert"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,anna\nb,bert\n", "line 1: unknown column 'a', expected the header identity"),
        ("", "line 1: column 'identity' is missing"),
        ("identity\nanna\n", "line 1: expected one of the columns sample, sample_id, path, got 0"),
        ("sample,path,identity\na,a,anna\n", "line 1: expected one of the columns sample, sample_id, path, got 2"),
        ("sample,identity\n\n\na\n", "line 4: expected 2 fields, got 1"),
        (
            "sample,identity\na,anna\n\na,bert\n",
            "line 4: field 'sample': 'a' has two identities, 'anna' and 'bert'",
        ),
    ],
)
def test_wrong_tables_of_people(text: str, message: str, tmp_path: Path) -> None:
    put(tmp_path / "identities.csv", text)
    with pytest.raises(DataError) as caught:
        read_identities(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'identities.csv'}: {message}")
