"""Every dtype policy with every inner optimizer: finite wherever Adam is."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import in_turns, weights_of
from keras import layers

from keras_proxprop import ProxProp, RowAdam

POLICIES = ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16", "float32", "float64"]
INNER = {
    name: kind
    for name, kind in inspect.getmembers(keras.optimizers, inspect.isclass)
    if issubclass(kind, keras.optimizers.Optimizer)
    and kind not in (keras.optimizers.Optimizer, keras.optimizers.LossScaleOptimizer)
    and "Multi" not in name
}
INNER["RowAdam"] = RowAdam


def net(policy):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    try:
        return keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(8),
                layers.LayerNormalization(),
                layers.PReLU(),
                layers.Dense(6, "relu"),
                layers.Dense(2),
            ]
        )
    finally:
        keras.config.set_dtype_policy("float32")


def is_finite_after_training(policy, optimizer, scale=1.0, loss_weight=1.0):
    random = np.random.default_rng(0)
    x = scale * random.normal(size=(16, 4))
    y = random.normal(size=(16, 2))
    model = net(policy)
    # Eagerly, which is quicker for four steps.
    model.compile(optimizer, "mse", loss_weights=[loss_weight], run_eagerly=True)
    try:
        model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    except tf.errors.InvalidArgumentError as error:
        # Muon of some versions multiplies weights in float64 by a float32.
        assert "double tensor but is a float" in str(error)
        return False
    return all(np.isfinite(w.astype("float64")).all() for w in weights_of(model))


@pytest.mark.parametrize("inner, policy", in_turns(INNER, POLICIES, rounds=2))
def test_every_inner_optimizer_is_finite_where_it_is_by_itself(policy, inner):
    """On gradients as small as directions are some of Keras's are not, by themselves: their
    epsilon is 0 in float16, or a square is."""
    kind = INNER[inner]
    if not is_finite_after_training(policy, ProxProp(kind())):
        weights = (1.0, 1e-3)
        alone = [is_finite_after_training(policy, kind(), 1.0, w) for w in weights]
        assert not all(alone) and inner not in ("Adam", "RowAdam", "SGD")


@pytest.mark.parametrize("policy, scale", in_turns(POLICIES, [1e-3, 1.0, 30.0], rounds=2))
def test_the_default_is_finite_where_adam_is(policy, scale):
    if is_finite_after_training(policy, "adam", scale):
        assert is_finite_after_training(policy, ProxProp(), scale)


def test_adam_is_finite_in_every_policy():
    """Else the tests above would say nothing."""
    assert all(is_finite_after_training(policy, "adam") for policy in POLICIES)
