"""What layers and models of Keras hold, where Keras has no public way to ask."""

import keras
import tensorflow as tf


def layers_of(model, include_self=True):
    """Returns a model or layer and all layers in it, each once.

    `Model.layers` has only the first level, and `Layer` has no such attribute.
    """
    return list(model._flatten_layers(include_self=include_self))


def own_variables(layer):
    """Returns a layer's trainable and frozen weights, without those of the layers in it.

    `Layer.trainable_weights` also holds those of inner layers, and it leaves out frozen ones.
    """
    # A wrapper may hold weights of the layer that it wraps.
    wrapped = {
        id(variable)
        for inner in layers_of(layer, include_self=False)
        for variable in inner._trainable_variables
    }
    return [v for v in layer._trainable_variables if id(v) not in wrapped]


def built_shapes(model):
    """Returns the shapes that `build` of a subclassed model was called with, `{name: shape}`.

    It is empty where the model was built in another way.
    """
    return getattr(model, "_build_shapes_dict", None) or {}


def tell_known_sizes(layer, inputs):
    """Tells the tensor that a layer is called with the sizes of axes that the layer demands.

    Data from a generator, and images whose channels are not named, come without them.
    """
    axes = getattr(getattr(layer, "input_spec", None), "axes", None)
    if axes and tf.is_tensor(inputs) and inputs.shape.rank is not None:
        sizes = inputs.shape.as_list()
        for axis, length in axes.items():
            if sizes[axis] is None:
                sizes[axis] = length
        if sizes != inputs.shape.as_list():
            inputs.set_shape(sizes)


def renormalizes(layer):
    """Returns whether a BatchNormalization has `renorm`."""
    # The argument came with Keras 3.14.
    return getattr(layer, "renorm", False)


def training_argument(model):
    """Returns the argument by which a step calls a model, `{}` where it takes none."""
    return {"training": True} if model._call_has_training_arg else {}


def normalizes(layer, kwargs):
    """Returns whether a call of a layer is one of a `BatchNormalization` that takes the
    statistics of the batch."""
    if not isinstance(layer, keras.layers.BatchNormalization):
        return False
    # Keras refuses what is no tensor as a positional argument.
    return bool(layer.trainable and kwargs.get("training"))


def is_rematerialized(layer):
    """Returns whether the layer was made in a `keras.RematScope`."""
    return bool(getattr(layer, "_remat_mode", None))


def native(variable):
    """Returns the `tf.Variable` of a Keras variable.

    The public `value` may be a cast copy, or a tensor that a stateless scope has put in the
    place of the variable. For one replica's copy the variable of all replicas is returned.
    """
    variable = getattr(variable, "_value", variable)
    if isinstance(variable, tf.Variable):
        for holder in (variable, getattr(variable, "handle", None)):
            whole = getattr(holder, "_distributed_container", None)
            if whole is not None and whole() is not None:
                return whole()
    return variable
