"""Which share of a gain is the averaging of weights, and which the implicit direction."""

import math

from parts.results import markdown, text

# What steps with which directions: {words: (name of the contender, schedule)}.
_KINDS = {
    "Adam, constant rate": ("adam", "constant"),
    "Adam, cosine decay": ("adam", "cosine"),
    "Schedule-Free AdamW": ("schedule-free", "constant"),
    "the optimizer inside `ProxProp()`, by itself": ("averaged-gradients", "constant"),
    "`ProxProp(Adam(...))`, constant rate": ("proxprop-adam", "constant"),
    "`ProxProp(Adam(...))`, cosine decay": ("proxprop-adam", "cosine"),
    "`ProxProp()`, its best of five rates": ("proxprop", "constant"),
}
# Below this a loss is that of a net that makes no mistakes, and a ratio says nothing.
_NO_LOSS = 1e-3
_ABOUT = (
    "Final loss over that of Adam at a constant rate, with seed 0, each at its best rate: the "
    "geometric mean over the {} tasks that have all of these, on which Adam's loss does not "
    f"come below {_NO_LOSS:g} and nobody's is zero; and on how many of them it is lower than "
    "Adam's."
)


def shares(tasks):
    """Returns what averages and directions bring, in Markdown, or `""` without results.

    Args:
        tasks: `{name: Compared}`.
    """
    found = [_losses(task) for task in tasks.values()]
    found = [own for own in found if None not in own and own[0] >= _NO_LOSS and min(own) > 0]
    if not found:
        return ""
    lines = []
    for words, column in zip(_KINDS, zip(*found)):
        ratios = [loss / own[0] for loss, own in zip(column, found)]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        lower = sum(ratio < 1 for ratio in ratios)
        lines.append([words, text(mean), f"{lower} of {len(ratios)}"])
    title = "### Shares of averages and of directions"
    head = ["steps", "loss / Adam's", "lower on"]
    return "\n\n".join([title, _ABOUT.format(len(found)), markdown(head, lines)])


def _losses(task):
    return [task.tuned(*kind) for kind in _KINDS.values()]
