#!/usr/bin/env bash
# Set-up, formatting, lints and every test. Everything in the release profile: one build for tests and program.
# A test that fails after random kills prints its AMLFS_TEST_SEED; set to that, the same kills are drawn again.
set -euo pipefail
cd "$(dirname "$0")/.."

env_file=$(scripts/setup.sh --for-tests)
# shellcheck source=/dev/null
. "$env_file"

shellcheck scripts/*.sh benches/*.sh slurm/* containers/*.sh tests/slurm_cluster/*.sh .ci/run
cargo fmt --check
cargo clippy --release --locked --all-targets -- -D warnings
before=$(git status --porcelain)
# one test program after the other, as cargo does; those that start ranks take the machine's cores themselves
cargo test --release --locked --no-fail-fast --lib --tests "$@"
# the examples in the documentation
cargo test --release --locked --doc
# what a test writes belongs below its own temporary directory
if [ "$before" != "$(git status --porcelain)" ]; then
    echo "a test has written into the repository:" >&2
    git status --short >&2
    exit 1
fi
