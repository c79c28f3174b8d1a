"""What moving statistics of a U-Net do to its loss."""

import keras
import numpy as np

import batch_normalization


def test_the_quick_form_prints_a_row(capsys):
    batch_normalization.main(["--dataset", "digits", "--quick", "--seeds", "1"])
    head, _, row = capsys.readouterr().out.splitlines()[-3:]
    assert len(row.split("|")) == len(head.split("|")) == 8
    assert all(0 < float(cell) < 2 for cell in row.split("|")[3:7])


def test_a_loss_is_the_mean_of_the_last_steps():
    images = np.random.default_rng(0).random((40, 8, 8, 1)).astype("float32")
    data = [batch_normalization.task(images)] * 2
    still = keras.optimizers.SGD(0.0)
    training, inference = batch_normalization.losses(still, data, 0.9, 10, 0)
    # Nothing was learned; moving statistics of ten steps are not yet those of a batch.
    assert 0.3 < training < 3 and inference != training
