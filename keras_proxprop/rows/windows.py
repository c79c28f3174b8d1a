"""Which pixels the windows of a convolution see."""

import dataclasses

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Windows:
    """Which pixels a convolution's windows see. Tuples have one int per spatial axis."""

    kernel_size: tuple
    strides: tuple
    dilation: tuple
    padding: str

    @classmethod
    def of(cls, layer):
        return cls(layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding)

    def convolve(self, images, kernel):
        return keras.ops.conv(
            self._padded(images),
            kernel,
            strides=list(self.strides),
            padding=self._padding,
            dilation_rate=self.dilation,
            data_format="channels_last",
        )

    def convolve_channels(self, images, kernel):
        """Convolves every channel with filters of its own."""
        return keras.ops.depthwise_conv(
            self._padded(images),
            kernel,
            strides=self.strides,
            padding=self._padding,
            dilation_rate=self.dilation,
            data_format="channels_last",
        )

    @property
    def has_depthwise_kernel(self):
        """Whether TensorFlow has a kernel for `convolve_channels`."""
        return len(self.strides) < 3 and len(set(self.strides)) == 1

    @property
    def _padding(self):
        return "valid" if self.padding == "causal" else self.padding

    def _padded(self, images):
        if self.padding != "causal":
            return images
        return tf.pad(images, [[0, 0], [self.pads(0, None)[0], 0], [0, 0]])

    def pads(self, axis, length):
        """Returns `(low, high)` zeros around an axis; `high` may be a tensor."""
        k, s, d = self.kernel_size[axis], self.strides[axis], self.dilation[axis]
        reach = (k - 1) * d
        if self.padding == "valid":
            return 0, 0
        if self.padding == "causal":
            return reach, 0
        if s == 1:
            return reach // 2, reach - reach // 2
        excess = (-(-length // s) - 1) * s + reach + 1 - length
        total = max(excess, 0) if isinstance(excess, int) else tf.maximum(excess, 0)
        return total // 2, total - total // 2

    def outputs(self, axis, length):
        """Returns how many windows fit along an axis."""
        low, high = self.pads(axis, length)
        reach = (self.kernel_size[axis] - 1) * self.dilation[axis]
        return (length + low + high - reach - 1) // self.strides[axis] + 1
