#!/usr/bin/env bash
# A Slurm of two nodes, n1 and n2, on this machine: munged, slurmctld and two slurmd as Debian packages them (munge,
# slurm-wlm 22.05), without systemd and cgroups, with 64 pretended CPUs and 32 pretended GPUs per node.
#
#   tests/slurm_cluster/cluster.sh exec COMMAND...   starts it, runs COMMAND with it, ends it
#   tests/slurm_cluster/cluster.sh up DIRECTORY      starts it in a directory that is made, and prints what to source
#   tests/slurm_cluster/cluster.sh down DIRECTORY    ends its daemons and jobs, removes the directory
#
# Takes root: each node has processes, name, /dev/shm and DIRECTORY/node (for TMPDIR, say) of its own, so it dies whole
# and Open MPI can tell the nodes apart. Ports are free ones, files and sockets lie in the directory. Exit code 77: it
# can't be started here, and the last line says why.
# shellcheck disable=SC2317 # functions that others are given
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
nodes=(n1 n2)

say() { printf 'cluster: %s\n' "$*" >&2; }
cant() { say "$*"; exit 77; }

listens() { (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free_port() {
    local port
    until port=$((20000 + RANDOM % 10000)) && ! listens "$port"; do :; done
    echo "$port"
}

await() { # WHAT COMMAND...: until the command succeeds
    local what=$1 end=$((SECONDS + 60))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || { say "after a minute still not: $what"; return 1; }
        sleep 0.2
    done
}

check() {
    local program
    for program in munged slurmctld slurmd sbatch srun; do
        command -v "$program" >/dev/null || cant "$program is missing (Debian's packages munge and slurm-wlm)"
    done
    [ "$(id -u)" = 0 ] || cant "it takes root"
    unshare --mount --pid --fork --uts true 2>/dev/null || cant "namespaces are not allowed here (unshare)"
}

configure() {
    mkdir "$directory"/{state,munge,node} "${nodes[@]/#/$directory/}"
    chmod 755 "$directory" "$directory/munge"
    (umask 077 && head -c 1024 /dev/urandom >"$directory/munge/key")
    cat >"$directory/slurm.conf" <<CONF
ClusterName=amlfs
SlurmctldHost=$(uname -n)(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmUser=root
SlurmdUser=root
# also how long a job that was queued again waits before it may start: 120 s if it is not said
AuthInfo=socket=$directory/munge/socket,cred_expire=5
StateSaveLocation=$directory/state
SlurmctldPidFile=$directory/slurmctld.pid
SlurmctldLogFile=$directory/slurmctld.log
SlurmdSpoolDir=$directory/node/spool
SlurmdPidFile=$directory/node/slurmd.pid
SlurmdLogFile=$directory/node/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=200000,bf_interval=2
SlurmdParameters=config_overrides
SlurmdTimeout=20
ReturnToService=2
KillWait=5
GresTypes=gpu
NodeName=${nodes[0]} NodeHostname=${nodes[0]} NodeAddr=127.0.0.1 Port=$(free_port) CPUs=64 Gres=gpu:32
NodeName=${nodes[1]} NodeHostname=${nodes[1]} NodeAddr=127.0.0.1 Port=$(free_port) CPUs=64 Gres=gpu:32
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    local gpu
    for gpu in {0..31}; do mknod "$directory/gpu$gpu" c 1 3; done # Slurm wants devices: these are as /dev/null
    echo "Name=gpu File=$directory/gpu[0-31]" >"$directory/gres.conf"
    echo "PMIxCliTmpDirBase=$directory/node/pmix" >"$directory/mpi.conf"
}

start_node() {
    mkdir "$directory/$1"/{spool,pmix,tmp}
    # shellcheck disable=SC2016 # the inner shell's
    setsid unshare --mount --pid --fork --kill-child --mount-proc --uts bash -c '
        hostname "$1" && mount -t tmpfs tmpfs /dev/shm && mount --bind "$2/$1" "$2/node" &&
        exec slurmd -D -N "$1" -f "$2/slurm.conf"' node "$1" "$directory" </dev/null >/dev/null 2>"$directory/$1/stderr" &
    echo $! >"$directory/$1.pid"
    disown # and say nothing when it is killed
}

all_idle() { [ "$(sinfo --noheader --Node --format=%T | sort -u)" = idle ]; }

up() {
    check
    mkdir "$1"
    directory=$(cd "$1" && pwd)
    configure
    export SLURM_CONF=$directory/slurm.conf
    local munge=$directory/munge
    munged --socket="$munge/socket" --key-file="$munge/key" --pid-file="$munge/pid" --log-file="$munge/log" \
        --seed-file="$munge/seed"
    slurmctld -f "$SLURM_CONF"
    for node in "${nodes[@]}"; do start_node "$node"; done
    if ! await "both nodes are up" all_idle; then
        tail -n 5 "$directory/slurmctld.log" "$directory"/n?/{stderr,slurmd.log} >&2 || true
        down "$directory"
        exit 1
    fi
    echo "export SLURM_CONF='$SLURM_CONF'"
}

gone() { ! kill -0 "$1"; }

down() {
    [ -f "$1/slurm.conf" ] || { say "$1 holds no cluster"; exit 2; }
    local file pid
    for file in "${nodes[@]/%/.pid}" slurmctld.pid munge/pid; do
        pid=$(cat "$1/$file" 2>/dev/null) || continue
        kill -KILL "$pid" 2>/dev/null || continue
        await "process $pid has ended" gone "$pid"
    done
    rm -rf "$1"
}

run() {
    local parent code=0
    parent=$(mktemp -d)
    chmod 711 "$parent" # munged insists
    # shellcheck disable=SC2064 # these directories
    trap "[ ! -e '$parent/slurm' ] || down '$parent/slurm'; rm -rf '$parent'" EXIT
    trap 'exit 143' INT TERM HUP
    up "$parent/slurm" >/dev/null
    "$@" || code=$?
    exit "$code"
}

case ${1:-}/$# in
exec/1) ;;
exec/*) run "${@:2}" ;;
up/2) up "$2" && exit ;;
down/2) down "$2" && exit ;;
esac
sed -n '2,/^# shellcheck/{/^# shellcheck/!p}' "$0" >&2
exit 2
