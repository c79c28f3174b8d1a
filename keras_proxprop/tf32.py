"""What TF32 asks for: float32 products of operands in two parts.

Recent GPUs multiply float32 matrices and images in TF32, by TensorFlow's default and by XLA's:
each operand is rounded to 10 bits of mantissa, where float32 has 23. A Gram matrix, or a
direction that is made with its inverse, would be off by up to a tenth. So an operand is
written as the sum of a large part, of 10 bits, and a small one. Products of large parts are
not rounded. The product of the small parts is left out: it is less than 2⁻²² of the whole.
"""

import functools

import tensorflow as tf

# Bits of float32's mantissa that TF32 leaves out.
_DROPPED = 13


def rounds_products():
    """Returns whether TensorFlow multiplies in TF32 what is float32."""
    return tf.config.experimental.tensor_float_32_execution_enabled() and _has_tf32()


def _is_rounded(x):
    return x.dtype == tf.float32 and rounds_products()


@functools.cache
def _has_tf32():
    gpus = tf.config.list_physical_devices("GPU")
    details = map(tf.config.experimental.get_device_details, gpus)
    return any(each.get("compute_capability", (0,)) >= (8, 0) for each in details)


def product(function, a, b, split=2):
    """Returns `function(a, b)`, which is linear in each of its arguments and multiplies.

    Args:
        function: function of `a` and `b`.
        a, b: tensors.
        split: how many of them are not to be rounded: 2 (default), 1 (`a`), or 0.
    """
    if not split or not _is_rounded(a):
        return function(a, b)
    a, small = _parts(a)
    if split == 1:
        return function(a, b) + function(small, b)
    b, small_b = _parts(b)
    return function(a, b) + (function(a, small_b) + function(small, b))


def matmul(a, b, transpose_a=False, transpose_b=False, split=2):
    """Returns what `tf.matmul` returns; `split` is as in `product`."""
    if split and _is_rounded(a):
        # One product that adds up several times as much: fewer kernels to launch.
        (a, small), parts = _parts(a), [b, b]
        a = [a, small]
        if split == 2:
            b, small_b = _parts(b)
            a, parts = [*a, a[0]], [b, b, small_b]
        a = tf.concat(a, axis=-2 if transpose_a else -1)
        b = tf.concat(parts, axis=-1 if transpose_b else -2)
    return tf.matmul(a, b, transpose_a, transpose_b)


def with_itself(x, **transposed):
    """Returns the product of a matrix, or of a stack, with its own transpose."""
    if not _is_rounded(x):
        return tf.matmul(x, x, **transposed)
    x, small = _parts(x)
    mixed = tf.matmul(x, small, **transposed)
    return tf.matmul(x, x, **transposed) + (mixed + tf.linalg.matrix_transpose(mixed))


def selected(function, x):
    """Returns `function(x)`, which adds up entries by products with zeros and ones."""
    if not _is_rounded(x):
        return function(x)
    large, small = _parts(x)
    return function(large) + function(small)


def _parts(x):
    """Returns two tensors that add up to `x`; the first has no more bits than TF32."""
    x = tf.convert_to_tensor(x)
    bits = tf.bitcast(x, tf.int32)
    # To the nearest: the parts that are left out would have one sign otherwise.
    bits = tf.bitwise.bitwise_and(bits + (1 << (_DROPPED - 1)), -(1 << _DROPPED))
    large = tf.bitcast(bits, tf.float32)
    return large, x - large
