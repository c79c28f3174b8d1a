"""Whether XLA compiles what is being traced."""

import tensorflow as tf
from tensorflow.python.ops import control_flow_util


def is_compiled_by_xla():
    """Returns whether the function that is being traced is one that XLA compiles.

    No public function tells this. TensorFlow's own loops ask in the same way.
    """
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
