"""The least-squares problems of a net's layers, in float64, from what the layers compute.

The layers of a net run one by one in the dtype of its policy, so that the inputs of each and
the gradient of its outputs are at hand. The Jacobian `A` of a layer's output with respect to
its weights is then found from a copy of the layer in float64, entry by entry of the weights: a
linear map is what it does to the unit vectors.
"""

import contextlib
import dataclasses

import keras
import numpy as np
import recurrent_cases
import tensorflow as tf
from keras import layers
from random_nets import Made


@dataclasses.dataclass(frozen=True)
class Step:
    """What one layer of a net does in one forward pass, in the dtype of its policy."""

    layer: keras.Layer
    made: Made
    inputs: tf.Tensor
    gradient: tf.Tensor  # of the loss, with respect to the outputs


def steps(net, model, x, loss):
    """Returns a `Step` for each layer of the model, run one by one.

    Args:
        loss: function of the model's outputs.
    """
    weighted = [layer for layer in model.layers if not isinstance(layer, layers.Activation)]
    h, ends = tf.convert_to_tensor(x), []
    with tf.GradientTape() as tape:
        for layer in model.layers:
            inputs, h = h, layer(h, **training(layer))
            if layer in weighted:
                ends.append((inputs, h))
        value = loss(h)
    gradients = tape.gradient(value, [h for _, h in ends])
    pairs = zip(weighted, net.layers, ends, gradients)
    return [Step(layer, made, inputs, d) for layer, made, (inputs, _), d in pairs]


def training(layer):
    return {"training": True} if layer._call_has_training_arg else {}


def problems(step):
    """Yields every least-squares problem of a layer, in float64: the indices of its weights
    among the layer's, `A`, the gradient, and the sum of the absolute terms that it is of."""
    inputs = step.inputs
    if inputs.dtype.is_floating:
        # As the layer itself rounds them.
        inputs = tf.cast(tf.cast(inputs, step.layer.compute_dtype), tf.float64)
    copies, h = step.made.copies(), inputs
    for copy in copies:
        copy.build(h.shape)
        h = tf.zeros(copy.compute_output_shape(h.shape), tf.float64)
    weights = [w for copy in copies for w in copy.trainable_variables]
    for weight, own in zip(weights, step.layer.trainable_variables):
        weight.assign(tf.cast(own.value, tf.float64))
    indices = {id(w): i for i, w in enumerate(weights)}
    leaves = [leaf for copy in copies for leaf in _leaves(copy)]
    calls, h = [], inputs
    with tf.GradientTape(persistent=True) as tape:
        with _noted(leaves, calls):
            for copy in copies:
                h = copy(h, **training(copy))
        value = tf.reduce_sum(h * tf.cast(step.gradient, tf.float64))
    for leaf in leaves:
        own = leaf.trainable_variables
        if isinstance(leaf, layers.RNN):
            zeros = leaf.get_initial_state(len(inputs))
            a = recurrent_cases.jacobian(leaf, inputs, None, zeros)
            gradient = tape.gradient(value, [w.value for w in own])
            gradient = np.concatenate([np.reshape(g, [-1]) for g in gradient])
            terms = np.abs(gradient)
        else:
            ends = [(i, o) for other, i, o in calls if other is leaf]
            d = [tape.gradient(value, output) for _, output in ends]
            a = np.concatenate([_jacobian(leaf, i) for i, _ in ends])
            d = np.concatenate([np.reshape(part, [-1]) for part in d])
            gradient, terms = a.T @ d, np.abs(a.T) @ np.abs(d)
            if getattr(leaf, "kernel_regularizer", None):
                kernel = np.reshape(leaf.kernel, [-1])
                gradient[: len(kernel)] += 2 * leaf.kernel_regularizer.l2 * kernel
        yield [indices[id(w)] for w in own], a, gradient, terms


def _leaves(layer):
    if isinstance(layer, layers.RNN):
        return [layer]
    return [inner for inner in layer._flatten_layers() if inner._trainable_variables]


@contextlib.contextmanager
def _noted(leaves, calls):
    """Notes `(layer, inputs, outputs)` of every call of some layers."""

    def noting(leaf, call):
        def noted(x, *args, **kwargs):
            outputs = call(x, *args, **kwargs)
            calls.append((leaf, x, outputs))
            return outputs

        return noted

    for leaf in leaves:
        leaf.call = noting(leaf, leaf.call)
    yield
    for leaf in leaves:
        del leaf.call


def _jacobian(layer, inputs):
    """Returns `∂ layer(inputs) / ∂ weights`, `[outputs, entries of the weights]`."""
    shapes = [tuple(w.shape) for w in layer.trainable_variables]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    others = [w.value for w in layer.non_trainable_variables]

    def outputs(entries):
        parts = np.split(entries, ends[:-1])
        values = [np.reshape(part, shape) for part, shape in zip(parts, shapes)]
        return np.reshape(
            layer.stateless_call(values, others, inputs, **training(layer))[0], [-1]
        )

    zero = outputs(np.zeros(ends[-1]))
    return np.stack([outputs(unit) - zero for unit in np.eye(ends[-1])], axis=1)
