#!/usr/bin/env bash
# Installs amlfs below a directory:
#
#   scripts/install.sh PREFIX                   sets up and builds first (scripts/setup.sh, cargo)
#   AMLFS=PROGRAM scripts/install.sh PREFIX     installs a program that is built already
#
#   bin/amlfs                   starts without modules and environment variables; put bin into PATH
#   libexec/amlfs, lib/amlfs    the program and the libtorch that setup.sh fetched; other libraries stay where they are
#   share/man, share/...        man pages; completions for bash, zsh and fish
#   share/amlfs/slurm           the Slurm scripts: copy one anywhere, edit and submit it
#
# It may be repeated, also while jobs run: they keep the files that they have open.
set -euo pipefail

refuse() { printf 'install: %s\n' "$*" >&2; exit 2; }
if [ $# != 1 ] || [ "${1#-}" != "$1" ]; then refuse "usage: [AMLFS=PROGRAM] scripts/install.sh PREFIX"; fi
prefix=$(realpath -m -- "$1")
[[ $prefix != *[!A-Za-z0-9/._+,@=-]* ]] || refuse "$prefix: choose a directory of plain letters, digits and / . _ + , @ = -"
program=$(realpath -m -- "${AMLFS:-.}")
cd "$(dirname "$0")/.."

if [ -z "${AMLFS:-}" ]; then
    env_file=$(scripts/setup.sh)
    # shellcheck source=/dev/null
    . "$env_file"
    cargo build --release --locked --bin amlfs
    program=$(realpath "${CARGO_TARGET_DIR:-target}/release/amlfs")
fi
if ! [ -f "$program" ] || ! [ -x "$program" ]; then refuse "AMLFS=$AMLFS is not a program"; fi

# --- the libraries ------------------------------------------------------------------------------------------------
# What the loader finds by itself needs nothing. Other directories (modules', a libtorch's) go into bin/amlfs, but for
# the cache of setup.sh, which belongs to whoever builds: its libraries are copied.
cache=${AMLFS_CACHE:-${XDG_CACHE_HOME:-${HOME:-/}/.cache}/amlfs}
libraries=$(ldd "$program")
if missing=$(awk '/not found/ { print $1 }' <<<"$libraries" | paste -sd ' ') && [ -n "$missing" ]; then
    refuse "$program lacks $missing: load the modules that it was built with, and run this again"
fi
known=$(PATH=$PATH:/usr/sbin:/sbin ldconfig -p | awk '{ print $NF }')
directories=()
while read -r library; do
    directory=$(realpath "${library%/*}")
    if [[ $directory/ == "$(realpath -m "$cache")"/* ]]; then
        install -D -m 644 "$library" "$prefix/lib/amlfs/${library##*/}"
        directory=$prefix/lib/amlfs
    elif grep -qxF "$library" <<<"$known"; then
        continue
    fi
    [[ " ${directories[*]} " == *" $directory "* ]] || directories+=("$directory")
done < <(awk '$2 == "=>" { print $3 }' <<<"$libraries")
[ -n "$known" ] || refuse "ldconfig -p lists no library"

# --- the program --------------------------------------------------------------------------------------------------
install -D -m 755 "$program" "$prefix/libexec/amlfs/amlfs"
start=$(mktemp)
trap 'rm -f "$start"' EXIT
{
    echo '#!/bin/sh'
    echo "# written by amlfs' scripts/install.sh"
    if [ ${#directories[@]} -gt 0 ]; then
        echo '# where the libraries were that it was built with'
        # shellcheck disable=SC2016 # for the script that is written
        printf 'LD_LIBRARY_PATH=%s${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\nexport LD_LIBRARY_PATH\n' \
            "$(IFS=:; echo "${directories[*]}")"
    fi
    # shellcheck disable=SC2016
    printf 'exec %s "$@"\n' "$prefix/libexec/amlfs/amlfs"
} >"$start"
install -D -m 755 "$start" "$prefix/bin/amlfs"
env -i "$prefix/bin/amlfs" manual "$prefix/share"

# --- Slurm scripts that know where they come from ------------------------------------------------------------------
for script in slurm/*; do
    install -D -m 644 "$script" "$prefix/share/amlfs/$script"
done
for script in "$prefix"/share/amlfs/slurm/*.slurm; do
    sed -i -e "s|^: \"\${AMLFS_ROOT:=.*|: \"\${AMLFS_ROOT:=$prefix/share/amlfs}\" \"\${AMLFS:=$prefix/bin/amlfs}\"|" \
        -e "/^# Slurm runs a copy of this file/d" -e "s|  *from the repository's root$||" "$script"
    grep -qF "AMLFS_ROOT:=$prefix/share/amlfs" "$script" || refuse "$script does not say AMLFS_ROOT as expected"
done

echo "installed $("$prefix/bin/amlfs" --version) in $prefix: put $prefix/bin into PATH" >&2
