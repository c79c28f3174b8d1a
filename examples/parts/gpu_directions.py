"""Directions on this machine's device against float64 on its CPU."""

import keras
import numpy as np
import tensorflow as tf

from keras_proxprop import ImplicitGradientTape, xla
from keras_proxprop.solvers import exact, factorization
from parts.gpu_tasks import LOSS, NETS, images

L = keras.layers
# By how much a direction of one layer may be off where `D` is exact: this, or so many times
# what float32 is off on the CPU.
LAYER_TOLERANCE, TIMES_FLOAT32 = 1e-3, 3
# By how much that of a whole net may be: there TF32 rounds the net's own products, too.
NET_TOLERANCE, NET_TOLERANCE_IN_TF32 = 2e-3, 2e-2


def _smooth(size, channels):
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(64, size // 4, size // 4, channels))
    return np.repeat(np.repeat(coarse, 4, 1), 4, 2) + 0.1 * rng.normal(
        size=(64, size, size, channels)
    )


def _features(*shape):
    """Random numbers of few directions, cut off below zero, as a net's features are."""
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(*shape[:-1], 40)) @ rng.normal(size=(40, shape[-1])) / 6
    return np.maximum(mixed + 1, 0)


# A layer, and what it is called on.
LAYERS = {
    "Dense, 500 × 785": (lambda: L.Dense(100), lambda: _features(500, 784)),
    "Dense, 8,192 × 513": (lambda: L.Dense(64), lambda: _features(64, 128, 512)),
    "Conv2D 3×3": (lambda: L.Conv2D(20, 3, padding="same"), lambda: _smooth(32, 16)),
    "Conv2D 5×5": (lambda: L.Conv2D(20, 5, padding="same"), lambda: _smooth(16, 20)),
    "Conv2D 3×3 / 2": (lambda: L.Conv2D(20, 3, strides=2), lambda: _smooth(32, 16)),
}


class Branches:
    """Context in which solves, and those of them in float64, are counted as they run."""

    _HOOKED = {"solves": (exact, "solution"), "in float64": (factorization, "_in_float64")}

    def __enter__(self):
        self._before = {}
        self._counts = {}
        for name, place in self._HOOKED.items():
            self._counts[name] = tf.Variable(0, dtype="int64", trainable=False)
            self._before[place] = getattr(*place)
            setattr(*place, self._counted(self._before[place], self._counts[name]))
        # Counted in traces of their own, which nothing else meets.
        self._before[exact, "_checked"] = exact._checked
        exact._checked = xla.traced_once(exact._checked.__wrapped__)
        return self

    @staticmethod
    def _counted(function, count):
        def counting(*args):
            count.assign_add(1)
            return function(*args)

        return counting

    def __exit__(self, *_):
        for place, function in self._before.items():
            setattr(*place, function)

    @property
    def counts(self):
        return {name: int(count.numpy()) for name, count in self._counts.items()}


def _like(model, make, dtype):
    """Returns the same net in another dtype, with the same weights."""
    keras.config.set_dtype_policy(dtype)
    try:
        other = make()
    finally:
        keras.config.set_dtype_policy("float32")
    other.set_weights(model.get_weights())
    return other


def _error(found, right):
    """Returns the relative error of the weight that is worst."""
    errors = [np.linalg.norm(f - r) / np.linalg.norm(r) for f, r in zip(found, right)]
    # Not a number where one is none.
    return float(np.max(errors))


def _in_numpy(tensors):
    return [np.asarray(t, np.float64) for t in tensors]


def _compared(make, x, loss, tau, final_layer):
    """Yields `(TF32, XLA, error, float32's error on the CPU, counts)` of a net's directions.

    Args:
        make: function that returns the net.
        x: its inputs.
        loss: function of its outputs.
        tau, final_layer: as `ImplicitGradientTape` has them.
    """
    model = make()
    before = model.get_weights()

    def directions(net, dtype):
        with ImplicitGradientTape(net, tau=tau, final_layer=final_layer) as tape:
            value = loss(net(tf.constant(x, dtype), training=True))
        return tape.gradient(value, net.trainable_variables)

    def on_cpu(dtype):
        with tf.device("/CPU:0"):
            net = _like(model, make, dtype)
            return _in_numpy(tf.function(lambda: directions(net, dtype), autograph=False)())

    right = on_cpu("float64")
    own = _error(on_cpu("float32"), right)
    allowed = tf.config.experimental.tensor_float_32_execution_enabled()
    gpu = bool(tf.config.list_logical_devices("GPU"))
    for tf32 in (True, False) if gpu else (False,):
        tf.config.experimental.enable_tensor_float_32_execution(tf32)
        for jit in (False, True):
            with Branches() as branches:
                step = tf.function(
                    lambda: directions(model, "float32"), jit_compile=jit, autograph=False
                )
                found = _in_numpy(step())
            model.set_weights(before)
            yield tf32, jit, _error(found, right), own, branches.counts
    tf.config.experimental.enable_tensor_float_32_execution(allowed)


def layers(report, args):
    """Directions of single layers, with a loss that is linear in their outputs."""
    for name in args.layers:
        make, inputs = LAYERS[name]
        x = inputs()

        def net(make=make, x=x):
            return keras.Sequential([keras.Input(x.shape[1:]), make()])

        d = np.random.default_rng(1).normal(size=net()(x).shape)

        def loss(z, d=d):
            return tf.reduce_sum(z * tf.constant(d, z.dtype))

        for tau in args.taus:
            for tf32, jit, error, own, counts in _compared(net, x, loss, tau, "implicit"):
                ok = error <= max(LAYER_TOLERANCE, TIMES_FLOAT32 * own)
                how = f"tau {tau}, TF32 {tf32}, XLA {jit}"
                report(f"{name}, {how}", ok, error=error, float32=own, **counts)


def nets(report, args):
    """Directions of whole nets, of the layer that is worst."""
    for name, batch in args.nets:
        x, y = images(batch)

        def loss(outputs, y=y):
            return LOSS(y, outputs)

        for tau in args.taus:
            compared = _compared(NETS[name], x, loss, tau, "explicit")
            for tf32, jit, error, own, counts in compared:
                ok = error <= (NET_TOLERANCE_IN_TF32 if tf32 else NET_TOLERANCE)
                how = f"batch {batch}, tau {tau}, TF32 {tf32}, XLA {jit}"
                report(f"{name}, {how}", ok, error=error, float32=own, **counts)
