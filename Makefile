# Each target sets up what it needs from a clean clone.
PYTHON ?= python3
BIN := .venv/bin
DEMO_OUT ?= out/demo-$(shell date +%Y%m%d-%H%M%S)
# Shape annotations of these are checked at run time in tests, except in tests/ops: the check costs
# more than the step it checks, and those tests hold every shape against a reference. Public ops are
# left out: they check for themselves, and their own errors are what is tested.
CHECKED := exlstm.ops.mlstm_reference,exlstm.ops.mlstm_chunkwise,exlstm.ops.slstm_reference,exlstm.ops.slstm_sequential,exlstm.ops.conv_reference,exlstm.ops.head_norm_reference,exlstm.nn.layers
# Apart: transformers imports it wherever it finds it, which takes seconds and is not quiet.
TORCHAO := $(CURDIR)/.venv/torchao
# Apart too: 0.7 GB that only GPUs and the kernels' own tests need.
TRITON := $(CURDIR)/.venv/triton
# A process a core, a thread a process: two pools of threads on two cores wait for each other.
PYTEST := OMP_NUM_THREADS=1 PYTHONPATH=$(TORCHAO) $(BIN)/pytest -q -n 2

# What the wheel is tested with: not what .venv has.
PYTHON_OTHER ?= python3
TORCH_OTHER ?= torch==2.12.1

# A command, and the Debian package it is installed from where it is missing.
CHROMIUM ?= chromium

.PHONY: setup demo test test-all triton-test browser-test sanitize wheel-test lint benchmarks clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt CMakeLists.txt $(wildcard exlstm/ops/*.cpp exlstm/ops/*.hpp)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[lm,export,ts,tune,dev]'
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-deps --upgrade \
		--target $(TORCHAO) torchao
	touch $@

demo: setup
	$(BIN)/exlstm train --out $(DEMO_OUT) --pattern mmsm --d-model 128 --context 256 --batch-size 8 \
		--steps 500 --learning-rate 3e-3

test: setup
	$(PYTEST) -m "not slow and not compile and not browser" --ignore=tests/ops --jaxtyping-packages=$(CHECKED),beartype.beartype
	$(PYTEST) -m "not slow and not compile" tests/ops --ignore-glob="*_triton*.py"
	$(PYTEST) -m "compile and not slow" tests

test-all: test
	$(PYTEST) -m slow tests

.venv/triton/installed: setup
	test -f $@ || $(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-deps --upgrade \
		--target $(TRITON) triton
	touch $@

# In Python on the CPU, and compiled for GPUs that are not here.
triton-test: .venv/triton/installed
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 PYTHONPATH=$(TRITON) $(BIN)/pytest -q -n 2 tests/ops/test_[ms]lstm_triton.py
	OMP_NUM_THREADS=1 PYTHONPATH=$(TRITON) $(BIN)/pytest -q -n 2 -m "not slow" tests/ops/test_[ms]lstm_triton_compile.py

browser-test: setup examples/browser/node_modules/.package-lock.json
	command -v $(CHROMIUM) || (apt-get -q update && apt-get -qy install --no-install-recommends $(CHROMIUM))
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt playwright==1.65.2
	CHROMIUM=$(CHROMIUM) $(BIN)/pytest -q -m browser tests/examples

examples/browser/node_modules/.package-lock.json: examples/browser/package-lock.json
	cd examples/browser && npm ci --ignore-scripts

sanitize: setup
	.ci/sanitize

wheel-test: setup
	.ci/wheel $(PYTHON_OTHER) $(TORCH_OTHER)

lint: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/basedpyright --level error
	$(BIN)/codespell

benchmarks: setup
	cd benchmarks && ../$(BIN)/python decoding.py && ../$(BIN)/python demo.py && \
		PYTHONPATH=$(TORCHAO) ../$(BIN)/python compression.py && ../$(BIN)/python render.py

clean:
	rm -rf .venv out build .pytest_cache .ruff_cache examples/browser/node_modules
