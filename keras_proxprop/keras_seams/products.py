"""Watches the products of `keras.ops` that a layer's own `call` runs.

Those functions call Keras's backend. While anybody watches, two functions of the backend are
replaced by functions that ask the watchers of their own thread. Nothing stays replaced when
the last watcher ends.
"""

import contextlib
import string
import threading

from keras.src.backend import numpy as backend

from keras_proxprop.in_thread import InThread

# The watchers of every thread, the last one first.
_watching = InThread(())
_lock = threading.Lock()
_originals: dict = {}
_all_watchers: list = []


@contextlib.contextmanager
def watched(seen):
    """Context in which `seen` is asked for every product of two operands in this thread.

    Args:
        seen: function of the operands and of the equation that `einsum` would have for them.
            It returns the product, or `None` where Keras is to make it.
    """
    _cover(seen)
    try:
        with _watching.set((seen, *_watching.value)):
            yield
    finally:
        _uncover(seen)


def _einsum(subscripts, *operands, **kwargs):
    product = None
    if isinstance(subscripts, str) and len(operands) == 2:
        product = _ask(subscripts, *operands)
    if product is None:
        return _originals["einsum"](subscripts, *operands, **kwargs)
    return product


def _matmul(x1, x2):
    equation = _equation(_shape(x1), _shape(x2))
    product = None if equation is None else _ask(equation, x1, x2)
    return _originals["matmul"](x1, x2) if product is None else product


def _ask(equation, *operands):
    answers = (seen(equation, *operands) for seen in _watching.value)
    return next((product for product in answers if product is not None), None)


def _shape(x):
    """Returns the shape of an operand, empty where its rank is not known or it is a list."""
    shape = getattr(x, "shape", ())
    return () if getattr(shape, "rank", 0) is None else tuple(shape)


def _equation(x, y):
    """Returns `matmul` of two shapes as an equation, or `None` where an axis is broadcast, or
    an operand is a vector."""
    if min(len(x), len(y)) < 2:
        return None
    if any(a != b for a, b in zip(x[-3::-1], y[-3::-1])):
        return None
    whole = string.ascii_lowercase[: max(len(x), len(y)) - 2]
    of_x, of_y = (whole[len(whole) - len(shape) + 2 :] for shape in (x, y))
    return f"{of_x}XY,{of_y}YZ->{whole}XZ"


def _cover(seen):
    with _lock:
        if not _all_watchers:
            _originals.update(einsum=backend.einsum, matmul=backend.matmul)
            backend.einsum, backend.matmul = _einsum, _matmul
        _all_watchers.append(seen)


def _uncover(seen):
    with _lock:
        _all_watchers.remove(seen)
        if not _all_watchers:
            backend.einsum, backend.matmul = _originals["einsum"], _originals["matmul"]
