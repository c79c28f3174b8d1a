"""The implicit training step, and how `keras.Model` comes to use it."""

import functools
import warnings

import keras
import tensorflow as tf

from keras_proxprop.tape import ImplicitGradientTape


def train_step(model, data, proxprop):
    """Keras's training step, with implicit directions in the place of gradients.

    Args:
        model: compiled `keras.Model`.
        data: a batch, as Keras hands it to `Model.train_step`.
        proxprop: the `ProxProp` in the model's optimizer.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    with ImplicitGradientTape(model, **proxprop.step_arguments()) as tape:
        y_pred = model(x, training=True) if model._call_has_training_arg else model(x)
        loss = model._compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
        )
        batch_size = tf.shape(next(i for i in tf.nest.flatten(x) if i is not None))[0]
        model._loss_tracker.update_state(_unscaled(loss), sample_weight=batch_size)
        loss = model.optimizer.scale_loss(loss)
    weights = model.trainable_weights
    if weights:
        model.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        proxprop.count_damped(tape.damped)
    else:
        warnings.warn("The model does not have any trainable weights.", stacklevel=1)
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def _unscaled(loss):
    """Returns the loss of a replica as if it were alone: Keras divides by their number."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return loss * replicas if replicas > 1 else loss


def install(find):
    """Makes `keras.Model.train_step` look at the optimizer; a second call changes nothing.

    Args:
        find: function of an optimizer that returns the `ProxProp` in it, or `None`.
    """
    original = keras.Model.train_step
    if hasattr(original, "_proxprop"):
        return

    @functools.wraps(original)
    def dispatch(self, data):
        proxprop = find(self.optimizer)
        if proxprop is None:
            return original(self, data)
        return train_step(self, data, proxprop)

    dispatch._proxprop = True
    keras.Model.train_step = dispatch
