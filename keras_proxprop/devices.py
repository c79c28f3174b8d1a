"""What the machine's devices are good at."""

import functools

import tensorflow as tf


def has_gpu():
    """Returns whether there is a GPU, whose float64 is slow, and where a kernel costs more to
    launch than a small matrix to factorize."""
    return bool(tf.config.list_logical_devices("GPU"))


def rounds_products():
    """Returns whether TensorFlow multiplies in TF32 what is float32."""
    return tf.config.experimental.tensor_float_32_execution_enabled() and _has_tf32()


@functools.cache
def _has_tf32():
    gpus = tf.config.list_physical_devices("GPU")
    details = map(tf.config.experimental.get_device_details, gpus)
    return any(each.get("compute_capability", (0,)) >= (8, 0) for each in details)
