#!/usr/bin/env python3
"""A simulated week of one `cambium adapt`: a pipe, or a watched directory, whose images drift and of which some are bad, with pauses, and
kill -9 at random moments followed by --resume.

    python3 bench/adapt_week.py --program build/cambium --model out/resnet --data test.zip --images 30000 [--watch] [--method tent]

Images are those of the archive (directories of classes), seen by a camera: brightness follows the hour, noise the heat of the day, each day has a
weather of its own (clear, fog, dark, blur, contrast), and it all comes again in the next week, should there be one.  One in --bad is not an
image: cut off, of another kind, of nothing, of impossible size, missing, a line that is no JSON, floats that are no numbers.  A line that was
not answered before a kill is sent again by whoever sent it.  Beside it all the model without adaptation sees the same images.

Prints a line for each day and a summary as Markdown, and fails unless every item has exactly one record, memory and state stay flat, and the accuracy
over all is at most one point below the source's.  Needs numpy and Pillow.
"""
import argparse
import io
import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile

import numpy as np
from PIL import Image, ImageFilter

WEATHERS = ["clear", "fog", "dark", "blur", "contrast", "clear", "fog"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default="build/cambium")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="archive of directories of classes")
    parser.add_argument("--images", type=int, default=30000)
    parser.add_argument("--bad", type=int, default=40, help="one in so many items is bad (0: none)")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pauses", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--save-batches", type=int, default=20)
    parser.add_argument("--method", default="tent")
    parser.add_argument("--options", default="", help="more for cambium adapt")
    parser.add_argument("--watch", action="store_true", help="a watched directory instead of a pipe")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work")
    return parser.parse_args()


# ---- the camera ----


def read_images(path):
    images = []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.lower().endswith((".png", ".jpg", ".jpeg", ".bmp")):
                images.append((name.split("/")[-2], np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))))
    return images


def seen(image, place, rng):
    """The image at a place of the week from 0 to 1."""
    day, hour = int(place * 7) % 7, place * 7 % 1
    light = 0.75 + 0.35 * np.sin(np.pi * min(1, max(0, (hour - 0.2) / 0.6)))
    heat = 12 * max(0, np.sin(2 * np.pi * (hour - 0.3)))
    weather = WEATHERS[day]
    x = image.astype(np.float32)
    if weather == "blur":
        x = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.9)), np.float32)
    if weather == "fog":
        x = 0.6 * x + 0.4 * 200
    if weather == "dark":
        x = 0.55 * x
    if weather == "contrast":
        x = 0.4 * x + 0.6 * x.mean()
    x = x * light + rng.normal(0, 4 + heat, x.shape)
    return np.clip(x, 0, 255).astype(np.uint8)


def ppm(pixels):
    return b"P6 %d %d 255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes()


def nan_tiff():
    """4 x 4 floats that are no numbers."""
    tags = [(256, 3, 4), (257, 3, 4), (258, 3, 32), (259, 3, 1), (262, 3, 1), (273, 4, 146), (277, 3, 1), (278, 3, 4), (279, 4, 64), (339, 3, 3)]
    entries = b"".join(struct.pack("<HHIHH" if kind == 3 else "<HHII", tag, kind, 1, *((value, 0) if kind == 3 else (value,))) for tag, kind, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    return head.ljust(146, b"\0") + struct.pack("<16f", *[float("nan")] * 16)


BAD = {
    "cut": (".png", None),
    "kind": (".png", b"this is no image at all, but a letter\n" * 20),
    "nothing": (".jpg", b""),
    "huge": (".ppm", b"P6 2000000000 2000000000 255\n"),
    "nan": (".tif", nan_tiff()),
    "missing": (".png", None),
    "json": (None, None),
}


class Week:
    def __init__(self, args):
        self.rng, self.chance = np.random.default_rng(args.seed), random.Random(args.seed)
        self.fate = random.Random(args.seed + 1)  # of the program: items are the same whatever happens to it
        self.args, self.images = args, read_images(args.data)
        self.order = self.chance.sample(range(len(self.images)), len(self.images))

    def item(self, i, directory):
        """Makes item i: (its line, or the file it lies in; label or None; what is wrong with it, or None)."""
        name = f"n{i:07d}"
        if self.args.bad and self.chance.randrange(self.args.bad) == 0:
            wrong = self.chance.choice([w for w in BAD if not self.args.watch or w not in ("json", "missing")])
            suffix, data = BAD[wrong]
            if wrong == "json":
                return "{" + name + ' "file": ', None, wrong
            path = directory / (name + suffix)
            if wrong == "cut":
                buffer = io.BytesIO()
                Image.fromarray(self.images[i % len(self.images)][1]).save(buffer, "png")
                data = buffer.getvalue()[:60]
            if data is not None:
                path.write_bytes(data)
            return str(path), None, wrong
        label, image = self.images[self.order[i % len(self.images)]]
        path = directory / (name + ".ppm")
        path.write_bytes(ppm(seen(image, i / self.args.images, self.rng)))
        return str(path), label, None


# ---- the program ----


def records(path):
    """Of whole lines, by the number of the item."""
    found = {}
    if not path.exists():
        return found
    data = path.read_bytes()
    for line in data[:data.rfind(b"\n") + 1].splitlines()[1:]:
        record = json.loads(line)
        at = record["source"].rfind("n0")
        number = int(record["source"][at + 1:at + 8])
        found.setdefault(number, []).append(record)
    return found


def resident(process):
    try:
        with open(f"/proc/{process.pid}/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) * 1024
    except (OSError, StopIteration):
        return 0


class Runner:
    """One run after another over the same output."""

    def __init__(self, args, work, stream, output, method):
        self.args, self.work, self.output = args, work, work / output
        self.command = [args.program, "adapt", args.model, "--method", method, "--stream", stream, "--batch-size", str(args.batch_size),
                        "--save-batches", str(args.save_batches), "--output", str(self.output), "--resume", "--quiet", "--threads", "1",
                        "--batch-wait", "0.3", *args.options.split()]
        self.process, self.starts, self.kills = None, 0, 0

    def start(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stderr=open(self.work / "errors", "ab"), stdout=subprocess.DEVNULL)
        self.starts += 1

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.kills += 1

    def write(self, lines):
        try:
            self.process.stdin.write("".join(line + "\n" for line in lines).encode())
            self.process.stdin.flush()
            return True
        except BrokenPipeError:
            return False

    def stop(self, gently):
        if gently:
            self.process.stdin.close()
        else:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait()


class Tail:
    """Counts the lines of a file that grows, and that may lose its last, torn one."""

    def __init__(self, path):
        self.path, self.at, self.lines = path, 0, -1

    def count(self):
        if self.path.exists():
            with open(self.path, "rb") as f:
                f.seek(self.at)
                data = f.read()
            whole = data.rfind(b"\n") + 1
            self.lines += data[:whole].count(b"\n")
            self.at += whole
        return max(0, self.lines)


def wait_until(condition, seconds, process):
    end = time.time() + seconds
    while time.time() < end and process.poll() is None:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


# ---- the week ----


def run_pipe(args, week, work, runner, days):
    """Sends chunks of lines; of those that a kill left unanswered the sender knows, and sends them again."""
    items, truths, tail = work / "items", {}, Tail(runner.output)
    items.mkdir()
    chunk = args.batch_size * 4
    events = plan_events(args, -(-args.images // chunk), week.fate)
    runner.start()
    for c, first in enumerate(range(0, args.images, chunk)):
        lines = []
        for i in range(first, min(first + chunk, args.images)):
            line, label, wrong = week.item(i, items)
            truths[i] = (label, wrong)
            lines.append((i, line))
        open_lines = dict(lines)
        runner.write(open_lines.values())
        if "kill" in events[c]:
            time.sleep(week.fate.random() * 0.4)
            runner.kill()
            answered = records(runner.output)
            runner.start()
            runner.write(line for i, line in open_lines.items() if i not in answered)
        if "pause" in events[c]:
            time.sleep(0.6 + week.fate.random())
        runner.write([""])
        if not wait_until(lambda: tail.count() >= first + len(lines), 60, runner.process):
            sys.exit(f"after item {first + len(lines)} there are {tail.count()} records; the program says: {(work / 'errors').read_text()[-500:]}")
        note_day(args, days, first + len(lines), runner)
    runner.stop(True)
    return truths


def plan_events(args, chunks, chance):
    events = [set() for _ in range(chunks)]
    for name, count in (("kill", args.kills), ("pause", args.pauses)):
        for c in chance.sample(range(1, chunks), min(count, chunks - 1)):
            events[c].add(name)
    return events


def note_day(args, days, done, runner):
    day = done * 7 // args.images
    if len(days) < day:
        state = pathlib.Path(str(runner.output) + ".state")
        days.append({"done": done, "rss": resident(runner.process), "state": state.stat().st_size if state.exists() else 0, "starts": runner.starts})
        print(f"day {day}: {done} items, {days[-1]['rss'] / 1e6:.1f} MB resident, state {days[-1]['state']} bytes, {runner.starts} starts", flush=True)


def run_watch(args, week, work, runner, days):
    """Files are moved into the directory, and taken out again by whoever put them there once they are answered."""
    inbox, making, truths, tail = work / "inbox", work / "making", {}, Tail(runner.output)
    making.mkdir()
    chunk = args.batch_size * 4
    events = plan_events(args, -(-args.images // chunk), week.fate)
    runner.start()
    for c, first in enumerate(range(0, args.images, chunk)):
        made = []
        for i in range(first, min(first + chunk, args.images)):
            path, label, wrong = week.item(i, making)
            truths[i] = (label, wrong)
            made.append(pathlib.Path(path).name)
        for n, name in enumerate(made):
            (making / name).rename(inbox / name)
            if "kill" in events[c] and n == len(made) // 2:
                time.sleep(week.fate.random() * 0.4)
                runner.kill()
        if "kill" in events[c]:
            runner.start()
        if "pause" in events[c]:
            time.sleep(0.6 + week.fate.random())
        if not wait_until(lambda: tail.count() >= first + len(made), 60, runner.process):
            sys.exit(f"after item {first + len(made)} there are {tail.count()} records; the program says: {(work / 'errors').read_text()[-500:]}")
        note_day(args, days, first + len(made), runner)
        for name in made:
            (inbox / name).unlink()
    runner.stop(False)
    return truths


def source_answers(args, work, weeks_images):
    """What the model says without adaptation, of all images at once."""
    lines = work / "source.lines"
    lines.write_text("".join(str(p) + "\n" for p in weeks_images))
    output = work / "source.jsonl"
    command = [args.program, "adapt", args.model, "--method", "source", "--no-guard", "--stream", "-", "--batch-size", "128", "--output",
               str(output), "--quiet", "--threads", "1", "--save-batches", "0"]
    with open(lines, "rb") as f:
        subprocess.run(command, check=True, stdin=f, stdout=subprocess.DEVNULL)
    return records(output)


def main():
    args = arguments()
    args.program = os.path.abspath(args.program)
    work = pathlib.Path(args.work or tempfile.mkdtemp(prefix="adapt-week."))
    work.mkdir(parents=True, exist_ok=True)
    week, days, begin = Week(args), [], time.time()
    if args.watch:
        (work / "inbox").mkdir()
    runner = Runner(args, work, f"watch:{work / 'inbox'}" if args.watch else "-", "said.jsonl", args.method)
    truths = (run_watch if args.watch else run_pipe)(args, week, work, runner, days)
    seconds = time.time() - begin
    said = records(runner.output)
    report(args, work, week, truths, said, days, runner, seconds)


def report(args, work, week, truths, said, days, runner, seconds):
    again = Week(args)  # the same images once more, for the source
    directory = work / "again"
    directory.mkdir()
    paths = [pathlib.Path(again.item(i, directory)[0]) for i in range(args.images)]
    source = source_answers(args, work, [p for i, p in enumerate(paths) if truths[i][1] is None])
    good = [i for i in truths if truths[i][1] is None]
    right = {i: said.get(i, [{}])[0].get("label") == truths[i][0] for i in good}
    source_right = {i: source[i][0].get("label") == truths[i][0] for i in good}
    print("\n| day | weather | items | accuracy | source | resident MB | state bytes |\n|---|---|---|---|---|---|---|")
    for d in range(7):
        of = [i for i in good if i * 7 // args.images == d]
        print(f"| {d + 1} | {WEATHERS[d]} | {len(of)} | {np.mean([right[i] for i in of]):.4f} | {np.mean([source_right[i] for i in of]):.4f} | "
              f"{days[d]['rss'] / 1e6:.1f} | {days[d]['state']} |")
    accuracy, own = np.mean(list(right.values())), np.mean(list(source_right.values()))
    alarms = sum("alarm" in r[0] for r in said.values())
    errors = sum("error" in r[0] for r in said.values())
    print(f"\n{args.images} items, {len(good)} of them images, {errors} records with an error, {runner.kills} kills, {runner.starts} starts, "
          f"accuracy {accuracy:.4f}, source {own:.4f}, {alarms} answered by the source, {seconds:.0f} s")
    wrong = []
    if sorted(said) != list(range(args.images)) or any(len(r) != 1 for r in said.values()):
        missing, twice = [i for i in truths if i not in said], [i for i in said if len(said[i]) > 1]
        wrong.append(f"items without a record: {missing[:10]}, with several: {twice[:10]}")
    odd = [(i, truths[i][1], said[i][0].get("error")) for i in said if ("error" in said[i][0]) != (truths[i][1] is not None)]
    if odd:
        wrong.append(f"errors in the wrong places: {odd[:5]}")
    if max(d["rss"] for d in days[4:]) > 1.1 * max(d["rss"] for d in days[:3]) + 4e6:
        wrong.append(f"memory grows: {[d['rss'] for d in days]}")
    if days[-1]["state"] > next(d["state"] for d in days if d["state"]) + 8192:
        wrong.append(f"the state grows: {[d['state'] for d in days]}")
    if accuracy < own - 0.01:
        wrong.append(f"accuracy {accuracy:.4f} is more than a point below the source's {own:.4f}")
    for w in wrong:
        print("FAIL:", w)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
