"""Layers whose own `call` does more than multiply."""

import tensorflow as tf
from keras import layers, ops


class Strict(layers.Layer):
    """Multiplies as TensorFlow does: only numbers of one dtype."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 4))
        self.b = self.add_weight(shape=(4,))

    def call(self, x):
        return tf.matmul(x, tf.convert_to_tensor(self.w)) + tf.convert_to_tensor(self.b)


class Casting(Strict):
    """Casts to its own compute dtype by hand."""

    def call(self, x):
        return tf.cast(tf.matmul(tf.cast(x, self.compute_dtype), self.w.value), "float32")


class Watched(layers.Layer):
    """Notes in which state of Keras's its call, and that of a layer in it, is run."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.inner = Witness(self.seen)
        self.supports_masking = True

    def build(self, shape):
        self.w = self.add_weight(shape=shape[-1:], initializer="ones")

    def call(self, x, training=None, mask=None):
        self.seen.append((training, mask is None, x.dtype, tf.convert_to_tensor(self.w).dtype))
        return self.inner(x) * self.w


class Witness(layers.Layer):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen
        self.supports_masking = True

    def call(self, x, training=None):
        masked = getattr(x, "_keras_mask", None) is not None
        self.seen.append((training, masked, x.dtype))
        return x


class Dropping(layers.Layer):
    """Linear in its weights, with a dropout of its own before them."""

    def __init__(self):
        super().__init__()
        self.dropout = layers.Dropout(0.5, seed=1)

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 4))

    def call(self, x):
        self.dropped = self.dropout(x)
        return ops.matmul(self.dropped, self.w)


class Averaging(layers.Layer):
    """Counts its calls, in a variable, and scales by a running mean."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 4))
        self.mean = self.add_weight(shape=(), initializer="ones", trainable=False)

    def call(self, x):
        mean = self.mean.value
        self.mean.assign(mean * 0.5 + 1)
        return ops.matmul(x, self.w) * mean


class Several(layers.Layer):
    """Takes several tensors and returns several, and what is no tensor of floats."""

    def build(self, shape, *_):
        self.w = self.add_weight(shape=(shape[-1], 4))
        self.v = self.add_weight(shape=(shape[-1], 2))

    def call(self, x, context, ids=None, scale=1.0):
        first = scale * ops.matmul(x, self.w)
        return {"first": first, "second": [ops.matmul(context, self.v), ids, None]}
