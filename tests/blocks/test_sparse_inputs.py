"""Sparse inputs: the directions of dense ones, and no dense copy of what is large."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import MODES, assert_close, assert_close_weights, implicit_direction, weights_of
from keras import layers
from sparse_cases import (
    TAU,
    WIDE,
    Subclassed,
    directions,
    functional,
    sequential,
    sparse_and_dense,
    subclassed,
    wide,
)

from keras_proxprop import ProxProp, StepMonitor, solvers
from keras_proxprop.reports.summary import layer_reports

KINDS = [functional, sequential, subclassed]
each_kind = pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
@each_kind
def test_directions_are_those_of_dense_inputs(make, wrap):
    sparse, dense = sparse_and_dense()
    keras.utils.set_random_seed(1)
    model = make()
    for solver in (solvers.Exact("dual"), solvers.Exact("primal"), "auto"):
        ours = wrap(lambda x, s=solver: directions(model, x, solver=s))(sparse)
        with tf.GradientTape() as tape:
            # By the layers themselves: the model takes only sparse inputs.
            hidden, last = (model.get_layer(name) for name in ("hidden", "last"))
            loss = tf.reduce_sum(tf.sin(last(hidden(dense))))
        kernel, bias, *rest = tape.gradient(loss, model.trainable_variables)
        expected = implicit_direction([dense.astype("float64")], [kernel, [bias]], TAU)
        assert_close(ours[0], expected[0], 1e-5)
        assert_close(ours[1], expected[1], 1e-5)
        assert_close_weights([tf.convert_to_tensor(d) for d in ours[2:]], rest, 1e-5)


def test_conjugate_gradients_are_those_of_dense_inputs():
    sparse, dense = sparse_and_dense()
    model = subclassed()
    found = [directions(model, x, solver="cg") for x in (sparse, dense)]
    assert_close_weights(*([tf.convert_to_tensor(d) for d in ds] for ds in found), 1e-5)


@pytest.mark.parametrize("dtype", ["int32", "int64", "float16", "float64"])
def test_sparse_inputs_of_every_dtype_are_taken(dtype):
    values = np.random.default_rng(0).integers(-2, 3, (6, 40))
    dense = tf.constant(values, dtype)
    model = subclassed()
    found = [directions(model, x) for x in (tf.sparse.from_dense(dense), dense)]
    assert_close_weights(*([tf.convert_to_tensor(d) for d in ds] for ds in found), 1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_directions_are_those_of_dense_inputs_in_every_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        sparse, dense = sparse_and_dense()
        model = subclassed()

        def loss(x):
            return tf.reduce_sum(tf.cast(tf.sin(model(x)), "float64"))

        found = [directions(model, x, lambda x=x: loss(x)) for x in (sparse, dense)]
    finally:
        keras.config.set_dtype_policy("float32")
    tolerance = {"float64": 1e-12}.get(policy, 1e-2)
    assert_close_weights(*([tf.convert_to_tensor(d) for d in ds] for ds in found), tolerance)


def test_a_step_in_10_to_the_5_features_is_that_of_a_float64_solve():
    x = wide()
    model = functional(WIDE, units=4)
    hidden = model.get_layer("hidden")
    kernel, bias, *_ = directions(model, x)
    with tf.GradientTape() as tape:
        z = tf.sparse.sparse_dense_matmul(x, hidden.kernel) + hidden.bias
        tape.watch(z)
        loss = tf.reduce_sum(tf.sin(model.get_layer("last")(tf.tanh(z))))
    d = tape.gradient(loss, z).numpy().astype("float64")
    a = np.zeros([8, WIDE])
    np.add.at(a, tuple(x.indices.numpy().T), x.values.numpy())
    u = np.linalg.solve(a @ a.T + 1 + np.eye(8) / TAU, d)
    assert_close(kernel, a.T @ u, 1e-5)
    assert_close(bias, u.sum(axis=0), 1e-5)


def test_large_inputs_are_never_made_dense(monkeypatch):
    # As many rows as would take 40 GB.
    x = wide(rows=100, columns=10**8)
    wrapped = tf.sparse.to_dense

    def to_dense(x, *args, **kwargs):
        assert x.shape[-1] != 10**8
        return wrapped(x, *args, **kwargs)

    monkeypatch.setattr(tf.sparse, "to_dense", to_dense)
    model = functional(10**6, units=1)
    x = tf.SparseTensor(x.indices // [1, 100], x.values, [100, 10**6])
    graph = tf.function(lambda x: directions(model, x, tau="auto"))
    concrete = graph.get_concrete_function(tf.SparseTensorSpec([None, 10**6], tf.float32))
    biggest = [op for op in concrete.graph.get_operations() if op.type == "SparseToDense"]
    assert not biggest
    for part in concrete(x):
        assert np.isfinite(tf.convert_to_tensor(part)).all()


@pytest.mark.parametrize("mode", ["eager", "graph"])
@each_kind
def test_fit_evaluate_and_predict_do_what_they_do_with_dense_inputs(make, mode):
    sparse, dense = sparse_and_dense((10, 40))
    y = np.random.default_rng(1).normal(size=(10, 2)).astype("float32")
    found = []
    for x, kind in ((sparse, True), (dense, False)):
        keras.utils.set_random_seed(3)
        model = make(sparse=kind)
        model.compile(ProxProp(memory=None), loss="mse", **MODES[mode])
        history = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        found.append(
            [
                *weights_of(model),
                history.history["loss"],
                model.evaluate(x, y, verbose=0),
                model.predict(x, verbose=0),
            ]
        )
    assert_close_weights(*found, 1e-4)


def outcome(optimizer, jit_compile):
    """Returns the weights after an epoch on sparse inputs, or the error."""
    sparse, _ = sparse_and_dense((10, 40))
    keras.utils.set_random_seed(3)
    model = functional()
    model.compile(optimizer, loss="mse", jit_compile=jit_compile)
    try:
        model.fit(sparse, np.ones((10, 2)), batch_size=5, shuffle=False, verbose=0)
    except tf.errors.InvalidArgumentError as error:
        return error
    return weights_of(model)


def test_xla_takes_sparse_inputs_where_it_takes_them_with_adam():
    # Keras's own product with a sparse tensor is none that XLA knows.
    with_adam, ours = outcome(keras.optimizers.Adam(), True), outcome(ProxProp(), True)
    assert type(ours) is type(with_adam)
    if isinstance(ours, Exception):
        for error in (with_adam, ours):
            assert "hidden_1/SparseFillEmptyRows" in str(error)
    else:
        assert_close_weights(ours, outcome(ProxProp(), False), 1e-4)


def test_keras_own_choice_of_compilation_takes_sparse_inputs():
    assert_close_weights(outcome(ProxProp(), "auto"), outcome(ProxProp(), False), 1e-6)


def test_a_dataset_with_batches_of_unknown_size_is_taken():
    sparse, _ = sparse_and_dense((10, 40))
    data = tf.data.Dataset.from_tensor_slices((sparse, np.zeros((10, 2)))).batch(4)
    model = functional()
    model.compile(ProxProp(), loss="mse", jit_compile=False)
    before = weights_of(model)
    model.fit(data, epochs=2, verbose=0)
    assert all(np.any(a != b) for a, b in zip(before, weights_of(model)))


def test_repeated_and_unsorted_entries_count_as_their_sum():
    places = [[0, 7], [0, 2], [0, 7], [2, 5], [2, 1]]
    values = np.array([1.0, 2.0, 3.0, -1.0, 0.5], "float32")
    x = tf.SparseTensor(places, values, [3, 40])
    dense = np.zeros((3, 40), "float32")
    np.add.at(dense, tuple(np.transpose(places)), values)
    model = subclassed()
    for solver in (solvers.Exact("dual"), solvers.Exact("primal"), "cg"):
        found = [directions(model, i, solver=solver) for i in (x, dense)]
        assert_close_weights(*([tf.convert_to_tensor(d) for d in ds] for ds in found), 1e-5)


@pytest.mark.parametrize("second", ["sparse", "dense"])
def test_a_layer_called_on_sparse_and_on_other_inputs_is_one_problem(second):
    sparse, dense = sparse_and_dense()
    more_sparse, more = sparse_and_dense(seed=1)

    class Twice(Subclassed):
        def call(self, x):
            return self.last(self.hidden(x[0]) + self.hidden(x[1]))

    model = Twice()
    model((dense, more))
    other = more_sparse if second == "sparse" else more
    expected = directions(model, (dense, more))
    for pair in ((sparse, other), (other, sparse)):
        if pair[0] is other:
            expected = directions(model, (more, dense))
        for form in ("primal", "dual"):
            found = directions(model, pair, solver=solvers.Exact(form))
            assert_close_weights(found, [tf.convert_to_tensor(e) for e in expected], 1e-5)


def test_gradients_pass_through_sparse_inputs():
    """A layer before the first Dense has weights of its own, and hands on a sparse tensor."""

    class Scale(layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(), initializer="ones")

        def call(self, x):
            return tf.sparse.map_values(tf.multiply, x, self.scale)

    sparse, _ = sparse_and_dense()
    model = keras.Sequential([keras.Input((40,), sparse=True), Scale(), *sequential().layers])
    ours = directions(model, sparse)[0]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(model(sparse)))
    assert_close(ours, tape.gradient(loss, model.layers[0].scale.value), 1e-5)


def test_summary_and_step_monitor_know_them():
    model = functional(1000)
    report = layer_reports(model, 64)[0]
    assert (report.step, report.row_count, report.features) == ("implicit", 64, 1001)
    assert report.solver == "dual"
    sparse, _ = sparse_and_dense((10, 1000))
    model.compile(ProxProp(), loss="mse", jit_compile=False)
    monitor = StepMonitor(every=1)
    history = model.fit(sparse, np.zeros((10, 2)), 5, callbacks=[monitor], verbose=0).history
    assert history["hidden/rows"] == [5] and history["hidden/residual"][0] < 1e-3
    trained = Subclassed()
    trained.compile(ProxProp(), loss="mse", jit_compile=False)
    trained.fit(sparse, np.zeros((10, 2)), verbose=0)
    assert layer_reports(trained, 64)[0].solver == "dual"
