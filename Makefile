# Everything here works on a bare Debian with git and make; `make setup` installs the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
CMD ?=

.PHONY: help
help: ## Show what can be made
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do \
		printf '  make %-12s %s\n' "$$name" "$$text"; done

.PHONY: setup
setup: ## Install packages, make .venv, fetch the guest's kernel; quick when nothing is missing
	@tools/setup

.PHONY: lint
lint: setup ## Check style and types
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary

.PHONY: site
site: setup
	@$(BIN)/sphinx-build --quiet -W --keep-going --nitpicky --fresh-env --write-all -d build/docs/doctrees docs build/docs/html
	@$(BIN)/sphinx-build --quiet -W --keep-going -b doctest -d build/docs/doctrees docs build/docs/doctest

.PHONY: docs
docs: site ## Build the site into build/docs/html, warnings being errors; run its doctests, tutorial and examples
	@$(BIN)/pytest -q tests/test_docs.py tests/examples

.PHONY: test
test: lint site ## Check style and types, build the site, run all tests, those in the guest included: what CI runs
	@# The guest leaves a processor idle most of the time: the other tests take that, and are shown when both are done.
	@nice $(BIN)/pytest -q tests --ignore=tests/kernel --ignore=tests/guests >build/tests.log 2>&1 & rest=$$!; \
	$(BIN)/pytest -q tests/kernel tests/guests; guest=$$?; \
	wait $$rest; rest=$$?; cat build/tests.log; exit $$((guest || rest))

.PHONY: guest
guest: setup ## Run CMD='...' in a guest with the real kernel, or a shell on this terminal
	@$(BIN)/python -m tools.guest run -- $(if $(CMD),/bin/sh -c '$(subst ','\'',$(CMD))')

.PHONY: demo
demo: setup ## Show an S3 bucket as a disk, from nothing to a restart
	@$(BIN)/python -m tools.demo

.PHONY: crash
crash: setup ## Kill daemons on the real kernel, ROUNDS=20 times, while files are fsynced
	@$(BIN)/python -m tests.kernel.crash

.PHONY: simulate
simulate: setup ## Simulate a volume, SEEDS=500 times, and its mutants; SEED=n HISTORY=file: one; MUTANTS=directory
	@$(BIN)/python -m tests.simulation

.PHONY: bench-ring
bench-ring: setup ## Measure the ring
	@$(BIN)/python -m benchmarks.ring

.PHONY: bench-s3
bench-s3: ## Measure volumes beside s3backer and nbdkit; ROTATIONS=1 ROW_SECONDS=5 ROWS='rw rr': a trial
	@tools/setup bench
	@$(BIN)/python -m benchmarks.s3

.PHONY: bench-volume
bench-volume: setup ## Measure opening, UNMAP and idleness of volumes
	@$(BIN)/python -m benchmarks.volume
