# Image with the workflow and all its dependencies. Build and run it in the root of a clone:
#
#   docker build --tag pd-ddpm .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" --volume "$PWD:/pd-ddpm" pd-ddpm snakemake --config scale=demo
#
# The clone is mounted over the copy in the image. The container therefore runs the code of the clone and writes data, results
# and work there. `--target environment` builds an image with the dependencies only. See docs/environments.md.

ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS environment

# git, because each result records the commit of the code.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*

# torch is installed first, by itself, because its build depends on the machine. PyPI has the build with CUDA. For the build
# without CUDA, which is 4 GB smaller, add
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_INDEX=
RUN python -m pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0

WORKDIR /pd-ddpm
COPY requirements.lock ./
RUN python -m pip install --no-cache-dir --requirement requirements.lock

# A user given by number has no name and no home in the image, but Python and Snakemake require both.
ENV USER=user HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib XDG_CACHE_HOME=/tmp/cache PYTHONUNBUFFERED=1


FROM environment

COPY . ./
RUN python -m pip install --no-cache-dir --no-deps --editable .
CMD ["snakemake"]
