"""What ProxProp does not train under it refuses in a sentence, before training starts."""

import keras
import pytest
import tensorflow as tf
from scenarios import compiled, data, mlp, proxprop

from keras_proxprop import ProxProp
from keras_proxprop.keras_seams.distributed_fit import check_strategy


@pytest.mark.parametrize("kind", ["ParameterServerStrategy", "TPUStrategy"])
def test_a_strategy_is_refused(kind):
    # None can be made here: there is no such cluster.
    strategy = object.__new__(getattr(tf.distribute, kind))
    with pytest.raises(ValueError, match=f"does not train under a {kind}.*Use a Mirrored"):
        check_strategy(strategy)


def test_fit_refuses_the_strategy_of_a_model(monkeypatch):
    model = compiled(mlp(), proxprop())
    strategy = object.__new__(tf.distribute.ParameterServerStrategy)
    monkeypatch.setattr(type(model), "distribute_strategy", property(lambda _: strategy))
    with pytest.raises(ValueError, match="does not train under"):
        model._maybe_symbolic_build(data_batch=data())


def test_the_distribution_of_keras_is_refused():
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=["cpu:0"]))
    try:
        with pytest.raises(ValueError, match="does nothing on TensorFlow.*Use a Mirrored"):
            ProxProp()
    finally:
        keras.distribution.set_distribution(None)
