#!/usr/bin/env bash
# From a bare machine to a finished search: set-up, release build, then on generated images a training with softmax and a
# search with 2 ranks. After the set-up it takes about five minutes on 2 cores, and leaves runs/demo-*/*/final.h5.
set -euo pipefail
cd "$(dirname "$0")/.."

env_file=$(scripts/setup.sh)
# shellcheck source=/dev/null
. "$env_file"

cargo build --release --locked
mkdir -p runs
out=$(mktemp -d "runs/demo-XXXXXX")
target/release/amlfs train --loss softmax --preset demo --out "$out/softmax"
mpirun -n 2 target/release/amlfs --preset demo --out "$out/search"

accuracy() { target/release/amlfs inspect "$out/$1/final.h5" | awk '$1 == "test" && $2 == "top1" { print $3 }'; }
printf '\ntest accuracy: softmax %s, the searched loss %s\n' "$(accuracy softmax)" "$(accuracy search)"
printf 'next:\n  . %s\n  target/release/amlfs report %s/*\n' "$env_file" "$out"
