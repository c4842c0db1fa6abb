#!/usr/bin/env bash
# Everything that a GPU is needed for, in one command for whoever has one for some minutes:
#
#   bash benchmarks/gpu_session.sh [minutes, 15 by default] [folder of the output]
#
# It runs the tests marked gpu, then `make bench-gpu`, then as much of scale gpu as fits. Each part has a share of the time, and
# what it does not use is left to the next. Finished results of scale gpu stay, so that a second session resumes. Simulating and
# preparing the cases needs no GPU; `snakemake results/phantom-fine/splits.csv --config scale=gpu` does it beforehand.
# Run it in the root of the clone, in the environment of `make .venv/installed`, or in any with the packages of pyproject.toml.
set -uo pipefail
minutes=${1:-15}
output=${2:-results/gpu_session}
mkdir -p "$output"
end=$((SECONDS + minutes * 60))
failed=0

# Run a command for at most a number of seconds and no longer than the session: part NAME SECONDS COMMAND...
part() {
    local name=$1 limit=$2 left=$((end - SECONDS)) code
    shift 2
    if ((left < 20)); then
        echo "$name: not begun, the $minutes minutes are over"
        return
    fi
    # SIGINT lets Snakemake and pytest end in order, and write what they have.
    timeout --signal=INT --kill-after=20 $((limit < left ? limit : left)) "$@" > "$output/$name.log" 2>&1
    code=$?
    tail -n 3 "$output/$name.log"
    case $code in
    0) echo "$name: done after $SECONDS s" ;;
    124 | 137) echo "$name: its time is over; see $output/$name.log" ;;
    *) echo "$name: failed with exit code $code; see $output/$name.log" && failed=1 ;;
    esac
}

python -c "import torch; assert torch.cuda.is_available()" 2> /dev/null ||
    { echo "error: PyTorch sees no CUDA device here."; exit 1; }
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
part tests $((minutes * 15)) python -m pytest -n 0 -q -m gpu tests/gpu
part bench $((minutes * 24)) python -m benchmarks.gpu --minutes 5 --output "$output/gpu.json"
part scale $((minutes * 60)) snakemake --config scale=gpu --resources gpu_jobs=4 --scheduler greedy \
    --prioritize results/phantom-fine/networks/denoiser/split-0_seed-0/model.safetensors --keep-going
cp docs/performance.md "$output/" && cp -r results/logs results/benchmarks "$output/" 2> /dev/null
exit $failed
