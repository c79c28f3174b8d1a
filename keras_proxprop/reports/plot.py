"""A picture of what a `StepMonitor` noted, with a row for every layer."""

from keras_proxprop.reports.probes import STATISTICS

# In inches: the width of the picture, the height of a row, and of all around the rows.
_WIDTH, _ROW, _AROUND = 10.0, 0.28, 1.4
# The opacity of dots, from the first epoch to the last one.
_FAINTEST, _DARKEST = 0.15, 1.0


def layer_plot(epochs, title):
    """Returns a `matplotlib.figure.Figure`.

    Args:
        epochs: list of what was noted, `{layer: values in the order of STATISTICS}` for each.
        title: title of the picture.
    """
    try:
        # Imported only here, since nothing else in the package draws.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "`StepMonitor.plot` draws with matplotlib, which is not installed: call "
            "`pip install matplotlib`."
        ) from error
    layers = list(dict.fromkeys(name for epoch in epochs for name in epoch))
    # No window of a notebook or of pyplot's is opened, and none has to be closed.
    figure = Figure(figsize=(_WIDTH, _AROUND + _ROW * len(layers)), layout="constrained")
    figure.suptitle(title)
    cosines, lengths, times = figure.subplots(1, 3, sharey=True)
    for number, epoch in enumerate(epochs, 1):
        shade = _FAINTEST + (_DARKEST - _FAINTEST) * number / len(epochs)
        noted = {name: dict(zip(STATISTICS, values)) for name, values in epoch.items()}
        rows = [layers.index(name) for name in noted]
        dots = {"linestyle": "none", "marker": "o", "color": "tab:blue", "alpha": shade}
        cosines.plot([n["cosine"] for n in noted.values()], rows, **dots)
        lengths.plot([_length(n) for n in noted.values()], rows, **dots)
    # The times of the last epoch, since a time is measured once.
    times.barh(rows, [1000 * n["seconds"] for n in noted.values()], color="tab:blue")
    cosines.set_yticks(range(len(layers)), layers)
    # The first layer is the uppermost.
    cosines.invert_yaxis()
    cosines.set_xlabel("cosine of direction and gradient")
    lengths.set_xlabel("length of direction / gradient")
    lengths.set_xscale("log")
    times.set_xlabel("time of a solve (ms)")
    for axes in (cosines, lengths, times):
        axes.grid(axis="x", alpha=0.3)
    return figure


def _length(noted):
    # Without a gradient there is no such number; no dot is drawn.
    if not noted["gradient_norm"]:
        return float("nan")
    return noted["direction_norm"] / noted["gradient_norm"]
