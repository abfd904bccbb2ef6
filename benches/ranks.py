#!/usr/bin/env python3
"""What more ranks give on one machine: a search with 8 samples on 1, 2, 4 and 8 ranks of one thread each.

usage: python benches/ranks.py [--images 1000] [--epochs 3] [--rounds 3] [--ranks 1 2 4 8] [--binary FILE]

Generated images of 32 x 32, ResNet-8, batch 128, an exchange after every epoch, on CPU. The numbers of ranks alternate, and
so does "apart": as many one-rank searches as there are cores, side by side and without MPI, which share the samples. What
they lose against one search alone is the cores' own loss (memory, caches, clocks, other work), and no exchange can win it
back. The first epoch of a search is left out; a figure is the median of the others, of all rounds. Needs mpirun and a
release build; run it on an idle machine.
"""

import argparse
import csv
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SAMPLES = 8
APART = "apart"
PARTS = ["train_seconds", "validation_seconds", "wait_seconds", "exchange_seconds", "checkpoint_seconds"]


def command(args, ranks, samples, out):
    launcher = ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none"] if ranks else []
    return [*launcher, str(args.binary), "--preset", "demo", "--search", "paper", "--policy", "mirrored",
            "--samples", str(samples), "--epochs", str(args.epochs), "--set", "search.warmup_epochs=0", "--set",
            "train.milestones=[]", "--set", f"data.glyphs.train_images={args.images}", "--set", "data.glyphs.test_images=100",
            "--threads", "1", "--device", "cpu", "--out", str(out)]


def epochs_of(out, count):
    """The rows of metrics.csv without the first one's, as numbers."""
    with open(out / "metrics.csv", newline="") as file:
        rows = [{name: float(row[name]) for name in ["images", "seconds", *PARTS]} for row in csv.DictReader(file)]
    if len(rows) != count:
        sys.exit(f"{out}/metrics.csv: expected {count} rows, found {len(rows)}")
    return rows[1:]


def searches(args, ranks, cores):
    """Rows of one search on so many ranks, or of one apart on each core."""
    apart = ranks == APART
    count = cores if apart else 1
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    with tempfile.TemporaryDirectory(prefix="amlfs-ranks-") as folder:
        outs = [pathlib.Path(folder) / str(i) for i in range(count)]
        commands = [command(args, 0 if apart else ranks, SAMPLES // count, out) for out in outs]
        running = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
                   for line in commands]
        for line, process in zip(commands, running):
            told, _ = process.communicate()
            if process.returncode != 0:
                sys.exit(f"{' '.join(line)}\nended with {process.returncode}:\n{told[-3000:]}")
        return [row for out in outs for row in epochs_of(out, args.epochs)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="generated images; a tenth is held out")
    parser.add_argument("--epochs", type=int, default=3, help="of a search, two at least")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/amlfs")
    args = parser.parse_args()
    args.binary = args.binary.resolve()
    cores = len(os.sched_getaffinity(0))
    if not args.binary.exists():
        sys.exit(f"{args.binary} is not there: cargo build --release")
    if args.epochs < 2 or 1 not in args.ranks or max(args.ranks) > SAMPLES:
        sys.exit(f"--epochs: 2 at least; --ranks: 1, to compare with, and at most {SAMPLES}")
    # what can share 8 samples evenly, and does not compete with the search alone
    sharing = max(n for n in (1, 2, 4, 8) if n <= cores)
    kinds = [1, APART, *[ranks for ranks in args.ranks if ranks != 1]]

    found = {kind: [] for kind in kinds}
    for number in range(args.rounds):
        for kind in kinds:
            found[kind] += searches(args, kind, sharing)
        print(f"round {number + 1} of {args.rounds}: seconds of an epoch", flush=True, end="")
        per_round = {kind: len(rows) // (number + 1) for kind, rows in found.items()}
        print("".join(f"; {kind}: {statistics.median(row['seconds'] for row in found[kind][-per_round[kind]:]):.2f}"
                      for kind in kinds))

    def median(kind, name):
        return statistics.median(row[name] for row in found[kind])

    alone = median(1, "seconds")
    print(f"\n{cores} cores, {SAMPLES} samples. Efficiency: against 1 rank times the cores that work; with more ranks than "
          "cores it says\nwhat sharing them costs. Seconds of rank 0's median epoch: training, validation, waiting for the "
          "slowest, exchange, checkpoint.")
    print(f"{'ranks':>8} {'epoch s':>8} {'images/s':>9} {'efficiency':>10} "
          + " ".join(f"{name.removesuffix('_seconds'):>10}" for name in PARTS))
    for kind in kinds:
        working = sharing if kind == APART else min(kind, cores)
        seconds = median(kind, "seconds")
        rate = median(kind, "images") * SAMPLES / seconds
        label = f"{sharing} apart" if kind == APART else str(kind)
        print(f"{label:>8} {seconds:8.3f} {rate:9.0f} {alone / seconds / working:10.1%} "
              + " ".join(f"{median(kind, name):10.4f}" for name in PARTS))


if __name__ == "__main__":
    main()
