"""amlfs' packed file against torchvision's ImageFolder + DataLoader, side by side: JPEGs to normalised batches in f32.

    --task faces    112 x 96, quality 95: shuffled and mirrored, batches of 256
    --task images   500 x 375, quality 85 to 92: shuffled, RandomResizedCrop(224), mirrored, batches of 128

torchvision runs with Pillow (`ImageFolder` as it is), with its own decoder and v2's transforms on tensors
(`torchvision.io.decode_image`), and with Pillow-SIMD where --pillow-simd says where that is. One core: ours has one loader
thread and the main thread pinned to it, torchvision loads in its own process (workers = 0) on the same core, and seconds are
the processor's, which others on the machine don't change much. Two cores: seconds of the clock. All run with the malloc
settings that amlfs gives itself. Rounds alternate; a round's ratio counts.

    pip install torch torchvision numpy pillow
    CC="cc -mavx2" pip install --target pillow-simd pillow-simd      # compiles: needs libjpeg's and zlib's headers
    python benches/loader.py --task faces --source ../shared/data/orl-faces.zip
    python benches/loader.py --task images --source ../shared/data/cifar10.zip
"""
import argparse
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
from PIL import Image

# src/process.rs
MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296"


def save(directory, name, pixels, quality):
    os.makedirs(directory, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(os.path.join(directory, name), quality=quality)


def make_faces(directory, faces, count):
    """`count` JPEGs of quality 95 made of the real faces: shifted, tinted and with some sensor noise."""
    rng = np.random.default_rng(1)
    with zipfile.ZipFile(faces) as archive:
        names = [name for name in archive.namelist() if name.endswith(".pgm")]
        pictures = [Image.open(io.BytesIO(archive.read(name))).resize((104, 120)) for name in names]
    for i in range(count):
        picture = np.asarray(pictures[i % len(pictures)], np.float32)
        y, x = rng.integers(0, 9, 2)
        rgb = picture[y : y + 112, x : x + 96, None] * rng.uniform(0.75, 1.1, 3) + rng.normal(0, 3, (112, 96, 1))
        save(os.path.join(directory, f"{i % 40:03}"), f"{i}.jpg", rgb, 95)


def make_images(directory, cifar, count):
    """`count` JPEGs of 500 x 375: CIFAR-10's, enlarged, with detail whose amplitude falls with the frequency, as in
    photographs; as many bytes as ImageNet's have."""
    rng = np.random.default_rng(1)
    frequency = np.hypot(np.fft.fftfreq(375)[:, None], np.fft.rfftfreq(500)[None])
    details = []
    for _ in range(32):
        noise = np.fft.rfft2(rng.normal(size=(375, 500))) / np.maximum(frequency, 1 / 32)
        detail = np.fft.irfft2(noise, s=(375, 500))
        details.append(detail / detail.std())
    shifted = lambda i: np.roll(details[i % 32], rng.integers(0, 300, 2), (0, 1))[..., None]
    with zipfile.ZipFile(cifar) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("train/"))
        for i in range(count):
            small = Image.open(io.BytesIO(archive.read(names[i * 37 % len(names)]))).convert("RGB")
            rgb = np.asarray(small.resize((500, 500), Image.BICUBIC), np.float32)[62:437]
            rgb = rgb + rng.uniform(14, 36) * shifted(i) + rng.uniform(1, 3) * shifted(i * 7 + 3) * [1, -0.5, 0.6]
            save(os.path.join(directory, f"{i % 20:03}"), f"{i}.jpg", rgb, int(rng.integers(85, 93)))


# directory, task, peer, batch, workers, passes
TORCHVISION = """
import sys, time, torch
from torchvision import datasets, io, transforms
from torchvision.transforms import v2
directory, task, peer = sys.argv[1:4]
batch, workers, passes = map(int, sys.argv[4:])
torch.set_num_threads(1)
numbers = ([0.5] * 3, [0.5] * 3) if task == "faces" else ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
own_decoder = peer == "torchvision.io"
t, to_tensor = (v2, [v2.ToDtype(torch.float32, scale=True)]) if own_decoder else (transforms, [transforms.ToTensor()])
crop = [t.RandomResizedCrop(224, antialias=True)] if task == "images" else []
transform = t.Compose(crop + [t.RandomHorizontalFlip()] + to_tensor + [t.Normalize(*numbers)])
own = {"loader": lambda path: io.decode_image(path, mode=io.ImageReadMode.RGB)} if own_decoder else {}
folder = datasets.ImageFolder(directory, transform, **own)
loader = torch.utils.data.DataLoader(folder, batch_size=batch, shuffle=True, num_workers=workers)
clock = time.perf_counter if workers else time.process_time
start, count = clock(), 0
for _ in range(passes):
    for images, labels in loader:
        count += len(images)
print(count / (clock() - start))
"""
VERSIONS = """
import PIL, torch, torchvision
from PIL import features
print("torch", torch.__version__, "torchvision", torchvision.__version__, "Pillow", PIL.__version__,
      "with libjpeg-turbo", features.version("libjpeg_turbo"))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=["faces", "images"], required=True)
    parser.add_argument("--source", required=True, help="orl-faces.zip for faces, cifar10.zip for images")
    parser.add_argument("--pillow-simd", help="directory that Pillow-SIMD is installed in")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    task, batch = arguments.task, 256 if arguments.task == "faces" else 128
    build = subprocess.run(["cargo", "bench", "--bench", "loader", "--no-run"], capture_output=True, text=True)
    program = re.search(r"\((\S*loader-\w+)\)", build.stderr)
    if not program:
        raise SystemExit(build.stderr)
    amlfs = os.path.join(os.path.dirname(program[1]), "..", "amlfs")
    environment = os.environ | {"GLIBC_TUNABLES": MALLOC}

    # the environment of each peer's Python
    peers = {"Pillow": environment, "torchvision.io": environment}
    if arguments.pillow_simd:
        peers["Pillow-SIMD"] = environment | {"PYTHONPATH": os.path.abspath(arguments.pillow_simd)}

    def run(environment, *command):
        command = list(map(str, command))
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout

    with tempfile.TemporaryDirectory() as directory:
        tree, packed = os.path.join(directory, "tree"), os.path.join(directory, "packed.h5")
        {"faces": make_faces, "images": make_images}[task](tree, arguments.source, arguments.images)
        subprocess.run([amlfs, "prepare", task, tree, "--out", packed], check=True)
        for peer in peers:
            print(f"{peer}: {run(peers[peer], sys.executable, '-c', VERSIONS).strip()}")
        print(os.path.getsize(packed) // arguments.images, "bytes per image")
        for cores, threads, workers in [("0", 1, 0), ("0,1", 2, 2)]:
            ratios = {peer: [] for peer in peers}
            pinned = ["taskset", "-c", cores]
            for _ in range(arguments.rounds):
                ours = run(environment, *pinned, program[1], task, packed, batch, threads, arguments.passes)
                ours = json.loads(ours)
                ours = ours["images"] / ours["seconds" if workers else "cpu_seconds"]
                line = f"  core(s) {cores}: amlfs {ours:.0f} images/s"
                for peer in peers:
                    theirs = [sys.executable, "-W", "ignore", "-c", TORCHVISION, tree, task, peer, batch, workers]
                    theirs = float(run(peers[peer], *pinned, *theirs, arguments.passes))
                    ratios[peer].append(ours / theirs)
                    line += f"; {peer} {theirs:.0f}, ratio {ratios[peer][-1]:.2f}"
                print(line, flush=True)
            medians = ", ".join(f"{peer} {statistics.median(ratios[peer]):.2f}" for peer in ratios)
            print(f"core(s) {cores}: median ratios: {medians}")


if __name__ == "__main__":
    main()
