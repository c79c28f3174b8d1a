"""Methods in which a layer differs from the class for which a block was written."""

import inspect

import keras

# What makes, builds, saves and describes a layer, and what computes only where blocks
# refuse the layer (LoRA, quantization) or call the layer's own method (states, dropout).
_NOT_REPLACED = frozenset(
    """
    build get_build_config build_from_config _get_input_channel
    get_config from_config compute_mask compute_output_shape compute_output_spec
    save_own_variables load_own_variables _check_load_own_variables
    variable_serialization_spec
    enable_lora _get_kernel_with_merged_lora _get_embeddings_with_merged_lora
    quantize quantized_build quantized_call _quantization_mode_error _int4_build _int4_call
    _int8_build _int8_call _float8_build _float8_call _gptq_build _gptq_call _awq_build
    _awq_call _set_quantization_info _update_kernel_initializer _get_kernel_scale_shape
    _adjust_scale_for_quant _adjust_scale_for_dequant
    get_initial_state reset_state reset_states _create_state_variables
    get_dropout_mask get_recurrent_dropout_mask _create_dropout_mask reset_dropout_mask
    reset_recurrent_dropout_mask
    """.split()
)


def assigned(layer, name):
    """Returns what was assigned to the layer itself under the name of a method, or `None`.

    The function with which a recorder shadows `call` does not count.
    """
    value = vars(layer).get(name)
    return value._proxprop_in_place_of if is_shadow(value) else value


def is_shadow(function):
    """Returns whether a recorder has put `function` in the place of a layer's `call`."""
    return inspect.isfunction(function) and "_proxprop_in_place_of" in vars(function)


def reason_of_own_method(layer, layer_class):
    """Returns why a block for `layer_class` does not stand for `layer`, or `None`.

    A block does what the methods of `layer_class` do. A subclass with another method, and a
    layer on which a method was assigned, may do anything.
    """
    for name in _methods(layer_class):
        if assigned(layer, name) is not None:
            return f"{name}() was assigned on the layer"
        own, known = (inspect.getattr_static(c, name) for c in (type(layer), layer_class))
        if own is not known:
            return f"{type(layer).__name__} overrides {name}()"
    return None


def _methods(layer_class):
    """Returns the names of the methods that a block replaces, `call` first."""
    found = ["call"]
    for base in layer_class.__mro__:
        if base not in keras.layers.Layer.__mro__:
            found += [name for name, value in vars(base).items() if _is_method(name, value)]
    return list(dict.fromkeys(found))


def _is_method(name, value):
    if name.startswith("__") or name in _NOT_REPLACED:
        return False
    return isinstance(value, (staticmethod, classmethod)) or inspect.isfunction(value)
