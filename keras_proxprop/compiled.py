"""What the step that is being traced is compiled by."""

import tensorflow as tf
from tensorflow.python.ops import control_flow_util


def by_xla():
    """Returns whether the function that is being traced is one that XLA compiles."""
    # No public function tells. This is how TensorFlow's own loops ask.
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def by_xla_for_cpu():
    """Returns whether XLA compiles for a machine that has nothing but CPUs."""
    kinds = {device.device_type for device in tf.config.list_logical_devices()}
    return by_xla() and kinds == {"CPU"}
