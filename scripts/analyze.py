#!/usr/bin/env python3
"""Looks at a run's checkpoint with pandas and matplotlib: tables, curves, weights. docs/analysis.md has recipes.

usage: scripts/analyze.py RUN --out DIR

RUN is a run's directory or one of its checkpoints; a search may be running. Writes, into DIR:

    samples.csv      a row for each epoch and sample: theta by the names of its components, reward, status ...
    epochs.csv       a row for each epoch: mu by the names of its components, lowest, mean and highest reward ...
    rewards.png      these rewards over the epochs
    mu.png           mu over the epochs, a panel for each of its parts
    transforms.png   t and tau in the first epoch and at the end

Of a run with a fixed loss, which has no theta, rewards.png alone is drawn. Needs Python 3.11 and what scripts/requirements.txt
names; torch for weights() alone. The functions take a RUN as well: import analyze.
"""

import argparse
import pathlib
import re
import sys
import tomllib

try:
    import h5py
    import matplotlib
    import numpy as np
    import pandas as pd
except ImportError as error:
    sys.exit(f"analyze.py: {error}; pip install -r {pathlib.Path(__file__).with_name('requirements.txt')}")

FILETYPE, MAJOR = "amlfs checkpoint", 1
STATUS = {0: "ok", 1: "failed", 2: "not measured"}
MIN_SLOPE = 1e-2  # t and tau in lines grow (src/loss/unified.rs)
# colours that the colour-blind tell apart (Okabe and Ito)
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#888888"


class Unusable(Exception):
    """A file that is none of ours, or not whole."""


def file_of(run):
    """The checkpoint that a path means: itself, or of a run's directory final.h5, else its newest epoch."""
    run = pathlib.Path(run)
    if not run.is_dir():
        return run
    epochs = [(int(found[1]), file) for file in run.iterdir() if (found := re.fullmatch(r"epoch-(\d{4,})\.h5", file.name))]
    files = [run / "final.h5"] if (run / "final.h5").exists() else [file for _, file in sorted(epochs)[-1:]]
    if not files:
        raise Unusable(f"{run}: a directory without a checkpoint (final.h5 or epoch-*.h5)")
    return files[0]


def opened(run):
    """The checkpoint as an h5py.File, to be used in a `with`. A run may go on writing others meanwhile."""
    path = file_of(run)
    if not path.exists():
        raise Unusable(f"{path}: no such file")
    try:
        file = h5py.File(path, locking=False)
    except OSError as why:
        raise Unusable(f"{path}: not an HDF5 file, or not whole: {why}") from None
    kind, version = file.attrs.get("filetype"), file.attrs.get("version", [0, 0])
    if kind != FILETYPE or version[0] != MAJOR:
        file.close()
        what = f"format version {version[0]}.{version[1]}; this script reads {MAJOR}.x" if kind == FILETYPE else \
            f"filetype {kind!r}; wanted is a checkpoint: a run's final.h5 or epoch-*.h5"
        raise Unusable(f"{path}: {what}")
    return file


def config(run):
    """The run's settings, as config.toml nests them."""
    with opened(run) as file:
        return tomllib.loads(file.attrs["config"])


def groups(settings):
    """The parts of theta, in order: (name, names of its components). For softmax they are 1 if they are slopes, else 0."""
    search = settings["search"]
    count = search["intervals"]

    def part(name):
        return name, [f"{name}_{i + 1}" for i in range(count)]

    if search.get("space", "lines") == "lines":
        return [part("t_slope"), part("t_bias"), part("tau_slope"), part("tau_bias")]
    return [part("t_log_slope"), ("t_offset", ["t_offset"]), part("log_weight")]


def components(run):
    """The names of theta's components; none for a fixed loss."""
    with opened(run) as file:
        width = file["policy/mu"].shape[0]
        names = [name for _, part in groups(tomllib.loads(file.attrs["config"])) for name in part] if width else []
        if len(names) != width:
            raise Unusable(f"{file.filename}: theta has {width} components, by its configuration {len(names)}")
        return names


def samples(run):
    """Tidy: a row for each epoch (from 1) and sample (from 0), with all that is known of it, and whether its model went on."""
    names = components(run)
    with opened(run) as file:
        history = file["history"]
        epochs, count = history["status"].shape
        table = pd.DataFrame({"epoch": np.repeat(np.arange(1, epochs + 1), count), "sample": np.tile(np.arange(count), epochs)})
        table["status"] = pd.Series(history["status"][()].ravel()).map(STATUS)
        for name, data in history.items():
            if data.shape == (epochs, count) and name not in ("status", "mu"):
                table[name] = data[()].ravel()
        table["chosen"] = (np.arange(count) == history["best"][()][:, None]).ravel()
        thetas = history["theta"][()].reshape(epochs * count, -1)
    return pd.concat([table, pd.DataFrame(thetas, columns=names)], axis=1)


def epochs(run):
    """A row for each epoch, by its number: what is known of it, its rewards, and mu as it was when its thetas were drawn."""
    names = components(run)
    with opened(run) as file:
        history = file["history"]
        count = len(history["status"])
        index = pd.RangeIndex(1, count + 1, name="epoch")
        table = pd.DataFrame({name: data[()] for name, data in history.items() if data.shape == (count,)}, index=index)
        mu = pd.DataFrame(history["mu"][()], columns=[f"mu_{name}" for name in names], index=index)
    rewards = samples(run).groupby("epoch")["reward"].agg(["min", "mean", "max"])
    return pd.concat([rewards.add_prefix("reward_"), table, mu], axis=1)


def weights(run):
    """A state dict of PyTorch: for model.load_state_dict(weights(RUN))."""
    import torch

    with opened(run) as file:
        return {name: torch.from_numpy(data[()]) for name, data in file["model"].items()}


def transforms(space, theta, cosines, p):
    """t at the cosines, and tau at the probabilities p, above 0, of a theta of this space (src/loss)."""
    theta = np.asarray(theta)
    if space == "lines":
        (t_slope, t_bias), (tau_slope, tau_bias) = np.split(theta[:len(theta) // 2], 2), np.split(theta[len(theta) // 2:], 2)
        t = at(np.maximum(t_slope, MIN_SLOPE), cosines, -1) * cosines + at(t_bias, cosines, -1)
        return t, at(np.maximum(tau_slope, MIN_SLOPE), p, 0) * p + at(tau_bias, p, 0)
    count = len(theta) // 2
    slopes, offset, weight = np.exp(theta[:count]), theta[count], np.exp(theta[count + 1:])
    # the integrals of the slopes by the cosine and of the weights by -log p: exact, as they are linear between knots
    knots = np.linspace(-1, 1, count + 1)
    t = np.interp(cosines, knots, np.append(0, np.cumsum(slopes * np.diff(knots))))
    t += offset - np.interp(0, knots, np.append(0, np.cumsum(slopes * np.diff(knots))))
    edges = -np.log(np.arange(1, count + 1) / count)[::-1]  # of p = 1, ... 1 / M
    parts = np.append(0, np.cumsum(weight[::-1][:-1] * np.diff(edges)))
    nll = -np.log(p)
    loss = np.where(nll <= edges[-1], np.interp(nll, edges, parts), parts[-1] + weight[0] * (nll - edges[-1]))
    return t, np.exp(-loss)


def at(values, x, low):
    """Of M equal intervals from `low` to 1, the value of that in which x lies."""
    place = np.floor((x - low) / (1 - low) * len(values)).astype(int)
    return values[np.clip(place, 0, len(values) - 1)]


def draw_rewards(run, file):
    table = epochs(run)
    # inside of a round there are none
    found = table.dropna(subset="reward_mean")
    figure, axes = new_figure(1)
    if (found["reward_min"] != found["reward_max"]).any():
        axes.fill_between(found.index, found["reward_min"], found["reward_max"], color=BLUE, alpha=0.25, lw=0,
                          label="lowest to highest")
    axes.plot(found.index, found["reward_mean"], color=BLUE, marker=".", label="mean")
    changes = table.index[1:][table["learning_rate"].diff().iloc[1:] != 0]
    for number, epoch in enumerate(changes if len(changes) < 10 else []):
        axes.axvline(epoch - 0.5, color=GREY, lw=1, ls=":", label="learning rate changes" if number == 0 else None)
    axes.set(ylabel="reward", title="Rewards of the samples")
    by_epoch(axes)
    axes.legend()
    save(figure, file)


def draw_mu(run, file):
    table, parts = epochs(run), groups(config(run))
    with opened(run) as stored:
        searched = dict(zip(components(run), stored["policy/sigma"][()] > 0))
    figure, panels = new_figure(len(parts))
    for axes, (name, members) in zip(panels, parts):
        for number, member in enumerate(members):
            colour = matplotlib.colormaps["viridis"](0.9 * number / max(len(members) - 1, 1))
            axes.plot(table.index, table[f"mu_{member}"], color=colour, drawstyle="steps-mid", label=str(number + 1))
        axes.set(title=f"mu of {name}" + ("" if searched[members[0]] else ", not searched"))
        by_epoch(axes)
    # beside the last panel, which has all intervals
    axes.legend(title="interval", loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    save(figure, file)


def draw_transforms(run, file):
    with opened(run) as stored:
        ends = [("first epoch", stored["history/mu"][0], GREY), ("end", stored["policy/mu"][()], ORANGE)]
        space = tomllib.loads(stored.attrs["config"])["search"].get("space", "lines")
    cosines, p = np.linspace(-1, 1, 1201), np.linspace(0, 1, 1201)[1:]
    figure, (of_t, of_tau) = new_figure(2)
    for label, mu, colour in ends:
        t, tau = transforms(space, mu, cosines, p)
        of_t.plot(cosines, t, color=colour, label=label)
        of_tau.plot(p, tau, color=colour, label=label)
    for axes, x in ((of_t, cosines), (of_tau, p)):
        axes.plot(x, x, color="black", lw=1, ls=":", label="softmax")
        axes.legend()
    of_t.set(xlabel="cosine of the target", ylabel="t")
    of_tau.set(xlabel="probability p of the target", ylabel="tau")
    save(figure, file)


def new_figure(panels):
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt.subplots(1, panels, figsize=(max(4.2 * panels, 6.5), 4), layout="constrained")


def by_epoch(axes):
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)


def save(figure, file):
    import matplotlib.pyplot as plt

    figure.savefig(file, dpi=120)
    plt.close(figure)
    print(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=pathlib.Path, help="a run's directory, or one of its checkpoints")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the directory to write tables and figures into")
    options = parser.parse_args()
    try:
        # one file, also if the run writes the next one meanwhile
        run = file_of(options.run)
        tables = [("samples.csv", samples(run)), ("epochs.csv", epochs(run).reset_index())]
        if tables[0][1].empty:
            raise Unusable(f"{run}: no epoch is finished")
        options.out.mkdir(parents=True, exist_ok=True)
        for name, table in tables:
            table.to_csv(options.out / name, index=False)
            print(options.out / name)
        draw_rewards(run, options.out / "rewards.png")
        if components(run):
            draw_mu(run, options.out / "mu.png")
            draw_transforms(run, options.out / "transforms.png")
        else:
            print("a fixed loss: no mu.png, no transforms.png")
    except Unusable as why:
        sys.exit(f"analyze.py: {why}")
    except OSError as why:
        sys.exit(f"analyze.py: {options.out}: {why}")


if __name__ == "__main__":
    main()
