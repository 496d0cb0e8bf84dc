"""Model folders that are damaged, poisoned or contradict themselves: every reader refuses them in one telling line.

No manifest lies beside them, or one that was made to agree: what refuses is the content itself.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from s4d.cli import main
from s4d.errors import DataError
from s4d.inference.model import S4D
from s4d.models.build import build_finetune
from s4d.models.folder import write_folder
from s4d.models.foreign.assumed import assumed_inputs
from s4d.models.sizes import Architecture, MoaeArchitecture
from s4d.models.weights import load_initial

EXPERTS = MoaeArchitecture(layers=(1,), num_experts=2, top_k=1, hidden_dim=4)
ARCH = Architecture(
    embed_dim=8,
    depth=2,
    num_heads=1,
    decoder_embed_dim=8,
    decoder_depth=1,
    decoder_num_heads=1,
    image_size=32,
    num_frames=4,
    position_frames=4,
    experts=EXPERTS,
)
CLASSES = {"faces": ["calm", "glad", "sad"], "clips": ["sad", "glad"]}
BIAS = "blocks.0.attn.q_bias"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "model"
    model = build_finetune(ARCH, {head: len(names) for head, names in CLASSES.items()}, seed=1)
    described = {
        "stage": "finetune",
        "architecture": ARCH.to_dict(),
        "classes": CLASSES,
        "inputs": assumed_inputs(ARCH, {"faces": "image", "clips": "video"}, released=False),
    }
    write_folder(folder, model.state_dict(), described)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy without checksums."""
    copy = tmp_path / "model"
    copy.mkdir()
    for name in ("config.json", "model.safetensors"):
        (copy / name).write_bytes((good / name).read_bytes())
    return copy


def read_by_from_pretrained(folder: Path) -> None:
    S4D.from_pretrained(folder, device="cpu")


def read_by_init_from(folder: Path) -> None:
    model = build_finetune(ARCH, {head: len(names) for head, names in CLASSES.items()}, seed=2)
    load_initial(model, folder, classes={head: tuple(names) for head, names in CLASSES.items()})


READERS = {"S4D.from_pretrained": read_by_from_pretrained, "model.init_from": read_by_init_from}


def test_the_undamaged_folder_is_read_by_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for read in READERS.values():
        read(folder)
    assert main(["checkpoint", "inspect", str(folder)]) == 0
    capsys.readouterr()


def test_a_folder_of_an_older_version_is_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says less: nothing of the input, and nothing that its architecture could not have yet."""
    path = folder / "config.json"
    described = json.loads(path.read_text())
    del described["inputs"], described["architecture"]["decoder"]
    del described["architecture"]["experts"]["modality_prior"], described["architecture"]["experts"]["shared_experts"]
    path.write_text(json.dumps({**described, "version": "0.1.0"}))
    read_by_init_from(folder)
    assert main(["checkpoint", "inspect", str(folder)]) == 0
    capsys.readouterr()


# Damage to the bytes of `model.safetensors`.


def rewritten(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The file with another header, in front of the same bytes."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[start:]


def entry_of(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    return lambda data: rewritten(data, lambda header: change(header[BIAS]))


def moved(by: int) -> Callable[[bytes], bytes]:
    return entry_of(lambda entry: entry.update(data_offsets=[place + by for place in entry["data_offsets"]]))


def stated_twice(data: bytes) -> bytes:
    start = 8 + int.from_bytes(data[:8], "little")
    text = data[8:start].rstrip()
    again = json.dumps({BIAS: json.loads(text)[BIAS]}).encode()[1:]
    text = text[:-1] + b"," + again
    return struct.pack("<Q", len(text)) + text + data[start:]


def tensors_of(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[bytes], bytes]:
    from safetensors.torch import load

    def made(data: bytes) -> bytes:
        tensors = load(data)
        change(tensors)
        return save(tensors)

    return made


def cast(dtype: torch.dtype) -> Callable[[bytes], bytes]:
    return tensors_of(lambda tensors: tensors.update({BIAS: tensors[BIAS].to(dtype)}))


def filled(value: float) -> Callable[[bytes], bytes]:
    return tensors_of(lambda tensors: tensors[BIAS][2:3].fill_(value))


NOT_READABLE = r"model\.safetensors: not a readable safetensors file: "
BYTES: tuple[tuple[str, Callable[[bytes], bytes], str], ...] = (
    ("empty", lambda data: b"", NOT_READABLE + "a header of 0 bytes in a file of 0"),
    ("cut in its header", lambda data: data[:40], NOT_READABLE + r"a header of \d+ bytes in a file of 40"),
    ("cut in its tensors", lambda data: data[:-4], NOT_READABLE + r"its tensors need \d+ bytes, \d+ are there"),
    ("bytes behind", lambda data: data + b"\0" * 4, NOT_READABLE + r"its tensors need \d+ bytes, \d+ are there"),
    ("a header beyond the file", lambda data: struct.pack("<Q", len(data)) + data[8:], "a header of"),
    ("a header of 2^63 bytes", lambda data: struct.pack("<Q", 2**63) + data[8:], "a header of 9223372036854775808"),
    ("a header that is no JSON", lambda data: data[:8] + b"x" + data[9:], r"model\.safetensors: not readable as JSON"),
    ("a pickle", lambda data: b"PK\x03\x04" * 64, "a header of"),
    ("offsets over another tensor", moved(-4), r"tensor .*: lies over another"),
    ("offsets with a gap", moved(4), r"tensor .*: (leaves bytes before it|lies over another)"),
    ("offsets out of range", moved(1 << 40), r"tensor .*: leaves bytes before it that belong to none"),
    ("negative offsets", moved(-(1 << 40)), rf"tensor '{BIAS}': shape or data_offsets is malformed"),
    ("more values than bytes", entry_of(lambda e: e.update(shape=[1 << 40])), rf"'{BIAS}': 32 bytes are no F32 of"),
    ("a shape that is no list", entry_of(lambda e: e.update(shape=8)), rf"'{BIAS}': shape or data_offsets is malf"),
    ("a shape with True", entry_of(lambda e: e.update(shape=[True, 8])), rf"'{BIAS}': shape or data_offsets is mal"),
    ("a key of no meaning", entry_of(lambda e: e.update(stride=[1])), rf"'{BIAS}': expected dtype, shape and"),
    ("an unknown type", entry_of(lambda e: e.update(dtype="F7")), rf"'{BIAS}': type 'F7' is not read"),
    ("a tensor twice", stated_twice, rf"model\.safetensors: .*key '{BIAS}' is given twice"),
    ("whole numbers", cast(torch.int32), rf"tensor '{BIAS}': expected type F32, F16, BF16, got I32"),
    ("float64", cast(torch.float64), rf"tensor '{BIAS}': expected type F32, F16, BF16, got F64"),
    ("float8", cast(torch.float8_e4m3fn), rf"tensor '{BIAS}': expected type F32, F16, BF16, got F8_E4M3"),
    ("same bytes, whole numbers", entry_of(lambda e: e.update(dtype="I32")), "expected type F32, F16, BF16, got I32"),
    ("NaN", filled(float("nan")), rf"tensor '{BIAS}': holds NaN or infinity"),
    ("infinity", filled(float("inf")), rf"tensor '{BIAS}': holds NaN or infinity"),
    (
        "another shape",
        entry_of(lambda e: e.update(shape=[2, 4])),
        rf"'{BIAS}': expected shape \(8,\), got shape \(2, 4",
    ),
    ("a tensor less", tensors_of(lambda tensors: tensors.pop(BIAS)), rf"'{BIAS}': expected shape \(8,\), got nothing"),
    (
        "a tensor more",
        tensors_of(lambda tensors: tensors.update(extra=torch.zeros(1))),
        r"'extra': expected no such tensor, got shape \(1,\)",
    ),
    (
        "a block of number a billion",
        tensors_of(lambda tensors: tensors.update({"blocks.999999999.norm1.bias": torch.zeros(8)})),
        "field 'architecture': depth 2 does not fit the weights, which have 3 blocks",
    ),
)
# A command that reads headers alone cannot know of these.
IN_THE_VALUES = ("NaN", "infinity", "whole numbers", "float64", "float8", "same bytes, whole numbers")


@pytest.mark.parametrize(("damage", "words"), [row[1:] for row in BYTES], ids=[row[0] for row in BYTES])
def test_damaged_weights(
    folder: Path, damage: Callable[[bytes], bytes], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    refused_by_all(folder, words)
    if not any(row[0] in IN_THE_VALUES for row in BYTES if row[1] is damage):
        refused_by_inspect(folder, words, capsys)


def refused_by_all(folder: Path, words: str) -> None:
    for name, read in READERS.items():
        with pytest.raises(DataError) as caught:
            read(folder)
        is_one_line(str(caught.value), folder, words, name)


def refused_by_inspect(folder: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "inspect", str(folder)]) == 1
    is_one_line(" ".join(capsys.readouterr().err.split()), folder, words.replace(r"\s", " "), "inspect")


def is_one_line(text: str, folder: Path, words: str, reader: str) -> None:
    assert re.search(words, text), f"{reader}: {text!r}"
    assert folder.name in text and len(text) < 1500 and text.isprintable(), f"{reader}: {text!r}"


# A `config.json` that contradicts the weights, or is none.


def changed(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: {**config, **values}


def arch_of(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: {**config, "architecture": {**config["architecture"], **values}}


def experts_of(**values: Any) -> Callable[[dict[str, Any]], object]:
    return arch_of(experts={**json.loads(json.dumps(ARCH.to_dict()))["experts"], **values})


FIELD = r"config\.json: field 'architecture': "
CONFIGS: tuple[tuple[str, Callable[[dict[str, Any]], object], str], ...] = (
    ("more blocks", arch_of(depth=3), FIELD + "depth 3 does not fit the weights, which have 2 blocks"),
    ("a billion blocks", arch_of(depth=10**9), FIELD + r"depth must be a whole number in 0\.\.1024, got 1000000000"),
    ("many blocks", arch_of(depth=1000), FIELD + "depth 1000 does not fit the weights"),
    ("blocks as text", arch_of(depth="2"), FIELD + "depth must be a whole number"),
    ("blocks as truth", arch_of(depth=True), FIELD + "depth must be a whole number"),
    ("half a block", arch_of(depth=2.0), FIELD + "depth must be a whole number"),
    ("another width", arch_of(embed_dim=16), FIELD + r"does not fit the weights: tensor 'patch_embed\.proj\.weight'"),
    ("no heads", arch_of(num_heads=0), FIELD + "num_heads must be a whole number in 1"),
    ("a huge picture", arch_of(image_size=1 << 20), FIELD + r"image_size 1048576 .* at most 131072 have positions"),
    ("a huge clip", arch_of(position_frames=1 << 20), FIELD + r".*position_frames 1048576 make"),
    ("another patch", arch_of(patch_size=8), FIELD + r"does not fit the weights: tensor 'patch_embed"),
    ("an unknown dimension", arch_of(rank=3), FIELD + ".*unexpected keyword argument 'rank'"),
    ("no experts", arch_of(experts=None), r"tensor 'blocks\.1\.moae\.fc1_bias': expected no such tensor"),
    ("experts as text", arch_of(experts="8"), FIELD + "experts must be an object or null"),
    ("more experts", experts_of(num_experts=3), r"does not fit config\.json: tensor 'blocks\.1\.moae\."),
    ("a million experts", experts_of(num_experts=1 << 20), r"does not fit config\.json: tensor 'blocks\.1\.moae\."),
    ("experts elsewhere", experts_of(layers=[0]), r"tensor 'blocks\.0\.moae\..*got nothing"),
    ("experts in no blocks", experts_of(layers="1"), FIELD + "layers must be whole numbers"),
    ("a capacity as text", experts_of(capacity_factor="1"), FIELD + "capacity_factor must be a number above 0"),
    ("unknown noise", experts_of(router_noise="loud"), FIELD + "router_noise must be one of off, train, always"),
    ("no architecture", changed(architecture=[]), "field 'architecture': expected a mapping"),
    (
        "class names too few",
        changed(classes={**CLASSES, "faces": ["calm", "glad"]}),
        r"config\.json: field 'classes': does not fit model\.safetensors: head 'faces' has shape \(3, 8\), 2 classes",
    ),
    ("a head too many", changed(classes={**CLASSES, "more": ["a", "b"]}), "head 'more'"),
    ("a head too few", changed(classes={"faces": CLASSES["faces"]}), "no class names for its head 'clips'"),
    ("a head with a dot", changed(classes={**CLASSES, "faces.weight": ["a", "b"]}), "head 'faces.weight'"),
    ("a class twice", changed(classes={**CLASSES, "clips": ["sad", "sad"]}), "head 'clips': a name is empty or given"),
    (
        "a class as number",
        changed(classes={**CLASSES, "clips": ["sad", 1]}),
        r"'classes': entry 'clips\.1': expected text",
    ),
    (
        "numbers of another order",
        changed(labels={"clips": {"index": {"glad": 0, "sad": 1}, "stated_in": "x"}}),
        "field 'labels': head 'clips': its numbers are not those of field 'classes'",
    ),
    ("an unknown key", changed(colour=3), "field 'colour': not known to this version"),
    ("a key that a terminal obeys", lambda c: {**c, "\x1b[31m": 3}, r"field '\\x1b\[31m': not known"),
    ("a later format", changed(format=2), "field 'format': expected 1, got 2"),
    ("a stage as number", changed(stage=3), "field 'stage': expected text, got 3"),
    ("scores without protocol", changed(metrics={"split": "test"}), "field 'metrics': entry 'protocol': missing"),
    ("a list", lambda config: [config], "expected a JSON object, got list"),
)
TEXTS: tuple[tuple[str, bytes, str], ...] = (
    ("nothing", b"", "not readable as JSON"),
    ("no JSON", b"stage: finetune", "not readable as JSON"),
    ("no text", b"\xff\xfe\x00", "not readable as JSON"),
    ("NaN", b'{"loss_weights": {"image": NaN}}', "NaN is no JSON number"),
    ("a key twice", b'{"stage": "finetune", "stage": "pretrain"}', "key 'stage' is given twice"),
    ("nested without end", b'{"a":' * 50_000, "nested too deeply"),
)


@pytest.mark.parametrize(("change", "words"), [row[1:] for row in CONFIGS], ids=[row[0] for row in CONFIGS])
def test_contradicting_descriptions(
    folder: Path, change: Callable[[dict[str, Any]], object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    refused_by_all(folder, words)
    refused_by_inspect(folder, words, capsys)


@pytest.mark.parametrize(("text", "words"), [row[1:] for row in TEXTS], ids=[row[0] for row in TEXTS])
def test_texts_that_describe_nothing(folder: Path, text: bytes, words: str) -> None:
    (folder / "config.json").write_bytes(text)
    refused_by_all(folder, rf"config\.json: .*{words}")


def test_a_huge_description_is_not_read(folder: Path) -> None:
    with (folder / "config.json").open("ab") as stream:
        stream.truncate(65 << 20)
    refused_by_all(folder, r"config\.json: not a regular file of at most \d+ bytes")


def test_an_intact_manifest_does_not_excuse_a_contradiction(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = json.loads((good / "config.json").read_text())
    described["architecture"]["depth"] = 3
    write_folder(tmp_path / "model", load_file(good / "model.safetensors"), described)
    assert main(["checkpoint", "verify", str(tmp_path / "model")]) == 1
    assert "depth 3 does not fit the weights" in " ".join(capsys.readouterr().out.split())
    refused_by_all(tmp_path / "model", "depth 3 does not fit the weights")


# What `s4d checkpoint import` is given by others: shards with an index.


def write_shards(folder: Path, names: Mapping[str, list[str]], index: Mapping[str, str]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "videomae"}))
    for file, tensors in names.items():
        save_file({name: torch.zeros(2) for name in tensors}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(index)}))


ONE, TWO = "model-1.safetensors", "model-2.safetensors"
SHARDS: tuple[tuple[str, dict[str, list[str]], dict[str, Any], str], ...] = (
    ("a shard that is missing", {ONE: ["a"]}, {"a": ONE, "b": TWO}, r"model-2\.safetensors: .*No such file"),
    ("a shard that is not named", {ONE: ["a"], TWO: ["b"]}, {"a": ONE}, r"model-2\.safetensors: not in model\.safet"),
    ("a tensor that is missing", {ONE: ["a"]}, {"a": ONE, "b": ONE}, r"model-1\.safetensors: lacks tensor 'b'"),
    ("a tensor that is not named", {ONE: ["a", "b"]}, {"a": ONE}, r"model-1\.safetensors: not the place of tensor 'b'"),
    ("a tensor in two shards", {ONE: ["a"], TWO: ["a"]}, {"a": ONE}, r"model-2\.safetensors: not in"),
    ("tensors in each other's place", {ONE: ["a"], TWO: ["b"]}, {"a": TWO, "b": ONE}, r"model-1\.safetensors: not the"),
    (
        "a shard elsewhere",
        {ONE: ["a"]},
        {"a": "../x.safetensors"},
        "field 'weight_map': expected names of files beside",
    ),
    ("an index of numbers", {ONE: ["a"]}, {"a": 1}, "field 'weight_map': expected names of files beside"),
)


@pytest.mark.parametrize(("files", "index", "words"), [row[1:] for row in SHARDS], ids=[row[0] for row in SHARDS])
def test_shards_that_do_not_fit_their_index(
    tmp_path: Path,
    files: dict[str, list[str]],
    index: dict[str, str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_shards(tmp_path / "hf", files, index)
    arguments = ["checkpoint", "import", str(tmp_path / "hf"), "--from", "hf-videomae", "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    is_one_line(" ".join(capsys.readouterr().err.split()), tmp_path / "hf", words, "import")
    assert not (tmp_path / "out").exists()
