#!/usr/bin/env python3
"""Runs a declared grid of tasks x arms x seeds, and tells what it says: means, standard errors, paired differences.

usage: scripts/evidence.py GRID [--data DIR] --out DIR [--jobs N] [--list | --task I | --table] [--binary FILE]

GRID is a TOML file; scripts/evidence/small.toml is one with every key explained. --data is what amlfs --data takes, if its data need it (for a
grid with a [cifar10] table: CIFAR-10's official binary version, from which the grid's own subset is made below --out).

Runs go to OUT/TASK/ARM/SEED, --jobs at once (default: one per core). The same command goes on where it stopped: runs that
are complete are left alone, others continue from their last checkpoint. When all are there the tables are printed;
--table prints what there is now. On a cluster --list numbers the runs and --task I does the I-th alone:

    sbatch --array=0-N --wrap 'scripts/evidence.py GRID --data DIR --out DIR --task $SLURM_ARRAY_TASK_ID'
"""

import argparse
import concurrent.futures
import csv
import itertools
import json
import math
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORD = 1 + 3 * 32 * 32  # bytes of a CIFAR-10 image: label, red, green, blue


class Run:
    """One training: an arm of a task with a seed."""

    def __init__(self, grid, task, arm, seed, options):
        self.task, self.arm, self.seed = task, arm, seed
        self.directory = options.out / task / arm / str(seed)
        declared = grid["arms"][arm]
        source = None
        if "from" in declared:
            place = grid_seeds(grid, arm).index(seed)
            other = declared["from"]
            source = options.out / task / other / str(grid_seeds(grid, other)[place]) / "final.h5"
        self.source = source
        words = declared["arguments"] + grid["arguments"] + grid["tasks"][task]
        words = [word.replace("{from}", str(source)) for word in words]
        data = ["--data", str(options.data)] if options.data else []
        self.command = [str(options.binary), *words, *data, "--seed", str(seed),
                        "--out", str(self.directory), "--resume"]

    def complete(self):
        return (self.directory / "final.h5").exists()

    def run(self):
        """Why it failed; None if it is complete."""
        if self.complete():
            return None
        self.directory.mkdir(parents=True, exist_ok=True)
        with open(self.directory.with_suffix(".out"), "ab") as output:
            done = subprocess.run(self.command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        if done.returncode == 0:
            return None
        return f"{' '.join(self.command)}\nended with {done.returncode}; see {output.name}"

    def metrics(self, binary):
        """What the test set said, how long it took, and where mu ended."""
        found = subprocess.run([binary, "inspect", "--json", self.directory / "final.h5"], capture_output=True)
        if found.returncode != 0:
            sys.exit(found.stderr.decode())
        found = json.loads(found.stdout)
        seconds = sum(row["seconds"] for row in found["history"])
        return {**found["test"], "seconds": seconds, "mu": " ".join(map(str, found["policy"]["mu"]))}


def grid_seeds(grid, arm):
    return grid["arms"][arm].get("seeds", grid["seeds"])


def grid_tasks(grid, arm):
    return grid["arms"][arm].get("tasks", grid["tasks"])


def read_grid(path):
    try:
        grid = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as why:
        sys.exit(f"{path}: {why}")
    for key, kind in [("arguments", list), ("tasks", dict), ("arms", dict), ("seeds", list), ("metric", str)]:
        if not isinstance(grid.get(key), kind):
            sys.exit(f"{path}: {key} is missing, or not a {kind.__name__}")
    for arm, declared in grid["arms"].items():
        other = declared.get("from", arm)
        if other not in grid["arms"] or len(grid_seeds(grid, other)) < len(grid_seeds(grid, arm)):
            sys.exit(f"{path}: arms.{arm}.from = {other}: no arm with as many seeds")
    landscape = grid.get("landscape")
    for name, direction in landscape["directions"].items() if landscape else ():
        for sign, factor in (("+", 1), ("-", -1)):
            mu = ", ".join(str(float(factor * value)) for value in direction)
            words = ["--policy=select", "--samples=1", f"--set=search.mu=[{mu}]"]
            grid["arms"][name + sign] = {"arguments": words, "seeds": landscape["seeds"], "tasks": landscape["tasks"]}
    return grid


def cifar_subset(source, target, train, test, seed):
    """Writes `train` training and `test` test images as the official binary version, each class equally often. The test
    images are all official ones, then training images that are not in the training part."""
    if (source / "cifar-10-batches-bin").is_dir():
        source = source / "cifar-10-batches-bin"

    def records(name):
        try:
            data = (source / name).read_bytes()
        except OSError as why:
            sys.exit(str(why))
        return [data[start:start + RECORD] for start in range(0, len(data), RECORD)]

    def balanced(pool, count):
        chosen = []
        for label in range(10):
            chosen += [record for record in pool if record[0] == label][:count // 10]
        if len(chosen) != count:
            sys.exit(f"{source}: {count} images, each of 10 classes equally often, are not there")
        shuffle.shuffle(chosen)
        return chosen

    shuffle = random.Random(seed)
    pool = [record for batch in range(1, 6) for record in records(f"data_batch_{batch}.bin")]
    shuffle.shuffle(pool)
    training = balanced(pool, train)
    used = set(training)
    tested = balanced(records("test_batch.bin") + [record for record in pool if record not in used], test)
    target.mkdir(parents=True, exist_ok=True)
    for batch in range(5):
        (target / f"data_batch_{batch + 1}.bin").write_bytes(b"".join(training[batch::5]))
    (target / "test_batch.bin").write_bytes(b"".join(tested))


def mean_and_error(values):
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def report(grid, runs, options):
    """Prints what complete runs say, and writes their figures to OUT/runs.csv."""
    found = {(run.task, run.arm, run.seed): run.metrics(options.binary) for run in runs if run.complete()}
    with open(options.out / "runs.csv", "w", newline="") as file:
        names = sorted({name for metrics in found.values() for name in metrics})
        writer = csv.writer(file)
        writer.writerow(["task", "arm", "seed", *names])
        writer.writerows([*key, *(metrics.get(name) for name in names)] for key, metrics in found.items())
    tables(grid, found)
    if "landscape" in grid:
        agreement(grid, found)


def tables(grid, found):
    """A table for each task: means, standard errors, and differences from other arms."""
    metric, scale, baseline = grid["metric"], grid.get("scale", 1.0), grid.get("baseline")
    for task in grid["tasks"]:
        print(f"\n{task}: {metric}, mean +- standard error over seeds; differences are paired by seed\n")
        against = [arm for arm in [baseline, *grid.get("compare", [])] if arm]
        heads = "".join(f" - {arm} |" for arm in against)
        print(f"| arm | runs | {metric} |{heads}")
        print("|---|---|---|" + "---|" * len(against))
        for arm in grid["arms"]:
            mine = {seed: scale * found[task, arm, seed][metric]
                    for seed in grid_seeds(grid, arm) if (task, arm, seed) in found}
            if not mine:
                continue
            mean, error = mean_and_error(list(mine.values()))
            cells = [arm, str(len(mine)), f"{mean:.2f} +- {error:.2f}"]
            for other in against:
                pairs = [value - scale * found[task, other, seed][metric]
                         for seed, value in mine.items() if other != arm and (task, other, seed) in found]
                difference = "{:+.2f} +- {:.2f}".format(*mean_and_error(pairs)) if pairs else ""
                cells.append(difference)
            print("| " + " | ".join(cells) + " |")


def agreement(grid, found):
    """What each direction does when it is held through a training, beside where the searches' means went along it."""
    metric, scale, landscape = grid["metric"], grid.get("scale", 1.0), grid["landscape"]
    search = landscape["learned"]
    for task in landscape["tasks"]:
        print(f"\n{task}: half the difference of {metric} between a direction's two ends, and how far the means of "
              f"'{search}' went along it in its lengths, each +- standard error over seeds\n")
        print("| direction | ends | learned |\n|---|---|---|")
        for name, direction in landscape["directions"].items():
            ends = [[found.get((task, name + sign, seed)) for sign in "+-"] for seed in landscape["seeds"]]
            effects = [scale * (up[metric] - down[metric]) / 2 for up, down in ends if up and down]
            length = sum(value * value for value in direction)
            means = [map(float, metrics["mu"].split())
                     for (other, arm, _), metrics in found.items() if (other, arm) == (task, search)]
            learned = [sum(mu * value for mu, value in zip(mean, direction)) / length for mean in means]
            cells = ["{:+.2f} +- {:.2f}".format(*mean_and_error(values)) if values else ""
                     for values in (effects, learned)]
            print(f"| {name} | {cells[0]} | {cells[1]} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/amlfs")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true")
    what.add_argument("--task", type=int)
    what.add_argument("--table", action="store_true")
    options = parser.parse_args()
    options.binary = options.binary.resolve()
    grid = read_grid(options.grid)
    subset = grid.get("cifar10")
    if subset:
        full, options.data = options.data, options.out / "data"
        if not (options.data / "test_batch.bin").exists():
            if not full:
                sys.exit(f"{options.grid}: its [cifar10] table wants --data, CIFAR-10's official binary version")
            cifar_subset(full, options.data, **subset)
    runs = [Run(grid, task, arm, seed, options)
            for arm, task in itertools.product(grid["arms"], grid["tasks"]) if task in grid_tasks(grid, arm)
            for seed in grid_seeds(grid, arm)]

    if options.list:
        for number, run in enumerate(runs):
            print(number, "complete" if run.complete() else "-", " ".join(run.command))
    elif options.task is not None:
        sys.exit(runs[options.task].run())
    elif options.table:
        report(grid, runs, options)
    else:
        failed = []
        # runs that start from others' results come after them
        for later in (False, True):
            with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
                wanted = [run for run in runs if (run.source is not None) == later]
                failed += [why for why in pool.map(Run.run, wanted) if why]
        if failed:
            sys.exit("\n".join(failed))
        report(grid, runs, options)


if __name__ == "__main__":
    main()
