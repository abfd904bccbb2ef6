#!/usr/bin/env python3
"""Trains ResNet-8 in PyTorch on CIFAR-10 with a loss that amlfs exported, to compare with amlfs train --replay.

usage: python benches/exported_loss.py LOSS.py DATA [--schedule mean|means|chosen|softmax] [--seeds N...] [--epochs N] ...

LOSS.py is of amlfs export loss; "softmax" is that loss with its head and scale, but t and tau the identity. DATA is a directory
with CIFAR-10's binary version, or a subset of it. The recipe is that of `--preset cifar10 --search robust` with 16 x 16 pixels,
batch 64, and a part of the training images held out; docs/results.md has the command of ours. Label noise, order and
augmentation are drawn anew for each seed, from PyTorch's random numbers, not from ours.
Prints top-1 (%) on the test images, of the averaged weights, for each seed.
"""

import argparse
import copy
import importlib.util
import math
import pathlib
import sys

import torch
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))
from resnet_cifar import ResNetCifar  # noqa: E402

RATE, MOMENTUM, DECAY, BATCH, PADDING, CLASSES = 0.1, 0.9, 1e-4, 64, 2, 10


def images(files, size):
    """(pixels [N, 3, size, size] 0 to 255, labels [N])"""
    data = torch.tensor(bytearray(b"".join(file.read_bytes() for file in files)), dtype=torch.uint8).view(-1, 3073)
    pixels = data[:, 1:].view(-1, 3, 32, 32).float()
    if size != 32:
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True).round()
    return pixels, data[:, 0].long()


def augmented(pixels):
    """Random crops of the padded images, mirrored half of the time."""
    count, _, size, _ = pixels.shape
    padded = F.pad(pixels, (PADDING,) * 4)
    out = torch.empty_like(pixels)
    for i, (dy, dx) in enumerate(torch.randint(0, 2 * PADDING + 1, (count, 2)).tolist()):
        out[i] = padded[i, :, dy:dy + size, dx:dx + size]
    mirrored = torch.rand(count) < 0.5
    out[mirrored] = out[mirrored].flip(3)
    return out


def with_noise(labels, share):
    """A share of the labels replaced by wrong ones."""
    chosen = torch.randperm(len(labels))[:round(share * len(labels))]
    labels = labels.clone()
    labels[chosen] = (labels[chosen] + torch.randint(1, CLASSES, (len(chosen),))) % CLASSES
    return labels


def train(loss, train_set, test_set, seed, options):
    """top-1 (%) on the test set"""
    torch.manual_seed(seed)
    pixels, labels = train_set
    kept = torch.randperm(len(labels))[round(options.held_out * len(labels)):]
    pixels, labels = pixels[kept], with_noise(labels[kept], options.label_noise)
    mean, deviation = pixels.mean((0, 2, 3), keepdim=True), pixels.std((0, 2, 3), keepdim=True)

    # black borders are black before the colours are normalised
    def normalise(pixels):
        return (pixels - mean) / deviation

    model = ResNetCifar(8, CLASSES)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    averaged, steps = copy.deepcopy(model), len(labels) // BATCH
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, weight_decay=DECAY)
    milestones = [options.epochs // 2, options.epochs * 3 // 4]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
    for epoch in range(options.epochs):
        loss.set_epoch(epoch, options.epochs)
        model.train()
        for batch in torch.randperm(len(labels))[:steps * BATCH].view(steps, BATCH):
            features = model.features(normalise(augmented(pixels[batch])))
            optimizer.zero_grad()
            loss.of_features(features, model.linear.weight, labels[batch]).backward()
            optimizer.step()
            # of the last epoch or so
            with torch.no_grad():
                for mean_of, last in zip(averaged.state_dict().values(), model.state_dict().values()):
                    if mean_of.is_floating_point():
                        mean_of += (last - mean_of) * -math.expm1(-1 / steps)
        schedule.step()
    averaged.eval()
    with torch.no_grad():
        found = torch.cat([loss.logits(averaged.features(normalise(part)), averaged.linear.weight).argmax(1)
                           for part in test_set[0].split(500)])
    return 100 * (found == test_set[1]).double().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("loss", type=pathlib.Path)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--schedule", default="mean")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--size", type=int, default=16, help="height and width of the images")
    parser.add_argument("--label-noise", type=float, default=0.4)
    parser.add_argument("--held-out", type=float, default=0.5, help="share of the training images that is not used")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    spec = importlib.util.spec_from_file_location("exported", options.loss)
    exported = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(exported)
    if options.schedule == "softmax":
        exported.LEARNED.update(space="lines", tau_weights="raw", mean=[1.0, 0.0, 1.0, 0.0])
    loss = exported.LearnedLoss("mean" if options.schedule == "softmax" else options.schedule)
    train_set = images(sorted(options.data.glob("data_batch_*.bin")), options.size)
    test_set = images([options.data / "test_batch.bin"], options.size)
    print(f"torch {torch.__version__}, {options.schedule}: {loss}", flush=True)
    for seed in options.seeds:
        print(f"seed {seed}: top-1 {train(loss, train_set, test_set, seed, options):.2f}", flush=True)


if __name__ == "__main__":
    main()
