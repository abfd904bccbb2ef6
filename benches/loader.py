"""Loading 112 x 96 JPEG faces: amlfs' packed file against torchvision's ImageFolder + DataLoader with PIL, side by side.

Both shuffle, mirror at random, normalise and give batches of 256 in f32. One core: ours has one loader thread and the
main thread pinned to it, torchvision loads in its own process (workers = 0) on the same core. Rounds alternate; the
ratio of a round counts.

    pip install torch torchvision numpy pillow
    cargo build --release && python benches/loader.py --faces ../shared/data/orl-faces.zip
"""
import argparse
import io
import json
import os
import re
import statistics
import subprocess
import tempfile
import zipfile

import numpy as np
from PIL import Image


def make_tree(directory, faces, count):
    """`count` JPEGs of quality 95 made of the real faces: shifted, tinted and with some sensor noise."""
    rng = np.random.default_rng(1)
    with zipfile.ZipFile(faces) as archive:
        names = [name for name in archive.namelist() if name.endswith(".pgm")]
        pictures = [Image.open(io.BytesIO(archive.read(name))).resize((104, 120)) for name in names]
    for i in range(count):
        picture = np.asarray(pictures[i % len(pictures)], np.float32)
        y, x = rng.integers(0, 9, 2)
        rgb = picture[y : y + 112, x : x + 96, None] * rng.uniform(0.75, 1.1, 3) + rng.normal(0, 3, (112, 96, 1))
        folder = os.path.join(directory, f"{i % 40:03}")
        os.makedirs(folder, exist_ok=True)
        Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).save(os.path.join(folder, f"{i}.jpg"), quality=95)


TORCHVISION = """
import sys, time, torch
from torchvision import datasets, transforms
torch.set_num_threads(1)
transform = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor(),
                                transforms.Normalize([0.5] * 3, [0.5] * 3)])
folder = datasets.ImageFolder(sys.argv[1], transform)
loader = torch.utils.data.DataLoader(folder, batch_size=256, shuffle=True, num_workers=int(sys.argv[2]))
start, count = time.perf_counter(), 0
for _ in range(int(sys.argv[3])):
    for images, labels in loader:
        count += len(images)
print(count / (time.perf_counter() - start))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", required=True, help="orl-faces.zip")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", default="python", help="with torch and torchvision")
    arguments = parser.parse_args()
    build = subprocess.run(["cargo", "bench", "--bench", "loader", "--no-run"], capture_output=True, text=True)
    program = re.search(r"\((\S*loader-\w+)\)", build.stderr)
    if not program:
        raise SystemExit(build.stderr)
    with tempfile.TemporaryDirectory() as directory:
        tree, packed = os.path.join(directory, "tree"), os.path.join(directory, "faces.h5")
        make_tree(tree, arguments.faces, arguments.images)
        subprocess.run(["target/release/amlfs", "prepare", "faces", tree, "--out", packed], check=True)
        print(os.path.getsize(packed) / arguments.images, "bytes per image")
        for cores, threads, workers in [("0", 1, 0), ("0,1", 2, 2)]:
            ratios = []
            for _ in range(arguments.rounds):
                run = lambda *command: subprocess.run(["taskset", "-c", cores, *command], check=True, capture_output=True, text=True).stdout
                ours = json.loads(run(program[1], packed, str(threads), str(arguments.passes)))["images_per_second"]
                theirs = float(run(arguments.python, "-W", "ignore", "-c", TORCHVISION, tree, str(workers), str(arguments.passes)))
                ratios.append(ours / theirs)
                print(f"  core(s) {cores}: amlfs {ours:.0f} images/s, torchvision {theirs:.0f}, ratio {ratios[-1]:.2f}", flush=True)
            print(f"core(s) {cores}: median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
