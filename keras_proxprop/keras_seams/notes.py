"""What is noted of a call of a linear map, and for whom."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Use:
    """One call of a layer with a block: its inputs and its preactivation `z`."""

    block: object
    inputs: object
    z: object


class Note:
    """Tells all recorders of a layer about the linear map that its block's `call` makes.

    Args:
        recorders: list of `Recorder`s.
        blocks: the layer's block in each of them.
    """

    def __init__(self, recorders, blocks):
        self._recorders, self.blocks = recorders, blocks

    def __call__(self, inputs, z):
        """Notes a call of the linear map, and returns `z`."""
        for recorder, block in zip(self._recorders, self.blocks):
            recorder.uses.append(Use(block, inputs, z))
        return self.watch(z)

    def watch(self, z):
        """Has tapes find the loss's gradient with respect to `z`, and returns `z`."""
        for recorder in self._recorders:
            recorder.watch(z)
        return z

    def of_part(self, index):
        """Returns the note of one of the block's `parts`."""
        return self.of([block.parts[index] for block in self.blocks])

    def of(self, blocks):
        """Returns the note of other blocks of the layer, one for each recorder."""
        return Note(self._recorders, blocks)
