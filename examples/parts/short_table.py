"""The README's table: a tuned Adam and `ProxProp()` as it comes, a row per task."""

from parts.contenders import TASKS
from parts.results import grouped, markdown, median

_HEAD = (
    "task",
    "Adam, learning rate tuned",
    "`ProxProp()`, nothing tuned",
    "seconds to Adam's loss",
)


def short_table(rows, tasks):
    """Returns a table in Markdown.

    Args:
        rows: those of `summary.csv`. Where a task was run with several budgets, the one with
            the most seeds counts.
        tasks: names of those that are judged by accuracy.
    """
    rows = [r for r in rows if r["dataset"] == "fashion_mnist" and not r["quick"] + r["jit"]]
    return markdown(_HEAD, [_cells(task, rows) for task in tasks])


def _cells(task, rows):
    runs = grouped([r for r in rows if r["task"] == task], "budget", "optimizer")
    most = max(len(own) for (_, name), own in runs.items() if name == "proxprop-untuned")
    (budget,) = [b for (b, n), o in runs.items() if n == "proxprop-untuned" and len(o) == most]
    adam, proxprop = runs[budget, "adam"], runs[budget, "proxprop-untuned"]
    ratio = median([r["seconds_ratio"] for r in proxprop])
    what = f"{TASKS[task].what}, batch {TASKS[task].batch_size}, {budget:g} s"
    return what, _end(adam), _end(proxprop), f"{ratio:.2f}"


def _end(runs):
    loss, score = (median([r[k] for r in runs]) for k in ("final_loss", "best_score"))
    return f"{loss:.3f}, {100 * score:.1f} %"
