"""What counts as depth: changes that batch normalizations follow add up as noise does.

And convolutions whose outputs are normalized step in wide problems as in others, and all maps
whose outputs are normalized by their own size, however large they are.
"""

import keras
import numpy as np
import pytest
from helpers import MODES, assert_close, in_turns

from keras_proxprop import ProxProp, summary

L = keras.layers
MAPS, ITEMS = 5, 8


def normalized(x, layer):
    return L.LeakyReLU()(L.BatchNormalization()(layer(x)))


def activated_before(x, layer):
    return L.BatchNormalization()(L.LeakyReLU()(layer(x)))


def added_before(x, layer):
    return L.BatchNormalization()(L.Add()([x, layer(x)]))


def joined_before(x, layer):
    return L.BatchNormalization()(L.Concatenate()([x, layer(x)])[..., -4:])


def frozen(x, layer):
    return L.LeakyReLU()(L.BatchNormalization(trainable=False)(layer(x)))


class InInference(L.Layer):
    def __init__(self):
        super().__init__()
        self.normalization = L.BatchNormalization()

    def call(self, x):
        return self.normalization(x, training=False)


def in_inference(x, layer):
    return L.LeakyReLU()(InInference()(layer(x)))


def by_layer_normalization(x, layer):
    return L.LeakyReLU()(L.LayerNormalization()(layer(x)))


def called_twice(x, layer):
    """A map with a second call, whose outputs nothing normalizes."""
    return L.Add()([L.LeakyReLU()(L.BatchNormalization()(layer(x))), layer(x)])


# Of five maps and the last layer: here they count one each.
NOT_NORMALIZED = [frozen, in_inference, by_layer_normalization]
NORMALIZED = [normalized, activated_before, added_before, joined_before]
LAYERS = {
    "dense": lambda: L.Dense(4),
    "conv": lambda: L.Conv1D(4, 2, padding="same"),
    "depthwise": lambda: L.DepthwiseConv1D(2, padding="same", use_bias=False),
    "einsum": lambda: L.EinsumDense("abc,cd->abd", (5, 4), bias_axes="d"),
    "transposed": lambda: L.Conv1DTranspose(4, 2, padding="same"),
}


def net(around, layer, dtype=None):
    keras.utils.set_random_seed(0)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype or "float32")
    inputs = x = keras.Input((5, 4))
    for _ in range(MAPS):
        x = around(x, layer())
    model = keras.Model(inputs, L.Dense(3, dtype="float32")(x))
    keras.config.set_dtype_policy(policy)
    return model


def check(model, layer, features, share, limited=True, fits=True, solver="auto", **how):
    """Checks the step of a layer, and what a summary says of it.

    Args:
        features: number of features, with the bias.
        share: by what depth and features multiply the step.
        limited: whether the size of the weights counts as Glorot's at most.
        fits: whether to check the step too, and not only what is said of it.
    """
    model.compile(ProxProp(solver=solver), loss="mse", **how)
    weight = layer.weights[0]
    before = weight.numpy()
    size = np.sqrt(np.mean(before**2))
    if limited:
        columns = 3 if layer is model.layers[-1] else 4
        size = min(size, np.sqrt(2 / (features + columns)))
    rate = 210 * size * share * (5 * ITEMS / 64) ** 0.25
    reports = summary(model, batch_size=ITEMS, print_fn=lambda line: None)
    assert_close({r.name: r.rate for r in reports}[layer.name], rate, 1e-5)
    if fits:
        random = np.random.default_rng(0)
        x = random.normal(size=(ITEMS, *model.input_shape[1:]))
        model.fit(x, random.normal(size=(ITEMS, 5, 3)), batch_size=ITEMS, verbose=0)
        assert_close(np.abs(weight.numpy() - before).max(), 0.001 * rate, 1e-3)


def check_last(model, depth, **how):
    # Of any solver: it makes no step longer or shorter, and CG has least to trace.
    check(model, model.layers[-1], 4 + 1, min(1, 4 / depth), solver="cg", **how)


@pytest.mark.parametrize("around, layer", in_turns(NOT_NORMALIZED, LAYERS))
def test_maps_count_one_each_where_training_does_not_normalize(around, layer):
    check_last(net(around, LAYERS[layer]), MAPS + 1, jit_compile=False)


@pytest.mark.parametrize("around, layer", in_turns(NORMALIZED, LAYERS))
def test_maps_of_every_kind_count_as_a_root_where_a_batch_normalization_follows(around, layer):
    check_last(net(around, LAYERS[layer]), np.sqrt(4 * MAPS) + 1, jit_compile=False)


def gated(x):
    """A normalized map, and two more in a gate before the next."""
    x = normalized(x, L.Dense(4))
    gate = L.Dense(4, "sigmoid")(
        L.Dense(2, "relu")(L.GlobalAveragePooling1D(keepdims=True)(x))
    )
    return normalized(L.Multiply()([x, gate]), L.Dense(4))


def shortened(x):
    """Two maps one after the other and one beside them, all of them normalized."""
    y = L.BatchNormalization()(L.Dense(4)(normalized(x, L.Dense(4))))
    return L.ReLU()(L.Add()([y, L.BatchNormalization()(L.Dense(4)(x))]))


def called_again(x):
    """Two maps, of which the first is called again after the only normalization."""
    layer = L.Dense(4)
    return layer(normalized(layer(x), L.Dense(4)))


def stacked(x, maps, normalizes):
    for i in range(maps):
        x = L.LeakyReLU()(L.Dense(4)(x))
        x = L.BatchNormalization()(x) if normalizes(i) else x
    return x


def six(x):
    return stacked(x, 6, lambda i: True)


# The maps before the last layer, and as how many they and that one count.
RUNS = {
    "a gate": (lambda x: gated(gated(x)), 8 / 6 * np.sqrt(4 * 6) + 1),
    "a shortcut": (lambda x: shortened(shortened(x)), np.sqrt(4 * 6) + 1),
    "two in a run": (lambda x: stacked(x, 12, lambda i: i % 2), 2 * np.sqrt(4 * 6) + 1),
    "many runs": (lambda x: stacked(x, 20, lambda i: True), np.sqrt(4 * 16) + 1),
    "many runs of two": (lambda x: stacked(x, 36, lambda i: i % 2), 2 * np.sqrt(4 * 16) + 1),
    "one run": (lambda x: stacked(x, 6, lambda i: i == 5), 6 + 1),
    "some after the last": (lambda x: stacked(x, 9, lambda i: i < 6), np.sqrt(4 * 6) + 3 + 1),
    "called again after the last": (lambda x: called_again(six(x)), np.sqrt(4 * 7) + 1 + 1),
    "called twice": (lambda x: called_twice(six(x), L.Dense(4)), np.sqrt(4 * 6) + 1 + 1),
}


@pytest.mark.parametrize("case", RUNS)
def test_maps_between_two_normalizations_count_together(case):
    around, depth = RUNS[case]
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 4))
    check_last(keras.Model(inputs, L.Dense(3)(around(inputs))), depth, fits=False)


@pytest.mark.parametrize(
    "mode, dtype", [("eager", None), ("xla", "mixed_bfloat16"), ("graph", "mixed_float16")]
)
def test_so_it_is_in_every_mode(mode, dtype):
    check_last(net(normalized, LAYERS["conv"], dtype), np.sqrt(4 * MAPS) + 1, **MODES[mode])


WIDE = {
    # A layer, its number of features, and whether many features make its steps shorter.
    "conv": (lambda: L.Conv1D(4, 5, padding="same"), normalized, 5 * 40 + 1, False),
    "transposed": (lambda: L.Conv1DTranspose(4, 5, padding="same"), normalized, 201, False),
    "not normalized": (lambda: L.Conv1D(4, 5, padding="same"), activated_before, 201, True),
    "in one of two calls": (lambda: L.Conv1D(4, 5, padding="same"), called_twice, 201, True),
    "dense": (lambda: L.Dense(4), normalized, 40 + 1, False),
    "wide dense": (lambda: L.Dense(4), normalized, 90 + 1, True),
}


@pytest.mark.parametrize("case", WIDE)
def test_normalized_convolutions_step_as_far_in_wide_problems(case):
    layer, around, features, is_shorter = WIDE[case]
    layer = layer()
    channels = 90 if case == "wide dense" else 40
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, channels))
    model = keras.Model(inputs, L.Dense(3)(around(inputs, layer)))
    share = np.sqrt(64 / features) if is_shorter else 1
    check(model, layer, features, share, around is not normalized, jit_compile=False)


FEATURES = {"dense": 5, "conv": 9, "depthwise": 2, "einsum": 5, "transposed": 9}


@pytest.mark.parametrize("around", [normalized, activated_before])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_size_of_weights_is_limited_where_nothing_normalizes_their_outputs(around, layer):
    keras.utils.set_random_seed(0)
    inputs, own = keras.Input((5, 4)), LAYERS[layer]()
    model = keras.Model(inputs, L.Dense(3)(around(inputs, own)))
    own.kernel.assign(10 * own.kernel)
    check(model, own, FEATURES[layer], 1, around is not normalized, jit_compile=False)
