# Works with GNU make 3.81 (macOS). Everything that is longer than a line is in scripts/ or tests/run.py.

.PHONY: help setup demo test lint sandbox bench soak lock clean

# SECONDS counts only when it was given to make: a shell may have one of its own.
ifeq ($(origin SECONDS),command line)
DEMO_ARGUMENTS := --seconds $(SECONDS)
endif

help: ## show this list (the default)
	@echo "make <target>:"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{ printf "%-10s %s\n", $$1, $$2 }'

setup: ## make .venv with the locked packages; nothing outside of it
	@scripts/setup

demo: setup ## watch the pair work on a real Kafka; SECONDS=20 ends it by itself
	@.venv/bin/tandem demo $(DEMO_ARGUMENTS)

test: setup ## lint, types, import rules and all tests; TIERS="lint unit" chooses
	@.venv/bin/python tests/run.py $(TIERS)

lint: setup ## style, types and import rules only
	@.venv/bin/python tests/run.py lint

sandbox: setup ## a Kafka on this machine until Ctrl-C, without Docker
	@.venv/bin/python -m sandbox

bench: setup ## the processor and its peers, five rounds on a Kafka of its own; QUICK=1 is a first look
	@.venv/bin/tandem bench $(if $(QUICK),--quick)

soak: setup ## break everything at random and compare every result; MINUTES=60 SEED=7
	@.venv/bin/python -m tests.faults.soak --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED))

lock: setup ## remake the locks (needs uv); UPGRADE=1 takes newer versions
	@scripts/lock

clean: ## remove .venv and what tools left in the tree
	@rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
