"""Predicts what a step costs on many GPUs: who inverts what, and what travels.

    python examples/distribution_prices.py

Counts operations and bytes as `keras_proxprop.summary` does, and predicts how long a step
takes beside Adam's, for these choices:

    mean        only gradients travel, every replica inverts every matrix
    exact       Gram matrices travel, too, at a refresh
    spread      also the inverses, each made by one replica for all: what `ProxProp` does
    from F on   inverses of F features or more are spread; every replica makes the others

Nothing is taken to overlap, and attention's own products are not counted: they would make all
ratios smaller. A refresh is spread evenly over the steps until the next. What is assumed of
the machines stands at the top of the file; none of it was measured here.
"""

import argparse
import collections
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from keras_proxprop import CurvatureMemory, ProxProp, summary
from keras_proxprop.machine import CPU
from keras_proxprop.memory.inverses import owners
from parts.nets_on_paper import gpt2_small, resnet50, vit_b

# Multiply-adds a second of an A100, some two fifths of its peak in TF32, and seven tenths of
# that in float64.
PRODUCTS, FLOAT64 = 3e13, 7e12
# Eight blocks of a matrix are factorized and inverted one after the other, each in some
# 0.2 ms. All else is matrix products: multiply-adds for every F³.
BLOCKS, INVERSE = 8 * 2e-4, 5 / 3
# Replicas, and seconds for a byte that is added up over all of them: by a ring over NVLink
# (230 GB/s), and then between two nodes over one link of 100 Gb a second.
RING = 2 * 7 / 8 / 230e9
MACHINES = {
    "8 × A100, NVLink": (8, RING),
    "2 × 8 × A100, 100 Gb Ethernet": (16, RING + 1 / 12.5e9),
}
REFRESH_EVERY = CurvatureMemory().refresh_every
THRESHOLDS = {"spread": 1, "from 2,048 on": 2048}
# A model, and items of a batch for every replica.
NETS = {"ResNet50": (resnet50, 64), "ViT-B/16": (vit_b, 64), "GPT-2 small": (gpt2_small, 8)}


def counted(model, batch):
    """Returns what a replica does and sends in a step with `batch` items of its own.

    Returns:
        The multiply-adds of backpropagation; those beside it and all inverses; the bytes of
        gradients; those of Gram matrices; and the sizes of the matrices that are inverted.
    """
    # Bytes are asked for; how many replicas there are changes none of the counts.
    rows = summary(model, batch, ProxProp(), lambda line: None, replicas=2, device="CPU")
    backpropagation, extra, sent = (
        sum(getattr(row, name) for row in rows)
        for name in ("backpropagation", "extra", "sent")
    )
    shares = collections.Counter()
    for row in rows:
        if row.solver.startswith("memory"):
            # Two triangles, that of the inverse too; layers that read the same share them.
            matrices = row.sent - 4 * row.weights
            shares[row.features] += matrices * REFRESH_EVERY / (2 * triangle(row.features))
    sizes = [features for features, share in shares.items() for _ in range(round(share))]
    matrices = sum(map(triangle, sizes)) / REFRESH_EVERY
    extra -= sum(CPU.factorize * size**3 for size in sizes) / REFRESH_EVERY
    return backpropagation, extra, sent - 2 * matrices, matrices, sizes


def triangle(size):
    """Returns the bytes of half of a symmetric matrix."""
    return 2 * size * (size + 1)


def of_the_busiest(sizes, replicas, least):
    """Returns the sizes of the matrices that one replica inverts at a refresh."""
    shared = [size for size in sizes if size >= least]
    places = owners([size**3 for size in shared], replicas)
    work = [[s for s, place in zip(shared, places) if place == i] for i in range(replicas)]
    return max(work, key=seconds_of_inverses) + [size for size in sizes if size < least]


def seconds_of_inverses(sizes):
    return sum(BLOCKS + INVERSE * size**3 / FLOAT64 for size in sizes)


def predicted(counts, replicas, second_of_a_byte):
    """Yields `(choice, multiply-adds of a replica, bytes, step over Adam's)`."""
    backpropagation, extra, gradients, matrices, sizes = counts
    adam = backpropagation / PRODUCTS + gradients * second_of_a_byte
    choices = {"mean": (sizes, gradients), "exact": (sizes, gradients + matrices)}
    for name, least in THRESHOLDS.items():
        inverses = sum(triangle(s) for s in sizes if s >= least) / REFRESH_EVERY
        own = of_the_busiest(sizes, replicas, least)
        choices[name] = own, gradients + matrices + inverses
    for choice, (own, sent) in choices.items():
        seconds = (backpropagation + extra) / PRODUCTS + sent * second_of_a_byte
        seconds += seconds_of_inverses(own) / REFRESH_EVERY
        operations = backpropagation + extra
        operations += INVERSE * sum(size**3 for size in own) / REFRESH_EVERY
        yield choice, operations, sent, seconds / adam


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(NETS), choices=list(NETS))
    args = parser.parse_args(argv)
    print("| net | machine | choice | multiply-adds, 10⁹ | MB a step | step over Adam's |")
    print("|---|---|---|---|---|---|")
    for net in args.only:
        make, batch = NETS[net]
        counts = counted(make(), batch)
        for machine, (replicas, second) in MACHINES.items():
            for choice, operations, sent, ratio in predicted(counts, replicas, second):
                figures = f"{operations / 1e9:,.0f} | {sent / 1e6:,.1f} | {ratio:.3f}"
                print(f"| {net} | {machine} | {choice} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
