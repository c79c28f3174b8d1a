"""Variables that are made while a training step is traced."""

import contextlib

import tensorflow as tf


@contextlib.contextmanager
def made_before_the_step():
    """Context in which variables are made outside of the function that is being traced.

    Keras makes the variables of optimizers, of metrics and of unbuilt layers when it first
    needs them, inside of the training step. A `tf.function` that makes variables is
    traced twice. Under `tf.distribute` Keras makes them before the step.
    """
    if tf.executing_eagerly() or tf.distribute.has_strategy():
        yield
        return

    def made(next_creator, **kwargs):
        value = kwargs.get("initial_value")
        value = value if callable(value) else tf.get_static_value(value)
        if value is None:
            # The initial value is made from the step's own data.
            return next_creator(**kwargs)
        kwargs |= {"initial_value": value, "experimental_enable_variable_lifting": False}
        with tf.init_scope():
            return next_creator(**kwargs)

    with tf.variable_creator_scope(made):
        yield
