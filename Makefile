# `make demo` and `make test` set up everything on a fresh machine: Python 3.10+ (3.11 is what we test on), git, gcc.
# PYTHON=/path/to/python3.x chooses the interpreter.

.DEFAULT_GOAL := help
VENV ?= .venv
PY := $(VENV)/bin/python
# The models of the tests are tiny: one thread each, and as many test processes as there are cores, up to 4.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# torch 2.13 needs Python 3.10 or later. The first of these that exists and can make a virtual environment wins.
CANDIDATES := python3.11 python3.12 python3.10 python3.13 python3 python
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { command -v $$p; break; }; done)

.PHONY: help demo test test-slow test-apply test-matrix test-npu ablation mutation lint ledger clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.ready: pyproject.toml constraints/test.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.10 to 3.13 with venv was found (tried: $(CANDIDATES)). Install one, or run: make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "setting up $(VENV) with $(PYTHON): a few minutes on the first run"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints/test.txt -e '.[test,lint]'
	@touch $@

demo: $(VENV)/.ready  ## clone, patch, export, ask about a picture, verify: the whole way on a small synthetic model
	$(PY) -m verification.demo

test: $(VENV)/.ready  ## the default suite
	$(PYTEST)

test-slow: $(VENV)/.ready  ## full-size export and other long tests (about 6 GiB of memory)
	$(PY) -m pytest -m slow

test-apply:  ## the torch-free part on every Python from 3.9 to 3.13 that is installed
	sh tests/torch_free.sh

test-matrix: $(VENV)/.ready  ## the whole path with transformers 4.30.2, 4.57.x and the newest 5.x
	$(PY) tests/matrix.py

test-npu:  ## what can be shown without an NPU: real torch_npu on a simulated device
	@test -n "$(PYTHON)" || { echo "npu simulation: not run (no Python 3.10 to 3.13 was found)"; exit 2; }
	$(PYTHON) tests/npu_sim/run.py $(NPU_FLAGS)

ablation: $(VENV)/.ready  ## each patch left out in turn must make its own test fail
	$(PY) tests/ablation.py

mutation: $(VENV)/.ready  ## plant each fault of a list: verify.py must catch and locate it (writes docs/mutation.md)
	$(PY) tests/mutation/run.py

lint: $(VENV)/.ready  ## ruff, mypy, and every rule for patches, overlay and configuration
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PY) apply.py lint

ledger: $(VENV)/.ready  ## run the suite and write its results, good or bad, into the claims ledger of both READMEs
	-$(PYTEST) --junitxml build/junit.xml
	-$(PYTHON) tests/npu_sim/run.py --junitxml build/junit-npu.xml
	$(PY) -m verification.ledger build/junit.xml build/junit-npu.xml
	$(PY) benchmarks/results.py

clean:  ## remove what make built
	rm -rf build .venv .venv-*
