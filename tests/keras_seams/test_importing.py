"""What the import of the package does, and which Keras it refuses."""

import os
import subprocess
import sys
import textwrap

import pytest


def python(code, **environment):
    """Runs code in an interpreter of its own; returns the finished process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_importing_changes_nothing_and_the_first_proxprop_changes_train_step_once():
    done = python(
        """
        import keras, numpy as np

        x = np.random.default_rng(0).normal(size=(16, 4))

        def adam_weights():
            keras.utils.set_random_seed(0)
            model = keras.Sequential([keras.layers.Dense(3, "relu"), keras.layers.Dense(1)])
            model.compile("adam", loss="mse", jit_compile=False)
            model.fit(x, x[:, :1], batch_size=8, verbose=0)
            return model.get_weights()

        before, names = keras.Model.train_step, set(vars(keras.Model))
        code = before.__code__
        untouched = adam_weights()
        import keras_proxprop
        assert keras.Model.train_step is before and before.__code__ is code

        keras_proxprop.ProxProp()
        first = before.__code__
        assert keras.Model.train_step is before and first is not code
        keras_proxprop.ProxProp()
        assert keras.Model.train_step is before and before.__code__ is first

        assert set(vars(keras.Model)) == names
        assert all((a == b).all() for a, b in zip(adam_weights(), untouched))
        """
    )
    assert done.returncode == 0, done.stderr


def test_another_backend_is_refused_with_what_to_set():
    # Whether or not the backend itself is installed: Keras only says which one it runs on.
    done = python(
        """
        import keras

        for backend in ("torch", "jax", "numpy"):
            keras.backend.backend = lambda: backend
            try:
                import keras_proxprop
            except ImportError as error:
                assert "KERAS_BACKEND=tensorflow" in str(error), error
                assert repr(backend) in str(error), error
            else:
                raise AssertionError(backend)
        """
    )
    assert done.returncode == 0, done.stderr


def test_keras_2_is_refused_with_what_to_install():
    done = python(
        """
        import keras

        keras.__version__ = "2.15.0"
        try:
            import keras_proxprop
        except ImportError as error:
            assert "needs Keras 3" in str(error) and "2.15.0" in str(error), error
        else:
            raise AssertionError
        """
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("value, said", [("1", True), ("0", False)])
def test_tf_keras_in_the_place_of_keras_is_told_of(value, said):
    done = python(f"""
        import os, warnings

        # After TensorFlow's own look at it: tf_keras need not be installed.
        import tensorflow
        os.environ["TF_USE_LEGACY_KERAS"] = "{value}"
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            import keras_proxprop
        assert any("TF_USE_LEGACY_KERAS" in str(w.message) for w in found) == {said}
        """)
    assert done.returncode == 0, done.stderr
