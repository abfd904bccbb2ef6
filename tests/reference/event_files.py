"""What TensorBoard reads in the directory of its event files, as JSON: every event of every file, and what its own reader
makes of them."""
import json
import pathlib
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

directory = sys.argv[1]
files = sorted(pathlib.Path(directory).iterdir())
events = [event for file in files for event in LegacyEventFileLoader(str(file)).Load()]
points = [[value.tag, event.step] for event in events for value in event.summary.value]
times = [event.wall_time for event in events]

read = EventAccumulator(directory, size_guidance={"scalars": 0, "histograms": 0, "images": 0})
read.Reload()
tags = read.Tags()


def sides(png):
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and png[-8:-4] == b"IEND"
    return list(struct.unpack(">II", png[16:24]))


def image(event):
    assert sides(event.encoded_image_string) == [event.width, event.height]
    return [event.step, event.width, event.height]


def histogram(event):
    found = event.histogram_value
    assert sum(found.bucket) == found.num and len(found.bucket) == len(found.bucket_limit)
    return [event.step, found.num, found.min, found.max, found.sum]


json.dump({
    "files": len(files),
    "version": read.file_version,
    "points": points,
    "in_order": times == sorted(times),
    "scalars": {tag: [[event.step, event.value] for event in read.Scalars(tag)] for tag in tags["scalars"]},
    "histograms": {tag: [histogram(event) for event in read.Histograms(tag)] for tag in tags["histograms"]},
    "images": {tag: [image(event) for event in read.Images(tag)] for tag in tags["images"]},
}, sys.stdout)
