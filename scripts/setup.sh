#!/usr/bin/env bash
# Makes this machine able to build and run amlfs, and leaves one file to source: "$AMLFS_CACHE/env.sh".
#
#   scripts/setup.sh                install what is missing, then write env.sh
#   scripts/setup.sh --for-tests    also what scripts/test.sh uses: shellcheck and, where they can be installed, Slurm,
#                                   Chromium (350 MB installed), Python's torch, pandas, matplotlib and h5py (1 GB),
#                                   and TensorBoard (160 MB)
#
# On Debian or Ubuntu with root or sudo, missing packages are installed with apt and a CPU build of libtorch is
# unpacked into the cache. Everywhere else it says exactly what is missing and how clusters provide it.
# LIBTORCH=DIR or LIBTORCH_USE_PYTORCH=1, if set, choose your own libtorch (a CUDA one, say) and are kept.
# Idempotent: the second run only looks.
set -euo pipefail

cache=${AMLFS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/amlfs}
torch_version=2.13.0       # tch 0.26 binds exactly this libtorch
cudart_version=13.0.96     # the PyPI wheel is a CUDA build: its libtorch_cpu.so wants libcudart and libcupti at load time
cupti_version=13.0.85
tensorboard_version=2.21.0 # tests only

say() { printf 'setup: %s\n' "$*" >&2; }

sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo -n)
can_install() { command -v apt-get >/dev/null && "${sudo[@]}" true 2>/dev/null; }

install() {
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

missing=()       # what is not here, in words
packages=()      # the Debian packages that would provide it
need() { missing+=("$1"); packages+=("${@:2}"); }

command -v cc >/dev/null || need "a C compiler" gcc
command -v g++ >/dev/null || need "a C++ compiler" g++
{ command -v mpicc && command -v mpirun; } >/dev/null || need "MPI (mpicc, mpirun)" openmpi-bin libopenmpi-dev
command -v pkg-config >/dev/null || need "pkg-config" pkg-config
{ pkg-config --exists hdf5 2>/dev/null || command -v h5cc >/dev/null || [ -n "${HDF5_DIR:-}" ]; } ||
    need "HDF5 with headers" libhdf5-dev
# libclang-cpp, which other packages bring along, is another library
{ ldconfig -p 2>/dev/null | grep -qE 'libclang(-[0-9.]+)?\.so' ||
    compgen -G '/usr/lib/llvm-*/lib/libclang[.-][s0-9]*' >/dev/null || [ -n "${LIBCLANG_PATH:-}" ]; } ||
    need "libclang (bindgen needs it for MPI)" libclang-dev
# without it JPEGs are decoded without vector instructions, to the same pixels
if [ "$(uname -m)" = x86_64 ] && ! command -v nasm >/dev/null; then
    if can_install; then need "nasm" nasm; else say "no nasm: JPEGs will be decoded at less than half the speed"; fi
fi
if [ "${1:-}" = --for-tests ]; then
    command -v shellcheck >/dev/null || need "shellcheck" shellcheck
    # without it tests/slurm_cluster is ignored
    command -v sbatch >/dev/null || ! can_install || need "Slurm" slurm-wlm munge
    # without it the pages of amlfs report are not looked at
    command -v chromium >/dev/null || ! can_install || need "a browser" chromium
fi
if [ -z "${LIBTORCH:-}" ] && [ -z "${LIBTORCH_USE_PYTORCH:-}" ]; then
    python3 -m pip --version >/dev/null 2>&1 || need "Python's pip (it fetches libtorch)" python3 python3-pip
fi

if [ ${#missing[@]} -gt 0 ]; then
    if can_install; then
        say "installing ${packages[*]}"
        install "${packages[@]}"
    else
        say "this machine lacks, and without apt and root (or sudo) this script can't install:"
        for what in "${missing[@]}"; do say "  - $what"; done
        say "as Debian packages: ${packages[*]}"
        say "On a cluster, load its modules and run this again, for example:"
        say "  module load gcc openmpi hdf5 llvm        (names differ: 'module avail mpi hdf5 llvm')"
        say "  export HDF5_DIR=\$HDF5_ROOT LIBCLANG_PATH=\$LLVM_ROOT/lib"
        say "  export LIBTORCH=/path/to/libtorch        (an unpacked libtorch $torch_version, CUDA or CPU)"
        say "  or, in a Python environment with torch==$torch_version:  export LIBTORCH_USE_PYTORCH=1"
        exit 1
    fi
fi

if [ "${1:-}" = --for-tests ] && can_install; then
    imports='import h5py, matplotlib, numpy, pandas, tomllib, torch, torchvision'
    # older distributions lack some: no reason to stop
    { python3 -c "$imports" || /usr/bin/python3 -c "$imports"; } 2>/dev/null ||
        { say "installing Python's torch, pandas, matplotlib and h5py (150 MB to fetch, 1 GB installed)" &&
            install python3-torch python3-torchvision python3-pandas python3-matplotlib python3-h5py; } ||
        say "they can't be installed: the tests that need them are left out"
fi
if [ "${1:-}" = --for-tests ] && [ ! -e "$cache/tensorboard/complete" ]; then
    say "fetching TensorBoard, to read event files with (160 MB unpacked), into $cache/tensorboard"
    rm -rf "$cache/tensorboard"
    { python3 -m pip install -q --target "$cache/tensorboard" "tensorboard==$tensorboard_version" &&
        touch "$cache/tensorboard/complete"; } ||
        say "it can't be fetched: its test is left out"
fi

PATH=$PATH:$HOME/.cargo/bin
if ! command -v cargo >/dev/null; then
    if command -v rustup >/dev/null; then
        rustup toolchain install stable --profile default
    else
        say "Rust is missing (cargo; Debian 12's own is too old): install it from https://rustup.rs, or load your cluster's module, and run this again"
        exit 1
    fi
fi

# --- libtorch -----------------------------------------------------------------------------------------------------
if [ -n "${LIBTORCH:-}" ]; then
    [ -e "$LIBTORCH/lib/libtorch_cpu.so" ] || { say "LIBTORCH=$LIBTORCH has no lib/libtorch_cpu.so"; exit 1; }
    libtorch_env="export LIBTORCH='$LIBTORCH'"
elif [ -n "${LIBTORCH_USE_PYTORCH:-}" ]; then
    found=$(python3 -c 'import torch; print(torch.__version__)' 2>/dev/null) ||
        { say "LIBTORCH_USE_PYTORCH is set, but python3 can't import torch"; exit 1; }
    [[ $found == "$torch_version"* ]] ||
        { say "LIBTORCH_USE_PYTORCH is set and python3 has torch $found; amlfs needs torch $torch_version"; exit 1; }
    libtorch_env="export LIBTORCH_USE_PYTORCH=1"
else
    libtorch=$cache/libtorch-$torch_version-cpu
    if [ ! -e "$libtorch/build-version" ]; then
        say "fetching libtorch $torch_version (530 MB of wheels, 490 MB unpacked) into $libtorch"
        mkdir -p "$cache"
        work=$(mktemp -d "$cache/unpack.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        # --python-version: any CPython's wheel holds the same C++ libraries; this one surely exists.
        python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.11 -d "$work" \
            "torch==$torch_version" "nvidia-cuda-runtime==$cudart_version" "nvidia-cuda-cupti==$cupti_version"
        python3 - "$work" "$torch_version" <<'PYTHON'
import pathlib, sys, zipfile
work, version = pathlib.Path(sys.argv[1]), sys.argv[2]
out = work / "libtorch"
(out / "lib").mkdir(parents=True)
libraries = {"libtorch_cpu.so", "libc10.so", "libtorch.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"}
for wheel in work.glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            path = pathlib.PurePosixPath(member)
            if path.name in libraries:
                target = out / "lib" / path.name
            elif member.startswith("torch/include/") and not member.endswith("/"):
                target = out / path.relative_to("torch")
            else:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(target, "wb") as sink:
                while block := source.read(1 << 22):
                    sink.write(block)
found = {path.name for path in (out / "lib").iterdir()}
if found != libraries:
    sys.exit(f"the wheels lack {sorted(libraries - found)}")
(out / "build-version").write_text(version + "\n")
PYTHON
        rm -rf "$libtorch"
        mv "$work/libtorch" "$libtorch"
    fi
    libtorch_env="export LIBTORCH='$libtorch'"
fi

# --- one file to source -------------------------------------------------------------------------------------------
mkdir -p "$cache"
{
    echo "# written by amlfs scripts/setup.sh: source this before cargo and mpirun"
    echo "unset LIBTORCH LIBTORCH_USE_PYTORCH"
    echo "$libtorch_env"
    echo "export PATH=\"\$PATH:\$HOME/.cargo/bin\""
    if [ "$(id -u)" = 0 ]; then
        echo "# Open MPI refuses root unless told twice"
        echo "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
    fi
    echo "# more ranks than cores are fine for tests (Open MPI 4, then 5)"
    echo "export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe"
} >"$cache/env.sh.new"
mv "$cache/env.sh.new" "$cache/env.sh"
echo "$cache/env.sh"
