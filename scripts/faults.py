#!/usr/bin/env python3
"""Disturbs short runs in all ways that a cluster knows, goes on as their user would, and compares every bit.

usage: scripts/faults.py EVENTS SEED [--binary FILE] [--minutes M] [--only KIND,KIND]

Small searches on generated faces, in rounds of two epochs, each start on 1 to 4 ranks, are disturbed at random moments,
start-up included. After each event the run is continued; a run that is complete must have the weights, policy and history
of one that was left alone. Counted per kind of event: runs that ended otherwise than they should (with 75, they must have
saved everything), hangs (still there, or without progress, 30 s after the event), epochs lost that were saved, runs with
wrong bits. Exit code 1 if there is any.

The same SEED draws the same events; when they hit depends on the machine. --minutes ends the campaign early. As root, the
runs are on a small file system of their own, for full and read-only disks; else these kinds are left out.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
EPOCHS = 10
SETTINGS = f"""--preset=faces-small --search=paper --device=cpu --threads=1 --samples=4 --policy=mirrored --epochs={EPOCHS}
    --set=search.warmup_epochs=0 --set=search.sigma=0.2 --set=data.faces.size=[32,32] --set=data.faces.probe_identities=4
    --set=data.faces.distractor_identities=4 --set=data.faces.images_per_identity=5 --set=data.crop_padding=2
    --set=model.width=0.125 --set=train.batch_size=20 --set=train.milestones=[8] --set=search.round_epochs=2
    --set=run.save_minutes=0.003""".split()
HANG = 30  # seconds
MEGABYTES = 64  # of the small file system
STOPPED = 75
MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


class Wrong(Exception):
    """What must not be: a kind of failure and a sentence."""


class Missed(Exception):
    """The run was over before the event."""


class Place:
    """Where the runs are: a file system of their own, if that can be mounted."""

    def __init__(self, directory):
        self.path = directory / "disk"
        self.path.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", self.path]
        self.mounted = subprocess.run(mount, capture_output=True).returncode == 0

    def remount(self, how):
        end = time.monotonic() + HANG  # files of a process that was killed are closed a moment later
        while subprocess.run(["mount", "-o", f"remount,{how}", self.path], capture_output=True).returncode != 0:
            if time.monotonic() > end:
                raise Missed
            time.sleep(0.1)

    def end(self):
        if self.mounted:
            subprocess.run(["umount", "-l", self.path], check=True)


class Run:
    """A search in a directory, and the process that works on it."""

    def __init__(self, binary, data, out):
        self.binary, self.data, self.out = binary, data, out
        self.log = data.with_name(f"{out.name}.log")
        self.process, self.ranks = None, 0

    def command(self, ranks):
        program = [self.binary, *SETTINGS, f"--data={self.data}", f"--out={self.out}", "--resume"]
        return ["mpirun", "-n", str(ranks), *map(str, program)]

    def start(self, ranks):
        self.ranks = ranks
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(self.command(ranks), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=os.environ | MPI, start_new_session=True)

    def pids(self):
        found = []
        flag = f"--out={self.out}".encode()
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                try:
                    words = pathlib.Path(entry.path, "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if words[0] == bytes(self.binary) and flag in words:
                    found.append(int(entry.name))
        return sorted(found)

    def saved(self):
        """Epochs that are saved."""
        if (self.out / "final.h5").exists():
            return EPOCHS
        return max((int(file.stem[6:]) for file in self.out.glob("epoch-*.h5")), default=0)

    def kept(self):
        """Files of the samples of rounds that are not saved yet."""
        return sorted((self.out / ".samples").glob("*/*.h5"))

    def progress(self):
        try:
            return self.saved(), [file.stat().st_mtime for file in self.kept()]
        except FileNotFoundError:  # just removed
            return self.saved(), []

    def newest(self):
        return self.out / f"epoch-{self.saved():04}.h5"

    def some_rank(self, rng):
        pids = self.pids()
        if not pids:
            raise Missed
        return rng.choice(pids)

    def ended(self):
        return self.process.poll() is not None

    def wait(self):
        """The exit code. A hang: HANG seconds in which nothing new is saved."""
        seen, since = None, time.monotonic()
        while not self.ended() or self.pids():
            if self.progress() != seen:
                seen, since = self.progress(), time.monotonic()
            if time.monotonic() - since > HANG:
                stacks = " ".join(map(str, self.pids()))
                self.kill()
                raise Wrong("hangs", f"nothing for {HANG} s, {self.ranks} ranks, processes {stacks}: {self.said()}")
            time.sleep(0.02)
        return self.process.returncode

    def kill(self):
        """Everything at once, as when the power fails."""
        for pid in [self.process.pid, *self.pids()]:
            send(pid, signal.SIGKILL)
        self.process.wait()
        while self.pids():
            time.sleep(0.01)

    def said(self):
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-12:])

    def expect(self, codes, saved):
        """Waits; the run must end with one of these codes and have all that was saved before."""
        code = self.wait()
        if self.saved() < saved:
            raise Wrong("lost epochs", f"{saved} epochs were saved, {self.saved()} are")
        if code not in codes:
            raise Wrong("wrong ends", f"exit code {code}, not {codes}: {self.said()}")
        if code == STOPPED and "everything is saved" not in self.said():
            raise Wrong("wrong ends", f"{STOPPED}, but not everything is saved: {self.said()}")
        return code


def send(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


# --- events: each gets a run that is under way, and returns when it has ended or goes on undisturbed -----------------

def kill_rank(run, rng, place):
    saved = run.saved()
    send(run.some_rank(rng), signal.SIGKILL)
    run.expect(range(256), saved)  # 0: it had done its work


def kill_all(run, rng, place):
    saved = run.saved()
    run.kill()
    if run.saved() < saved:
        raise Wrong("lost epochs", f"{saved} epochs were saved, {run.saved()} are")


def signal_all(number):
    def event(run, rng, place):
        saved = run.saved()
        for pid in run.pids():
            while loading(pid):
                time.sleep(0.001)
            send(pid, number)
        run.expect([0, STOPPED], saved)
    return event


def loading(pid):
    """Whether a process is in its first hundredth of a second, in which its libraries are loaded and signals end it."""
    try:
        status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:
        return False
    held = int(status["SigBlk"], 16) | int(status["SigCgt"], 16)
    return status["State"].split()[0] not in "ZX" and not held & 1 << signal.SIGUSR1 - 1


def stop_file(run, rng, place):
    saved = run.saved()
    run.out.mkdir(exist_ok=True)
    (run.out / "STOP").touch()
    run.expect([0, STOPPED], saved)


def freeze(run, rng, place):
    saved = run.saved()
    pid = run.some_rank(rng)
    send(pid, signal.SIGSTOP)
    time.sleep(rng.uniform(0.2, 4))
    send(pid, signal.SIGCONT)
    run.expect([0], saved)


def damage(change):
    """Damages the newest checkpoint of a killed run, or a kept sample. The next start names the checkpoint, its user
    removes it, and the run goes on from the one before; a sample is trained again."""
    def event(run, rng, place):
        kill_all(run, rng, place)
        checkpoints = sorted(run.out.glob("epoch-*.h5"))
        files = checkpoints[-1:] + run.kept()
        if (run.out / "final.h5").exists() or not files:
            raise Missed
        file = rng.choice(files)
        change(file, rng)
        run.start(rng.randint(1, 4))
        if file not in checkpoints:
            run.expect([0], run.saved())
            return
        code = run.wait()
        if code != 1 or file.name not in run.said():
            raise Wrong("wrong ends", f"a damaged {file.name}: exit code {code}: {run.said()}")
        file.unlink()
        if sorted(run.out.glob("epoch-*.h5")) != checkpoints[:-1]:
            raise Wrong("lost epochs", f"of {len(checkpoints)} checkpoints, one of them damaged")
    return event


def truncate(file, rng):
    os.truncate(file, rng.randrange(file.stat().st_size))


def flip(file, rng):
    with open(file, "r+b") as handle:
        place = rng.randrange(file.stat().st_size)
        handle.seek(place)
        byte = handle.read(1)[0]
        handle.seek(place)
        handle.write(bytes([byte ^ 1 << rng.randrange(8)]))


def full_disk(run, rng, place):
    saved = run.saved()
    filler = place.path / "filler"
    try:
        with open(filler, "wb", buffering=0) as handle:
            while handle.write(bytes(1 << 16)):
                pass
    except OSError:
        pass
    end = time.monotonic() + rng.uniform(1, 8)
    while time.monotonic() < end and not run.ended():
        time.sleep(0.05)
    filler.unlink()
    run.expect([0, 1], saved)


def read_only(run, rng, place):
    """The run ends, and finds a read-only disk when it is started again."""
    kill_all(run, rng, place)
    saved = run.saved()
    place.remount("ro")
    try:
        process = subprocess.run(run.command(rng.randint(1, 4)), env=os.environ | MPI, capture_output=True, text=True,
                                 stdin=subprocess.DEVNULL, timeout=4 * HANG)
    finally:
        place.remount("rw")
    complete = (run.out / "final.h5").exists()
    if process.returncode != 1 or "Read-only file system" not in process.stderr:
        if not (complete and process.returncode == 0):
            raise Wrong("wrong ends", f"exit code {process.returncode} on a read-only disk: {process.stderr[-600:]}")
    if run.saved() < saved:
        raise Wrong("lost epochs", f"{saved} epochs were saved, {run.saved()} are")


def two_owners(run, rng, place):
    """A second run in the directory of one that is under way, which is not disturbed."""
    saved = run.saved()
    second = subprocess.run(run.command(rng.randint(1, 4)), env=os.environ | MPI, capture_output=True, text=True,
                            stdin=subprocess.DEVNULL, timeout=8 * HANG)
    refused = second.returncode == 1 and "works in this directory" in second.stderr
    if not refused and second.returncode != 0:
        raise Wrong("wrong ends", f"the second run: exit code {second.returncode}: {second.stderr[-600:]}")
    # at start-up either may be first, and the second may even be through before the first begins; after the end of the
    # first the second may go on
    first = run.process.poll()
    run.expect([0] if refused else [0, 1], saved)
    if not refused and first is None and "reward min" in run.log.read_text():
        raise Wrong("wrong ends", f"two runs at once: {run.said()}")


def deleted_data(run, rng, place):
    """The data are gone: a run that has opened them may go on, one that starts names them."""
    away = run.data.with_name("away.h5")
    saved = run.saved()
    run.data.rename(away)
    try:
        code = run.wait()
        if code not in (0, 1, 78):
            raise Wrong("wrong ends", f"exit code {code} without data: {run.said()}")
        if code == 0:
            return
        if run.data.name not in run.said():
            raise Wrong("wrong ends", f"the data are not named: {run.said()}")
    finally:
        away.rename(run.data)
    if run.saved() < saved:
        raise Wrong("lost epochs", f"{saved} epochs were saved, {run.saved()} are")


def shorter_data(run, rng, place):
    """The data file is cut under a run that has mapped it: the run names it, or has read what it needs."""
    away = run.data.with_name("away.h5")
    saved = run.saved()
    shutil.copy(run.data, away)
    os.truncate(run.data, rng.randrange(run.data.stat().st_size))
    try:
        code = run.wait()
        if code != 0 and (code not in (1, 78) or run.data.name not in run.said()):
            raise Wrong("wrong ends", f"exit code {code} with shorter data: {run.said()}")
    finally:
        away.rename(run.data)
    if run.saved() < saved:
        raise Wrong("lost epochs", f"{saved} epochs were saved, {run.saved()} are")


EVENTS = {
    "kill -9 of a rank": kill_rank,
    "kill -9 of all": kill_all,
    "TERM": signal_all(signal.SIGTERM),
    "USR1": signal_all(signal.SIGUSR1),
    "STOP file": stop_file,
    "a rank frozen": freeze,
    "truncated file": damage(truncate),
    "flipped bit": damage(flip),
    "two owners": two_owners,
    "deleted data": deleted_data,
    "shorter data": shorter_data,
    "full disk": full_disk,
    "read-only disk": read_only,
}
NEED_A_DISK = ["full disk", "read-only disk"]


def result(binary, out):
    """What must be the same to the last bit: weights; policy, history and test without timings."""
    weights = out / "weights.safetensors"
    subprocess.run([binary, "export", "weights", "--model", out / "final.h5", "--out", weights], check=True,
                   capture_output=True)
    found = json.loads(subprocess.run([binary, "inspect", "--json", out / "final.h5"], check=True,
                                      capture_output=True).stdout)

    def timeless(value):
        if isinstance(value, dict):
            return {name: timeless(part) for name, part in value.items()
                    if not name.endswith("seconds") and name not in ("images_per_second", "ranks")}
        return [timeless(part) for part in value] if isinstance(value, list) else value

    content = weights.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:length])
    del header["__metadata__"]
    found["weights"] = header, zlib.crc32(content[length:])
    return {name: json.dumps(timeless(part)) for name, part in found.items() if name != "ranks"}


class Campaign:
    def __init__(self, options, directory):
        self.options, self.rng = options, random.Random(options.seed)
        self.directory, self.binary = directory, options.binary.resolve()
        self.place = Place(directory)
        self.counts = collections.defaultdict(collections.Counter)
        kinds = [kind for kind in EVENTS if self.place.mounted or kind not in NEED_A_DISK]
        self.kinds = [kind for kind in kinds if not options.only or kind in options.only]
        self.events, self.runs = 0, 0

    def prepare(self):
        images, self.data = self.directory / "images", self.directory / "faces.h5"
        for words in (["glyphs", images, "--identities=24", "--images=5", "--size=32x32"],
                      ["faces", images, "--out", self.data, "--size=32x32"]):
            subprocess.run([self.binary, "prepare", *words], check=True, capture_output=True)
        straight = Run(self.binary, self.data, self.directory / "straight")
        start = time.monotonic()
        straight.start(2)
        straight.expect([0], 0)
        self.length = time.monotonic() - start
        self.expected = result(self.binary, straight.out)
        print(f"a run that is left alone: {EPOCHS} epochs, {self.length:.1f} s on 2 ranks", flush=True)

    def over(self):
        late = time.monotonic() > self.options.end
        return late or self.events >= self.options.events

    def disturb(self, run):
        """Starts the run and lets an event happen. Returns its kind, or None if the run was faster."""
        kind, ranks = self.rng.choice(self.kinds), self.rng.randint(1, 4)
        early, share = self.rng.random() < 0.3, self.rng.random()
        run.start(ranks)
        while not run.pids() and not run.ended():
            time.sleep(0.002)
        moment = time.monotonic() + share * (1.5 if early else self.length * max(ranks, 2) / 2)
        while time.monotonic() < moment and not run.ended():
            time.sleep(0.002)
        if run.ended() or not run.pids():
            run.expect([0], run.saved())
            return None
        at = f"event {self.events + 1}, {kind}, {ranks} ranks, {run.saved()} epochs saved"
        try:
            EVENTS[kind](run, self.rng, self.place)
        except Missed:
            run.wait()  # nothing if it was killed
            return None
        except Wrong as wrong:
            run.kill()
            what, why = wrong.args
            self.counts[kind][what] += 1
            print(f"{at}: {what}: {why}", flush=True)
        self.events += 1
        self.counts[kind]["events"] += 1
        return kind

    def run(self):
        self.prepare()
        while not self.over():
            self.runs += 1
            run = Run(self.binary, self.data, self.place.path / f"run{self.runs}")
            kinds = []
            while not (run.out / "final.h5").exists():
                if self.over():
                    run.start(self.rng.randint(1, 4))
                    run.expect([0], run.saved())
                else:
                    kinds.append(self.disturb(run))
            found = result(self.binary, run.out)
            differ = [name for name in found if found[name] != self.expected[name]]
            if differ:
                kinds = [kind for kind in kinds if kind]
                kept = pathlib.Path(tempfile.mkdtemp()) / run.out.name
                shutil.copytree(run.out, kept)
                print(f"run {self.runs} has other {', '.join(differ)} after {', '.join(kinds)}; kept in {kept}", flush=True)
                for kind in set(kinds):
                    self.counts[kind]["wrong bits"] += 1
            shutil.rmtree(run.out)

    def report(self):
        columns = ["events", "wrong ends", "hangs", "lost epochs", "wrong bits"]
        print(f"\n{'kind':22}" + "".join(f"{name:>13}" for name in columns))
        for kind in self.kinds:
            print(f"{kind:22}" + "".join(f"{self.counts[kind][name]:13}" for name in columns))
        total = collections.Counter()
        for counts in self.counts.values():
            total.update(counts)
        print(f"{'all':22}" + "".join(f"{total[name]:13}" for name in columns))
        print(f"{self.runs} runs, seed {self.options.seed}")
        return any(total[name] for name in columns[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/amlfs")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--only", type=lambda text: text.split(","), help=", ".join(EVENTS))
    options = parser.parse_args()
    options.end = time.monotonic() + 60 * options.minutes
    unknown = set(options.only or []) - set(EVENTS)
    if unknown:
        parser.error(f"no such kind of event: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as directory:
        campaign = Campaign(options, pathlib.Path(directory))
        try:
            campaign.run()
        finally:
            campaign.place.end()
            failed = campaign.report()
    sys.exit(failed)


if __name__ == "__main__":
    main()
