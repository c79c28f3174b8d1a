"""Proximal Backpropagation for Keras: implicit steps for every linear layer.

    model.compile(optimizer=keras_proxprop.ProxProp(), loss=..., metrics=[...])
    model.fit(x, y)

Source: Frerix, Möllenhoff, Moeller, Cremers, *Proximal Backpropagation*,
ICLR 2018, arXiv:1706.04638.
"""

import os as _os
import warnings as _warnings

import keras as _keras

if _keras.__version__.startswith("2."):
    raise ImportError(
        f"keras_proxprop needs Keras 3, and Keras {_keras.__version__} is installed here: "
        "call `pip install --upgrade keras tensorflow`."
    )
if _keras.backend.backend() != "tensorflow":
    raise ImportError(
        "keras_proxprop needs the TensorFlow backend of Keras, and Keras runs on "
        f"{_keras.backend.backend()!r} here. Set the environment variable "
        "KERAS_BACKEND=tensorflow before Keras is first imported."
    )

if _os.environ.get("TF_USE_LEGACY_KERAS") in ("1", "true", "True"):
    _warnings.warn(
        "keras_proxprop trains models of `keras`, and `tf.keras` is another package here, "
        "tf_keras, since the environment variable TF_USE_LEGACY_KERAS is set. Make models "
        "with `import keras`, or unset the variable.",
        stacklevel=2,
    )

from keras_proxprop import solvers
from keras_proxprop._version import __version__
from keras_proxprop.blocks import register_block
from keras_proxprop.memory.curvature_memory import CurvatureMemory
from keras_proxprop.optimizers.proxprop import ProxProp
from keras_proxprop.optimizers.row_adam import RowAdam
from keras_proxprop.optimizers.schedule_free_adam import ScheduleFreeAdam
from keras_proxprop.reports.step_monitor import StepMonitor
from keras_proxprop.reports.summary import summary
from keras_proxprop.tape import ImplicitGradientTape

__all__ = [
    "CurvatureMemory",
    "ImplicitGradientTape",
    "ProxProp",
    "RowAdam",
    "ScheduleFreeAdam",
    "StepMonitor",
    "__version__",
    "register_block",
    "solvers",
    "summary",
]
