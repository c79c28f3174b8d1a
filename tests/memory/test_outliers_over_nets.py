"""Over nets, scales and places in training: one batch of outliers is forgotten."""

import keras
import numpy as np
import pytest

from keras_proxprop import CurvatureMemory, ProxProp, RowAdam

L = keras.layers
NETS = {
    "dense": ((4,), lambda: [L.Dense(8, "relu"), L.Dense(8, "relu")]),
    "convolution": (
        (5, 5, 2),
        lambda: [
            L.Conv2D(6, 3, activation="relu"),
            L.Conv2D(6, 2, activation="relu"),
            L.GlobalAveragePooling2D(),
        ],
    ),
    "sequence": (
        (5, 4),
        lambda: [
            L.SimpleRNN(6, return_sequences=True),
            L.Dense(8, "relu"),
            L.GlobalAveragePooling1D(),
        ],
    ),
}
SCALES = (1e2, 1e3, 1e6)
# Memory is refreshed at the first two.
PLACES = {"the first batch": 0, "a refresh": 18, "another batch": 20}
STEPS = 60


class Training:
    """A net that is trained on the same batches again and again; traced once."""

    def __init__(self, name, policy="float32"):
        self._shape, layers = NETS[name]
        keras.config.set_dtype_policy(policy)
        try:
            last = L.Dense(3, trainable=False)
            self._model = keras.Sequential([keras.Input(self._shape), *layers(), last])
        finally:
            keras.config.set_dtype_policy("float32")
        memory = CurvatureMemory(layers="all", refresh_every=5)
        # Nothing is averaged but the Gram matrices.
        optimizer = ProxProp(RowAdam(0.01, global_clipnorm=0.01), memory=memory)
        self._model.compile(optimizer, loss="mse", jit_compile=False)
        self._model.optimizer.build(self._model.trainable_variables)
        known = {id(v): v.numpy() for v in self._variables}
        self._model.train_on_batch(*next(self._batches()))
        # What memory keeps is made in the first step, and starts from zeros.
        self._start = [known.get(id(v), np.zeros(v.shape)) for v in self._variables]

    @property
    def _variables(self):
        return self._model.variables + self._model.optimizer.variables

    def _batches(self):
        random = np.random.default_rng(0)
        teacher = np.random.default_rng(5).normal(size=(self._shape[-1], 3))
        for _ in range(STEPS):
            x = random.normal(size=(16, *self._shape)).astype("float32")
            means = x.reshape(16, -1, self._shape[-1]).mean(axis=1)
            yield x, np.tanh(2 * means @ teacher).astype("float32")

    def losses(self, outlier=None, scale=1.0):
        """Returns the loss of every step; the inputs of one, `outlier`, are scaled, or it is
        left out where the scale is `None`."""
        for variable, start in zip(self._variables, self._start):
            variable.assign(start)
        found = np.full(STEPS, np.nan)
        for step, (x, y) in enumerate(self._batches()):
            if step != outlier:
                found[step] = self._model.train_on_batch(x, y)
            elif scale is not None:
                found[step] = self._model.train_on_batch(scale * x, y)
        return found


@pytest.mark.parametrize("name", NETS)
def test_training_recovers_within_twenty_steps_whatever_the_net_the_scale_and_the_place(name):
    training = Training(name)
    plain = training.losses()
    for place, outlier in PLACES.items():
        after = slice(outlier + 20, outlier + 40)
        for scale in SCALES:
            hit = training.losses(outlier, scale)
            assert hit[outlier] > plain[outlier]
            times = np.mean(hit[after]) / np.mean(plain[after])
            assert times < 1.15, f"{place} times {scale:.0e}: the loss is {times:.2f} times it"


@pytest.mark.parametrize("name", NETS)
def test_a_batch_that_loss_scaling_skips_is_as_if_it_had_not_been(name):
    training = Training(name, "mixed_float16")
    for outlier in PLACES.values():
        # In float16 such inputs are infinite.
        hit, without = training.losses(outlier, 1e6), training.losses(outlier, None)
        assert not np.isfinite(hit[outlier])
        hit[outlier] = np.nan
        np.testing.assert_allclose(hit, without, rtol=1e-3)
