# Thin names over the real commands. `make` alone lists them.
#
# Every step leaves a stamp in .venv, so that it runs again only when what it was made from changes.

PYTHON ?= python3
ACCEL ?= auto
PORT ?= 8000

DEMO := .cache/models/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL ?= $(DEMO)
IMAGE_ACCEL := $(if $(filter auto,$(ACCEL)),cpu,$(ACCEL))
# One, since each compiles for many minutes. The Dockerfile's own list is for all of RunPod's GPUs.
CUDA_ARCHITECTURES ?= 90-real

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
PIP := $(PY) -m pip --disable-pip-version-check
RUNTIME := $(VENV)/.installed-runtime
DEV := $(VENV)/.installed-dev

ifeq ($(filter auto cpu cuda,$(ACCEL)),)
$(error ACCEL is '$(ACCEL)'; it can be auto, cpu or cuda)
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run serve unit test gpu clients soak lint format docs audit lock bench faults image image-cpu image-cuda clean llama model browser node

help: ## List these targets.
	@echo "make TARGET [ACCEL=auto|cpu|cuda] [MODEL=...] [PYTHON=...] [PORT=...]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

run: llama $(if $(filter $(DEMO),$(MODEL)),model) ## Set everything up and answer test_input.json.
	@MODEL='$(MODEL)' $(PY) -u handler.py

serve: llama $(if $(filter $(DEMO),$(MODEL)),model) ## Set everything up and serve HTTP on PORT.
	@WORKER_MODE=http PORT='$(PORT)' MODEL='$(MODEL)' $(PY) -u handler.py

model: | $(PY) ## Fetch the demo model.
	@$(PY) builder/demo_model.py $(DEMO)

unit: $(DEV) ## Run the quick unit tests: no compiler, browser or Node needed.
	@$(PY) -m pytest -m "not llama and not e2e and not slow"

test: lint llama model browser node ## Lint, check types, run every test.
	@$(PIP) --quiet check
	@$(PY) -m pytest -m "not llama and not e2e"
	@$(PY) -m pytest -m "llama or e2e"

gpu: $(DEV) llama ## Run the tests that need an NVIDIA GPU.
	@$(PY) -m pytest -m gpu

clients: $(DEV) llama model ## Drive client libraries and coding agents (CLIENTS="-k codex").
	@sh builder/clients.sh $(PY) .cache/clients
	@$(PY) -m pytest -m clients tests/clients $(CLIENTS); \
		status=$$?; $(PY) -m tests.clients.table; exit $$status

soak: $(DEV) llama model ## Send hostile requests beside honest streams (SOAK="--minutes 30 --seed 7").
	@$(PY) -m tests.soak $(SOAK)

lint: $(DEV) ## Lint and check types.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/shellcheck builder/*.sh .ci/run
	@$(BIN)/hadolint Dockerfile builder/image/cuda-base.Dockerfile

docs: $(RUNTIME) ## Bring the generated tables of the documents up to date.
	@$(PY) builder/docs.py

audit: | $(PY) ## Ask for known holes in the locked packages.
	@sh builder/audit.sh $(PY)

format: $(DEV) ## Format the code and sort its imports.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: $(PY) ## Resolve pyproject.toml anew into builder/requirements*.txt.
	@$(PY) builder/lock.py

bench: $(DEV) llama $(if $(filter $(DEMO),$(MODEL)),model) ## Compare with other servers (BENCH="--scenario own" for less).
	@$(PY) -m benchmarks --model '$(MODEL)' --accel '$(ACCEL)' $(BENCH)

faults: $(DEV) llama ## Start the worker with each fault of a start: a table of what it does.
	@$(PY) builder/fault_matrix.py $(FAULTS)

image: image-$(IMAGE_ACCEL) ## Build the container image for CPUs and try it (ACCEL=cuda: image-cuda).

image-cpu: $(RUNTIME) model
	@PYTHON=$(PY) sh builder/build_image.sh cpu '$(or $(IMAGE),gguf-worker:cpu)'
	@sh builder/emulator.sh
	@$(PY) builder/prove_image.py '$(or $(IMAGE),gguf-worker:cpu)' $(DEMO)

image-cuda: $(RUNTIME) model ## Build the one for GPUs, and look into it (CUDA_ARCHITECTURES=90-real).
	@PYTHON=$(PY) CUDA_ARCHITECTURES='$(CUDA_ARCHITECTURES)' \
		sh builder/build_image.sh cuda '$(or $(IMAGE),gguf-worker:cuda)'
	@$(PY) builder/prove_cuda.py '$(or $(IMAGE),gguf-worker:cuda)' $(DEMO) \
		--architectures '$(CUDA_ARCHITECTURES)'

clean: ## Remove .venv, .cache and what the tools left.
	@rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what the targets above stand on ---

$(PY):
	@sh builder/venv.sh '$(PYTHON)' $(VENV)

$(RUNTIME): builder/requirements.txt pyproject.toml | $(PY)
	@sh builder/progress.sh "Installing the locked packages" \
		$(PIP) install --no-deps --require-hashes --requirement builder/requirements.txt
	@sh builder/progress.sh "Installing gguf-worker" $(PIP) install --no-deps --editable .
	@touch $@

# Order only, here and below: the script knows by itself whether the build still fits ACCEL.
llama: | $(RUNTIME)
	@sh builder/llama.sh $(VENV) '$(ACCEL)'

browser:
	@sh builder/browser.sh

node:
	@sh builder/node.sh tests/e2e/node

$(DEV): builder/requirements-dev.txt $(RUNTIME)
	@sh builder/progress.sh "Installing the developers' packages" \
		$(PIP) install --no-deps --require-hashes --requirement builder/requirements-dev.txt
	@touch $@

