# Chores of the project; `make help` lists them. Everything runs in .venv, which `env` creates and keeps up to date.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env native native-sanitize check test test-deep test-multinode rig-tools scorecard gpu-report bench-compare demo science docs wheels clean distclean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

# ---- environment: two stamps, written last, so that an interrupted run is simply continued ----

PACKAGES := $(VENV)/.packages-installed
PROJECT  := $(VENV)/.project-installed
NATIVE_SOURCES := $(wildcard CMakeLists.txt) $(shell find kernels/native -type f -not -name '*.py' -not -name '*.so' 2>/dev/null)

env: $(PROJECT) ## create .venv with everything, build the native library

# torch first: deepspeed's setup imports it; DS_BUILD_OPS=0: nothing of deepspeed is compiled
$(PACKAGES): pyproject.toml constraints.txt
	@echo "env: installing packages into $(VENV)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -c 'import sys; sys.exit("env: Python 3.11 or newer is needed, $(PY) is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@$(PIP) torch numpy
	@$(PIP) setuptools wheel packaging py-cpuinfo scikit-build-core cmake ninja
	@DS_BUILD_OPS=0 $(PIP) --no-build-isolation deepspeed
	@$(PIP) $$($(PY) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *p["optional-dependencies"]["dev"], *p["optional-dependencies"]["dali-cu13"])')
	@touch $@

$(PROJECT): $(PACKAGES) $(NATIVE_SOURCES)
	@if command -v $${CXX:-c++} g++ clang++ >/dev/null; then \
		$(PIP) --no-build-isolation --no-deps --editable .; \
	else \
		echo "env: no C++ compiler found: installing without the native library; the portable backends serve in its place"; \
		$(PIP) --no-build-isolation --no-deps --config-settings wheel.cmake=false --editable .; \
	fi
	@$(PY) -c 'import engine, kernels, s4d; from kernels import native; ok, why = native.status(); \
		print("env: s4d", s4d.__version__, "is ready in $(VENV); native library:", "built" if ok else why)'
	@touch $@

native: ## rebuild the native library
	@rm -f $(PROJECT)
	@$(MAKE) --no-print-directory $(PROJECT)

SANITIZED := build/sanitize
native-sanitize: ## build the native library aside with sanitizers and run its cases
	@mkdir -p $(SANITIZED)
	$(CXX) -std=c++17 -O0 -g1 -Wall -Wextra -pedantic -Werror -ffp-contract=off -fopenmp \
		-fsanitize=address,undefined -fno-sanitize-recover=all -Ikernels/native \
		kernels/native/*.cpp tests/kernels/native/sanitized_cases.cpp -o $(SANITIZED)/cases
	ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=2 $(SANITIZED)/cases

# ---- manual: its packages are installed when it is first built ----

SPHINX := $(VENV)/.sphinx-installed

$(SPHINX): $(PACKAGES)
	@echo "docs: installing Sphinx into $(VENV)"
	@$(PIP) $$($(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@touch $@

docs: env $(SPHINX) ## build the manual: build/docs/index.html
	$(PY) -m sphinx -W --keep-going -n -E -q docs build/docs
	@echo "docs: open build/docs/index.html"

# ---- wheels: packages to install elsewhere, without a compiler there ----

WHEEL_TOOLS := $(VENV)/.wheel-tools-installed
WHEELS := build/wheels
# With ON the library also has the routing plan for CUDA (Triton has it too) and asks for a newer system: manylinux_2_34.
WHEEL_CUDA ?= OFF

$(WHEEL_TOOLS): $(PACKAGES)
	@echo "wheels: installing the tools into $(VENV)"
	@$(PIP) $$($(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["wheels"])')
	@touch $@

define BUILD
	@$(PY) -m build --no-isolation --outdir $(1) $(2) . >build/wheel/build.log 2>&1 || { tail -n 30 build/wheel/build.log; exit 1; }
endef

# libgomp stays outside: the library shares torch's, so that there is one set of threads and one setting of their number.
wheels: env $(WHEEL_TOOLS) ## build/wheels: one with the native library, one of Python alone, the source package
	@rm -rf $(WHEELS) build/wheel && mkdir -p $(WHEELS) build/wheel
	$(call BUILD,$(WHEELS),--sdist)
	$(call BUILD,$(WHEELS),--wheel -C wheel.cmake=false)
	$(call BUILD,build/wheel,--wheel -C build-dir=build/wheel/cmake -C cmake.define.S4D_CUDA=$(WHEEL_CUDA))
	@PATH="$(abspath $(VENV)/bin):$$PATH" auditwheel repair --exclude libgomp.so.1 --wheel-dir $(WHEELS) build/wheel/*.whl \
		>build/wheel/repair.log 2>&1 || { cat build/wheel/repair.log; exit 1; }
	@ls -1 $(WHEELS)

# ---- checks and tests ----

SOURCES := kernels s4d engine tests docs
CXX_SOURCES = $(shell find kernels/native tests/kernels/native -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest

check: env ## lint, formatting and types
	$(VENV)/bin/hadolint Dockerfile
	$(VENV)/bin/shellcheck scripts/*
	$(PY) -m ruff check $(SOURCES)
	$(PY) -m ruff format --check $(SOURCES)
	MYPYPATH=docs/_ext $(PY) -m mypy kernels s4d engine docs/_ext
	$(VENV)/bin/clang-format --dry-run -Werror $(or $(CXX_SOURCES),$(error no C++ sources under kernels/native))

test: env check ## the quick suite; tests that start several processes run alone
	$(PYTEST) -n 2 -m "not launch and not deep"
	$(PYTEST) -m "launch and not deep"

SLICE ?= 1/1
SLICE_SECONDS ?= 0
test-deep: env rig-tools $(SPHINX) ## long checks; SLICE=2/7 runs the second of seven parts
	PYTHONPATH=tests $(PYTEST) -n 2 -p deep_slice -m deep --timeout 900 --deep-slice $(SLICE) --deep-seconds $(SLICE_SECONDS)

test-multinode: env rig-tools ## two and three nodes as network namespaces on this machine; needs root
	$(PYTEST) -m multinode --timeout 900

RIG_PACKAGES := openssh-server openssh-client pdsh iproute2 iptables procps hostname
# What is missing after this, root or namespaces included, the tests name when they are skipped.
rig-tools:
	@if [ "$$(id -u)" = 0 ] && ! { command -v pdsh && command -v sshd && command -v iptables && command -v ip; } >/dev/null && command -v apt-get >/dev/null; then \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(RIG_PACKAGES); } >/dev/null 2>&1 || true; fi

ROWS ?=
scorecard: MINUTES ?= 10
scorecard: env ## count the promises about faults and bad input on towards their targets: MINUTES=30 ROWS="R1 R23"
	OMP_NUM_THREADS=1 $(PY) tests/scorecard/scorecard.py --minutes $(MINUTES) $(if $(ROWS),--rows $(ROWS))

# ---- measurements ----

# No prerequisite: a GPU host brings its own Python, `make gpu-report PY=python3` with packages on PYTHONPATH.
DEVICE ?= cuda
PARTS ?=
REPORT_OPTIONS ?=
gpu-report: ## benchmarks, profiles, GPU tests and the pipeline into one JSON; PARTS=kernels, steps, pipeline: under 10 minutes each
	$(PY) -c 'import sys; from s4d.cli import main; sys.exit(main())' bench gpu-report --device $(DEVICE) $(if $(PARTS),--only $(PARTS)) $(REPORT_OPTIONS)

BASE ?= HEAD
COMPARE_OPTIONS ?=
bench-compare: env ## is the working tree over 5 % slower than a revision, both timed in turn? BASE=<rev>
	$(VENV)/bin/s4d bench compare --base $(BASE) $(COMPARE_OPTIONS)

# ---- demonstration: each long step leaves a marker, so that a second call continues where the first ended ----

DEMO := runs/demo
DONE := $(DEMO)/.done
S4D  := $(VENV)/bin/s4d
DEMO_DATA := --clips 1260 --images 3500 --identities 150 --seed 0

# one process per device, or two on the CPU; a free port, so that several runs can share a machine
define TRAIN
	@export OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(VENV)/bin:$$PATH"; \
	set -- $$(python -c 'import socket, torch; s = socket.socket(); s.bind(("", 0)); print(torch.cuda.device_count(), s.getsockname()[1])'); \
	test $$1 -gt 0 || { shift; export DS_ACCELERATOR=cpu; set -- 2 $$1; }; \
	echo "demo: training $(@F) with $$1 processes"; \
	deepspeed --num_accelerators $$1 --master_port $$2 engine/train.py --resume auto
endef

# a marker that exists but is out of date means changed inputs: start that step afresh instead of resuming it
define FRESH
	@mkdir -p $(DONE)
	@if [ -e $@ ]; then rm -rf $@ $(1); fi
endef

demo: $(DONE)/report ## generate faces, pre-train, fine-tune, evaluate, report: runs/demo/report/index.html

$(DONE)/data: | env
	@mkdir -p $(DONE)
	rm -rf $(DEMO)/data
	$(S4D) data synth --out $(DEMO)/data $(DEMO_DATA)
	@touch $@

$(DONE)/manifests: $(DONE)/data | env
	$(S4D) data prepare voxceleb2 $(DEMO)/data/voxceleb2 --out $(DEMO)/manifests/voxceleb2.parquet
	$(S4D) data prepare affectnet $(DEMO)/data/affectnet --out $(DEMO)/manifests/affectnet.parquet
	$(S4D) data prepare dfew $(DEMO)/data/dfew --fold 1 --out $(DEMO)/manifests/dfew.parquet
	@touch $@

$(DONE)/pretrain: configs/pretrain/demo.yaml $(DONE)/manifests | env
	$(call FRESH,$(DEMO)/pretrain)
	$(TRAIN) --config configs/pretrain/demo.yaml
	@touch $@

$(DONE)/finetune: configs/finetune/demo.yaml $(DONE)/pretrain | env
	$(call FRESH,$(DEMO)/finetune)
	$(TRAIN) --config configs/finetune/demo.yaml
	@touch $@

$(DONE)/scratch: configs/finetune/demo.yaml $(DONE)/manifests | env
	$(call FRESH,$(DEMO)/scratch)
	$(TRAIN) --config configs/finetune/demo.yaml name=demo-scratch run_dir=$(DEMO)/scratch model.init_from=null
	@touch $@

$(DONE)/report: $(DONE)/pretrain $(DONE)/finetune $(DONE)/scratch | env
	$(S4D) analyze pictures $(DEMO)/finetune
	$(S4D) report $(DEMO)
	@touch $@
	@echo "demo: open $(DEMO)/report/index.html"

# ---- the experiment of docs/experiments.md: a second call goes on where the first stopped ----

SIZE ?= cpu
science: MINUTES ?= 90
science: env ## put the claims to the test on generated faces: MINUTES=90 SIZE=gpu; call again for the rest
	$(S4D) science run --size $(SIZE) --minutes $(MINUTES); status=$$?; $(S4D) science table --docs && exit $$status

clean: ## remove build outputs, caches and the demo run
	rm -rf build dist runs/demo .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find kernels s4d engine tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## clean, and remove .venv too
	rm -rf $(VENV)
