"""The experiments of the paper, Frerix et al., *Proximal Backpropagation*, ICLR 2018.

    python examples/paper_experiments.py --model mlp --dataset cifar10
    python examples/paper_experiments.py --model convnet --dataset fashion_mnist --seeds 3

The paper's two networks are trained with batches of 500 for 50 epochs, with its ways of
training; the networks take the input size of the data set. With `--stability`, also with
steps ten and a hundred times as long.

The ways of training take turns, an epoch each, so that a change in the machine's speed
meets all of them. After every epoch the loss on all training examples, and loss and
accuracy on the validation examples are appended to a CSV file, and the run's state is
saved. Started again, the program goes on from there. In the end it plots all against
epochs and against seconds of training, which leave out evaluation and compilation, and
prints what became of the paper's claims; `--report` does only that.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

from keras_proxprop import ProxProp, solvers
from parts import command_line, datasets, models, results
from parts.paper_claims import report
from parts.plots import plot
from parts.training import Run


def sgd(learning_rate):
    return keras.optimizers.SGD(learning_rate, momentum=0.95, nesterov=True)


def exact_mlp(tau=0.05):
    return ProxProp(sgd(1.0), tau=tau, solver="exact")


def cg_mlp(iterations):
    return ProxProp(sgd(1.0), tau=0.05, solver=solvers.ConjugateGradient(iterations))


def exact_convnet(learning_rate=1e-3):
    return ProxProp("adam", learning_rate, tau=1.0, solver="exact")


def cg_convnet(iterations):
    return ProxProp("adam", 1e-3, tau=1.0, solver=solvers.ConjugateGradient(iterations))


# {model: {method: a function that makes its optimizer}}, the paper's and our own.
METHODS = {
    "mlp": {
        "backprop": lambda: sgd(0.05),
        "exact": exact_mlp,
        "cg3": lambda: cg_mlp(3),
        "cg5": lambda: cg_mlp(5),
        "cg10": lambda: cg_mlp(10),
    },
    "convnet": {
        "backprop": lambda: keras.optimizers.Adam(1e-3),
        "exact": exact_convnet,
        "cg3": lambda: cg_convnet(3),
        "cg10": lambda: cg_convnet(10),
    },
}
# The same with longer steps: in the MLP of tau, in the ConvNet of Adam.
STABILITY = {
    "mlp": {
        "backprop-x10": lambda: sgd(0.5),
        "backprop-x100": lambda: sgd(5.0),
        "exact-x10": lambda: exact_mlp(0.5),
        "exact-x100": lambda: exact_mlp(5.0),
    },
    "convnet": {
        "backprop-x10": lambda: keras.optimizers.Adam(1e-2),
        "backprop-x100": lambda: keras.optimizers.Adam(1e-1),
        "exact-x10": lambda: exact_convnet(1e-2),
        "exact-x100": lambda: exact_convnet(1e-1),
    },
}


class Experiment:
    """All runs of one model on one data set, and the files they leave.

    Args:
        args: what the command line said.
    """

    def __init__(self, args):
        name = f"{args.dataset}_{args.model}"
        self.name = name + "_jit" * args.jit + "_quick" * args.quick
        self.args = args
        self.csv = args.out / f"{self.name}.csv"
        self._makers = METHODS[args.model] | STABILITY[args.model]
        self._states = args.out / "state"

    def train(self):
        data = datasets.load(self.args.dataset)
        self._data = data.head(1000) if self.args.quick else data
        self._states.mkdir(parents=True, exist_ok=True)
        for seed in self.args.seeds:
            self._train_seed(seed)

    def rows(self):
        return results.read(self.csv)

    def _train_seed(self, seed):
        runs = {method: self._run(method, seed) for method in self.args.method}
        runs = {method: run for method, run in runs.items() if run is not None}
        done = {method: self._last_epoch(method, seed) for method in runs}
        for epoch in range(self.args.epochs + 1):
            begin = time.perf_counter()
            trained = [method for method in runs if done[method] < epoch]
            for method in trained:
                self._epoch(method, runs[method], seed, epoch)
            left = (self.args.epochs - epoch) * (time.perf_counter() - begin) / 3600
            if trained and epoch:
                print(f"  seed {seed} needs about {left:.1f} hours more", flush=True)
        for method in runs:
            self._state(method, seed).unlink(missing_ok=True)
        keras.utils.clear_session()

    def _run(self, method, seed):
        """Returns the run as it was saved or begins, `None` if it is finished."""
        state, done = self._state(method, seed), self._last_epoch(method, seed)
        if done >= self.args.epochs:
            print(f"{self.name}, {method}, seed {seed}: finished before", flush=True)
            state.unlink(missing_ok=True)
            return None
        if done >= 0 and not state.exists():
            raise SystemExit(
                f"{self.csv} has {done} epochs of {method}, seed {seed}, and no state is left "
                f"to go on from to {self.args.epochs}: give another folder with --out."
            )
        keras.utils.set_random_seed(seed)
        shape, quick = self._data.shape, self.args.quick
        if self.args.model == "mlp":
            model = models.paper_mlp(shape, shrink=20 if quick else 1)
        else:
            model = models.paper_convnet(shape)
        optimizer, batch_size = self._makers[method](), 100 if quick else 500
        loss = models.class_loss
        run = Run(model, loss, self._data, batch_size, seed, optimizer, self.args.jit)
        if done >= 0:
            run.load(state)
        return run

    def _epoch(self, method, run, seed, epoch):
        run.train(steps=epoch * run.steps_per_epoch)
        row = {"method": method, "seed": seed, "epoch": epoch, "seconds": run.seconds}
        row |= run.evaluate()
        # The state comes first: what it is ahead of the file is evaluated again.
        run.save(self._state(method, seed))
        results.append(self.csv, [row])
        print(
            f"{self.name}, {method}, seed {seed}, epoch {epoch} of {self.args.epochs}: "
            f"loss {row['loss']:.4g}, validation accuracy {row['val_accuracy']:.4f}, "
            f"{run.seconds:.1f} s",
            flush=True,
        )

    def _last_epoch(self, method, seed):
        """Returns the last epoch in the file, -1 if there is none."""
        own = [r["epoch"] for r in self.rows() if (r["method"], r["seed"]) == (method, seed)]
        return max(own, default=-1)

    def _state(self, method, seed):
        return self._states / f"{self.name}_{method}_{seed}.npz"


def parsed(argv):
    names = {
        name: None for table in (METHODS, STABILITY) for m in table.values() for name in m
    }
    quick = "1,000 examples, batches of 100, a twentieth of the MLP's widths"
    parser = command_line.parser(__doc__, "cifar10", 1, quick, "results/paper")
    parser.add_argument("--model", choices=METHODS, default="mlp")
    parser.add_argument("--method", nargs="+", choices=names, help="default: the paper's")
    parser.add_argument("--stability", action="store_true", help="add runs with longer steps")
    parser.add_argument("--epochs", type=int, help="default: 50, or 2 with --quick")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    args = parser.parse_args(argv)
    args.seeds = range(args.seed, args.seed + args.seeds)
    args.epochs = args.epochs or (2 if args.quick else 50)
    args.method = args.method or list(METHODS[args.model])
    if args.stability:
        args.method = list(dict.fromkeys([*args.method, *STABILITY[args.model]]))
    unknown = set(args.method) - set(METHODS[args.model] | STABILITY[args.model])
    if unknown:
        parser.error(f"--model {args.model} knows no --method {' '.join(sorted(unknown))}")
    return args


def main(argv=None):
    args = parsed(argv)
    experiment = Experiment(args)
    if not args.report:
        experiment.train()
    rows = experiment.rows()
    if not rows:
        raise SystemExit(f"No results in {experiment.csv}: run without --report first.")
    path = args.out / f"{experiment.name}.png"
    panels = [(at, what) for what in ("loss", "val_accuracy") for at in ("epoch", "seconds")]
    plot(rows, path, experiment.name, panels, name="method", step="epoch")
    print(f"\n{report(rows, experiment.name)}\n\nFigures in {experiment.csv}, plots in {path}")


if __name__ == "__main__":
    main()
