# make demo [PHOTOS=folder]   a page that shows what the bundled model sees
# make test                   style, types, import rules and tests
# make lint                   only style and types
# make venv                   .venv with everything that developing needs
# make clean                  removes .venv, caches and the demo
#
# Installs the versions of constraints.txt into .venv: with uv where it is on the PATH, else with pip.

PYTHON ?= python3
PHOTOS ?=
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
export UV_PYTHON_DOWNLOADS := never

ifdef UV
PIP = VIRTUAL_ENV=$(VENV) $(UV) --quiet pip
MAKE_VENV = $(UV) --quiet venv --seed --python "$$(command -v $(PYTHON))" $(VENV)
else
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet
MAKE_VENV = $(PYTHON) -m venv $(VENV)
endif

.PHONY: demo test lint venv clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.core-installed
	$(BIN)/dinokit demo $(if $(PHOTOS),"$(PHOTOS)")

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2

lint: venv
	$(PIP) check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

venv: $(VENV)/.dev-installed

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) was not found: install Python 3.11 or later, or name one with make PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $$($(PYTHON) --version) is too old: dinokit needs Python 3.11 or later; name one with make PYTHON=..." >&2; exit 2; }
	$(MAKE_VENV)

$(VENV)/.core-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing dinokit into $(VENV) (torch is large; this takes some minutes the first time)"
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.dev-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing dinokit and its tools into $(VENV) (torch is large; this takes some minutes the first time)"
	$(PIP) install -c constraints.txt -e ".[dev]"
	@touch $(VENV)/.core-installed $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist demo
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
