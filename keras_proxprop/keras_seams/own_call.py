"""Running a layer's own `call` with other values in the place of its variables."""

import keras
import tensorflow as tf


class Run:
    """A layer's own `call` as a function of its inputs and its weights.

    Args:
        layer: the Keras layer.
        weights: the variables that take other values.
        kwargs: what `call` is given besides the inputs.
    """

    def __init__(self, layer, weights, kwargs=None):
        self._layer = layer
        self._weights = weights
        self._kwargs = kwargs or {}
        others = [v for v in layer.variables if not any(v is w for w in weights)]
        self._state = [(v, tf.convert_to_tensor(v)) for v in others]
        self._updates = []

    def __call__(self, inputs, *values):
        scope = keras.StatelessScope(self._state + list(zip(self._weights, values)))
        before = dict(scope.state_mapping)
        with scope:
            outputs = type(self._layer).call(self._layer, inputs, **self._kwargs)
        after = [(v, scope.get_current_value(v)) for v, _ in self._state]
        self._updates = [(v, new) for v, new in after if new is not before[id(v)]]
        return outputs

    def update(self):
        """Assigns what the last run would have assigned."""
        for variable, value in self._updates:
            variable.assign(value)
