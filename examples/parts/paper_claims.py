"""What `paper_experiments.py` found of the paper's claims, as tables in Markdown."""

import math

from parts.results import best, grouped, markdown, median, reached, spread, text

# How far below BackProp's a validation accuracy counts as not worse.
_ACCURACY = 0.005
# What part of the loss that they began with stable runs end below.
_STABLE = 0.5


def report(rows, title):
    """Returns a table of the methods and one of the claims; BackProp is the yardstick."""
    runs = {m: grouped(own, "seed") for m, own in grouped(rows, "method").items()}
    epochs = max(r["epoch"] for r in rows)
    complete = {
        m: {seed: own for seed, own in seeds.items() if own[-1]["epoch"] == epochs}
        for m, seeds in runs.items()
    }
    complete = {m: seeds for m, seeds in complete.items() if seeds}
    numbers = {m: _numbers(seeds, complete) for m, seeds in complete.items()}
    head = [
        f"after {epochs} epochs", "seeds", "training loss", "epochs to BackProp's loss",
        "seconds to it / BackProp's", "best validation accuracy", "at epoch", "s per epoch",
    ]  # fmt: skip
    table = [
        [
            m,
            len(complete[m]),
            spread(n["loss"], otherwise="diverged"),
            *(spread(n[k]) for k in ("epochs", "seconds")),
            spread(n["best"], 4),
            *(spread(n[k]) for k in ("best_epoch", "per_epoch")),
        ]
        for m, n in numbers.items()
    ]
    claims = markdown(["claim", "measured", "holds"], _claims(numbers))
    note = "Medians over seeds, in brackets their range; `never`: not within these epochs."
    return f"### {title}\n\n{markdown(head, table)}\n\n{note}\n\n{claims}"


def _numbers(seeds, complete):
    """Returns `{quantity: [value per seed]}` of one method."""
    names = "first", "loss", "epochs", "seconds", "best", "best_epoch", "per_epoch"
    numbers = {name: [] for name in names}
    for seed, own in seeds.items():
        yardstick = complete.get("backprop", {}).get(seed)
        if yardstick:
            target = yardstick[-1]["loss"]
            numbers["epochs"].append(reached(own, target, "epoch"))
            base = reached(yardstick, target, "seconds")
            numbers["seconds"].append(reached(own, target, "seconds") / base)
        accuracy = best([r["val_accuracy"] for r in own], up=True)
        numbers["loss"].append(own[-1]["loss"])
        numbers["first"].append(own[0]["loss"])
        numbers["best"].append(accuracy)
        at = [r["epoch"] for r in own if r["val_accuracy"] == accuracy]
        numbers["best_epoch"].append(at[0] if at else math.nan)
        numbers["per_epoch"].append(own[-1]["seconds"] / own[-1]["epoch"])
    return numbers


def _claims(numbers):
    """Returns a row per claim: what it says, what was measured, whether it holds."""
    mid = {m: {k: median(v) for k, v in n.items() if v} for m, n in numbers.items()}
    if not {"backprop", "exact"} <= set(mid):
        return [["(all)", "needs finished runs of backprop and exact", "–"]]
    base, exact = mid["backprop"], mid["exact"]
    cg = sorted((m for m in mid if m.startswith("cg")), key=lambda m: int(m[2:]))
    usual = ["backprop", "exact", *cg]
    losses = ", ".join(f"{m} {text(mid[m]['loss'])}" for m in usual)
    rows = [
        [
            "exact steps reach the lowest training loss per epoch (or are within 1 % of it)",
            f"final training loss: {losses}",
            _yes(exact["loss"] <= 1.01 * min(mid[m]["loss"] for m in usual)),
        ]
    ]
    if cg:
        share = ", ".join(f"{m} {text(mid[m]['epochs'])}" for m in cg)
        rows.append(
            [
                "a few CG iterations suffice",
                f"epochs to BackProp's final training loss: {share}, BackProp "
                f"{text(base['epochs'])}",
                _yes(all(mid[m]["epochs"] < base["epochs"] for m in cg)),
            ]
        )
    seconds = ", ".join(f"{m} {text(mid[m]['seconds'])}" for m in usual[1:])
    rows.append(
        [
            "faster than BackProp in seconds",
            f"seconds to BackProp's final training loss / BackProp's: {seconds}",
            _yes(min(mid[m]["seconds"] for m in usual[1:]) < 1),
        ]
    )
    rows.append(_stability(numbers))
    gap = exact["best"] - base["best"]
    rows.append(
        [
            f"validation accuracy is not worse (by more than {_ACCURACY})",
            f"best, exact - BackProp: {gap:+.4f}",
            _yes(gap >= -_ACCURACY),
        ]
    )
    return rows


def _stability(numbers):
    claim = "longer steps stay stable"
    longer = sorted(m for m in numbers if "-x" in m)
    if not longer:
        return [claim, "not run: train with --stability", "–"]

    def stable(method):
        n = numbers[method]
        return [loss < _STABLE * first for loss, first in zip(n["loss"], n["first"])]

    ends = {m: text(median(numbers[m]["loss"]), otherwise="diverged") for m in longer}
    counts = ", ".join(f"{m} {sum(stable(m))} of {len(stable(m))} ({ends[m]})" for m in longer)
    exact = [m for m in longer if m.startswith("exact")]
    return [
        claim,
        f"seeds that end below half of their first training loss (final loss): {counts}",
        _yes(bool(exact) and all(all(stable(m)) for m in exact)),
    ]


def _yes(holds):
    return "yes" if holds else "no"
