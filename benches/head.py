#!/usr/bin/env python3
"""PyTorch's autograd time for the classification head, a cross-check of the baseline in the Rust bench `head`.

usage: python benches/head.py

The head is s * cos(x, W) with both sides normalised, s = 30, and cross-entropy; forward and backward, f32, on the CPU.
Prints the median of 30 runs after 5 of warm-up, in ms, for each size and number of threads. Takes half a minute.
"""

import statistics
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    sys.exit(f"head.py needs Python's torch 2.13: {error}")

SCALE, WARM_UP, RUNS = 30.0, 5, 30
SIZES = [(512, 512, 10575), (128, 64, 10)]  # batch, features, classes: CASIA-WebFace, CIFAR-10


def times(batch, features, classes):
    """RUNS times of one forward and backward pass, ms."""
    torch.manual_seed(0)
    x = torch.randn(batch, features, requires_grad=True)
    weight = torch.randn(classes, features, requires_grad=True)
    labels = torch.randint(0, classes, (batch,))
    elapsed = []
    for _ in range(WARM_UP + RUNS):
        x.grad = weight.grad = None
        start = time.perf_counter()
        F.cross_entropy(SCALE * F.linear(F.normalize(x), F.normalize(weight)), labels).backward()
        elapsed.append(1e3 * (time.perf_counter() - start))
    return elapsed[WARM_UP:]


def main():
    print(f"torch {torch.__version__}, autograd, forward + backward, ms")
    print(f"{'batch':>6} {'features':>8} {'classes':>8} {'threads':>8} {'median':>9} {'min':>9} {'max':>9}")
    for size in SIZES:
        for threads in (2, 1):
            torch.set_num_threads(threads)
            ms = times(*size)
            print("{:6} {:8} {:8} {:8}".format(*size, threads),
                  f"{statistics.median(ms):9.3f} {min(ms):9.3f} {max(ms):9.3f}")


if __name__ == "__main__":
    main()
