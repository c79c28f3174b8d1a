"""TF32 on a machine that does not have it: operands of float32 products are rounded."""

import contextlib
import functools
import inspect

import tensorflow as tf
from tensorflow.python.ops import gen_linalg_ops, gen_math_ops, gen_nn_ops

from keras_proxprop import tf32

# TensorFlow's products, and the operands of each that TF32 rounds.
_PRODUCTS = [
    (gen_math_ops, "mat_mul", ["a", "b"]),
    (gen_math_ops, "batch_mat_mul", ["x", "y"]),
    (gen_math_ops, "batch_mat_mul_v2", ["x", "y"]),
    (gen_math_ops, "batch_mat_mul_v3", ["x", "y"]),
    (gen_linalg_ops, "einsum", ["inputs"]),
    (gen_nn_ops, "conv2d", ["input", "filter"]),
    (gen_nn_ops, "conv2d_backprop_input", ["filter", "out_backprop"]),
    (gen_nn_ops, "conv2d_backprop_filter", ["input", "out_backprop"]),
    (gen_nn_ops, "conv3d", ["input", "filter"]),
    (gen_nn_ops, "conv3d_backprop_input_v2", ["filter", "out_backprop"]),
    (gen_nn_ops, "conv3d_backprop_filter_v2", ["input", "out_backprop"]),
    (tf.raw_ops, "Conv2DBackpropFilter", ["input", "out_backprop"]),
    (tf.raw_ops, "Conv3DBackpropFilterV2", ["input", "out_backprop"]),
]


@tf.custom_gradient
def rounded(x):
    """Returns float32 numbers with ten bits of mantissa, to the nearest, ties to even."""
    bits = tf.bitcast(x, tf.int32)
    odd = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 13), 1)
    found = tf.bitcast(tf.bitwise.bitwise_and(bits + 4095 + odd, -8192), tf.float32)
    return tf.where(tf.math.is_finite(x), found, x), lambda d: d


def _rounded(operand):
    if isinstance(operand, (list, tuple)):
        return [_rounded(each) for each in operand]
    operand = tf.convert_to_tensor(operand)
    return rounded(operand) if operand.dtype == tf.float32 else operand


def _rounding(function, operands):
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            given = kwargs
        given = {**given.pop("kwargs", {}), **given}
        return function(**{**given, **{name: _rounded(given[name]) for name in operands}})

    return call


@contextlib.contextmanager
def emulated(noticed=True):
    """TensorFlow multiplies in TF32, as far as it is called from Python meanwhile.

    Args:
        noticed: whether the package is told. Defaults to `True`.
    """
    originals = [(place, name, getattr(place, name)) for place, name, _ in _PRODUCTS]
    rounds_products = tf32.rounds_products
    try:
        for place, name, operands in _PRODUCTS:
            setattr(place, name, _rounding(getattr(place, name), operands))
        # No bool: what was traced for those must not be taken.
        tf32.rounds_products = lambda: "emulated" if noticed else ""
        yield
    finally:
        tf32.rounds_products = rounds_products
        for place, name, original in originals:
            setattr(place, name, original)
