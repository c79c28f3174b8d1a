"""Curves of training runs, as PNG."""

import math

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from parts.results import grouped, median

_LABELS = {
    "epoch": "epoch",
    "step": "steps",
    "seconds": "seconds of training",
    "loss": "training loss",
    "val_loss": "validation loss",
    "val_accuracy": "validation accuracy",
}


def plot(rows, path, title, panels, name, step):
    """Plots medians over seeds, with every seed's own curve behind them.

    Args:
        rows: rows of all runs.
        path: of the PNG file.
        title: of the figure.
        panels: list of `(column across, column upwards)`.
        name: column of what has a curve of its own.
        step: column of what is one point of a curve.
    """
    columns = min(2, len(panels))
    size = (5.5 * columns, 4 * -(-len(panels) // columns))
    figure, axes = plt.subplots(
        -(-len(panels) // columns), columns, figsize=size, layout="constrained", squeeze=False
    )
    for ax, (across, up) in zip(axes.flat, panels):
        for i, (label, own) in enumerate(grouped(rows, name).items()):
            style = {"color": f"C{i % 10}", "linestyle": "-" if i < 10 else "--"}
            for seed_rows in grouped(own, "seed").values():
                x, y = zip(*((r[across], r[up]) for r in seed_rows))
                ax.plot(x, y, alpha=0.3, linewidth=0.8, **style)
            steps = grouped(own, step).values()
            x, y = zip(*([median([r[c] for r in at]) for c in (across, up)] for at in steps))
            ax.plot(x, y, label=label, **style)
        ax.set(xlabel=_LABELS[across], ylabel=_LABELS[up])
        if "loss" in up:
            ax.set_yscale("log")
        ax.grid(alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def bars(values, path, title, label):
    """Plots one bar per name, on a logarithmic scale, from 1 up or down.

    Args:
        values: `{name: positive number}`.
        path: of the PNG file.
        title: of the figure.
        label: of the axis of numbers.
    """
    names = [name for name, value in values.items() if 0 < value < math.inf]
    heights = [values[name] for name in names]
    size = (6.5, 1.5 + 0.27 * len(names))
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    colors = ["C0" if height <= 1 else "C3" for height in heights]
    ax.barh(names, [height - 1 for height in heights], left=1, color=colors)
    ax.axvline(1, color="black", linewidth=0.8)
    ax.set(xscale="log", xlabel=label, title=title)
    ax.invert_yaxis()
    ax.grid(alpha=0.3, axis="x")
    figure.savefig(path, dpi=120)
    plt.close(figure)
