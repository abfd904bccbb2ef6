"""MegaFace identification against faiss's exact inner-product index, side by side on one machine.

3,530 probes of 80 identities against 1,000,000 distractors of 512 random unit features. Ours: the whole process, for the
first 10, 100, ... 1,000,000 distractors rank-1 to rank-1000 and the verification rate at FAR 1e-6; with several threads, and
with as many ranks of one thread. faiss (faiss-cpu): IndexFlatIP, the largest score only (k = 1), the search alone and with adding
the features. faiss' OpenBLAS may not know the processor and take old kernels: all that
run here are tried first, the fastest is taken, and OPENBLAS_CORETYPE of the environment counts for nothing. Rounds
alternate; the ratios of a round count, since the machine may be shared. Memory of ours: the largest RssAnon, that is,
without the mapped features.

    pip install numpy h5py faiss-cpu threadpoolctl
    python benches/identification.py --threads 1 2
"""
import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib

import faiss
import h5py
import numpy as np
import threadpoolctl

COMMAND = "{program} evaluate megaface --json --facescrub {probes} --megaface {distractors} --threads {threads}"
PROBES, IDENTITIES, DIMENSIONS, BLOCK = 3530, 80, 512, 8192
# OpenBLAS' names; "": what it chooses itself
KERNELS = ["", "Haswell", "Zen", "SkylakeX", "Cooperlake", "SapphireRapids"]
TRIAL = "--trial"


def limit_threads(threads):
    """Of faiss and of its OpenBLAS."""
    faiss.omp_set_num_threads(threads)
    threadpoolctl.threadpool_limits(threads)


def trial():
    """Prints how many seconds 20,000 distractors take with the kernels of this process, and which these are."""
    rng = np.random.default_rng(1)
    probes, distractors = unit(rng, PROBES), unit(rng, 20_000)
    limit_threads(1)
    search(probes, distractors[:1000])
    seconds = min(search(probes, distractors)[1] for _ in range(2))
    found = {library.get("architecture") for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}
    print(json.dumps([seconds, sorted(map(str, found))]))


def with_best_kernels():
    """Tries the kernels, and goes on with the fastest as a new process."""
    chosen = "AMLFS_BENCH_KERNELS"
    if chosen in os.environ:
        print(f"faiss {faiss.__version__} with OPENBLAS_CORETYPE={os.environ[chosen] or '(its own choice)'}", flush=True)
        return
    tried = {}
    for kernels in KERNELS:
        environment = {**os.environ, "OPENBLAS_CORETYPE": kernels}
        if not kernels:
            del environment["OPENBLAS_CORETYPE"]
        done = subprocess.run([sys.executable, __file__, TRIAL], env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            tried[kernels], found = json.loads(done.stdout)
            print(f"  OPENBLAS_CORETYPE={kernels or '(none)'}: {tried[kernels]:.2f} s, {', '.join(found)}", flush=True)
    best = min(tried, key=tried.get)
    environment = {**os.environ, chosen: best, "OPENBLAS_CORETYPE": best}
    if not best:
        del environment["OPENBLAS_CORETYPE"]
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def unit(rng, rows):
    features = rng.standard_normal((rows, DIMENSIONS), dtype=np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def write_embeddings(path, labels, blocks, count):
    """A file as 'amlfs export embeddings' writes it (docs/format.md)."""
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file.attrs["filetype"] = "amlfs embeddings"
        file.attrs["version"] = np.array([1, 0], "i4")
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_layout(h5py.h5d.CONTIGUOUS)
        space = h5py.h5s.create_simple((count, DIMENSIONS))
        rows = h5py.Dataset(h5py.h5d.create(file.id, b"embedding", h5py.h5t.IEEE_F32LE, space, layout))
        checksums, first = np.empty(count, "u4"), 0
        for block in blocks:
            rows[first : first + len(block)] = block
            checksums[first : first + len(block)] = [zlib.crc32(row) for row in block]
            first += len(block)
        file["crc32"] = checksums
        file["label"] = labels.astype("u4")
        file.create_dataset("name", data=[str(i) for i in range(count)], dtype=h5py.string_dtype())
        file.create_dataset("identity", data=[str(i) for i in range(labels.max() + 1)], dtype=h5py.string_dtype())
        begin, length = rows.id.get_offset(), rows.id.get_storage_size()
    content = np.memmap(path, "u1", "r")
    trailer = b"AMLFSMAP" + struct.pack("<QQ", begin, length)
    checksum = zlib.crc32(trailer, zlib.crc32(content[begin + length :], zlib.crc32(content[:begin])))
    with open(path, "ab") as file:
        file.write(trailer + struct.pack("<I", checksum))
    return np.memmap(path, np.float32, "r", begin, (count, DIMENSIONS))


def write(directory, distractors):
    """Returns the probes, their labels, the mapped distractors and the paths of both."""
    rng = np.random.default_rng(1)
    labels = np.arange(PROBES) % IDENTITIES
    probes = 0.45 * unit(rng, IDENTITIES)[labels] + unit(rng, PROBES)  # mates among the nearest distractors
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    paths = [os.path.join(directory, name) for name in ("probes.h5", "distractors.h5")]
    write_embeddings(paths[0], labels, [probes], PROBES)
    blocks = (unit(rng, min(BLOCK, distractors - first)) for first in range(0, distractors, BLOCK))
    features = write_embeddings(paths[1], np.zeros(distractors, int), blocks, distractors)
    return probes, labels, features, paths


def ours(command):
    """Runs the command; returns its seconds, its largest RssAnon in MiB and what it printed."""
    start = time.perf_counter()
    process = subprocess.Popen(command.split(), stdout=subprocess.PIPE, text=True)
    largest = 0

    def watch():
        nonlocal largest
        while process.poll() is None:
            try:
                with open(f"/proc/{process.pid}/status") as status:
                    sizes = [int(line.split()[1]) for line in status if line.startswith("RssAnon")]
                largest = max(largest, *sizes, 0)
            except (FileNotFoundError, ProcessLookupError):
                return
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = process.stdout.read()
    if process.wait():
        raise SystemExit(f"{command}: exit code {process.returncode}")
    seconds = time.perf_counter() - start
    watcher.join()
    return seconds, largest / 1024, output


def search(probes, distractors):
    """Returns the seconds of adding and of searching, and each probe's largest score."""
    start = time.perf_counter()
    index = faiss.IndexFlatIP(DIMENSIONS)
    index.add(distractors)
    added = time.perf_counter()
    scores, _ = index.search(probes, 1)
    return added - start, time.perf_counter() - added, scores[:, 0]


def rank1(probes, labels, largest):
    scores = probes @ probes.T
    mates = labels[:, None] == labels[None, :]
    np.fill_diagonal(mates, False)
    return np.mean((scores >= largest[:, None])[mates])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default="target/release/amlfs")
    parser.add_argument("--distractors", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", default="/tmp", help="where 2 GB of features are kept meanwhile")
    arguments = parser.parse_args()
    with_best_kernels()
    directory = tempfile.mkdtemp(dir=arguments.directory)
    try:
        probes, labels, distractors, paths = write(directory, arguments.distractors)
        names = {"program": arguments.program, "probes": paths[0], "distractors": paths[1]}
        for threads in arguments.threads:
            limit_threads(threads)
            commands = {"ours": COMMAND.format(threads=threads, **names)}
            if threads > 1:
                commands[f"{threads} ranks"] = f"mpirun -n {threads} {COMMAND.format(threads=1, **names)}"
            seconds, memory, adding, searching, results = {name: [] for name in commands}, [], [], [], set()
            for _ in range(arguments.rounds):
                for name, command in commands.items():
                    elapsed, largest, output = ours(command)
                    seconds[name].append(elapsed)
                    if name == "ours":
                        memory.append(largest)
                    results.add(json.loads(output)["results"][-1]["raw"]["rank1"])
                add, found, scores = search(probes, distractors)
                adding.append(add)
                searching.append(found)
                latest = ", ".join(f"{name} {elapsed[-1]:.2f} s" for name, elapsed in seconds.items())
                print(f"  {threads} threads: {latest} {memory[-1]:.0f} MiB, faiss {add:.2f} + {found:.2f} s", flush=True)
            both = [add + found for add, found in zip(adding, searching)]
            ratio = lambda mine, theirs: round(statistics.median(a / b for a, b in zip(mine, theirs)), 3)
            print(json.dumps({
                "threads": threads,
                "distractors": arguments.distractors,
                "rounds": arguments.rounds,
                "s": {name: round(statistics.median(elapsed), 3) for name, elapsed in seconds.items()},
                "faiss search, s": round(statistics.median(searching), 3),
                "to faiss search": {name: ratio(elapsed, searching) for name, elapsed in seconds.items()},
                "to faiss add and search": {name: ratio(elapsed, both) for name, elapsed in seconds.items()},
                "anonymous memory, MiB": round(max(memory)),
                "rank-1 of faiss": float(rank1(probes, labels, scores)),
                "rank-1 of ours": sorted(results),
            }))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    trial() if sys.argv[1:] == [TRIAL] else main()
