"""Gradients that no tape of the package made are refused, whatever went before."""

import keras
import pytest
import tensorflow as tf
from helpers import assert_equal_weights, in_turns, weights_of
from provenance_cases import X, Y, directions, new, plain
from scenarios import compiled, fit, mlp


class Plain(keras.Model):
    """A training step as Keras's guides write it."""

    def train_step(self, data):
        self.optimizer.apply(plain(self, *data), self.trainable_variables)
        return {"loss": tf.constant(0.0)}


def plain_model():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(6, "tanh")(inputs)
    return Plain(inputs, keras.layers.Dense(2)(hidden))


BEFORE = {
    "nothing": lambda model, optimizer: None,
    "an eager step": lambda model, optimizer: optimizer.apply(
        directions(model), model.trainable_variables
    ),
    "a changed eager step": lambda model, optimizer: optimizer.apply(
        [0.5 * d for d in directions(model)], model.trainable_variables
    ),
    "a step in a function": lambda model, optimizer: tf.function(
        lambda: optimizer.apply(directions(model), model.trainable_variables)
    )(),
    "a scaled step in a function": lambda model, optimizer: tf.function(
        lambda: optimizer.apply([2 * d for d in directions(model)], model.trainable_variables)
    )(),
}


def by_fit(model, optimizer, **kwargs):
    fit(compiled(model, optimizer, **kwargs), X.numpy(), Y.numpy())


def retraced(model, optimizer):
    @tf.function
    def step(x, y):
        optimizer.apply(plain(model, x, y), model.trainable_variables)

    for rows in (8, 4):
        with pytest.raises(RuntimeError, match="plain gradients"):
            step(X[:rows], Y[:rows])
    step(X[:2], Y[:2])


REFUSED = {
    "fit": by_fit,
    "eager fit": lambda m, o: by_fit(m, o, run_eagerly=True),
    "scaled fit": lambda m, o: by_fit(m, keras.optimizers.LossScaleOptimizer(o)),
    "loop in fit": lambda m, o: by_fit(m, o, steps_per_execution=2),
    "eager": lambda m, o: o.apply(plain(m), m.trainable_variables),
    "function": lambda m, o: tf.function(lambda: o.apply(plain(m), m.trainable_variables))(),
    "clipped": lambda m, o: tf.function(
        lambda: o.apply(
            tf.clip_by_global_norm(plain(m), 1.0)[0],
            m.trainable_variables,
        )
    )(),
    "retraced": retraced,
    "numbers": lambda m, o: o.apply(
        [tf.ones(v.shape) for v in m.trainable_variables], m.trainable_variables
    ),
}


@pytest.mark.parametrize("before, form", in_turns(BEFORE, REFUSED, rounds=2))
def test_plain_gradients_are_refused_in_each_form_whatever_went_before(before, form):
    model, optimizer = plain_model(), new()
    optimizer.build(model.trainable_variables)
    BEFORE[before](model, optimizer)
    at_first = weights_of(model)
    with pytest.raises(RuntimeError, match="ImplicitGradientTape"):
        REFUSED[form](model, optimizer)
    assert_equal_weights(weights_of(model), at_first)


def test_directions_used_elsewhere_let_no_plain_training_step_of_a_graph_through():
    model, optimizer = plain_model(), new()
    keras.optimizers.SGD().apply(directions(model), model.trainable_variables)
    with pytest.raises(RuntimeError, match="plain gradients"):
        by_fit(model, optimizer)


def test_after_fit_a_loop_of_plain_gradients_is_refused():
    model, optimizer = mlp(), new()
    by_fit(model, optimizer)
    before = weights_of(model)
    for form in ("eager", "function", "numbers"):
        with pytest.raises(RuntimeError, match="plain gradients"):
            REFUSED[form](model, optimizer)
    assert_equal_weights(weights_of(model), before)


def test_plain_gradients_of_some_weights_are_refused_by_name():
    model, optimizer = mlp(), new()
    weights = model.trainable_variables
    with pytest.raises(RuntimeError, match="last/kernel") as raised:
        # The tape granted the last layer's weights too: another tape's are not those.
        tf.function(
            lambda: optimizer.apply(directions(model)[:2] + plain(model)[2:], weights)
        )()
    assert "hidden" not in str(raised.value)
