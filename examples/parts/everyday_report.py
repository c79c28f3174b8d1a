"""The tables and the picture of `everyday.py`."""

import math

from parts.everyday_contenders import proxprop_default
from parts.everyday_shares import shares
from parts.everyday_sides import sides
from parts.plots import bars
from parts.results import grouped, markdown, median, reached, text

# The peers that a user of Keras has at hand: the floors are about these.
FAMILY = ("adam", "adamw", "schedule-free")
_OTHERS = ("soap", "muon", "lion")
_NAMES = {
    "adam": "Adam",
    "adamw": "AdamW",
    "schedule-free": "Schedule-Free AdamW",
    "soap": "SOAP",
    "muon": "Muon",
    "lion": "Lion",
    "proxprop": "`ProxProp()`",
}


class Outcome:
    """What the runs of one contender with one schedule and rate came to on a task.

    Args:
        rows: those of all seeds.
    """

    def __init__(self, rows):
        self.of_seed = {row["seed"]: row for row in rows}
        self.contender, self.schedule = rows[0]["contender"], rows[0]["schedule"]
        self.rate = float(rows[0]["rate"])
        self.loss = median([row["loss"] for row in rows])
        self.validation = median([row["best_val_loss"] for row in rows])

    def spread(self):
        """Returns how far validation at its best is apart over the seeds."""
        found = [row["best_val_loss"] for row in self.of_seed.values()]
        return max(found) - min(found)

    def label(self):
        cosine = ", cosine" if self.schedule == "cosine" else ""
        return f"{text(self.loss, 3, 'diverged')} ({self.rate:.3g}{cosine})"

    def seconds_over(self, peer):
        """Returns the seconds to the final loss of a peer, over those that it took itself."""
        ratios = []
        for seed, row in self.of_seed.items():
            if seed in peer.of_seed:
                # As its curve has it, which is rounded.
                points = curve(peer.of_seed[seed])
                target = points[-1]["loss"]
                there = reached(points, target, "seconds")
                ratios.append(reached(curve(row), target, "seconds") / there)
        return median(ratios) if ratios else math.nan


def curve(row):
    """Returns what a run's loss was, a dict with step, seconds and loss per evaluation.

    Seconds are those of the run where it is not known what a step takes.
    """
    points = [map(float, point.split()) for point in row["curve"].split(";")]
    points = [dict(zip(("step", "seconds", "loss"), point)) for point in points]
    if (milliseconds := row.get("milliseconds")) is not None:
        points = [p | {"seconds": p["step"] * milliseconds / 1000} for p in points]
    return points


def report(rows, folder):
    """Returns the tables of runs with one budget in Markdown, and plots the picture.

    Args:
        rows: of all runs.
        folder: for the picture.
    """
    found = {task: Compared(own) for task, own in grouped(rows, "task").items()}
    budget, quick = rows[0]["budget"], "_quick" * rows[0]["quick"]
    full = {name: task for name, task in found.items() if task.ours and task.peer("adam")}
    title = "Everyday tasks" + ("" if budget == 1 else f", {budget:g} of the steps")
    if full:
        path = folder / f"everyday{quick}{'' if budget == 1 else f'_{budget:g}'}.png"
        ratios = {name: task.ours.loss / task.peer("adam").loss for name, task in full.items()}
        bars(ratios, path, title, "final loss of ProxProp() / that of the best tuned Adam")
    head = ["task", *map(_NAMES.get, (*FAMILY, *_OTHERS, "proxprop")), "its best of five"]
    lines = [[name, *task.cells()] for name, task in found.items()]
    parts = [f"## {title}", _ABOUT, markdown(head, lines)]
    if full:
        floors = {name: _Floors(task) for name, task in full.items()}
        parts += ["### Floors", _FLOORS, _judged(floors), _in_all(floors)]
    return "\n\n".join([*parts, *filter(None, [shares(found), sides(found)])])


_ABOUT = (
    "Final training loss, medians over seeds, in brackets the learning rate that was best "
    "with seed 0."
)
_FLOORS = (
    "Ours is `ProxProp()` with nothing typed; the peers are tuned Adam, AdamW and "
    "Schedule-Free AdamW. Validation is the lowest loss of a run, ours and the best peer's; "
    "its floor holds where ours is above by no more than the larger spread of the two over "
    "the seeds. **Bold** is a floor that does not hold."
)


class Compared:
    """What all contenders came to on one task."""

    def __init__(self, rows):
        runs = grouped(rows, "contender", "schedule", "rate").values()
        # Rates that were only tried have one seed, where those that were best have more.
        self._runs = [Outcome(own) for own in runs]
        default = proxprop_default()
        own = [o for o in self._runs if o.contender == "proxprop"]
        self.ours = next((o for o in own if math.isclose(o.rate, default, rel_tol=1e-4)), None)
        self.best_of_own = self.peer("proxprop")

    def peer(self, *names, schedule=None, by="loss"):
        """Returns the outcome with the lowest median of those with the most seeds."""
        runs = [o for o in self._runs if o.contender in names]
        runs = [o for o in runs if schedule in (None, o.schedule)]
        most = {}
        for o in runs:
            most[o.contender] = max(most.get(o.contender, 0), len(o.of_seed))
        runs = [o for o in runs if len(o.of_seed) == most[o.contender]]
        return min(runs, key=lambda o: _number(getattr(o, by)), default=None)

    def family(self):
        return self.peer(*FAMILY)

    def tuned(self, contender, schedule):
        """Returns the lowest loss over the rates with seed 0, or `None` without any."""
        runs = [o for o in self._runs if (o.contender, o.schedule) == (contender, schedule)]
        losses = [o.of_seed[0]["loss"] for o in runs if 0 in o.of_seed]
        return min(map(_number, losses), default=None)

    def cells(self):
        cells = [o.label() if (o := self.peer(n)) else "–" for n in (*FAMILY, *_OTHERS)]
        if not self.ours:
            return [*cells, "–", "–"]
        times = self.best_of_own.rate / self.ours.rate
        own = f"{text(self.best_of_own.loss, 3, 'diverged')} (×{times:.3g})"
        return [*cells, text(self.ours.loss, 3, "diverged"), own]


def _number(value):
    return math.inf if math.isnan(value) else value


class _Floors:
    """What the floors are about, on one task.

    Args:
        task: `Compared` that has ours, Adam and peers.
    """

    def __init__(self, task):
        ours, peer = task.ours, task.family()
        by_validation = task.peer(*FAMILY, by="validation")
        self.adam = ours.loss / task.peer("adam").loss
        self.peer = ours.loss / peer.loss
        self.own = ours.loss / task.best_of_own.loss
        self.validations = ours.validation, by_validation.validation
        noise = max(ours.spread(), by_validation.spread())
        self.validates = ours.validation <= by_validation.validation + noise
        self.seconds = ours.seconds_over(task.peer("adam", schedule="constant"))
        self.seconds_to_peer = ours.seconds_over(peer)
        self.others = {
            name: (ours.loss / other.loss, ours.seconds_over(other))
            for name in ("soap", "muon")
            if (other := task.peer(name))
        }

    def holds(self):
        """Returns which floors hold, in the order of `_HELD`."""
        held = self.peer <= 1, self.own <= 1.1, self.validates
        return *held, self.seconds <= 1, self.seconds_to_peer <= 1

    def cells(self):
        ours, peer = map(text, self.validations)
        cells = [text(self.peer), text(self.own), f"{ours} / {peer}"]
        cells += [text(self.seconds), text(self.seconds_to_peer)]
        cells = [c if holds else f"**{c}**" for c, holds in zip(cells, self.holds())]
        others = [self.others.get(name, ()) for name in ("soap", "muon")]
        others = [" ".join(map(text, figures)) or "–" for figures in others]
        return [text(self.adam), *cells, *others]


def _judged(floors):
    head = ["task", "loss / best Adam's", "/ best peer's", "/ own best", "validation"]
    head += ["seconds to constant Adam's loss / Adam's", "to best peer's / peer's"]
    head += ["loss / SOAP's, seconds / its", "loss / Muon's, seconds / its"]
    return markdown(head, [[name, *own.cells()] for name, own in floors.items()])


_HELD = (
    "final loss not above the best peer's",
    "final loss at most 1.1 times its own best",
    "validation no worse",
    "seconds to a constant Adam's loss not above its",
    "seconds to the best peer's loss not above its",
)


def _in_all(floors):
    """Returns what can be said about all tasks together."""
    held = zip(_HELD, zip(*(own.holds() for own in floors.values())))
    lines = [f"{what}: on {sum(on)} of {len(on)} tasks" for what, on in held]
    constant = text(median([own.seconds for own in floors.values()]))
    to_peer = text(median([own.seconds_to_peer for own in floors.values()]))
    lines.append(f"the median of seconds to a constant Adam's loss: {constant} (floor 0.4)")
    lines.append(f"the median of seconds to the best peer's: {to_peer} (floor 0.7)")
    for name in ("soap", "muon"):
        ratios = [own.others[name] for own in floors.values() if name in own.others]
        if ratios:
            loss, seconds = (sum(r < 1 for r in column) for column in zip(*ratios))
            lines.append(
                f"against {_NAMES[name]}: a lower loss on {loss} of {len(ratios)} tasks, "
                f"sooner at its loss on {seconds}"
            )
    return "\n".join(f"- {line}" for line in lines)
