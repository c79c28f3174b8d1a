"""Any layer that is linear in its weights, by automatic differentiation."""

import tensorflow as tf

from keras_proxprop.blocks.base import Block
from keras_proxprop.blocks.product import product
from keras_proxprop.keras_seams.own_call import Run
from keras_proxprop.optimizers.problem_size import as_matrix
from keras_proxprop.rows.jacobian import JacobianRows


class GenericBlock(Block):
    """A layer whose outputs are linear in all of its trainable weights at once.

    The block knows only the layer's `call`, which takes and returns any nest of tensors. All
    weights are one column of one problem, and the products with `A` and `Aᵀ` are the layer's
    forward pass and its gradient. The block is meant for conjugate gradients: the exact step
    makes a forward pass for every number in the weights.

    Example:

    >>> keras_proxprop.register_block(MyLinearLayer, keras_proxprop.blocks.GenericBlock)
    """

    shares_rows = False

    @classmethod
    def reason_against(cls, layer):
        return None if layer.trainable_weights else "frozen"

    @property
    def weights(self):
        return self.layer.trainable_weights

    @property
    def columns(self):
        return 1

    def matrix_shape(self, weight, rows):
        # The block's one column says nothing of the map.
        return as_matrix(weight.shape)

    def solves_for(self, weights):
        return len(weights) == len(self.weights)

    def call(self, note, *args, **kwargs):
        run = Run(self.layer, self.weights)
        values = [tf.convert_to_tensor(w) for w in self.weights]
        outputs = None

        def linear(given, *values):
            nonlocal outputs
            outputs = run(given, *values)
            return floating(outputs)

        given = args, kwargs
        z = product(linear, given, values)
        run.update()
        inputs = {"given": given, "scope": run.scope, "state": run.state}
        if len(z) == 1:
            return with_floating(outputs, [note(inputs, z[0])])
        # Several outputs are rows of one problem, one after the other.
        stacked = note(inputs, tf.concat([tf.reshape(x, [-1]) for x in z], axis=0))
        pieces = tf.split(stacked, [tf.size(x) for x in z])
        return with_floating(outputs, [_shaped(p, x) for p, x in zip(pieces, z)])

    def prepare(self, inputs):
        # The layer is run again on what it was called with.
        return inputs

    def rows(self, inputs, bias):
        given = inputs["given"]
        run = Run(self.layer, self.weights, inputs["scope"], inputs["state"])
        return JacobianRows(
            lambda *values: floating(run(given, *values)),
            [w.shape for w in self.weights],
            tf.as_dtype(self.layer.compute_dtype).size < 4,
        )


def floating(nest):
    """Returns the tensors of floats in a nest, a list."""
    return [x for x in tf.nest.flatten(nest) if _is_floating(x)]


def with_floating(nest, tensors):
    """Returns the nest with its tensors of floats replaced by `tensors`."""
    others = iter(tensors)
    flat = [next(others) if _is_floating(x) else x for x in tf.nest.flatten(nest)]
    return tf.nest.pack_sequence_as(nest, flat)


def _shaped(flat, like):
    return tf.ensure_shape(tf.reshape(flat, tf.shape(like)), like.shape)


def _is_floating(x):
    return tf.is_tensor(x) and x.dtype.is_floating
