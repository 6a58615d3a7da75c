# make setup   a virtual environment in .venv with pinned packages
# make demo    the main job on a data set it draws itself: train, evaluate, export, report
# make test    the tests
# make test-agent   runs that the real clearml-agent executes, in environments that it makes
# make coverage   the tests, with the share of lines they reach
# make lint    ruff, mypy, pyright
# make bench   the benchmarks (results with their commands go to benchmarks/results)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
READY := $(VENV)/.ready

.PHONY: setup demo test test-agent coverage lint bench clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 setup"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/python examples/demo.py

# OpenVINO asks the kernel for matrix tiles (AMX). Where that does not work well, as in some virtual machines, a process
# that has asked dies of the next signal that Python handles, such as the end of a loader's worker.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not agent and not openvino"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m openvino

test-agent: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m agent

coverage: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not agent and not openvino" --cov=detloom --cov=detloom_plugins --cov=detloom_integrations --cov=detloom_schemas --cov-report=term-missing:skip-covered

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright

bench: $(READY)
	$(BIN)/python benchmarks/run_all.py

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache
