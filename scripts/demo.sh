#!/usr/bin/env bash
# From a bare machine to a finished search: set-up, release build, then a search with 2 ranks on generated images.
# After the set-up it takes about two minutes on 2 cores, and leaves runs/demo-*/final.h5.
set -euo pipefail
cd "$(dirname "$0")/.."

env_file=$(scripts/setup.sh)
# shellcheck source=/dev/null
. "$env_file"

cargo build --release --locked
mkdir -p runs
out=$(mktemp -d "runs/demo-XXXXXX")
mpirun -n 2 target/release/amlfs --preset demo --out "$out"

printf '\nnext:\n  . %s\n  target/release/amlfs inspect %s\n' "$env_file" "$out/final.h5"
