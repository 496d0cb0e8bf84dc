"""How the blocks of the pages are tried. What stands in no table here is run as it is written.

Blocks are listed by page and first line, commands by page and text on one line without `.venv/bin/`.
"""

from __future__ import annotations

from page_blocks import Command

ITSELF = "runs this very test"
GPU = "needs a GPU"
THEIRS = "needs the authors' file"
NETWORK = "needs a network and what it downloads"
DOCKER = "needs Docker, a network and what it downloads"
MULTINODE = "tests/multinode/test_multinode_forms.py"

# Neither commands nor a program nor a configuration, or commands that nothing here can run.
SHOWN = {
    **{("docs/datasets.md", name): "a dataset's tree" for name in ("dfew/", "ferv39k/", "mafw/", "caer/", "caer_s/")},
    **{("docs/datasets.md", name): "a dataset's tree" for name in ("affectnet/", "rafdb/", "ferplus/", "voxceleb2/")},
    ("docs/datasets.md", "celebv_hq/"): "a dataset's tree",
    ("docs/doctor.md", "GPU"): "what the command above it prints",
    ("docs/installing.md", "pip install -c constraints.txt torch numpy setuptools wheel packaging py-cpuinfo"): NETWORK,
    ("docs/multi-node.md", "node1 slots=8"): "a hostfile",
    ("docs/multi-node.md", "GLOO_SOCKET_IFNAME=eth0"): "a .deepspeed_env",
    ("docs/own-data.md", "clips/happiness/0001.mp4"): "a tree of clips",
    ("docs/preparing-data.md", '# classes: ["neutral", "happiness"]'): "a manifest",
    ("docs/throughput.md", "run: engine.zero_stage=1 batch.accumulation=1"): "what the command above it prints",
}

# Not run from its page: the reason why nothing here can, or the test that does, on sizes that it states. What can be
# said without running is checked all the same. The first row that a command begins with counts, on any page...
ABSENT = {"docker ": DOCKER, "sbatch ": MULTINODE}
ANYWHERE = {
    **ABSENT,
    "make test": ITSELF,
    "s4d checkpoint import vit_base_": THEIRS,
    "make demo": "tests/docs/test_make_demo.py",
    "make wheels": "tests/packaging/test_wheels.py",
    "make science": "tests/s4d/science/test_science_run.py",
    "make gpu-report DEVICE=cpu": "tests/s4d/cli/test_gpu_report.py",
    "make gpu-report": GPU,
    "make bench-compare": "tests/s4d/cli/test_bench_compare.py",
    "s4d bench compile": "tests/kernels/test_compile_ours.py",
    "s4d bench compare": "tests/s4d/cli/test_bench_compare.py",
    "s4d bench decoder": "tests/s4d/cli/test_bench_decoder.py",
    "s4d bench pipeline --device cpu": "tests/s4d/cli/test_bench_pipeline.py",
    "s4d bench pipeline": GPU,
    "s4d science run": "tests/s4d/science/test_science_run.py",
    "s4d science table": "tests/s4d/science/test_science_table.py",
    "s4d analyze correlation runs/science/": "tests/s4d/analysis/correlation/test_correlation_study.py",
    "s4d checkpoint export runs/mine --to onnx": "tests/s4d/models/export/test_export_peers.py",
    "s4d doctor --hostfile": "tests/multinode/test_multinode_doctor.py",
    "deepspeed --hostfile hosts --launcher pdsh": "tests/multinode/test_multinode_start.py",
    "deepspeed --hostfile hosts --no_ssh": MULTINODE,
}
# ... or on this one.
THERE = {
    ("docs/multi-node.md", "#!/bin/bash"): MULTINODE,
    ("docs/multi-node.md", "export GLOO_SOCKET_IFNAME=eth0 OMP_NUM_THREADS=1"): MULTINODE,
    **{
        ("docs/preparing-data.md", text): "tests/s4d/cli/test_raw_media_to_run.py"
        for text in (
            "s4d data prepare folder /data/mine --out manifests/mine.parquet",
            "s4d data scan manifests/mine.parquet --out manifests/mine.jsonl",
            "s4d data crop manifests/mine.parquet --boxes /data/mine/faces.csv --out /data/mine-crops",
            "s4d data validate /data/mine-crops/manifest.parquet --out reports/mine",
            "s4d data cache /data/mine-crops/manifest.parquet --out /data/mine-cache",
            "s4d train --config mine.yaml",
            "s4d evaluate runs/mine",
        )
    },
    ("docs/throughput.md", "s4d profile step --config mine.yaml --synthetic --device cuda --json step.json"): GPU,
    (
        "docs/throughput.md",
        "s4d plan --config mine.yaml --nodes 2 --gpus-per-node 8 --gpu h100 --profile step.json",
    ): GPU,
}

# Quick enough for every `make test`; the others are deep.
QUICK = ("s4d data prepare ", "s4d config ", "s4d plan ", "s4d bench step --readme")

# Words of a page that a small sandbox has others for. Absolute folders lead into the sandbox.
REPLACED = {
    "--num_accelerators 4": "--num_accelerators 2",
    "--ranks 1,2,4,8": "--ranks 1,2",
    "step-00002000": "step-00000002",
    "(1, 16, 160, 160, 3": "(1, 4, 32, 32, 3",
}
FOLDERS = ("/data/", "/fast/", "/tmp/")

# What is added to a command so that it is done in seconds: of every row whose pattern is found in it.
_SMALL = (
    *("model.size=tiny", "model.embed_dim=32", "model.depth=2", "model.num_heads=1", "model.image_size=32"),
    *("model.num_frames=4", "model.decoder_embed_dim=16", "model.decoder_depth=1", "model.decoder_num_heads=1"),
    *("model.moae.first_layer=1", "engine.precision=fp32", "data.workers=1"),
)
_SHORT = (
    *("engine.epochs=null", "engine.steps=2"),
    *("engine.save_every=null", "engine.eval_every=null", "engine.keep_best=null"),
)
ADDED: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"^s4d train|^deepspeed", (*_SMALL, *_SHORT)),
    (r"^s4d profile (step|scaling)", ("--steps", "1", *_SMALL)),
    (r"^(deepspeed|s4d profile).* configs/pretrain/", ("batch.per_step.affectnet=4", "batch.per_step.voxceleb2=8")),
    (r"^(deepspeed|s4d profile).* configs/finetune/(?!own)", ("batch.per_step.affectnet=4", "batch.per_step.dfew=4")),
    (r"^(s4d train|deepspeed).* configs/finetune/own", ("batch.per_step.mine=4",)),
    (r"^s4d profile scaling.*--stages", ("--stages", "1", "--mode", "strong")),
    (r"^s4d profile data", ("--workers", "1", "--rounds", "1", "--seconds", "0.01", "--names", "16", "--json", "-")),
    (
        r"^s4d bench (attention|step(?!.*--readme))",
        ("--device", "cpu", "--cases", "tiny", "--repeats", "1", "--quick-ceiling"),
    ),
    (r"^s4d bench step($| --cases)", ("--peers", "bare,release-eager")),
)


def listed(command: Command) -> str | None:
    """Why, or by which test elsewhere, a command is not run from its page; None for one that is."""
    rows = (row for beginning, row in ANYWHERE.items() if command.key[1].startswith(beginning))
    return THERE.get(command.key) or next(rows, None)


def is_run(command: Command) -> bool:
    """Whether the command is run as its page has it."""
    return not command.is_form and listed(command) is None
