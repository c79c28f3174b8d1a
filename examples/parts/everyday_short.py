"""The README's table and picture: a tuned Adam and `ProxProp()` as it comes."""

from parts.everyday_report import Compared, curve
from parts.everyday_tasks import TASKS
from parts.plots import plot
from parts.results import grouped, markdown, text

_SHOWN = ("table", "digits", "mlp64", "convnet", "vit")
_DRAWN = "mlp64"
_HEAD = (
    "task",
    "Adam, rate and schedule tuned",
    "`ProxProp()`, nothing tuned",
    "seconds to that Adam's loss",
)


def short(rows, folder):
    """Returns a table of a few tasks in Markdown, and plots one of them.

    Args:
        rows: those of all runs.
        folder: for the picture.
    """
    tasks = {name: Compared(own) for name, own in grouped(rows, "task").items()}
    if _DRAWN in tasks:
        _draw(tasks[_DRAWN], folder / "everyday_curves.png")
    cells = []
    for name in _SHOWN:
        if name in tasks:
            adam, ours = tasks[name].peer("adam"), tasks[name].ours
            seconds = text(ours.seconds_over(adam), 2)
            cells.append([TASKS[name].what, adam.label(), text(ours.loss), seconds])
    return markdown(_HEAD, cells)


def _draw(task, path):
    """Plots losses of Adam, without and with a schedule, and of ours."""
    outcomes = {"ProxProp(), nothing tuned": task.ours}
    for schedule in ("constant", "cosine"):
        adam = task.peer("adam", schedule=schedule)
        outcomes[f"Adam({adam.rate:g}), {schedule}, tuned"] = adam
    points = [
        {"optimizer": label, "seed": seed, **point}
        for label, outcome in outcomes.items()
        for seed, row in outcome.of_seed.items()
        for point in curve(row)
    ]
    panels = [("seconds", "loss"), ("step", "loss")]
    plot(points, path, TASKS[_DRAWN].what, panels, "optimizer", "step")
