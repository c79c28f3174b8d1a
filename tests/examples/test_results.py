"""What reports are made of: rows in a file, curves that reach a target, medians."""

import math

import pytest

from parts import results


def rows(losses, seconds=None):
    seconds = seconds or range(len(losses))
    return [{"loss": v, "seconds": s} for v, s in zip(losses, seconds)]


@pytest.mark.parametrize(
    "losses, target, expected",
    [
        ([4.0, 2.0, 1.0], 3.0, 0.5),
        ([4.0, 2.0, 1.0], 2.0, 1.0),
        ([4.0, 2.0, 1.0], 1.25, 1.75),
        ([4.0, 2.0, 1.0], 5.0, 0.0),
        ([4.0, 2.0, 1.0], 0.5, math.inf),
        # The first time counts, though it goes up again.
        ([4.0, 1.0, 3.0, 0.5], 2.0, 2 / 3),
        ([4.0, math.nan, math.nan], 3.0, math.inf),
        ([math.nan, 1.0], 2.0, 1.0),
    ],
)
def test_reached(losses, target, expected):
    assert results.reached(rows(losses), target, "seconds") == pytest.approx(expected)


def test_reached_where_larger_is_better():
    accuracies = rows([0.1, 0.5, 0.9], seconds=[0, 10, 30])
    for target, expected in ((0.3, 5), (0.7, 20), (0.95, math.inf)):
        at = results.reached(accuracies, target, "seconds", "loss", up=True)
        assert at == pytest.approx(expected)


def test_rows_come_back_from_a_file(tmp_path):
    path = tmp_path / "new" / "rows.csv"
    assert results.read(path) == []
    written = [
        {"name": "a=1 b=2", "n": 3, "x": 0.1 + 0.2, "y": math.inf},
        {"name": "", "n": -1, "x": 1e-30, "y": 2.5},
    ]
    results.append(path, written[:1])
    results.append(path, written[1:])
    assert results.read(path) == written
    assert [type(v) for v in results.read(path)[0].values()] == [str, int, float, float]
    results.write(path, written[1:])
    assert results.read(path) == written[1:] and list(path.parent.iterdir()) == [path]


def test_medians_and_their_text():
    assert results.median([3.0, 1.0, 2.0]) == 2.0
    assert results.median([1.0, math.nan, 2.0]) == 2.0
    assert results.median([1.0, math.nan, math.inf]) == math.inf
    assert results.spread([0.5]) == "0.5"
    assert results.spread([0.31, 0.2, 0.2512]) == "0.251 [0.2, 0.31]"
    assert results.spread([0.25, 0.2501, 0.25]) == "0.25"
    assert results.spread([0.2, math.inf]) == "never [0.2, never]"
    assert results.spread([math.nan], otherwise="diverged") == "diverged"
    assert results.spread([]) == "–"


def test_the_best_is_among_the_numbers():
    assert results.best([3.0, math.nan, 1.0]) == 1.0
    assert results.best([3.0, math.nan, 1.0], up=True) == 3.0
    assert math.isnan(results.best([math.nan]))


def test_a_markdown_table():
    table = results.markdown(["a", "b"], [[1, "x"], [2, "y"]])
    assert table == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |"
