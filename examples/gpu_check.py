"""Whether implicit steps are right and lean on this machine's GPU: minutes, and one command.

    python examples/gpu_check.py             # all of it, on a GPU some 20 minutes
    python examples/gpu_check.py --quick     # a short form, on a CPU a minute
    python examples/gpu_check.py --only layers nets

    layers    directions of single layers against float64, where the loss is linear in their
              outputs: off by a thousandth, or three times what float32 on the CPU is off
    nets      directions of whole nets against float64
    steps     the time of a step over Adam's, the first step, the GPU's memory
    profile   kernels of a step, those in float64, and copies to the host: as many as Adam's
    target    seconds until the loss that the best of Adam's rates ends with

All is done with TF32 allowed and not, and with XLA and without. Every line begins with "ok" or
"FAIL" where there is something to hold; the program's exit status is 1 where one fails. All
numbers are written to a file, too.
"""

import argparse
import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

import keras
import tensorflow as tf

import keras_proxprop
from parts import gpu_directions, gpu_times

SECTIONS = {
    "layers": gpu_directions.layers,
    "nets": gpu_directions.nets,
    "steps": gpu_times.steps,
    "profile": gpu_times.profile,
    "target": gpu_times.target,
}
OPTIMIZERS = ["adam", "proxprop", "no-memory"]
WHOLE = {
    "layers": list(gpu_directions.LAYERS),
    "taus": ["auto", 0.05, 1.0, 100.0],
    "nets": [("mlp", 64), ("mlp", 500), ("convnet", 64), ("convnet", 500), ("resnet", 64)],
    "steps": [
        *[("mlp", 64), ("mlp", 512), ("mlp4096", 512), ("convnet", 512)],
        *[("resnet", 128), ("rows", 64), ("resnet50", 128)],
    ],
    "profile": [("mlp", 64), ("mlp", 512), ("convnet", 512), ("resnet50", 128)],
    "target": [("mlp", 64), ("mlp", 512), ("convnet", 512), ("resnet", 64)],
    "optimizers": [*OPTIMIZERS, "memory-all"],
    "jit": [False, True],
    "warm": 12,
    "turns": 5,
    "turn_steps": 40,
    "items": 20_000,
    "epochs": 10,
}
QUICK = WHOLE | {
    "layers": ["Dense, 500 × 785", "Conv2D 3×3 / 2"],
    "taus": [1.0],
    "nets": [("convnet", 16)],
    "steps": [("convnet", 16)],
    "profile": [("convnet", 16)],
    "target": [("mlp", 64)],
    "optimizers": OPTIMIZERS[:2],
    "jit": [False],
    "warm": 8,
    "turns": 1,
    "turn_steps": 3,
    "items": 640,
    "epochs": 2,
}


class Report:
    """Prints what a section finds, and keeps it."""

    def __init__(self):
        self.found, self.failed = {}, []
        self.section = None

    def __call__(self, what, ok=None, **numbers):
        """Notes one finding.

        Args:
            what: what it is of.
            ok: whether it is as it should be. Defaults to `None`: there is nothing to hold.
            **numbers: what was found.
        """
        self.found[f"{self.section}: {what}"] = {"ok": ok, **numbers}
        if ok is False:
            self.failed.append(f"{self.section}: {what}")
        verdict = {True: "ok", False: "FAIL", None: ""}[ok]
        shown = ", ".join(f"{name} {number:.3g}" for name, number in numbers.items())
        print(f"{verdict:5s}{what}: {shown}", flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a short form, on a CPU too")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gpu_check.json"))
    args = parser.parse_args(argv)
    vars(args).update(QUICK if args.quick else WHOLE)
    versions = (tf.__version__, keras.__version__, keras_proxprop.__version__)
    print("TensorFlow {}, Keras {}, keras_proxprop {}".format(*versions))
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        print(tf.config.experimental.get_device_details(gpu))
    if not gpus:
        print("No GPU: there is no TF32 here, and a profile counts no kernels.")
    report = Report()
    for report.section in args.only:
        section = SECTIONS[report.section]
        print(f"\n{report.section}: {section.__doc__.splitlines()[0]}")
        section(report, args)
        args.out.write_text(json.dumps(report.found, indent=1))
    print(
        "\nFAILED" if report.failed else "\nAll as it should be.", *report.failed, sep="\n  "
    )
    return bool(report.failed)


if __name__ == "__main__":
    sys.exit(main())
