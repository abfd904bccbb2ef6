#!/usr/bin/env python3
"""Disturbs short searches at random and compares what comes out with a search that was left alone.

usage: scripts/faults.py N [--seed S] [--binary FILE] [--patience SECONDS]

N events in all, one per start of the program, on 1 to 3 ranks: kill -9 of a rank or of all, TERM, USR1 (also while it starts),
a STOP file, SIGSTOP and CONT, a truncated or changed newest checkpoint or sample file, a full disk, a second run in the same
directory, a directory that can't be written, deleted data. After each the run is continued as its user would, until it is complete;
then its weights, losses, rewards and means must be those of the undisturbed search, bit for bit. Wanted are: no wrong bit, no
process that lives longer than --patience seconds after what should end it, no saved epoch that is gone, no exit code or message
but the documented ones. The run directory lies on a small tmpfs, so this takes root; without, the events that need one are left
out and said. Exit code 1: something was not as wanted.
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

ROOT = pathlib.Path(__file__).resolve().parent.parent
DISK_MB = 64
SETTINGS = [
    "--preset=faces-small", "--search=paper", "--device=cpu", "--threads=1", "--samples=3", "--policy=reinforce",
    "--epochs=6", "--set=search.round_epochs=2", "--set=search.warmup_epochs=0", "--set=search.sigma=0.2",
    "--set=data.faces.size=[32, 32]", "--set=data.faces.probe_identities=4", "--set=data.faces.distractor_identities=4",
    "--set=data.faces.images_per_identity=5", "--set=data.crop_padding=2", "--set=run.save_minutes=0.003",
]
# what is measured, not computed; and what may differ between runs of the same bits
UNEQUAL = re.compile(r"seconds|images_per_second|^(ranks|threads|date|git_sha1|libtorch|device|digest|config)$")
# the documented exit codes
DONE, FAILED, STOPPED = 0, 1, 75


class Wrong(Exception):
    """Something that must not happen; the text says what."""


class Campaign:
    def __init__(self, options, directory):
        self.options, self.random = options, random.Random(options.seed)
        self.directory = directory
        self.disk = directory / "disk"
        self.disk.mkdir()
        self.mounted = run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", self.disk]).returncode == 0
        self.out = self.disk / "run"
        self.data, self.aside = directory / "data.h5", directory / "aside.h5"
        self.counts, self.wrong = collections.Counter(), []
        self.lives = 0
        self.log = directory / "log"
        self.epochs = 0  # saved by this run
        self.kind = None

    def prepare(self):
        """The data and the undisturbed search, which also says how long one takes."""
        amlfs = self.options.binary
        check([amlfs, "prepare", "glyphs", self.directory / "tree", "--identities", "24", "--images", "5", "--size", "32x32"])
        check([amlfs, "prepare", "faces", self.directory / "tree", "--out", self.data, "--size", "32x32"])
        straight = self.directory / "straight"
        start = time.monotonic()
        check([amlfs, *SETTINGS, "--data", self.data, "--out", straight])
        self.span = time.monotonic() - start
        self.expected = self.result(straight)

    def result(self, out):
        """Weights and history of a complete run, without what is measured."""
        weights = self.directory / "weights.safetensors"
        weights.unlink(missing_ok=True)
        check([self.options.binary, "export", "weights", "--model", out / "final.h5", "--out", weights])
        told = check([self.options.binary, "inspect", "--json", out / "final.h5"])
        return tensors(weights.read_bytes()), json.dumps(plain(json.loads(told)), sort_keys=True)

    # --- the program ------------------------------------------------------------------------------------------------

    def command(self, ranks):
        line = [self.options.binary, *SETTINGS, f"--data={self.data}", f"--out={self.out}", "--resume"]
        return line if ranks == 1 else ["mpirun", "-n", str(ranks), *line]

    def start(self, ranks):
        environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                           OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_hwloc_base_binding_policy="none")
        with open(self.log, "w") as log:
            return subprocess.Popen(self.command(ranks), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def ranks(self):
        """Process numbers of the ranks that work in the run directory."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if words[0].endswith(b"amlfs") and f"--out={self.out}".encode() in words:
                    found.append(int(entry.name))
        return sorted(found)

    def saved(self):
        epochs = [int(path.stem[6:]) for path in self.out.glob("epoch-*.h5")]
        return max(epochs, default=0)

    def newest(self):
        return self.out / f"epoch-{self.saved():04}.h5"

    def wait(self, child, allowed, patience=None):
        """The exit code. Wrong: a hang; a code that is not allowed; ranks that are left behind."""
        patience = patience or self.options.patience
        try:
            code = child.wait(patience)
        except subprocess.TimeoutExpired:
            for rank in self.ranks():
                os.kill(rank, signal.SIGKILL)
            child.kill()
            child.wait()
            raise Wrong(f"a hang: not over after {patience:.0f} s") from None
        end = time.monotonic() + self.options.patience
        while self.ranks():
            if time.monotonic() > end:
                raise Wrong("ranks are left behind")
            time.sleep(0.05)
        if code not in allowed:
            raise Wrong(f"exit code {code} instead of {sorted(allowed)}")
        return code

    def said(self):
        return self.log.read_text()

    # --- one event of each kind: gets the started program (or none, if it comes before a start) ----------------------

    def kill_a_rank(self, child):
        ranks = self.ranks()
        if ranks:
            os.kill(self.random.choice(ranks), signal.SIGKILL)
        self.wait(child, {DONE, 137, -9, STOPPED})

    def kill_all(self, child):
        for rank in self.ranks():
            try:
                os.kill(rank, signal.SIGKILL)
            except ProcessLookupError:
                pass
        child.kill()
        self.wait(child, {DONE, 137, -9})

    def ask(self, child, how):
        child.send_signal(how)
        # while libraries are loaded, before main, and in mpirun before it starts the ranks, a signal still ends them
        early = {-how, 128 + how} if not (self.out / "config.toml").exists() or not self.log.stat().st_size else set()
        code = self.wait(child, {DONE, STOPPED} | early)
        if code == STOPPED and "everything is saved" not in self.said():
            raise Wrong("75 without 'everything is saved'")

    def usr1(self, child):
        self.ask(child, signal.SIGUSR1)

    def term(self, child):
        # to the ranks, as Slurm does; mpirun would kill those that still save
        ranks = self.ranks()
        for rank in ranks:
            try:
                os.kill(rank, signal.SIGTERM)
            except ProcessLookupError:
                pass
        code = self.wait(child, {DONE, STOPPED} if ranks and self.log.stat().st_size else {DONE, STOPPED, -15, 143})
        if code == STOPPED and "everything is saved" not in self.said():
            raise Wrong("75 without 'everything is saved'")

    def stop_file(self, child):
        self.out.mkdir(exist_ok=True)
        (self.out / "STOP").touch()
        code = self.wait(child, {DONE, STOPPED, FAILED})
        if code == FAILED and "the directory is not empty" not in self.said():
            raise Wrong("code 1")
        (self.out / "STOP").unlink(missing_ok=True)  # of a run that was over first

    def stop_and_continue(self, child):
        ranks = self.ranks()
        chosen = self.random.choice(ranks) if ranks else None
        if chosen:
            os.kill(chosen, signal.SIGSTOP)
            time.sleep(self.random.uniform(0.2, 3))
            os.kill(chosen, signal.SIGCONT)
        self.wait(child, {DONE}, self.options.patience + 20 * self.span)

    def damage(self, truncate):
        files = [self.newest()] if self.saved() else []
        files += sorted((self.out / ".samples").glob("*.h5"))
        if not files:
            return None
        file = self.random.choice(files)
        size = file.stat().st_size
        with open(file, "r+b") as handle:
            place = self.random.randrange(size)
            if truncate:
                handle.truncate(place)
            else:
                handle.seek(place)
                byte = handle.read(1)[0]
                handle.seek(place)
                handle.write(bytes([byte ^ (1 << self.random.randrange(8))]))
        return file

    def damaged(self, truncate):
        file = self.damage(truncate)
        child = self.start(self.random.randint(1, 3))
        code = self.wait(child, {DONE, FAILED}, self.options.patience + 20 * self.span)
        if file and file.parent == self.out and not (self.out / "final.h5").exists():
            if code != FAILED or file.name not in self.said() or "remove it to continue" not in self.said():
                raise Wrong(f"{file.name} was damaged, and that was not said")
            file.unlink()
            self.epochs = self.saved()  # what its user lost by the damage
        elif code != DONE:
            raise Wrong("exit code 1")

    def truncated(self):
        self.damaged(True)

    def changed(self):
        self.damaged(False)

    def full_disk(self, child):
        filler = self.disk / "filler"
        try:
            with open(filler, "wb") as handle:
                while True:
                    handle.write(bytes(1 << 16))
        except OSError:
            pass
        time.sleep(self.random.uniform(0.2, 3))
        filler.unlink()
        code = self.wait(child, {DONE, FAILED}, self.options.patience + 20 * self.span)
        if code == FAILED and "No space left" not in self.said():
            raise Wrong("exit code 1 without the reason")

    def two_owners(self, child):
        first = self.log
        self.log = self.directory / "second-log"
        second = self.start(self.random.randint(1, 3))
        code = second.wait(self.options.patience + 20 * self.span)
        refused = "works in this directory" in self.said()
        if code != DONE and not (code == FAILED and refused):
            raise Wrong(f"the second run ended with {code}: {self.said()[-300:]}")
        self.log = first
        code = self.wait(child, {DONE, FAILED}, self.options.patience + 20 * self.span)
        if code == FAILED and "works in this directory" not in self.said():
            raise Wrong("the first run failed")

    def read_only(self):
        check(["mount", "-o", "remount,ro", self.disk])
        child = self.start(self.random.randint(1, 3))
        try:
            self.wait(child, {DONE, FAILED})
            if "Read-only file system" not in self.said() and "is complete" not in self.said():
                raise Wrong("the reason is not said")
        finally:
            check(["mount", "-o", "remount,rw", self.disk])

    def deleted_data(self):
        self.data.rename(self.aside)
        child = self.start(self.random.randint(1, 3))
        try:
            self.wait(child, {FAILED})
            if str(self.data) not in self.said():
                raise Wrong("the file is not named")
        finally:
            self.aside.rename(self.data)

    # --- the campaign -----------------------------------------------------------------------------------------------

    def event(self):
        running = [self.kill_a_rank, self.kill_all, self.usr1, self.term, self.stop_file, self.stop_and_continue, self.two_owners]
        before = [self.truncated, self.changed, self.deleted_data]
        if self.mounted:
            running.append(self.full_disk)
            before.append(self.read_only)
        kind = self.random.choice(running * 2 + before)
        self.kind = kind.__name__
        self.counts[self.kind] += 1
        if kind in before:
            kind()
            return
        child = self.start(self.random.randint(1, 3))
        # a fifth while it starts
        time.sleep(self.random.uniform(0, 0.5 if self.random.random() < 0.2 else self.span / 2))
        kind(child)

    def compare(self):
        self.lives += 1
        weights, history = self.result(self.out)
        if weights != self.expected[0]:
            raise Wrong("wrong bits in the weights")
        if history != self.expected[1]:
            (self.directory / "history.json").write_text(history)
            raise Wrong("wrong bits in the history")

    def begin_anew(self):
        shutil.rmtree(self.out, ignore_errors=True)
        self.epochs = 0

    def go(self, events):
        for number in range(1, events + 1):
            try:
                self.event()
                if self.saved() < self.epochs:
                    raise Wrong(f"epoch {self.epochs} was saved and is gone")
                self.epochs = self.saved()
                if (self.out / "final.h5").exists():
                    self.compare()
                    self.begin_anew()
                elif number == events:
                    self.wait(self.start(2), {DONE}, self.options.patience + 20 * self.span)
                    self.compare()
            except Wrong as why:
                text = f"event {number} ({self.kind}): {why}"
                print(f"WRONG: {text}\n{self.said()[-1500:]}", flush=True)
                self.wrong.append(text)
                self.begin_anew()
            state = f"{self.epochs} epochs saved" if self.out.exists() else "a new run next"
            print(f"{number}: {self.kind}: {state}", flush=True)

    def close(self):
        if self.mounted:
            run(["umount", "--lazy", self.disk])


def tensors(safetensors):
    """Without the metadata, which name where they come from."""
    length = int.from_bytes(safetensors[:8], "little")
    header = json.loads(safetensors[8:8 + length])
    header.pop("__metadata__", None)
    return json.dumps(header, sort_keys=True), safetensors[8 + length:]


def plain(value):
    """JSON without what is measured."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if not UNEQUAL.search(key)}
    return [plain(item) for item in value] if isinstance(value, list) else value


def run(command):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


def check(command):
    done = run(command)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=int)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/amlfs")
    parser.add_argument("--patience", type=float, default=30.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        campaign = Campaign(options, pathlib.Path(directory))
        try:
            campaign.prepare()
            print(f"seed {options.seed}; an undisturbed search takes {campaign.span:.1f} s", flush=True)
            if not campaign.mounted:
                print("no tmpfs could be mounted: no full disks, no read-only directories")
            campaign.go(options.events)
        finally:
            campaign.close()
    for kind, count in sorted(campaign.counts.items()):
        print(f"{kind:18} {count:4}")
    print(f"{options.events} events, {campaign.lives} complete runs compared bit for bit; wrong: {len(campaign.wrong)}")
    sys.exit(bool(campaign.wrong))


if __name__ == "__main__":
    main()
