"""Variables that come to be while a training step is traced."""

import contextlib

import tensorflow as tf


@contextlib.contextmanager
def made_before_the_step():
    """Makes variables outside of the function that is being traced while its context lasts.

    Keras makes the slots of optimizers, the variables of metrics and those of layers that are
    not built where it first meets them, which is inside of the training step; a `tf.function`
    that makes variables is traced twice. Under `tf.distribute` Keras makes them before.
    """
    if tf.executing_eagerly() or tf.distribute.has_strategy():
        yield
        return

    def made(next_creator, **kwargs):
        value = kwargs.get("initial_value")
        value = value if callable(value) else tf.get_static_value(value)
        if value is None:
            # Made from the step's own data.
            return next_creator(**kwargs)
        kwargs |= {"initial_value": value, "experimental_enable_variable_lifting": False}
        with tf.init_scope():
            return next_creator(**kwargs)

    with tf.variable_creator_scope(made):
        yield
