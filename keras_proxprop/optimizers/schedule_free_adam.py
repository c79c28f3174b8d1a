"""Adam without momentum or schedule: the weights are averaged over the steps instead."""

from typing import Any

import keras
import tensorflow as tf

from keras_proxprop.keras_seams.names import known_by_name
from keras_proxprop.keras_seams.optimizer_state import slot_index, variables_of
from keras_proxprop.keras_seams.steps_together import StepsTogether
from keras_proxprop.optimizers.hyperparameters import check_numbers
from keras_proxprop.optimizers.long_vector import (
    joined,
    of_entries,
    parted,
    root_mean_squares,
)
from keras_proxprop.optimizers.problem_size import KnowsSizes
from keras_proxprop.optimizers.row_adam import LearningRate, epsilon_for
from keras_proxprop.optimizers.step_lengths import first_size, first_steps, root_mean_square

# The weight of step t in the average grows as t to this power.
POWER = 3.0
# Steps get shorter as the root of their number, from about this one on.
FULL_STEPS = 100
# The root mean square of a step in units of the learning rate is at most this: what follows
# on a batch much unlike those before is no step of a dozen times the usual length.
LARGEST = 2.0


@known_by_name
@keras.saving.register_keras_serializable(package="keras_proxprop")
class ScheduleFreeAdam(StepsTogether, KnowsSizes, keras.optimizers.Optimizer):
    """Adam with averaged weights in place of a schedule, the default inside of a `ProxProp`.

    It differs from `keras.optimizers.Adam` in four ways:

    - Steps are as long as suits the layer. The first step of a weight is
      `210 * learning_rate * size` for a batch of 64 labels, times the fourth root of their
      number over 64, between 1/2 and 4. `size` is the weight's root mean square when the
      optimizer is built, but at most `sqrt(2 / (features + columns))`, that of Glorot and
      Bengio's weights, unless outputs are batch normalized. Weights of zeros have that too.
      An implicit step is multiplied by `sqrt(64 / features)` where there are more than 64
      features, as in a wide layer all weights of a column are moved at once; not so in
      convolutions with batch normalized outputs. Where more than four layers step, all steps
      are multiplied by `4 / depth`, as each moves what the next ones get; `n` batch
      normalized ones count as `sqrt(4 * n)`, and as 8 at most. Embeddings step as with 64
      labels and by their present size where that is larger; rows count as a half at least.
    - Steps get shorter as they go on: after `t` steps they are `1 / sqrt(1 + t / 100)` of the
      first, however many there will be.
    - There is no momentum, and no need for a schedule. Steps are made with points `z`; `x` is
      the mean of these, in which step `t` weighs as `t ** 3`; and the model's weights are
      `y = (1 - beta_1) z + beta_1 x`, which one evaluates, saves and exports. The mean takes
      out the noise that long steps leave. The optimizer keeps `z - x` only, so that nothing
      is undone that others write into the weights.
    - The mean of squares forgets in 50 steps, that of an embedding's row in 50 steps in which
      the row is looked up. The root mean square of a weight's `direction / root` is at most 2,
      which keeps a batch much unlike those before from a long step.

    Args:
        learning_rate: a float, a `keras.optimizers.schedules.LearningRateSchedule` or a
            callable, which multiplies all of these lengths. Defaults to `0.001`.
        beta_1: the share of the average in the model's weights. Defaults to `0.93`.
        beta_2: decay rate of the mean of the directions' squares. Defaults to `0.98`.
        epsilon: what is added to the root of that mean, before the mean is corrected for its
            beginning at zero, as in Adam. Defaults to `1e-12`, for float16 to `1e-7`.
        name: name of the optimizer. Defaults to `"schedule_free_adam"`.
        **kwargs: arguments of every Keras optimizer: `weight_decay`, `clipnorm`, ...

    Raises:
        ValueError: if a number is out of its range.
        TypeError: if something else is given where a number is needed.

    Example:

    >>> inner = keras_proxprop.ScheduleFreeAdam(weight_decay=0.01)
    >>> model.compile(optimizer=keras_proxprop.ProxProp(inner), loss="mse")

    Source: Defazio et al., *The Road Less Scheduled*, NeurIPS 2024, equations (6) to (8),
    with Adam's second moment as in its section 4. Shazeer and Stern, *Adafactor*, ICML 2018,
    section 6: the largest root mean square of a step.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.93,
        beta_2: float = 0.98,
        epsilon: float = 1e-12,
        name: str = "schedule_free_adam",
        **kwargs: Any,
    ) -> None:
        given = {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon}
        check_numbers({**kwargs, **given, "learning_rate": learning_rate})
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        # The model's depth, where the sizes of problems do not tell it.
        self._depth = 1

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._offsets, self._mean_squares = self.add_optimizer_variables(
            variables, ["offset", "mean_square"]
        )
        self._depth = max(1, sum(len(variable.shape) > 1 for variable in variables))
        sizes = [first_size(variable) for variable in variables]
        self._first_sizes = self.add_variable(
            shape=(len(sizes),),
            initializer=lambda shape, dtype: tf.constant(sizes, dtype, shape),
            dtype="float32",
            aggregation="only_first_replica",
            name="first_sizes",
        )

    def update_step(self, gradient, variable, learning_rate):
        rate = self._rates_of_step(learning_rate)[slot_index(self, variable)]
        offset, mean_square = map(tf.convert_to_tensor, self._slots(variable))
        gradient = tf.cast(tf.convert_to_tensor(gradient), variable.dtype)
        squares = self._squares(gradient, mean_square)
        if self.size_of(variable).lookup:
            share = tf.cast(self._too_long() ** -2, variable.dtype)
            squares = _of_rows_seen(gradient, squares, mean_square, share)
        step = self._quotient(gradient, squares)
        rate = self._limited(rate, root_mean_square(step))
        ahead = offset - tf.cast(rate, variable.dtype) * step
        self._assign(variable, self._changes(offset, ahead, squares))

    def goes_together(self, variable):
        # A subclass may make steps of its own.
        own = type(self).update_step is not ScheduleFreeAdam.update_step
        return not own and not self.size_of(variable).lookup

    def update_together(self, gradients, variables, learning_rate):
        rates, dtype = self._rates_of_step(learning_rate), variables[0].dtype
        slots = zip(*map(self._slots, variables))
        gradient, offset, mean_square = (joined(own, dtype) for own in (gradients, *slots))
        squares = self._squares(gradient, mean_square)
        step = self._quotient(gradient, squares)
        rate = tf.stack([rates[slot_index(self, variable)] for variable in variables])
        rate = self._limited(rate, root_mean_squares(step, variables))
        ahead = offset - of_entries(tf.cast(rate, dtype), variables) * step
        changes = self._changes(offset, ahead, squares)
        changes = zip(*(parted(change, variables) for change in changes))
        for variable, own in zip(variables, changes):
            self._assign(variable, own)

    def _slots(self, variable):
        index = slot_index(self, variable)
        return self._offsets[index], self._mean_squares[index]

    def _squares(self, gradient, mean_square):
        new = self._numbers(gradient.dtype)[0]
        return mean_square + (tf.square(gradient) - mean_square) * new

    def _quotient(self, gradient, squares):
        """Returns a step before it is given its length, too long by `_too_long`: to divide the
        learning rate by that is no pass over all weights."""
        return gradient / (tf.sqrt(squares) + self._numbers(gradient.dtype)[1])

    def _limited(self, rate, size):
        """Returns the learning rate of a `_quotient` whose root mean square is `size`."""
        return rate / tf.maximum(self._too_long(), size / LARGEST)

    def _too_long(self):
        # The mean of squares begins at zero.
        return self.once("too long", lambda: tf.math.rsqrt(1 - self.beta_2 ** self._count()))

    def _count(self):
        # Float16 ends at 65,504 steps.
        return tf.cast(self.iterations + 1, tf.float32)

    def _changes(self, offset, ahead, squares):
        """Returns what is added to a weight, and its new slots.

        Args:
            offset: `z - x`.
            ahead: `z - x` after the step in `z`, and before `x` follows.
            squares: new mean of squares.
        """
        *_, forward, back, rest = self._numbers(offset.dtype)
        return forward * ahead - back * offset, rest * ahead, squares

    def _assign(self, variable, changes):
        change, *values = changes
        self.assign_add(variable, change)
        for slot, value in zip(self._slots(variable), values):
            self.assign(slot, value)

    def _rates_of_step(self, learning_rate):
        # What is the same for all weights is made once a step.
        return self.once("rates", lambda: self._rates(learning_rate))

    def _rates(self, learning_rate):
        """Returns the learning rate of every weight at this step, a list of scalars."""
        variables = variables_of(self)
        sizes = [self.size_of(variable) for variable in variables]
        t = tf.cast(self.iterations, tf.float32)
        rate = tf.cast(learning_rate, tf.float32) / tf.sqrt(1 + t / FULL_STEPS)
        return tf.unstack(rate * self._factors(sizes, variables))

    def _numbers(self, dtype):
        """Returns the numbers that a step of weights of a dtype has in its formula."""
        return self.once(dtype, lambda: self._made_numbers(dtype))

    def _made_numbers(self, dtype):
        t = self._count()
        share = (POWER + 1) / (t + POWER)
        epsilon = epsilon_for(self.epsilon, dtype)
        forward = share + (1 - self.beta_1) * (1 - share)
        numbers = 1 - self.beta_2, epsilon, forward, 1 - self.beta_1, 1 - share
        return [tf.cast(number, dtype) for number in numbers]

    def factor(self, size, variable):
        return self._factors([size], [variable])[0]

    def _factors(self, sizes, variables):
        """Returns by what the learning rate is multiplied for every variable, a vector."""
        indices = [slot_index(self, variable) for variable in variables]
        if None in indices:
            first = tf.constant([first_size(variable) for variable in variables])
        else:
            first = tf.gather(tf.convert_to_tensor(self._first_sizes), indices)
        # Of all batches whose directions are averaged.
        batches = self.gradient_accumulation_steps or 1
        return first_steps(first, sizes, variables, self._depth, batches)

    def get_config(self):
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


def _of_rows_seen(gradient, squares, mean_square, share):
    """Returns means of squares in which rows that were not looked up are what they were.

    Else a row would come back to a mean that has forgotten it, and take far too long a step.
    A row that comes for the first time has the mean of that time alone. `share` is the sum of
    the weights in such a mean.
    """
    seen = tf.reduce_any(gradient != 0, axis=-1, keepdims=True)
    first = tf.reduce_all(mean_square == 0, axis=-1, keepdims=True)
    squares = tf.where(first, tf.square(gradient) * share, squares)
    return tf.where(seen, squares, mean_square)
