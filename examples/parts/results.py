"""Rows of results in a CSV file, and what reports make of them."""

import csv
import math
import statistics


def append(path, rows):
    """Adds rows, dicts with the same keys, to a CSV file; the first ones name its columns."""
    new = not path.exists() or not path.stat().st_size
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


def write(path, rows, columns=None):
    """Makes a CSV file of rows, so that all of them are there or the old ones.

    Args:
        path: of the file.
        rows: dicts.
        columns: names of the columns. Defaults to `None`: those of the first row.
    """
    part = path.with_name(f"{path.name}.part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def read(path):
    """Returns the rows of a CSV file, numbers as numbers; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _number(text):
    for kind in (int, float):
        try:
            return kind(text)
        except (TypeError, ValueError):
            pass
    return text


def grouped(rows, *keys):
    """Returns `{values of keys: rows}`, in the order of their first row."""
    groups = {}
    for row in rows:
        key = tuple(row[k] for k in keys)
        groups.setdefault(key if len(keys) > 1 else key[0], []).append(row)
    return groups


def reached(rows, target, at, what="loss", up=False):
    """Returns where a curve first gets to `target`, infinity where it never does.

    Args:
        rows: a run's rows, in the order of time.
        target: the value to get to.
        at: name of the column that is returned, between two rows by interpolation.
        what: name of the column that gets there.
        up: whether larger is better.
    """
    sign = -1 if up else 1
    before = None
    for row in rows:
        value = sign * row[what]
        if value <= sign * target:
            if before is None:
                return float(row[at])
            high = sign * before[what]
            part = (high - sign * target) / (high - value) if math.isfinite(high) else 1.0
            return before[at] + part * (row[at] - before[at])
        before = row
    return math.inf


def best(values, up=False):
    """Returns the best of the values that are numbers, NaN where none is."""
    finite = [v for v in values if math.isfinite(v)]
    return (max if up else min)(finite) if finite else math.nan


def median(values):
    """Returns the median, or the upper one of two; what is not a number is infinite."""
    return statistics.median_high(_sorted(values))


def _sorted(values):
    return sorted(math.inf if math.isnan(v) else v for v in values)


def text(value, digits=3, otherwise="never"):
    return f"{value:.{digits}g}" if math.isfinite(value) else otherwise


def spread(values, digits=3, otherwise="never"):
    """Returns median and range as text, `0.25 [0.2, 0.31]`; one text where all are the same.

    Args:
        values: list of numbers.
        digits: how many significant ones are printed.
        otherwise: what is printed for infinity and what is not a number.
    """
    if not values:
        return "–"
    values = [median(values), *_sorted(values)[:: max(1, len(values) - 1)]]
    texts = [text(v, digits, otherwise) for v in values]
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]} [{texts[1]}, {texts[2]}]"


def markdown(head, rows):
    """Returns a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
