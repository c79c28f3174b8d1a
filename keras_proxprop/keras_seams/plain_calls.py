"""Calls of functions in a graph that TensorFlow runs as they were traced."""

import contextlib

from tensorflow.core.protobuf import config_pb2
from tensorflow.python.eager import context


@contextlib.contextmanager
def not_optimized():
    """Context in which calls of functions are traced that TensorFlow does not optimize.

    Before a function first runs, TensorFlow optimizes its graph, which takes up to a hundred
    milliseconds for every call of it. No public function leaves that out for a single call.
    """
    running = context.context()
    before = running.function_call_options
    config = config_pb2.ConfigProto.FromString(before.config_proto_serialized)
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    running.function_call_options = context.FunctionCallOptions(before.executor_type, config)
    try:
        yield
    finally:
        running.function_call_options = before
