"""Notes, during one forward pass, what the supported layers' linear maps saw.

While a `Recorder` is active, the layers' `call` is shadowed on the instance by a function
that asks the recorder of its own thread: other threads, and replicas of one model in
their own threads, run the layers as they are. Nothing stays when the recorder ends.
"""

import contextlib
import functools
import threading
import weakref

import tensorflow as tf

from keras_proxprop.arguments import check_iterations
from keras_proxprop.blocks.recurrent.layers import cells_of
from keras_proxprop.hiding import recorded_by
from keras_proxprop.in_thread import InThread
from keras_proxprop.keras_seams.batch_size import items_in
from keras_proxprop.keras_seams.kinds import kind_of_tensors, spec_of
from keras_proxprop.keras_seams.layers import layers_of, normalizes, tell_known_sizes
from keras_proxprop.keras_seams.moving_statistics import keeping_up
from keras_proxprop.keras_seams.notes import Note
from keras_proxprop.keras_seams.own_methods import assigned, is_shadow
from keras_proxprop.keras_seams.surroundings import (
    accumulators_around,
    has_other_values,
    loops_around,
    recording_is_stopped,
)

# The active recorders of every thread, outermost first.
_active = InThread(())
# The arguments of every model's last recorded call, with tensors as `tf.TypeSpec`s.
last_call: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_shadow_lock = threading.Lock()
_shadows: dict = {}


class Recorder:
    """Records the calls of a model's layers in the graph that it was started in.

    Args:
        model: `keras.Model`.
        blocks: function of a layer that returns its block, or `None`.
        tape: the `tf.GradientTape` that records the same calls, or `None`.
        iterations: number of training steps before this pass, or `None`: it is not one of a
            training step.
        excludes: function of a layer that returns whether it is trained as without the
            package. Defaults to that for none.
    """

    def __init__(self, model, blocks, tape=None, iterations=None, excludes=lambda _: False):
        self.model = model
        self.block = blocks
        self.iterations, self._excludes = check_iterations(iterations), excludes
        # A weak reference: the tape owns its recorder, and both hold tensors of the pass.
        self._tape = tape and weakref.ref(tape)
        self._shadowed = {}
        self.clear()

    @property
    def tape(self):
        return self._tape and self._tape()

    def clear(self):
        """Forgets what was noted."""
        self.uses = []
        # The calls of the model, and those of them that no layer is noted in.
        self.model_calls, self.other_calls = [], []
        self.weighted = []
        # What batch normalizations were called with, by its ids, and how many uses were
        # noted until then.
        self.normalized, self.normalizations = {}, []
        self.elsewhere = {}
        # Why calls of layers with blocks were not noted, by the ids of the layers.
        self.not_taken = {}

    def start(self):
        self.graph = _current_graph()
        self._loops, self._accumulators = loops_around(self.graph), accumulators_around()
        _active.value += (self,)
        self._shadow(self.model)

    @contextlib.contextmanager
    def paused(self):
        """Context in which nothing is noted."""
        _active.value = self._others()
        try:
            yield
        finally:
            _active.value += (self,)

    def stop(self):
        if self in _active.value:
            _active.value = self._others()
            for layer in self._shadowed.values():
                _uncover(layer)
            self._shadowed.clear()

    def _others(self):
        return tuple(recorder for recorder in _active.value if recorder is not self)

    def enter(self, layer):
        """Prepares for a call of `layer`; returns whether its tensors can be used later."""
        # A model or layer may have built its sublayers only now, in its call.
        self._shadow(layer)
        if _current_graph() is self.graph and loops_around(self.graph) == self._loops:
            return True
        # A scratch graph (Keras building the model), a graph inside this one (tf.function,
        # control flow), or the body of a `tf.vectorized_map`: its tensors cannot be used
        # outside of it.
        self.elsewhere[id(layer)] = layer
        return False

    def reason_against(self, layer, kind):
        """Returns why a call on inputs of this kind cannot be noted, or `None`."""
        if not self.block(layer).takes(kind):
            return f"its inputs are {kind}"
        return self._reason_of_place(layer)

    def _reason_of_place(self, layer):
        """Returns why no call of a layer or model can be noted in this place, or `None`."""
        if has_other_values(layer):
            return "called with other values than those of its weights"
        if accumulators_around() > self._accumulators:
            return "called in a ForwardAccumulator"
        if recording_is_stopped():
            return "called where tapes record nothing, as in keras.remat"
        return None

    def watch(self, z):
        if self.tape is not None:
            self.tape.watch(z)

    def leave(self, layer, args, kwargs, outputs):
        if layer is self.model:
            self.model_calls.append((args, kwargs, outputs))
            if self._reason_of_place(layer):
                self.other_calls.append(self.model_calls[-1])
            last_call[layer] = tf.nest.map_structure(spec_of, (args, kwargs))
            return
        layer = weighted_layer(layer)
        if layer is not None:
            self.weighted.append((layer, outputs))

    @property
    def batch_size(self):
        """The number of items that the model was called with, `None` where that is not known
        at trace time, or the model as a whole was not called."""
        return next((items_in(call[:2]) for call in self.model_calls), None)

    def counts_steps(self, layer):
        """Returns whether a call of a layer is one of a step whose number is known."""
        return self.iterations is not None and not self._excludes(layer)

    def owns(self, layer):
        return id(layer) in self._shadowed

    def _shadow(self, root):
        for layer in layers_of(root):
            if id(layer) not in self._shadowed:
                self._shadowed[id(layer)] = layer
                _cover(layer)


def _call(layer, original, args, kwargs):
    """Runs a layer's call for the recorders of this thread that it belongs to."""
    owners = [r for r in _active.value if r.owns(layer)]
    inputs, iterations = args[0] if args else kwargs.get("inputs"), None
    normalizing = normalizes(layer, kwargs)
    if normalizing:
        iterations = next((r.iterations for r in owners if r.counts_steps(layer)), None)
    owners = [r for r in owners if r.enter(layer)]
    noting = [r for r in owners if r.block(layer) is not None]
    kind = kind_of_tensors((args, kwargs)) if noting else None
    reasons = [r.reason_against(layer, kind) for r in noting]
    if any(reasons):
        # The recorders that a call is noted for run it together.
        for recorder in noting:
            recorder.not_taken[id(layer)] = next(filter(None, reasons))
        noting = []
    if noting:
        blocks = [r.block(layer) for r in noting]
        tell_known_sizes(layer, inputs)
    with keeping_up(layer, inputs, iterations):
        if noting:
            with recorded_by(r.tape for r in noting if r.tape is not None):
                outputs = blocks[0].call(Note(noting, blocks), *args, **kwargs)
        else:
            outputs = original(*args, **kwargs)
    for recorder in owners:
        if normalizing:
            recorder.normalized[id(inputs)] = inputs
            recorder.normalizations.append(len(recorder.uses))
        recorder.leave(layer, args, kwargs, outputs)
    return outputs


def weighted_layer(layer):
    """Returns the layer whose weights make a layer's outputs, `None` where it has none."""
    # For a recurrent layer, its (last) cell.
    layer = cells_of(layer)[-1]
    return layer if getattr(layer, "_trainable_variables", None) else None


def nothing_else_recorded():
    """Context in which no recorder of this thread notes anything that was started before."""
    return _active.set(())


def _cover(layer):
    with _shadow_lock:
        if id(layer) in _shadows:
            _shadows[id(layer)] += 1
            return
        _shadows[id(layer)] = 1
        original = layer.call

        @functools.wraps(original)
        def call(*args, **kwargs):
            return _call(layer, original, args, kwargs)

        call._proxprop_in_place_of = vars(layer).get("call")
        # Not by Keras's own __setattr__, which would track the function.
        object.__setattr__(layer, "call", call)


def _uncover(layer):
    with _shadow_lock:
        _shadows[id(layer)] -= 1
        if not _shadows[id(layer)]:
            del _shadows[id(layer)]
            shadow, before = vars(layer).get("call"), assigned(layer, "call")
            # What was assigned while the shadow was there stays.
            if is_shadow(shadow):
                object.__delattr__(layer, "call")
                if before is not None:
                    object.__setattr__(layer, "call", before)


def _current_graph():
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
