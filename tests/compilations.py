"""Prints how often XLA compiles the training step in each of three calls of `fit`.

XLA_FLAGS="--xla_dump_to=FOLDER --xla_dump_hlo_as_text" python tests/compilations.py FOLDER
"""

import pathlib
import sys

import keras
import numpy as np

from keras_proxprop import CurvatureMemory, ProxProp

L = keras.layers


def main(folder):
    def compiled():
        # XLA writes there whatever it compiles.
        return len(list(folder.glob("*one_step_on_data*before_optimizations.txt")))

    layers = [L.Conv2D(3, 3), L.Flatten(), L.Dense(2)]
    model = keras.Sequential([keras.Input((6, 6, 2)), *layers])
    optimizer = ProxProp(memory=CurvatureMemory(refresh_every=2))
    model.compile(optimizer, "mse", jit_compile=True)
    counts = [0]
    # Of ten items, batches of four, and one of two.
    for epochs in (1, 2, 3):
        model.fit(np.ones((10, 6, 6, 2)), np.ones((10, 2)), 4, epochs, verbose=0)
        counts.append(compiled())
    print(*np.diff(counts))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
