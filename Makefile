# The two commands of the README are `make quickstart` and `make test`. Both make the virtual
# environment .venv when it is not there, reuse it when it is, and can be run any number of times.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: quickstart test lint types check format clean help

help:
	@echo "make quickstart   install, train the digits recipe, evaluate it, write pictures"
	@echo "make test         install the test extra, run the tests"
	@echo "make check        lint, types and tests: what continuous integration runs"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "vitdet_d2 needs Python 3.10 or newer; name one with: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip

$(VENV)/.quickstart: setup.py pyproject.toml | $(BIN)/python
	@echo "Installing vitdet_d2 into $(VENV) (PyTorch is several GB; a few minutes the first time)"
	$(PIP) install --quiet --editable '.[quickstart]'
	@touch $@

$(VENV)/.test: setup.py pyproject.toml | $(BIN)/python
	@echo "Installing vitdet_d2 with its test extra into $(VENV)"
	$(PIP) install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.quickstart

quickstart: $(VENV)/.quickstart
	$(BIN)/python train_net.py --config-file projects/quickstart.py --auto-increment

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell --skip './.venv,./.git,*.json,*.svg' .

types: $(VENV)/.test
	$(BIN)/mypy vitdet_d2 train_net.py
	cd vitdet_d2/runtime/bundled && MYPYPATH=../../..:. $(abspath $(BIN))/mypy \
		--config-file ../../../pyproject.toml --cache-dir ../../../.mypy_cache -p detectron2

check: lint types test

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
