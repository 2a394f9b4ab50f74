# Every target makes the virtual environment .venv itself; Python 3.11 or newer is all it needs.
#
#   make sample     render a small dataset, train on it, evaluate, segment: see sample/ afterwards
#   make test       the tests, without those marked slow
#   make test-slow  those, which train, need PyTorch (which it installs) or Chromium
#   make test-long  the network itself in several processes: some seven minutes, not run by CI
#   make test-tensorflow  the dataset's, with TensorFlow and Beam, in a virtual environment of their own
#   make test-tpu   programs for TPUs, compiled by their compiler; installs it, needs no TPU
#   make test-gpu-compiler  programs for GPUs, likewise, in a virtual environment of its own: a choice
#   make test-gpu-compiler-all  all of them: hours, not run by CI
#   make benchmark-gpu  checks and times on a GPU what fits into six minutes; installs nothing if
#                   PYTHON has jax with a GPU, flax, optax and numpy
#   make lint       ruff: errors and format
#   make clean      remove .venv, sample/ and what tools left behind
#
# Another interpreter: make test PYTHON=python3.12 (after make clean, if .venv exists).

PYTHON ?= python3
VENV := .venv
WITH_TENSORFLOW := data_builders tests/data/loading_test.py -k "Mass13kTest or beam or with_tensorflow"
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
HAS_GPU := 'import flax, jax, numpy, optax, sys; sys.exit(jax.default_backend() != "gpu")'
# Two processes, a file of tests in one of them: compiling, most of the time, takes one core.
PYTEST := $(VENV)/bin/python -m pytest -n 2 --dist loadfile
# All in one file, so a test at a time; each waits for a process that compiles on one core.
PYTEST_GPU_COMPILER := $(VENV)-gpu-compiler/bin/python -m pytest -n 2 --dist worksteal \
  tests/scripts/gpu_compiler_test.py

.PHONY: sample test test-slow test-long test-tensorflow test-tpu test-gpu-compiler
.PHONY: test-gpu-compiler-all benchmark-gpu lint clean
.DELETE_ON_ERROR:

sample: $(VENV)/.installed
	@PYTHON=$(VENV)/bin/python bash scripts/ci/sample.sh

test: $(VENV)/.installed-test
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.installed-torch
	$(PYTEST) -m "slow and not long and not gpu_compiler"

test-long: $(VENV)/.installed-test
	$(PYTEST) -m "long and not gpu_compiler"

test-tensorflow: $(VENV)-tensorflow/.installed
	$(VENV)-tensorflow/bin/python -m pytest $(WITH_TENSORFLOW)

test-tpu: $(VENV)/.installed-tpu-compiler
	$(PYTEST) -m slow tests/scripts/pods_test.py

benchmark-gpu:
	@if $(PYTHON) -c $(HAS_GPU) 2>/dev/null; then \
	  $(PYTHON) -m scripts.benchmark.gpu $(ARGUMENTS); \
	else \
	  $(MAKE) --no-print-directory $(VENV)/.installed-cuda && \
	  $(VENV)/bin/python -m scripts.benchmark.gpu $(ARGUMENTS); \
	fi

test-gpu-compiler: $(VENV)-gpu-compiler/.installed
	$(PYTEST_GPU_COMPILER) -m "gpu_compiler and not long"

test-gpu-compiler-all: $(VENV)-gpu-compiler/.installed
	$(PYTEST_GPU_COMPILER) -m gpu_compiler

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV) $(VENV)-tensorflow $(VENV)-gpu-compiler sample build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps, so that packages are installed again only after pyproject.toml has changed.
$(VENV)/.installed: pyproject.toml | $(VENV)/.made
	@echo "Installing massformer_jax and what it needs into $(VENV) (1.2 GB, some minutes)"
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/.made
	@echo "Installing massformer_jax and its test tools into $(VENV) (1.2 GB, some minutes)"
	@$(PIP) -e '.[test]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-torch: pyproject.toml | $(VENV)/.made
	@echo "Installing massformer_jax, its test tools and PyTorch into $(VENV)"
	@$(PIP) -e '.[test,torch,browser]'
	@touch $(VENV)/.installed $(VENV)/.installed-test $@

# Beam wants other versions than the rest.
$(VENV)-tensorflow/.installed: pyproject.toml
	@echo "Installing massformer_jax, TensorFlow and Beam into $(VENV)-tensorflow (3 GB, some minutes)"
	@rm -rf $(VENV)-tensorflow
	@$(PYTHON) -m venv $(VENV)-tensorflow
	@$(VENV)-tensorflow/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test,tensorflow]'
	@touch $@

$(VENV)/.installed-tpu-compiler: $(VENV)/.installed-test
	@echo "Installing the compiler for TPUs into $(VENV)"
	@$(PIP) -e '.[test,tpu-compiler]'
	@touch $@

$(VENV)/.installed-cuda: pyproject.toml | $(VENV)/.made
	@echo "Installing massformer_jax and jax for NVIDIA GPUs into $(VENV) (gigabytes, some minutes)"
	@$(PIP) -e '.[cuda]'
	@touch $(VENV)/.installed $@

# Apart from the rest: once the plugin is installed, JAX looks for a GPU whenever it starts, and
# complains where there is none.
$(VENV)-gpu-compiler/.installed: pyproject.toml
	@echo "Installing massformer_jax and the compiler for GPUs into $(VENV)-gpu-compiler (2 GB)"
	@rm -rf $(VENV)-gpu-compiler
	@$(PYTHON) -m venv $(VENV)-gpu-compiler
	@$(VENV)-gpu-compiler/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test,gpu-compiler]'
	@touch $@

# An environment whose making was interrupted has no stamp and is made afresh.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "error: $(PYTHON) is not Python 3.11 or newer: name one, as in make test PYTHON=python3.12" >&2; exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@
