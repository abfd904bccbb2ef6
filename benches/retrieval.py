"""Person re-identification at Market-1501's size: CMC and mAP against torchreid's Cython path, and k-reciprocal
re-ranking against the authors' published Python, side by side on one machine.

Features are synthetic: identities are random centres in a few dimensions with noise, turned into 2,048. All times
start with features in memory.
  plain     ours: everything. torchreid: compute_distance_matrix (torch, squared Euclidean), then evaluate_cy.
  reranked  ours: everything from features to the figures. Theirs: re_ranking(q_g, q_q, g_g) alone, its distance
            matrices being there already; it squares its input, so that gets Euclidean distances.
Rounds alternate; the ratio of a round counts, since the machine may be shared. Each run is a process of its own; memory
is the largest resident set. The re-ranked distances are compared once: a neighbour list that is cut within f32's rounding
may differ, hence the share of distances that differ by more than 1e-5 is shown too.

    pip install torch numpy cython setuptools
    git clone https://github.com/KaiyangZhou/deep-person-reid
    python benches/retrieval.py --torchreid deep-person-reid
"""
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

import numpy as np

THEIRS = """
import json, os, resource, sys, time
import numpy as np, torch
directory, threads, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(threads)
from distance import compute_distance_matrix
from rank_cy import evaluate_cy
from rerank import re_ranking
read = lambda name: np.load(os.path.join(directory, name + ".npy"))
query, gallery = torch.from_numpy(read("query")), torch.from_numpy(read("gallery"))
labels = [read(name) for name in ("query_ids", "gallery_ids", "query_cameras", "gallery_cameras")]
if what == "plain":
    start = time.perf_counter()
    distances = compute_distance_matrix(query, gallery, "euclidean").numpy()
    cmc, map = evaluate_cy(distances, *labels, 50)
    seconds = time.perf_counter() - start
else:
    between = lambda a, b: compute_distance_matrix(a, b, "euclidean").clamp_(min=0).sqrt_().numpy()
    matrices = between(query, gallery), between(query, query), between(gallery, gallery)
    start = time.perf_counter()
    distances = re_ranking(*matrices, k1=20, k2=6, lambda_value=0.3)
    seconds = time.perf_counter() - start
    cmc, map = evaluate_cy(distances, *labels, 50)
    np.save(os.path.join(directory, "theirs.npy"), distances)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "mib": memory, "map": float(map), "cmc": np.asarray(cmc).tolist()}))
"""
# as the program sets it for itself (src/process.rs)
TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296"


def build_torchreid(checkout, directory):
    """Copies what is measured out of a checkout, without the rest's imports, and builds its Cython."""
    for file in ["metrics/distance.py", "utils/rerank.py", "metrics/rank_cylib/rank_cy.pyx", "metrics/rank_cylib/setup.py"]:
        shutil.copy(os.path.join(checkout, "torchreid", file), directory)
    built = subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=directory,
                           capture_output=True, text=True)
    if built.returncode != 0:
        raise SystemExit(built.stdout + built.stderr)


def write(directory, queries, gallery, dimensions, noise):
    rng = np.random.default_rng(1)
    identities = max(2, 750 * gallery // 15913)
    background = gallery * 2798 // 15913  # id 0, everyone alone
    ids = {"query": np.arange(queries) % identities + 1}
    ids["gallery"] = np.concatenate([np.arange(gallery - background) % identities + 1, np.zeros(background, np.int64)])
    rng.shuffle(ids["gallery"])
    latent = 32
    centres, turn = rng.standard_normal((identities + 1, latent)), rng.standard_normal((latent, dimensions))
    for name, of in ids.items():
        features = np.where(of[:, None] > 0, centres[of], rng.standard_normal((len(of), latent)))
        features = (features + noise * rng.standard_normal(features.shape)) @ turn
        features += 0.5 * rng.standard_normal(features.shape)
        np.save(os.path.join(directory, f"{name}.npy"), features.astype(np.float32))
        np.save(os.path.join(directory, f"{name}_ids.npy"), of)
        np.save(os.path.join(directory, f"{name}_cameras.npy"), rng.integers(1, 7, len(of)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torchreid", required=True, help="a checkout of KaiyangZhou/deep-person-reid")
    parser.add_argument("--queries", type=int, default=3368)
    parser.add_argument("--gallery", type=int, default=15913)
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--noise", type=float, default=0.75, help="mAP is 0.72 at the default size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reranking-rounds", type=int, default=3)
    parser.add_argument("--directory", default="/tmp", help="where 600 MB are kept meanwhile")
    arguments = parser.parse_args()
    build = subprocess.run(["cargo", "bench", "--bench", "retrieval", "--no-run"], capture_output=True, text=True)
    program = re.search(r"\((\S*retrieval-\w+)\)", build.stderr)
    if not program:
        raise SystemExit(build.stderr)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        torchreid = os.path.join(directory, "torchreid")
        os.mkdir(torchreid)
        build_torchreid(arguments.torchreid, torchreid)
        write(directory, arguments.queries, arguments.gallery, arguments.dimensions, arguments.noise)

        def run(*command):
            environment = os.environ | {"GLIBC_TUNABLES": TUNABLES} if command[0] == program[1] else os.environ
            environment = environment | {"PYTHONPATH": torchreid}
            return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout

        for what, rounds in [("plain", arguments.rounds), ("reranked", arguments.reranking_rounds)]:
            results = []
            for _ in range(rounds):
                parameters = directory, str(arguments.threads), what
                ours = json.loads(run(program[1], *parameters))
                theirs = json.loads(run(sys.executable, "-W", "ignore", "-c", THEIRS, *parameters).splitlines()[-1])
                results.append((ours, theirs))
                print(f"  {what}: ours {ours['seconds']:.2f} s, theirs {theirs['seconds']:.2f} s, "
                      f"ratio {theirs['seconds'] / ours['seconds']:.2f}", flush=True)
            if not results:
                continue
            median = lambda of: statistics.median(of(ours, theirs) for ours, theirs in results)
            summary = {
                "what": what,
                "threads": arguments.threads,
                "ours, s": round(median(lambda ours, theirs: ours["seconds"]), 3),
                "theirs, s": round(median(lambda ours, theirs: theirs["seconds"]), 3),
                "theirs / ours": round(median(lambda ours, theirs: theirs["seconds"] / ours["seconds"]), 2),
                "memory of ours, MiB": round(max(ours["mib"] for ours, _ in results)),
                "memory of theirs, MiB": round(max(theirs["mib"] for _, theirs in results)),
                "mAP of ours": ours["map"],
                "mAP of theirs": theirs["map"],
                "trapezoid mAP, mINP of ours": [ours["map_trapezoid"], ours["minp"]],
                "largest difference of CMC": max(abs(a - b) for a, b in zip(ours["cmc"], theirs["cmc"], strict=True)),
            }
            if what == "reranked":
                run(program[1], directory, str(arguments.threads), "distances")
                load = lambda name: np.load(os.path.join(directory, name))
                difference = np.abs(load("ours.npy") - load("theirs.npy"))
                summary["largest difference of distances"] = float(difference.max())
                summary["share of differences > 1e-5"] = float(np.mean(difference > 1e-5))
                summary["queries with differences > 1e-5"] = int(np.sum((difference > 1e-5).any(1)))
            print(json.dumps(summary))


if __name__ == "__main__":
    main()
