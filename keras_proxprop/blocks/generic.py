"""Any layer that is linear in its weights, by automatic differentiation."""

import tensorflow as tf

from keras_proxprop.blocks.base import Block, product
from keras_proxprop.keras_seams.own_call import Run
from keras_proxprop.rows.jacobian import JacobianRows


class GenericBlock(Block):
    """A layer whose outputs are linear in all of its trainable weights at once.

    Nothing is known of it but its `call`, which takes a tensor and returns one: all of its
    weights are one column of one problem, and the products with `A` and `Aᵀ` are its
    forward pass and its gradient. Meant for conjugate gradients; the exact step makes
    a forward pass per number in its weights.
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

    def solves_for(self, weights):
        return len(weights) == len(self.weights)

    def call(self, note, inputs, **kwargs):
        run = Run(self.layer, self.weights, kwargs)
        values = [tf.convert_to_tensor(w) for w in self.weights]
        z = product(run, inputs, values)
        run.update()
        return note(inputs, z)

    def rows(self, inputs, bias):
        return JacobianRows(self, inputs)
