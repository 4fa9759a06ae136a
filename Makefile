# Verbs of this repository. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help install demo format check test soak lock clean
# uv does not read pip's settings: pass on where this machine keeps extra wheels, if anywhere.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
unexport PYTHONDONTWRITEBYTECODE
export UV_LINK_MODE ?= copy
PYTHON ?= python3
BIN := .venv/bin

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/.installed ## set up .venv with everything, pinned by constraints.txt
.venv/.installed: pyproject.toml constraints.txt
	@echo "Setting up .venv (once; about a minute)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt uv
	@$(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode -c constraints.txt --group dev -e '.[train,serve]'
	@touch $@

lock: ## resolve uv.lock again and export constraints.txt from it
	UV_FIND_LINKS= uv lock
	UV_FIND_LINKS= uv export -q --frozen --all-extras --all-groups --no-hashes --no-emit-project --no-annotate --no-header -o constraints.txt

clean: ## remove .venv and caches
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis dist
