"""Every operation of a training step is one that XLA compiles on a GPU, in sizes it knows."""

import block_cases
import keras
import more_block_cases
import pytest
import tensorflow as tf
from keras import layers

from keras_proxprop import CurvatureMemory, ProxProp, machine, solvers, tf32, xla

# TensorFlow's own table of what its bridge to XLA compiles. It has no public name.
xla_ops = pytest.importorskip("tensorflow.python.util.pywrap_xla_ops")
# Not in the table: arguments of the graph and what they are read by.
ARGUMENTS = {"Placeholder"}
# Operations whose results have a size that depends on values: XLA pads them to their largest,
# and TensorFlow compiles for every new size.
SIZED_BY_VALUES = {
    "Where",
    "Unique",
    "UniqueV2",
    "UniqueWithCounts",
    "UniqueWithCountsV2",
    "DynamicPartition",
    "ListDiff",
    "BooleanMask",
    "SparseReshape",
}
# Calls of Python, and what is printed, from within a step.
OF_THE_HOST = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "Print", "PrintV2", "LogicalPrint"}
LAYERS = {
    **{
        name: (lambda kind=kind, given=given: kind(2, **given), shape)
        for name, (kind, given, shape) in block_cases.CASES.items()
    },
    **{name: case[:2] for name, case in more_block_cases.CASES.items()},
    "reversible-embedding": (lambda: layers.ReversibleEmbedding(5, 3), (3, 4)),
    "separable": (lambda: layers.SeparableConv2D(2, 3), (2, 5, 5, 3)),
    "simple-rnn": (lambda: layers.SimpleRNN(2), (2, 4, 3)),
    "lstm": (lambda: layers.LSTM(2, use_cudnn=False), (2, 4, 3)),
    "gru": (lambda: layers.GRU(2, use_cudnn=False), (2, 4, 3)),
    "stacked": (lambda: layers.RNN([layers.LSTMCell(2), layers.GRUCell(2)]), (2, 4, 3)),
    "attention": (lambda: layers.MultiHeadAttention(2, 2), (2, 4, 3)),
}
# Of every kind of layer the first.
KINDS = list({type(make()): name for name, (make, _) in reversed(LAYERS.items())}.values())
FEW = ("dense", "conv2d-same-stride2x3", "depthwise2d-dilated", "embedding", "lstm")
ALONE = {"exact": solvers.Exact("primal"), "dual": solvers.Exact("dual")}
ALONE |= {"cg": solvers.ConjugateGradient(2), "auto": "auto"}
# Names of layers, and the optimizer.
STEPS = {name: (FEW, {"solver": s, "memory": None}) for name, s in ALONE.items()}
STEPS["all kinds"] = KINDS, {"memory": None}
STEPS["all kinds, memory"] = KINDS, {"memory": CurvatureMemory(layers="all")}


class Every(keras.Model):
    """Calls each layer on inputs of its own, all from one number."""

    def __init__(self, names):
        super().__init__()
        self.found = [(LAYERS[name][0](), LAYERS[name][1]) for name in names]
        self.inner = [layer for layer, _ in self.found]

    def call(self, x, training=False):
        loss = 0.0
        for layer, shape in self.found:
            # The size of the batch is not known, as in `fit`.
            inputs = tf.reshape(x, [-1, *[1] * (len(shape) - 1)]) * tf.ones(shape[1:])
            if isinstance(layer, layers.Embedding):
                inputs = tf.cast(inputs, tf.int32)
            both = isinstance(layer, layers.MultiHeadAttention)
            given = {"training": training} if layer._call_has_training_arg else {}
            outputs = layer(inputs, *[inputs] * both, **given)
            loss += tf.reduce_mean(outputs**2)
        return loss + 0 * x


def operations(names, arguments):
    """Returns the types of the operations of a training step, with those in functions."""
    model = Every(names)
    model.compile(ProxProp(final_layer="implicit", **arguments), "mse")
    model(tf.ones([4, 1]))
    model.optimizer.build(model.trainable_variables)
    spec = tf.TensorSpec([None, 1])
    step = tf.function(model.train_step, jit_compile=True, autograph=False)
    graph = step.get_concrete_function((spec, spec)).graph.as_graph_def()
    functions = [graph.node, *(f.node_def for f in graph.library.function)]
    return {node.op for nodes in functions for node in nodes}


@pytest.mark.parametrize("step", STEPS)
def test_every_operation_is_one_that_xla_compiles(step, monkeypatch):
    # As it is traced where there is a GPU.
    monkeypatch.setattr(xla, "for_cpu", lambda: False)
    monkeypatch.setattr(machine, "of_device", lambda *_: machine.GPU)
    monkeypatch.setattr(tf32, "rounds_products", lambda: "emulated")
    found = operations(*STEPS[step])
    # The step is all there.
    assert {"MatMul", "Conv2D"} <= found
    assert ("Cholesky" in found) == (step != "cg")
    assert found - ARGUMENTS <= set(xla_ops.get_gpu_kernel_names())
    assert not found & (SIZED_BY_VALUES | OF_THE_HOST)
