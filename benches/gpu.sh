#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: whether it computes what the CPU does (tests/devices.rs), then how fast the three tasks train on it
# beside PyTorch (benches/gpu.py). Needs a Python with PyTorch, torchvision and numpy, and nothing from the network. It runs in the
# repository, after `cargo build --release --bin amlfs --test devices --bench loader` with a CUDA libtorch, or in what
# scripts/pack-gpu.sh packed.
#
#   benches/gpu.sh                                        all; ends within ten minutes
#   AMLFS_BENCH_TASKS=tests,re-ID benches/gpu.sh          of tests, classification, faces, re-ID
#   AMLFS_BENCH_DEVICE=cpu benches/gpu.sh                 tries every step without a GPU, on tiny inputs
#
# Besides: AMLFS_BENCH_MINUTES (9), AMLFS_BENCH_ROUNDS (2), AMLFS_BENCH_COMPILE=0 (without torch.compile), AMLFS_BENCH_OUT (where
# devices.log, gpu.md and gpu.json go; default: $OUT, or gpu-bench), PYTHON (python3).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
device=${AMLFS_BENCH_DEVICE:-cuda}
tasks=${AMLFS_BENCH_TASKS:-tests,classification,faces,re-ID}
out=${AMLFS_BENCH_OUT:-${OUT:-gpu-bench}}
python=${PYTHON:-python3}
minutes=${AMLFS_BENCH_MINUTES:-9}
mkdir -p "$out"

refuse() {
    printf 'gpu.sh: %s\n' "$*" >&2
    exit 2
}
case $device in
    cuda) devices=cpu,cuda:0 ;;
    cpu) devices=cpu,cpu ;;
    *) refuse "AMLFS_BENCH_DEVICE=$device: cuda or cpu" ;;
esac
built() { find "$root/target/release/deps" -maxdepth 1 -name "$1-*" -executable -type f -printf '%T@ %p\n' | sort -n | sed -n '$s/^[^ ]* //p'; }
if [ -x "$root/run" ]; then # a pack
    amlfs=("$root/run" amlfs) loader=("$root/run" loader) test_devices=("$root/run" devices)
else
    amlfs=("$root/target/release/amlfs") loader=("$(built loader)") test_devices=("$(built devices)")
    for program in "${amlfs[0]}" "${loader[0]}" "${test_devices[0]}"; do
        [ -x "$program" ] || refuse "build first: cargo build --release --bin amlfs --test devices --bench loader"
    done
fi
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader

start=$SECONDS status=0
if [[ ,$tasks, == *,tests,* ]]; then
    AMLFS_TEST_DEVICES=$devices timeout 300 "${test_devices[@]}" >"$out/devices.log" 2>&1 || status=$?
    sed -n '/^failures:/,$p; /^test /p' "$out/devices.log" | cut -c1-300 | tail -60
    [ "$status" = 0 ] || printf 'gpu.sh: the device tests ended with %s: %s\n' "$status" "$out/devices.log" >&2
    tasks=,$tasks,
    tasks=${tasks/,tests,/,}
    tasks=${tasks#,}
    tasks=${tasks%,}
fi
if [ -n "$tasks" ]; then
    left=$(awk -v minutes="$minutes" -v gone=$((SECONDS - start)) 'BEGIN { print minutes - gone / 60 }')
    no_compile=()
    [ "${AMLFS_BENCH_COMPILE:-1}" != 0 ] || no_compile=(--no-compile)
    # a rank with two replicas on one card is for tests and this alone
    AMLFS_SHARE_DEVICES=1 "$python" "$root/benches/gpu.py" --amlfs "${amlfs[@]}" --loader "${loader[@]}" --device "$device" --tasks "$tasks" \
        --rounds "${AMLFS_BENCH_ROUNDS:-2}" --minutes "$left" --out "$out" "${no_compile[@]}" || status=$?
fi
exit "$status"
