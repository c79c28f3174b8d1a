"""Recurrent layers: their loops run here, one cell after the other, to be recorded."""

import functools

import keras
import tensorflow as tf

from keras_proxprop.blocks.base import CompositeBlock
from keras_proxprop.blocks.recurrent.cells import FROZEN, LSTMCellBlock, SimpleRNNCellBlock
from keras_proxprop.blocks.recurrent.gru import GRUCellBlock
from keras_proxprop.keras_seams.own_methods import reason_of_own_method

_CELLS = {
    cell_class: block
    for block in (SimpleRNNCellBlock, LSTMCellBlock, GRUCellBlock)
    for cell_class in block.layer_classes
}


class RecurrentBlock(CompositeBlock):
    """`SimpleRNN`, `LSTM`, `GRU`, and `RNN` of their cells or of a stack of these.

    A stack is run cell by cell, each cell over the whole sequence: at every step a cell reads
    the state of the cell before it at the same step.
    """

    layer_classes = (
        keras.layers.RNN,
        keras.layers.SimpleRNN,
        keras.layers.LSTM,
        keras.layers.GRU,
    )

    @functools.cached_property
    def cells(self):
        """The blocks of the cells, in the order in which they are run."""
        cells = cells_of(self.layer)
        # A layer's only cell is reported by the layer's name.
        name = self.reported_as if len(cells) == 1 else None
        return [_CELLS[_cell_class(cell)](cell, self.whole, name) for cell in cells]

    def make_parts(self):
        return [part for cell in self.cells for part in cell.parts]

    @classmethod
    def reason_against(cls, layer):
        for stack in _stacks_of(layer.cell):
            why = reason_of_own_method(stack, keras.layers.StackedRNNCells)
            if why is not None:
                return why
        for cell in cells_of(layer):
            cell_class = _cell_class(cell)
            if cell_class is None:
                return f"no block for {type(cell).__name__}"
            why = reason_of_own_method(cell, cell_class)
            why = why or _CELLS[cell_class].reason_against(cell)
            if why and why != FROZEN:
                return why
        return None if layer.trainable_variables else FROZEN

    def call(self, note, sequences, initial_state=None, mask=None, training=False):
        def inner_loop(sequences, initial_state, mask, training=False):
            return self._inner_loop(note, sequences, initial_state, mask, training)

        # The layer's own code does all else.
        return keras.layers.RNN.call(
            _WithLoop(self.layer, inner_loop),
            sequences,
            initial_state=initial_state,
            mask=mask,
            training=training,
        )

    def _inner_loop(self, note, sequences, initial_state, mask, training):
        layer = self.layer
        x, given = _time_first(sequences), None
        if mask is not None:
            mask = tf.cast(keras.tree.flatten(mask)[0], tf.bool)
            given = mask = _time_first(mask if len(mask.shape) == 3 else mask[..., None])
        if layer.go_backwards:
            x, mask = (None if t is None else tf.reverse(t, [0]) for t in (x, mask))
        states, last = keras.tree.flatten(initial_state), []
        notes = [note.of_part(i) for i in range(len(self.parts))]
        for cell in self.cells:
            count, parts = len(keras.tree.flatten(cell.layer.state_size)), len(cell.parts)
            own, states = states[:count], states[count:]
            new, x = cell.run(notes[:parts], x, own, mask, training, layer.unroll)
            last += new
            notes = notes[parts:]
        output = x[-1]
        if mask is not None:
            # Before its first step an output is zero, whatever the initial state.
            x = _where(_any_so_far(mask), x)
            output = x[-1]
            if layer.zero_output_for_mask:
                output = _where(mask[-1], output)
                # In an unrolled loop Keras does not reverse this mask.
                x = _where(given if layer.unroll else mask, x)
        return output, _time_first(x), keras.tree.pack_sequence_as(initial_state, last)


class _WithLoop:
    """A recurrent layer with another `inner_loop`, which makes dropout masks of its own."""

    def __init__(self, layer, inner_loop):
        self._layer = layer
        self.inner_loop = inner_loop

    def __getattr__(self, name):
        return getattr(self._layer, name)

    def _maybe_config_dropout_masks(self, *_):
        pass


def cells_of(layer):
    """Returns the cells of a recurrent layer, or of a stack, in the order they are run in."""
    if isinstance(layer, keras.layers.RNN):
        return cells_of(layer.cell)
    if isinstance(layer, keras.layers.StackedRNNCells):
        return [inner for cell in layer.cells for inner in cells_of(cell)]
    return [layer]


def runs_on_cudnn(layer):
    """Returns whether Keras runs a layer by cuDNN's kernels where there is a GPU.

    These hide the gradient with respect to preactivations, of which an implicit step is made.
    """
    if not isinstance(layer, (keras.layers.LSTM, keras.layers.GRU)) or not layer.use_cudnn:
        return False
    # What Keras's `cudnn_ok` asks for, besides a GPU.
    tanh = keras.activations.tanh, tf.tanh, keras.ops.tanh
    sigmoid = keras.activations.sigmoid, tf.sigmoid, keras.ops.sigmoid
    return (
        layer.activation in tanh
        and layer.recurrent_activation in sigmoid
        and layer.use_bias
        and not layer.recurrent_dropout
        and not layer.unroll
        and getattr(layer, "reset_after", True)
    )


def _stacks_of(cell):
    """Returns the stacks of cells that a cell is made of."""
    if not isinstance(cell, keras.layers.StackedRNNCells):
        return []
    return [cell, *(stack for inner in cell.cells for stack in _stacks_of(inner))]


def _cell_class(cell):
    """Returns the class for which a cell has a block, `None` if there is none."""
    return next((c for c in type(cell).__mro__ if c in _CELLS), None)


def _time_first(x):
    return tf.transpose(x, [1, 0, *range(2, len(x.shape))])


def _any_so_far(mask):
    return tf.cumsum(tf.cast(mask, tf.int32)) > 0


def _where(mask, x):
    return tf.where(mask, x, tf.zeros_like(x))
