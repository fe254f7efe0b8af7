# `make` builds everything and shows the result; `make help` lists the rest.
# Every command runs from this folder, wherever make was called.
.DEFAULT_GOAL := all
SHELL := /bin/bash
ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
BIN := $(ROOT)/.venv/bin
READY := $(ROOT)/.venv/.ready
# the first Python 3.11 or newer that is not the one in .venv
PYTHON ?= $(shell PATH="$${PATH//$(BIN):/}"; for p in python3 python3.11 python3.12 python3.13; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v "$$p" && break; done)
# stages start plain `python`: it is the one in .venv
export PATH := $(BIN):$(PATH)
export PYTHONUNBUFFERED := 1
# the stamp names the folder it was made for: the scripts in a .venv that was moved do not start
ifneq ($(shell cat "$(READY)" 2>/dev/null),$(ROOT))
$(shell rm -f "$(READY)")
endif

.PHONY: all
all: $(READY) ## Build the pipeline (dvc repro), then print scores and samples
	@cd "$(ROOT)" && dvc repro && python -m stages.report

.PHONY: setup
setup: $(READY) ## Create .venv with the pinned dependencies

# The stamp is written last. A .venv without it is half made, and made anew; one with an old stamp
# gets what has changed in the pinned versions.
$(READY): $(ROOT)/pyproject.toml $(ROOT)/constraints.txt
	@if [ ! -e "$@" ]; then \
	  "$(PYTHON)" -c 'import ensurepip' 2>/dev/null || { \
	    echo "error: Python 3.11 or newer with venv is needed (Debian: apt install python3-venv," \
	      "or name one: make PYTHON=/path/to/python3)"; exit 1; }; \
	  rm -rf "$(ROOT)/.venv" && "$(PYTHON)" -m venv "$(ROOT)/.venv" || exit 1; \
	fi
	@rm -f "$@"
	@echo "installing into $(ROOT)/.venv: some minutes, 2.7 GB"
	@cd "$(ROOT)" && "$(BIN)/python" -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[dev]'
	@# 25 s of compiling that would otherwise fall into the first run, or into each test process
	@cd "$(ROOT)" && "$(BIN)/python" -c \
	  "from lmlib.sampling import cpu_decoder; from lmlib.tokenizer import engine; \
	  engine.load(); engine.load_learning(); cpu_decoder.load()"
	@# pages of `dvc plots` then need no network
	@cd "$(ROOT)" && "$(BIN)/python" -m stages.vega
	@echo "$(ROOT)" > "$@"

.PHONY: repro
repro: $(READY) ## Rebuild what changed, without the report
	@cd "$(ROOT)" && dvc repro

.PHONY: ui
ui: $(READY) ## Open the MLflow UI on http://127.0.0.1:5000: ARGS="--port 5001"
	@cd "$(ROOT)" && python -m stages.ui $(ARGS)

.PHONY: plots
plots: $(READY) ## Draw the curves: dvc_plots/index.html, for a browser without network
	@cd "$(ROOT)" && python -m stages.vega && dvc plots show

.PHONY: format lint type
format: $(READY) ## Format the code
	@cd "$(ROOT)" && ruff format . && ruff check --fix .

lint: $(READY) ## Check style
	@cd "$(ROOT)" && ruff format --check --quiet . && ruff check --quiet .

type: $(READY) ## Check types
	@cd "$(ROOT)" && basedpyright

.PHONY: test test-all
test: lint type ## Style, types and tests
	@cd "$(ROOT)" && pytest -n auto --dist loadfile

test-all: lint type ## The tests that take minutes, too
	@cd "$(ROOT)" && pytest -n auto --dist loadfile -m ''

# the peers have an environment of their own: what they need is no dependency of ours
BENCH := $(ROOT)/.venv-bench
PEERS := $(ROOT)/tests/benchmarks/peers-requirements.txt
$(BENCH)/.ready: $(PEERS)
	@rm -rf "$(BENCH)" && "$(PYTHON)" -m venv "$(BENCH)"
	@"$(BENCH)/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$(PEERS)"
	@touch "$@"

.PHONY: bench-tokenizer
bench-tokenizer: $(READY) $(BENCH)/.ready ## Tokenizer beside its peers: CORPUS=FILE VOCAB=10000 REPEATS=5 ARGS=--growth
	@cd "$(ROOT)" && python -m tests.benchmarks.bench_tokenizer "$(abspath $(CORPUS))" \
	  --vocab-size $(or $(VOCAB),10000) --repeats $(or $(REPEATS),5) $(ARGS)

.PHONY: bench-train
bench-train: $(READY) $(BENCH)/.ready ## Training beside other models: REPEATS=5 ARGS="--size memory"
	@cd "$(ROOT)" && python -m tests.benchmarks.bench_train --repeats $(or $(REPEATS),5) $(ARGS)

.PHONY: bench-learning
bench-learning: $(READY) ## What AdamW, Muon and a Llama learn from a text: CORPUS=FILE ARGS="--jobs 2"
	@cd "$(ROOT)" && python -m tests.benchmarks.bench_learning "$(abspath $(CORPUS))" $(ARGS)

.PHONY: bench-sample
bench-sample: $(READY) ## Sampling beside transformers: REPEATS=5 ARGS="--device cuda"
	@cd "$(ROOT)" && python -m tests.benchmarks.bench_sample --repeats $(or $(REPEATS),5) $(ARGS)

.PHONY: bench-pipeline
bench-pipeline: $(READY) ## What DVC and MLflow cost: an empty dvc repro, the start of stages, logging
	@cd "$(ROOT)" && python -m tests.benchmarks.bench_pipeline --repeats $(or $(REPEATS),5) $(ARGS)

.PHONY: clean prune
prune: ## Remove the states of trainings that were never finished
	@rm -rf "$(ROOT)/models/.resume"

clean: ## Remove .venv and caches of tools (never data, models or runs)
	@cd "$(ROOT)" && rm -rf .venv .pytest_cache .ruff_cache .hypothesis build *.egg-info

# Presets: experiments with several parameters changed, which `dvc exp run` writes to params.yaml.
# Back to the default: git checkout . && dvc checkout
# Change more: make tinystories ARGS="-S train.seed=2"
EXPERIMENT = cd "$(ROOT)" && dvc exp run $(ARGS)
LARGE = -S tokenizer.vocab_size=10000 -S model.context_length=256 -S model.d_model=512 \
  -S model.d_ff=1344 -S model.num_layers=4 -S model.num_heads=16 -S model.rope_theta=10000.0 \
  -S optim.name=adamw -S optim.lr=1e-3 -S optim.weight_decay=0.1 -S train.log_every=50 \
  -S train.valid_every=500 -S train.valid_batches=16 -S train.checkpoint_every=500 \
  -S sampling.max_tokens=256

.PHONY: tinystories tinystories-cpu owt tiny
tinystories: $(READY) ## Preset: 22.7M weights on TinyStories, 327,680,000 tokens (GPU)
	@$(EXPERIMENT) -S corpus.source=tinystories $(LARGE) -S optim.warmup_steps=200 \
	  -S train.batch_size=128 -S train.num_steps=10000

tinystories-cpu: $(READY) ## Preset: the same at 40,960,000 tokens (CPU, or Apple's MPS)
	@$(EXPERIMENT) -S corpus.source=tinystories $(LARGE) -S optim.warmup_steps=100 \
	  -S train.batch_size=32 -S train.num_steps=5000

owt: $(READY) ## Preset: the same model on OpenWebText, vocabulary of 32,000 (GPU)
	@$(EXPERIMENT) -S corpus.source=owt $(LARGE) -S tokenizer.vocab_size=32000 \
	  -S optim.warmup_steps=200 -S train.batch_size=128 -S train.num_steps=10000

TINY = -S corpus.source=toystories -S corpus.train_bytes=200000 -S corpus.valid_bytes=20000 -S tokenizer.vocab_size=512 \
  -S model.context_length=32 -S model.d_model=32 -S model.d_ff=64 -S model.num_layers=2 \
  -S model.num_heads=2 -S train.num_steps=20 -S train.batch_size=4 -S train.log_every=5 \
  -S train.valid_every=10 -S train.valid_batches=2 -S train.checkpoint_every=5 \
  -S optim.warmup_steps=5 -S sampling.max_tokens=32
tiny: $(READY) ## Preset: everything very small, in half a minute
	@$(EXPERIMENT) $(TINY)

# Studies: several experiments, a table and a chart in models/studies/
# Change more: make ablations JOBS=4 ARGS="-S train.num_steps=5000"
STUDIES := sweep-lr sweep-batch ablations scaling
.PHONY: $(STUDIES)
sweep-lr: ## Study: learning rates
sweep-batch: ## Study: batch sizes after equally many tokens
ablations: ## Study: no norm, post-norm, no position embedding, SiLU against SwiGLU
scaling: ## Study: three sizes at equal compute
$(STUDIES): $(READY)
	@cd "$(ROOT)" && python -m stages.study $@ --jobs $(or $(JOBS),2) $(ARGS)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' "$(ROOT)/Makefile" | sed 's/:.*## /\t/' | expand -t 20
