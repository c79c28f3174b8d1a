"""What is exported needs nothing of this package, and holds nothing of the optimizer."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close
from processes import python
from scenarios import RESUMED, compiled, data, fit, mlp, remembering, with_both

# Runs what was exported, where this package cannot be imported.
SERVE = """
import json, sys
sys.modules["keras_proxprop"] = None
import numpy as np
way, *paths = sys.argv[1:]
x = np.linspace(-1, 1, 2 * 6 * 6, dtype="float32").reshape(2, 6, 6, 1)


def outputs(path):
    if way == "onnx":
        import onnxruntime
        session = onnxruntime.InferenceSession(path)
        return session.run(None, {session.get_inputs()[0].name: x})[0]
    import tensorflow as tf
    if way == "tflite":
        serve = tf.lite.Interpreter(path).get_signature_runner()
        names = serve.get_input_details()
    else:
        serve = tf.saved_model.load(path).signatures["serving_default"]
        names = serve.structured_input_signature[1]
    (y,) = serve(**{name: tf.constant(x) for name in names}).values()
    return np.asarray(y)


print(json.dumps([outputs(path).tolist() for path in paths]))
"""


def to_tflite(model, path):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    with open(path, "wb") as file:
        file.write(converter.convert())


WAYS = {
    "export": lambda model, path: model.export(path, verbose=False),
    "saved_model": tf.saved_model.save,
    "tflite": to_tflite,
    "onnx": lambda model, path: model.export(path, format="onnx", verbose=False),
}


def trained(new):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    images = keras.Input((6, 6, 1))
    x = layers.Conv2D(3, 3, activation="relu", name="conv")(images)
    model = keras.Model(images, layers.Dense(2)(layers.Dense(4)(layers.Flatten()(x))))
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 1))
    fit(compiled(model, new()), x, x[:, 0, :2, 0])
    return model


# Keras asks NumPy for a name that it has no longer.
@pytest.mark.filterwarnings("ignore:In the future `np.object`")
@pytest.mark.parametrize("way", WAYS)
def test_the_exported_model_gives_the_same_outputs_without_this_package(way, tmp_path):
    if way == "onnx":
        pytest.importorskip("tf2onnx")
        pytest.importorskip("onnxruntime")
    x = np.linspace(-1, 1, 2 * 6 * 6, dtype="float32").reshape(2, 6, 6, 1)
    paths, expected = [], []
    for name, new in RESUMED.items():
        model = trained(new)
        paths.append(str(tmp_path / name))
        WAYS[way](model, paths[-1])
        expected.append(model(x))
    found = json.loads(python(SERVE, way, *paths).splitlines()[-1])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@with_both
def test_an_export_holds_no_variable_of_the_optimizer(new, tmp_path):
    model = trained(new)
    model.export(tmp_path, verbose=False)
    saved = tf.train.list_variables(str(tmp_path / "variables" / "variables"))
    shapes = {tuple(shape) for name, shape in saved if name.endswith("VARIABLE_VALUE")}
    # Iterations, learning rate and tau are scalars, which the model has none of.
    assert shapes == {tuple(v.shape) for v in model.variables}
    assert () in {tuple(v.shape) for v in model.optimizer.variables}


def as_trained(model, folder):
    return model


def loaded(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


@pytest.mark.parametrize("given", [as_trained, loaded])
def test_a_module_that_holds_a_model_with_memory_is_saved_with_it(given, tmp_path):
    model = compiled(mlp(), remembering())
    fit(model)
    module, x = tf.Module(), data()[0]
    module.model = given(model, tmp_path)
    spec = tf.TensorSpec([None, x.shape[1]])
    module.serve = tf.function(lambda x: module.model(x), [spec], autograph=False)
    tf.saved_model.save(module, tmp_path / "module")
    found = tf.saved_model.load(tmp_path / "module")
    assert_close(found.serve(x), model(x), 1e-5)
    # It trains on afterwards.
    fit(module.model)
