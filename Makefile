# Start with `make help`. Needs Python 3.11 or newer; everything else goes into .venv.

PYTHON ?= python3
# Test processes at a time. Each loads torch and keeps to one thread.
WORKERS ?= 2
# More arguments for the command behind a target.
ARGS ?=
# Where `make demo` writes; empty leaves it to the recipe.
RUN ?=

BIN := .venv/bin
SHELL := /bin/sh

.DEFAULT_GOAL := help
.PHONY: help setup demo test faults audit check format dist docs clean

help:  ## say what can be made
	@echo 'usage: make TARGET [NAME=value ...]'
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  PYTHON=python3.12        the interpreter that .venv is made with'
	@echo '  RUN=runs/mine            where make demo writes'
	@echo '  ARGS="..."               more for make demo (key=value) or make test (-k kl)'
	@echo '  WORKERS=2                test processes at a time'

setup: .venv/ready  ## make .venv and install stillhouse into it, with the versions of constraints.txt

.venv/ready: pyproject.toml constraints.txt
	@command -v '$(PYTHON)' >/dev/null || { \
	    echo "stillhouse needs Python 3.11 or newer, and there is no $(PYTHON) here. Name yours: make setup PYTHON=..." >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "stillhouse needs Python 3.11 or newer; $(PYTHON) is $$('$(PYTHON)' --version 2>&1). Name another: make setup PYTHON=..." >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) has no venv module. Install it (on Debian and Ubuntu: apt install python3-venv), then run make setup again." >&2; exit 1; }
	'$(PYTHON)' -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev,parity]'
	# They ask for packages that the functions we compare with never use, and that break a CPU torch.
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --no-deps textbrewer torchdistill
	@touch $@

demo: setup  ## distil a real model on this machine and write a report (about a quarter of an hour)
	@teacher=$$($(BIN)/python tools/fetch_demo_teacher.py) || exit $$?; \
	$(BIN)/stillhouse distill recipes/demo.yaml "teacher.model=$$teacher" $(if $(RUN),'run=$(RUN)') $(ARGS)

# One thread a worker. Compiled modules are kept, wherever that is switched off: many tests start a process of their own.
TESTED := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1

test: setup  ## run the whole suite
	$(TESTED) $(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

faults: setup  ## kill, starve, damage and fuzz it at length, and print what came of it (up to an hour)
	STILLHOUSE_FAULTS=full $(TESTED) $(BIN)/pytest tests/faults tests/labelling/test_cluster.py \
	    tests/training/test_compiled.py tests/training/test_two_ranks.py tests/commands/test_plan.py $(ARGS)

audit: setup  ## ask whether a pinned version is known to be weak; says so where there is no network
	@$(BIN)/python -c 'import pip_audit' 2>/dev/null || $(BIN)/python -m pip install --quiet pip-audit || true
	@$(BIN)/python tools/audit.py $(ARGS)

check: setup  ## formatting, lint, types, and the layers of the house
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: setup  ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dist: setup  ## build wheel and sdist into dist/, look into them and try the wheel
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python tools/try_dist.py

docs: setup  ## make the site in build/site, with warnings as errors
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt mkdocs-material 'mkdocstrings[python]'
	$(BIN)/python tools/lay_out_docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:  ## remove .venv, caches and builds; runs and downloaded teachers stay
	rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
