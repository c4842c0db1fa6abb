# make demo: the environment, then every exhibit of the demo.   make test: the tests.   Both work on a fresh clone.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo report test lint bench bench-gpu clean

demo: .venv/installed
	snakemake --config scale=demo

# One page with every exhibit, its caption and the workflow that made it: results/report.html
report: demo
	snakemake --config scale=demo --report results/report.html

test: .venv/installed
	python -m pytest

lint: .venv/installed
	ruff check
	ruff format --check
	snakefmt --check Snakefile rules
	snakemake --lint

# Beside MONAI, diffusers, MedPy and scipy, on one thread: benchmarks/results.json and the table in docs/performance.md
bench: .venv/installed
	python -m benchmarks.run

# The paper's denoiser on a GPU: benchmarks/gpu.json
bench-gpu: .venv/installed
	python -m benchmarks.gpu

# torch first and by itself: the CPU build where pip finds one, the CUDA build elsewhere.
.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	pip install --quiet --disable-pip-version-check torch==2.13.0
	pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable ".[test]"
	touch $@

clean:
	rm -rf .venv .snakemake results work
