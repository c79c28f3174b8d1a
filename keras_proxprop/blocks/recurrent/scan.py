"""A loop over the time axis whose steps' states come out of it."""

import tensorflow as tf

from keras_proxprop.rows.arrays import size


def scan(step, states, inputs, mask=None, emitted=1, unroll=False):
    """Runs `step` over the first axis of `inputs`.

    Args:
        step: function of `(states, inputs of one step)` that returns the new states and a
            list of what else is emitted, tensors like `states[0]`.
        states: list of tensors, `[batch, units]`.
        inputs: list of tensors, `[time, batch, n]`.
        mask: boolean tensor `[time, batch, 1]`: where it is false, the states stay.
        emitted: how many tensors are emitted per step.
        unroll: whether to write the steps out one after the other.

    Returns:
        The last states, and what was emitted, a list of `[time, batch, units]`: the first
        state after every step, then what the steps add to it.
    """
    xs = list(inputs) if mask is None else [*inputs, mask]

    def masked_step(states, now):
        if mask is None:
            new, added = step(states, now)
        else:
            new, added = step(states, now[:-1])
            new = [tf.where(now[-1], n, old) for n, old in zip(new, states)]
        for n, old in zip(new, states):
            n.set_shape(old.shape)
        return new, [new[0], *added]

    if unroll:
        steps = []
        for now in zip(*map(tf.unstack, xs)):
            states, values = masked_step(states, now)
            steps.append(values)
        return states, [tf.stack(values) for values in zip(*steps)]

    length = size(xs[0], 0)
    arrays = [
        tf.TensorArray(x.dtype, length, element_shape=x.shape[1:]).unstack(x) for x in xs
    ]
    first = states[0]
    outputs = [
        tf.TensorArray(first.dtype, length, element_shape=first.shape) for _ in range(emitted)
    ]

    def body(t, states, outputs):
        states, values = masked_step(states, [array.read(t) for array in arrays])
        return t + 1, states, [o.write(t, value) for o, value in zip(outputs, values)]

    _, states, outputs = tf.while_loop(
        lambda t, *_: t < length,
        body,
        (tf.constant(0), list(states), outputs),
        # Known when XLA compiles, which sets memory for every step aside.
        maximum_iterations=length,
        swap_memory=True,
    )
    return states, [_stacked(array, xs[0].shape[0]) for array in outputs]


def _stacked(array, length):
    values = array.stack()
    values.set_shape([length, *values.shape[1:]])
    return values


def delayed(states, initial):
    """Returns the states before every step, from those after it."""
    before = tf.concat([initial[None], states[:-1]], axis=0)
    before.set_shape(states.shape)
    return before
