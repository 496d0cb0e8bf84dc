"""People from `identities.csv`: which samples they reach in each dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tree_case import Tree, ids, put
from trees import TREES

from s4d.data.manifest_io import prepare_manifest

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
