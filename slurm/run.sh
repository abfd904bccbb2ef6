# shellcheck shell=bash
# The body of slurm/*.slurm, which source it: copies the data to the nodes' own disks, starts the ranks, passes the
# warning before the time limit on to them, and queues the job again if they stopped early.
#
# Set by the .slurm file, or by the user before sbatch: PRESET, DATA (packed file), OUT (run directory). Also:
#   AMLFS      the program; target/release/amlfs of the repository
#   AMLFS_ENV  a file to source first: 'module load' lines, say
#   LAUNCHER   srun, or another with its options: LAUNCHER='mpirun --bind-to none'
#   AMLFS_MPI  what srun gets as --mpi; pmix
#   STAGE      0: read DATA where it is
#   DEVICE     cuda: a rank that sees no GPU ends the job at once, instead of training on CPUs; cpu where that is meant
# A task of 'sbatch --array=1-5' gets --seed TASK and the directory OUT/seed-TASK. Of a grid the first SEEDS (3) tasks are its
# first cell's, with the seeds 1 to SEEDS in OUT/CELL/seed-1 ..., the next ones its second cell's, and so on.
#
# Set by a .slurm file alone: cells, the grid, 'NAME OPTIONS' each; loss, a fixed loss to train with instead of a search.
: "${AMLFS:=$AMLFS_ROOT/target/release/amlfs}" "${AMLFS_ENV:=}" "${LAUNCHER:=srun}" "${AMLFS_MPI:=pmix}" "${STAGE:=1}" "${DEVICE:=cuda}"

declare -p cells >/dev/null 2>&1 || cells=()
program=("$AMLFS")
[ -z "${loss:-}" ] || program+=(train --loss "$loss")

say() { printf '%(%F %T)T slurm: %s\n' -1 "$*" >&2; }
refuse() { say "$*"; exit 78; }

asked='' warned='' ranks=''
# shellcheck disable=SC2317 # called by the trap
ask() {
    asked=1 warned=1
    [ -n "$ranks" ] || { say "USR1 before the ranks were started: they will not be"; return; }
    say "USR1: asking the ranks to save and stop"
    kill -USR1 "$ranks" || true
}
trap ask USR1

[ -n "${SLURM_JOB_ID:-}" ] || refuse "submit this with sbatch"
if [ -n "$AMLFS_ENV" ]; then
    # shellcheck source=/dev/null
    . "$AMLFS_ENV" || refuse "AMLFS_ENV=$AMLFS_ENV can't be sourced"
fi
set -euo pipefail # not before: modules' shell functions don't bear it

job=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID # one task's job number is that of the whole array
    [[ " $*" != *" --seed"* ]] || refuse "--seed and --array: a task's number is its seed; leave --seed out"
    seed=$SLURM_ARRAY_TASK_ID
    if [ "${#cells[@]}" != 0 ]; then
        : "${SEEDS:=3}"
        [[ $SEEDS =~ ^[1-9][0-9]*$ ]] || refuse "SEEDS=$SEEDS: must be a number, 1 or more"
        tasks=$((${#cells[@]} * SEEDS))
        ((seed >= 1 && seed <= tasks)) || refuse "task $seed: ${#cells[@]} x $SEEDS seeds are --array=1-$tasks"
        read -ra cell <<<"${cells[(seed - 1) / SEEDS]}"
        OUT=$OUT/${cell[0]}
        set -- "${cell[@]:1}" "$@"
        seed=$(((seed - 1) % SEEDS + 1))
    fi
    OUT=$OUT/seed-$seed
    set -- --seed "$seed" "$@"
elif [ "${#cells[@]}" != 0 ]; then
    refuse "submit this with --array=1-$((${#cells[@]} * ${SEEDS:-3})): ${#cells[@]} x ${SEEDS:-3} seeds (SEEDS)"
fi

# amlfs ends in time by itself if it knows when that is; Slurm says so from 23.02 on
if [ -z "${SLURM_JOB_END_TIME:-}" ]; then
    end=$(SLURM_TIME_FORMAT=%s squeue --noheader --jobs="$job" --format=%e) || end=''
    [[ ! $end =~ ^[0-9]+$ ]] || export SLURM_JOB_END_TIME=$end # not a number: without a limit
fi

say "job $job${SLURM_JOB_END_TIME:+ until $(date -d "@$SLURM_JOB_END_TIME" '+%F %T')}, restart" \
    "${SLURM_RESTART_COUNT:-0}, $SLURM_NTASKS tasks on ${SLURM_JOB_NODELIST:-?}, run $OUT"
# shellcheck disable=SC2153 # DATA and data are two
[ -e "$DATA" ] || refuse "DATA=$DATA is not there: set it to the packed file that 'amlfs prepare' wrote, or" \
    "for CIFAR to its .tar.gz or directory"
command -v "$AMLFS" >/dev/null || refuse "AMLFS=$AMLFS is not a program: build it (cargo build --release), or set AMLFS"

# --- is there progress? Slurm queues a job again by itself too, when a node dies or another job goes first --------
newest() { find "$OUT" -name 'epoch-*.h5' 2>/dev/null | sort | tail -n 1 || true; }
# changes with every checkpoint, and within a round with what is kept of its samples
progress() { { newest; find "$OUT/.samples" -name '*.h5' -printf '%f %T@\n' 2>/dev/null || true; } | sort | cksum; }
before=$(progress)
restarts=0
if [ "${SLURM_RESTART_COUNT:-0}" != 0 ] && { read -r restarts && read -r last; } 2>/dev/null <"$OUT/.restarts"; then
    if [ "$last" = "$before" ]; then restarts=$((restarts + 1)); else restarts=0; fi
fi
mkdir -p "$OUT" && rm -f "$OUT/STOPPED"
printf '%s\n' "$restarts" "$before" >"$OUT/.restarts"
[ "$restarts" -lt 3 ] || refuse "restarted $restarts times without progress: is --time shorter than the copying of the" \
    "data (STAGE=0) and run.save_minutes? Did the ranks die (above)? Submit it anew when that is mended"

# --- the data, once per node --------------------------------------------------------------------------------------
on_every_node() {
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --mpi=none "$@"
}

data=$DATA
if [ "$STAGE" != 0 ] && [ -f "$DATA" ]; then
    local_directory=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/amlfs-$SLURM_JOB_ID
    unstage() {
        trap - EXIT
        on_every_node rm -rf "$local_directory" || rm -rf "$local_directory"
    }
    trap unstage EXIT
    if on_every_node bash "$AMLFS_ROOT/slurm/stage.sh" "$DATA" "$local_directory/${DATA##*/}"; then
        data=$local_directory/${DATA##*/}
        say "every node has a copy of the data: $data"
    else
        say "not every node could copy the data: all read $DATA"
        unstage
    fi
fi

# --- the ranks ----------------------------------------------------------------------------------------------------
read -ra launch <<<"$LAUNCHER"
if [ "${launch[0]##*/}" = srun ]; then
    # --kill-on-bad-exit would end the ranks that go a moment after the first, and make 143 of their 75 or 78
    launch+=(--mpi="$AMLFS_MPI" --kill-on-bad-exit=0 --wait=60)
    # a node that died keeps the socket of its step's PMIx: no step after a restart may have a number that ranks had before
    for ((restart = 0; restart < ${SLURM_RESTART_COUNT:-0}; restart++)); do on_every_node true || break; done
    launch+=(${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"}) # srun 22.05 and newer forget it
else
    launch+=(-n "$SLURM_NTASKS")
    if [ -n "${SLURM_GPUS_PER_TASK:-}" ]; then
        # mpirun's own srun starts one task on each node but this one, and it must see all GPUs there
        elsewhere=$((${SLURM_GPUS_PER_TASK##*:} * SLURM_NTASKS - ${SLURM_GPUS_ON_NODE:-0}))
        launch=(env -u SLURM_GPUS_PER_TASK -u SLURM_TRES_PER_TASK "SLURM_GPUS=$elsewhere" "${launch[@]}")
    fi
fi

machine=(--set "run.device=$DEVICE")
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then # a core launches kernels, another one runs backward; the others read images
    readers=$((SLURM_CPUS_PER_TASK - 2))
    machine+=(--set "run.loader_threads=$((readers < 1 ? 1 : readers > 64 ? 64 : readers))")
fi

code=75
if [ -z "$asked" ]; then
    "${launch[@]}" "${program[@]}" --preset "$PRESET" --data "$data" --out "$OUT" "${machine[@]}" --resume "$@" &
    ranks=$!
    [ -z "$asked" ] || ask
    asked=1
    while [ -n "$asked" ]; do # a trapped signal ends 'wait', not the ranks
        asked='' code=0
        wait "$ranks" || code=$?
    done
fi
[ "$data" = "$DATA" ] || unstage # now: nothing runs after the job is queued again

# --- what now -----------------------------------------------------------------------------------------------------
queue_again() {
    if scontrol requeue "$job"; then
        say "$*: queued again"
    else
        say "$*, but scontrol could not queue the job again: submit it once more"
    fi
}

case $code in
75)
    if [ -e "$OUT/STOPPED" ]; then # amlfs has renamed STOP
        say "$OUT/STOP stopped the run: not queued again"
    else
        queue_again "stopped early"
    fi ;;
0 | 1 | 2 | 78 | 101) say "amlfs exited with $code" ;;
*) # a killed rank or launcher, a dead node and what it left behind, USR1 before the ranks could take it
    last=$(newest)
    [ -n "$last" ] || [ ! -d "$OUT/.samples" ] || last="part of the first round"
    if [ -n "$last" ] || [ -n "$warned" ]; then # how often without progress is counted above
        queue_again "the ranks ended with $code, ${last:-nothing} is saved"
    else
        say "the ranks ended with $code, before anything was saved: not queued again"
    fi ;;
esac
exit "$code"
