"""The tables and plots of `time_to_target.py`."""

import math

from _contenders import TASKS
from _plots import plot
from _results import best, grouped, markdown, reached, spread

_HEAD = (
    "optimizer",
    "tuned",
    "seeds",
    "seconds to Adam's training loss / Adam's",
    "epochs to it / Adam's",
    "seconds to Adam's validation {score} / Adam's",
    "final training loss",
    "best validation {score}",
    "at epoch",
    "epochs",
)
_NOTE = (
    "The target is what Adam has at the end of its seconds, with the same seed; Adam's time "
    "is when it is first there. Medians over seeds, in brackets their range; `never`: not "
    "within the same seconds."
)


def report(task, rows, folder):
    """Plots a task's curves, and returns its table in Markdown.

    Args:
        task: name of the task.
        rows: of its final runs.
        folder: for the plots.
    """
    settings = rows[0]
    score, up = ("loss", False) if TASKS[task].reconstruction else ("accuracy", True)
    runs = {n: grouped(own, "seed") for n, own in grouped(rows, "optimizer").items()}
    table = []
    for name, seeds in runs.items():
        numbers = _numbers(seeds, runs["adam"], f"val_{score}", up)
        tuned = sorted({own[0]["arguments"] for own in seeds.values()})
        digits = {"final": 3, "best": 4}
        cells = [
            spread(v, digits.get(k, 3), _ELSE.get(k, "never")) for k, v in numbers.items()
        ]
        table.append([name, ", ".join(tuned), len(seeds), *cells])
    unit = "with XLA" if settings["jit"] else "without XLA"
    title = (
        f"{task}: {TASKS[task].what}, {settings['dataset']}, batch {TASKS[task].batch_size}, "
        f"{settings['budget']:g} s of training per run, {unit}"
    )
    name = f"{settings['dataset']}_{task}" + "_jit" * settings["jit"]
    path = folder / f"{name}{'_quick' * settings['quick']}.png"
    panels = [(at, up) for up in ("loss", f"val_{score}") for at in ("seconds", "epoch")]
    plot(rows, path, title, panels, name="optimizer", step="turn")
    head = [cell.format(score=score) for cell in _HEAD]
    return f"### {title}\n\n{markdown(head, table)}\n\n{_NOTE} Plots: {path}"


_ELSE = {"final": "diverged", "best": "diverged", "at": "–"}


def _numbers(seeds, adam, score, up):
    """Returns `{quantity: [value per seed]}` of one optimizer."""
    names = "seconds", "epochs", "score_seconds", "final", "best", "at", "length"
    numbers = {name: [] for name in names}
    for seed, own in seeds.items():
        if seed in adam:
            last = adam[seed][-1]
            for name, at, what, larger in (
                ("seconds", "seconds", "loss", False),
                ("epochs", "epoch", "loss", False),
                ("score_seconds", "seconds", score, up),
            ):
                base = reached(adam[seed], last[what], at, what, larger)
                there = reached(own, last[what], at, what, larger)
                numbers[name].append(there / base if base else math.nan)
        top = best([r[score] for r in own], up)
        numbers["final"].append(own[-1]["loss"])
        numbers["best"].append(top)
        at = [r["epoch"] for r in own if r[score] == top]
        numbers["at"].append(at[0] if at else math.nan)
        numbers["length"].append(own[-1]["epoch"])
    return numbers
