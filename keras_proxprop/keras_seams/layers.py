"""What layers and models of Keras do not say of themselves in public."""


def own_variables(layer):
    """Returns a layer's trainable and frozen weights, without those of the layers in it."""
    # A wrapper may hold weights of what it wraps.
    inner = layer._flatten_layers(include_self=False)
    wrapped = {id(v) for other in inner for v in other._trainable_variables}
    return [v for v in layer._trainable_variables if id(v) not in wrapped]
