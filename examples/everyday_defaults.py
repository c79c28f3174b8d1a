"""Each default and constant of `ProxProp()` against one change at a time, on everyday tasks.

    python examples/everyday_defaults.py
    python examples/everyday_defaults.py --tasks small table --settings "memory=None"
    python examples/everyday_defaults.py --report

The tasks are those of `everyday.py` that take seconds, with all of their steps. The learning
rate is the default's. The table has the final training loss in units of the default's: the
geometric mean over tasks and seeds, on how many tasks the change ends lower, and where it does
worst and best, each the median over seeds; and the geometric mean of the validation loss.
Finished runs are in the CSV file at once; started again, the program does what is missing.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

from keras_proxprop import CurvatureMemory, ProxProp, ScheduleFreeAdam, tau
from keras_proxprop.memory import refresh
from keras_proxprop.optimizers import schedule_free_adam, step_lengths
from parts import results
from parts.everyday_run import train
from parts.everyday_tasks import TASKS

QUICK = """small classes recommender table digits digits8 deep metric frozen tied physics gan
    vae lora""".split()
# What a change of a constant is called: by module and name, it has another value.
CONSTANT = "constant"


def _constants(module, name, *values):
    return {f"{name}={value:g}": {CONSTANT: (module, name, value)} for value in values}


def _tau(*multiples):
    changed = {}
    for multiple in multiples:
        name = f"tau: {multiple:g} over the mean curvature, not 10"
        changed[name] = {CONSTANT: (tau, "RELATIVE_SHIFT", 1 / multiple)}
    return changed


def _inside(name, *values):
    return {f"{name}={v:g}": {"inner_optimizer": {name: v}} for v in values}


# {name: what is changed}
SETTINGS = {
    "default": {},
    **_tau(3, 30, 100),
    "tau=1": {"tau": 1.0},
    "final_layer='implicit'": {"final_layer": "implicit"},
    "memory=None": {"memory": None},
    "memory of all layers": {"memory": CurvatureMemory(layers="all")},
    **{f"refresh_every={n}": {"memory": CurvatureMemory(refresh_every=n)} for n in (30, 300)},
    **{f"decay={share:g}": {"memory": CurvatureMemory(share)} for share in (0.8, 0.95)},
    **_constants(refresh, "PART", 2, 8),
    **_inside("weight_decay", 0.1, 1),
    **_inside("beta_1", 0.9, 0.96),
    **_inside("beta_2", 0.95, 0.99),
    **_constants(schedule_free_adam, "POWER", 1, 6),
    **_constants(schedule_free_adam, "FULL_STEPS", 30, 300),
    **_constants(schedule_free_adam, "LARGEST", 1, 8),
    **_constants(step_lengths, "EXPONENT", 0, 0.5),
    **_constants(step_lengths, "FEATURES", 16, 1024),
    **_constants(step_lengths, "DEPTH", 2, 16),
    **_constants(step_lengths, "ROW", 0.25, 1),
}


def run(setting, tasks, seeds, steps, path):
    """Trains all tasks with a setting. It is the only one of its process, since functions that
    were traced with another have its constants in them."""
    changed = dict(SETTINGS[setting])
    if CONSTANT in changed:
        setattr(*changed.pop(CONSTANT))
    inner = changed.pop("inner_optimizer", None)
    done = {(r["task"], r["seed"]) for r in results.read(path) if r["setting"] == setting}
    for task in tasks:
        for seed in range(seeds):
            if (task, seed) in done:
                continue
            own = None if inner is None else ScheduleFreeAdam(**inner)
            last = train(TASKS[task], ProxProp(own, **changed), seed, steps)[0][-1]
            row = {"task": task, "setting": setting, "seed": seed, "steps": last["step"]}
            results.append(path, [row | {k: last[k] for k in ("loss", "val_loss")}])
            print(f"{task:12s} {setting:36s} seed {seed}: loss {last['loss']:.4g}", flush=True)


def report(rows):
    """Returns the table in Markdown."""
    lines = []
    for setting in list(SETTINGS)[1:]:
        ratios = _ratios(rows, setting, "loss")
        if not ratios:
            continue
        medians = {task: statistics.median(own) for task, own in ratios.items()}
        ends = [f"{t} {results.text(medians[t])}" for t in sorted(medians, key=medians.get)]
        lower = sum(ratio < 1 for ratio in medians.values())
        lines.append([setting, _mean(ratios), f"{lower} of {len(medians)}"])
        lines[-1] += [", ".join(ends[-2:][::-1]), ", ".join(ends[:2])]
        lines[-1].append(_mean(_ratios(rows, setting, "val_loss")))
    head = ["change", "loss / default's", "lower on", "at its worst", "at its best"]
    return results.markdown([*head, "validation / default's"], lines)


def _ratios(rows, setting, measure):
    """Returns `{task: what a setting came to in units of the default's, a number a seed}`."""
    found = {(r["setting"], r["task"], r["seed"]): r[measure] for r in rows}
    ratios = {}
    for name, task, seed in found:
        if name == setting and ("default", task, seed) in found:
            ratio = found[name, task, seed] / found["default", task, seed]
            ratios.setdefault(task, []).append(ratio)
    return ratios


def _mean(ratios):
    return results.text(statistics.geometric_mean([r for own in ratios.values() for r in own]))


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=QUICK)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=2, help="how many seeds")
    parser.add_argument("--steps", type=int, help="how many steps, not those of the task")
    parser.add_argument("--report", action="store_true", help="train nothing")
    out = pathlib.Path(__file__).parent / "benchmarks" / "everyday" / "defaults.csv"
    parser.add_argument("--out", type=pathlib.Path, default=out)
    args = parser.parse_args(argv)
    if len(args.settings) == 1 and not args.report:
        run(args.settings[0], args.tasks, args.seeds, args.steps, args.out)
        return
    for setting in [] if args.report else args.settings:
        same = ["--tasks", *args.tasks, "--seeds", str(args.seeds), "--out", str(args.out)]
        same += ["--steps", str(args.steps)] if args.steps else []
        command = [sys.executable, __file__, "--settings", setting, *same]
        subprocess.run(command, check=True)
    print(report(results.read(args.out)))


if __name__ == "__main__":
    main()
