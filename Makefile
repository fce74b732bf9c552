# `make demo` and `make test` need Python 3.11 (and Node 20 for what is JavaScript); all else they bring.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PORT ?=

.DEFAULT_GOAL := help

help:
	@echo "make demo    the flights demo on http://127.0.0.1:8000 (PORT=… for another)"
	@echo "make test    lint, types, import contracts, tests, the client's build and tests, browser tests"
	@echo "make soak    minutes under faults, and an audit (SOAK_SECONDS=240 SOAK_SEED=…)"
	@echo "make bench   the figures of docs/performance.md, measured here"
	@echo "make clean   remove what the others made"

demo: $(VENV)/demo
	@$(BIN)/pushsvc --log-level warning demo $(if $(PORT),--port $(PORT))

test: lint types imports client pytest

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy

imports: $(VENV)/dev
	$(BIN)/lint-imports

# Two processes, each with engines of its own, unless the engines are given: then there is one of each.
SIDE_BY_SIDE = $(if $(PUSHSVC_TEST_DATABASE_URL)$(PUSHSVC_TEST_REDIS_URL),,-n 2 --dist loadfile)

pytest: $(VENV)/dev chromium pgbouncer
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

chromium pgbouncer:
	@.ci/packages $@

client: client_js/node_modules/.installed $(VENV)/dev chromium
	cd client_js && npm run --silent build && npm --silent test

soak: $(VENV)/dev
	@$(BIN)/python -m tests.soak

bench: $(VENV)/dev
	$(BIN)/python -m benchmarks.latency
	$(BIN)/python -m benchmarks.endpoints
	$(BIN)/python -m benchmarks.fairness
	$(BIN)/python -m benchmarks.queries
	$(BIN)/python -m benchmarks.fanout --markdown
	$(BIN)/python -m benchmarks.deaf

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pushsvc build dist client_js/dist client_js/node_modules *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# Each set-up once: a stamp in the virtual environment, older than what it was made from, is made again.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "pushsvc needs Python 3.11 or newer; say where it is with PYTHON=/path/to/python3.11"; exit 1; }
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/demo: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing pushsvc and its engines (some minutes at the first time)"
	@$(PIP) install -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/dev: $(VENV)/bin/python pyproject.toml client_py/pyproject.toml constraints.txt
	@echo "installing pushsvc, its engines and its tools (some minutes at the first time)"
	@$(PIP) install -c constraints.txt -e '.[dev]' -e client_py
	@touch $@

client_js/node_modules/.installed: client_js/package.json client_js/package-lock.json
	@command -v npm >/dev/null || { echo "the client for browsers needs Node 20 or newer, with npm"; exit 1; }
	@cd client_js && npm ci
	@touch $@

.PHONY: help demo test lint types imports client pytest chromium pgbouncer soak bench format clean
