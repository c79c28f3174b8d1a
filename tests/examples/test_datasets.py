"""The data of the examples, and the order in which it is trained on."""

import gzip

import numpy as np
import pytest
import tensorflow_datasets as tfds

from parts import datasets


def test_digits_are_split_into_training_and_validation_examples():
    data = datasets.load("digits")
    assert data.x.shape == (1438, 8, 8, 1) and data.x_val.shape == (359, 8, 8, 1)
    assert data.x.min() == 0 and data.x.max() == 1 and data.x.dtype == np.float32
    assert len(data.y) == 1438 and data.y.dtype == np.int32
    np.testing.assert_array_equal(data.x, datasets.load("digits").x)
    # All classes in both parts, about a tenth each: the order is not that of the file.
    for y in (data.y, data.y_val):
        assert np.bincount(y).min() > 0.07 * len(y)


def test_cifar10_comes_from_tensorflow_datasets():
    with tfds.testing.mock_data(num_examples=40):
        data = datasets.load("cifar10")
        raw = list(tfds.as_numpy(tfds.load("cifar10", split="train")))
    assert data.x.shape == (32, 32, 32, 3) and data.x_val.shape == (8, 32, 32, 3)
    images = np.concatenate([data.x, data.x_val])
    labels = np.concatenate([data.y, data.y_val])
    # Every image with its own label, once.
    expected = sorted((r["image"].sum(dtype=int), r["label"]) for r in raw)
    actual = sorted((round(255 * i.sum(dtype="float64")), y) for i, y in zip(images, labels))
    assert actual == expected


@pytest.mark.parametrize("count, validation", [(60_000, 5000), (50_000, 5000), (100, 20)])
def test_the_last_5000_are_for_validation_and_a_fifth_of_less(monkeypatch, count, validation):
    images = np.zeros((count, 1, 1, 1), np.uint8)
    monkeypatch.setattr(datasets, "_from_tfds", lambda name: (images, np.arange(count)))
    data = datasets.load("mnist")
    assert len(data.y_val) == validation
    assert sorted([*data.y, *data.y_val]) == list(range(count))


def idx_files(folder, count):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    # The label is in the picture.
    images[:, 0, 0] = labels = np.arange(count, dtype=np.uint8) % 10
    header = (2051).to_bytes(4) + count.to_bytes(4) + (28).to_bytes(4) + (28).to_bytes(4)
    with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(header + images.tobytes())
    with gzip.open(folder / "train-labels-idx1-ubyte.gz", "wb") as file:
        file.write((2049).to_bytes(4) + count.to_bytes(4) + labels.tobytes())


def test_fashion_mnist_is_read_from_debians_files(monkeypatch, tmp_path):
    idx_files(tmp_path, 50)
    monkeypatch.setattr(datasets, "FASHION_MNIST", tmp_path)
    data = datasets.load("fashion_mnist")
    assert data.shape == (28, 28, 1) and len(data.x) == 40 and data.x.max() <= 1
    np.testing.assert_array_equal(np.rint(255 * data.x[:, 0, 0, 0]), data.y)
    np.testing.assert_array_equal(np.rint(255 * data.x_val[:, 0, 0, 0]), data.y_val)


def test_an_absent_data_set_is_an_error_that_names_the_way_out(monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets, "FASHION_MNIST", tmp_path / "nowhere")
    monkeypatch.setattr(tfds, "load", fail)
    with pytest.raises(RuntimeError, match="no route.*apt-get install dataset-fashion"):
        datasets.load("fashion_mnist")
    with pytest.raises(RuntimeError, match="'cifar10' could not.*tensorflow_datasets"):
        datasets.load("cifar10")
    with pytest.raises(ValueError, match="must be one of.*Received: 'cifar'"):
        datasets.load("cifar")


def test_batches_of_an_epoch_depend_on_seed_and_epoch_only():
    batches = datasets.epoch_batches(23, 5, seed=1, epoch=2)
    assert batches.shape == (4, 5) and len(set(batches.flat)) == 20
    np.testing.assert_array_equal(batches, datasets.epoch_batches(23, 5, seed=1, epoch=2))
    for other in ((2, 2), (1, 3), (2, 1)):
        assert (batches != datasets.epoch_batches(23, 5, *other)).any()
    with pytest.raises(ValueError, match="more than 3 examples"):
        datasets.epoch_batches(3, 5, seed=0, epoch=0)


def test_an_autoencoders_targets_are_its_inputs():
    data = datasets.load("digits").head(10).reconstruction()
    assert data.x.shape == (10, 64)
    np.testing.assert_array_equal(data.x, data.y)
    np.testing.assert_array_equal(data.x_val, data.y_val)
