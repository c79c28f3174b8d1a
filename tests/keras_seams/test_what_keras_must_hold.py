"""What the package takes from the insides of Keras and TensorFlow is still there.

A failure here says which seam of `keras_proxprop/keras_seams` a new version has changed.
"""

import ast
import inspect
import pathlib
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.config_pb2 import ConfigProto

import keras_proxprop
from keras_proxprop.keras_seams.names import MULTI_OPTIMIZER
from keras_proxprop.keras_seams.plain_calls import not_optimized
from keras_proxprop.keras_seams.train_step import kept

PACKAGE = pathlib.Path(keras_proxprop.__file__).parent

# What `keras_seams/train_step.py` is a copy of, with another tape.
TRAIN_STEP = """
def train_step(self, data):
    x, y, sample_weight = data_adapter_utils.unpack_x_y_sample_weight(data)
    with tf.GradientTape() as tape:
        if self._call_has_training_arg:
            y_pred = self(x, training=True)
        else:
            y_pred = self(x)
        loss = self._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)
        self._loss_tracker.update_state(loss_module.unscale_loss_for_distribution(loss), sample_weight=tf.shape(next((i for i in tree.flatten(x) if i is not None)))[0])
        if self.optimizer is not None:
            loss = self.optimizer.scale_loss(loss)
    if self.trainable_weights:
        trainable_weights = self.trainable_weights
        gradients = tape.gradient(loss, trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, trainable_weights))
    else:
        warnings.warn('The model does not have any trainable weights.')
    return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
"""  # noqa: E501
# Keras 3.10 and older take the first input as it is; ours passes over one that is `None`.
FIRST_INPUT = "next((i for i in tree.flatten(x) if i is not None))", "tree.flatten(x)[0]"


def test_keras_makes_the_training_step_that_ours_is_a_copy_of():
    step = kept.of_keras or inspect.unwrap(keras.Model.train_step)
    source = textwrap.dedent(inspect.getsource(step))
    known = (TRAIN_STEP, TRAIN_STEP.replace(*FIRST_INPUT))
    # Written as this version of Python writes it.
    assert ast.unparse(ast.parse(source)) in [ast.unparse(ast.parse(text)) for text in known]


def built_model():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Dense(2)

        def build(self, shape):
            self.inner.build(shape)

        def call(self, x):
            return self.inner(x)

    model = Subclassed()
    model.build((None, 3))
    model.compile("adam", loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


def test_layers_and_models_hold_what_their_public_names_do_not_say():
    model = built_model()
    assert model._flatten_layers(include_self=False) and model in model._flatten_layers()
    assert [v.name for v in model.inner._trainable_variables] == ["kernel", "bias"]
    assert model._trainable_variables == []
    assert model.inner._losses == []
    assert model._build_shapes_dict
    assert model._call_has_training_arg in (True, False)
    assert isinstance(model.inner.kernel._value, tf.Variable)


def test_a_batch_normalization_reads_its_momentum_in_every_call():
    layer = keras.layers.BatchNormalization()
    x = np.float32([[1.0], [3.0]])
    layer(x)
    object.__setattr__(layer, "momentum", tf.constant(0.5))
    layer(x, training=True)
    assert layer.moving_mean.numpy() == 1.0 and layer.moving_variance.numpy() == 1.0
    object.__setattr__(layer, "momentum", tf.constant(0.0))
    layer(x, training=True)
    assert layer.moving_mean.numpy() == 2.0 and layer.moving_variance.numpy() == 1.0


def test_an_optimizer_keeps_its_state_under_the_names_that_a_wrapper_forwards():
    optimizer = built_model().optimizer
    for name in (
        "_iterations",
        "_learning_rate",
        "_trainable_variables",
        "_trainable_variables_indices",
        "_variables",
        "_distribution_strategy",
    ):
        assert hasattr(optimizer, name), name
    assert list(optimizer._trainable_variables_indices.values()) == [0, 1]


def test_an_optimizer_adds_up_over_replicas_in_a_method_that_can_be_exchanged():
    method = keras.optimizers.Optimizer._backend_update_step
    names = list(inspect.signature(method).parameters)
    assert names == ["self", "grads", "trainable_variables", "learning_rate"]
    step = inspect.getsource(method)
    assert "self._all_reduce_sum_gradients(grads_and_vars)" in step


def test_a_call_of_a_function_says_itself_whether_its_graph_is_optimized():
    called = tf.function(tf.tanh).get_concrete_function(tf.TensorSpec([2]))

    @tf.function
    def calls(x):
        first = called(x)
        with not_optimized():
            return called(first)

    graph = calls.get_concrete_function(tf.TensorSpec([2])).graph
    operations = [op for op in graph.get_operations() if op.type.endswith("PartitionedCall")]
    configs = [ConfigProto.FromString(op.get_attr("config_proto")) for op in operations]
    plain = [c.graph_options.rewrite_options.disable_meta_optimizer for c in configs]
    assert plain == [False, True]
    np.testing.assert_allclose(calls(tf.ones(2)), np.tanh(np.tanh(np.ones(2))), rtol=1e-6)


@pytest.mark.skipif(not MULTI_OPTIMIZER, reason="MultiOptimizer came with Keras 3.15")
def test_a_multi_optimizer_keeps_the_function_that_chooses():
    chosen = keras.optimizers.OptimizerMap(keras.optimizers.Adam())
    assert keras.optimizers.MultiOptimizer(chosen)._optimizer_map is chosen


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_recurrent_layers_run_their_loop_in_a_method_that_can_be_exchanged(name):
    layer = getattr(keras.layers, name)
    names = list(inspect.signature(layer.inner_loop).parameters)
    assert names == ["self", "sequences", "initial_state", "mask", "training"]
    assert "self.inner_loop(" in inspect.getsource(keras.layers.RNN.call)
    assert "_maybe_config_dropout_masks" in inspect.getsource(keras.layers.RNN.call)
    assert hasattr(keras.layers.GRUCell, "get_dropout_mask")


@pytest.mark.parametrize("name", ["einsum", "matmul"])
def test_products_ask_the_backend_by_names_that_can_be_exchanged(name):
    from keras.src.backend import numpy as backend

    assert f"backend.numpy.{name}(" in inspect.getsource(getattr(keras.ops, name))
    assert callable(getattr(backend, name))


def private_names_of_keras():
    model = built_model()
    objects = [model, model.inner, model.optimizer, model.inner.kernel, keras.layers.LSTM(2)]
    names = {name for thing in objects for name in dir(thing)}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def uses(tree, inherits):
    """Yields line and name of every attribute in a module that may be another class's.

    Attributes of `self` are a class's own, unless it inherits from one of Keras's.
    """
    for node in ast.walk(tree):
        named = node.args[1:2] if isinstance(node, ast.Call) else []
        if named and isinstance(getattr(named[0], "value", None), str):
            # By `getattr`, for instance.
            yield node.lineno, named[0].value
        if isinstance(node, ast.Attribute):
            if inherits or getattr(node.value, "id", None) not in ("self", "cls"):
                yield node.lineno, node.attr


def test_no_private_name_of_keras_or_tensorflow_is_used_outside_of_the_seams():
    private = private_names_of_keras()
    found = []
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        if path.parent.name == "keras_seams":
            continue
        for node in ast.walk(tree):
            module = getattr(node, "module", None) or ""
            if module.startswith(("tensorflow.", "keras.src")):
                found.append(f"{path.name}: {module}")
        for line, name in uses(tree, inherits=path.parent.name == "optimizers"):
            if name in private or name == "__internal__":
                found.append(f"{path.name}:{line} {name}")
    assert not found, found
