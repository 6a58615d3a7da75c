# make setup   a virtual environment in .venv with pinned packages
# make demo    the main job on a data set it draws itself: train, evaluate, export, report
# make test    the tests
# make test-agent   runs that the real clearml-agent executes, in environments that it makes
# make test-native   RF-DETR over its own package, in an environment that has it
# make coverage   the tests, with the share of lines they reach
# make lint    ruff, mypy, pyright
# make bench   the benchmarks (results with their commands go to benchmarks/results)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
READY := $(VENV)/.ready
NATIVE := $(VENV)-rfdetr

.PHONY: setup demo test test-agent test-native coverage lint bench clean

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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not agent and not native and not openvino"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m openvino

test-agent: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m agent

# torchvision must not be in the other one: where it is unusable, transformers' models that see are so too. This one
# finds there what it does not have itself.
$(NATIVE)/.ready: $(READY)
	test -x $(NATIVE)/bin/python || $(BIN)/python -m venv --without-pip $(NATIVE)
	$(BIN)/python -m pip --python $(NATIVE)/bin/python install --quiet --disable-pip-version-check --no-deps -c constraints.txt rfdetr torchvision pyDeprecate
	purelib='import sysconfig; print(sysconfig.get_path("purelib"), end="")'; \
	echo "import site; site.addsitedir('$$($(BIN)/python -c "$$purelib")')" > "$$($(NATIVE)/bin/python -c "$$purelib")/others.pth"
	@touch $@

test-native: $(NATIVE)/.ready
	OMP_NUM_THREADS=1 $(NATIVE)/bin/python -m pytest -m native tests/test_rf_detr_native.py

coverage: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not agent and not native and not openvino" --cov=detloom --cov=detloom_plugins --cov=detloom_integrations --cov=detloom_schemas --cov-report=term-missing:skip-covered

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright

bench: $(READY)
	$(BIN)/python benchmarks/run_all.py

clean:
	rm -rf $(VENV) $(NATIVE) demo build dist .pytest_cache .mypy_cache .ruff_cache
