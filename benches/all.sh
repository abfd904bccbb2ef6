#!/usr/bin/env bash
# Every benchmark, one after the other, on an idle machine: two to three hours on two cores. Each writes OUT/NAME.txt.
#
#   benches/all.sh OUT                   all
#   benches/all.sh OUT ranks loader      some of: throughput ranks loader identification retrieval head average
#
# Peers come from PyPI into an environment of their own (benches/requirements.txt, 5 GB), unless PYTHON names one that has them.
# What else is needed: CIFAR10, a directory with cifar-10-batches-bin, and CIFAR10_JPEG and ORL, zip files of images (default: those of
# ../shared/data); DEEP_PERSON_REID, a checkout of KaiyangZhou/deep-person-reid. A benchmark that lacks its own is skipped, and
# said. The environment reaches both sides; benches/gpu.sh is for machines with a GPU.
set -euo pipefail
out=$(realpath "${1:?usage: benches/all.sh OUT [NAME...]}")
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
all=(throughput ranks loader identification retrieval head average)
names=("${@:2}")
[ ${#names[@]} -gt 0 ] || names=("${all[@]}")
for name in "${names[@]}"; do
    [[ " ${all[*]} " = *" $name "* ]] || { printf 'all.sh: no benchmark %s; there are %s\n' "$name" "${all[*]}" >&2; exit 2; }
done
mkdir -p "$out"

env_file=$(scripts/setup.sh)
# shellcheck source=/dev/null
. "$env_file"
cargo build --release --locked
if [ -z "${PYTHON:-}" ]; then
    PYTHON=${AMLFS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/amlfs}/benches/bin/python
    [ -x "$PYTHON" ] || python3 -m venv "$(dirname "$PYTHON")/.."
    "$PYTHON" -m pip install -q -r benches/requirements.txt
fi
cores=$(nproc)
threads=(1 2)
[ "$cores" -ge 2 ] || threads=(1)
shared=$root/../shared/data
jpegs=${CIFAR10_JPEG:-$shared/cifar10.zip}
faces=${ORL:-$shared/orl-faces.zip}

{
    date -u
    git describe --always --dirty
    lscpu | grep -E '^(Model name|CPU\(s\)|L3 cache)'
    printf 'load of the last minute before it began: %s\n' "$(cut -d ' ' -f 1 /proc/loadavg)"
    "$PYTHON" -m pip freeze
} >"$out/machine.txt"

# name, command...: the command's output goes to the terminal and into OUT/name.txt
bench() {
    printf '\n== %s\n' "$1"
    "${@:2}" 2>&1 | tee "$out/$1.txt"
}
skip() { printf '\n== %s: skipped, %s\n' "$1" "$2" | tee "$out/$1.txt"; }

failed=()
for name in "${names[@]}"; do
    case $name in
        throughput)
            cifar=${CIFAR10:-}
            if [ -z "$cifar" ] && [ -x "$shared/unpack-cifar10" ]; then
                cifar=$out/cifar10
                [ -d "$cifar" ] || "$PYTHON" "$shared/unpack-cifar10" "$cifar" --train 2560
            fi
            if [ -z "$cifar" ]; then
                skip throughput "CIFAR10 is not set"
            else
                for count in "${threads[@]}"; do
                    bench "throughput-$count" "$PYTHON" benches/throughput.py --data "$cifar" --cores "$count" || failed+=("throughput-$count")
                done
            fi ;;
        ranks) bench ranks "$PYTHON" benches/ranks.py || failed+=(ranks) ;;
        loader)
            simd=$(dirname "$PYTHON")/../pillow-simd
            [ -d "$simd" ] || CC="cc -mavx2" "$PYTHON" -m pip install -q --target "$simd" pillow-simd ||
                printf 'Pillow-SIMD can not be compiled here: compared without it\n'
            options=()
            [ ! -d "$simd" ] || options=(--pillow-simd "$simd")
            for task in faces images; do
                source=$faces
                [ $task = faces ] || source=$jpegs
                if [ -f "$source" ]; then
                    bench "loader-$task" "$PYTHON" benches/loader.py --task $task --source "$source" "${options[@]}" || failed+=("loader-$task")
                else
                    skip "loader-$task" "$source is not there"
                fi
            done ;;
        identification)
            bench identification "$PYTHON" benches/identification.py --threads "${threads[@]}" || failed+=(identification) ;;
        retrieval)
            if [ -n "${DEEP_PERSON_REID:-}" ]; then
                bench retrieval "$PYTHON" benches/retrieval.py --torchreid "$DEEP_PERSON_REID" --threads "$cores" || failed+=(retrieval)
            else
                skip retrieval "DEEP_PERSON_REID is not set"
            fi ;;
        head)
            bench head cargo bench --locked --bench head || failed+=(head)
            bench head-python "$PYTHON" benches/head.py || failed+=(head-python) ;;
        average) bench average cargo bench --locked --bench average || failed+=(average) ;;
    esac
done
if [ ${#failed[@]} -gt 0 ]; then
    printf '\nfailed: %s\n' "${failed[*]}" >&2
    exit 1
fi
