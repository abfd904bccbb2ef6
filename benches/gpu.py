#!/usr/bin/env python3
"""Training images/s of the three tasks on one GPU: amlfs beside PyTorch, eager and torch.compile. Started by benches/gpu.sh.

Both sides train the same network on batches of the same size with the same augmentation: images kept on the device as bytes,
cropped, mirrored and erased there, convolutions in channels_last, cuDNN's benchmark, TF32 as both have it by default, a fused
optimiser, a loss that is not read in a step. bf16 is autocast in PyTorch, and the convolutions in amlfs. The pixels are random:
speed does not depend on them. Rounds alternate; a figure is the median over the rounds.

Each measurement of amlfs is a run of the program, `metrics.csv` says how fast its second epoch was; PyTorch trains as
many steps after a warm-up. A measurement that would begin after --minutes is left out and named. On a CPU everything is small: a
trial of the script, not a measurement.
"""

import argparse
import csv
import importlib.util
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parent.parent
PRECISIONS = ["f32", "bf16"]
# seconds that a first measurement is expected to take
FIRST = {"amlfs": 20, "eager": 20, "compiled": 100}
# as in the presets
FACES = {"mean": [127.5] * 3, "deviation": [128.0] * 3}
IMAGENET = {"mean": [123.675, 116.28, 103.53], "deviation": [58.395, 57.12, 57.375]}


def module(path):
    """A file of the repository as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = found  # torch.compile looks it up
    spec.loader.exec_module(found)
    return found


def run(program, *arguments):
    """Runs a program (a list of words) to its end; what it printed."""
    command = [*program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\nended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


class Classification:
    """ResNet-20 on CIFAR-10 with softmax."""

    name, loss, preset = "classification", "softmax", "cifar10"
    image, padding, mirror, erasing = (32, 32), 4, True, 0.0
    normalisation = IMAGENET

    def __init__(self, small):
        self.classes, self.batch, self.steps, self.images = 10, 32 if small else 128, 3 if small else 300, 5000

    def prepare(self, amlfs, folder):
        """CIFAR-10's binary version with random pixels."""
        rng = np.random.default_rng(1)
        for file in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
            records = rng.integers(0, 256, (self.images // 5, 3073), np.uint8)
            records[:, 0] = np.arange(len(records)) % 10
            (folder / "cifar-10-batches-bin").mkdir(exist_ok=True)
            (folder / "cifar-10-batches-bin" / file).write_bytes(records.tobytes())
        return folder

    def settings(self):
        return []

    def network(self):
        return module(ROOT / "scripts/resnet_cifar.py").ResNetCifar(20, self.classes)

    def loss_of(self, network, images, labels):
        return F.cross_entropy(network(images), labels)

    def optimizer(self, parameters):
        return torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=1e-4, fused=True)

    def choose(self, device):
        return torch.randint(0, self.images, (self.batch,), device=device)


class AmSoftmax(nn.Module):
    """s (cos - m) at the target (Wang et al. 2018), cross-entropy."""

    def __init__(self, features, classes, scale=30.0, margin=0.35):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, features) * 0.05)
        self.scale, self.margin = scale, margin

    def forward(self, features, labels):
        cosine = F.linear(F.normalize(features), F.normalize(self.weight))
        margin = self.margin * F.one_hot(labels, len(self.weight))
        return F.cross_entropy(self.scale * (cosine - margin), labels)


class Faces:
    """SphereFace-20 on CASIA-WebFace's number of identities with AM-Softmax."""

    name, loss, preset = "faces", "am-softmax", "megaface"
    image, padding, mirror, erasing = (112, 96), 0, True, 0.0
    normalisation = FACES

    def __init__(self, small):
        self.classes, self.batch, self.steps = (20, 4, 1) if small else (10575, 256, 60)
        self.images = 2 * self.classes

    def prepare(self, amlfs, folder):
        """Two images of each identity and of 20 that are held out."""
        run(amlfs, "prepare", "glyphs", folder / "faces", "--identities", self.classes + 20, "--images", 2, "--size",
              "112x96")
        run(amlfs, "prepare", "faces", folder / "faces", "--out", folder / "faces.h5", "--size", "112x96")
        shutil.rmtree(folder / "faces")
        return folder / "faces.h5"

    def settings(self):
        return ["data.faces.probe_identities=10", "data.faces.distractor_identities=10", "data.faces.images_per_identity=2"]

    def network(self):
        network = module(ROOT / "tests/reference/sphereface.py").SphereFace20()
        network.head = AmSoftmax(512, self.classes)
        return network

    def loss_of(self, network, images, labels):
        return network.head(network(images), labels)

    def optimizer(self, parameters):
        return torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=5e-4, fused=True)

    def choose(self, device):
        return torch.randint(0, self.images, (self.batch,), device=device)


class Reid:
    """MGN on 256 persons with softmax and triplet loss."""

    name, loss, preset = "re-ID", "softmax", "market1501-mgn"
    padding, mirror, erasing = 0, True, 0.5
    normalisation = IMAGENET

    def __init__(self, small):
        self.image, self.classes, self.batch, self.steps = ((96, 64), 8, 8, 1) if small else ((384, 128), 256, 64, 40)
        self.images = 4 * self.classes
        self.reference = module(ROOT / "tests/reference/reid_models.py")
        self.reference.CLASSES = self.classes

    def prepare(self, amlfs, folder):
        """Four images of each person, as many persons to test with, and 8 that are held out."""
        height, width = self.image
        run(amlfs, "prepare", "glyphs", folder / "persons", "--layout", "market", "--identities", 2 * (self.classes + 8),
              "--images", 4, "--size", f"{height // 3}x{width // 2}")
        run(amlfs, "prepare", "reid", folder / "persons", "--out", folder / "persons.h5")
        shutil.rmtree(folder / "persons")
        return folder / "persons.h5"

    def settings(self):
        size = list(self.image)
        return [f"data.reid.size={size}", f"data.reid.crop={size}", "data.reid.validation_identities=8"]

    def network(self):
        return self.reference.Mgn()

    def loss_of(self, network, images, labels):
        features = network(images).split(256, 1)
        classifiers = [layer for name, layer in network.named_children() if name.startswith("fc_id_")]
        softmax = [F.cross_entropy(layer(x), labels) for layer, x in zip(classifiers, features)]
        triplet = [self.reference.batch_hard(x.float(), labels, 1.2) for x in features[:3]]
        return sum(softmax) / len(softmax) + 2.0 * sum(triplet) / len(triplet)

    def optimizer(self, parameters):
        return torch.optim.Adam(parameters, 2e-4, amsgrad=True, weight_decay=5e-4, fused=True)

    def choose(self, device):
        """Four images of each of some persons."""
        persons = torch.randperm(self.classes, device=device)[: self.batch // 4]
        return (persons[:, None] * 4 + torch.arange(4, device=device)).flatten()


class PyTorch:
    """A sensible user's training loop on one device."""

    def __init__(self, task, precision, compiled, device):
        self.task, self.device, self.precision = task, device, precision
        torch.manual_seed(0)
        height, width = task.image
        pad = task.padding
        # [N, H + 2 pad, W + 2 pad, 3] u8
        self.pixels = torch.randint(0, 256, (task.images, height + 2 * pad, width + 2 * pad, 3), dtype=torch.uint8, device=device)
        repeats = task.images // task.classes
        self.labels = torch.arange(task.classes, device=device).repeat_interleave(repeats)
        if task.padding:  # CIFAR-10's order does not matter
            self.labels = self.labels[torch.randperm(len(self.labels), device=device)]
        channels = {name: torch.tensor(values, device=device) for name, values in task.normalisation.items()}
        self.mean, self.deviation = channels["mean"], channels["deviation"]
        self.network = task.network().to(device).to(memory_format=torch.channels_last).train()
        self.optimizer = task.optimizer(self.network.parameters())
        self.loss = torch.compile(self.loss_of) if compiled else self.loss_of

    def augment(self, chosen):
        """[N, 3, H, W] f32 channels_last of the chosen images: cropped, mirrored, erased, normalised."""
        task, n = self.task, len(chosen)
        (height, width), device = task.image, self.device
        y, x = torch.arange(height, device=device), torch.arange(width, device=device)
        rows = torch.randint(0, 2 * task.padding + 1, (n, 1), device=device) + y
        columns = torch.where(torch.rand(n, 1, device=device) < 0.5, x, width - 1 - x)
        columns = torch.randint(0, 2 * task.padding + 1, (n, 1), device=device) + columns
        images = self.pixels[chosen[:, None, None], rows[:, :, None], columns[:, None, :]].float()
        if task.erasing:
            area = height * width * (0.02 + 0.38 * torch.rand(n, 1, device=device))
            aspect = 0.3 + 3.0333 * torch.rand(n, 1, device=device)
            tall, wide = (area * aspect).sqrt().clamp(max=height - 1), (area / aspect).sqrt().clamp(max=width - 1)
            top, left = torch.rand(n, 1, device=device) * (height - tall), torch.rand(n, 1, device=device) * (width - wide)
            inside = ((y >= top) & (y < top + tall))[:, :, None] & ((x >= left) & (x < left + wide))[:, None, :]
            inside &= (torch.rand(n, 1, 1, device=device) < task.erasing)
            images = torch.where(inside[..., None], self.mean, images)
        return ((images - self.mean) / self.deviation).permute(0, 3, 1, 2)

    def loss_of(self, chosen):
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.task.loss_of(self.network, self.augment(chosen), self.labels[chosen])

    def step(self):
        loss = self.loss(self.task.choose(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def rate(self):
        """Images/s over the task's steps, after three to warm up."""
        for _ in range(3):
            self.step()
        self.wait()
        start, total = time.perf_counter(), 0
        for _ in range(self.task.steps):
            total = total + self.step()
        if not torch.isfinite(total):  # waits
            print(f"warning: PyTorch's loss of {self.task.name} in {self.precision} is not finite", file=sys.stderr)
        found = self.task.steps * self.task.batch / (time.perf_counter() - start)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return found


def amlfs_rate(amlfs, task, data, device, *more):
    """Images/s of a run's second epoch."""
    with tempfile.TemporaryDirectory(prefix="amlfs-gpu-") as folder:
        out = pathlib.Path(folder) / "run"
        settings = [f"train.epoch_iterations={task.steps}", f"train.batch_size={task.batch}", "train.milestones=[]",
                    "run.resident=on", *task.settings(), *more]
        arguments = [argument for setting in settings for argument in ("--set", setting)]
        run(amlfs, "train", "--loss", task.loss, "--preset", task.preset, "--data", data, "--out", out, "--epochs", 2,
              "--device", device.type, *arguments)
        with open(out / "metrics.csv", newline="") as file:
            rates = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    return rates[1]


def loader_rate(loader, data, threads):
    """Images/s that the loader alone decodes, mirrors and normalises, from JPEG."""
    return json.loads(run(loader, "faces", data, 256, threads, 4))["images_per_second"]


def measurements(task, args, data, device):
    """(row, column, what gives images/s), the most important first. amlfs and PyTorch take turns."""
    ours = lambda *more: lambda: amlfs_rate(args.amlfs, task, data, device, *more)
    made = {}

    def theirs(precision, compiled):
        def rate():
            if (precision, compiled) not in made:
                made[precision, compiled] = PyTorch(task, precision, compiled, device)
            return made[precision, compiled].rate()
        return rate

    found = []
    for precision in PRECISIONS:
        found.append((precision, "amlfs", ours(f"train.precision={precision}")))
        found.append((precision, "eager", theirs(precision, False)))
        if not args.no_compile:
            found.append((precision, "compiled", theirs(precision, True)))
    found.append(("f32, two replicas here", "amlfs", ours("run.devices_per_rank=2")))
    found.append(("bf16, two replicas here", "amlfs", ours("run.devices_per_rank=2", "train.precision=bf16")))
    for precision in PRECISIONS:
        row = f"{precision}, no cuDNN benchmark"
        found.append((row, "amlfs", ours("train.cudnn_benchmark=false", f"train.precision={precision}")))
    threads = max(1, min(16, os.cpu_count()) - 2)
    row = f"bf16, loader of {threads} threads"
    found.append((row, "amlfs", ours("run.resident=off", f"run.loader_threads={threads}", "train.precision=bf16")))
    if task.name == "faces":
        for count in sorted({1, threads}):
            row = f"loader alone, {count} threads"
            found.append((row, "amlfs", lambda count=count: loader_rate(args.loader, data, count)))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--amlfs", nargs="+", required=True, help="the program, in one word or more")
    parser.add_argument("--loader", nargs="+", required=True, help="benches/loader.rs, likewise")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tasks", default="classification,faces,re-ID")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=9.0, help="nothing begins that would end later")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="directory of gpu.md and gpu.json")
    args = parser.parse_args()
    known = {task.name: task for task in (Classification, Faces, Reid)}
    names = args.tasks.split(",")
    if set(names) - set(known):
        parser.error(f"--tasks: {', '.join(known)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu.py: PyTorch sees no CUDA device (AMLFS_BENCH_DEVICE=cpu tries the script without one)")
    end = time.monotonic() + 60 * args.minutes
    device = torch.device(args.device)
    torch.backends.cudnn.benchmark = True
    args.out.mkdir(parents=True, exist_ok=True)

    def say(text):
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    card = torch.cuda.get_device_name() if args.device == "cuda" else "no GPU: a trial, whose figures mean nothing"
    versions = f"{run(args.amlfs, '--version').strip()}; PyTorch {torch.__version__}; {card}; {os.cpu_count()} cores"
    say(versions)
    rates, left_out, failed, lasted = {}, [], {}, {}
    with tempfile.TemporaryDirectory(prefix="amlfs-gpu-data-") as folder:
        for name in names:
            task = known[name](args.device == "cpu")
            start = time.monotonic()
            data = task.prepare(args.amlfs, pathlib.Path(folder))
            say(f"{name}: data made in {time.monotonic() - start:.0f} s; batch {task.batch}, {task.steps} steps each time")
            planned = measurements(task, args, data, device)
            for turn in range(args.rounds):
                for row, column, measure in planned if turn % 2 == 0 else planned[::-1]:
                    key = name, row, column
                    if key in failed:
                        continue
                    if time.monotonic() + lasted.get(key, FIRST[column]) > end:
                        left_out.append(f"round {turn + 1} of {name}, {row}, {column}")
                        continue
                    start = time.monotonic()
                    try:
                        rates.setdefault(key, []).append(measure())
                    except Exception as error:  # the other figures are worth having
                        failed[key] = str(error).strip()
                        say(f"{name}, {row}, {column} FAILED: {failed[key][-1500:]}")
                        continue
                    lasted[key] = time.monotonic() - start
                    say(f"{name}, {row}, {column}: {rates[key][-1]:.0f} images/s ({lasted[key]:.0f} s)")
            del planned
            if args.device == "cuda":
                torch.cuda.empty_cache()

    report(args.out, versions, names, rates, left_out, failed)
    sys.exit(1 if failed else 0)


def report(out, versions, names, rates, left_out, failed):
    """The table, on the terminal and in files."""
    def cell(values):
        if not values:
            return ""
        spread = f" ({min(values):.0f}..{max(values):.0f})" if len(values) > 1 else ""
        return f"{statistics.median(values):.0f}{spread}"

    lines = [versions, "", "Training images/s, median over rounds (least..most); ratios of the medians.", "",
             "| task | | amlfs | PyTorch eager | torch.compile | amlfs / eager | amlfs / compiled |", "|---|---|---|---|---|---|---|"]
    for name in names:
        rows = dict.fromkeys(row for task, row, _ in [*rates, *failed] if task == name)
        for row in rows:
            found = {column: rates.get((name, row, column), []) for column in ("amlfs", "eager", "compiled")}
            ratio = lambda column: (f"{statistics.median(found['amlfs']) / statistics.median(found[column]):.2f}"
                                    if found["amlfs"] and found[column] else "")
            cells = ["failed" if (name, row, column) in failed else cell(values) for column, values in found.items()]
            lines.append(f"| {' | '.join([name, row, *cells, ratio('eager'), ratio('compiled')])} |")
    lines += [f"\nleft out for want of time: {'; '.join(left_out)}"] if left_out else []
    lines += [f"\nfailed: {'; '.join(' '.join(key) for key in failed)}"] if failed else []
    text = "\n".join(lines) + "\n"
    print("\n" + text)
    (out / "gpu.md").write_text(text)
    record = {"versions": versions, "rates": {", ".join(key): values for key, values in rates.items()}, "left_out": left_out,
              "failed": {", ".join(key): why for key, why in failed.items()}}
    (out / "gpu.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
