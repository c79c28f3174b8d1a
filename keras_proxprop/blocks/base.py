"""What a block is: one layer, seen as a map that is linear in its weights."""

import tensorflow as tf


class Block:
    """One layer as the least-squares problem of a proximal step in its weights.

    A subclass names the Keras classes it understands in `layer_classes` and says
    how the layer's preactivation `z` follows from its inputs and weights
    (`linear`) and what the rows of `A` are (`rows`), with `A @ weights = z`.

    Args:
        layer: the built Keras layer.
    """

    layer_classes = ()

    def __init__(self, layer):
        self.layer = layer
        # What the rows depend on besides the inputs: equal for layers that can share them.
        self.geometry = type(self)

    @classmethod
    def reason_against(cls, layer):
        """Returns why `layer` must step explicitly, or `None` where it need not."""
        if not any(type(layer).call is known.call for known in cls.layer_classes):
            return f"{type(layer).__name__} overrides call()"
        if getattr(layer, "lora_enabled", False):
            return "LoRA is enabled"
        if getattr(layer, "quantization_mode", None) is not None:
            return f"quantized ({layer.quantization_mode})"
        if getattr(layer, "_remat_mode", None):
            return "rematerialized"
        if not layer._kernel.trainable:
            return "its kernel is frozen"
        return None

    @property
    def weights(self):
        """The layer's trainable variables, kernel first."""
        layer = self.layer
        bias = layer.bias if layer.use_bias and layer.bias.trainable else None
        return [layer._kernel] if bias is None else [layer._kernel, bias]

    def call(self, note, inputs, **_):
        """Does what the layer's own `call` does, with its linear map's ends noted.

        The product hides the weights from the tape: what the loss's gradient with respect
        to them then holds is exactly the part that reaches them by other ways than `z`
        (regularizers, tied weights, `add_loss`, gradients of gradients).

        Args:
            note: function of `(inputs, z)` that returns `z`.
            inputs: the layer's inputs.
        """
        layer = self.layer
        weights = [layer.kernel] + ([layer.bias] if layer.use_bias else [])
        weights = [tf.convert_to_tensor(w) for w in weights]

        @tf.custom_gradient
        def product(inputs):
            def gradient(d):
                # By the weights themselves: a gradient of this gradient reaches them.
                with tf.GradientTape() as tape:
                    tape.watch(inputs)
                    z = self.linear(inputs, *weights)
                return tape.gradient(z, inputs, d)

            return self.linear(inputs, *map(tf.stop_gradient, weights)), gradient

        floating = inputs if inputs.dtype.is_floating else tf.cast(inputs, weights[0].dtype)
        z = note(inputs, product(floating))
        return z if layer.activation is None else layer.activation(z)

    def linear(self, inputs, kernel, bias=None):
        """Returns `z`, computed as the layer computes it."""
        raise NotImplementedError

    def rows(self, inputs, bias):
        """Returns the rows `A` that `inputs` make, a `Rows`.

        Args:
            inputs: what the layer was called on, in float32 or float64.
            bias: whether the bias takes part (a column of ones).
        """
        raise NotImplementedError
