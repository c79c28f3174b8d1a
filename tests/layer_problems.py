"""The least-squares problems of a net's layers, in float64, from what the layers compute.

The layers of a net run one by one in the dtype of its policy, so that the inputs of each and
the gradient of its outputs are at hand. The Jacobian `A` of a layer's output with respect to
its weights is then found from a copy of the layer in float64, entry by entry of the weights: a
linear map is what it does to the unit vectors.
"""

import contextlib
import dataclasses
import math

import keras
import numpy as np
import recurrent_cases
import tensorflow as tf
from keras import layers
from random_layers import Made


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
    if inputs.dtype.is_floating and not step.layer.autocast:
        inputs = tf.cast(inputs, tf.float64)
    elif inputs.dtype.is_floating:
        # As the layer itself rounds them.
        inputs = tf.cast(tf.cast(inputs, step.layer.compute_dtype), tf.float64)
    copies, h = step.made.copies(), inputs
    for copy in copies:
        copy.build(tuple(h.shape))
        h = tf.zeros(copy.compute_output_shape(tuple(h.shape)), tf.float64)
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
        own = [call for call in calls if call.layer is leaf]
        if isinstance(leaf, layers.RNN):
            a = np.concatenate([_recurrent_jacobian(leaf, call.inputs) for call in own])
            weights = [w.value for w in leaf.trainable_variables]
            gradient = np.concatenate(
                [np.reshape(g, [-1]) for g in tape.gradient(value, weights)]
            )
            terms = np.abs(gradient)
        else:
            d = [np.reshape(tape.gradient(value, call.outputs), [-1]) for call in own]
            a, d = np.concatenate([_jacobian(leaf, call) for call in own]), np.concatenate(d)
            gradient, terms = a.T @ d, np.abs(a.T) @ np.abs(d)
            if getattr(leaf, "kernel_regularizer", None):
                kernel = np.reshape(leaf.kernel, [-1])
                gradient[: len(kernel)] += 2 * leaf.kernel_regularizer.l2 * kernel
        for part in _parts(leaf):
            at = np.concatenate([_entries(leaf, weight) for weight in part])
            yield [indices[id(w)] for w in part], a[:, at], gradient[at], terms[at]


def _leaves(layer):
    """Returns the layers that have weights of their own; a loop with its cell is one."""
    if isinstance(layer, layers.RNN):
        return [layer]
    own = [layer] if layer._trainable_variables else []
    return own + [leaf for inner in layer._layers for leaf in _leaves(inner)]


def _parts(layer):
    """Returns for every problem of a layer which of its weights it has."""
    weights = layer.trainable_variables
    apart = not getattr(layer, "tie_weights", True)
    return [[weight] for weight in weights] if apart else [weights]


def _entries(layer, weight):
    """Returns at which of all entries of a layer's weights those of one are."""
    entries = 0
    for own in layer.trainable_variables:
        if own is weight:
            return np.arange(entries, entries + math.prod(own.shape))
        entries += math.prod(own.shape)


@dataclasses.dataclass(frozen=True)
class _Call:
    """One call of a layer."""

    layer: keras.Layer
    inputs: tf.Tensor
    arguments: dict
    outputs: tf.Tensor


@contextlib.contextmanager
def _noted(leaves, calls):
    """Notes a `_Call` for every call of some layers."""

    def noting(leaf, call):
        def noted(x, **arguments):
            outputs = call(x, **arguments)
            calls.append(_Call(leaf, x, arguments, outputs))
            return outputs

        return noted

    for leaf in leaves:
        leaf.call = noting(leaf, leaf.call)
    yield
    for leaf in leaves:
        del leaf.call


def _recurrent_jacobian(layer, inputs):
    return recurrent_cases.jacobian(layer, inputs, None, layer.get_initial_state(len(inputs)))


def _jacobian(layer, call):
    """Returns `∂ layer(inputs) / ∂ weights`, `[outputs, entries of the weights]`."""
    shapes = [tuple(w.shape) for w in layer.trainable_variables]
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    others = [w.value for w in layer.non_trainable_variables]

    def outputs(entries):
        parts = np.split(entries, ends[:-1])
        values = [np.reshape(part, shape) for part, shape in zip(parts, shapes)]
        found, _ = layer.stateless_call(values, others, call.inputs, **call.arguments)
        return np.reshape(found, [-1])

    zero = outputs(np.zeros(ends[-1]))
    return np.stack([outputs(unit) - zero for unit in np.eye(ends[-1])], axis=1)
