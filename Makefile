# Every target does its own set-up: it makes .venv and installs what it needs, again only when pyproject.toml changed.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help run test coverage test-slow faults lint types check format clean systemd-test install-check restart-crowd conformance fuzz stress soak bench
.DEFAULT_GOAL := help

help: ## Show what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

run: $(VENV)/.runtime ## Start a broker to try things out, with an embedded store and a ready key
	@$(BIN)/signalbox serve --dev

test: $(VENV)/.development ## Run all tests (ARGS: tests/store -k kill)
	@$(BIN)/python -m pytest -n auto --dist loadfile $(COVERAGE) $(ARGS)

coverage: COVERAGE := --cov --cov-report=term:skip-covered
coverage: test ## Run all tests, and show what they leave out; takes nearly twice as long

test-slow: $(VENV)/.development ## Run the tests that take long
	@$(BIN)/python -m pytest -m slow $(ARGS)

conformance: $(VENV)/.development ## Run Autobahn's cases against the broker (ARGS: names of modes)
	@$(BIN)/python -m tests.conformance $(ARGS)

fuzz: $(VENV)/.development ## Give a million made-up inputs to all that reads bytes from outside (ARGS: --seed 2, codec)
	@$(BIN)/python -m tests.fuzz $(ARGS)

soak: $(VENV)/.development ## Load a broker steadily for SOAK_MINUTES (30), and plot what it holds into docs/
	@$(BIN)/python -m tests.soak $(ARGS)

bench: $(VENV)/.bench ## Measure the broker beside a C floor and a websockets peer (ARGS: --rounds 3, --tls, --json)
	@$(BIN)/python -m tests.bench $(ARGS)

stress: $(VENV)/.development ## Do everything at once to one broker, and see that nothing is left of it (ARGS: --seed 2)
	@$(BIN)/python -m tests.stress $(ARGS)

systemd-test: ## Check the units inside a freshly booted systemd; needs root (ARGS: words in the names of checks)
	@tests/systemd/run $(ARGS)

install-check: ## Follow docs/installing.md, word for word, on a freshly booted systemd; needs root
	@tests/systemd/install-check

restart-crowd: ## Measure a restart under SESSIONS (5000) control sessions, in a booted systemd; needs root
	@tests/systemd/run -m tests.systemd.guest.crowd $(or $(SESSIONS),5000)

faults: $(VENV)/.development ## Break everything in turn, and see that nothing is lost (SEEDS: such as 7, or 1-20)
	@$(BIN)/python -m tests.faults $(if $(SEEDS),--seeds $(SEEDS))

lint: $(VENV)/.development ## Look for mistakes and for imports against the layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "Run: make format"; exit 1; }
	@$(BIN)/lint-imports --no-logo

types: $(VENV)/.development ## Check all types
	@$(BIN)/mypy

check: lint types test ## Run lint, types and test: what has to pass before a commit

format: $(VENV)/.development ## Lay the code out
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix-only .

clean: ## Remove everything that was made here
	rm -rf $(VENV) build dist .coverage .coverage.* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.runtime: pyproject.toml .ci/make-venv
	@.ci/make-venv $(VENV)
	@echo "Installing Signalbox into $(VENV) ..."
	@$(PIP) --editable .
	@touch $@

$(VENV)/.development: $(VENV)/.runtime
	@echo "Installing the tools for development into $(VENV) ..."
	@$(PIP) --group dev
	@touch $@

$(VENV)/.bench: $(VENV)/.development
	@echo "Installing what the comparison needs into $(VENV) ..."
	@$(PIP) --group bench
	@touch $@
