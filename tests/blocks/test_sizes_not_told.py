"""Data that do not tell the sizes of their axes, as those of a generator do not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, in_turns

from keras_proxprop import ProxProp

L = keras.layers
random = np.random.default_rng(0)
VECTORS, SEQUENCES, IMAGES, VOLUMES = (
    random.normal(size=(16, *shape)).astype("float32")
    for shape in [(5,), (7, 4), (6, 6, 3), (5, 5, 5, 2)]
)
Y = random.normal(size=(16, 2)).astype("float32")
LAYERS = {
    "only a last layer": (VECTORS, lambda: []),
    "Dense": (VECTORS, lambda: [L.Dense(4)]),
    "Dense on sequences": (SEQUENCES, lambda: [L.Dense(4)]),
    "EinsumDense": (SEQUENCES, lambda: [L.EinsumDense("abc,cd->abd", (None, 3))]),
    "BatchNormalization": (VECTORS, lambda: [L.BatchNormalization()]),
    "GroupNormalization": (IMAGES, lambda: [L.GroupNormalization(3)]),
    "RMSNormalization": (VECTORS, lambda: [L.RMSNormalization()]),
    "PReLU": (VECTORS, lambda: [L.PReLU()]),
    "Conv1D": (SEQUENCES, lambda: [L.Conv1D(3, 3, padding="causal")]),
    "Conv2D": (IMAGES, lambda: [L.Conv2D(3, 3, strides=2, padding="same")]),
    "Conv3D": (VOLUMES, lambda: [L.Conv3D(3, 3)]),
    "groups": (IMAGES, lambda: [L.Conv2D(6, 3, groups=3)]),
    "SeparableConv1D": (SEQUENCES, lambda: [L.SeparableConv1D(3, 3)]),
    "SeparableConv2D": (IMAGES, lambda: [L.SeparableConv2D(3, 3)]),
    "DepthwiseConv2D": (IMAGES, lambda: [L.DepthwiseConv2D(3)]),
    "Conv2DTranspose": (IMAGES, lambda: [L.Conv2DTranspose(3, 3)]),
    "LSTM": (SEQUENCES, lambda: [L.LSTM(3, return_sequences=True)]),
    "SimpleRNN": (SEQUENCES, lambda: [L.Bidirectional(L.SimpleRNN(3))]),
}
POOLING = {
    3: L.GlobalAveragePooling1D,
    4: L.GlobalAveragePooling2D,
    5: L.GlobalAveragePooling3D,
}


def weights_after_a_step(x, layers, memory, shape, **mode):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers(), L.Identity()])
    rank = len(model.output_shape)
    if rank in POOLING:
        model.add(POOLING[rank]())
    model.add(L.Dense(2))
    model.compile(ProxProp(memory=memory), "mse", **mode)
    specs = tf.TensorSpec(shape, tf.float32), tf.TensorSpec([None, None], tf.float32)
    data = tf.data.Dataset.from_generator(lambda: [(x, Y)], output_signature=specs)
    model.fit(data, steps_per_epoch=1, verbose=0)
    return model.get_weights()


@pytest.mark.filterwarnings("ignore:No layer of model")
@pytest.mark.parametrize("name, memory", in_turns(LAYERS, ["auto", None]))
def test_a_step_is_the_same(name, memory):
    x, layers = LAYERS[name]
    # Eager, all sizes are known.
    known = weights_after_a_step(x, layers, memory, x.shape, run_eagerly=True)
    unknown = weights_after_a_step(x, layers, memory, [None] * x.ndim, jit_compile=False)
    # Without sizes other forms of a step may be cheapest: some know a trace by an estimate.
    for a, b in zip(known, unknown):
        assert_close(b, a, 0.02)
