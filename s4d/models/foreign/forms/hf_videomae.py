"""VideoMAE as Hugging Face's transformers keeps it: other names, queries, keys and values apart.

Biases of queries and values have two layouts: `attention.attention.q_bias` and `v_bias` before transformers 5,
`query.bias` and `value.bias` from then on. Some releases of 5 read the old layout with those biases silently left at
zero, and what they saved again holds zeros.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from s4d.models.foreign.forms.ledger import Ledger, Wishes, place_head
from s4d.models.sizes import Architecture

ATTENTION = re.compile(r"(encoder\.layer|decoder\.decoder_layers)\.(\d+)\.attention\.attention\.(\w+(?:\.\w+)?)")
REST_OF_BLOCK = re.compile(r"(encoder\.layer|decoder\.decoder_layers)\.(\d+)\.(.+)\.(weight|bias)")
OF_BLOCK = {
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
}
OF_ENCODER = {
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
}
OF_PRETRAINING = ("mask_token", "encoder_to_decoder.", "decoder.norm.", "decoder.head.")
BIASES = {"q_bias": "q_bias", "query.bias": "q_bias", "v_bias": "v_bias", "value.bias": "v_bias"}
OUR_EPSILON, LARGEST_EPSILON = 1e-6, 1e-5


def convert(source: dict[str, Tensor], config: Mapping[str, Any], wishes: Wishes) -> Ledger:
    """Account for the tensors of a folder with this `config.json`; ValueError says why it is refused."""
    bare = {name.removeprefix("videomae."): name for name in source}
    if len(bare) != len(source):
        raise ValueError("the same tensor stands below 'videomae.' and without it")
    ledger = Ledger(
        {name: source[stored] for name, stored in bare.items()}, image_size=_whole(config, "image_size", 224)
    )
    ledger.arch = _architecture(config)
    _check_config(ledger, config)
    ledger.stage = "pretrain" if "mask_token" in bare else "finetune" if "fc_norm.weight" in bare else "encoder"
    encoder = "" if ledger.stage == "finetune" else "encoder."
    for name in ledger.rest:
        if name.endswith("position_embeddings"):
            ledger.leave_sinusoid(name)
        elif name in OF_ENCODER:
            ledger.take(name, encoder + OF_ENCODER[name])
        elif name.startswith("layernorm.") and ledger.stage != "finetune":
            ledger.take(name, f"encoder.norm.{name.removeprefix('layernorm.')}")
        elif name.startswith(OF_PRETRAINING) or name.startswith("fc_norm."):
            ledger.take(name, name)
        elif (match := REST_OF_BLOCK.fullmatch(name)) and match[3] in OF_BLOCK:
            ledger.take(name, f"{_block(match, encoder)}.{OF_BLOCK[match[3]]}.{match[4]}")
    _join_attention(ledger, encoder, config.get("qv_bias", config.get("qkv_bias", True)))
    _place_classifier(ledger, config, wishes)
    ledger.restore_names(bare)
    return ledger


def _block(match: re.Match[str], encoder: str) -> str:
    return f"{encoder if match[1] == 'encoder.layer' else 'decoder.'}blocks.{match[2]}"


def _join_attention(ledger: Ledger, encoder: str, biased: object) -> None:
    """Queries, keys and values of each block become one projection, in this order."""
    blocks: dict[str, dict[str, str]] = {}
    for name in ledger.rest:
        if match := ATTENTION.fullmatch(name):
            blocks.setdefault(f"{_block(match, encoder)}.attn", {})[match[3]] = name
    zeros = 0
    for block, parts in blocks.items():
        weights = [parts.get(f"{part}.weight") for part in ("query", "key", "value")]
        if not all(weights):
            raise ValueError(f"block {block!r}: no weights of queries, keys and values")
        names = [name for name in weights if name]
        matrices = [ledger.values(name, 2) for name in names]
        if len({matrix.shape for matrix in matrices}) != 1:
            raise ValueError(f"block {block!r}: weights of queries, keys and values differ in shape")
        ledger.combine(names, {f"{block}.qkv.weight": torch.cat(matrices)})
        if "key.bias" in parts:
            ledger.leave(parts["key.bias"], "adds one number to all scores of a query, which softmax drops")
        for part, ours in BIASES.items():
            if part in parts:
                if biased is False:
                    raise ValueError(f"config.json: field 'qv_bias': false, but {parts[part]!r} is there")
                ledger.take(parts[part], f"{block}.{ours}")
        for ours in ("q_bias", "v_bias"):
            if f"{block}.{ours}" not in ledger.tensors and biased is False:
                ledger.tensors[f"{block}.{ours}"] = torch.zeros(len(ledger.source[names[0]]))
                ledger.note("the model has no biases of queries and values (qv_bias is false): ours are zero")
        biases = [ledger.tensors.get(f"{block}.{ours}") for ours in ("q_bias", "v_bias")]
        zeros += all(bias is not None and not bias.any() for bias in biases)
    if blocks and zeros == len(blocks) and biased is not False:
        ledger.note(
            "all biases of queries and values are zero: some releases of transformers 5 lost them when they read a "
            "checkpoint, and this may be one that they saved"
        )


def _place_classifier(ledger: Ledger, config: Mapping[str, Any], wishes: Wishes) -> None:
    if "classifier.weight" not in ledger.source or "classifier.bias" not in ledger.source:
        return
    if ledger.stage != "finetune":
        if not wishes.drop_head:
            raise ValueError("tensor 'classifier.weight': it classifies by the first token, ours by the mean")
        for name in ("classifier.weight", "classifier.bias"):
            ledger.leave(name, "classifier dropped as asked")
        return
    names = _class_names(config)
    if names:
        ledger.classes = {"video": names}
    place_head(ledger, "classifier.weight", "classifier.bias", wishes)


def _class_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names in the order of `id2label`; none where it holds the placeholders of a model that was not told any."""
    labels = config.get("id2label")
    if not isinstance(labels, dict):
        return ()
    try:
        numbered = {int(number): str(name) for number, name in labels.items()}
    except ValueError as error:
        raise ValueError("config.json: field 'id2label': expected names by number") from error
    if sorted(numbered) != list(range(len(labels))):
        raise ValueError("config.json: field 'id2label': numbers are not 0, 1, ... without a gap")
    names = tuple(numbered[number] for number in range(len(numbered)))
    # Folders that were given names alone keep placeholders there; the same names in another order are a contradiction.
    other = config.get("label2id")
    numbers = {name: str(number) for number, name in numbered.items()}
    if isinstance(other, dict) and other.keys() == set(names) and {n: str(i) for n, i in other.items()} != numbers:
        raise ValueError("config.json: field 'label2id': numbers the names of 'id2label' in another way")
    return () if all(name == f"LABEL_{number}" for number, name in enumerate(names)) else names


def _check_config(ledger: Ledger, config: Mapping[str, Any]) -> None:
    if config.get("model_type") != "videomae":
        raise ValueError(f"config.json: field 'model_type': expected 'videomae', got {config.get('model_type')!r}")
    if config.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"config.json: field 'hidden_act': ours is 'gelu', got {config['hidden_act']!r}")
    if config.get("num_channels", 3) != 3:
        raise ValueError(f"config.json: field 'num_channels': ours is 3, got {config['num_channels']!r}")
    if config.get("use_mean_pooling") is False and "fc_norm.weight" in ledger.source:
        raise ValueError("config.json: field 'use_mean_pooling': false, but 'fc_norm.weight' is there")
    epsilon = config.get("layer_norm_eps", 1e-12)
    if not isinstance(epsilon, int | float) or not 0 <= epsilon <= LARGEST_EPSILON:
        raise ValueError(f"config.json: field 'layer_norm_eps': ours is {OUR_EPSILON:g}, got {epsilon!r}")
    if epsilon != OUR_EPSILON:
        ledger.note(f"layer norms add {OUR_EPSILON:g} here (as VideoMAE's own code does), {epsilon:g} in the folder")


def _architecture(config: Mapping[str, Any]) -> Architecture:
    """Every size is stated; those that are left out have transformers' defaults."""
    width, decoder_width = _whole(config, "hidden_size", 768), _whole(config, "decoder_hidden_size", 384)
    hidden = (_whole(config, "intermediate_size", 3072), _whole(config, "decoder_intermediate_size", 1536))
    ratio = hidden[0] // width
    if hidden[0] != ratio * width or ("decoder_intermediate_size" in config and hidden[1] != ratio * decoder_width):
        raise ValueError(f"config.json: field 'intermediate_size': {hidden[0]} is no multiple that the decoder shares")
    return Architecture(
        embed_dim=width,
        depth=_whole(config, "num_hidden_layers", 12),
        num_heads=_whole(config, "num_attention_heads", 12),
        decoder_embed_dim=decoder_width,
        decoder_depth=_whole(config, "decoder_num_hidden_layers", 4),
        decoder_num_heads=_whole(config, "decoder_num_attention_heads", 6),
        image_size=_whole(config, "image_size", 224),
        num_frames=_whole(config, "num_frames", 16),
        patch_size=_whole(config, "patch_size", 16),
        tubelet_size=_whole(config, "tubelet_size", 2),
        position_frames=_whole(config, "num_frames", 16),
        mlp_ratio=ratio,
    )


def _whole(config: Mapping[str, Any], name: str, default: int) -> int:
    value = config.get(name, default)
    if isinstance(value, list) and len(set(map(str, value))) == 1:
        value = value[0]
    if type(value) is not int or value < 1:
        raise ValueError(f"config.json: field {name!r}: expected a whole number from 1 on, got {value!r}")
    return value
