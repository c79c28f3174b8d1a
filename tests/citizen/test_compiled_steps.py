"""What a GPU launches in a compiled step: the operations that XLA makes of a layer.

They are counted in what XLA compiles for a CPU, with the package told that there is a GPU. So
reductions count twice, and Cholesky factors and triangular solves once, as on a GPU.
"""

import collections
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_proxprop import CurvatureMemory, ProxProp, machine, tf32, xla

# What is no operation of its own when it runs.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
OPTIMIZERS = {
    "explicit": lambda: ProxProp(exclude=[keras.layers.Dense]),
    "memory": lambda: ProxProp(memory=CurvatureMemory(layers="all")),
    "dual": lambda: ProxProp(solver="exact", memory=None),
}


def operations(optimizer, layers):
    """Returns how many operations of every kind the main computation of a step has."""
    hidden = [keras.layers.Dense(48, "tanh") for _ in range(layers)]
    model = keras.Sequential([keras.Input([48]), *hidden, keras.layers.Dense(3)])
    model.compile(OPTIMIZERS[optimizer](), "mse", jit_compile=True)
    model.optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=True, autograph=False)
    def step(x, y):
        return model.train_step((x, y))

    # The first trace makes variables. Without running it, XLA compiles only once.
    batch = tf.zeros([16, 48]), tf.zeros([16, 3])
    step.get_concrete_function(*batch)
    text = step.experimental_get_compiler_ir(*batch)(stage="optimized_hlo")
    main = re.search(r"^ENTRY .*?^\}", text, re.MULTILINE | re.DOTALL)[0]
    kinds = re.findall(r" = (?:\(.*?\)|\S+) ([a-z-]+)\(", main)
    return collections.Counter(kind for kind in kinds if kind not in FREE)


@pytest.fixture
def on_a_gpu(monkeypatch):
    monkeypatch.setattr(machine, "in_force", lambda: machine.GPU)
    monkeypatch.setattr(xla, "for_cpu", lambda: False)


# What a layer adds to a step, beyond what it adds where it steps explicitly, at most: where
# float32 is multiplied as it is, and where it is multiplied in TF32.
LIMITS = {"memory": (4, 8), "dual": (15, 25)}


@pytest.mark.filterwarnings("ignore:No layer of model")
@pytest.mark.parametrize("in_tf32", [False, True], ids=["float32", "tf32"])
def test_a_layer_adds_few_operations(in_tf32, on_a_gpu, monkeypatch):
    monkeypatch.setattr(tf32, "rounds_products", lambda: "emulated" if in_tf32 else "")
    added, conditions = {}, {}
    for optimizer in OPTIMIZERS:
        two, three = (operations(optimizer, layers) for layers in (2, 3))
        added[optimizer] = sum(three.values()) - sum(two.values())
        conditions[optimizer] = np.subtract(three["conditional"], two["conditional"])
    explicit = added.pop("explicit")
    beyond = {name: number - explicit for name, number in added.items()}
    assert all(beyond[name] <= LIMITS[name][in_tf32] for name in LIMITS), beyond
    # All layers with memory share the decisions of a step; what no memory is kept of is looked
    # at layer by layer.
    assert conditions == {"explicit": 0, "memory": 0, "dual": 1}
