"""Running a layer's own `call` with other values in the place of its variables."""

import contextlib

import keras
import tensorflow as tf

# These have no public name: what Keras keeps of the running call, the scope in which variables
# are read in a layer's compute dtype, and the masks that tensors carry.
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import get_keras_mask as keras_mask
from keras.src.backend.common.masking import set_keras_mask as put_keras_mask
from keras.src.backend.common.variables import AutocastScope, get_autocast_scope

__all__ = ["CallScope", "OwnScope", "Run", "keras_mask", "put_keras_mask"]
_CONTEXT = "current_call_ctx"


class CallScope:
    """What Keras tells a layer while its `call` runs: the dtype in which variables are read,
    and the context from which layers inside of it take their training flag."""

    def __init__(self):
        scope = get_autocast_scope()
        self._dtype = None if scope is None else scope.dtype
        self._context = global_state.get_global_attribute(_CONTEXT)

    @contextlib.contextmanager
    def again(self):
        """Context in which the scope is the same as in the call, wherever it is entered."""
        outside = global_state.get_global_attribute(_CONTEXT)
        global_state.set_global_attribute(_CONTEXT, self._context)
        try:
            with AutocastScope(self._dtype):
                yield
        finally:
            global_state.set_global_attribute(_CONTEXT, outside)


class OwnScope(keras.StatelessScope):
    """The scope in which a layer is run again, unlike any of the user's own."""


class Run:
    """A layer's own `call` as a function of its arguments and of the layer's weights.

    A `Run` is made where the layer is called. It always runs as in that place: in the same
    scope, and with the same values of the layer's other variables (statistics, seeds).

    Args:
        layer: the Keras layer.
        weights: the variables that take other values.
        scope: `CallScope` of the call. Defaults to `None`: that of the call running now.
        state: values of the other variables. Defaults to `None`: their values now.
    """

    def __init__(self, layer, weights, scope=None, state=None):
        self._layer = layer
        self._weights = weights
        self._others = [v for v in layer.variables if not any(v is w for w in weights)]
        self.scope = scope or CallScope()
        self.state = self._read() if state is None else state
        self._updates = []

    def __call__(self, given, *values):
        """Returns what the layer's `call` returns.

        Args:
            given: arguments of the call, `(args, kwargs)`.
            values: values of the weights.
        """
        args, kwargs = given
        state = list(zip(self._others, self.state))
        scope = OwnScope(state + list(zip(self._weights, values)))
        before = dict(scope.state_mapping)
        with scope, self.scope.again():
            outputs = type(self._layer).call(self._layer, *args, **kwargs)
        after = [(v, scope.get_current_value(v)) for v, _ in state]
        self._updates = [(v, new) for v, new in after if new is not before[id(v)]]
        return outputs

    def _read(self):
        # Not in the compute dtype: a running mean would be rounded at every step.
        with AutocastScope(None):
            return [tf.convert_to_tensor(variable) for variable in self._others]

    def update(self):
        """Assigns what the last run would have assigned."""
        for variable, value in self._updates:
            variable.assign(value)
