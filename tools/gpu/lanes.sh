#!/usr/bin/env bash
# Many commands on one lent GPU, within a time: lanes beside one another, then what has to be alone.
#
#     bash tools/gpu/lanes.sh SECONDS FOLDER PLAN
#
# PLAN has a lane a line: commands with ` ; ` between them, of which one starts when the one before it ended, however that
# ended. `benchmark` stands for `python3 -m benchmark`, RESULTS for FOLDER/results. All lanes start together; the lines
# below `alone N` run when they have ended, one by one, in the last N seconds or earlier: that is where timings belong.
#
# What runs out of time is sent SIGINT, as by a person's Ctrl-C: what is recorded stays, and the same plan goes on from
# there. FOLDER gets `records.tar.gz`, of what stands in FOLDER/results, with a log of each lane, in parts of 15 MiB
# (`cat records.tar.gz.* | tar -xz`). Where CUDA's Multi-Process
# Service can be had, the small kernels of all lanes run beside one another instead of in turns; it ends before `alone`.
set -uo pipefail
seconds=$1 folder=$2 plan=$3
results=$folder/results
mkdir -p "$results/logs"
log=$results/logs/lanes.log
end=$((SECONDS + seconds - 10)) # less what packing takes
deadline=$((end - $(sed -n 's/^alone \([0-9]*\)$/\1/p;$a 0' "$plan" | head -n 1)))

say() { echo "$(date +%T) $*" | tee -a "$log"; }

lane() { # NUMBER COMMANDS: each with what is left of the time
    local rest=$2 left words
    while [ -n "$rest" ]; do
        read -ra words <<<"${rest%% ; *}"
        case $rest in *' ; '*) rest=${rest#* ; } ;; *) rest= ;; esac
        left=$((deadline - SECONDS))
        [ "$left" -gt 15 ] || return 0
        [ "${words[0]}" != benchmark ] || words=(python3 -m "${words[@]}")
        say "$1: ${words[*]} ($left s left)"
        # a shell's jobs in the background ignore SIGINT, and so would Python
        timeout --signal INT --kill-after 8 "$left" env --default-signal=INT "${words[@]}" >>"$results/logs/$1.log" 2>&1
        say "$1: ended with $?"
    done
}

end_sharing() {
    echo quit | timeout 10 nvidia-cuda-mps-control >/dev/null 2>&1
    unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
}

export CUDA_MPS_PIPE_DIRECTORY=/tmp/mps CUDA_MPS_LOG_DIRECTORY=/tmp/mps-log
mkdir -p $CUDA_MPS_PIPE_DIRECTORY $CUDA_MPS_LOG_DIRECTORY
if command -v nvidia-cuda-mps-control >/dev/null && nvidia-cuda-mps-control -d 2>>"$log" &&
    timeout 30 python3 -c "import torch; torch.ones(1, device='cuda').sum().item()" 2>>"$log"; then
    say "processes share the GPU by MPS"
else
    end_sharing
    say "no MPS: processes take turns"
fi
number=0 lanes=yes
while IFS= read -r line; do
    line=${line//RESULTS/$results}
    case $line in
    '' | '#'*) continue ;;
    alone*)
        wait
        end_sharing
        deadline=$end lanes=
        continue
        ;;
    esac
    number=$((number + 1))
    if [ -n "$lanes" ]; then lane "$number" "$line" </dev/null & else lane "$number" "$line" </dev/null; fi
done <"$plan"
wait
end_sharing
rm -f "$folder"/records.tar.gz.* # of an earlier call, which may have had more parts
tar -C "$results" -cz . | split -b 15m - "$folder/records.tar.gz." && du -h "$folder"/records.tar.gz.*
