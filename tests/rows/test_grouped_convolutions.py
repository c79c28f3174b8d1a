"""Gram matrices of convolutions, grouped and not, against patches cut out in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, in_turns

from keras_proxprop.blocks import find_block
from keras_proxprop.machine import CPU
from keras_proxprop.rows.grouped_patches import GroupedPatchRows
from keras_proxprop.rows.patches import PatchRows
from keras_proxprop.rows.windows import Windows

EXACT = 1e-12
# images, groups, kernel, strides, dilation, padding
CASES = {
    "same": ((3, 6, 7, 4), 4, (3, 3), (1, 1), (1, 1), "same"),
    "valid": ((2, 6, 5, 3), 3, (3, 2), (1, 1), (1, 1), "valid"),
    "wide-kernel": ((2, 9, 8, 2), 2, (7, 5), (1, 1), (1, 1), "same"),
    "kernel-above-image": ((4, 2, 3, 5), 5, (7, 7), (1, 1), (1, 1), "same"),
    "one-pixel": ((4, 1, 1, 3), 3, (3, 3), (1, 1), (1, 1), "same"),
    "stride": ((2, 9, 8, 3), 3, (3, 3), (2, 2), (1, 1), "same"),
    "stride-valid": ((2, 10, 9, 3), 3, (5, 3), (2, 3), (1, 1), "valid"),
    "stride-above-kernel": ((2, 9, 9, 2), 2, (2, 2), (3, 3), (1, 1), "same"),
    "dilated": ((2, 9, 8, 3), 3, (3, 3), (1, 1), (2, 3), "same"),
    "no-pixel-in-any-window": ((2, 1, 3, 2), 2, (2, 2), (1, 1), (4, 1), "same"),
    "pieces": ((1, 3, 66, 2), 2, (3, 3), (1, 1), (1, 1), "same"),
    "pieces-stride": ((1, 3, 135, 2), 2, (3, 5), (2, 2), (1, 1), "valid"),
    "groups-of-2": ((2, 5, 6, 6), 3, (3, 3), (1, 1), (1, 1), "same"),
    "groups-of-3-stride": ((2, 7, 6, 6), 2, (3, 2), (2, 1), (1, 1), "same"),
    "sequence": ((3, 11, 4), 4, (5,), (1,), (1,), "same"),
    "sequence-causal": ((3, 11, 4), 2, (3,), (1,), (2,), "causal"),
}


def patch_gram(images, groups, geometry, bias):
    """Returns the Gram matrices of patches that are cut out one by one."""
    n, *lengths, channels = images.shape
    axes = range(len(lengths))
    pads = [geometry.pads(a, length) for a, length in enumerate(lengths)]
    padded = np.pad(images, [(0, 0), *pads, (0, 0)])
    gram = 0
    for window in np.ndindex(*(geometry.outputs(a, lengths[a]) for a in axes)):
        starts = [p * s for p, s in zip(window, geometry.strides)]
        cut = tuple(
            slice(start, start + (k - 1) * d + 1, d)
            for start, k, d in zip(starts, geometry.kernel_size, geometry.dilation)
        )
        patch = padded[(slice(None), *cut)].reshape(n, -1, groups, channels // groups)
        patch = patch.transpose(2, 0, 1, 3).reshape(groups, n, -1)
        if bias:
            patch = np.concatenate([patch, np.ones([groups, n, 1])], axis=-1)
        gram = gram + np.einsum("gna,gnb->gab", patch, patch)
    return gram


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_gram_is_that_of_the_patches(name, bias, monkeypatch):
    # Row by row wherever that can be done at all.
    monkeypatch.setattr("keras_proxprop.rows.image_lines.ImageLineProducts.cost", 0)
    shape, groups, *windows = CASES[name]
    images = np.random.default_rng(len(name)).normal(size=shape)
    geometry = Windows(*windows)
    rows = GroupedPatchRows(tf.constant(images), geometry, bias, groups)
    assert rows._way == "products"
    expected = patch_gram(images, groups, geometry, bias)
    # A batch of unknown size, too.
    batch = tf.TensorSpec([None, *shape[1:]], tf.float64)

    @tf.function(input_signature=[batch])
    def gram(x):
        return GroupedPatchRows(x, geometry, bias, groups).gram()

    for actual in (rows.gram(), rows._patch_gram(), gram(tf.constant(images))):
        if np.any(expected):
            assert_close(actual, expected, EXACT)
        else:
            assert not np.any(actual)


@pytest.mark.parametrize(
    "name, bias, jit_compile", in_turns(CASES, [False, True], [False, True], rounds=2)
)
def test_every_way_to_the_gram_of_one_group(name, bias, jit_compile):
    shape, _, *windows = CASES[name]
    images = np.random.default_rng(len(name)).normal(size=shape)
    geometry = Windows(*windows)
    expected = patch_gram(images, 1, geometry, bias)[0]

    def gram(x, way):
        rows = PatchRows(x, geometry, bias)
        rows._gram_costs = {way: 1}
        return rows.gram()

    for way in ("patches", "correlation", "products"):
        compiled = tf.function(gram, jit_compile=jit_compile)
        actual = compiled(tf.constant(images), way)
        if np.any(expected):
            assert_close(actual, expected, EXACT)
        else:
            assert not np.any(actual)


def test_products_are_taken_where_images_are_small_and_patches_where_they_are_tiny():
    def way(*shape, taps=3):
        geometry = Windows((taps, taps), (1, 1), (1, 1), "same")
        return PatchRows(tf.zeros([2, *shape]), geometry, bias=True)._way

    assert way(8, 8, 1) == way(4, 4, 4) == "patches"
    assert way(8, 8, 20, taps=5) == way(4, 4, 512) == "products"
    assert way(32, 32, 64) == way(16, 16, 16, taps=5) == way(28, 28, 1) == "correlation"


@pytest.mark.parametrize("shape", [(None, 5, 6), (None, None, 4, 2)])
def test_unknown_lengths_take_patches(shape):
    layer = {3: keras.layers.DepthwiseConv1D, 4: keras.layers.DepthwiseConv2D}[len(shape)](3)
    layer.build(shape)
    block, _ = find_block(layer)
    lengths = (None,) * (len(shape) - 1)
    sample = np.random.default_rng(0).normal(size=[n or 5 for n in shape])

    @tf.function(input_signature=[tf.TensorSpec([*lengths, shape[-1]], tf.float64)])
    def gram(x):
        rows = block.rows(x, True)
        assert rows._way == "patches"
        return rows.gram()

    expected = patch_gram(sample, shape[-1], Windows.of(layer), True)
    assert_close(gram(tf.constant(sample)), expected, EXACT)


def test_the_cheaper_gram_is_taken():
    def rows(shape, kernel):
        geometry = Windows((kernel,) * 2, (1, 1), (1, 1), "same")
        return GroupedPatchRows(tf.zeros(shape), geometry, False, shape[-1])

    # MobileNet's layers: products of rows.
    for shape in ((2, 112, 112, 8), (2, 14, 14, 512), (2, 1, 1, 512)):
        small = rows(shape, 3)
        assert small._way == "products"
        # Less than the patches' writing and products.
        assert small.gram_cost < shape[-1] * 9 * (9 + CPU.write)
    # Windows of one pixel overlap nowhere, and 257 of them can be cut into no equal pieces.
    assert rows((2, 8, 257, 4), 1)._way == "patches"
