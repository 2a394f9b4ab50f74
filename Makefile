# Every target makes the virtual environment .venv itself. It needs only Python 3.11 or newer.
#
#   make sample     renders a small dataset, trains on it, evaluates and segments; see sample/ then
#   make test       runs the tests that are not marked slow
#   make test-slow  runs the slow tests, which train, or need PyTorch (it installs it) or Chromium
#   make test-long  runs the network itself in several processes, batches in parts, and datasets of
#                   2 to 40 classes from a folder to masks: half an hour, not in CI
#   make test-tensorflow  runs the tests of the dataset with TensorFlow and Beam, in a virtual
#                   environment of their own
#   make test-tpu   compiles programs for TPUs with their compiler, which it installs; needs no TPU
#   make test-gpu-compiler  compiles some programs for GPUs, in a virtual environment of its own;
#                   needs no GPU
#   make test-gpu-compiler-all  compiles all of these programs: hours, not in CI
#   make soak       kills trainings and alters files, KILLS=100 and FILES=100000 of them: hours, not
#                   run by CI; prints what it counted, and what it found
#   make benchmark-gpu  checks and times on a GPU what fits into six minutes; installs nothing if
#                   PYTHON has jax with a GPU, flax, optax and numpy
#   make benchmark-tpu  the same on one TPU chip, in ten minutes, most of which is compiling
#   make lint       looks for errors and checks the format with ruff
#   make clean      removes .venv, sample/ and what tools left behind
#
# To use another interpreter: make test PYTHON=python3.12 (after make clean, if .venv exists).

PYTHON ?= python3
VENV := .venv
KILLS ?= 100
FILES ?= 100000
WITH_TENSORFLOW := data_builders tests/data/loading_test.py -k "Mass13kTest or beam or with_tensorflow"
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile
# Exits with 0 if what the benchmark named by its argument needs is there.
HAS_DEVICE := 'import flax, jax, numpy, optax, sys; sys.exit(jax.default_backend() != sys.argv[1])'
# There are two processes, and each runs whole files of tests, in the order of tests/conftest.py. Most
# of the time goes into compiling, which takes one core.
PYTEST := $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# All these tests are in one file, so they are distributed one by one. Each waits for a process that
# compiles on one core.
PYTEST_GPU_COMPILER := $(VENV)-gpu-compiler/bin/python -m pytest -n 2 --dist worksteal \
  tests/scripts/gpu_compiler_test.py

.PHONY: sample test test-slow test-long test-tensorflow test-tpu test-gpu-compiler
.PHONY: test-gpu-compiler-all soak benchmark-gpu benchmark-tpu lint clean
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
	$(PYTEST) -m slow tests/scripts/pods_test.py tests/scripts/pods_bundles_test.py

soak: $(VENV)/.installed-test
	$(VENV)/bin/python -m scripts.soak --kills $(KILLS) --files $(FILES) $(ARGUMENTS)

benchmark-gpu benchmark-tpu: benchmark-%:
	@if $(PYTHON) -c $(HAS_DEVICE) $* 2>/dev/null; then \
	  $(PYTHON) -m scripts.benchmark.$* $(ARGUMENTS); \
	else \
	  $(MAKE) --no-print-directory $(VENV)/.installed-$* && \
	  $(VENV)/bin/python -m scripts.benchmark.$* $(ARGUMENTS); \
	fi

test-gpu-compiler: $(VENV)-gpu-compiler/.installed
	$(PYTEST_GPU_COMPILER) -m "gpu_compiler and not long"

test-gpu-compiler-all: $(VENV)-gpu-compiler/.installed
	$(PYTEST_GPU_COMPILER) -m gpu_compiler

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV) $(VENV)-tensorflow $(VENV)-gpu-compiler node_modules sample build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The files .installed… are stamps, so that packages are installed again only after a change of
# pyproject.toml.
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
	@$(PIP) -e '.[test,torch,transformers,browser,colmap,iree]'
	@touch $(VENV)/.installed $(VENV)/.installed-test $@

# Beam needs other versions than the rest.
$(VENV)-tensorflow/.installed: pyproject.toml
	@echo "Installing massformer_jax, TensorFlow and Beam into $(VENV)-tensorflow (3 GB, some minutes)"
	@rm -rf $(VENV)-tensorflow
	@$(PYTHON) -m venv $(VENV)-tensorflow
	@$(VENV)-tensorflow/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[test,tensorflow]'
	@touch $@

$(VENV)/.installed-tpu-compiler: $(VENV)/.installed-test
	@echo "Installing the compiler for TPUs into $(VENV)"
	@$(PIP) -e '.[test,tpu-compiler]'
	@touch $@

$(VENV)/.installed-gpu: pyproject.toml | $(VENV)/.made
	@echo "Installing massformer_jax and jax for NVIDIA GPUs into $(VENV) (gigabytes, some minutes)"
	@$(PIP) -e '.[cuda]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-tpu: pyproject.toml | $(VENV)/.made
	@echo "Installing massformer_jax and jax for TPUs into $(VENV) (some minutes)"
	@$(PIP) -e '.[tpu]'
	@touch $(VENV)/.installed $@

# This environment is separate: once the plugin is installed, JAX looks for a GPU whenever it starts,
# and complains if there is none.
$(VENV)-gpu-compiler/.installed: pyproject.toml
	@echo "Installing massformer_jax and the compiler for GPUs into $(VENV)-gpu-compiler (2 GB)"
	@rm -rf $(VENV)-gpu-compiler
	@$(PYTHON) -m venv $(VENV)-gpu-compiler
	@$(VENV)-gpu-compiler/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[test,gpu-compiler]'
	@touch $@

# If making an environment was interrupted, it has no stamp and is made again.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "error: $(PYTHON) is not Python 3.11 or newer: name one, as in make test PYTHON=python3.12" >&2; exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@
