# Everything that the workflow needs, and the workflow itself. From the root of a clone:
#
#   docker build --tag pd-ddpm .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" --volume "$PWD:/pd-ddpm" pd-ddpm snakemake --config scale=demo
#
# The clone is mounted over the image's copy, so that what runs is the clone's code, and data, results and work stay in it.
# `--target environment` ends before the package: the packages alone, in which other code can be run. docs/environments.md.

ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS environment

# git: each result records the commit that made it.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*

# torch first and by itself: its build depends on the machine. PyPI has the one for CUDA; for processors only, 4 GB smaller:
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_INDEX=
RUN python -m pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0

WORKDIR /pd-ddpm
COPY requirements.lock ./
RUN python -m pip install --no-cache-dir --requirement requirements.lock

# Whoever runs it by number has neither a name nor a home in here, and Python and Snakemake ask for both.
ENV USER=user HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib XDG_CACHE_HOME=/tmp/cache PYTHONUNBUFFERED=1


FROM environment

COPY . ./
RUN python -m pip install --no-cache-dir --no-deps --editable .
CMD ["snakemake"]
