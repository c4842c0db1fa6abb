# make demo: install the environment and make all tables and figures of the demo.
# make demo-patchddm: the same for PatchDDM's experiments on volumes. make demo-recycling: the same for recycling.
# make test: run the fast tests.   All work on a fresh clone.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: plan demo demo-patchddm demo-recycling gpu leak report test test-workflow test-gpu slurm-test test-all mutation-test slurm-demo slurm-installed lint schema bench bench-gpu clean clean-results

# Most jobs wait for the denoiser. Its training is the longest, and a core would be idle meanwhile if it came last.
DENOISER := results/phantom/networks/denoiser/split-0_seed-0/model.safetensors
# Snakemake's default scheduler fails for such a priority, with a warning, and falls back to the greedy one.
demo: .venv/installed
	@snakemake --config scale=demo --prioritize $(DENOISER) --scheduler greedy

# The paper's networks on a larger phantom, in about ten minutes on one GPU. Four jobs share it: while one starts or writes, the
# others compute.
GPU_DENOISER := results/phantom-fine/networks/denoiser/split-0_seed-0/model.safetensors
gpu: .venv/installed
	@snakemake --config scale=gpu --resources gpu_jobs=4 --prioritize $(GPU_DENOISER) --scheduler greedy

# results/patchddm/index.html: all tables and figures of the study PatchDDM on simulated volumes (docs/studies.md)
PATCHDDM := results/volumes/networks/patchddm/split-0_seed-0/model.safetensors
demo-patchddm: .venv/installed
	@snakemake results/patchddm/index.html --config scale=demo --prioritize $(PATCHDDM) --scheduler greedy

# results/recycling/index.html: all tables and figures of the study recycling on the phantom's tissues (docs/studies.md)
RECYCLING := results/tissues/networks/diff-sc-next/split-0_seed-0/model.safetensors
demo-recycling: .venv/installed
	@snakemake results/recycling/index.html --config scale=demo --prioritize $(RECYCLING) --scheduler greedy

# results/report.html: one page with all tables and figures, their captions and the workflow
report: demo
	snakemake --config scale=demo --report results/report.html

# results/leak.csv, leak.pdf and leak_probe.pdf: what recycling does to a denoiser and its dependence on the pre-segmentation.
# Takes hours.
leak: .venv/installed
	snakemake results/leak.csv results/leak.pdf results/leak_probe.pdf --configfile config/leak.yaml

# Print the jobs, FLOPs, time and storage of the paper's experiments before they run. SCALE=demo or SCALE=gpu selects another scale;
# CONFIG="mine.yaml" overrides settings, as --configfile of snakemake does; TARGETS="results/table1.csv" selects files.
plan: .venv/installed
	python workflow/plan.py $(if $(SCALE),--scale $(SCALE)) --configfile $(CONFIG) --targets $(TARGETS)

# The tests have three tiers. The markers in pyproject.toml assign a test to its tier.
PYTEST := python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Tier 1, at most five minutes on two cores: no Snakemake run longer than a dry run, no Slurm.
test: .venv/installed
	$(PYTEST) -m "not workflow and not slurm and not browser and not gpu"

# Tier 2: Snakemake runs small workflows, and Chromium opens the web pages.
test-workflow: .venv/installed
	$(PYTEST) -m "workflow or browser"

# On a machine with a GPU: it computes what a CPU computes. Without one, all of these tests are skipped.
test-gpu: .venv/installed
	python -m pytest -n 0 -m gpu

# Tier 3: the cluster profile on a real Slurm on this machine, with preemption, time limits, memory limits and a small demo.
slurm-test: slurm-installed .venv/installed
	python -m pytest -m slurm

# All tiers in one run, as in .ci/run; TEST_OPTIONS are further options of pytest.
test-all: slurm-installed .venv/installed
	$(PYTEST) $(TEST_OPTIONS)

# Apply deliberate faults to the package. Each must make a fast test fail. Takes about twenty minutes.
mutation-test: .venv/installed
	python tests/mutations.py

# The whole demo, on this machine and on the Slurm cluster: the scores must be equal.
slurm-demo: slurm-installed .venv/installed
	DEMO=full python -m pytest -m slurm -k demo

slurm-installed:
	@PATH="$$PATH:/usr/sbin" command -v slurmctld > /dev/null || \
		{ echo "Slurm is not installed; install Debian's packages: bash tests/slurm_cluster.sh install"; exit 1; }

# Generate config/schema.yaml from the models of the configuration.
schema: .venv/installed
	python -m pd_ddpm.config.document > config/schema.yaml

lint: .venv/installed
	ruff check
	ruff format --check
	snakefmt --check Snakefile rules
	snakemake --lint

# Compare with MONAI, diffusers, MedPy and scipy on one thread. Writes benchmarks/results.json and the table in
# docs/performance.md.
bench: .venv/installed
	python -m benchmarks.run

# Measure the paper's denoiser on a GPU next to MONAI and diffusers. Writes benchmarks/gpu.json and docs/performance.md.
bench-gpu: .venv/installed
	python -m benchmarks.gpu

.venv/installed: pyproject.toml requirements.lock
	@$(PYTHON) envs/install.py .venv
	@touch $@

# Remove the environment. All results stay.
clean:
	rm -rf .venv

# Remove all results and trained networks, after a question. The scans in data/ stay.
clean-results:
	@printf "Delete results/, work/ and .snakemake/, with all trained networks? Type yes: "; read answer; \
		if [ "$$answer" = yes ]; then rm -rf results work .snakemake; else echo "Nothing was deleted."; fi
