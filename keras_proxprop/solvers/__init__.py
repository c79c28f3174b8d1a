"""Solvers of the proximal step's least-squares problem, `P = (AᵀA + I/τ)⁻¹ Aᵀ D`."""

from keras_proxprop.solvers.auto import Auto as _Auto
from keras_proxprop.solvers.conjugate_gradient import ConjugateGradient
from keras_proxprop.solvers.exact import Exact
from keras_proxprop.solvers.solver import Solver as _Solver

__all__ = ["ConjugateGradient", "Exact"]

_BY_NAME = {"auto": _Auto, "exact": Exact, "cg": ConjugateGradient}


def _get(identifier):
    """Returns the solver that `identifier` names: a solver, or "auto", "exact", "cg"."""
    if isinstance(identifier, _Solver):
        return identifier
    if isinstance(identifier, str) and identifier in _BY_NAME:
        return _BY_NAME[identifier]()
    raise ValueError(
        "Argument `solver` must be one of 'auto', 'exact', 'cg', or an instance of "
        "`keras_proxprop.solvers.Exact` or `keras_proxprop.solvers.ConjugateGradient`. "
        f"Received: solver={identifier!r}"
    )
