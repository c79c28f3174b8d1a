"""Grouped and depthwise convolutions: a small Gram matrix for every group of channels."""

import functools
import math

import tensorflow as tf

from keras_proxprop.rows.arrays import border
from keras_proxprop.rows.groups import GroupedRows
from keras_proxprop.rows.patches import PatchRows

# Patches of several groups are written out for the whole batch at once where those of one
# image have no more numbers than this.
_PATCH_NUMBERS = 2**18


def patches_in_groups(images, windows, bias, groups):
    """Returns the patches of groups of channels as rows: `PatchRows` if there is one group."""
    if groups == 1:
        return PatchRows(images, windows, bias)
    return GroupedPatchRows(images, windows, bias, groups)


class GroupedPatchRows(PatchRows):
    """The patches of every group of channels: a small problem in the filters of that group."""

    @functools.cached_property
    def _gram_costs(self):
        costs = {"patches": self._patch_cost()}
        if self._products is not None:
            costs["products"] = self._products.cost
        return costs

    def gram(self):
        if self._way == "patches":
            return self._patch_gram()
        gram = self._products.gram(self.images)
        if not self.bias:
            return gram
        total = self._written_out(tf.reduce_sum(self.images, 0, keepdims=True))
        sums = tf.reduce_sum(total.x, axis=1, keepdims=True)
        return border(gram, sums, tf.cast(self.count, self.dtype))

    def _patch_gram(self):
        if self.per_item * self.groups * self.features <= _PATCH_NUMBERS:
            return self._written_out(self.images).gram()
        return self._add_over_images(lambda rows, _: [rows.gram()], dtype=self.dtype)[0]

    def _written_out(self, images):
        taps, channels = math.prod(self.geometry.kernel_size), images.shape[-1] // self.groups
        patches = PatchRows(images, self.geometry, bias=False).matrix().x
        patches = tf.reshape(patches, [-1, taps, self.groups, channels])
        patches = tf.transpose(patches, [2, 0, 1, 3])
        return GroupedRows(tf.reshape(patches, [self.groups, -1, taps * channels]), self.bias)

    def _filter_gradient(self, images, d):
        gradient = super()._filter_gradient(images, d)
        # Of no images, as a replica may have, TensorFlow leaves a depthwise kernel's unset.
        return gradient if images.shape[0] else tf.where(tf.size(images) > 0, gradient, 0)

    def _convolve(self, images, kernel):
        if self.groups < images.shape[-1] or not self.geometry.has_depthwise_kernel:
            return super()._convolve(images, kernel)
        kernel = tf.reshape(kernel, [*self.geometry.kernel_size, self.groups, -1])
        return self.geometry.convolve_channels(images, kernel)
