"""Steps of many small weights at once, where Keras makes one after another."""

import keras
import tensorflow as tf

# So many entries a weight has at most: copies of more take longer than operations to start.
_LARGEST = 8192


class StepsTogether:
    """An optimizer that steps with many small weights at once, where there is one replica.

    Of a small weight's step most is the time that its thirty operations take to start. Keras
    calls `update_step` for every weight, in a private method, and has no public one for all.
    """

    def goes_together(self, variable):
        """Returns whether a step of this variable may be one with those of others."""
        raise NotImplementedError

    def update_together(self, gradients, variables, learning_rate):
        """Makes the steps of several variables of one dtype, as `update_step` makes one's."""
        raise NotImplementedError

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if tf.distribute.has_strategy():
            return super()._backend_update_step(grads, trainable_variables, learning_rate)
        groups, alone = {}, []
        for gradient, variable in zip(grads, trainable_variables):
            variable = variable.value if isinstance(variable, keras.Variable) else variable
            small = variable.shape.num_elements() <= _LARGEST
            together = small and self.goes_together(variable)
            own = groups.setdefault(variable.dtype, []) if together else alone
            own.append((gradient, variable))
        for group in groups.values():
            self.update_together(*zip(*group), learning_rate)
        if alone:
            super()._backend_update_step(*zip(*alone), learning_rate)
