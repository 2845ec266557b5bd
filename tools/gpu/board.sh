#!/usr/bin/env bash
# A board on a lent GPU, within a time: scores first, three seeds of all rows and then five, then timings, alone.
#
#     bash tools/gpu/board.sh SECONDS FOLDER -- --dataset mnist --priors evalp,gmm --metrics fd,mmd --budget full
#
# Stops itself by SIGINT, as a person would with Ctrl-C: what is recorded stays, and the same command goes on from there.
# FOLDER gets `records.tar`, of records, tables and log. WORKERS (12) processes share the GPU; where CUDA's Multi-Process
# Service can be had, their small kernels run beside one another instead of in turns. It is ended before anything is timed.
set -uo pipefail
seconds=$1 folder=$2
shift 3
deadline=$((SECONDS + seconds)) results=$folder/results log=$folder/results/board.log
timings=("$@")
for index in "${!timings[@]}"; do # of the same rows, in place of the scores that were asked for
    [ "${timings[$index]}" != --metrics ] || timings[index + 1]=timings
done
mkdir -p "$results"

say() { echo "$(date +%T) $*" | tee -a "$log"; }

run() { # what is left of the time, less what packing takes
    local left=$((deadline - SECONDS - 10))
    [ "$left" -gt 15 ] || return 0
    say "run $* ($left s left)"
    timeout --signal INT --kill-after 8 "$left" python3 -m benchmark run --results "$results" "$@" >>"$log" 2>&1
    say "ended with $?"
}

shared() { echo quit | timeout 10 nvidia-cuda-mps-control >/dev/null 2>&1; }

export CUDA_MPS_PIPE_DIRECTORY=/tmp/mps CUDA_MPS_LOG_DIRECTORY=/tmp/mps-log
mkdir -p $CUDA_MPS_PIPE_DIRECTORY $CUDA_MPS_LOG_DIRECTORY
if command -v nvidia-cuda-mps-control >/dev/null && nvidia-cuda-mps-control -d 2>>"$log" &&
    timeout 30 python3 -c "import torch; torch.ones(1, device='cuda').sum().item()" 2>>"$log"; then
    say "processes share the GPU by MPS"
else
    shared
    unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
    say "no MPS: processes take turns"
fi
run "$@" --seeds 3 --workers "${WORKERS:-12}" --per-gpu "${WORKERS:-12}"
run "$@" --seeds 5 --workers "${WORKERS:-12}" --per-gpu "${WORKERS:-12}"
shared
unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
run "${timings[@]}" --seeds 3 --workers 1
tar -C "$results" -cf "$folder/records.tar" . && say "$(du -h "$folder/records.tar" | cut -f1) in records.tar"
