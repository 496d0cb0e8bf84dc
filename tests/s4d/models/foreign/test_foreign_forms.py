"""Public checkpoint forms, made by hand as their own code names and shapes them, brought in and compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from s4d.cli import main
from s4d.config import ModelConfig
from s4d.data.batch import PackedBatch
from s4d.errors import DataError, UsageError
from s4d.models.build import build_finetune, build_pretrain
from s4d.models.classifier import FinetuneModel
from s4d.models.folder import read_architecture, read_config, read_tensors
from s4d.models.foreign.forms.ledger import Wishes
from s4d.models.foreign.importing import import_form, import_hf_videomae
from s4d.models.keys import KeyReport
from s4d.models.mae import PretrainModel
from s4d.models.positions import sinusoid_table
from s4d.models.sizes import architecture
from s4d.models.trained import load_trained
from s4d.models.weights import load_initial

WIDTH, DEPTH = 192, 2
NOTHING = Wishes()
NAMES = ("anger", "fear", "joy")
CLIPS = Wishes(classes={"clips": NAMES})


def pretrain_model() -> PretrainModel:
    model = build_pretrain(architecture(ModelConfig(size="tiny", depth=DEPTH, decoder_depth=1), experts=False), seed=1)
    return randomised(model)


def finetune_model() -> FinetuneModel:
    arch = architecture(ModelConfig(size="tiny", depth=DEPTH), experts=False)
    return randomised(build_finetune(arch, {"clips": len(NAMES)}, seed=1))


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """No bias zero and no norm one, so that a tensor in the wrong place shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def videomae_classifier() -> dict[str, Tensor]:
    state = dict(finetune_model().state_dict())
    return {name.replace("head.clips.", "head."): tensor for name, tensor in state.items()}


def stored(tmp_path: Path, model: dict[str, Tensor]) -> Path:
    """As safetensors: reading a pickle takes a process, which one test of them all needs."""
    save_file({name: tensor.clone() for name, tensor in model.items()}, tmp_path / "file.safetensors")
    return tmp_path / "file.safetensors"


def imported(tmp_path: Path, form: str, model: dict[str, Tensor], wishes: Wishes = NOTHING) -> tuple[Path, KeyReport]:
    report = import_form(form, stored(tmp_path, model), tmp_path / "out", wishes)
    explained = [set(report.mapped), set(report.transformed), set(report.unused)]
    assert set.union(*explained) == set(model) and sum(map(len, explained)) == len(model)
    return tmp_path / "out", report


@pytest.mark.parametrize("form", ["videomae", "videomae-v2", "mae-dfer"])
def test_pretraining_files_have_our_names(tmp_path: Path, form: str) -> None:
    state = dict(pretrain_model().state_dict())
    out, report = imported(tmp_path, form, state)
    assert set(report.mapped) == set(state) and not report.missing
    assert all(torch.equal(tensor, state[name]) for name, tensor in read_tensors(out).items())
    assert read_config(out)["stage"] == "pretrain"
    assert read_architecture(out).image_size == (160 if form == "mae-dfer" else 224)


def test_stored_position_tables_must_be_the_sinusoid(tmp_path: Path) -> None:
    state = {**videomae_classifier(), "pos_embed": sinusoid_table(1568, WIDTH)[None]}
    _, report = imported(tmp_path, "videomae", state, CLIPS)
    assert report.unused == {"pos_embed": "equal to the fixed position table"}
    state["pos_embed"] = state["pos_embed"] + 0.01
    path = stored(tmp_path, state)
    with pytest.raises(DataError, match=r"file\.safetensors: tensor 'pos_embed': a position table of its own"):
        import_form("videomae", path, tmp_path / "other", CLIPS)


def test_a_classifier_needs_the_names_of_its_classes(tmp_path: Path) -> None:
    state = videomae_classifier()
    path = stored(tmp_path, state)
    for wishes, words in (
        (Wishes(), "3 classes without names"),
        (Wishes(classes={"clips": ("a", "b")}), "got 2 names"),
        (Wishes(classes={"clips": ("a", "b", "a")}), "given twice"),
    ):
        with pytest.raises(UsageError, match=words):
            import_form("videomae", path, tmp_path / "out", wishes)
    assert not (tmp_path / "out").exists()
    import_form("videomae", path, tmp_path / "out", CLIPS)
    trained = load_trained(tmp_path / "out", device="cpu")
    assert trained.classes == {"clips": NAMES} and trained.modalities == {"clips": "video"}
    assert torch.equal(trained.module.head["clips"].weight, state["head.weight"])


def test_a_pickled_file(tmp_path: Path) -> None:
    state = videomae_classifier()
    torch.save({"module": state, "epoch": 3}, tmp_path / "file.pth")
    report = import_form("videomae", tmp_path / "file.pth", tmp_path / "out", CLIPS)
    assert set(report.mapped) == set(state)


def test_weights_are_no_whole_numbers(tmp_path: Path) -> None:
    state = videomae_classifier()
    state["blocks.1.norm1.bias"] = torch.zeros(WIDTH, dtype=torch.int32)
    with pytest.raises(DataError, match=r"'blocks\.1\.norm1\.bias': expected floating-point numbers, got torch\.int32"):
        import_form("videomae", stored(tmp_path, state), tmp_path / "out", CLIPS)


# Form, tensor, what it is instead, what is said of it.
MISSHAPEN: tuple[tuple[str, str, Tensor, str], ...] = (
    ("videomae", "blocks.0.gamma_1", torch.ones(3), "tensor 'blocks.0.gamma_1': 3 scales for 192 rows"),
    ("videomae", "blocks.0.gamma_1", torch.tensor(1.0), "'blocks.0.gamma_1': expected 1 dimensions, got shape"),
    ("videomae", "blocks.0.gamma_1", torch.ones(WIDTH, dtype=torch.int64), "'blocks.0.gamma_1': expected floating"),
    ("videomae", "head.weight", torch.tensor(1.0), "'head.weight': expected 2 dimensions, got shape"),
    ("videomae", "head.bias", torch.ones(2), "'head.bias': 2 values, 3 rows in 'head.weight'"),
    ("videomae", "blocks.x.norm1.weight", torch.ones(WIDTH), "'blocks.x.norm1.weight': has no number of a block"),
    ("videomae", "blocks.0.moae.fc1_weight", torch.ones(WIDTH), "1 dimensions instead of 3"),
    ("mae", "blocks.0.attn.qkv.bias", torch.tensor(1.0), "'blocks.0.attn.qkv.bias': expected 1 dimensions"),
    ("mae", "blocks.0.attn.qkv.bias", torch.ones(4), "4 values are no queries, keys and values"),
    ("mae", "patch_embed.proj.weight", torch.ones(WIDTH, 3, 16, 16, dtype=torch.float64), "expected floating-point"),
)


@pytest.mark.parametrize(("form", "name", "tensor", "words"), MISSHAPEN, ids=[" ".join(row[:2]) for row in MISSHAPEN])
def test_what_cannot_be_computed_with_is_named(
    tmp_path: Path, form: str, name: str, tensor: Tensor, words: str
) -> None:
    state = image_transformer() if form == "mae" else videomae_classifier()
    path = stored(tmp_path, {**state, name: tensor})
    with pytest.raises(DataError, match=words):
        import_form(form, path, tmp_path / "out", NOTHING if form == "mae" else CLIPS)
    assert not (tmp_path / "out").exists()


def test_layer_scales_of_half_precision_are_not_rounded_twice(tmp_path: Path) -> None:
    scale = torch.rand(WIDTH)
    state = {name: tensor.half() for name, tensor in {**videomae_classifier(), "blocks.0.gamma_1": scale}.items()}
    out, _ = imported(tmp_path, "videomae", state, CLIPS)
    expected = state["blocks.0.attn.proj.bias"].float() * scale.half().float()
    assert torch.equal(read_tensors(out)["blocks.0.attn.proj.bias"], expected)


@pytest.mark.parametrize("head", ["a.b", "keys", "training"])
def test_heads_that_no_module_may_be_called(tmp_path: Path, head: str) -> None:
    path = stored(tmp_path, videomae_classifier())
    with pytest.raises(UsageError, match=r"file\.safetensors: a head with such a name cannot be built"):
        import_form("videomae", path, tmp_path / "out", Wishes(classes={head: NAMES}))


def test_class_names_without_a_classifier_are_not_ignored(tmp_path: Path) -> None:
    headless = {name: tensor for name, tensor in videomae_classifier().items() if not name.startswith("head.")}
    for form, state in (
        ("videomae", headless),
        ("videomae", pretrain_model().state_dict()),
        ("mae", image_transformer()),
    ):
        with pytest.raises(UsageError, match="no use for --classes"):
            import_form(form, stored(tmp_path, dict(state)), tmp_path / "out", CLIPS)


def test_a_dropped_head_leaves_the_rest(tmp_path: Path) -> None:
    state = videomae_classifier()
    out, report = imported(tmp_path, "videomae", state, Wishes(drop_head=True))
    assert set(report.unused) == {"head.weight", "head.bias"} and read_config(out)["classes"] == {}
    model = build_finetune(architecture(ModelConfig(size="tiny", depth=DEPTH), experts=False), {"faces": 7}, seed=3)
    load_initial(model, out)
    assert torch.equal(model.fc_norm.weight, state["fc_norm.weight"])


def test_layer_scales_are_folded_into_the_branches(
    tmp_path: Path, architecture_of: Callable[..., object], batch_of: Callable[..., PackedBatch]
) -> None:
    state = videomae_classifier()
    scales = {f"blocks.{i}.gamma_{j}": torch.rand(WIDTH) for i in range(DEPTH) for j in (1, 2)}
    out, report = imported(tmp_path, "videomae", {**state, **scales}, CLIPS)
    assert set(scales) <= set(report.transformed)
    stored = read_tensors(out)
    x = torch.randn(5, WIDTH)
    for block, (branch, scale) in (("blocks.0", ("attn.proj", "gamma_1")), ("blocks.1", ("mlp.fc2", "gamma_2"))):
        inner = torch.randn(5, state[f"{block}.{branch}.weight"].shape[1])
        before = x + scales[f"{block}.{scale}"] * torch.nn.functional.linear(
            inner, state[f"{block}.{branch}.weight"], state[f"{block}.{branch}.bias"]
        )
        after = x + torch.nn.functional.linear(
            inner, stored[f"{block}.{branch}.weight"], stored[f"{block}.{branch}.bias"]
        )
        torch.testing.assert_close(after, before)


def test_names_below_model_of_the_hub_pages(tmp_path: Path) -> None:
    state = {f"model.{name}": tensor for name, tensor in videomae_classifier().items() if "head" not in name}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    report = import_form("videomae-v2", tmp_path, tmp_path / "out", Wishes())
    assert set(report.mapped) == set(state) and report.mapped["model.fc_norm.bias"] == "fc_norm.bias"


REFUSED = {
    "videomae-v2": ("blocks.0.attn.scale", "cosine attention"),
    "mae-dfer": ("encoder.blocks.0.first_attn.q.weight", "LGI-Former"),
    "videomae": ("blocks.0.attn.relative_position_bias_table", "relative positions"),
    "mae": ("blocks.0.ls1.gamma", "not known in the form 'mae'"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_has_no_counterpart_is_refused(tmp_path: Path, form: str) -> None:
    name, words = REFUSED[form]
    state = image_transformer() if form == "mae" else videomae_classifier()
    path = stored(tmp_path, {**state, name: torch.ones(3)})
    with pytest.raises(DataError, match=rf"file\.safetensors: tensor '{name}': .*{words}"):
        import_form(form, path, tmp_path / "out", CLIPS)
    assert not (tmp_path / "out").exists()


def test_the_giant_is_refused_by_its_width(tmp_path: Path) -> None:
    path = stored(tmp_path, {"patch_embed.proj.weight": torch.zeros(1408, 3, 2, 14, 14)})
    with pytest.raises(DataError, match=r"file\.safetensors: width 1408 is none of the known sizes"):
        import_form("videomae-v2", path, tmp_path / "out", Wishes())


def test_a_classifier_by_its_first_token_is_an_encoder_at_best(tmp_path: Path) -> None:
    state = {name.replace("fc_norm.", "norm."): tensor for name, tensor in videomae_classifier().items()}
    path = stored(tmp_path, state)
    with pytest.raises(DataError, match="classifies by the first token"):
        import_form("videomae", path, tmp_path / "out", CLIPS)
    out, _ = imported(tmp_path, "videomae", state, Wishes(drop_head=True))
    assert read_config(out)["stage"] == "encoder"


def image_transformer(norm: str = "norm") -> dict[str, Tensor]:
    """The trunk of a public image model: one bias for queries, keys and values, a classifier token, a 2-D table."""
    state = {}
    for name, tensor in pretrain_model().encoder.state_dict().items():
        if name.endswith("q_bias"):
            state[name.replace("q_bias", "qkv.bias")] = torch.randn(3 * WIDTH)
        elif not name.endswith("v_bias"):
            state[name.replace("norm.", f"{norm}.") if name.startswith("norm.") else name] = tensor
    state["patch_embed.proj.weight"] = torch.randn(WIDTH, 3, 16, 16)
    return {**state, "cls_token": torch.zeros(1, 1, WIDTH), "pos_embed": torch.randn(1, 197, WIDTH)}


def test_an_image_autoencoder_becomes_an_encoder(tmp_path: Path) -> None:
    decoder = {"mask_token": torch.zeros(1, 1, 512), "decoder_pred.weight": torch.zeros(768, 512)}
    state = image_transformer()
    out, report = imported(tmp_path, "mae", {**state, **decoder})
    stored = read_tensors(out)
    assert torch.equal(stored["encoder.blocks.1.attn.q_bias"], state["blocks.1.attn.qkv.bias"][:WIDTH])
    assert torch.equal(stored["encoder.blocks.1.attn.v_bias"], state["blocks.1.attn.qkv.bias"][2 * WIDTH :])
    # What a still image meets is the sum over the frames of a tubelet.
    assert torch.equal(stored["encoder.patch_embed.proj.weight"].sum(2), state["patch_embed.proj.weight"])
    assert {"cls_token", "pos_embed", "mask_token", "decoder_pred.weight"} == set(report.unused)
    assert any("divided by 2" in note for note in report.notes) and any(
        "biases of keys" in note for note in report.notes
    )
    pretrain, classifier = pretrain_model(), finetune_model()
    taken = load_initial(pretrain, out)
    assert set(taken.missing) == {name for name in pretrain.state_dict() if not name.startswith("encoder.")}
    load_initial(classifier, out)
    for model in (pretrain.encoder, classifier):
        assert torch.equal(model.blocks[0].attn.q_bias, stored["encoder.blocks.0.attn.q_bias"])


def test_the_image_transformer_in_s2d(tmp_path: Path) -> None:
    added = (
        "prompt_blocks.0.conv0_0.weight",
        "prompt_norms.1.bias",
        "patch_embed_prompt.proj.bias",
        "head.fc_cls.bias",
    )
    state = {**image_transformer("ln_post"), **{name: torch.zeros(2) for name in added}}
    out, report = imported(tmp_path, "s2d", {**state, "temporal_embedding": torch.zeros(1, 16, WIDTH)})
    assert set(report.unused) == {*added, "temporal_embedding", "cls_token", "pos_embed"}
    assert torch.equal(read_tensors(out)["encoder.norm.weight"], state["ln_post.weight"])


def test_an_encoder_alone_is_no_whole_pretraining_model_otherwise(tmp_path: Path) -> None:
    out, _ = imported(tmp_path, "mae", image_transformer())
    described = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**described, "stage": "pretrain"}))
    (out / "manifest.json").unlink()
    with pytest.raises(DataError, match="decoder_depth 4 does not fit the weights, which have 0 blocks"):
        load_initial(pretrain_model(), out)


HF_CONFIG = {
    "model_type": "videomae",
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 3,
    "intermediate_size": 4 * WIDTH,
    "image_size": 160,
    "layer_norm_eps": 1e-12,
    "id2label": {str(number): name for number, name in enumerate(NAMES)},
}
HF_BLOCK = {
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}


def hf_classifier(state: dict[str, Tensor], *, old: bool) -> dict[str, Tensor]:
    """A classifier of ours under transformers' names, written out from their class definitions."""
    made = {"fc_norm.weight": state["fc_norm.weight"], "fc_norm.bias": state["fc_norm.bias"]}
    for kind in ("weight", "bias"):
        made[f"classifier.{kind}"] = state[f"head.clips.{kind}"]
        made[f"videomae.embeddings.patch_embeddings.projection.{kind}"] = state[f"patch_embed.proj.{kind}"]
    for layer in range(DEPTH):
        block = f"videomae.encoder.layer.{layer}"
        for ours, theirs in HF_BLOCK.items():
            for kind in ("weight", "bias"):
                made[f"{block}.{theirs}.{kind}"] = state[f"blocks.{layer}.{ours}.{kind}"]
        attention = f"{block}.attention.attention"
        for part, weight in zip(
            ("query", "key", "value"), state[f"blocks.{layer}.attn.qkv.weight"].chunk(3), strict=True
        ):
            made[f"{attention}.{part}.weight"] = weight.clone()
        made[f"{attention}.{'q_bias' if old else 'query.bias'}"] = state[f"blocks.{layer}.attn.q_bias"]
        made[f"{attention}.{'v_bias' if old else 'value.bias'}"] = state[f"blocks.{layer}.attn.v_bias"]
    return made


def hf_folder(folder: Path, tensors: dict[str, Tensor], **config: object) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**HF_CONFIG, **config}))
    return folder


@pytest.mark.parametrize("old", [True, False], ids=["before transformers 5", "from 5 on"])
def test_both_layouts_of_transformers(tmp_path: Path, old: bool) -> None:
    state = dict(finetune_model().state_dict())
    theirs = hf_classifier(state, old=old)
    report = import_hf_videomae(hf_folder(tmp_path / "hf", theirs), tmp_path / "out", Wishes())
    assert set(report.mapped) | set(report.transformed) == set(theirs) and not report.unused
    stored = read_tensors(tmp_path / "out")
    assert stored.keys() == state.keys() - {"head.clips.weight", "head.clips.bias"} | {
        "head.video.weight",
        "head.video.bias",
    }
    assert all(torch.equal(stored[name.replace("head.clips", "head.video")], state[name]) for name in state)
    assert read_config(tmp_path / "out")["classes"] == {"video": list(NAMES)}
    assert any("1e-12" in note for note in report.notes)


def test_lost_biases_are_an_error_and_zero_ones_are_told(tmp_path: Path) -> None:
    theirs = hf_classifier(dict(finetune_model().state_dict()), old=False)
    lost = {name: tensor for name, tensor in theirs.items() if "query.bias" not in name}
    with pytest.raises(DataError, match=r"'blocks\.0\.attn\.q_bias': expected shape .* got nothing"):
        import_hf_videomae(hf_folder(tmp_path / "lost", lost), tmp_path / "out", Wishes())
    zero = {
        name: torch.zeros_like(t) if "query.bias" in name or "value.bias" in name else t for name, t in theirs.items()
    }
    report = import_hf_videomae(hf_folder(tmp_path / "zero", zero), tmp_path / "out", Wishes())
    assert any("all biases of queries and values are zero" in note for note in report.notes)


def test_classes_go_by_name(tmp_path: Path) -> None:
    state = dict(finetune_model().state_dict())
    folder = hf_folder(tmp_path / "hf", hf_classifier(state, old=True))
    import_hf_videomae(folder, tmp_path / "out", Wishes(classes={"clips": ("joy", "anger", "fear")}))
    rows = read_tensors(tmp_path / "out")["head.clips.weight"]
    assert torch.equal(rows, state["head.clips.weight"][[2, 0, 1]])
    with pytest.raises(UsageError, match="'happiness' of 'clips' is not one of the file's own"):
        import_hf_videomae(folder, tmp_path / "other", Wishes(classes={"clips": ("anger", "fear", "happiness")}))
    nameless = hf_folder(
        tmp_path / "nameless", hf_classifier(state, old=True), id2label={str(n): f"LABEL_{n}" for n in range(3)}
    )
    with pytest.raises(UsageError, match="without names"):
        import_hf_videomae(nameless, tmp_path / "other", Wishes())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "vit"}, "field 'model_type'"),
        ({"layer_norm_eps": 0.1}, "field 'layer_norm_eps'"),
        ({"hidden_act": "relu"}, "field 'hidden_act'"),
        ({"image_size": [160, 128]}, "field 'image_size'"),
        ({"num_attention_heads": 5}, "embed_dim 192 is not a multiple"),
        ({"num_channels": 1}, "field 'num_channels'"),
        ({"use_mean_pooling": False}, "field 'use_mean_pooling'"),
        ({"qv_bias": False}, "field 'qv_bias': false, but '.*q_bias' is there"),
        ({"id2label": {"0": "anger", "00": "fear", "1": "joy"}}, "field 'id2label': numbers are not"),
        ({"label2id": {"anger": 1, "fear": 0, "joy": 2}}, "field 'label2id': numbers the names of 'id2label'"),
    ],
)
def test_other_models_of_transformers_are_refused(tmp_path: Path, config: dict[str, object], words: str) -> None:
    folder = hf_folder(tmp_path / "hf", hf_classifier(dict(finetune_model().state_dict()), old=True), **config)
    with pytest.raises(DataError, match=words):
        import_hf_videomae(folder, tmp_path / "out", Wishes())


def test_queries_keys_and_values_are_of_one_shape_and_type(tmp_path: Path) -> None:
    theirs = hf_classifier(dict(finetune_model().state_dict()), old=False)
    name = "videomae.encoder.layer.0.attention.attention.key.weight"
    for number, (tensor, words) in enumerate(
        ((torch.ones(WIDTH, 5), "differ in shape"), (torch.ones(WIDTH, WIDTH, dtype=torch.int8), "expected floating"))
    ):
        folder = hf_folder(tmp_path / str(number), {**theirs, name: tensor})
        with pytest.raises(DataError, match=words):
            import_hf_videomae(folder, tmp_path / "out", Wishes())


def test_class_names_of_a_folder_that_do_not_fit_its_classifier(tmp_path: Path) -> None:
    theirs = hf_classifier(dict(finetune_model().state_dict()), old=False)
    more = {str(number): name for number, name in enumerate((*NAMES, "more"))}
    for number, (labels, wishes, words) in enumerate(
        (
            ({"0": "anger", "1": "", "2": "joy"}, Wishes(), "a class name of 'video' is empty or given twice"),
            (more, CLIPS, "its classifier has 3 classes, the file names 4"),
        )
    ):
        folder = hf_folder(tmp_path / str(number), theirs, id2label=labels)
        with pytest.raises(UsageError, match=words):
            import_hf_videomae(folder, tmp_path / "out", wishes)


def test_a_folder_without_its_configuration_is_still_one_of_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hf_folder(tmp_path / "hf", {"x": torch.zeros(1)})
    (folder / "config.json").unlink()
    assert main(["checkpoint", "import", str(folder), "--out", str(tmp_path / "out")]) == 1
    assert "config.json: no such file" in capsys.readouterr().err


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    theirs = hf_classifier(dict(finetune_model().state_dict()), old=True)
    folder = hf_folder(tmp_path / "hf", theirs)
    (folder / "model.safetensors").unlink()
    names = sorted(theirs)
    save_file({name: theirs[name] for name in names[:9]}, folder / "model-1.safetensors")
    places = {name: f"model-{1 if name in names[:9] else 2}.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(DataError, match=r"model-2\.safetensors"):
        import_hf_videomae(folder, tmp_path / "out", Wishes())
    save_file({name: theirs[name] for name in names[9:]}, folder / "model-2.safetensors")
    import_hf_videomae(folder, tmp_path / "out", Wishes())
