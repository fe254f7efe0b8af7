# `make` builds everything and shows the result; `make help` lists the rest.
# Recipes run in this folder and use relative paths, because the folder's path may have spaces, at
# which make would split it.
.DEFAULT_GOAL := all
SHELL := /bin/bash
ifneq ($(lastword $(MAKEFILE_LIST)),Makefile)
$(error call make in the folder of this Makefile, or as `make -C FOLDER`)
endif
READY := .venv/.ready
DEV := .venv/.ready-dev
EVAL := .venv/.ready-eval
# the first Python 3.11 or newer that is not the one in .venv
PYTHON ?= $(shell PATH="$${PATH//"$$PWD/.venv/bin:"/}"; \
  for p in python3 python3.11 python3.12 python3.13 python3.14; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v "$$p" && break; done)
# stages start plain `python`, which must be the one in .venv
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONUNBUFFERED := 1
unexport PYTHONSAFEPATH # with it, Python does not find the packages in this folder

.PHONY: all
all: $(READY) ## Build the pipeline, then print scores and samples
	@python -m stages.repro && python -m stages.report

# An environment that was installed in another folder and moved here does not work.
.PHONY: moved
ifneq ($(shell head -n 1 $(READY) 2>/dev/null),$(CURDIR))
$(READY): moved
endif
ifneq ($(shell head -n 1 $(DEV) 2>/dev/null),$(CURDIR))
$(DEV): moved
endif
ifneq ($(shell head -n 1 $(EVAL) 2>/dev/null),$(CURDIR))
$(EVAL): moved
endif

.PHONY: setup setup-dev
setup: $(READY) ## Create .venv with the pinned dependencies
setup-dev: $(DEV) ## The same, with what the tests need

INSTALL = @python="$(PYTHON)"; [ -n "$$python" ] || { \
  echo "error: Python 3.11 or newer is needed; if it has another name:" \
  "make PYTHON=/path/to/python3"; exit 1; }; "$$python" -m stages.install

$(READY): pyproject.toml constraints.txt
	$(INSTALL)

$(DEV): $(READY) pyproject.toml constraints.txt
	$(INSTALL) dev

.PHONY: repro
repro: $(READY) ## Rebuild what changed, without the report
	@python -m stages.repro

.PHONY: plan
plan: $(READY) ## Estimate what a run takes: ARGS="-S model.d_model=512"
	@python -m stages.plan $(ARGS)

.PHONY: verify
verify: $(READY) ## Find damaged files in DVC's cache and in the outs
	@python -m stages.verify

.PHONY: ui
ui: $(READY) ## Open the MLflow UI; another port: ARGS="--port 5001"
	@python -m stages.ui $(ARGS)

.PHONY: serve
serve: $(READY) ## Serve the model: a page, OpenAI's API: ARGS="--port 8001"
	@python -m stages.serve $(ARGS)

.PHONY: plots
plots: $(READY) ## Draw the curves, offline, in dvc_plots/index.html
	@python -m stages.vega && dvc plots show

$(EVAL): $(READY) pyproject.toml constraints.txt
	$(INSTALL) eval

.PHONY: lm-eval
lm-eval: $(EVAL) ## Score with EleutherAI's harness: TASKS=stories LIMIT=200
	@python -m stages.harness --tasks "$(or $(TASKS),stories)" --limit "$(or $(LIMIT),200)" \
	  $(if $(ADDRESS),--address "$(ADDRESS)") $(ARGS)

.PHONY: format lint type
format: $(DEV) ## Format the code
	@ruff format . && ruff check --fix .

lint: $(DEV) ## Check style
	@ruff format --check --quiet . && ruff check --quiet .

type: $(DEV) ## Check types
	@basedpyright

# The other tests do not use a GPU.
TEST_GPU = @! nvidia-smi >/dev/null 2>&1 || pytest tests/test_cuda.py

# Types take a minute of one core, so they are checked while the tests run, and shown after them.
TEST = @types=$$(mktemp); trap 'rm -f "$$types"' EXIT; basedpyright >"$$types" & checker=$$!; \
  pytest -n auto --dist loadfile --no-loadscope-reorder $(1); tests=$$?; \
  wait $$checker; checked=$$?; cat "$$types"; exit $$((tests | checked))

.PHONY: test test-all
test: lint ## Check style and types, run the tests
	$(call TEST)
	$(TEST_GPU)

test-all: lint ## The same, with the tests that take minutes
	$(call TEST,-m '')
	$(TEST_GPU)

.PHONY: soak fuzz
soak: $(DEV) ## Kill the pipeline at random: KILLS=100 SEED=1 MINUTES=30
	@python -m tests.soak --kills $(or $(KILLS),100) --seed $(or $(SEED),1) \
	  --minutes $(or $(MINUTES),30)

fuzz: $(DEV) ## Random inputs for kernels and readers: SEED=1 MINUTES=5
	@python -m tests.fuzz --seed $(or $(SEED),1) --minutes $(or $(MINUTES),5) $(ARGS)

.PHONY: planted coverage
planted: $(DEV) ## Plant bugs, which tests must find: BUGS="rope-*"
	@python -m tests.planted $(BUGS)

# Those that run the pipeline take long: make coverage TESTS=tests/pipeline
coverage: $(DEV) ## List the lines that no test runs: TESTS=tests/optim
	@pytest -n auto --dist loadfile --cov --cov-report=term $(or $(TESTS),--ignore=tests/pipeline)

# the peers have an environment of their own, because their dependencies are not ours
BENCH := .venv-bench/.ready
ifneq ($(shell head -n 1 $(BENCH) 2>/dev/null),$(CURDIR))
$(BENCH): moved
endif
$(BENCH): $(DEV) tests/benchmarks/peers-requirements.txt
	$(INSTALL) bench

.PHONY: bench-tokenizer
bench-tokenizer: $(DEV) $(BENCH) ## Compare tokenizers: CORPUS=FILE VOCAB=10000
	@python -m tests.benchmarks.bench_tokenizer "$(or $(CORPUS),data/raw/train.txt)" \
	  --vocab-size $(or $(VOCAB),10000) --repeats $(or $(REPEATS),5) $(ARGS)

.PHONY: bench-train
bench-train: $(DEV) $(BENCH) ## Compare training with other models: ARGS="--size memory"
	@python -m tests.benchmarks.bench_train --repeats $(or $(REPEATS),5) $(ARGS)

.PHONY: bench-learning
bench-learning: $(DEV) ## Compare what ours, a Llama and a nanoGPT learn in 150 s
	@python -m tests.benchmarks.bench_learning $(if $(CORPUS),"$(CORPUS)") $(ARGS)

.PHONY: bench-sample
bench-sample: $(DEV) $(BENCH) ## Compare sampling with other programs: ARGS="--device cuda"
	@python -m tests.benchmarks.bench_sample --repeats $(or $(REPEATS),5) $(ARGS)

.PHONY: bench-serve
bench-serve: $(DEV) ## Measure the server with 1, 4 and 16 clients: REPEATS=5
	@python -m tests.benchmarks.bench_serve --repeats $(or $(REPEATS),5) $(ARGS)

.PHONY: bench-scale
bench-scale: $(DEV) ## Measure large corpora: ARGS="--folder DIR"
	@python -m tests.benchmarks.bench_scale $(ARGS)

.PHONY: bench-pipeline
bench-pipeline: $(DEV) ## Measure what DVC, MLflow and a busy machine cost: REPEATS=5
	@python -m tests.benchmarks.bench_pipeline --repeats $(or $(REPEATS),5) $(ARGS)

# PyTorch with CUDA stays apart, too: the rest needs no GPU
CUDA := .venv-cuda/.ready
ifneq ($(shell head -n 1 $(CUDA) 2>/dev/null),$(CURDIR))
$(CUDA): moved
endif
$(CUDA): tests/cuda/requirements.txt
	$(INSTALL) cuda

.PHONY: check-cuda
check-cuda: $(CUDA) ## Compile a GPU's code, without a GPU: ARGS=--estimate
	@.venv-cuda/bin/python -m tests.cuda.check $(ARGS)

.PHONY: clean prune
prune: ## Remove the states of unfinished runs
	@rm -rf models/.resume

clean: ## Remove .venv and tool caches, but no data or models
	@rm -rf .venv .pytest_cache .ruff_cache .hypothesis build *.egg-info

# Presets: experiments with several parameters changed, which `dvc exp run` writes to params.yaml.
# To return to the default: git stash && dvc checkout
# To change more: make tinystories ARGS="-S train.seed=2"; the last value counts.
LARGE = -S tokenizer.vocab_size=10000 -S model.context_length=256 -S model.d_model=512 \
  -S model.d_ff=1344 -S model.num_layers=4 -S model.num_heads=16 -S model.rope_theta=10000.0 \
  -S optim.weight_decay=0.1 -S train.copy_weight=1 \
  -S train.log_every=50 -S train.valid_every=500 -S train.valid_batches=16 \
  -S train.checkpoint_every=500 -S train.sample_every=500 -S sampling.max_tokens=256

.PHONY: tinystories tinystories-cpu owt tiny
tinystories: $(READY) ## Preset: 22.7M weights on TinyStories, 328M tokens (GPU)
	@dvc exp run -S corpus.source=tinystories $(LARGE) -S optim.warmup_steps=200 \
	  -S train.batch_size=128 -S train.num_steps=10000 $(ARGS)

tinystories-cpu: $(READY) ## Preset: the same with 40.96M tokens (CPU, or Apple's MPS)
	@dvc exp run -S corpus.source=tinystories $(LARGE) -S optim.warmup_steps=100 \
	  -S train.batch_size=32 -S train.num_steps=5000 $(ARGS)

owt: $(READY) ## Preset: OpenWebText with a vocabulary of 32,000 (GPU)
	@dvc exp run -S corpus.source=owt $(LARGE) -S tokenizer.vocab_size=32000 \
	  -S optim.warmup_steps=200 -S train.batch_size=128 -S train.num_steps=10000 $(ARGS)

TINY = -S corpus.source=toystories -S corpus.train_bytes=200000 -S corpus.valid_bytes=20000 -S tokenizer.vocab_size=512 \
  -S model.context_length=32 -S model.d_model=32 -S model.d_ff=64 -S model.num_layers=2 \
  -S model.num_heads=2 -S train.num_steps=20 -S train.batch_size=4 -S train.log_every=5 \
  -S train.valid_every=10 -S train.valid_batches=2 -S train.checkpoint_every=5 \
  -S train.sample_every=10 -S optim.warmup_steps=5 -S sampling.max_tokens=32
tiny: $(READY) ## Preset: a tiny model on a tiny corpus, in half a minute
	@dvc exp run $(TINY) $(ARGS)

# Studies: several experiments, a table and a chart in models/studies/
# Longer, four at a time: make ablations STEPS=2600 JOBS=4; to change more: ARGS="-S train.seed=2"
# A page that is committed is replaced with OVERWRITE=1 alone.
STUDIES := sweep-lr sweep-batch ablations scaling
STUDY = $(strip --jobs $(or $(JOBS),2) $(if $(STEPS),--steps "$(STEPS)") \
  $(if $(OVERWRITE),--overwrite) $(ARGS))
.PHONY: $(STUDIES)
sweep-lr: ## Study: learning rates; STEPS=2600 JOBS=2 OVERWRITE=1
sweep-batch: ## Study: batch sizes, at an equal number of tokens
ablations: ## Study: norms, position, feed-forward, attention, soft cap
scaling: ## Study: three sizes at equal compute
$(STUDIES): $(READY)
	@python -m stages.study $@ $(STUDY)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 20
