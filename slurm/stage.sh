#!/usr/bin/env bash
# stage.sh FROM TO: copies a file to this node's disk, unless a complete copy is there. slurm/run.sh starts it once per
# node. Fails if there is no room. A copy under way has another name.
set -euo pipefail
from=$1 to=$2 directory=${2%/*} node=${SLURMD_NODENAME:-$(uname -n)} # not HOSTNAME: it is the first node's everywhere
new=$to.$node.$$

umask 077
mkdir -p "$directory"
[ -O "$directory" ] || { echo "slurm: $node: $directory is somebody else's" >&2; exit 1; }
[ "$(stat -Lc '%s %Y' "$from")" != "$(stat -c '%s %Y' "$to" 2>/dev/null)" ] || exit 0

size=$(stat -Lc %s "$from")
free=$(df --output=avail -B1 "$directory" | tail -n 1)
if [ "$size" -ge "$free" ]; then
    echo "slurm: $node: $directory has $free bytes free, the data are $size" >&2
    exit 1
fi
trap 'rm -f "$new"' EXIT
cp --preserve=timestamps "$from" "$new"
mv "$new" "$to"
