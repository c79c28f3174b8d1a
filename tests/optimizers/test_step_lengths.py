"""How long the steps of a ScheduleFreeAdam are."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, weights_of

from keras_proxprop import ProxProp, ScheduleFreeAdam, summary
from keras_proxprop.optimizers.problem_size import ProblemSize

L = keras.layers
RATE = 0.002


@pytest.mark.parametrize("items, factor", [(1, 1 / 2), (16, 2**-0.5), (64, 1), (10**6, 4)])
def test_a_step_grows_as_the_fourth_root_of_the_batch_size_within_limits(items, factor):
    optimizer, variable = ScheduleFreeAdam(), keras.Variable(tf.zeros([100, 100]))
    for rows in (3 * items, tf.constant(3.0 * items)):
        size = ProblemSize(rows, 3, features=100, columns=100, implicit=False)
        assert_close(optimizer.factor(size, variable), factor * 210 * np.sqrt(2 / 200), 1e-6)


@pytest.mark.parametrize("first, used", [(0.0, 0.1), (0.02, 0.02), (0.5, 0.1)])
def test_a_step_is_a_share_of_the_first_size(first, used):
    variable = keras.Variable(first * tf.ones([100, 100]))
    optimizer = ScheduleFreeAdam()
    size = ProblemSize(64, 1, features=100, columns=100, implicit=False)
    assert_close(optimizer.factor(size, variable), 210 * used, 1e-6)
    optimizer.build([variable])
    variable.assign(7 * tf.ones([100, 100]))
    assert_close(optimizer.factor(size, variable), 210 * used, 1e-6)


@pytest.mark.parametrize("implicit, lookup", [(True, False), (False, False), (True, True)])
def test_steps_are_shorter_in_wide_problems_with_implicit_directions(implicit, lookup):
    optimizer, variable = ScheduleFreeAdam(), keras.Variable(0.02 * tf.ones([512, 88]))
    size = ProblemSize(64, 1, features=512, columns=88, implicit=implicit, lookup=lookup)
    length = 0.5 / np.sqrt(88) if lookup else 0.02 / np.sqrt(8) if implicit else 0.02
    assert_close(optimizer.factor(size, variable), 210 * length, 1e-6)


@pytest.mark.parametrize("depth, shorter", [(1, 1), (4, 1), (5, 0.8), (40, 0.1)])
def test_steps_are_shorter_in_deep_nets(depth, shorter):
    variables = [keras.Variable(tf.ones([50, 50])) for _ in range(depth)]
    optimizer = ScheduleFreeAdam()
    size = ProblemSize(64, 1, features=50, columns=50, implicit=True, depth=depth)
    assert_close(optimizer.factor(size, variables[0]), shorter * 210 * np.sqrt(2 / 100), 1e-6)
    # With plain gradients, where nothing tells the depth.
    biases = [keras.Variable(tf.ones([50])) for _ in range(9)]
    optimizer.build([*variables, *biases])
    guess = optimizer.size_of(variables[0])
    assert_close(optimizer.factor(guess, variables[0]), shorter * 210 * np.sqrt(2 / 100), 1e-6)


# Numbers of all maps, of normalized ones and of their runs, and as how many they count.
COUNTS = [(4, 3, 3, 4), (5, 4, 4, 5), (10, 9, 9, 7), (49, 49, 49, 8), (15, 8, 2, 15)]


@pytest.mark.parametrize("depth, normalized, runs, counted", [*COUNTS, (28, 27, 9, 19)])
def test_normalized_maps_make_steps_shorter_by_a_root(depth, normalized, runs, counted):
    counts = {"depth": depth, "normalized": normalized, "runs": runs}
    size = ProblemSize(64, 1, 50, 50, implicit=True, **counts)
    found = ScheduleFreeAdam().factor(size, keras.Variable(tf.ones([50, 50])))
    assert_close(found, 4 / counted * 210 * np.sqrt(2 / 100), 1e-6)


def _text(tokens, units):
    inputs = keras.Input((tokens,), dtype="int32")
    x = L.LayerNormalization()(L.Embedding(9, units)(inputs))
    for _ in range(5):
        x = L.Dense(units, activation="tanh")(x)
    return keras.Model(inputs, L.Dense(9)(x))


@pytest.mark.parametrize("tokens, units", [(3, 4), (16, 6)])
def test_fit_steps_as_summary_says_by_depth_and_by_the_labels_of_a_token_each(tokens, units):
    keras.utils.set_random_seed(0)
    model = _text(tokens, units)
    model.compile(ProxProp(), loss="mse", jit_compile=False)
    x = np.random.default_rng(0).integers(0, 9, (8, tokens))
    reports = summary(model, batch_size=8, print_fn=lambda line: None)
    before = [layer.kernel.numpy() for layer in model.layers[-6:]]
    model.fit(x, np.zeros([8, tokens, 9]), batch_size=8, verbose=0)

    rates = {report.name: report.rate for report in reports}
    for layer, kernel in zip(model.layers[-6:], before):
        size = min(np.sqrt(np.mean(kernel**2)), np.sqrt(2 / (units + 1 + layer.units)))
        # Seven linear maps step: the embedding and six kernels.
        rate = 210 * size * 4 / 7 * (8 * tokens / 64) ** 0.25
        assert_close(rates[layer.name], rate, 1e-5)
        assert_close(np.abs(layer.kernel.numpy() - kernel).max(), 0.001 * rate, 1e-3)


@pytest.mark.parametrize("items", [1, 64, 10**4])
def test_an_embedding_steps_by_its_present_size_but_rows_are_no_shorter_than_a_half(items):
    optimizer, variable = ScheduleFreeAdam(), keras.Variable(0.02 * tf.ones([100, 25]))
    size = ProblemSize(items, 1, features=100, columns=25, implicit=True, lookup=True)
    optimizer.build([variable])
    # However many labels the batch has: a row has those of its own lookups.
    for now, used in ((0.02, 0.1), (0.01, 0.1), (0.3, 0.3), (7.0, 7.0)):
        variable.assign(now * tf.ones([100, 25]))
        assert_close(optimizer.factor(size, variable), 210 * used, 1e-6)


def test_the_embeddings_of_a_model_are_known_as_such():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), L.Embedding(9, 3), L.Flatten(), L.Dense(2)])
    model.compile(ProxProp(), loss="mse", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    raised = [10 * w for w in model.get_weights()]
    model.set_weights(raised)
    model.fit(np.arange(8).reshape(4, 2), np.ones([4, 2]), verbose=0)
    moved = [np.abs(after - b).max() for after, b in zip(weights_of(model), raised)]
    # One batch, every number of a direction over its own root: a step is 210 × 0.001 of it.
    embedding, kernel = (np.sqrt(np.mean(raised[i] ** 2)) for i in (0, 1))
    assert_close(moved[0], 0.21 * max(embedding, 0.5 / np.sqrt(3)), 1e-3)
    assert_close(moved[1], 0.21 * (4 / 64) ** 0.25 * min(kernel / 10, 0.5), 1e-3)


def test_a_batch_much_unlike_those_before_makes_no_step_of_many_lengths():
    variable = keras.Variable(np.full([4, 4], 0.1, "float32"))
    optimizer = ScheduleFreeAdam()
    usual = np.random.default_rng(0).normal(size=(30, 4, 4)).astype("float32")
    for gradient in usual:
        optimizer.apply([tf.constant(gradient)], [variable])
    before = variable.numpy()
    optimizer.apply([tf.constant(1000 * usual[0])], [variable])
    # z steps by two lengths at most, and y by less.
    moved = np.sqrt(np.mean((variable.numpy() - before) ** 2))
    assert 0.01 * 0.021 < moved < 2 * 0.021


def test_with_plain_gradients_it_steps_by_the_shapes_of_the_weights():
    model = keras.Sequential([keras.Input((3,)), L.Dense(5)])
    model.compile(ScheduleFreeAdam(RATE), loss="mse", jit_compile=False)
    before = weights_of(model)
    model.fit(np.ones([4, 3]), np.ones([4, 5]), verbose=0)
    for after, b, (features, columns) in zip(weights_of(model), before, [(3, 5), (1, 5)]):
        size = np.sqrt(2 / (features + columns))
        size = min(size, np.sqrt(np.mean(b**2))) if b.any() else size
        step = 210 * RATE * size
        np.testing.assert_allclose(np.abs(after - b), step, rtol=1e-3)


@pytest.mark.parametrize("count", [16 * 256, 16], ids=["more", "as many"])
def test_no_layer_has_more_labels_than_the_last_one(count):
    # Rows per item are one where they are not known.
    variables = [keras.Variable(tf.zeros([100, 100])) for _ in range(3)]
    sizes = [ProblemSize(n, 1, 100, 100, implicit=False) for n in (count, tf.constant(count))]
    sizes.append(ProblemSize(16, 1, 100, 100, implicit=False, final=True))
    found = ScheduleFreeAdam()._factors(sizes, variables)
    assert_close(found, np.full(3, 2**-0.5 * 210 * np.sqrt(2 / 200)), 1e-6)


NETS = {
    "lstm": lambda: [L.LSTM(4, return_sequences=True), L.GlobalAveragePooling1D()],
    "dense": lambda: [L.Dense(4, "tanh"), L.GlobalAveragePooling1D()],
    "convolution": lambda: [L.Conv1D(4, 3), L.PReLU(shared_axes=[1]), L.GlobalMaxPooling1D()],
    "each token": lambda: [L.Dense(4, "tanh")],
}


@pytest.mark.parametrize("net", NETS)
def test_a_step_is_as_long_where_the_length_of_sequences_is_not_known(net):
    x = np.random.default_rng(0).normal(size=(16, 50, 3)).astype("float32")
    weights = []
    for length in (50, None):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((length, 3)), *NETS[net](), L.Dense(1)])
        model.compile(ProxProp(memory=None), "mse")
        y = np.ones_like(model(x))
        specs = [tf.TensorSpec([None, *shape[1:]]) for shape in (model.input_shape, y.shape)]
        data = tf.data.Dataset.from_generator(lambda: [(x, y)], output_signature=tuple(specs))
        model.fit(data, steps_per_epoch=1, verbose=0)
        weights.append(model.get_weights())
    for a, b in zip(*weights):
        # The trace of patches, which τ is read from, is another where it is not known.
        assert_close(b, a, 0.02 if net == "convolution" else 1e-5)


def test_a_normalization_steps_as_far_over_any_number_of_positions():
    moved = []
    for side in (1, 16):
        keras.utils.set_random_seed(0)
        layers = [L.BatchNormalization(), L.ReLU(), L.GlobalAveragePooling2D(), L.Dense(4)]
        model = keras.Sequential([keras.Input((side, side, 8)), *layers])
        model.compile(ProxProp(), "mse")
        x = np.random.default_rng(0).normal(size=(64, side, side, 8))
        model.train_on_batch(x, np.ones((64, 4)))
        moved.append(np.sqrt(np.mean((layers[0].gamma.numpy() - 1) ** 2)))
    assert_close(*moved, 0.05)
