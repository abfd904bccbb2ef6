#!/usr/bin/env python3
"""Training images/s on CPU cores: PyTorch, eager and compiled, against amlfs, side by side.

usage: python benches/throughput.py --data DIR [--cores 2] [--depth 20] [--rounds 3] [--epochs 3] [--python-only]

DIR holds cifar-10-batches-bin/ (the official binary version). Both sides train a ResNet for CIFAR-10 on 90 % of its
training images (amlfs keeps 10 % for validation): batch 128, f32, channels_last, SGD with momentum, random crop and
flip. Python uses a thread per core, amlfs a rank of 1 thread per core. The first epoch of every round is warm-up; a round's figure is
the median of its other epochs. The environment reaches both sides, for example GLIBC_TUNABLES.

Run it on an idle machine. Rounds alternate because machines drift, but that doesn't make a busy one fair: two threads
that meet after every operation fell to a fifth beside other work; ranks that meet once an epoch should lose less.

PyTorch computes once eagerly and once through torch.compile, which takes a minute before the first round and wants g++.

With 2,560 images Python's part of a round takes 15 s at ResNet-20. Needs torch, numpy, mpirun and a release build.
"""

import argparse
import csv
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError as error:
    sys.exit(f"throughput.py needs Python's torch 2.13 and numpy: {error}")

ROOT = pathlib.Path(__file__).resolve().parent.parent
BATCH = 128
MEAN = torch.tensor([0.4914, 0.4822, 0.4465])
STD = torch.tensor([0.2470, 0.2435, 0.2616])


def amlfs_command(args, out):
    """The run that is measured: a sample for each rank, each rank on one core."""
    return ["mpirun", "-n", str(args.cores), "--bind-to", "none", str(args.binary), "--preset", "cifar10",
            "--data", str(args.data), "--out", str(out), "--samples", str(args.cores), "--policy", "fixed",
            "--set", f"model.depth={args.depth}", "--epochs", str(args.epochs), "--threads", "1", "--device", "cpu"]


def rust_round(args):
    """images/s of each epoch, all ranks together, as amlfs writes them to metrics.csv."""
    root_allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    with tempfile.TemporaryDirectory(prefix="amlfs-throughput-") as folder:
        out = pathlib.Path(folder) / "run"
        command = amlfs_command(args, out)
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **root_allowed})
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
        if not (out / "metrics.csv").exists():
            sys.exit(f"{' '.join(command)}\nwrote no metrics.csv:\n{(done.stdout + done.stderr)[-3000:]}")
        with open(out / "metrics.csv", newline="") as file:
            rates = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    if len(rates) != args.epochs:
        sys.exit(f"expected {args.epochs} rows in metrics.csv, found {len(rates)}")
    return rates


class Block(nn.Module):
    """Basic block with the parameter-free shortcut (option A): every second pixel, zeros for the new channels."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, (outputs - inputs) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.extra:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))
        return F.relu(x + y)


def resnet(depth):
    """He et al. 2016, section 4.2; depth = 6n + 2. ResNet-20 has 269,712 parameters without the classifier's bias."""
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 10, bias=False)

        def forward(self, x):
            return self.linear(x.mean((2, 3)))

    layers, width = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
    for planes in (16, 32, 64):
        for _ in range((depth - 2) // 6):
            layers.append(Block(width, planes, 1 if planes == width else 2))
            width = planes
    return nn.Sequential(*layers, Head()).to(memory_format=torch.channels_last)


class PyTorch:
    """A sensible user's training loop: the data in one uint8 tensor, a batch augmented by one gather."""

    def __init__(self, args, compiled):
        files = sorted((args.data / "cifar-10-batches-bin").glob("data_batch_*.bin"))
        if not files:
            sys.exit(f"no cifar-10-batches-bin/data_batch_*.bin in {args.data}")
        records = torch.from_numpy(np.concatenate([np.fromfile(f, np.uint8).reshape(-1, 3073) for f in files]))
        records = records[: len(records) * 9 // 10]
        self.labels = records[:, 0].long()
        images = F.pad(records[:, 1:].reshape(-1, 3, 32, 32), (4, 4, 4, 4))
        self.images = images.permute(0, 2, 3, 1).contiguous()  # [N, 40, 40, 3] u8
        torch.manual_seed(0)
        self.model = resnet(args.depth).train()
        self.train_model = torch.compile(self.model) if compiled else self.model
        self.optimiser = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4, fused=True)

    def batch(self, chosen):
        """[B, 3, 32, 32] f32 channels_last: crop, flip and normalisation of the chosen images."""
        n, line = len(chosen), torch.arange(32)
        rows = torch.randint(0, 9, (n, 1)) + line
        columns = torch.where(torch.rand(n, 1) < 0.5, line, 31 - line) + torch.randint(0, 9, (n, 1))
        x = self.images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        return x.float().sub_(255 * MEAN).div_(255 * STD).permute(0, 3, 1, 2)

    def epoch(self):
        """Trains one epoch; returns images/s."""
        start = time.perf_counter()
        for chosen in torch.randperm(len(self.labels)).split(BATCH):
            loss = F.cross_entropy(self.train_model(self.batch(chosen)), self.labels[chosen])
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
        return len(self.labels) / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="directory holding cifar-10-batches-bin/")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--depth", type=int, default=20, help="6n + 2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3, help="per round, the first being warm-up")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/amlfs")
    parser.add_argument("--python-only", action="store_true")
    args = parser.parse_args()
    if args.epochs < 2 or args.rounds < 1 or args.depth < 8 or args.depth % 6 != 2:
        parser.error("needs --rounds >= 1, --epochs >= 2 and --depth = 6n + 2")
    if not args.python_only and not args.binary.exists():
        sys.exit(f"{args.binary} is not built: run `cargo build --release` first (or use --python-only)")
    if not args.python_only and not shutil.which("mpirun"):
        sys.exit("mpirun is not on PATH")

    torch.set_num_threads(args.cores)
    peers = {"eager": PyTorch(args, compiled=False), "compiled": PyTorch(args, compiled=True)}
    epochs = lambda peer: lambda: [peer.epoch() for _ in range(args.epochs)]
    sides = {name: epochs(peer) for name, peer in peers.items()}
    if not args.python_only:
        sides["amlfs"] = lambda: rust_round(args)
    parameters, images = sum(p.numel() for p in peers["eager"].model.parameters()), len(peers["eager"].labels)
    print(f"ResNet-{args.depth}, {parameters} parameters, {images} images per epoch, batch {BATCH}, {args.cores} of "
          f"{os.cpu_count()} cores, torch {torch.__version__}, load before: {os.getloadavg()[0]:.1f}")

    if os.getloadavg()[0] > 0.5:
        print("warning: the machine is, or just was, busy; the ratio is only fair when it is idle")

    rounds = []
    for i in range(args.rounds):
        order = list(sides) if i % 2 == 0 else list(sides)[::-1]
        rates = {side: statistics.median(sides[side]()[1:]) for side in order}
        rounds.append(rates)
        print(f"round {i + 1}: " + ", ".join(f"{side} {rates[side]:.0f} images/s" for side in sides), flush=True)
    for side in sides:
        values = [r[side] for r in rounds]
        print(f"{side:8} median {statistics.median(values):.0f} images/s ({min(values):.0f}..{max(values):.0f})")
    for peer in peers if "amlfs" in sides else []:
        # of each round, because the machine drifts between rounds
        ratios = [r["amlfs"] / r[peer] for r in rounds]
        print(f"amlfs/{peer} {statistics.median(ratios):.2f}, median of the rounds ({min(ratios):.2f}..{max(ratios):.2f})")


if __name__ == "__main__":
    main()
