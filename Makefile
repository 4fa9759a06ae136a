# `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help install tools demo format check charts docs test images cluster-test trials soak lock generate clean
# uv does not read pip's settings: pass on the folder of extra wheels, if there is one.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export UV_LINK_MODE ?= copy
# Imports are several times slower without compiled bytecode.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
# The programs that `make tools` downloads.
export PATH := $(CURDIR)/.tools:$(PATH)
# helm-unittest is a program of its own, or a plugin of helm.
UNITTEST ?= $(if $(shell PATH="$(PATH)" command -v helm-unittest),helm-unittest,helm unittest)
# The number of cases that have to pass; otherwise a suite that is not found would pass too.
CASES = $(shell cat $(CHARTS:%=%tests/*_test.yaml) | grep -c "^  - it: ")
CHARTS := $(sort $(dir $(wildcard workloads/*/helm/Chart.yaml workloads/*/helm/chart/Chart.yaml)))
BIN := .venv/bin
# Tests run in as many processes as there are cores; each keeps to one thread.
WORKERS ?= auto
# More arguments for pytest, and a file to write its exit code to.
PYTEST_ARGS ?=
PYTEST_REPORT ?= /dev/null
# The cluster tests to run, and in how many processes: they wait more than they compute, and those of a file build on
# one another.
CLUSTER_TESTS ?= tests/cluster
CLUSTER_WORKERS ?= 2
# The store to run the trials of tests/chaos on, instead of a temporary one, and the bucket to write to.
trials soak: export TUNEYARD_TRIALS_STORE ?= $(STORE)
trials soak: export TUNEYARD_TRIALS_BUCKET ?= $(BUCKET)
PYTEST = code=0; OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)
REPORT = || code=$$?; echo $$code > $(PYTEST_REPORT); exit $$code

help: ## list the targets of this Makefile
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/.installed ## create .venv with all packages, pinned by constraints.txt
.venv/.installed: pyproject.toml constraints.txt
	@echo "Setting up .venv (once; a minute or so after the downloads)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt uv
	@$(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode -c constraints.txt --group dev --group docs -e '.[train,serve]'
	@touch $@

tools: ## download helm, kubectl, minio and versitygw into .tools, where make finds them
	@$(PYTHON) scripts/tools.py .tools

demo: install ## deliver, finetune, serve and chat with a real model, and compare it with its base
	@$(BIN)/python examples/tuneyard-facts/demo.py

format: install ## format the code
	@$(BIN)/ruff check -q --fix --exit-zero .
	@$(BIN)/ruff format -q .

check: install ## lint, types, and generated files
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/pyright --warnings
	@$(BIN)/python scripts/training_args.py --check
	@$(BIN)/python scripts/schemas.py --check
	@$(BIN)/python scripts/charts.py --check
	@$(BIN)/python scripts/commands.py --check
	@$(BIN)/python scripts/verbs.py --check
	@$(BIN)/zizmor --offline --quiet .github
	@$(BIN)/python scripts/image_requirements.py --check
	@$(BIN)/hadolint --failure-threshold warning --ignore DL3059 images/*.Dockerfile

charts: install ## lint the charts and run their test suites (needs helm 4 with helm-unittest)
	@command -v helm >/dev/null || { echo "make charts needs helm 4 on PATH; make tools downloads it"; exit 2; }
	@helm lint --quiet workloads/k8s-namespace-setup/helm
	@helm lint --quiet workloads/deliver-huggingface-example-resources/helm/chart
	@helm lint --quiet workloads/LLM-finetune-silogen-engine/helm/chart --set basemodel=bucket/model
	@helm lint --quiet workloads/llm-inference-vllm/helm --set model=org/name
	@$(UNITTEST) --strict $(CHARTS) | tee /dev/stderr | grep -Eq "^Tests: +$(CASES) passed, $(CASES) total"

docs: install ## build the documentation site into build/site; a broken link or reference fails
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

test: install ## run all tests except soak and cluster tests; the last line counts the tests that were not run
	@$(PYTEST) -n $(WORKERS) --dist worksteal -m "not soak and not cluster" $(REPORT)

images: ## build the container images (VARIANT=cpu, cuda or rocm; BUILDER, BASE: see images/build)
	@images/build $(or $(VARIANT),cpu) deliver train serve

cluster-test: install ## run the tests that need a cluster (that of KUBECONFIG; the images have to be there)
	@$(PYTEST) -n $(CLUSTER_WORKERS) --dist loadfile -m "cluster and not soak" $(CLUSTER_TESTS) $(REPORT)

trials: install ## run the short fault-injection trials; STORE=URL BUCKET=NAME runs them on your own store
	@$(PYTEST) -n $(WORKERS) -m "not soak" tests/chaos $(REPORT)

soak: install ## run the tests that take hours; with STORE=URL BUCKET=NAME only the trials, on your own store
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --timeout 3600 -n $(WORKERS) -m "soak and not cluster" $(if $(TUNEYARD_TRIALS_STORE),tests/chaos)
	@[ -z "$(KUBECONFIG)" ] || [ -n "$(TUNEYARD_TRIALS_STORE)" ] || $(BIN)/python -m pytest --timeout 3600 -m "soak and cluster"

generate: install ## regenerate the generated files
	@$(BIN)/python scripts/training_args.py
	@$(BIN)/python scripts/schemas.py
	@$(BIN)/python scripts/charts.py
	@$(BIN)/python scripts/commands.py
	@$(BIN)/python scripts/verbs.py

lock: ## update uv.lock and export constraints.txt from it
	UV_FIND_LINKS= uv lock
	UV_FIND_LINKS= uv export -q --frozen --all-extras --all-groups --no-hashes --no-emit-project --no-annotate --no-header -o constraints.txt
	$(BIN)/python scripts/image_requirements.py

clean: ## remove .venv and caches
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis dist
