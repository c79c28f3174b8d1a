"""What is left of a lead where everyone trains for fewer steps."""

from parts.everyday_report import FAMILY, Compared
from parts.results import grouped, markdown, text

_ABOUT = (
    "Everyone has a half or a quarter of the steps: the peers with rates tuned for that many "
    "and with cosine decay over that many, all with seed 0. Ours is `ProxProp()` with nothing "
    "typed, the peer the best of tuned Adam, AdamW and Schedule-Free AdamW by its final "
    "training loss; validation is the lowest of a run, in units of the lowest of these peers. "
    "**Bold** is where ours is higher."
)
_NAMES = {0.5: "half of the steps", 0.25: "a quarter of the steps"}


def shorter(rows):
    """Returns the table of all trainings that are shorter in Markdown, `""` without any.

    Args:
        rows: of all runs.
    """
    found = {}
    for (budget, task), own in grouped(rows, "budget", "task").items():
        compared = Compared(own)
        if budget in _NAMES and compared.ours and compared.peer("adam"):
            found.setdefault(budget, {})[task] = compared
    if not found:
        return ""
    budgets = sorted(found, reverse=True)
    head = ["task"]
    for share in budgets:
        head += [f"{_NAMES[share]}: best peer", "ours", "ours / peer's", "validation"]
    tasks = list(dict.fromkeys(task for own in found.values() for task in own))
    lines = []
    for task in tasks:
        cells = [found[share].get(task) for share in budgets]
        lines.append([task, *(cell for own in cells for cell in _cells(own))])
    said = [_in_all(share, found[share].values()) for share in budgets]
    return "\n\n".join(["### Shorter trainings", _ABOUT, markdown(head, lines), *said])


def _cells(task):
    if task is None:
        return ["–"] * 4
    loss, validation = (
        text(ratio) if ratio <= 1 else f"**{text(ratio)}**" for ratio in _ratios(task)
    )
    return [task.peer(*FAMILY).label(), text(task.ours.loss, 3), loss, validation]


def _ratios(task):
    """Returns our loss over the best peer's, and our validation over that peer's."""
    validation = task.peer(*FAMILY, by="validation").validation
    return task.ours.loss / task.peer(*FAMILY).loss, task.ours.validation / validation


def _in_all(share, tasks):
    lower, validates = (sum(r <= 1 for r in part) for part in zip(*map(_ratios, tasks)))
    return (
        f"With {_NAMES[share]} ours ends at or below the best peer on {lower} of "
        f"{len(tasks)} tasks, and validates as well or better on {validates}."
    )
