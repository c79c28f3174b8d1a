"""The networks of the examples are those that their names and docstrings say."""

import keras
import numpy as np
import pytest

import step_time
from parts import contenders, datasets, models

L = keras.layers


def widths(model):
    layers = [layer for layer in model.layers if isinstance(layer, L.Dense)]
    return [layers[0].kernel.shape[0], *(layer.units for layer in layers)]


def test_fully_connected_networks():
    assert widths(models.paper_mlp((32, 32, 3))) == [3072, 4000, 1000, 4000, 10]
    assert widths(models.paper_mlp((28, 28, 1))) == [784, 4000, 1000, 4000, 10]
    model = models.deep_autoencoder((784,))
    assert widths(model) == [784, 1000, 500, 250, 30, 250, 500, 1000, 784]
    code = [layer for layer in model.layers if getattr(layer, "units", 0) == 30]
    assert code[0].activation is keras.activations.linear


def test_the_papers_convnet():
    model = models.paper_convnet((32, 32, 3))
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["Conv2D", "MaxPooling2D"] * 2 + ["Conv2D", "Flatten", "Dense"]
    convolutions = [layer for layer in model.layers if isinstance(layer, L.Conv2D)]
    assert [c.kernel.shape for c in convolutions] == [
        (5, 5, 3, 16),
        (5, 5, 16, 20),
        (5, 5, 20, 20),
    ]
    # Two poolings leave 8 × 8.
    assert widths(model) == [8 * 8 * 20, 10]


def test_rows_of_an_image_are_positions():
    model = models.row_mlp((28, 20, 1))
    assert widths(model) == [20, 256, 256, 10]
    assert model.layers[-1].kernel.shape[0] == 28 * 256
    image = np.arange(560.0).reshape(1, 28, 20, 1)
    np.testing.assert_array_equal(model.layers[0](image)[0, 3], image[0, 3, :, 0])


@pytest.mark.parametrize("name", contenders.TASKS)
def test_every_task_has_a_network_for_its_data_and_a_finite_loss(name):
    task, data = contenders.TASKS[name], datasets.load("digits").head(4)
    if task.reconstruction:
        data = data.reconstruction()
    losses = task.loss(data.y, task.model(data.shape)(data.x))
    assert losses.shape == (4,) and np.isfinite(losses).all()


@pytest.mark.parametrize(
    "name", ["mlp64", "convnet64", "resnet64", "sequence64", "mobilenet32"]
)
def test_networks_that_step_time_measures(name):
    _, make, shape, _ = step_time.TASKS[name]
    assert make()(np.zeros((2, *shape), "float32")).shape == (2, 10)


def test_the_losses_are_cross_entropies():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(5, 7)), rng.integers(0, 7, 5)
    expected = np.log(np.exp(z).sum(axis=1)) - z[np.arange(5), y]
    np.testing.assert_allclose(models.class_loss(y, z), expected, rtol=1e-6)
    t = rng.random((5, 7))
    p = 1 / (1 + np.exp(-z))
    expected = -(t * np.log(p) + (1 - t) * np.log(1 - p)).sum(axis=1)
    np.testing.assert_allclose(models.image_loss(t, z), expected, rtol=1e-6)
