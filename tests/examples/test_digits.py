"""The first program that one runs."""

import numpy as np

import digits


def test_images_are_shifted_digits_and_none_is_in_both_parts():
    (x, y), (x_val, y_val) = digits.shifted_digits(500)
    assert x.shape == (500, 12, 12) and x_val.shape == (100, 12, 12)
    assert len(y) == 500 and len(y_val) == 100 and set(y) == set(range(10))
    # Where the digits lie differs; what they are does not.
    sums = [np.round(part.sum((1, 2)), 4) for part in (x, x_val)]
    images = [{part.tobytes() for part in _cut(p)} for p in (x, x_val)]
    assert len(images[0]) < 500 and not images[0] & images[1]
    assert min(map(np.min, sums)) > 0


def _cut(x):
    """Returns the images without the empty borders around them."""
    for image in x:
        rows, columns = image.any(1).nonzero()[0], image.any(0).nonzero()[0]
        yield image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def test_it_trains_and_says_what_came_out(tmp_path, capsys):
    digits.main(["--epochs", "2", "--images", "320", "--out", str(tmp_path / "curves.png")])
    printed = capsys.readouterr().out
    assert "| ProxProp() |" in printed and "| Adam(0.003) |" in printed
    # Keras's own progress bars.
    assert "Epoch 2/2" in printed and "val_accuracy" in printed
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_seconds_are_those_to_the_loss_that_adam_ends_at():
    def run(name, losses):
        return [
            {
                "optimizer": name,
                "epoch": i,
                "loss": loss,
                "val_accuracy": 0.5,
                "seconds": 2 * i,
            }
            for i, loss in enumerate(losses, 1)
        ]

    adam = run("Adam(0.001)", [0.9, 0.5, 0.25, 0.2])
    lines = digits.table(adam, run("ProxProp()", [0.8, 0.1, 0.05, 0.01])).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0][1] == "epochs to a loss of 0.2000"
    assert cells[-2][1:4] == ["4", "8.0", "1.00"] and cells[-1][1:4] == ["2", "4.0", "0.50"]
    lines = digits.table(adam, run("ProxProp()", [0.8, 0.7, 0.6, 0.5])).splitlines()
    assert lines[-1].count("never") == 3
