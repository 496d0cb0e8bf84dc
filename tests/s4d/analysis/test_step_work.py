"""Arithmetic of a step by part against what torch's FlopCounterMode sees in the model with plain backends."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from s4d.analysis.bench_step import StepShape, random_batch
from s4d.analysis.step_work import PARTS, PartWork, step_work, total
from s4d.models.build import build_finetune, build_pretrain
from s4d.models.sizes import Architecture, MoaeArchitecture
from s4d.models.stream import masked_layout

PLAIN = {"attention": "reference", "moae": "reference", "patch": "reference", "reconstruction": "reference"}
SAMPLES = {"image": 2, "video": 3}
CLASSES = {"image": 7, "video": 5}
SMALL = Architecture(
    embed_dim=32,
    depth=3,
    num_heads=2,
    decoder_embed_dim=16,
    decoder_depth=2,
    decoder_num_heads=2,
    image_size=32,
    num_frames=4,
    patch_size=8,
    tubelet_size=2,
    position_frames=4,
    mlp_ratio=3,
)
EXPERTS = MoaeArchitecture(layers=(1, 2), num_experts=4, top_k=2, hidden_dim=12)


def case(task: str, experts: MoaeArchitecture | None) -> tuple[Architecture, Any, dict[str, int]]:
    """Architecture, batch and kept tokens; pre-training keeps the shares of `random_batch`."""
    arch = dataclasses.replace(SMALL, experts=experts)
    shape = StepShape(task=task, size="tiny", images=SAMPLES["image"], clips=SAMPLES["video"])
    batch = random_batch(shape, arch)
    kept = dict(zip(("image", "video"), (length for _, length in batch.layout_visible), strict=True))
    return arch, batch, kept


def decoder_case(decoder: str, decode_ratio: float) -> tuple[Architecture, Any, dict[str, int], dict[str, int]]:
    """The pre-training case with another decoder, or with a share of the masked tokens."""
    shape = StepShape(task="pretrain", size="tiny", images=2, clips=3, decode_ratio=decode_ratio)
    arch = dataclasses.replace(SMALL, decoder=decoder)
    batch = random_batch(shape, arch)
    kept, decoded = (
        dict(zip(SAMPLES, (length for _, length in layout), strict=True))
        for layout in (batch.layout_visible, masked_layout(batch))
    )
    return arch, batch, kept, decoded


def counted(arch: Architecture, task: str, batch: Any, backends: dict[str, str]) -> tuple[Any, Any]:
    """Products by module in a forward, and in a forward and backward."""
    model: Any = (build_pretrain if task == "pretrain" else partial(build_finetune, heads=CLASSES))(
        arch, seed=0, backends=backends
    )
    found = []
    for with_backward in (False, True):
        with FlopCounterMode(display=False, depth=None) as counter:
            output = model(batch)
            if with_backward:
                results = output if task == "pretrain" else output.logits
                # Router and experts get gradients through the logits and the balance terms.
                sum(value.sum() for value in results.values()).backward()
        found.append({name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()})
    return found[0], {name: found[1][name] - found[0].get(name, 0) for name in found[1]}


def by_part(task: str, arch: Architecture, modules: dict[str, float]) -> dict[str, float]:
    """Sums of a count by module, which is that of the module and all below it."""

    def blocks(prefix: str, depth: int) -> dict[str, float]:
        attention = linear = experts = 0.0
        for layer in range(depth):
            block = f"{prefix}blocks.{layer}"
            name = "cross_attn" if f"{block}.cross_attn" in modules else "attn"
            layers = ("q", "kv", "proj") if name == "cross_attn" else ("qkv", "proj")
            products = sum(modules[f"{block}.{name}.{layer_name}"] for layer_name in layers)
            attention += modules[f"{block}.{name}"] - products
            linear += products + modules[f"{block}.mlp"]
            experts += modules.get(f"{block}.moae", 0.0)
        return {"attention": attention, "linear": linear, "moae": experts}

    root = "PretrainModel." if task == "pretrain" else "FinetuneModel."
    encoder = root + ("encoder." if task == "pretrain" else "")
    inner = blocks(encoder, arch.depth)
    found = dict.fromkeys(PARTS, 0.0) | {
        "embed": modules[f"{encoder}patch_embed"],
        "encoder attention": inner["attention"],
        "encoder linear": inner["linear"],
        "moae": inner["moae"],
    }
    if task == "finetune":
        return found | {"head and loss": sum(modules[f"{root}head.{name}"] for name in CLASSES)}
    outer = blocks(f"{root}decoder.", arch.decoder_depth)
    return found | {
        "decoder attention": outer["attention"],
        "decoder linear": outer["linear"] + modules[f"{root}encoder_to_decoder"],
        "head and loss": modules[f"{root}decoder.head"],
    }


def expected(arch: Architecture, work: dict[str, PartWork], kept: dict[str, int]) -> tuple[Any, Any]:
    """Our figures with the differences that the module lists taken in: what the counter should see."""
    forward = {name: part.forward.flops for name, part in work.items()}
    backward = {name: part.backward.flops for name, part in work.items()}
    for name in ("encoder attention", "decoder attention"):
        backward[name] *= 0.8
    # A backend that repeats still images does the products of tubelet_size frames.
    once = 2 * SAMPLES["image"] * kept["image"] * arch.token_values // arch.tubelet_size * arch.embed_dim
    forward["embed"] += once * (arch.tubelet_size - 1)
    backward["embed"] += once * (arch.tubelet_size - 1)
    if arch.experts is not None:
        tokens = sum(SAMPLES[name] * kept[name] for name in SAMPLES)
        experts = arch.experts
        chosen = 4 * tokens * experts.top_k * arch.embed_dim * experts.hidden_dim * len(experts.layers)
        idle = chosen * (experts.num_experts / experts.top_k - 1)
        forward["moae"] += idle
        backward["moae"] += 2 * idle
    return forward, backward


@pytest.mark.parametrize(
    ("task", "experts"),
    [
        ("pretrain", None),
        ("finetune", None),
        ("finetune", EXPERTS),
        ("finetune", dataclasses.replace(EXPERTS, router_noise="off")),
        ("finetune", dataclasses.replace(EXPERTS, shared_experts=2)),
        ("finetune", dataclasses.replace(EXPERTS, modality_prior=True)),
    ],
)
def test_products_are_those_that_torch_counts(task: str, experts: MoaeArchitecture | None) -> None:
    arch, batch, kept = case(task, experts)
    found = counted(arch, task, batch, PLAIN)
    work = step_work(arch, task, SAMPLES, kept, classes=sum(CLASSES.values()))
    assert tuple(work) == PARTS
    for modules, products, way in zip(found, expected(arch, work, kept), ("forward", "backward"), strict=True):
        seen = by_part(task, arch, modules)
        # On the way back torch leaves a module late where two of them share an input: experts and MLP, and the heads.
        clear = [name for name in PARTS if way == "forward" or name not in ("moae", "head and loss")]
        assert {name: seen[name] for name in clear} == {name: products[name] for name in clear}
        assert modules["Global"] == sum(products.values())


@pytest.mark.parametrize(("decoder", "decode_ratio"), [("joint", 0.5), ("cross", 1.0), ("cross", 0.5)])
def test_products_of_other_decoders_are_those_that_torch_counts(decoder: str, decode_ratio: float) -> None:
    """Fused attention is counted on some devices alone: here it is written out, four products back in place of five."""
    arch, batch, kept, decoded = decoder_case(decoder, decode_ratio)
    with sdpa_kernel(SDPBackend.MATH):
        found = counted(arch, "pretrain", batch, PLAIN)
    work = step_work(arch, "pretrain", SAMPLES, kept, decoded=decoded)
    for modules, products, way in zip(found, expected(arch, work, kept), ("forward", "backward"), strict=True):
        seen = by_part("pretrain", arch, modules)
        # The blocks of a cross decoder share an input, see above.
        late = ("decoder attention", "decoder linear") if (decoder, way) == ("cross", "backward") else ()
        assert {name: seen[name] for name in PARTS if name not in late} == {
            name: products[name] for name in PARTS if name not in late
        }
        assert modules["Global"] == sum(products.values())
    whole = step_work(arch, "pretrain", SAMPLES, kept)
    less = total(work).forward.bytes < total(whole).forward.bytes
    assert less if decode_ratio < 1 else work == whole


def test_tokens_to_predict_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="decoded: expected 0 to 14 tokens of 'image', got 15"):
        step_work(SMALL, "pretrain", {"image": 1}, {"image": 2}, decoded={"image": 15})


def test_a_product_with_the_output_biases_comes_on_top() -> None:
    arch, batch, kept = case("finetune", EXPERTS)
    tokens = sum(SAMPLES[name] * kept[name] for name in SAMPLES)
    once = 2 * tokens * EXPERTS.num_experts * arch.embed_dim * len(EXPERTS.layers)
    found = counted(arch, "finetune", batch, {**PLAIN, "moae": "dense_all"})
    work = step_work(arch, "finetune", SAMPLES, kept, classes=sum(CLASSES.values()))
    totals = [sum(products.values()) for products in expected(arch, work, kept)]
    assert [modules["Global"] for modules in found] == [totals[0] + once, totals[1] + 2 * once]


def test_a_still_image_meets_the_summed_weight() -> None:
    arch, batch, kept = case("pretrain", None)
    found = counted(arch, "pretrain", batch, {**PLAIN, "patch": "gather"})
    embed = step_work(arch, "pretrain", SAMPLES, kept)["embed"]
    counts = [by_part("pretrain", arch, modules)["embed"] for modules in found]
    assert counts == [embed.forward.flops, embed.backward.flops]


def test_figures_of_the_base_model() -> None:
    """GFLOP of one sample in the tables that steer the project, made by hand; still images folded."""
    shape = StepShape(task="pretrain", size="base", images=1, clips=1)
    kept = {"image": 10, "video": 40}
    for name, forward, backward in (("image", 3.31, 6.63), ("video", 23.13, 48.15)):
        found = total(step_work(shape.architecture(), "pretrain", {name: 1}, kept))
        assert found.forward.flops / 1e9 == pytest.approx(forward, abs=0.01)
        assert found.backward.flops / 1e9 == pytest.approx(backward, abs=0.01)
    arch = dataclasses.replace(shape, task="finetune").architecture()
    found = total(step_work(arch, "finetune", {"video": 1}, {"video": 800}))
    assert found.forward.flops / 1e9 == pytest.approx(167.2, abs=0.1)
    assert found.backward.flops / 1e9 == pytest.approx(344.2, abs=0.1)


def test_work_grows_with_the_samples_and_bytes_with_the_element() -> None:
    arch, _, kept = case("finetune", EXPERTS)
    kept = {name: arch.tokens(name) for name in kept}
    one = total(step_work(arch, "finetune", {"image": 1, "video": 2}, kept))
    three = total(step_work(arch, "finetune", {"image": 3, "video": 6}, kept))
    assert three.forward.flops == 3 * one.forward.flops and three.backward.flops == 3 * one.backward.flops
    # Weights move once, however many samples there are.
    assert one.forward.bytes < three.forward.bytes < 3 * one.forward.bytes
    wide = total(step_work(arch, "finetune", {"image": 1, "video": 2}, kept, element_bytes=4))
    assert one.forward.bytes < wide.forward.bytes < 2 * one.forward.bytes


@pytest.mark.parametrize(
    ("task", "samples", "kept"),
    [
        ("train", {"image": 1}, {"image": 4}),
        ("pretrain", {"audio": 1}, {"audio": 4}),
        ("pretrain", {"image": 1}, {}),
        ("pretrain", {"image": -1}, {"image": 4}),
        ("finetune", {"video": 1}, {"video": 4}),
    ],
)
def test_counts_that_do_not_fit_are_refused(task: str, samples: dict[str, int], kept: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        step_work(SMALL, task, samples, kept)
