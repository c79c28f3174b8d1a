"""What of a loss is a matter of a layer's inputs, what of its outputs, what of a schedule."""

from parts.results import markdown

# {words: the contender's name}.
_KINDS = {
    "Adam": "adam",
    "SOAP": "soap",
    "SOAP with bases of inputs only": "soap-inputs",
    "SOAP with bases of outputs only": "soap-outputs",
    "Muon": "muon",
    "`ProxProp(Muon(...))`": "proxprop-muon",
    "`ProxProp(Adam(...))`": "proxprop-adam",
    "`ProxProp(Adam(beta_1=0.95, beta_2=0.95))`": "proxprop-adam-95",
    "`ProxProp()`": "proxprop",
    "`ProxProp(learning_rate=CosineDecay(...))`": "proxprop-cosine",
}
_ABOUT = (
    "Final training loss, medians over seeds, in brackets the learning rate that was best "
    "with seed 0, of all that were tried with every optimizer. Without or with cosine decay, "
    "whichever is better; `ProxProp()` has none."
)


def sides(tasks):
    """Returns the table in Markdown, or `""` without results.

    Args:
        tasks: `{name: Compared}`.
    """
    own = {name: task for name, task in tasks.items() if task.peer("proxprop-cosine")}
    if not own:
        return ""
    lines = []
    for words, contender in _KINDS.items():
        outcomes = [task.peer(contender) for task in own.values()]
        lines.append([words, *(o.label() if o else "–" for o in outcomes)])
    title = "### Sides of a layer, and schedules"
    return "\n\n".join([title, _ABOUT, markdown(["steps", *own], lines)])
