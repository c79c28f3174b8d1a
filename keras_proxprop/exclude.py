"""The argument `exclude`: which layers it means, and how it is written into a config."""

import inspect
import weakref
from collections.abc import Collection
from typing import TypeAlias

import keras

_Layers: TypeAlias = str | type[keras.Layer] | keras.Layer
# What the argument may be.
Exclude: TypeAlias = _Layers | Collection[_Layers]

# The types that were excluded in this process. A copy that is made in the same process finds
# them here, without a registration.
_excluded_types: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


def check_exclude(exclude):
    """Returns `exclude` as a tuple of layer names, types and instances."""
    if isinstance(exclude, (str, type, keras.Layer)):
        exclude = (exclude,)
    if not isinstance(exclude, (tuple, list, set, frozenset)):
        raise TypeError(
            "Argument `exclude` must be a list of layer names, layer types or layers. "
            f"Received: exclude={exclude!r} (of type {type(exclude).__name__})"
        )
    for entry in exclude:
        if _is_layer_type(entry):
            _excluded_types[entry.__module__, entry.__name__] = entry
        elif not isinstance(entry, (str, keras.Layer)):
            raise TypeError(
                "Argument `exclude` must hold layer names, layer types or layers. "
                f"Received: exclude={entry!r} (of type {type(entry).__name__})"
            )
    return tuple(exclude)


def matches(entry, layer):
    """Returns whether an entry of `exclude` means this layer."""
    if isinstance(entry, str):
        return layer.name == entry
    if inspect.isclass(entry):
        return isinstance(layer, entry)
    return layer is entry


def exclude_config(exclude):
    """Returns `exclude` as plain data: layers and types are replaced by their names."""
    return [_entry_config(entry) for entry in exclude]


def exclude_from_config(exclude, custom_objects=None):
    """Returns `exclude` from what `exclude_config` returned, or from a single name.

    Types are looked up among Keras's own layers, among those that are registered with Keras,
    and among those that were excluded before. Nothing is imported, and nothing is called.
    """
    if not isinstance(exclude, (list, tuple)):
        return exclude
    return [_entry_from_config(entry, custom_objects) for entry in exclude]


def _entry_config(entry):
    if not _is_layer_type(entry):
        return entry.name if isinstance(entry, keras.Layer) else entry
    name = keras.saving.get_registered_name(entry)
    return {"module": entry.__module__, "class_name": entry.__name__, "registered_name": name}


def _entry_from_config(entry, custom_objects):
    if not isinstance(entry, dict):
        return entry
    name, module = entry.get("class_name"), entry.get("module")
    registered = entry.get("registered_name")
    found = keras.saving.get_registered_object(registered, custom_objects)
    if found is None and str(module).split(".")[0] == "keras":
        found = getattr(keras.layers, str(name), getattr(keras.models, str(name), None))
    if found is None:
        found = _excluded_types.get((module, name))
    if "config" in entry or not _is_layer_type(found):
        raise ValueError(
            "Argument `exclude` names a layer type that is not known here. Decorate the type "
            "with `@keras.saving.register_keras_serializable()`, or pass it to the loading "
            "function in `custom_objects`. "
            f"Received: exclude={entry!r}"
        )
    return found


def _is_layer_type(entry):
    return inspect.isclass(entry) and issubclass(entry, keras.Layer)
