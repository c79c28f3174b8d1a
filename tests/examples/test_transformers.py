"""The transformers of the examples, trained for a moment, and the text that one reads."""

import math
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import gpt
import vit
from keras_proxprop.reports.summary import layer_reports


@pytest.mark.parametrize("program", [vit, gpt])
def test_quick_run_prints_losses_and_their_ratio(program):
    command = [sys.executable, pathlib.Path(program.__file__), "--quick", "--epochs", "1"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    losses = dict(re.findall(r"^(Adam|ProxProp) +0.003 +([\d.]+)", process.stdout, re.M))
    (ratio,) = re.findall(r"training loss is ([\d.]+) times", process.stdout)
    expected = float(losses["ProxProp"]) / float(losses["Adam"])
    assert float(ratio) == pytest.approx(expected, abs=0.01)
    # An untrained model of ten classes or more is at least so bad.
    assert 0 < float(losses["ProxProp"]) < math.log(30)


def test_all_layers_but_the_last_step_implicitly():
    for model in (vit.make_model(depth=1), gpt.make_model(25, 16, depth=1)):
        steps = [r.step for r in layer_reports(model) if r.step != "implicit"]
        assert steps == ["explicit: final layer"]


def test_gpt_does_not_see_the_characters_to_come():
    keras.utils.set_random_seed(0)
    model = gpt.make_model(25, 16, depth=1)
    codes = np.random.default_rng(0).integers(0, 25, (1, 16))
    other = codes.copy()
    other[0, 9:] = (other[0, 9:] + 1) % 25
    a, b = model(tf.constant(codes)), model(tf.constant(other))
    np.testing.assert_allclose(a[0, :9], b[0, :9], atol=1e-5)
    assert np.all(np.abs(a[0, 9:] - b[0, 9:]).max(axis=-1) > 1e-3)


def test_grammar_counts_the_nats_of_its_sentences():
    # Every sentence's probability is a product of those of its words: counted by hand.
    nats = {"a": math.log(2 * 4), "the": math.log(2 * 4)}
    grammar = gpt.Grammar(0)
    short = None
    while short is None:
        grammar.nats = 0.0
        match = re.fullmatch(r"(a|the) (\w+) (\w+s)", grammar._sentence())
        if match and match[3][:-1] in gpt.ALONE:
            short = match
    # Number and determiner; no adjective; noun; no clause; a verb that stands alone.
    expected = nats[short[1]] + math.log(2 * len(gpt.NOUNS) * 2 * 2 * len(gpt.ALONE))
    assert grammar.nats == pytest.approx(expected)


def test_verbs_agree_with_their_nouns():
    text = gpt.Grammar(3).text(3000)
    for sentence in text.strip().split(". "):
        words = sentence.rstrip(".").split()
        plural = words[2 if words[1] in gpt.ADJECTIVES else 1].endswith("s")
        verb = words[-1]
        if "that" not in words and verb.rstrip("s") in gpt.ALONE:
            assert verb.endswith("s") != plural, sentence


def test_windows_are_a_character_apart():
    x, y = gpt.windows("abcabcabca", "abc", 3)
    np.testing.assert_array_equal(x, [[0, 1, 2]] * 3)
    np.testing.assert_array_equal(y, [[1, 2, 0]] * 3)
