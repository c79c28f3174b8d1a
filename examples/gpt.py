"""Trains a small GPT on characters of a made-up language, with Adam and with ProxProp.

The text is sentences of a small grammar in which verbs agree with nouns that may stand a
clause away. As the program draws them it knows how many nats a character carries at least:
no model's loss on new text is lower in the mean.

    python examples/gpt.py
    python examples/gpt.py --quick
"""

import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from parts.comparison import compare, parsed
from parts.transformer import block, with_places

L = keras.layers

DETERMINERS = {"": ["a", "the", "every", "one"], "s": ["the", "some", "two", "all"]}
ADJECTIVES = ["small", "old", "green", "quiet", "happy"]
NOUNS = ["cat", "dog", "bird", "farmer", "robot", "river", "cloud", "teacher"]
VERBS = ["see", "follow", "like", "draw", "remember", "call"]
ALONE = ["sleep", "sing", "wait", "run"]


class Grammar:
    """Draws sentences, and counts the nats that the draws carry."""

    def __init__(self, seed):
        self._random = np.random.default_rng(seed)
        self.nats = 0.0

    def text(self, characters):
        """Returns at least so many characters of sentences."""
        sentences, length = [], 0
        while length < characters:
            sentences.append(f"{self._sentence()}. ")
            length += len(sentences[-1])
        return "".join(sentences)

    def _one_of(self, words):
        self.nats += math.log(len(words))
        return words[self._random.integers(len(words))]

    def _sentence(self):
        noun, number = self._noun()
        return f"{noun} {self._predicate(number)}"

    def _noun(self, clauses=1):
        number = self._one_of(["", "s"])
        words = [self._one_of(DETERMINERS[number])]
        if self._one_of([True, False]):
            words.append(self._one_of(ADJECTIVES))
        words.append(self._one_of(NOUNS) + number)
        if clauses and self._one_of([True, False]):
            words += ["that", self._predicate(number, clauses - 1)]
        return " ".join(words), number

    def _predicate(self, number, clauses=0):
        ending = "" if number else "s"
        if self._one_of([True, False]):
            return self._one_of(ALONE) + ending
        noun, _ = self._noun(clauses)
        return f"{self._one_of(VERBS)}{ending} {noun}"


def make_model(characters, context, width=64, heads=4, depth=2):
    """Returns a transformer that tells the next character from those before it."""
    inputs = keras.Input((context,), dtype="int32")
    x = with_places(L.Embedding(characters, width, name="characters")(inputs))
    for _ in range(depth):
        x = block(x, heads, causal=True)
    return keras.Model(inputs, L.Dense(characters)(L.LayerNormalization()(x)))


def windows(text, alphabet, context):
    """Returns `(x, y)`: pieces of the text, and the same a character later."""
    codes = np.array([alphabet.index(c) for c in text], "int32")
    count = (len(codes) - 1) // context
    return tuple(codes[i : i + count * context].reshape(count, context) for i in (0, 1))


def main():
    args = parsed(__doc__, epochs=6, batch_size=32, quick="one layer, a short text")
    context = 32 if args.quick else 64
    characters = 8_000 if args.quick else 60_000
    grammar = Grammar(args.seed)
    text, new_text = grammar.text(characters), grammar.text(characters // 5)
    floor = grammar.nats / (len(text) + len(new_text))
    alphabet = sorted(set(text))
    print(f"{len(text):,} characters, such as: {text[:75]}...")
    print(f"A character carries {floor:.4f} nats.\n")
    x, y = windows(text, alphabet, context)
    compare(
        lambda: make_model(len(alphabet), context, depth=1 if args.quick else 2),
        (x, y, *windows(new_text, alphabet, context)),
        args,
    )


if __name__ == "__main__":
    main()
