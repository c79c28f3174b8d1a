"""What kinds of tensors a call of a layer or model is made with."""

import tensorflow as tf

_KINDS = {tf.SparseTensor: "sparse", tf.RaggedTensor: "ragged"}


def spec_of(x):
    """Returns the `tf.TypeSpec` of a tensor of any kind, and any other object unchanged."""
    return tf.type_spec_from_value(x) if tf.is_tensor(x) else x


def kind_of_tensors(nest):
    """Returns the kind of tensors that are in a nest of arguments, `None` for plain ones."""
    for x in tf.nest.flatten(nest):
        if tf.is_tensor(x) and not isinstance(x, (tf.Tensor, tf.Variable)):
            return _KINDS.get(type(x), type(x).__name__)
    return None


def kind_of_call(x):
    """Returns a key of a nest of arguments: what is no tensor, and the kinds of tensors.

    Lengths of axes do not count: sequences have many.
    """
    if isinstance(x, dict):
        return dict, *((name, kind_of_call(value)) for name, value in x.items())
    if isinstance(x, (list, tuple)):
        return type(x), *map(kind_of_call, x)
    x = spec_of(x)
    if isinstance(x, tf.TypeSpec) or hasattr(x, "shape") and hasattr(x, "dtype"):
        rank = tf.TensorShape(getattr(x, "shape", None)).rank
        return type(x), str(getattr(x, "dtype", None)), rank
    try:
        hash(x)
    except TypeError:
        return type(x), repr(x)
    return type(x), x
