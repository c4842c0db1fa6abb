# make demo: the environment, then every exhibit of the demo.   make test: the tests.   Both work on a fresh clone.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: plan demo report test slurm-test slurm-demo slurm-installed lint bench bench-gpu clean

demo: .venv/installed
	snakemake --config scale=demo

# One page with every exhibit, its caption and the workflow that made it: results/report.html
report: demo
	snakemake --config scale=demo --report results/report.html

# What the paper's experiment does and costs, before it runs; SCALE=demo, or CONFIG="mine.yaml" laid over it as --configfile.
SCALE ?= paper
plan: .venv/installed
	python workflow/plan.py --scale $(SCALE) --configfile $(CONFIG)

test: .venv/installed
	python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# The cluster profile on a real Slurm, which is started on this machine: preemption, time limits, memory, a small demo.
slurm-test: slurm-installed .venv/installed
	python -m pytest tests/test_slurm.py

# The whole demo, on this machine and through that cluster: the scores must be the same.
slurm-demo: slurm-installed .venv/installed
	DEMO=full python -m pytest tests/test_slurm.py -k demo

slurm-installed:
	@PATH="$$PATH:/usr/sbin" command -v slurmctld > /dev/null || \
		{ echo "Slurm is not installed; install Debian's packages: bash tests/slurm_cluster.sh install"; exit 1; }

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
