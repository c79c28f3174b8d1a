"""Weights that the tapes recording a layer do not see, while all other tapes do."""

import contextlib
import threading
import weakref

import tensorflow as tf

_called = threading.local()


@contextlib.contextmanager
def recorded_by(tapes):
    """Context for the call of a layer that `tapes` record."""
    before, _called.tapes = recording_tapes(), weakref.WeakSet(tapes)
    try:
        yield
    finally:
        _called.tapes = before


def recording_tapes():
    """The `ImplicitGradientTape`s that record the layer being called, as a weak set."""
    return getattr(_called, "tapes", ())


@contextlib.contextmanager
def unseen():
    """Context in which the tapes that record the layer see nothing."""
    with contextlib.ExitStack() as stopped:
        for tape in list(recording_tapes()):
            stopped.enter_context(tf.GradientTape.stop_recording(tape))
        yield


def hidden(values):
    """Returns copies of tensors that the tapes recording the layer do not see."""
    with unseen():
        return [tf.identity(value) for value in values]
