# Each target sets up what it needs from a clean clone.
PYTHON ?= python3
BIN := .venv/bin
# Every shape annotation of these is checked in tests. Public ops are left out: they check for
# themselves, and their own errors are what is tested.
CHECKED := exlstm.ops.mlstm_reference,exlstm.ops.mlstm_chunkwise,exlstm.ops.slstm_reference,exlstm.ops.slstm_sequential,exlstm.nn.layers,exlstm.nn.mixers,exlstm.nn.blocks

.PHONY: setup demo test test-all lint clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[lm,dev]'
	touch $@

demo: setup
	$(BIN)/python -m exlstm.cli train --out out/demo --fresh --preset demo

test: setup
	$(BIN)/pytest -q -n 2 -m "not slow and not compile" --jaxtyping-packages=$(CHECKED),beartype.beartype
	$(BIN)/pytest -q -n 2 -m "compile and not slow" tests

test-all: test
	$(BIN)/pytest -q -m slow tests

lint: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/basedpyright --level error
	$(BIN)/codespell

clean:
	rm -rf .venv out .pytest_cache .ruff_cache
