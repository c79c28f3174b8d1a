"""What XLA needs: one filter gradient and one inverse made in another way, and less code."""

import functools

import tensorflow as tf

from keras_proxprop import machine, replicas, tf32
from keras_proxprop.keras_seams.plain_calls import not_optimized
from keras_proxprop.keras_seams.xla_context import is_compiled_by_xla
from keras_proxprop.rows.arrays import size

# How many rows are eliminated at once.
_BLOCK = 32


def for_cpu():
    """Returns whether XLA compiles what is being traced, and for a CPU."""
    own = machine.of_device(None, tf.distribute.get_strategy())
    return is_compiled_by_xla() and own is machine.CPU


def filter_gradient(images, d, taps):
    """Returns `Σ_q images[q + tap, e] d[q, c]` for every tap, `[*taps, e, c]`.

    It is a convolution with `d` for its kernel. TensorFlow's own filter gradient is as fast
    as that outside of branches, and up to forty times as slow inside, where memory is
    refreshed: a step that refreshes the ResNet-like net of `examples/step_time.py` takes 39
    times Adam's compiled step with it, and 1.6 times as a convolution; one that refreshes
    the paper's ConvNet 16 and 2.2 times. (Outside of branches it makes no difference: weight
    gradients are TensorFlow's own.)

    Args:
        images: `[batch, *spatial, e]`, padding included.
        d: `[batch, *windows, c]`, with a window at every position.
        taps: number of taps along every axis.
    """
    spatial = range(1, len(taps) + 1)
    if not isinstance(size(d, 0), int) or size(d, 0) == 0:
        # The batch may be empty, and no convolution has zero channels.
        images, d = (tf.pad(x, [[0, 1]] + [[0, 0]] * (len(taps) + 1)) for x in (images, d))
    last = len(taps) + 1
    found = tf.nn.convolution(
        tf.transpose(images, [last, *spatial, 0]), tf.transpose(d, [*spatial, 0, last])
    )
    found = tf.transpose(found, [*spatial, 0, last])
    return tf.reshape(found, [*taps, images.shape[-1], d.shape[-1]])


def inverse_cholesky(matrix):
    """Returns the inverse of the Cholesky factor of `matrix`, `[..., n, n]`.

    XLA's own factorization on a CPU takes 0.2 ms for 32 rows and 7 ms for 125, so that rows
    are eliminated in blocks. The compiled step of the MLP 784-1000³-10 at batch 500 takes 3.2
    times Adam's without this, and 1.7 with it; the exact one of the paper's ConvNet 2.55 and
    1.7. It is one loop to compile, however many rows there are.
    """
    n = tf.shape(matrix)[-1]
    # XLA also reads the branch that halves a matrix with one row.
    block = tf.clip_by_value(n, 1, _BLOCK)
    blocks = tf.maximum((n + block - 1) // block, 1)
    rows = blocks * block
    batch = tf.reduce_prod(tf.shape(matrix)[:-2])
    added = tf.cast(tf.range(rows) >= n, matrix.dtype)
    left = tf.pad(tf.reshape(matrix, tf.stack([batch, n, n])), [[0, 0], *2 * [[0, rows - n]]])
    left += tf.linalg.diag(added)
    right = tf.eye(rows, batch_shape=[batch], dtype=matrix.dtype)

    def eliminate(k, both, inverse):
        begin = k * block
        upper = tf.slice(both, tf.stack([0, begin, 0]), tf.stack([batch, block, 2 * rows]))
        pivot = tf.slice(upper, tf.stack([0, 0, begin]), tf.stack([batch, block, block]))
        identity = tf.eye(block, batch_shape=[batch], dtype=matrix.dtype)
        upper = tf.matmul(
            tf.linalg.triangular_solve(tf.linalg.cholesky(pivot), identity), upper
        )
        product = tf.matmul(upper[..., :rows], upper, transpose_a=True)
        product.set_shape(both.shape)
        return k + 1, both - product, inverse.write(k, upper[..., rows:])

    inverse = tf.TensorArray(matrix.dtype, blocks)
    state = 0, tf.concat([left, right], axis=-1), inverse
    *_, inverse = tf.while_loop(lambda k, *_: k < blocks, eliminate, state)
    # `[blocks, batch, block, rows]`
    inverse = tf.transpose(inverse.stack(), [1, 0, 2, 3])
    inverse = tf.reshape(inverse, tf.stack([batch, rows, rows]))[:, :n, :n]
    return tf.reshape(inverse, tf.shape(matrix))


def traced_once(function):
    """Decorates a function of tensors that many layers call.

    It becomes one function of the graph that is called many times: there is less to trace
    and to keep. Without it the first step of the paper's ConvNet takes 1.5 to 2 times as long,
    and that of a small MLP 1.7 times, both with `memory=None`. Sizes are left open, so that
    all layers share it; arguments that are no tensors are constants of the trace.
    """

    @functools.cache
    def shared(rounds_products, machine_in_force, for_cpu):
        return _function(function)

    @functools.wraps(function)
    def call(*args):
        kinds = [
            tf.TensorSpec([None] * len(arg.shape), arg.dtype) if tf.is_tensor(arg) else arg
            for arg in args
        ]
        # What it becomes depends on all three.
        own = shared(tf32.rounds_products(), machine.in_force(), for_cpu())
        traced = own.get_concrete_function(*kinds)
        with not_optimized():
            return traced(*filter(tf.is_tensor, args))

    return call


def rarely(function, assigns=False):
    """Returns what a function of nothing returns, a branch of a graph that is rarely taken.

    It becomes one call in that branch: TensorFlow optimizes all that it finds in a branch
    before the first step, and prepares what is called only when it runs. Without it the first
    step of the paper's ConvNet takes 1.3 to 1.5 times as long, with `memory=None`.

    Args:
        function: function of nothing that returns a nest of tensors.
        assigns: whether it assigns variables. Defaults to `False`.
    """
    # Inside of a function of their own replicas do not meet.
    if tf.executing_eagerly() or replicas.in_sync() > 1:
        return function()
    if assigns and replicas.assign_around():
        return function()
    traced = _function(function).get_concrete_function()
    with not_optimized():
        return traced()


def _function(function):
    # Otherwise TensorFlow inlines the body at every call before it runs or compiles anything:
    # one trace, but as much to optimize and to keep as with many.
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
