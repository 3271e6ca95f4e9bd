# `make run` and `make test` are all there is to know; each makes its own environment first.
# Another Python: make PYTHON=python3.12 test      More of pytest: make test ARGS="-k golden -x"

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= auto
ARGS   ?=
BIN    := $(VENV)/bin
SUITES := kernels bandwidth overhead reductions modules linears quantized llama groups convolutions attention models
SOURCES := codegen compiler costmodel ir passes tests tools $(wildcard examples benchmarks)

.DEFAULT_GOAL := help
.PHONY: help venv run test test-all lint format golden bench clean

help:  ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.stamp-test  ## make the environment (a CUDA torch that is there already is left alone)

run: venv  ## compile a Llama-style decoder, check it against float64, time it against eager and Inductor
	$(BIN)/treadle run examples/01_llama.py $(ARGS)

test: venv  ## run the tests (all but the slow ones)
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow and not zoo and not bench" $(ARGS)

test-all: venv  ## run every test but the benchmarks: slow ones and the zoo of architectures too
	$(BIN)/python -m pytest -n $(JOBS) -m "not bench" $(ARGS)

lint: $(VENV)/.stamp-dev  ## check style and types
	$(BIN)/python -m ruff check $(SOURCES)
	$(BIN)/python -m ruff format --check $(SOURCES)
	$(BIN)/python tools/typing_farm.py
	$(BIN)/python -m basedpyright --pythonpath $(BIN)/python

format: $(VENV)/.stamp-dev  ## lay out the sources, and mend what the linter can mend by itself
	$(BIN)/python -m ruff check --fix $(SOURCES)
	$(BIN)/python -m ruff format $(SOURCES)

golden: venv  ## rewrite the golden files; read the diff before you commit it
	$(BIN)/python -m pytest -q -n $(JOBS) -m "not bench" --update-golden $(ARGS)
	git --no-pager diff --stat -- tests/golden

bench: venv  ## run the benchmarks (wants a quiet machine); results in JSON
	for suite in $(SUITES); do \
	  $(BIN)/python benchmarks/$$suite.py --resume --out benchmarks/results/$$suite.json $(ARGS) || exit 1; done

clean:  ## remove the environment and everything generated
	rm -rf $(VENV) .typing .pytest_cache .ruff_cache .hypothesis build dist

# A stamp is newer than what it was made from, or is made again: nothing is installed twice.
$(VENV)/.stamp-test: pyproject.toml tools/make_venv.py
	$(PYTHON) tools/make_venv.py $(VENV) test,models
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-test
	$(PYTHON) tools/make_venv.py $(VENV) dev
	@touch $@
