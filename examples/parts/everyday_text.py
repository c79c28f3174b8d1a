"""The everyday tasks on text: Python's own documentation."""

import collections
import functools
import re

import keras
import numpy as np

from parts import models
from parts.datasets import Data
from parts.everyday_task import Task
from parts.transformer import block, with_places

L = keras.layers
_CHARACTERS = [chr(c) for c in (10, *range(32, 127))]
_WINDOW = 64
_TOPICS, _WORDS, _PIECE = 10, 2000, 40


def _topics():
    from pydoc_data.topics import topics

    return topics


@functools.cache
def _windows():
    """Returns pieces of text as `Data`, the targets a character later."""
    codes = {c: i for i, c in enumerate(_CHARACTERS)}
    text = "\n".join(text for _, text in sorted(_topics().items()))
    text = np.array([codes[c] for c in text if c in codes], "int32")
    count = (len(text) - 1) // _WINDOW
    x, y = (text[i : i + count * _WINDOW].reshape(count, _WINDOW) for i in (0, 1))
    # A tenth in one piece, so that no sentence is in both parts.
    train = count - count // 10
    return Data(*_shuffled(x[:train], y[:train]), *_shuffled(x[train:], y[train:]))


@functools.cache
def _pieces():
    """Returns pieces of 40 words as `Data`, the targets which topic they are from."""
    longest = sorted(_topics().values(), key=lambda text: (-len(text), text))[:_TOPICS]
    texts = [re.findall(r"\w+|[^\w\s]", text.lower()) for text in longest]
    common = collections.Counter(word for words in texts for word in words).most_common(_WORDS)
    codes = {word: i for i, (word, _) in enumerate(common, start=1)}
    parts = [], []
    for topic, words in enumerate(texts):
        words = np.array([codes.get(word, 0) for word in words], "int32")
        train = len(words) * 4 // 5
        for part, own in zip(parts, (words[:train], words[train:])):
            starts = range(0, len(own) - _PIECE, _PIECE // 4)
            part += [(own[s : s + _PIECE], topic) for s in starts]
    arrays = [(np.stack(x), np.array(y, "int32")) for x, y in (zip(*part) for part in parts)]
    return Data(*_shuffled(*arrays[0]), *_shuffled(*arrays[1]))


def _shuffled(*arrays):
    order = np.random.default_rng(0).permutation(len(arrays[0]))
    return [a[order] for a in arrays]


def _gpt():
    inputs = keras.Input((_WINDOW,), dtype="int32")
    x = with_places(L.Embedding(len(_CHARACTERS), 64, name="characters")(inputs))
    for _ in range(2):
        x = block(x, heads=4, causal=True)
    x = L.LayerNormalization()(x)
    return keras.Model(inputs, L.Dense(len(_CHARACTERS), name="logits")(x))


def _lstm():
    layers = [L.Embedding(_WORDS + 1, 32), L.LSTM(64), L.Dense(_TOPICS, name="logits")]
    return keras.Sequential([keras.Input((_PIECE,), dtype="int32"), *layers])


def _character_loss(y, logits):
    """Cross-entropy of every window, the mean over its characters."""
    return keras.ops.mean(models.class_loss(y, logits), axis=-1)


TASKS = {
    "gpt": Task(
        "GPT on characters, two blocks", _gpt, _windows, 32, 900, _character_loss, 512
    ),
    "lstm": Task("LSTM on words", _lstm, _pieces, 32, 400, models.class_loss),
}
