# `make` builds everything and shows the result; `make help` lists the rest.
# Every command runs from this folder, wherever make was called.
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
SHELL := /bin/bash
ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
BIN := $(ROOT)/.venv/bin
READY := $(ROOT)/.venv/.ready
PYTHON ?= python3
# stages start plain `python`: it is the one in .venv
export PATH := $(BIN):$(PATH)
export PYTHONUNBUFFERED := 1

.PHONY: all
all: $(READY) ## Build the pipeline (dvc repro), then print scores and samples
	@cd "$(ROOT)" && dvc repro && python -m stages.report

.PHONY: setup
setup: $(READY) ## Create .venv with the pinned dependencies

# The stamp is written last: a half-made .venv is made anew.
$(READY): $(ROOT)/pyproject.toml $(ROOT)/constraints.txt
	@rm -f "$@"
	@"$(PYTHON)" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) should be Python 3.11 or newer with venv (Debian: apt install python3-venv)"; exit 1; }
	@"$(PYTHON)" -m venv --clear "$(ROOT)/.venv"
	@cd "$(ROOT)" && python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[dev]'
	@touch "$@"

.PHONY: repro
repro: $(READY) ## Rebuild what changed, without the report
	@cd "$(ROOT)" && dvc repro

.PHONY: ui
ui: $(READY) ## Open the MLflow UI on http://127.0.0.1:5000
	@cd "$(ROOT)" && python -m stages.ui

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

.PHONY: bench
bench: $(READY) ## Measure the tokenizer: make bench CORPUS=FILE VOCAB=10000
	@cd "$(ROOT)" && python -m tests.benchmarks.bench_tokenizer "$(CORPUS)" --vocab-size $(or $(VOCAB),10000)

.PHONY: clean
clean: ## Remove .venv and caches of tools (never data, models or runs)
	@cd "$(ROOT)" && rm -rf .venv .pytest_cache .ruff_cache .hypothesis build *.egg-info

# Presets: experiments with several parameters changed. Add more: make tinystories ARGS="-S train.seed=2"
EXPERIMENT = cd "$(ROOT)" && dvc exp run $(ARGS)
MODEL_17M = -S tokenizer.vocab_size=10000 -S model.context_length=256 -S model.d_model=512 \
  -S model.d_ff=1344 -S model.num_layers=4 -S model.num_heads=16 -S model.rope_theta=10000.0
LONG = -S optim.lr=1e-3 -S train.log_every=50 -S train.valid_every=500 \
  -S train.checkpoint_every=500

.PHONY: tinystories tinystories-cpu owt tiny
tinystories: $(READY) ## Preset: 17M-parameter model on TinyStories, 327,680,000 tokens (GPU)
	@$(EXPERIMENT) -S corpus.source=tinystories $(MODEL_17M) $(LONG) -S optim.warmup_steps=200 \
	  -S train.batch_size=128 -S train.num_steps=10000

tinystories-cpu: $(READY) ## Preset: the same at 40,960,000 tokens (CPU, or Apple's MPS)
	@$(EXPERIMENT) -S corpus.source=tinystories $(MODEL_17M) $(LONG) -S optim.warmup_steps=100 \
	  -S train.batch_size=32 -S train.num_steps=5000

owt: $(READY) ## Preset: the same model on OpenWebText, vocabulary of 32,000 (GPU)
	@$(EXPERIMENT) -S corpus.source=owt $(MODEL_17M) $(LONG) -S tokenizer.vocab_size=32000 \
	  -S optim.warmup_steps=200 -S train.batch_size=128 -S train.num_steps=10000

TINY = -S corpus.train_bytes=200000 -S corpus.valid_bytes=20000 -S tokenizer.vocab_size=512 \
  -S model.context_length=32 -S model.d_model=32 -S model.d_ff=64 -S model.num_layers=2 \
  -S model.num_heads=2 -S train.num_steps=20 -S train.batch_size=4 -S train.log_every=5 \
  -S train.valid_every=10 -S train.valid_batches=2 -S train.checkpoint_every=5 \
  -S optim.warmup_steps=5 -S sampling.max_tokens=32
tiny: $(READY) ## Preset: everything very small, in seconds
	@$(EXPERIMENT) $(TINY)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' "$(ROOT)/Makefile" | sed 's/:.*## /\t/' | expand -t 20
