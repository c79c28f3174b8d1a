"""The tables and plots of `time_to_target.py`."""

import math

from parts.contenders import TASKS
from parts.plots import plot
from parts.results import best, grouped, markdown, reached, spread

# What a run has in common with those that it is compared with.
SETTINGS = ("dataset", "quick", "jit", "budget", "tuning", "task")
RUN = (*SETTINGS, "optimizer", "seed")
# {figure of a run: (head of its column, significant digits, what is printed for no number)}
_FIGURES = {
    "seconds_ratio": ("seconds to Adam's training loss / Adam's", 3, "never"),
    "epochs_ratio": ("epochs to it / Adam's", 3, "never"),
    "score_ratio": ("seconds to Adam's validation {score} / Adam's", 3, "never"),
    "final_loss": ("final training loss", 3, "diverged"),
    "best_score": ("best validation {score}", 4, "diverged"),
    "best_epoch": ("at epoch", 3, "–"),
    "epochs": ("epochs", 3, "never"),
}
_NOTE = (
    "The target is what Adam has at the end of its seconds, with the same seed; Adam's time "
    "is when it is first there. Medians over seeds, in brackets their range; `never`: not "
    "within the same seconds."
)


def summaries(turns):
    """Returns a row per run, with the figures that the tables are made of.

    Args:
        turns: rows of all turns of final runs, Adam's among them.
    """
    runs = grouped(turns, *SETTINGS, "seed", "optimizer")
    rows = []
    for key, own in runs.items():
        adam = runs[(*key[:-1], "adam")]
        figures = _figures(own, adam, *_score(own[0]["task"]))
        # More digits than any table has.
        figures = {k: float(f"{v:.6g}") for k, v in figures.items()}
        rows.append({k: own[0][k] for k in (*RUN, "arguments")} | figures)
    return rows


def report(runs, turns, folder):
    """Plots the curves of a task's runs, and returns their table in Markdown.

    Args:
        runs: what `summaries` returned, of one task and with the same settings.
        turns: rows of all turns of final runs; where some of these runs' are missing,
            nothing is plotted.
        folder: for the plots.
    """
    settings = {column: runs[0][column] for column in SETTINGS}
    task, dataset = settings["task"], settings["dataset"]
    score, _ = _score(task)
    table = []
    for name, own in grouped(runs, "optimizer").items():
        tuned = sorted({r["arguments"].removeprefix("learning_rate=") for r in own})
        cells = [
            spread([r[k] for r in own], digits, otherwise)
            for k, (_, digits, otherwise) in _FIGURES.items()
        ]
        table.append([name, ", ".join(tuned), len(own), *cells])
    unit = "with XLA" if settings["jit"] else "without XLA"
    title = (
        f"{task}: {TASKS[task].what}, {dataset}, batch {TASKS[task].batch_size}, "
        f"{settings['budget']:g} s of training per run, {unit}"
    )
    wanted = [(r["optimizer"], r["seed"]) for r in runs]
    turns = [r for r in turns if all(r[k] == v for k, v in settings.items())]
    turns = [r for r in turns if (r["optimizer"], r["seed"]) in wanted]
    plots = "No plots: they need every turn of these runs."
    if len(grouped(turns, "optimizer", "seed")) == len(wanted):
        name = f"{dataset}_{task}" + "_jit" * settings["jit"] + "_quick" * settings["quick"]
        panels = [(at, up) for up in ("loss", f"val_{score}") for at in ("seconds", "epoch")]
        path = folder / f"{name}.png"
        plot(turns, path, title, panels, name="optimizer", step="turn")
        plots = f"Plots: {path}"
    head = [text.format(score=score) for text, _, _ in _FIGURES.values()]
    table = markdown(["optimizer", "tuned", "seeds", *head], table)
    return f"### {title}\n\n{table}\n\n{_NOTE} {plots}"


def _score(task):
    """Returns what a task is judged by on validation data, and whether more is better."""
    return ("loss", False) if TASKS[task].reconstruction else ("accuracy", True)


def _figures(own, adam, score, up):
    """Returns `{figure: value}` of one run, from its turns and from those of Adam."""
    score = f"val_{score}"
    figures = {}
    for name, at, what, larger in (
        ("seconds_ratio", "seconds", "loss", False),
        ("epochs_ratio", "epoch", "loss", False),
        ("score_ratio", "seconds", score, up),
    ):
        target = adam[-1][what]
        base = reached(adam, target, at, what, larger)
        there = reached(own, target, at, what, larger)
        figures[name] = there / base if base else math.nan
    top = best([r[score] for r in own], up)
    at = [r["epoch"] for r in own if r[score] == top]
    figures |= {"final_loss": own[-1]["loss"], "best_score": top}
    return figures | {"best_epoch": at[0] if at else math.nan, "epochs": own[-1]["epoch"]}
