"""The call of a model on which a summary reports: the types of its inputs."""

import keras
import tensorflow as tf

from keras_proxprop.keras_seams import recording
from keras_proxprop.keras_seams.layers import built_shapes, layers_of, training_argument

# What `fit` takes by default.
_KERAS_BATCH_SIZE = 32
# The length that is assumed for an axis of unknown length.
_NOMINAL_LENGTH = 64
_SPECS = tf.TensorSpec, tf.SparseTensorSpec, tf.RaggedTensorSpec


def nominal_batch_size(model):
    """Returns the batch size that a model is made for, that of `fit` where it takes any."""
    fixed = [x.shape[0] for x in keras.tree.flatten(getattr(model, "inputs", None) or [])]
    for layer in layers_of(model):
        # A stateful layer keeps what it has for every item of a batch.
        if getattr(layer, "stateful", False):
            states = keras.tree.flatten(getattr(layer, "states", None) or [])
            fixed += [state.shape[0] for state in states if len(state.shape)]
    return next((size for size in fixed if size is not None), _KERAS_BATCH_SIZE)


def call_of(model, batch_size):
    """Returns `args` and `kwargs` of a call of the model in `fit`, tensors as `tf.TypeSpec`,
    and whether `fit` knows the batch size when it traces a step."""
    training = training_argument(model)

    def spec(shape, dtype, sparse=False):
        lengths = [_NOMINAL_LENGTH if length is None else length for length in shape[1:]]
        kind = tf.SparseTensorSpec if sparse else tf.TensorSpec
        return kind([batch_size, *lengths], dtype)

    def built_for(shapes):
        if isinstance(shapes, dict):
            return {name: built_for(shape) for name, shape in shapes.items()}
        if any(isinstance(shape, (tuple, list, dict)) for shape in shapes):
            return [built_for(shape) for shape in shapes]
        return spec(shapes, model.input_dtype)

    def is_batch(x):
        return isinstance(x, _SPECS) and x.shape.rank

    def resized(x):
        if not is_batch(x):
            return x
        if isinstance(x, tf.RaggedTensorSpec):
            return tf.RaggedTensorSpec([batch_size, *x.shape[1:]], x.dtype, x.ragged_rank)
        return spec(x.shape, x.dtype, isinstance(x, tf.SparseTensorSpec))

    def of_input(x):
        if getattr(x, "ragged", False):
            return tf.RaggedTensorSpec([batch_size, *x.shape[1:]], x.dtype, x.ragged_rank)
        return spec(x.shape, x.dtype, x.sparse)

    last = recording.last_call.get(model, ((), {}))
    batches = {x.shape[0] for x in tf.nest.flatten(last) if is_batch(x)}
    batch_known = bool(batches) and None not in batches
    if getattr(model, "inputs", None):
        inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        return (keras.tree.map_structure(of_input, inputs),), training, batch_known
    if model in recording.last_call:
        args, kwargs = tf.nest.map_structure(resized, last)
        # Its last call may have been one of `evaluate`.
        return args, {**kwargs, **(training if len(args) == 1 else {})}, batch_known
    shapes = built_shapes(model)
    if not shapes:
        raise ValueError(
            f"The input shapes of model {model.name!r} are not known: build it with "
            "`model.build(input_shape)`, or train it for a step, before `summary`."
        )
    return tuple(built_for(shape) for shape in shapes.values()), training, batch_known
