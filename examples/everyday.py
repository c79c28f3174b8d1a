"""Small everyday tasks: `ProxProp()` untuned against tuned peers, at equal steps.

    python examples/everyday.py
    python examples/everyday.py --tasks small gpt --contenders adam proxprop
    python examples/everyday.py --part 1/2 & python examples/everyday.py --part 2/2
    python examples/everyday.py --report

Every optimizer is trained at each learning rate of its grid, at a constant rate and with
cosine decay, with seed 0; the rate with the lowest training loss is then trained with the
other seeds, and so is ProxProp with nothing typed. A grid goes on while its best rate is at
its end. Where SOAP and Muon take twenty times as long as others they are tuned in a quarter of
the steps, and have one seed.

The loss is that of a fixed part of the training examples, in inference mode. With `--budgets`
the same is done in a half or a quarter of the steps, each with a cosine of its own.

Seconds are those of the processor, with one thread unless TF_NUM_INTRAOP_THREADS says another
number. Other work on the machine makes even these longer, so they are not taken from the runs:
`--step-times` measures what a step takes with all optimizers in turns, and a report multiplies
that with the number of steps.

Every run is in `runs.csv` at once; started again, the program does what is missing. Where an
optimizer has changed since, delete its rows. In the end it prints a table and makes a picture,
which `--report` does with the results that are there. `--short` prints the README's table and
draws its picture.
"""

import argparse
import math
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# One core per run: the processor's seconds are then those of a clock.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

from parts import results
from parts.everyday_budgets import shorter
from parts.everyday_contenders import ALL, CONTENDERS, best, learning_rate, trials
from parts.everyday_report import report
from parts.everyday_run import step_times, train
from parts.everyday_short import short
from parts.everyday_tasks import TASKS

_QUICK_STEPS = 3
_SLOW_SHARE = 0.25


class Benchmark:
    """All runs that the command line asks for, and the file of their results."""

    def __init__(self, args):
        self.args = args
        self.csv = args.out / "runs.csv"
        self.times_csv = args.out / "step_times.csv"

    def rows(self):
        """Returns the rows of all runs that are as quick as is asked for."""
        return [r for r in results.read(self.csv) if r["quick"] == int(self.args.quick)]

    def run(self, task, budget):
        """Tunes all contenders on a task with seed 0, then trains with the other seeds."""
        for name in self.args.contenders:
            contender, slow = ALL[name], name in TASKS[task].slow_for
            tuning = budget * (_SLOW_SHARE if slow else 1)
            for schedule in contender.schedules:
                while rates := self._trials(contender, task, tuning, name, schedule):
                    for rate in rates:
                        self._train(task, tuning, name, schedule, rate, 0)
            for schedule, rate in self._finals(contender, task, tuning, name):
                for seed in [0] if slow else range(1, self.args.seeds):
                    self._train(task, budget, name, schedule, rate, seed)

    def time(self, task):
        """Measures what a step of a task takes with every contender, in turns."""
        known = {r["contender"] for r in results.read(self.times_csv) if r["task"] == task}
        if known >= set(self.args.contenders):
            return
        rates = {name: ALL[name].rates() for name in self.args.contenders}
        optimizers = {name: ALL[name].make(own[0]) for name, own in rates.items()}
        times = step_times(TASKS[task], optimizers)
        rows = [{"task": task, "contender": n, "milliseconds": ms} for n, ms in times.items()]
        results.append(self.times_csv, rows)
        print(task, times, flush=True)

    def rows_with_times(self):
        """Returns the rows of all runs, each with the milliseconds of a step, or `None`."""
        measured = results.read(self.times_csv)
        times = {(r["task"], r["contender"]): r["milliseconds"] for r in measured}
        return [
            row | {"milliseconds": times.get((row["task"], row["contender"]))}
            for row in self.rows()
        ]

    def _trials(self, contender, *what):
        losses = self._losses(*what)
        if self.args.quick:
            rates = contender.rates()
            return [] if losses else [rates[len(rates) // 2]]
        return trials(contender, losses)

    def _finals(self, contender, task, budget, name):
        """Returns schedules and rates that are trained with all seeds."""
        found = []
        for schedule in contender.schedules:
            losses = self._losses(task, budget, name, schedule)
            found.append((schedule, rate := best(losses), losses[rate]))
        # Of Adam the constant rate is a measure for seconds, whether it is best or not.
        if name != "adam":
            found = [min(found, key=lambda f: math.inf if math.isnan(f[2]) else f[2])]
        kept = [(schedule, rate) for schedule, rate, _ in found]
        default = contender.default() and ("constant", contender.default())
        return kept if default in (None, *kept) else [*kept, default]

    def _losses(self, task, budget, name, schedule):
        """Returns `{rate: final training loss}` of what was tried with seed 0."""
        wanted = self._what(task, budget, name, schedule, None, 0)
        del wanted["rate"]
        rows = [r for r in self.rows() if all(r[k] == v for k, v in wanted.items())]
        return {float(row["rate"]): row["loss"] for row in rows}

    def _what(self, task, budget, name, schedule, rate, seed):
        what = {"task": task, "contender": name, "schedule": schedule, "rate": rate}
        return what | {"budget": budget, "seed": seed, "quick": int(self.args.quick)}

    def _train(self, task, budget, name, schedule, rate, seed):
        what = self._what(task, budget, name, schedule, rate, seed)
        if any(all(row[k] == v for k, v in what.items()) for row in self.rows()):
            return
        steps = max(1, round(TASKS[task].steps * budget))
        steps = _QUICK_STEPS if self.args.quick else steps
        optimizer = ALL[name].make(learning_rate(rate, schedule, steps))
        curve, first = train(TASKS[task], optimizer, seed, steps)
        row = what | summary(curve, first)
        results.append(self.csv, [row])
        print(
            f"{task:12s} {name:14s} {schedule:8s} {rate:<9.3g} seed {seed}: loss "
            f"{row['loss']:<9.4g} validation {row['best_val_loss']:<9.4g} "
            f"{row['steps']} steps in {row['seconds']:.1f} s",
            flush=True,
        )


def summary(curve, first):
    """Returns a run's figures: those of its last evaluation, its best ones, and its curve."""
    last = curve[-1]
    texts = [f"{r['step']} {r['seconds']:.4g} {r['loss']:.5g}" for r in curve]
    return {
        "steps": last["step"],
        "seconds": round(last["seconds"], 3),
        "first_step_s": round(first, 2),
        "loss": last["loss"],
        "val_loss": last["val_loss"],
        "best_val_loss": results.best([r["val_loss"] for r in curve]),
        "val_accuracy": last["val_accuracy"],
        "best_val_accuracy": results.best([r["val_accuracy"] for r in curve], up=True),
        "curve": "; ".join(texts),
    }


def _part(text):
    """Returns `(i, n)` of a text `i/n`."""
    i, n = map(int, text.split("/"))
    if not 1 <= i <= n:
        raise ValueError(text)
    return i, n


def parsed(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--contenders", nargs="+", choices=ALL, default=list(CONTENDERS))
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument(
        "--budgets", nargs="+", type=float, default=[1.0], help="shares of a task's steps"
    )
    parser.add_argument("--part", type=_part, default=(1, 1), help="every n-th task: i/n")
    parser.add_argument("--report", action="store_true", help="train nothing")
    times = "measure what steps take, in turns, and train nothing"
    parser.add_argument("--step-times", action="store_true", help=times)
    parser.add_argument("--short", action="store_true", help="only the README's table")
    quick = f"{_QUICK_STEPS} steps at one learning rate, one seed"
    parser.add_argument("--quick", action="store_true", help=quick)
    out = pathlib.Path(__file__).parent / "benchmarks" / "everyday"
    parser.add_argument("--out", type=pathlib.Path, default=out)
    args = parser.parse_args(argv)
    args.seeds = 1 if args.quick else args.seeds
    return args


def main(argv=None):
    args = parsed(argv)
    benchmark = Benchmark(args)
    i, n = args.part
    if args.short:
        whole = [row for row in benchmark.rows_with_times() if row["budget"] == 1]
        print(short(whole, args.out))
        return
    if args.step_times:
        for task in args.tasks[i - 1 :: n]:
            benchmark.time(task)
        return
    if not args.report:
        for budget in args.budgets:
            for task in args.tasks[i - 1 :: n]:
                benchmark.run(task, budget)
    rows = [r for r in benchmark.rows_with_times() if r["task"] in args.tasks]
    rows = [r for r in rows if r["contender"] in args.contenders]
    if not rows:
        raise SystemExit(f"No results with these settings in {args.out}.")
    for budget, own in results.grouped(rows, "budget").items():
        if budget in args.budgets:
            print("\n" + report(own, args.out))
    if table := shorter(rows):
        print("\n" + table)


if __name__ == "__main__":
    main()
