"""What curvature memory saves: which layers have it, and what a step then computes."""

import keras
import numpy as np
import tensorflow as tf
from helpers import record_call
from memory_cases import convnet, data, train

import keras_proxprop
from keras_proxprop import CurvatureMemory, ProxProp
from keras_proxprop.blocks import find_block

L = keras.layers


def test_a_step_is_traced_once(monkeypatch):
    traces = []
    trace = keras_proxprop.keras_seams.train_step.ImplicitGradientTape.gradient

    def counted(self, *arguments):
        traces.append(None)
        return trace(self, *arguments)

    monkeypatch.setattr(
        keras_proxprop.keras_seams.train_step.ImplicitGradientTape, "gradient", counted
    )
    model = convnet()
    train(model, epochs=20)
    assert len(traces) == 1


def _ops(graph):
    """Returns the names of all op types at the top level of a graph."""
    return [op.type for op in graph.get_operations()]


def test_a_step_without_a_refresh_makes_no_gram_matrix_and_no_factorization():
    model = convnet()
    train(model, epochs=1)

    @tf.function
    def step(x, y):
        return model.train_step((x, y))

    graph = step.get_concrete_function(*map(tf.constant, data(8))).graph
    # Its own weight gradient, one per layer: all else is in the branches of a refresh.
    assert _ops(graph).count("Conv2DBackpropFilter") == 1
    assert "Cholesky" not in _ops(graph)
    # One about the refresh of all layers, one about the step, and one about the statistics of
    # batch normalization, which a step that is not made leaves as they were.
    decisions = [kind for kind in _ops(graph) if kind in ("If", "StatelessIf")]
    assert len(decisions) == 3
    inside = [f.name for f in graph._functions.values()] if graph._functions else []
    assert inside, "the refresh is in functions that tf.cond calls"


def test_auto_keeps_the_batchs_own_where_that_is_cheaper():
    layers = [
        keras.Input((16, 16, 3)),
        L.Conv2D(8, 3, name="conv"),
        L.BatchNormalization(name="norm"),
        L.Flatten(),
        L.Dense(64, name="dense"),
        L.Dense(2, name="last"),
    ]
    model = keras.Sequential(layers)
    model.compile(ProxProp(memory=CurvatureMemory(refresh_every=7)), loss="mse")
    reports = keras_proxprop.reports.summary.layer_reports(model, batch_size=32)
    chosen = {r.name: r.solver for r in reports}
    assert chosen["conv"] == "memory/7"
    # 1568 features: their factorization is dear.
    assert chosen["dense"] == "dual"
    assert chosen["norm"] == "closed"
    x = np.zeros((32, 16, 16, 3))
    model.fit(x, np.zeros((32, 2)), verbose=0)
    assert len(model.optimizer._curvatures._states) == 1


def test_a_generic_block_has_no_memory():
    class Bias(L.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=shape[1:])

        def call(self, x):
            return x * self.w

    keras_proxprop.register_block(Bias)
    layer = Bias()
    layer.build((None, 3))
    block = find_block(layer)[0]
    _, (use,) = record_call(block, tf.ones([2, 3]))
    rows = block.rows(block.prepare(use.inputs), False)
    solver = keras_proxprop.solvers.Exact()
    assert CurvatureMemory(layers="all").solver(rows, 1, solver) is solver
