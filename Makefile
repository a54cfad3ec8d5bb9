.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
LOCK := tests/constraints.txt
STORES := azurite@3.35.0 s3rver@3.7.1
LONG := --timeout 2400 -o faulthandler_timeout=2460

$(INSTALLED): pyproject.toml $(LOCK)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint $(LOCK) --editable '.[dev]'
	touch $@

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

install: $(INSTALLED) ## .venv with everything (about 2 minutes and 7 GB)

demo: $(INSTALLED) ## real images to search and probes in under 3 minutes; writes one HTML page
	$(BIN)/python -m indexer.demo
	@echo 'The commands are in $(BIN). To try them: export PATH="$$PWD/$(BIN):$$PATH", then the tour of README.md.'

demo-slides: $(INSTALLED) ## whole slides of two classes: tiles, slide search, a slide-level probe; one HTML page, under 3 minutes
	$(BIN)/python -m indexer.demo.slide_search

lock: $(INSTALLED) ## .venv and tests/constraints.txt with the newest versions; run `make check test` before you commit it
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --upgrade --upgrade-strategy eager --editable '.[dev]'
	$(BIN)/python -m tests.lock > .venv/constraints.txt
	mv .venv/constraints.txt $(LOCK)
	touch $(INSTALLED)

test: $(INSTALLED) ## all tests (some 12 minutes on 2 cores)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "not slow"

test-slow: $(INSTALLED) ## the tests that take minutes: 2,000 damaged files of each kind, and the like
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(LONG) -m slow

test-faults: $(INSTALLED) ## kills, full disks, errors at every call, power loss at a quarter of its states (some 25 minutes on 2 cores)
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.faults
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.power --share 0.25

test-power: $(INSTALLED) ## up to six states that a power failure leaves, after every call (9 minutes on 2 quiet cores)
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.power

test-cluster: $(INSTALLED) ## S3 and Azure, writers, parts, a Slurm array, Ray: killed, cut off, stopped; one table (long)
	test -d .venv/node || ! command -v npm > /dev/null || npm install --silent --no-audit --no-fund --prefix .venv/node $(STORES)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(LONG) -n 2 --dist load -m "slow or not slow" tests/cluster

fuzz: $(INSTALLED) ## 20,000 odd and damaged inputs, compared with independent readers: one table (70 seconds on 2 quiet cores)
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.fuzz

check: $(INSTALLED) ## ruff, mypy --strict, bandit, imports (floors, circles), dead code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 0 tests/test_architecture.py
	$(BIN)/vulture
	$(BIN)/bandit -q -c pyproject.toml -r indexer probes

bench: $(INSTALLED) ## every benchmark; JSON under benchmarks/results
	$(BIN)/python -m benchmarks

clean: ## remove .venv and caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache demo-out demo-slides-out tour

.PHONY: help install lock demo demo-slides test test-faults test-power test-slow test-cluster fuzz check bench clean
