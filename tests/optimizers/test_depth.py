"""What counts as depth: maps whose outputs are batch normalized count as noise adds up.

And convolutions among them step in wide problems as in others.
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
DEPTHS = {
    activated_before: 1 + MAPS,
    frozen: 1 + MAPS,
    in_inference: 1 + MAPS,
    by_layer_normalization: 1 + MAPS,
    called_twice: 1 + MAPS,
}
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


def check(model, layer, features, share, solver="auto", **how):
    """Checks the step of a layer, and what a summary says of it."""
    model.compile(ProxProp(solver=solver), loss="mse", **how)
    weight = layer.weights[0]
    before = weight.numpy()
    reports = summary(model, batch_size=ITEMS, print_fn=lambda line: None)
    random = np.random.default_rng(0)
    x = random.normal(size=(ITEMS, *model.input_shape[1:]))
    model.fit(x, random.normal(size=(ITEMS, 5, 3)), batch_size=ITEMS, verbose=0)
    size = min(np.sqrt(np.mean(before**2)), np.sqrt(2 / (features + layer.output.shape[-1])))
    rate = 210 * size * share * (5 * ITEMS / 64) ** 0.25
    assert_close({r.name: r.rate for r in reports}[layer.name], rate, 1e-5)
    assert_close(np.abs(weight.numpy() - before).max(), 0.001 * rate, 1e-3)


def check_last(model, depth, **how):
    # Of any solver: it makes no step longer or shorter, and CG has least to trace.
    check(model, model.layers[-1], 4 + 1, min(1, 4 / depth), solver="cg", **how)


@pytest.mark.parametrize("around, layer", in_turns(DEPTHS, LAYERS))
def test_maps_count_one_each_where_training_does_not_normalize_their_outputs(around, layer):
    check_last(net(around, LAYERS[layer]), DEPTHS[around], jit_compile=False)


@pytest.mark.parametrize("layer", LAYERS)
def test_maps_of_every_kind_count_as_a_root_where_they_are_batch_normalized(layer):
    check_last(net(normalized, LAYERS[layer]), 1 + np.sqrt(4 * MAPS), jit_compile=False)


@pytest.mark.parametrize(
    "mode, dtype", [("eager", None), ("xla", "mixed_bfloat16"), ("graph", "mixed_float16")]
)
def test_so_it_is_in_every_mode(mode, dtype):
    check_last(net(normalized, LAYERS["conv"], dtype), 1 + np.sqrt(4 * MAPS), **MODES[mode])


WIDE = {
    # A layer, its number of features, and whether many features make its steps shorter.
    "conv": (lambda: L.Conv1D(4, 5, padding="same"), normalized, 5 * 40 + 1, False),
    "transposed": (lambda: L.Conv1DTranspose(4, 5, padding="same"), normalized, 201, False),
    "not normalized": (lambda: L.Conv1D(4, 5, padding="same"), activated_before, 201, True),
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
    check(model, layer, features, share, jit_compile=False)
