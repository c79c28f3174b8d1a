"""What n replicas add up to is what one device makes of the concatenated batch."""

import pytest
from scenarios import python

REPLICAS = """
import sys
import keras, numpy as np, tensorflow as tf
from helpers import relative_error
from keras_proxprop import ImplicitGradientTape, solvers

number = int(sys.argv[1])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * number
)
devices = [device.name for device in tf.config.list_logical_devices("CPU")]
strategy = tf.distribute.MirroredStrategy(devices)
L = keras.layers
random = np.random.default_rng(0)
"""

KINDS = """
# Not alike, and where there are four of them one has none.
sizes = {2: [5, 3], 4: [4, 0, 1, 3]}[number]
ends = np.cumsum(sizes)
images, sequence, tokens, features = (6, 6, 4), (7, 5), (7,), (5,)


class Tied(keras.Layer):
    def build(self, shape):
        self.embedding = L.ReversibleEmbedding(9, 4)
        self.embedding.build(shape)

    def call(self, ids):
        return self.embedding(keras.ops.tanh(self.embedding(ids)), reverse=True)


class Attention(keras.Layer):
    def build(self, shape):
        self.attention = L.MultiHeadAttention(2, 3)
        self.attention.build(shape, shape)

    def call(self, x):
        return self.attention(x, x)


KINDS = {
    "Dense": (features, L.Dense(3)),
    "Dense of many rows": (sequence, L.Dense(3, use_bias=False)),
    "regularized": (features, L.Dense(8, kernel_regularizer="l2", bias_regularizer="l1")),
    "EinsumDense": (sequence, L.EinsumDense("abc,bcd->abd", (7, 3), bias_axes="bd")),
    "Conv1D": (sequence, L.Conv1D(3, 3, padding="causal")),
    "Conv2D": (images, L.Conv2D(3, 3, padding="same")),
    "strides": (images, L.Conv2D(3, 3, strides=2)),
    "groups": (images, L.Conv2D(4, 3, groups=2)),
    "DepthwiseConv2D": (images, L.DepthwiseConv2D(3)),
    "SeparableConv2D": (images, L.SeparableConv2D(3, 3)),
    "Conv2DTranspose": (images, L.Conv2DTranspose(3, 3)),
    "LSTM": (sequence, L.LSTM(3)),
    "GRU": (sequence, L.GRU(3)),
    "Attention": (sequence, Attention()),
    "Embedding": (tokens, L.Embedding(9, 4)),
    "regularized Embedding": (tokens, L.Embedding(9, 4, embeddings_regularizer="l2")),
    "ReversibleEmbedding": (tokens, Tied()),
    "LayerNormalization": (sequence, L.LayerNormalization()),
    "GroupNormalization": (images, L.GroupNormalization(2)),
    "RMSNormalization": (sequence, L.RMSNormalization()),
    "PReLU": (images, L.PReLU(shared_axes=[1, 2])),
}
SOLVERS = {
    "auto": "auto",
    "primal": solvers.Exact("primal"),
    "dual": solvers.Exact("dual"),
    "cg": solvers.ConjugateGradient(2),
}


def directions(model, x, y, tau, solver):
    with ImplicitGradientTape(model, tau, solver, final_layer="implicit") as tape:
        # What replicas add up to is the mean over all rows.
        loss = tf.reduce_sum((model(x, training=True) - y) ** 2) / ends[-1]
        loss += tf.add_n([0.0, *model.losses]) / replicas
    found = tape.gradient(loss, model.trainable_variables)
    return [tf.convert_to_tensor(part) for part in found]


def part(values):
    parts = np.split(values, ends[:-1])
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )


for name, (shape, layer) in KINDS.items():
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input(shape), layer])
    x = random.normal(size=(ends[-1], *shape)).astype("float32")
    if shape is tokens:
        x = random.integers(0, 9, size=(ends[-1], *shape))
    y = random.normal(size=(ends[-1], *model.output_shape[1:])).astype("float32")
    closed = not layer.count_params() or "Norm" in name or name in ("Embedding", "PReLU")
    for solver in SOLVERS:
        if closed and solver != "auto":
            continue
        for tau in ["auto", 0.7] if solver == "auto" else [0.7]:
            replicas = 1
            whole = directions(model, x, y, tau, SOLVERS[solver])
            replicas = number
            given = part(x), part(y)
            try:
                found = strategy.run(
                    lambda x, y: directions(model, x, y, tau, SOLVERS[solver]), args=given
                )
            except tf.errors.InvalidArgumentError as error:
                # TensorFlow convolves no empty batch on CPU.
                assert 0 in sizes, error
                print("empty", name)
                continue
            added = [sum(strategy.experimental_local_results(each)) for each in found]
            error = max(map(relative_error, added, whole))
            print(f"{error:.1e} {name}, {solver}, tau {tau}", flush=True)
"""


@pytest.mark.parametrize("number", [2, 4])
def test_directions_of_replicas_add_up_to_that_of_the_global_batch(number):
    said = python(REPLICAS + KINDS, number).splitlines()
    errors = {case: float(error) for error, case in (line.split(maxsplit=1) for line in said)}
    assert len(errors) > 60
    assert {case: e for case, e in errors.items() if not e < 1e-4} == {}
