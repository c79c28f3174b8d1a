"""What `StepMonitor` should note of a layer."""

import numpy as np
import tensorflow as tf
from helpers import inputs_of

STATISTICS = ("cosine", "direction_norm", "gradient_norm", "residual")
STATISTICS += ("rows", "features", "seconds")


def expected_statistics(model, layer, x, y, tau):
    """Cosine, norms, residual, rows and features, written out."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(y - model(x)))
    g = np.vstack(tape.gradient(loss, [layer.kernel, layer.bias])).astype("float64")
    a = inputs_of(layer, model, x)
    a = np.column_stack([a, np.ones(len(a))]).astype("float64")
    p = np.linalg.solve(a.T @ a + np.eye(a.shape[1]) / tau, g)
    norms = np.linalg.norm(p), np.linalg.norm(g)
    return [np.sum(p * g) / np.prod(norms), *norms, 0, *a.shape]
