"""The implicit training step, and how `keras.Model` comes to use it."""

import inspect
import types
import warnings

import keras
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

from keras_proxprop import replicas
from keras_proxprop.keras_seams.finite_step import step_if
from keras_proxprop.keras_seams.layers import layers_of, training_argument
from keras_proxprop.keras_seams.loss_share import shared_by_rows, unscaled
from keras_proxprop.keras_seams.variables import made_before_the_step
from keras_proxprop.reports import explanation
from keras_proxprop.rows.arrays import size
from keras_proxprop.tape import ImplicitGradientTape


@made_before_the_step()
def train_step(model, data, proxprop):
    """Keras's training step, with implicit directions in the place of gradients.

    Args:
        model: compiled `keras.Model`.
        data: a batch, as Keras hands it to `Model.train_step`.
        proxprop: the `ProxProp` in the model's optimizer.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    # The variables that a forward pass assigns, in a BatchNormalization for instance.
    statistics = [v for layer in layers_of(model) for v in layer._non_trainable_variables]
    before = [tf.convert_to_tensor(v) for v in statistics]
    batch_size = size(next(i for i in tf.nest.flatten(x) if i is not None), 0)
    # Replicas meet before the forward pass: what layers add to the loss is kept in the layers,
    # where another replica's would take its place.
    known = replicas.items_here(batch_size)
    with ImplicitGradientTape(model, **explanation.step_arguments(model, proxprop)) as tape:
        y_pred = model(x, **training_argument(model))
        with shared_by_rows(batch_size, known, tape._row_counts) as tape._batch:
            loss = model._compute_loss(
                x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
            )
            model._loss_tracker.update_state(unscaled(loss), sample_weight=batch_size)
        if not model.optimizer.built and model.trainable_variables:
            # A LossScaleOptimizer that is not built scales by a constant. Once traced, the
            # constant would stay.
            with keras.name_scope(model.optimizer.name, caller=model.optimizer):
                model.optimizer.build(model.trainable_variables)
        loss = model.optimizer.scale_loss(loss)
    weights = model.trainable_weights
    if weights:
        with proxprop._agreed(tape.gradient(loss, weights)) as (directions, finite):
            model.optimizer.apply_gradients(zip(directions, weights))
        explanation.say(proxprop)
        proxprop.damped_steps.count(tape.damped & finite)
        if statistics:
            step_if(~finite, lambda: _assign(statistics, before))
    else:
        warnings.warn("The model does not have any trainable weights.", stacklevel=1)
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def _assign(variables, values):
    for variable, value in zip(variables, values):
        variable.assign(value)


def _by_optimizer(self, data):
    """Keras's training step, or ours if the optimizer is a `ProxProp`.

    This code runs inside of Keras's own function, with its globals; hence the imports here.
    """
    from keras_proxprop.keras_seams import train_step as ours
    from keras_proxprop.optimizers.finding import find_proxprop

    inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
    if self.built and hasattr(inner, "optimizers") and not inner.built:
        # A `MultiOptimizer` knows its optimizers only when it is built.
        with ours.made_before_the_step():
            self.optimizer.build(self.trainable_variables)
    proxprop = find_proxprop(self.optimizer)
    if proxprop is None:
        return ours.kept.of_keras(self, data)
    return ours.train_step(self, data, proxprop)


class _Kept:
    """Keras's training step as it was."""

    of_keras = None


kept = _Kept()


def install():
    """Makes Keras's training step look at the optimizer; a second call changes nothing.

    The function object stays the same, and only its code changes. So whoever has wrapped the
    function, or passed it on, at any time, wraps our step as well as Keras's own.
    """
    if kept.of_keras is None:
        step = inspect.unwrap(TensorFlowTrainer.train_step)
        kept.of_keras = types.FunctionType(step.__code__, step.__globals__, step.__name__)
        step.__code__ = _by_optimizer.__code__
