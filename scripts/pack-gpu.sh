#!/usr/bin/env bash
# Packs what benches/gpu.sh needs on a machine that has an NVIDIA GPU, PyTorch 2.11 and nothing to download:
#
#   [LIBTORCH=DIR] scripts/pack-gpu.sh OUT.tar.gz
#
#   run                       starts a program with the torch of the machine's python3: amlfs-gpu/run amlfs --help
#   bin                       amlfs, tests/devices.rs and benches/loader.rs, for libtorch 2.11
#   lib, mpi                  the libraries that they want besides libtorch and the C and C++ libraries; Open MPI's plugins
#   benches, scripts, tests   benches/gpu.sh and what it runs in Python
#
# LIBTORCH: a libtorch 2.11 with CUDA, for example the directory torch of a Python with torch==2.11.0. Without it the wheel is
# fetched into the cache (530 MB, unpacked 1 GB). Builds in a directory of its own (CARGO_TARGET_DIR, or in the cache) from a copy
# of the working tree, into which tch 0.24 is put; needs what scripts/setup.sh installs, and the C library of this machine must
# not be newer than that of the other.
set -euo pipefail

torch_version=2.11.0
tch_version=0.24 # binds it
most=60000000    # bytes of the archive
say() { printf 'pack-gpu: %s\n' "$*" >&2; }
refuse() {
    say "$*"
    exit 2
}
if [ $# != 1 ] || [[ $1 != *.tar.gz ]]; then refuse "usage: [LIBTORCH=DIR] scripts/pack-gpu.sh OUT.tar.gz"; fi
out=$(realpath -m -- "$1")
[ -z "${LIBTORCH:-}" ] || LIBTORCH=$(realpath -- "$LIBTORCH")
cd "$(dirname "$0")/.."
cache=${AMLFS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/amlfs}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# --- libtorch -----------------------------------------------------------------------------------------------------
if [ -z "${LIBTORCH:-}" ]; then
    LIBTORCH=$cache/libtorch-$torch_version-cuda
    if [ ! -e "$LIBTORCH/version.py" ]; then
        say "fetching torch $torch_version into $LIBTORCH"
        mkdir -p "$cache"
        fetched=$(mktemp -d "$cache/fetch.XXXXXX")
        trap 'rm -rf "$work" "$fetched"' EXIT
        python3 -m pip download -q --no-cache-dir --no-deps --only-binary=:all: --python-version 3.12 -d "$fetched" \
            "torch==$torch_version"
        python3 - "$fetched" <<'PYTHON'
import pathlib, sys, zipfile
folder = pathlib.Path(sys.argv[1])
libraries = {f"torch/lib/{name}" for name in ("libtorch.so", "libtorch_cpu.so", "libtorch_cuda.so", "libc10.so", "libc10_cuda.so",
                                              "libgomp.so.1")}
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    for member in archive.namelist():
        if member in libraries or member == "torch/version.py" or member.startswith("torch/include/"):
            archive.extract(member, folder)
PYTHON
        rm -rf "$LIBTORCH"
        mv "$fetched/torch" "$LIBTORCH"
    fi
fi
found=$(cat "$LIBTORCH/build-version" 2>/dev/null || sed -n "s/^__version__ = '\(.*\)'/\1/p" "$LIBTORCH/version.py" 2>/dev/null || :)
[[ $found == "$torch_version"* ]] || refuse "$LIBTORCH is libtorch '$found'; needed is $torch_version"
[ -e "$LIBTORCH/lib/libtorch_cuda.so" ] || refuse "$LIBTORCH has no lib/libtorch_cuda.so: what is linked with it computes on the CPU alone"
export LIBTORCH
unset LIBTORCH_USE_PYTORCH

# --- the programs -------------------------------------------------------------------------------------------------
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/pack-gpu}
source=$CARGO_TARGET_DIR/source # in the same place each time: cargo then knows what it has built
rm -rf "$source"
mkdir -p "$source"
git ls-files -z --cached --others --exclude-standard | tar --null -T - -c | tar -x -C "$source"
sed -i -E "s/^(tch|torch-sys) = \"[0-9.]+\"/\1 = \"$tch_version\"/" "$source/Cargo.toml"
# libtorch_cuda's own libraries are not here
sed -i 's/^fn main() {$/&\n    println!("cargo:rustc-link-arg=-Wl,--allow-shlib-undefined");/' "$source/build.rs"
git_dir=$(git rev-parse --absolute-git-dir) # build.rs records the commit
programs=$(
    cd "$source"
    GIT_DIR=$git_dir PATH=$PATH:$HOME/.cargo/bin CARGO_INCREMENTAL=0 \
        cargo build --release --bin amlfs --test devices --bench loader --message-format json-render-diagnostics |
        python3 -c 'import json, sys
for line in sys.stdin:
    line = json.loads(line)
    if line.get("executable"):
        print(line["target"]["name"], line["executable"])'
)
pack=$work/amlfs-gpu
mkdir -p "$pack/bin" "$pack/lib" "$pack/mpi"
while read -r name program; do
    install -m 755 -s "$program" "$pack/bin/$name"
done <<<"$programs"
for name in amlfs devices loader; do
    [ -x "$pack/bin/$name" ] || refuse "cargo built no $name"
done

# --- the libraries ------------------------------------------------------------------------------------------------
# what the other machine has: the C library, the compiler's, CUDA's, and what comes with torch
theirs='^(ld-linux.*|lib(c|m|dl|rt|util|pthread|resolv|stdc\+\+|gcc_s|gomp|c10|c10_cuda|torch|torch_[a-z]+|cuda|cudart|cupti'
theirs+='|cublas|cublasLt|cudnn|cudnn_[a-z]+|cufft|cufile|curand|cusolver|cusparse|cusparseLt|nccl|nvrtc|nvshmem_host|nvJitLink))\.so'
# NAME PATH of the libraries that a file wants besides; PATH is "not" for what is not found
wanted() {
    ldd "$1" | awk '$2 == "=>" { print $1, $3 }' | sort -u | while read -r name path; do
        [[ $name =~ $theirs ]] || printf '%s %s\n' "$name" "$path"
    done
}
while read -r name path; do
    [ "$path" != not ] || refuse "$name, which amlfs wants, is not found"
    install -m 644 "$path" "$pack/lib/$name"
done < <(wanted "$pack/bin/amlfs")
plugins=$(ompi_info --parsable --path pkglibdir | sed 's/^path:pkglibdir://')
for plugin in "$plugins"/mca_*.so; do
    # those for hardware and batch systems want libraries that are not carried
    lacks=
    while read -r name _; do
        [ -e "$pack/lib/$name" ] || lacks=$name
    done < <(wanted "$plugin")
    [ -n "$lacks" ] || install -m 644 "$plugin" "$pack/mpi/"
done
[ -e "$pack/mpi/mca_ess_singleton.so" ] || refuse "Open MPI's plugins are not in $plugins"

# --- what is read -------------------------------------------------------------------------------------------------
while read -r file; do
    install -D -m 644 "$file" "$pack/$file"
done < <(printf '%s\n' benches/gpu.sh benches/gpu.py scripts/resnet_cifar.py tests/reference/{sphereface,reid_models}.py)
chmod 755 "$pack/benches/gpu.sh"
cat >"$pack/run" <<'RUN'
#!/bin/sh
# run PROGRAM ARGUMENT...: a program of bin/, with the torch of PYTHON (default: python3). Written by amlfs' scripts/pack-gpu.sh
here=$(cd "$(dirname "$0")" && pwd) && program=$1 && shift || exit 2
torch=$("${PYTHON:-python3}" -c 'import importlib.util; print(*importlib.util.find_spec("torch").submodule_search_locations)') || exit 2
libraries=$here/lib:$torch/lib
for directory in "${torch%/*}"/nvidia/*/lib; do libraries=$libraries:$directory; done
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
# one rank, without Open MPI's daemon
export OMPI_MCA_ess_singleton_isolated=1 OMPI_MCA_plm=isolated OMPI_MCA_mca_base_component_path="$here/mpi"
export OMPI_MCA_mca_base_component_show_load_errors=0 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
exec "$here/bin/$program" "$@"
RUN
chmod 755 "$pack/run"

mkdir -p "$(dirname "$out")"
tar -C "$work" --owner=0 --group=0 -c amlfs-gpu | gzip -9 >"$out.part"
mv "$out.part" "$out"
size=$(stat -c %s "$out")
[ "$size" -le "$most" ] || refuse "$out has $size bytes, more than $most"
say "$out: $((size / 1000000)) MB ($(du -s --block-size=1MB "$pack" | cut -f1) MB unpacked), libtorch $found, glibc $(ldd --version | sed -n '1s/.* //p')"
