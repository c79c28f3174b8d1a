"""Weights that the tapes recording a layer do not see, while all other tapes do."""

import contextlib
import weakref

import tensorflow as tf

from keras_proxprop.in_thread import InThread

_recording = InThread(())


def recorded_by(tapes):
    """Context for the call of a layer that `tapes` record."""
    return _recording.set(weakref.WeakSet(tapes))


def recording_tapes():
    """The `ImplicitGradientTape`s that record the layer being called, as a weak set."""
    return _recording.value


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
