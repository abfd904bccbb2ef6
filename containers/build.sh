#!/usr/bin/env bash
# What the recipes of this directory have in common. In a container of Debian 12, as root:
#
#   containers/build.sh build      from the repository's root, with Rust: installs amlfs in /opt/amlfs
#   containers/build.sh runtime    what the installed program needs of Debian; /opt/amlfs comes from the other container
#
# Open MPI is Debian's 4.1: start the container with an mpirun or srun (PMIx) that fits it (docs/clusters.md).
set -euo pipefail
cd "$(dirname "$0")/.."

export DEBIAN_FRONTEND=noninteractive
packages=(ca-certificates)
case ${1:-} in
build) ;;
runtime) packages+=(libhdf5-103-1 openmpi-bin openssh-client) ;; # mpirun looks for ssh
*) echo "usage: containers/build.sh build | runtime" >&2; exit 2 ;;
esac

apt-get update -qq
apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
if [ "$1" = build ]; then
    scripts/install.sh /opt/amlfs
else
    ln -sf /opt/amlfs/bin/amlfs /usr/local/bin/amlfs
    amlfs --version
    rm -rf /var/lib/apt/lists/*
fi
