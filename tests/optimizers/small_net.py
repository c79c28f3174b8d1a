"""A small net with rows of several counts, what it is trained on, and how."""

import keras
import numpy as np

L = keras.layers


def net(layer):
    """Rows per item and weight: 36 at the convolution, 2 at the Dense on positions, 1."""
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(2, 3, activation="tanh"),
            L.Reshape((2, 36)),
            L.Dense(5, "tanh"),
            L.Flatten(),
            layer(),
            L.Dense(2),
        ]
    )


def data(items=20):
    random = np.random.default_rng(1)
    return random.normal(size=(items, 8, 8, 1)).astype("float32"), random.normal(
        size=(items, 2)
    ).astype("float32")


def trained(model, optimizer, batch_size, epochs=1, **compiled):
    model.compile(optimizer, loss="mse", **compiled)
    model.fit(*data(), batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0)
    return model
