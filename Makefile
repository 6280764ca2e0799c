# Every target makes the virtual environment itself when it is missing or stale.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
.DEFAULT_GOAL := help

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' Makefile | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# torch first and pinned: on most machines an unpinned one brings gigabytes of GPU libraries.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "twofold needs Python 3.11 or newer: make PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(STAMP) ## make the virtual environment with everything

app: $(STAMP) ## open the chat in the browser at http://127.0.0.1:7860
	$(BIN)/twofold app

ask: $(STAMP) ## answer one question: make ask Q="Plot a histogram of price"
	@test -n "$(Q)" || { echo 'make ask Q="your question"'; exit 2; }
	@$(BIN)/twofold ask "$$Q"
export Q

chat: $(STAMP) ## talk in the terminal
	@$(BIN)/twofold chat

test: $(STAMP) ## run all tests, the browser and the toy training included
	$(BIN)/pytest

check: $(STAMP) ## lint and type-check
	$(BIN)/ruff check src tests
	$(BIN)/mypy

data: $(STAMP) ## render data/*.jsonl from data/sources, run and check every row, write the data card
	$(BIN)/twofold data build
	$(BIN)/twofold data check
	$(BIN)/twofold data stats

bench: $(STAMP) ## measure speed and memory of the embedded model on this machine
	$(BIN)/twofold bench cpu

bench-sandbox: $(STAMP) ## measure the sandbox: speed, attacks, what each layer holds
	$(BIN)/python -m twofold.sandbox.bench --layers

sums: ## rewrite the checksums of the shipped model after it changed
	cd src/twofold/weights && find base code theory encoder.safetensors -type f ! -name run.json | LC_ALL=C sort | xargs sha256sum > SHA256SUMS

smoke: $(STAMP) ## every training stage at toy size, ending in an answered question
	PATH="$(BIN):$$PATH" runs/smoke.sh

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help install app ask chat test check data bench bench-sandbox sums smoke clean
