"""The table that says what the inputs' side brings, and what the outputs' does."""

from parts.everyday_report import Compared
from parts.everyday_sides import sides


def rows(**losses):
    """Returns runs with one loss a seed, `{contender: losses}`."""
    return [
        {"contender": name.replace("_", "-"), "schedule": "cosine", "rate": 0.01, "seed": seed}
        | {"loss": loss, "best_val_loss": loss}
        for name, own in losses.items()
        for seed, loss in enumerate(own)
    ]


def test_it_has_the_tasks_on_which_proxprop_was_run_with_a_schedule():
    tasks = {
        "physics": Compared(rows(soap=[1.0, 3.0, 2.0], proxprop_cosine=[4.0])),
        "small": Compared(rows(soap=[1.0], adam=[1.0])),
    }
    lines = sides(tasks).splitlines()[4:]
    assert lines[0] == "| steps | physics |"
    assert "| SOAP | 2 (0.01, cosine) |" in lines
    assert "| `ProxProp(learning_rate=CosineDecay(...))` | 4 (0.01, cosine) |" in lines
    assert "| Adam | – |" in lines
    assert sides({"small": tasks["small"]}) == ""
