"""The batch size of a training that begins, as far as it is known beforehand."""

import keras
import tensorflow as tf

# What `tf.data` makes of batches without a change of their size, by the names of its classes.
_KEEPS_BATCHES = {
    *("PrefetchDataset", "CacheDataset", "OptionsDataset", "AssertCardinalityDataset"),
    *("ShuffleDataset", "RepeatDataset", "TakeDataset", "SkipDataset", "ShardDataset"),
    *("MapDataset", "ParallelMapDataset", "FilterDataset", "ZipDataset"),
}


def batch_size_of(iterator, data_batch):
    """Returns the number of items in a batch, or `None`. No batch is read for it.

    Args:
        iterator: Keras's iterator of epochs, or `None`.
        data_batch: a batch in the place of that.
    """
    if iterator is None:
        return items_in(data_batch)
    adapter = iterator.data_adapter
    if hasattr(adapter, "_first_batches"):
        # Of a generator Keras has read these.
        return items_in(adapter._first_batches[0])
    if hasattr(adapter, "py_dataset"):
        # Keras asks for no such attribute, but its examples have it.
        size = getattr(adapter.py_dataset, "batch_size", None)
        return size if isinstance(size, int) else None
    if hasattr(adapter, "_dataset"):
        # Of a distributed dataset nothing is known.
        known = isinstance(adapter._dataset, tf.data.Dataset)
        return _of_dataset(adapter._dataset) if known else None
    return adapter.batch_size


def items_in(batch):
    """Returns the length of a nest's first array that has axes, `None` if it is not known."""
    shapes = [tf.TensorShape(getattr(x, "shape", ())) for x in keras.tree.flatten(batch)]
    return next((shape[0] for shape in shapes if shape.rank), None)


def _of_dataset(dataset):
    """Returns the argument of the last `batch` of a pipeline."""
    while (size := getattr(dataset, "_batch_size", None)) is None:
        if type(dataset).__name__.lstrip("_") not in _KEEPS_BATCHES:
            return None
        dataset = dataset._inputs()[0]
    size = tf.get_static_value(size)
    return None if size is None else int(size)
