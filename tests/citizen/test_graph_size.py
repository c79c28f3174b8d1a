"""How many operations a training step is: they are most of the wait for the first one."""

import keras
import pytest
import tensorflow as tf

from keras_proxprop import CurvatureMemory, ProxProp

L = keras.layers
LAYERS = {
    "dense": (lambda: L.Dense(8, "tanh"), (8,)),
    "conv": (lambda: L.Conv2D(4, 3, padding="same", activation="tanh"), (6, 6, 4)),
    # So large that its Gram matrix is a correlation; the one above writes patches out.
    "image": (lambda: L.Conv2D(16, 5, padding="same", activation="tanh"), (16, 16, 16)),
    "norm": (lambda: L.LayerNormalization(), (5, 4)),
}
OPTIMIZERS = {
    "default": ProxProp,
    "memory": lambda: ProxProp("adam", memory=CurvatureMemory(layers="all")),
    "no-memory": lambda: ProxProp("adam", memory=None),
}


def operations(layer, optimizer, count):
    """Returns how many operations a step has, functions that it calls included."""
    make, shape = LAYERS[layer]
    model = keras.Sequential([keras.Input(shape), *(make() for _ in range(count)), L.Dense(2)])
    model.compile(OPTIMIZERS[optimizer](), "mse")
    model.optimizer.build(model.trainable_variables)
    batch = [tf.TensorSpec([None, *s[1:]]) for s in (model.input_shape, model.output_shape)]
    step = tf.function(lambda x, y: model.train_step((x, y)), autograph=False)
    graph = step.get_concrete_function(*batch).graph.as_graph_def()
    bodies = [function.node_def for function in graph.library.function]
    return len(graph.node) + sum(map(len, bodies))


# What one more layer adds, and what there is without any, at most. A few more than there are:
# Keras's own differ from version to version. (With Adam alone: 89 and 193, 97 and 222, 182 and
# 175.)
LIMITS = {
    ("dense", "default"): (131, 556),
    ("dense", "memory"): (186, 484),
    ("dense", "no-memory"): (176, 678),
    ("conv", "default"): (167, 603),
    ("conv", "memory"): (222, 531),
    ("conv", "no-memory"): (400, 590),
    ("image", "default"): (391, 689),
    ("image", "no-memory"): (600, 588),
    ("norm", "default"): (270, 354),
    ("norm", "memory"): (331, 288),
}


@pytest.mark.parametrize("layer, optimizer", LIMITS)
def test_a_step_has_no_more_operations_than_it_had(layer, optimizer):
    two, three = (operations(layer, optimizer, count) for count in (2, 3))
    added = three - two
    found, limits = (added, two - 2 * added), LIMITS[layer, optimizer]
    assert all(a <= b for a, b in zip(found, limits)), f"{found}, allowed {limits}"
