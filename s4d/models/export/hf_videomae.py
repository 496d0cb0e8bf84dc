"""A folder that transformers' VideoMAE classes load: a plain encoder, with its decoder or one head for clips.

Biases of queries and values have the names of transformers 5. Layer norms add 1e-6 as ours do, but for two whose
epsilon transformers does not take from the configuration: the norm before the head and the decoder's last one add 1e-5.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save, save_file
from torch import Tensor

from s4d.errors import DataError, UsageError
from s4d.models.card import model_card
from s4d.models.export.portable import fixed_program
from s4d.models.export.source import (
    ExportReport,
    Source,
    Wanted,
    kept_if_good,
    random_frames,
    refuse_if_far,
    refuse_unless_equal,
)
from s4d.models.exported import KEY
from s4d.models.folder import CARD_FILE, CONFIG_FILE, MODEL_FILE, read_object, read_tensor_file
from s4d.models.foreign.forms import hf_videomae
from s4d.models.foreign.forms.ledger import Wishes
from s4d.models.vit import LAYER_NORM_EPS, imagenet_statistics

TOLERANCE = 1e-5
CLASSES_OF = {
    "pretrain": "VideoMAEForPreTraining",
    "finetune": "VideoMAEForVideoClassification",
    "encoder": "VideoMAEModel",
}
CHILD = Path(__file__).with_name("transformers_child.py")


def export(source: Source, out: Path, wanted: Wanted) -> ExportReport:
    """Write the folder. It is read back to the bit; with `check_with`, transformers also runs it on a random clip."""
    arch = source.arch
    if arch.experts is not None:
        raise UsageError(
            f"{source.folder}: has adapter experts in blocks {arch.experts.layers[0]} to {arch.experts.layers[-1]}, "
            "which transformers' VideoMAE does not have; --to torch-export and --to onnx take them"
        )
    if source.stage == "pretrain" and arch.decoder != "joint":
        raise UsageError(f"{source.folder}: its decoder is {arch.decoder!r}; transformers' VideoMAE has the joint one")
    head = source.head_for(wanted.head, "video")
    config = _config(source, head)
    ours = {name: tensor for name, tensor in source.tensors.items() if _is_of(name, head)}
    with kept_if_good(out) as aside:
        aside.mkdir()
        model = save(to_transformers(ours, source.stage), metadata={"format": "pt"})
        (aside / MODEL_FILE).write_bytes(model)
        (aside / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        card = model_card(config[KEY], ours, name=out.name, transformers_class=CLASSES_OF[source.stage])
        (aside / CARD_FILE).write_text(card, encoding="utf-8")
        wishes = Wishes(classes={head: source.classes[head]} if head else {})
        again = hf_videomae.convert(read_tensor_file(aside / MODEL_FILE), read_object(aside / CONFIG_FILE), wishes)
        refuse_unless_equal(out, again.tensors, ours)
        compared, largest = f"{len(ours)} tensors read back, equal to the bit", 0.0
        if wanted.check_with is not None:
            largest = _compare(source, aside, out, wanted.check_with, head)
            compared += "; features of a random clip by transformers"
    notes = () if wanted.check_with else ("not run by transformers: name an interpreter that has it, --check-with",)
    return ExportReport(out=out, compared=compared, largest_difference=largest, notes=notes)


def _is_of(name: str, head: str | None) -> bool:
    return not name.startswith("head.") or name.startswith(f"head.{head}.")


def to_transformers(ours: dict[str, Tensor], stage: str) -> dict[str, Tensor]:
    """Tensors under transformers' names; a model alone has no prefix."""
    base = "" if stage == "encoder" else "videomae."
    of_block = {mine: theirs for theirs, mine in hf_videomae.OF_BLOCK.items()}
    of_encoder = {mine: theirs for theirs, mine in hf_videomae.OF_ENCODER.items()}
    made: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        short = name.removeprefix("encoder.")
        parts = short.removeprefix("decoder.").split(".")
        if short in of_encoder:
            made[base + of_encoder[short]] = tensor
        elif short.startswith("norm."):
            made[f"{base}layernorm.{parts[-1]}"] = tensor
        elif name.startswith("head."):
            made[f"classifier.{parts[-1]}"] = tensor
        elif parts[0] == "blocks":
            place = "decoder.decoder_layers" if name.startswith("decoder.") else f"{base}encoder.layer"
            made |= _of_block(f"{place}.{parts[1]}", ".".join(parts[2:]), tensor, of_block)
        else:
            made[name] = tensor
    return {name: tensor.clone().contiguous() for name, tensor in made.items()}


def _of_block(block: str, name: str, tensor: Tensor, of_block: dict[str, str]) -> dict[str, Tensor]:
    attention = f"{block}.attention.attention"
    if name == "attn.qkv.weight":
        parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
        return {f"{attention}.{part}.weight": weight for part, weight in parts}
    if name in ("attn.q_bias", "attn.v_bias"):
        return {f"{attention}.{'query' if name == 'attn.q_bias' else 'value'}.bias": tensor}
    layer, _, kind = name.rpartition(".")
    return {f"{block}.{of_block[layer]}.{kind}": tensor}


def _config(source: Source, head: str | None) -> dict[str, Any]:
    arch = source.arch
    labels = dict(enumerate(source.classes[head])) if head else {}
    return {
        "architectures": [CLASSES_OF[source.stage]],
        "model_type": "videomae",
        "image_size": arch.image_size,
        "patch_size": arch.patch_size,
        "num_channels": 3,
        "num_frames": arch.num_frames,
        "tubelet_size": arch.tubelet_size,
        "hidden_size": arch.embed_dim,
        "num_hidden_layers": arch.depth,
        "num_attention_heads": arch.num_heads,
        "intermediate_size": arch.embed_dim * arch.mlp_ratio,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": LAYER_NORM_EPS,
        "qv_bias": True,
        "use_mean_pooling": source.stage == "finetune",
        "decoder_num_attention_heads": arch.decoder_num_heads,
        "decoder_hidden_size": arch.decoder_embed_dim,
        "decoder_num_hidden_layers": arch.decoder_depth,
        "decoder_intermediate_size": arch.decoder_embed_dim * arch.mlp_ratio,
        "norm_pix_loss": True,
        **({"id2label": {str(n): name for n, name in labels.items()}} if head else {}),
        **({"label2id": {name: n for n, name in labels.items()}} if head else {}),
        "torch_dtype": "float32",
        KEY: _of_head(source, head),
    }


def _of_head(source: Source, head: str | None) -> dict[str, Any]:
    """What the model folder says, of this head alone; transformers ignores it, `S4D.from_pretrained` reads it."""
    by_head = ("classes", "labels", "inputs", "class_priors") if head else ()
    kept = {
        key: {name: part for name, part in value.items() if name == head} if key in by_head else value
        for key, value in source.described.items()
    }
    if head and kept.get("metrics"):
        scores = {name: found for name, found in kept["metrics"]["sources"].items() if name == head}
        kept |= {"metrics": {**kept["metrics"], "sources": scores} if scores else None}
    if head and "inputs" not in kept:
        kept["inputs"] = {head: {"modality": source.modalities[head]}}
    return kept


def _compare(source: Source, folder: Path, out: Path, python: str, head: str | None) -> float:
    """Largest difference of the features of one random clip, by a process of that interpreter."""
    frames = random_frames(source.arch, "video", 1, seed=0)
    mean, std = imagenet_statistics(frames.device)
    values = (frames.to(torch.float32) / 255 - mean) / std
    with TemporaryDirectory() as place:
        save_file({"pixel_values": values.permute(0, 1, 4, 2, 3).contiguous()}, Path(place) / "in.safetensors")
        # -I: neither our packages nor the working directory; transformers takes our `kernels` for another package.
        command = [python, "-I", str(CHILD), str(folder.resolve()), place]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, cwd=place)
        except OSError as error:
            raise UsageError(f"command line: --check-with {python}: {error.strerror}") from error
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or [f"status {error.returncode}"])[-1]
            raise DataError(f"{out}: not kept: transformers in {python}: {reason[:300]}") from error
        theirs = read_tensor_file(Path(place) / "out.safetensors")
    with torch.inference_mode():
        features = fixed_program(source, head, "video", batch=1, features=True)(frames)
    return refuse_if_far(out, {"features": (theirs["features"], features)}, TOLERANCE)
