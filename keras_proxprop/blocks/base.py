"""What a block is: one layer, seen as a map that is linear in its weights."""

import functools

import keras
import tensorflow as tf

from keras_proxprop.blocks.product import product
from keras_proxprop.hiding import hidden
from keras_proxprop.keras_seams.layers import is_rematerialized
from keras_proxprop.rows.arrays import working_dtype


class Block:
    """One layer as the least-squares problem of a proximal step in its weights.

    A subclass names the Keras classes that it understands in `layer_classes`. It says how
    the layer's preactivation `z` follows from its inputs and its kernel (`multiply`) and what
    the rows of `A` are (`rows`), with `A @ weights = z`. Where `z` or the weights are not
    matrices with the output columns last, it says how to turn them into such matrices.

    Args:
        layer: the built Keras layer.
        whole: the block whose `call` notes this map. Defaults to `None`: the block itself.
        reported_as: the layer under whose name reports show the block. Defaults to `None`:
            `layer`.

    Example:

    >>> class MyBlock(keras_proxprop.blocks.Block):
    ...     def multiply(self, inputs, kernel):
    ...         return keras.ops.matmul(inputs, kernel)
    ...     def rows(self, inputs, bias):
    ...         return keras_proxprop.rows.matrix.MatrixRows(inputs, bias)
    >>> keras_proxprop.register_block(MyLinearLayer, MyBlock)
    """

    layer_classes: tuple[type, ...] = ()
    # The attribute that holds `kernel`.
    kernel_name = "kernel"
    # The attributes that hold the other weights of the linear map, where the layer has them.
    other_names: tuple[str, ...] = ("bias",)
    # Whether the rows of later steps in a sequence depend on the outputs of earlier ones.
    in_loop = False
    # Whether layers that read the same inputs can share one Gram matrix, as further columns.
    shares_rows = True

    def __init__(self, layer, whole=None, reported_as=None):
        self.layer = layer
        self.whole = whole or self
        self.reported_as = reported_as or layer

    @classmethod
    def reason_against(cls, layer):
        """Returns why `layer` must step explicitly, or `None` where it need not."""
        if getattr(layer, "data_format", "channels_last") != "channels_last":
            return f"data_format is {layer.data_format!r}"
        if getattr(layer, "lora_enabled", False):
            return "LoRA is enabled"
        if getattr(layer, "quantization_mode", None) is not None:
            return f"quantized ({layer.quantization_mode})"
        if is_rematerialized(layer):
            return "rematerialized"
        why = reason_of_no_variable(layer, (cls.kernel_name, *cls.other_names))
        if why is None and not getattr(layer, cls.kernel_name).trainable:
            why = "its kernel is frozen"
        return why

    @staticmethod
    def takes(kind):
        """Returns whether `call` takes tensors of this kind: `None` for plain ones, "sparse",
        "ragged" or another. The layer steps explicitly on kinds that `call` does not take.
        """
        return kind is None

    @property
    def row_key(self):
        """A key that is equal for blocks whose rows are equal where their inputs are."""
        return type(self) if self.shares_rows else (type(self), id(self.layer))

    @property
    def kernel(self):
        """The variable that a least-squares problem of this block cannot do without."""
        return getattr(self.layer, self.kernel_name)

    @property
    def bias(self):
        """The variable that is added to every row of `z`, or `None`."""
        return self.layer.bias

    @property
    def weights(self):
        """The layer's trainable variables, kernel first."""
        bias = self.bias
        alone = bias is None or not bias.trainable
        return [self.kernel] if alone else [self.kernel, bias]

    @property
    def parts(self):
        """The blocks of a layer that makes several linear maps, one after the other."""
        return [self]

    def solves_for(self, weights):
        """Returns whether these `weights`, some of the block's, can be solved for alone."""
        return weights[0] is self.weights[0]

    @property
    def columns(self):
        """Number of output columns."""
        return self.weights[0].shape[-1]

    def matrix_shape(self, weight, rows):
        """Returns `(features, columns)` of the linear map that has `weight`."""
        return rows.features, self.columns

    def prepare(self, inputs):
        """Returns what was noted as inputs in the dtype for Gram matrices and solves."""
        return tf.cast(inputs, working_dtype(inputs.dtype))

    def outputs_as_matrix(self, z):
        """Returns a `z`, or a `∂L/∂z`, as `[count, columns]`."""
        return tf.reshape(z, [-1, self.columns])

    def weight_as_matrix(self, weight, value):
        """Returns a value of one of `weights` as a part of a direction, `[n, columns]`."""
        return tf.reshape(value, [-1, self.columns])

    def matrix_as_weight(self, weight, part):
        """Undoes `weight_as_matrix`."""
        return tf.reshape(part, weight.shape)

    def call(self, note, inputs, **_):
        """Does what the layer's own `call` does, and notes the inputs and `z` of its map.

        The product hides the weights from the tape. The loss's gradient with respect to the
        weights is then exactly the part that reaches them by other ways than `z`
        (regularizers, tied weights, `add_loss`, gradients of gradients).

        Args:
            note: `Note`. `note(inputs, z)` returns `z`, and `note.of_part(i)` is the note of
                one of `parts`. Where the inputs are known only after `z` has been used,
                `note.watch(z)` has to be called before.
            inputs: the layer's inputs.
        """
        values = self.values()
        weights, reads = [tf.convert_to_tensor(w) for w in values], ()
        if not all(getattr(w, "trainable", True) for w in values):
            # A frozen weight takes no step: tapes that watch it see the variable itself.
            pairs = zip(values, weights, hidden(weights))
            reads = [copy if v.trainable else w for v, w, copy in pairs]
        floating = inputs if inputs.dtype.is_floating else tf.cast(inputs, weights[0].dtype)
        return self.finish(note(inputs, product(self.linear, floating, weights, reads)))

    def values(self):
        """Returns what `linear` takes besides the inputs: the kernel, and maybe the bias."""
        return [self.kernel] if self.bias is None else [self.kernel, self.bias]

    def finish(self, z):
        """Returns the layer's outputs, from `z`."""
        return z if self.layer.activation is None else self.layer.activation(z)

    def linear(self, inputs, kernel, bias=None):
        """Returns `z`, computed as the layer computes it."""
        z = self.multiply(inputs, kernel)
        return z if bias is None else keras.ops.add(z, bias)

    def multiply(self, inputs, kernel):
        """Returns `z` without a bias."""
        raise NotImplementedError(
            f"{type(self).__name__} must define `multiply(inputs, kernel)`: the layer's "
            "outputs, without a bias. `keras_proxprop/blocks/dense.py` is an example."
        )

    def rows(self, inputs, bias):
        """Returns the rows `A` that `inputs` make, a `Rows`.

        Args:
            inputs: what the layer was called on, in float32 or float64.
            bias: whether the bias takes part (a column of ones).
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define `rows(inputs, bias)`: the rows of the layer's "
            "least-squares problem. `keras_proxprop/blocks/dense.py` is an example."
        )


class CompositeBlock(Block):
    """A layer that makes several linear maps, each of them a block in `parts`."""

    @functools.cached_property
    def parts(self):
        return self.make_parts()

    def make_parts(self):
        """Returns the blocks of the linear maps, which have `self.whole` for their `whole`."""
        raise NotImplementedError

    @property
    def weights(self):
        return [weight for part in self.parts for weight in part.weights]


def reason_of_no_variable(layer, names):
    """Returns why a layer has no block if attributes hold what is computed, or is constant."""
    for name in names:
        weight = getattr(layer, name, None)
        if weight is None or isinstance(weight, (bool, keras.Variable, tf.Variable)):
            continue
        return f"its {name} is no variable"
    return None
