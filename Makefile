# Each target works on a fresh machine with Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: demo test lint bench bench-gpu soak setup clean
.DEFAULT_GOAL := test

setup: $(VENV)/.installed

# torch first and by itself: a plain "torch" would bring gigabytes of GPU libraries along.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/watcherd demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: lint
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow_soak and not gpu"

soak: setup
	$(BIN)/python -m benchmarks.soak
	$(BIN)/python -m pytest -m slow_soak

bench: setup
	$(BIN)/python -m benchmarks

bench-gpu: setup
	$(BIN)/python -m benchmarks.gpu_sa2va
	$(BIN)/python -m benchmarks.gpu_semantic

clean:
	rm -rf $(VENV) demo-run
