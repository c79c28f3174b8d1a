"""Seconds and epochs to the training loss, and the validation accuracy, of a tuned Adam.

    python examples/time_to_target.py
    python examples/time_to_target.py --task mlp500 --optimizer adam proxprop

On every task each optimizer trains for the same number of seconds, from the same weights,
on the same batches, with a constant learning rate. That is tuned before, for each
on a grid of the same three factors around the middle that it is known for, in runs with
another seed and a part of the seconds; the grid goes on where its best is at its end.

All optimizers of a task and a seed are alive at once and take turns, a second or so
each, so that a slow minute of the machine meets them all. The seconds are those of
training: in which batches are put together and steps made. After each turn the loss on
10,000 training examples and loss and accuracy on all validation examples are computed, outside
of the clock, as are compilation and two steps to warm up, after which all is set back.

Every turn of a finished run is in `runs.csv` at once; started again, the program does what is
missing. With its defaults it takes about three hours on two cores. In the end `summary.csv`
gets a row per run, which the tables are made of, and the curves are plotted. `--report` does
only that, with what the two files have.

kfac-jax needs an environment of its own, which the program uses where it finds it, and
trains networks of Dense layers only. It always compiles with XLA; others do with `--jit`.
"""

import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

from parts import command_line, datasets, results
from parts.contenders import CONTENDERS, TASKS, text, trials, tuned
from parts.kfac_run import KfacRun, how_to_install
from parts.target_report import RUN, report, summaries
from parts.training import Run

_EVALUATED = 10_000
_TUNING_SEED = 1000
# How many turns a run takes; they grow, since a loss falls fastest at first.
_TURNS = {"tune": 6, "final": 20}
_GROWTH = 1.5


class Benchmark:
    """All runs that the command line asks for, and the file of their results."""

    def __init__(self, args):
        self.args = args

    def final_turns(self):
        """Returns the rows of all turns of runs that are not for tuning."""
        return [row for row in results.read(self.args.csv) if row["stage"] == "final"]

    def summaries(self):
        """Returns a row per run with the same settings; writes those with others, too."""
        path = self.args.out / "summary.csv"
        rows = [*results.read(path), *summaries(self.final_turns())]
        # What the turns say now takes the place of what they said.
        rows = list({tuple(r[k] for k in RUN): r for r in rows}.values())
        if rows and not self.args.report:
            results.write(path, rows)
        return self._same(rows)

    def run(self, task):
        """Tunes all optimizers on a task, then trains with each for every seed."""
        data = datasets.load(self.args.dataset)
        data = data.head(2000) if self.args.quick else data
        self._data = data.reconstruction() if TASKS[task].reconstruction else data
        names = [n for n in self.args.optimizer if task in (CONTENDERS[n].tasks or TASKS)]
        with tempfile.TemporaryDirectory() as folder:
            self._folder = pathlib.Path(folder)
            while missing := [(n, a) for n in names for a in self._trials(n, task)]:
                budget = self.args.tuning * self.args.budget
                self._group(task, "tune", missing, _TUNING_SEED, budget)
            best = [(n, tuned(n, task, self._losses(n, task), self._farthest)) for n in names]
            for name, arguments in best:
                print(f"{task}, {name}: {text(arguments)}", flush=True)
            for seed in self.args.seeds:
                done = {r["optimizer"] for r in self._finished(task, "final", seed)}
                missing = [(n, a) for n, a in best if n not in done]
                if missing:
                    self._group(task, "final", missing, seed, self.args.budget)

    @property
    def _farthest(self):
        return 1 if self.args.quick else 3

    def _trials(self, name, task):
        return trials(name, task, self._losses(name, task), self._farthest)

    def _losses(self, name, task):
        rows = self._finished(task, "tune", _TUNING_SEED)
        return {r["arguments"]: r["loss"] for r in rows if r["optimizer"] == name}

    def _finished(self, task, stage, seed):
        wanted = {"task": task, "stage": stage, "seed": seed, "turn": _TURNS[stage]}
        rows = self._same(results.read(self.args.csv))
        return [r for r in rows if all(r[k] == v for k, v in wanted.items())]

    def _same(self, rows):
        """Returns the rows with the settings that the command line asks for."""
        settings = self._settings()
        return [row for row in rows if all(row[k] == v for k, v in settings.items())]

    def _settings(self):
        names = "dataset", "quick", "jit", "budget", "tuning"
        values = {name: getattr(self.args, name) for name in names}
        return {k: int(v) if isinstance(v, bool) else v for k, v in values.items()}

    def _group(self, task, stage, members, seed, budget):
        """Trains with some optimizers in turns, and writes what came of them."""
        what = TASKS[task].what
        print(
            f"\n{task} ({what}), {stage}, seed {seed}: {len(members)} runs of {budget:g} s of "
            f"training, about {len(members) * (1.3 * budget + 5) / 60:.0f} minutes",
            flush=True,
        )
        runs = [self._new(task, name, arguments, seed) for name, arguments in members]
        rows = [[] for _ in runs]
        turns = _TURNS[stage]
        for turn in range(turns + 1):
            until = budget * (turn / turns) ** _GROWTH
            for i in range(len(runs)):
                # Another one begins each time.
                i = (i + turn) % len(runs)
                runs[i].train(seconds=until)
                if stage == "final" or turn == turns:
                    rows[i].append(self._row(task, stage, *members[i], seed, turn, runs[i]))
        for run, own in zip(runs, rows):
            results.append(self.args.csv, own)
            last = own[-1]
            print(
                f"  {last['optimizer']:18s} {last['arguments']:36s} loss {last['loss']:<9.4g} "
                f"validation {last['val_loss']:.4g}, {last['val_accuracy']:.4f}; "
                f"{last['epoch']:.1f} epochs in {last['seconds']:.1f} s",
                flush=True,
            )
            if isinstance(run, KfacRun):
                run.close()
        del runs, run
        keras.utils.clear_session()

    def _new(self, task, name, arguments, seed):
        keras.utils.set_random_seed(seed)
        model, make = TASKS[task].model(self._data.shape), CONTENDERS[name].make
        common = model, TASKS[task].loss, self._data, TASKS[task].batch_size, seed
        if make is None:
            return KfacRun(self.args.kfac_python, self._folder, *common, arguments)
        return Run(*common, make(**arguments), self.args.jit)

    def _row(self, task, stage, name, arguments, seed, turn, run):
        row = {**self._settings(), "task": task, "stage": stage, "optimizer": name}
        row |= {"arguments": text(arguments), "seed": seed, "turn": turn}
        row |= {"seconds": run.seconds, "epoch": run.steps / run.steps_per_epoch}
        return row | run.evaluate(_EVALUATED)


def parsed(argv):
    quick = "2,000 examples, a hundredth of the budget, three trials, one seed"
    out = "results/time_to_target"
    parser = command_line.parser(__doc__, "fashion_mnist", 3, quick, out)
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--optimizer", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--budget", type=float, default=30.0, help="seconds per run")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all budgets")
    parser.add_argument("--tuning", type=float, default=0.3, help="a tuning run's share of it")
    parser.add_argument(
        "--kfac-python", type=pathlib.Path, help="default: OUT/kfac/bin/python"
    )
    args = parser.parse_args(argv)
    args.seeds = range(1 if args.quick else args.seeds)
    args.budget *= args.scale * (0.01 if args.quick else 1.0)
    args.csv = args.out / "runs.csv"
    args.kfac_python = args.kfac_python or args.out / "kfac" / "bin" / "python"
    if "adam" not in args.optimizer:
        args.optimizer.insert(0, "adam")
    if "kfac-jax" in args.optimizer and not args.kfac_python.exists() and not args.report:
        args.optimizer.remove("kfac-jax")
        print(f"kfac-jax is left out. To have it:\n    {how_to_install(args.kfac_python)}\n")
    return args


def main(argv=None):
    args = parsed(argv)
    benchmark = Benchmark(args)
    if not args.report:
        for task in args.task:
            benchmark.run(task)
    runs = [r for r in benchmark.summaries() if r["task"] in args.task]
    runs = [r for r in runs if r["optimizer"] in args.optimizer]
    if not runs:
        raise SystemExit(f"No results with these settings in {args.out}.")
    for own in results.grouped(runs, "task").values():
        print("\n" + report(own, benchmark.final_turns(), args.out))


if __name__ == "__main__":
    main()
