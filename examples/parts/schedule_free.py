"""Schedule-Free AdamW as its authors publish it, to compare with."""

import keras
import tensorflow as tf


class ScheduleFreeAdamW(keras.optimizers.ScheduleFreeAdamW):
    """Keras's Schedule-Free AdamW without two faults of Keras 3.15.

    Keras takes `x` out of the weights `y` with the points `z` of *after* the step, since
    `momentum.value` is read late; and where `fit` builds the optimizer, `z` starts at zero in
    place of the weights. Both slow it down: an MLP of Fashion-MNIST ends at twice the loss.

    Source: Defazio et al., *The Road Less Scheduled*, NeurIPS 2024, equations (6) to (8).
    """

    def build(self, var_list):
        # Outside the graph that `fit` traces, where copies of the weights are made at once.
        with tf.init_scope():
            super().build(var_list)

    def update_step(self, gradient, variable, learning_rate):
        z = self._momentums[self._get_variable_index(variable)]
        before = tf.identity(z.value)
        super().update_step(gradient, variable, learning_rate)
        # What taking x out with the later z has added to (1 - c) beta x.
        weight = 1 / tf.cast(self.iterations + 1, variable.dtype)
        late = z.value - before
        self.assign_add(variable, (1 - weight) * (1 - self.beta_1) * late)
