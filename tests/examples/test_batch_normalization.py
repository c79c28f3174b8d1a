"""What moving statistics of a U-Net do to its loss."""

import keras
import numpy as np

import batch_normalization


def test_the_quick_form_prints_both_tables(capsys):
    batch_normalization.main(["--dataset", "digits", "--quick", "--seeds", "1"])
    lines = capsys.readouterr().out.splitlines()
    lines = [line.split("|")[1:-1] for line in lines if line.startswith("|")]
    of_unet, of_digits = lines[:3], lines[3:]
    assert [len(line) for line in of_unet] == [7] * 3
    assert [len(line) for line in of_digits] == [5] * 4
    numbers = [cell for line in (of_unet[2], *of_digits[2:]) for cell in line[3:]]
    assert all(0 < float(cell) < 20 for cell in numbers)


def test_a_loss_is_the_mean_of_the_last_steps():
    images = np.random.default_rng(0).random((40, 8, 8, 1)).astype("float32")
    data = [batch_normalization.task(images)] * 2
    found = batch_normalization.losses(
        lambda: batch_normalization.unet((8, 8, 1), 0.9),
        *(lambda: keras.optimizers.SGD(0.0), "binary_crossentropy", data, 32, (5, 10), 1),
    )
    # Nothing was learned; moving statistics of ten steps are not yet those of a batch.
    for training, inference in found:
        assert 0.3 < training < 3 and inference != training
