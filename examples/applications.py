"""Takes a training step of every architecture of keras.applications with ProxProp.

For each, built without weights and at the smallest image it accepts: how many of its weights
step implicitly, why the others do not, and whether all weights are finite after a step.
Every model has a process of its own, so that one too large for the memory says so and the
next one goes on. The file is written after every model. Rows in it are not made again, but
those without a step are, where one is asked for. With `--table` they are a page, too.

    python examples/applications.py --csv applications.csv --table APPLICATIONS.md
    python examples/applications.py --only MobileNetV2 ResNet50 --jit
"""

import argparse
import collections
import inspect
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import keras_proxprop
from keras_proxprop.reports.summary import layer_reports
from parts import results
from parts.applications_page import page

ARCHITECTURES = {
    name: make
    for name, make in sorted(vars(keras.applications).items())
    if inspect.isfunction(make)
}
# Pixels per side, where fewer than so many are refused.
SMALLEST = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}
CLASSES = 10
BATCH = 2
# Batch normalization divides by what little two images differ in: in these the gradients of
# such a batch are beyond 10²⁰, and Adam's step is not finite either.
BATCHES = dict.fromkeys(["EfficientNetB7", "EfficientNetV2L", "EfficientNetV2M"], 8)
COLUMNS = (
    "model",
    "pixels",
    "weights",
    "layers",
    "implicit_weights",
    "implicit_layers",
    "explicit",
    "step",
    "first_step_s",
    "second_step_s",
    "peak_mib",
)


def take(name, step, jit):
    """Returns the row of one architecture, a dict."""
    keras.utils.set_random_seed(0)
    pixels = SMALLEST.get(name, 32)
    model = ARCHITECTURES[name](weights=None, input_shape=(pixels, pixels, 3), classes=CLASSES)
    batch = BATCHES.get(name, BATCH)
    reports = layer_reports(model, batch_size=batch)
    implicit = [r for r in reports if r.step == "implicit"]
    row = {
        "model": name,
        "pixels": pixels,
        "weights": sum(r.weights for r in reports),
        "layers": len(reports),
        "implicit_weights": sum(r.weights for r in implicit),
        "implicit_layers": len(implicit),
        "explicit": explicit(reports),
    }
    if step:
        row.update(step_of(model, batch, pixels, jit))
    row["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return row


def explicit(reports):
    """Returns the reasons for explicit steps, each with its layer type and numbers."""
    layers = collections.Counter()
    weights = collections.Counter()
    for r in reports:
        if r.step != "implicit":
            key = f"{r.kind}: {r.step.removeprefix('explicit: ')}"
            layers[key] += 1
            weights[key] += r.weights
    return "; ".join(f"{layers[k]} {k} ({weights[k]:,} weights)" for k in layers)


def step_of(model, batch, pixels, jit):
    """Takes two training steps; returns whether the weights stayed finite, and the times."""
    random = np.random.default_rng(0)
    # The models that scale images themselves expect 0 to 255, the others are given the same.
    x = 255 * random.random((batch, pixels, pixels, 3), dtype="float32")
    y = random.integers(0, CLASSES, batch)
    model.compile(
        optimizer=keras_proxprop.ProxProp(),
        loss="sparse_categorical_crossentropy",
        jit_compile=jit,
    )
    # Without this TensorFlow traces the step twice, to find the variables that it creates.
    model.optimizer.build(model.trainable_variables)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        model.train_on_batch(x, y)
        seconds.append(time.perf_counter() - start)
        bad = [w.path for w in model.weights if not np.all(np.isfinite(w))]
        if bad:
            break
    return {
        "step": f"not finite: {', '.join(bad)}" if bad else "finite",
        "first_step_s": round(seconds[0], 1),
        "second_step_s": round(seconds[-1], 2),
    }


def run(name, args):
    """Returns the row of one architecture, taken in a process of its own."""
    command = [sys.executable, __file__, "--row", name]
    command += ["--no-step"] if args.no_step else []
    command += ["--jit"] if args.jit else []
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    too_large = False
    while process.returncode is None:
        try:
            said, complaints = process.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            if resident_gib(process.pid) > args.memory:
                too_large = True
                process.kill()
    for line in said.splitlines():
        if line.startswith("{"):
            return json.loads(line)
    # The system kills, too, where there is no more, or TensorFlow cannot make a tensor.
    if too_large or process.returncode == -9 or "ResourceExhausted" in complaints:
        step = f"does not fit in {args.memory:.1f} GiB"
    else:
        last = (complaints.strip().splitlines() or [""])[-1]
        step = f"failed with code {process.returncode}: {last[:200]}"
    return {"model": name, "pixels": SMALLEST.get(name, 32), "step": step}


def resident_gib(pid):
    """Returns how much memory a process takes; none where that cannot be asked."""
    status = pathlib.Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 2**20


def available_gib():
    """Returns how much memory there is for a process."""
    told = pathlib.Path("/proc/meminfo")
    lines = told.read_text().splitlines() if told.exists() else []
    available = [int(x.split()[1]) for x in lines if x.startswith("MemAvailable")]
    return available[0] / 2**20 if available else 8.0


def read(path):
    """Returns the rows of a CSV file as `{model: row}`, none where there is no file."""
    return {row["model"]: row for row in results.read(path)}


def write(path, rows):
    results.write(path, [rows[name] for name in sorted(rows)], COLUMNS)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=ARCHITECTURES)
    parser.add_argument("--no-step", action="store_true", help="do not train, only report")
    parser.add_argument("--jit", action="store_true", help="compile the step with XLA")
    parser.add_argument("--csv", type=pathlib.Path, default="applications.csv")
    parser.add_argument("--table", type=pathlib.Path, help="write the rows as Markdown, too")
    parser.add_argument(
        "--memory", type=float, help="GiB that a model may take; what is available unless told"
    )
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.list:
        return print("\n".join(ARCHITECTURES))
    if args.row:
        return print(json.dumps(take(args.row, not args.no_step, args.jit)))

    args.memory = args.memory or available_gib()
    rows = read(args.csv)
    for name in args.only or ARCHITECTURES:
        if name in rows and (args.no_step or rows[name]["step"]):
            print(f"{name}: in {args.csv} already")
            continue
        print(f"{name} ...", end=" ", flush=True)
        row = run(name, args)
        # What a report said stays so where the step comes to nothing.
        rows[name] = {**rows.get(name, {}), **row}
        write(args.csv, rows)
        if "layers" in row:
            print(
                f"{row['implicit_weights']:,} of {row['weights']:,} weights implicit in "
                f"{row['implicit_layers']} of {row['layers']} layers; {row.get('step', '')}"
            )
            print(f"    explicit: {row['explicit']}", flush=True)
        else:
            print(row["step"], flush=True)
    if args.table:
        args.table.write_text(page(rows.values()))


if __name__ == "__main__":
    main()
