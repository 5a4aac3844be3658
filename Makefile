# Everything a contributor runs. `make` alone lists the targets.
#   make demo ARGS="--help"          arguments for the program
#   make mutants ARGS=execution      what is mutated: pure (the default) or execution
#   make check PYTHON=/opt/py/bin/python3.13    another interpreter

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: demo test test-aws chaos mutants check bench scale format clean help

PYTHON ?= python3
ARGS ?=

# One environment for everything: the tools of `dev` beside the `cli` extra take seconds to install, and a demo
# that runs in the environment of the tests cannot break unseen.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready
MUTANTS_READY := $(VENV)/.mutants-ready
AWS_READY := $(VENV)/.aws-ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
CODE := $(wildcard src tests bench examples)

demo: $(READY)  ## Show both kinds of task at work (ARGS are passed on)
	@$(BIN)/taskloom demo $(ARGS)

test: $(READY)  ## Run the tests, of those on AWS a short set (ARGS go to pytest)
	@$(BIN)/python -m tests.aws.emulator
	@$(BIN)/python -m pytest -m "not long" --ignore tests/deploy $(ARGS)

test-aws: $(AWS_READY)  ## Run all tests of the AWS engine and of its stack, on an emulator (ARGS go to pytest)
	@$(BIN)/python -m tests.aws.emulator
	@$(BIN)/python -m pytest tests/aws tests/deploy $(ARGS)

chaos: $(READY)  ## Kill workers, again and again, while thousands of tasks run (ARGS are passed on)
	@$(BIN)/python -m tests.chaos $(ARGS)

mutants: $(MUTANTS_READY)  ## Break the code in small ways, and list what no test notices; takes hours (ARGS: pure or execution)
	@tests/mutation/run $(ARGS)

check: $(READY)  ## Everything a reviewer would say by machine: format, lint, types, arrows
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy --strict $(CODE)
	$(BIN)/lint-imports --no-logo

bench: $(BENCH_READY)  ## Run the benchmarks (ARGS are passed on)
	@$(BIN)/python -m bench $(ARGS)

scale: $(READY)  ## Simulate large fan-outs on AWS: time and cost (ARGS are passed on)
	@$(BIN)/python -m bench.scale $(ARGS)

format: $(READY)  ## Format the code and repair what the linter can
	$(BIN)/ruff check --fix-only $(CODE)
	$(BIN)/ruff format $(CODE)

clean:  ## Remove the environment, the caches and what the demo left
	rm -rf $(VENV) .emulator .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist taskloom-demo
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The stamp is written last: an installation that broke off is done again.
$(READY): pyproject.toml
	@found=; for python in "$(PYTHON)" python3 python3.13 python3.12 python3.11; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "taskloom needs Python 3.11 or newer; none of '$(PYTHON)', python3, python3.13, python3.12, python3.11 is one." >&2; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	if ! "$$found" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
		echo "$$found cannot make virtual environments: its module venv or ensurepip is missing." >&2; \
		echo "On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; \
	fi; \
	echo "Preparing $(VENV) with $$("$$found" --version) …"; \
	"$$found" -m venv --clear $(VENV)
	@$(PIP) install --editable '.[dev]'
	@touch $@

$(BENCH_READY): $(READY)
	@$(PIP) install --editable '.[dev,bench]'
	@touch $@

$(MUTANTS_READY): $(READY)
	@$(PIP) install --editable '.[dev,mutants]'
	@touch $@

$(AWS_READY): $(READY)
	@echo "Adding CDK and its linter to $(VENV) …"
	@$(PIP) install --editable '.[dev-aws]'
	@touch $@
