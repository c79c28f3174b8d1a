"""What `ProxProp()` does when nothing is typed, against one change at a time.

    python examples/defaults.py
    python examples/defaults.py --task convnet --setting default "tau=1"

Every network is trained for the same number of steps with each setting, from the same weights
and on the same batches, and so with Adam at four learning rates. The table has the training
loss after the last step in units of that of the best Adam: smaller is better. The last three
networks had no part in choosing the defaults.

Finished runs are in the CSV file at once; started again, the program does what is missing.
Each step counts the same here, whatever it costs: `step_time.py` and `time_to_target.py` have
the seconds.
"""

import itertools
import math
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

from keras_proxprop import CurvatureMemory, ProxProp, RowAdam
from parts import command_line, datasets, models, results
from parts.contenders import TASKS, Task, muon, nesterov
from parts.training import Run

_EVALUATED = 10_000

# {name: (Task, steps)}
NETS = {
    "mlp64": (TASKS["mlp64"], 1000),
    "mlp500": (TASKS["mlp500"], 200),
    "autoencoder": (TASKS["autoencoder"], 120),
    "convnet": (TASKS["convnet"], 150),
    "resnet": (TASKS["resnet"], 300),
    "vit": (TASKS["vit"], 600),
    "plain": (Task("convolutions without normalization", models.plain_convnet, 64), 300),
    "mobilenet": (Task("depthwise and 1×1 convolutions", models.small_mobilenet, 64), 300),
    "lstm": (Task("LSTM on the rows of an image", models.row_lstm, 64), 400),
}


def _adam(learning_rate):
    # The same epsilon as RowAdam's, so that the lengths of steps are all that differs.
    return ProxProp(keras.optimizers.Adam(learning_rate, epsilon=1e-12))


ADAM = {f"Adam {rate:g}": rate for rate in (3e-4, 1e-3, 3e-3, 1e-2)}
# {name: function that returns the optimizer}
SETTINGS = {
    "default": ProxProp,
    "learning_rate=0.0005": lambda: ProxProp(learning_rate=0.0005),
    "learning_rate=0.002": lambda: ProxProp(learning_rate=0.002),
    "RowAdam": lambda: ProxProp(RowAdam()),
    "RowAdam, epsilon=1e-7": lambda: ProxProp(RowAdam(epsilon=1e-7)),
    "inner Adam 0.001": lambda: _adam(0.001),
    "inner Adam 0.003": lambda: _adam(0.003),
    "inner Adam 0.01": lambda: _adam(0.01),
    "inner Nadam 0.003": lambda: ProxProp(keras.optimizers.Nadam(0.003, epsilon=1e-12)),
    "inner Lion 0.0003": lambda: ProxProp(keras.optimizers.Lion(0.0003)),
    "inner Muon 0.001": lambda: ProxProp(muon(0.001)),
    "inner Nesterov 0.1": lambda: ProxProp(nesterov(0.1)),
    "inner Nesterov 1": lambda: ProxProp(nesterov(1.0)),
    "tau=0.1": lambda: ProxProp(tau=0.1),
    "tau=1": lambda: ProxProp(tau=1.0),
    "tau=10": lambda: ProxProp(tau=10.0),
    "final_layer=implicit": lambda: ProxProp(final_layer="implicit"),
    "memory=None": lambda: ProxProp(memory=None),
    "memory of all layers": lambda: ProxProp(memory=CurvatureMemory(layers="all")),
    **{name: lambda r=rate: keras.optimizers.Adam(r) for name, rate in ADAM.items()},
}


def trained(net, setting, seed, data, quick, jit):
    """Returns the row of one run."""
    task, steps = NETS[net]
    data = data.reconstruction() if task.reconstruction else data
    keras.utils.set_random_seed(seed)
    model = task.model(data.shape)
    run = Run(model, task.loss, data, task.batch_size, seed, SETTINGS[setting](), jit)
    run.train(steps=2 if quick else steps)
    # What diverged is no number.
    losses = run.evaluate(_EVALUATED) | ({"loss": math.nan} if run.diverged else {})
    keras.backend.clear_session()
    row = {"net": net, "setting": setting, "seed": seed, "quick": int(quick), "jit": int(jit)}
    return row | {"steps": run.steps, "seconds": run.seconds} | losses


def report(rows):
    """Returns the table: for every setting its loss over that of the best Adam, a median."""
    losses = {(r["net"], r["seed"], r["setting"]): r["loss"] for r in rows}
    nets = [net for net in NETS if any(r["net"] == net for r in rows)]
    seeds = sorted({r["seed"] for r in rows})
    adam = {
        (net, seed): results.best([losses.get((net, seed, name), math.nan) for name in ADAM])
        for net in nets
        for seed in seeds
    }

    def ratio(net, setting):
        found = [losses.get((net, s, setting)) for s in seeds]
        ratios = [loss / adam[net, s] for loss, s in zip(found, seeds) if loss is not None]
        return results.median(ratios) if ratios else None

    lines = []
    for setting in SETTINGS:
        ratios = [ratio(net, setting) for net in nets]
        if setting in ADAM or not any(ratios):
            continue
        known = [math.log(r) for r in ratios if r is not None]
        texts = ["–" if r is None else results.text(r, 3, "diverged") for r in ratios]
        mean = results.text(math.exp(statistics.fmean(known)), 3, "–")
        lines.append([setting, *texts, mean if len(known) == len(nets) else "–"])
    last = [results.text(results.median([adam[net, s] for s in seeds])) for net in nets]
    head = ["", *nets, "geometric mean"]
    return results.markdown(head, [*lines, ["the best Adam's loss", *last, ""]])


def main(argv=None):
    parser = command_line.parser(
        __doc__, "fashion_mnist", 1, "2,000 examples, two steps", "results/defaults"
    )
    parser.add_argument("--task", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--setting", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    args = parser.parse_args(argv)
    data = datasets.load(args.dataset)
    data = data.head(2000) if args.quick else data
    path = args.out / "runs.csv"
    same = {"quick": int(args.quick), "jit": int(args.jit)}

    def finished():
        return [r for r in results.read(path) if all(r[k] == v for k, v in same.items())]

    done = {(r["net"], r["seed"], r["setting"]) for r in finished()}
    for net in args.task:
        wanted = dict.fromkeys([*ADAM, *args.setting])
        for seed, setting in itertools.product(range(args.seeds), wanted):
            if args.report or (net, seed, setting) in done:
                continue
            row = trained(net, setting, seed, data, args.quick, args.jit)
            results.append(path, [row])
            print(f"{net:12s} {setting:24s} seed {seed}: loss {row['loss']:.4g}", flush=True)
    rows = [r for r in finished() if r["net"] in args.task]
    if not rows:
        raise SystemExit(f"No results with these settings in {path}.")
    print("\n" + report(rows))


if __name__ == "__main__":
    main()
