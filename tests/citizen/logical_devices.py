"""Several devices made of one processor, for replicas in one process."""

import tensorflow as tf


def logical_devices(number):
    """Returns the names of so many devices; they are made before TensorFlow runs anything."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * number
    tf.config.set_logical_device_configuration(cpu, parts)
    return [device.name for device in tf.config.list_logical_devices("CPU")]


def mirrored(number):
    """Returns a strategy with so many replicas."""
    return tf.distribute.MirroredStrategy(logical_devices(number))
