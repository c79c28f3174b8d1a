import gc
import os

# Before TensorFlow is first imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Every core has a worker: threads of one would wait for the other's.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import hypothesis
import keras
import pytest
from tensorflow.python.autograph.core import config as autograph
from tensorflow.python.eager import context
from tensorflow.python.framework.ops import gradient_registry

# A user's step meets no function of the package that AutoGraph rewrites, as
# `citizen/test_custom_loops.py` shows. To rewrite those that tests call took a quarter of the
# suite's time.
autograph.CONVERSION_RULES = (
    autograph.DoNotConvert("keras_proxprop"),
    *autograph.CONVERSION_RULES,
)

# A seed and a cleared session would forget the kernels of all operations. To make these anew
# took a seventh of the suite's time. What is random in Keras keeps its state in variables.
_forget_kernels = context.pywrap_tfe.TFE_ContextClearCaches
context.pywrap_tfe.TFE_ContextClearCaches = lambda handle: None

# A failing example is shown as it was found: to look for a smaller one takes minutes.
hypothesis.settings.register_profile(
    "suite",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("suite")


def pytest_collection_finish():
    """Garbage collections leave out what importing has made, most of all objects."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure():
    """Spares pytest's last garbage collection, of all that TensorFlow has made.

    A worker of pytest-xdist that takes more than five seconds to end interrupts itself.
    """
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _kernels_of_a_module():
    """Kernels hold the graphs of steps: kept for the whole suite they take gigabytes."""
    yield
    handle = context.context()._context_handle
    if handle is not None:
        _forget_kernels(handle)


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)
    yield
    # Without its garbage collection, which takes longer than most tests.
    keras.backend.clear_session(free_memory=False)
    # TensorFlow keeps the graph of every step here, Adam's too: gigabytes after some tests.
    kept = gradient_registry._registry
    for name in [name for name in kept if name.startswith("CustomGradient-")]:
        del kept[name]


@pytest.fixture
def float64():
    """Layers, losses and metrics of the test are in float64."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
