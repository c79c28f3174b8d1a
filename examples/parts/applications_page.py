"""The outcome of `applications.py` as a page of Markdown."""

from parts.results import markdown

_ABOUT = """# Every architecture of keras.applications

Made by `python examples/applications.py`: built without weights, for 10 classes, at the
smallest image that each accepts; `ProxProp()`, batch 2 (8 in EfficientNetB7, V2L and V2M,
where gradients of two images are beyond 10²⁰, with any optimizer), without XLA. The same rows
are in `applications.csv`.

The step is `finite` where all weights were finite after two training steps. The time of the
first step is mostly TensorFlow's building and optimizing of the graph, on two cores that were
shared with other work, so it says little more than which models take longer.

Steps were taken of {taken} of the {models} models. The final layer steps explicitly by default
(`final_layer`).

"""


def page(rows):
    """Returns the rows as a page of Markdown."""
    rows = list(rows)
    taken = sum(row.get("step") == "finite" for row in rows)
    head = ["model", "pixels", "weights", "implicit", "layers", "implicit"]
    head += ["explicit, and why", "step", "first step, s", "peak MiB"]
    lines = []
    for row in sorted(rows, key=lambda row: row["model"]):
        line = [f"`{row['model']}`", row["pixels"], "", "", "", "", ""]
        if row.get("weights"):
            implicit = f"{row['implicit_weights'] / row['weights']:.2%}"
            line[2:6] = f"{row['weights']:,}", implicit, row["layers"], row["implicit_layers"]
            line[6] = row["explicit"]
        step = row.get("step")
        told = [row.get("first_step_s", ""), row.get("peak_mib", "")] if step else ["", ""]
        lines.append([*line, step or "not taken", *told])
    return _ABOUT.format(taken=taken, models=len(rows)) + markdown(head, lines) + "\n"
