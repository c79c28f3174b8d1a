"""Which layers of a model take an implicit step, and why the others do not."""

import bisect
import collections
import dataclasses
import difflib

import keras

from keras_proxprop import machine
from keras_proxprop.arguments import check_choice
from keras_proxprop.blocks import find_block
from keras_proxprop.blocks.recurrent.cells import CellBlock
from keras_proxprop.blocks.recurrent.layers import cells_of, runs_on_cudnn
from keras_proxprop.exclude import check_exclude, matches
from keras_proxprop.final_layers import final_layers
from keras_proxprop.keras_seams.layers import layers_of, own_variables
from keras_proxprop.problem import FINAL, Member
from keras_proxprop.read_elsewhere import read_elsewhere
from keras_proxprop.solvers.auto import Auto
from keras_proxprop.weights import variable_key

ELSEWHERE = "called inside a tf.function or control flow of its own"
SHARED = "shares a weight with another layer"
JACOBIAN = "jacobians are those of the function"
TIED = "its weights are read elsewhere in the model, too"
CUDNN = "cuDNN's kernels are faster; use_cudnn=False makes it implicit"
APART = "its weights are solved for together, and some are not asked for"


class Plan:
    """Decides how each weight of a model steps: implicitly by which solver, or why not.

    The tape, `summary` and `StepMonitor` all ask a plan, and none of them decides anything.

    Args:
        model: `keras.Model`.
        solver: `Solver` of problems without memory.
        final_layer: "explicit" or "implicit".
        exclude: layers that take explicit steps: names, types or instances.
        memory: `StepMemory`, or `None`.
    """

    def __init__(self, model, solver, final_layer="explicit", exclude=(), memory=None):
        if not isinstance(model, keras.Model):
            raise TypeError(
                "Argument `model` must be a `keras.Model`: its layers are what takes "
                f"implicit steps. Received: model={model!r} (of type {type(model).__name__})"
            )
        self.model = model
        self.exclude = check_exclude(exclude)
        self._solver = solver
        self._final_layer = check_final_layer(final_layer)
        self._memory = memory
        self._found = {}
        self._known, self._excluded = set(), set()
        # `docs/gpu.md` says what a layer would lose.
        self._keeps_cudnn = isinstance(solver, Auto) and machine.in_force() is machine.GPU

    def members(self, recorder, target=None, wanted=None, jacobian=False):
        """Returns a `Member` for every recorded linear map that has weights to step.

        Args:
            recorder: `Recorder` of a forward pass.
            target: the loss. It takes the place of the model's outputs where the model as a
                whole was not called.
            wanted: keys of the variables to step, as `variable_key` makes them. Defaults to
                `None`: all of the blocks' weights.
            jacobian: whether a derivative of the function is asked for, and not a step.
        """
        uses, places = {}, {}
        for place, use in enumerate(recorder.uses):
            uses.setdefault(id(use.block), []).append(use)
            places[id(use.block)] = place
        blocks = [own[0].block for own in uses.values()]
        shared = _shared_variables(blocks)
        final, members = None, []
        for block, own in zip(blocks, uses.values()):
            weights = [w for w in block.weights if wanted is None or variable_key(w) in wanted]
            if not weights:
                continue
            if final is None:
                explicit = self._final_layer == "explicit" and not jacobian
                final = final_layers(recorder, target) if explicit else set()
            why = JACOBIAN if jacobian else None
            if any(variable_key(w) in shared for w in weights):
                why = SHARED
            elif id(block.layer) in final:
                why = FINAL
            elif not block.solves_for(weights):
                why = APART
            # An explicit step needs the whole linear map, whatever is asked for.
            weights = weights if why is None else block.weights
            normalized = all(id(use.z) in recorder.normalized for use in own)
            run = bisect.bisect(recorder.normalizations, places[id(block)])
            run = run if run < len(recorder.normalizations) else None
            members.append(Member(block, tuple(own), tuple(weights), why, normalized, run))
        return members

    def without_tied(self, recorder, members, rest=None):
        """Returns the members, explicit where other parts of the model read their weights.

        Args:
            recorder: `Recorder` of a forward pass.
            members: what `members` returned.
            rest: `{variable_key: part of its gradient that goes around the linear maps}`.
                Defaults to `None`: every weight may have such a part.
        """
        # A recurrent layer reads its weights inside of a loop, and is recorded outside of it.
        steps = [m for m in members if m.why is None and not m.block.in_loop]
        own = [w for member in steps for w in member.weights]
        if rest is not None:
            own = [w for w in own if rest.get(variable_key(w)) is not None]
        tied, found = read_elsewhere(recorder, own, self.block), []
        for member in members:
            in_question = any(member is other for other in steps)
            if in_question and any(variable_key(w) in tied for w in member.weights):
                weights = tuple(member.block.weights)
                member = dataclasses.replace(member, why=TIED, weights=weights)
            found.append(member)
        return found

    def solvers(self, problems, batch_size, for_good=False):
        """Returns the solver of every problem.

        Args:
            problems: list of all `Problem`s of implicit steps, each with its `Rows`.
            batch_size: number of items in the batch, `None` where that is not known.
            for_good: whether a step is made with these: then which problems have memory is
                settled. Defaults to `False`.
        """
        if self._memory is None:
            return [self._solver for _ in problems]
        return self._memory.solvers(problems, self._solver, batch_size, for_good)

    def refreshed(self, problems, batch_size, tau, finite):
        """Returns the solver of every problem of a step, and has memory refresh what is due.

        Args:
            problems, batch_size: as in `solvers`.
            tau: `Tau`.
            finite: function that returns whether all that the step is made of is finite, a
                boolean tensor.
        """
        solvers = self.solvers(problems, batch_size, for_good=True)
        if self._memory is None:
            return solvers
        return self._memory.refreshed(problems, solvers, tau, finite)

    def reason_without_member(self, recorder, layer):
        """Returns why a layer with weights has no member among those of `recorder`."""
        if self.reason(layer) is not None:
            return self.reason(layer)
        if id(layer) in recorder.not_taken:
            return recorder.not_taken[id(layer)]
        return ELSEWHERE if id(layer) in recorder.elsewhere else "not called"

    def block(self, layer):
        """Returns the layer's block, or `None` if it must take an explicit step."""
        return self._find(layer)[0]

    def reason(self, layer):
        """Returns why the layer must take an explicit step, or `None` if it need not."""
        return self._find(layer)[1]

    def check_exclude_matches(self):
        """Raises an error if an entry of `exclude` matches no layer of the (built) model."""
        layers = layers_of(self.model, include_self=False)
        for entry in self.exclude:
            if not any(matches(entry, layer) for layer in layers):
                names = [layer.name for layer in layers if own_variables(layer)]
                close = difflib.get_close_matches(str(entry), names, 1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                # A model may have hundreds of layers.
                more = f" and {len(names) - 10} more" if len(names) > 10 else ""
                raise ValueError(
                    f"Argument `exclude` names no layer of the model: exclude={entry!r}."
                    f"{hint} The model's layers with weights are {names[:10]}{more}; "
                    "`model.summary(expand_nested=True)` lists all."
                )

    def _find(self, layer):
        key = id(layer)
        if key not in self._found:
            excluded = self.excludes(layer)
            self._found[key] = (None, "excluded") if excluded else self._find_block(layer)
        return self._found[key]

    def _find_block(self, layer):
        block, why = find_block(layer)
        if block and self._keeps_cudnn and runs_on_cudnn(layer):
            return None, CUDNN
        if isinstance(block, CellBlock):
            # Where the layer that loops over the cell has no block, the cell has none.
            for owner in layers_of(self.model):
                looped = isinstance(owner, keras.layers.RNN)
                if looped and any(cell is layer for cell in cells_of(owner)):
                    if self._find(owner)[0] is None:
                        return self._find(owner)
        return block, why

    def excludes(self, layer):
        """Returns whether a layer, or one that it is in, is in `exclude`."""
        if any(matches(entry, layer) for entry in self.exclude):
            return True
        # The model's layers are walked again only for a layer that was built after that.
        if self.exclude and id(layer) not in self._known:
            for owner in layers_of(self.model):
                self._known.add(id(owner))
                # A layer that holds layers, a nested model say, is excluded with all of them.
                if owner is not self.model and any(matches(e, owner) for e in self.exclude):
                    self._excluded.update(map(id, layers_of(owner)))
        return id(layer) in self._excluded


def _shared_variables(blocks):
    """Returns the keys of the variables that blocks of several layers call theirs."""
    owners = collections.defaultdict(set)
    for block in blocks:
        for weight in block.weights:
            owners[variable_key(weight)].add(id(block.whole))
    return {variable for variable, wholes in owners.items() if len(wholes) > 1}


def check_final_layer(final_layer):
    """Returns `final_layer` if it is a known treatment of final layers."""
    return check_choice("final_layer", final_layer, ("explicit", "implicit"))
