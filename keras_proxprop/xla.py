"""What the step that is being traced is compiled by, and how to give that less to compile."""

import functools

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.ops import control_flow_util


def by_xla():
    """Returns whether the function that is being traced is one that XLA compiles."""
    # No public function tells. This is how TensorFlow's own loops ask.
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def by_xla_for_cpu():
    """Returns whether XLA compiles for a machine that has nothing but CPUs."""
    kinds = {device.device_type for device in tf.config.list_logical_devices()}
    return by_xla() and kinds == {"CPU"}


def traced_once(function):
    """Decorates a function of tensors that many layers call.

    It becomes one function of the graph that is called many times: there is less to trace
    and to keep. Sizes are left open, so that all layers share it; arguments that are no
    tensors are constants of the trace.
    """

    # One for XLA and one without: what is traced asks `by_xla`, too.
    @functools.cache
    def shared(xla):
        # Else TensorFlow puts the body in the place of every call before it runs or compiles
        # anything: one trace, but as much to optimize and to keep as with many.
        return tf.function(
            function, autograph=False, experimental_attributes={"_noinline": True}
        )

    @functools.wraps(function)
    def call(*args):
        kinds = [
            tf.TensorSpec([None] * len(arg.shape), arg.dtype) if tf.is_tensor(arg) else arg
            for arg in args
        ]
        concrete = shared(by_xla()).get_concrete_function(*kinds)
        return concrete(*filter(tf.is_tensor, args))

    return call


def cond_on_sizes(predicate, true_fn, false_fn):
    """Returns `tf.cond` of what depends on nothing but sizes of tensors.

    Under XLA sizes are known when it compiles, and only the branch that is taken is compiled.
    """
    if not by_xla():
        return tf.cond(predicate, true_fn, false_fn)
    result = tf.switch_case(tf.cast(predicate, tf.int32), [false_fn, true_fn])
    case = tf.nest.flatten(result)[0].op
    while "Case" not in case.type:
        case = case.inputs[0].op
    # TensorFlow asks for the values of its arguments to be found while XLA compiles: all of
    # the model that they come from would run, in an interpreter.
    case._set_attr("_xla_propagate_compile_time_consts", attr_value_pb2.AttrValue(b=False))
    return result
