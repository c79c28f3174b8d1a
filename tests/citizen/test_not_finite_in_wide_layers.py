"""Of a wide layer with few rows not the direction is looked at, but what it is made of."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import DIFFERENT_MODES, MODES, assert_equal_weights, weights_of

from keras_proxprop import ProxProp, solvers

WIDE = 600


class OneThenNothing(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return tf.where(tf.cast(step, "float32") < 1, 1.0, np.nan)

    def get_config(self):
        return {}


def proxprop(**options):
    return ProxProp(final_layer="implicit", **{"memory": None, **options})


def wide_net(width=WIDE, **options):
    """A net of one layer, so that nothing else shows what is not finite."""
    keras.utils.set_random_seed(3)
    layer = keras.layers.Dense(width, "tanh", **options)
    return keras.Sequential([keras.Input((width,)), layer])


def finite_loss(y, y_pred):
    """A loss that is finite where its gradient is not."""
    large = tf.reduce_any(y == 200.0, axis=-1)
    root = tf.sqrt(tf.where(large, 0 * tf.reduce_sum(y_pred, axis=-1), 1.0))
    return tf.reduce_mean(tf.square(y - y_pred), axis=-1) + root


def batch(where=None, value=None):
    random = np.random.default_rng(0)
    parts = {"x": random.normal(size=(8, WIDE)), "y": random.normal(size=(8, WIDE))}
    if where:
        parts[where][3, 1] = value
    return [np.float32(part) for part in parts.values()]


@pytest.mark.parametrize("mode", DIFFERENT_MODES)
@pytest.mark.parametrize("solver", ["auto", "exact", solvers.Exact("primal")], ids=str)
def test_a_batch_that_is_not_finite_changes_nothing(solver, mode):
    model = wide_net()
    model.compile(proxprop(solver=solver), loss=finite_loss, **MODES[mode])
    model.train_on_batch(*batch())
    for where, value in [("x", np.nan), ("x", np.inf), ("y", np.inf), ("y", 200.0)]:
        before = weights_of(model)
        loss = model.train_on_batch(*batch(where, value))
        assert_equal_weights(weights_of(model), before)
        if value == 200.0:
            assert np.isfinite(loss)
    model.train_on_batch(*batch())
    assert all(np.all(np.isfinite(w)) for w in weights_of(model))
    assert any(np.any(w != b) for w, b in zip(weights_of(model), before))


def test_a_step_with_a_tau_that_is_no_number_changes_nothing():
    model = wide_net()
    model.compile(proxprop(tau=OneThenNothing()), loss="mse")
    model.train_on_batch(*batch())
    before = weights_of(model)
    model.train_on_batch(*batch())
    assert_equal_weights(weights_of(model), before)


def sizes_looked_at(model, **options):
    """Returns how many entries each tensor has of which a step makes a sum."""
    model.compile(proxprop(**options), loss="mse")
    model.optimizer.build(model.trainable_variables)
    step = tf.function(model.train_step, autograph=False)
    kind = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)
    graph = step.get_concrete_function((kind, kind)).graph
    shapes = [op.inputs[0].shape for op in graph.get_operations() if op.type == "Sum"]
    return [shape.num_elements() for shape in shapes if shape.is_fully_defined()]


@pytest.mark.parametrize(
    "width, options, looked_at",
    [
        (WIDE, {}, False),
        # As many rows as are usual have more entries than this layer's weights.
        (60, {}, True),
        # CG may fail on what is finite.
        (WIDE, {"solver": "cg"}, True),
        # A part of the gradient goes around the rows.
        (WIDE, {"regularized": True}, True),
    ],
)
def test_weights_are_looked_at_where_they_are_few_or_could_be_lost(width, options, looked_at):
    regularized = options.pop("regularized", False)
    model = wide_net(width, kernel_regularizer="l2" if regularized else None)
    assert (width**2 in sizes_looked_at(model, **options)) == looked_at


def test_a_direction_beyond_float16_is_looked_at():
    model = wide_net(dtype="float16")
    assert WIDE**2 in sizes_looked_at(model)
