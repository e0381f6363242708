"""Settings of the training plan: its class, where it comes from, the arguments of its model."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from fedplug.core.errors import ParamsError, UsageError
from fedplug.core.params import Params
from fedplug.core.plan_errors import plan_errors
from fedplug.core.plan_source import PlanBundle, bundle_plan, load_plan
from fedplug.core.training_args import TrainingArgs
from fedplug.core.training_plan import TrainingPlan
from fedplug.researcher.settings.base import SettingsBase, checked_flag
from fedplug.researcher.shown import shown


class PlanSettings(SettingsBase):
    """What is trained."""

    def set_training_plan_class(
        self, training_plan_class: type | str | None, keep_weights: bool = True
    ) -> type | str | None:
        """Set what is trained: a training plan class, or a bare model class that a plugin can wrap.

        The plan's source is looked up and executed once here, as a node would, so that what cannot travel
        is found now.

        Args:
            training_plan_class: The class; or the name of one in the file of `set_training_plan_path`; None for none.
            keep_weights: Whether the global parameters stay, if they were trained or imported; otherwise the
                model starts anew. What nodes keep between rounds starts anew in any case.

        Raises:
            UsageError: It is not a class, or no plugin knows what to do with it, or there is no file to look a name
                up in, or the parameters that are to be kept do not fit the new model.
            PlanSourceError: Its source cannot be found or executed.
        """
        checked_flag("keep_weights", keep_weights)
        found, bundle = training_plan_class, None
        if isinstance(training_plan_class, str):
            if self._plan_path is None:
                raise UsageError(
                    f"There is no file to look {training_plan_class!r} up in.",
                    cure="Call set_training_plan_path first, or pass the class itself.",
                )
            found = self._load_class(self._plan_path, training_plan_class)
        if found is not None:
            bundle = self._bundle_of(found)
        before = self._plan_class, self._bundle
        self._plan_class, self._bundle = training_plan_class, bundle
        try:
            self._renew_model(keep_weights)
        except BaseException:
            self._plan_class, self._bundle = before
            raise
        return training_plan_class

    def training_plan_class(self) -> type | str | None:
        """The class that was set, or its name in the file of `training_plan_path`."""
        return self._plan_class

    def set_training_plan_path(self, training_plan_path: str | os.PathLike[str] | None) -> Path | None:
        """Take the training plan from a Python file; `set_training_plan_class` then takes the name of the class.

        If no class is set, or only a name, the class is looked up at once: by that name, or else the only
        training plan in the file.

        Raises:
            UsageError: There is no such file, or no such class in it.
            PlanSourceError: The file cannot be executed.
        """
        if training_plan_path is None:
            self._plan_path = None
            return None
        if not isinstance(training_plan_path, str | os.PathLike):
            raise UsageError(f"training_plan_path must be the path of a file, got {shown(training_plan_path)}.")
        before, self._plan_path = self._plan_path, Path(training_plan_path)
        try:
            if not isinstance(self._plan_class, type):
                found = self._load_class(self._plan_path, self._plan_class)
                self.set_training_plan_class(found.__name__)
        except BaseException:
            self._plan_path = before
            raise
        return self._plan_path

    def training_plan_path(self) -> Path | None:
        """The file that the plan's class is looked up in; None if there is none."""
        return self._plan_path

    def training_plan_bundle(self) -> PlanBundle | None:
        """The plan as it travels to the nodes; ``.hash`` is its identity, ``.code`` its text."""
        return self._bundle

    def set_model_args(self, model_args: Mapping[str, Any] | None, keep_weights: bool = True) -> dict[str, Any]:
        """Arguments for the plan's ``init_model``.

        Args:
            model_args: The arguments; None for none.
            keep_weights: As for `set_training_plan_class`.

        Raises:
            UsageError: Not a dictionary with string keys, or the parameters that are to be kept do not fit.
        """
        args: object = {} if model_args is None else model_args
        if not isinstance(args, Mapping) or not all(isinstance(key, str) for key in args):
            raise UsageError(f"model_args must be a dictionary with string keys, got {shown(model_args)}.")
        checked_flag("keep_weights", keep_weights)
        before, self._model_args = self._model_args, deepcopy(dict(args))
        try:
            self._renew_model(keep_weights)
        except BaseException:
            self._model_args = before
            raise
        return self.model_args()

    def model_args(self) -> dict[str, Any]:
        """The model arguments, a copy."""
        return deepcopy(self._model_args)

    # the model ---------------------------------------------------------------------------------------------

    def training_plan(self) -> TrainingPlan:
        """The researcher's own instance of the plan, holding the global model.

        Raises:
            UsageError: No training plan class is set.
            PlanRunError: The plan raised while its model was made.
        """
        if self._plan is None:
            if self._bundle is None:
                raise UsageError("There is no training plan yet.", cure="Call set_training_plan_class first.")
            plan_class = load_plan(self._bundle)
            with plan_errors(self._bundle, "init_model"):
                plan = self._make_plan(plan_class)
            if self._params is not None:
                plan.set_params(self._params)
            plan._imported = functools.partial(self._take_imported, plan)
            self._plan = plan
        return self._plan

    def params(self) -> Params:
        """The global parameters now: of the last round, or the initial ones."""
        if self._params is None:
            self._params = self.training_plan().get_params()
        return self._params

    def export_model(self, path: str | Path) -> Path:
        """Save the global model to a file that other software can read.

        The same as ``training_plan().export_model(path)``; the kind of file follows from the end of its name.

        Raises:
            UsageError: No training plan class is set, or the end of the name is not known.
            StoreError: The file cannot be written.
        """
        return self.training_plan().export_model(path)

    def import_model(self, path: str | Path, *, trusted: bool = False) -> None:
        """Go on from a model in a file: the next round starts with it.

        The same as ``training_plan().import_model(path)``.

        Args:
            path: What `export_model` wrote, or other software.
            trusted: Whether you trust the file so far that it may run code on this machine when it is read. Kinds of
                files that cannot run code do not need it.

        Raises:
            UsageError: No training plan class is set, there is no such file, or it is of a kind that needs ``trusted``.
            ParamsError: It does not fit the model; what is missing and what is too much is listed.
        """
        self.training_plan().import_model(path, trusted=trusted)

    def _take_imported(self, plan: TrainingPlan) -> None:
        if plan is self._plan:  # one that was replaced meanwhile has no say
            self._params = plan.get_params()
            self._weights_matter = True

    def _make_plan(self, plan_class: type[TrainingPlan]) -> TrainingPlan:
        raise UsageError("These settings have no seed to make a model with.")

    def _load_class(self, path: Path, name: str | None) -> type:
        from fedplug.core.plan_path import load_plan_class

        return load_plan_class(path, name)

    def _bundle_of(self, found: object) -> PlanBundle:
        if not isinstance(found, type):
            raise UsageError(
                f"training_plan_class must be a class, got {shown(found)}.",
                cure="Pass the class itself, not an instance of it.",
            )
        return bundle_plan(found) if issubclass(found, TrainingPlan) else self.host.wrap_model(found)

    def _arguments_changed(self, before: TrainingArgs) -> None:
        """Let the researcher's plan follow: it must not matter whether somebody has looked at it before."""
        now = self._training_args
        other_layout = before.share_persistent_buffers != now.share_persistent_buffers
        if not self._weights_matter:
            if other_layout or before.random_seed != now.random_seed:
                self._plan = self._params = None
        elif other_layout:
            trained, self._plan, self._params = self._params, None, None
            fresh = self.training_plan().get_params()
            known = {} if trained is None else dict(trained)
            self._params = Params.from_arrays({name: known.get(name, array) for name, array in fresh.items()})
            self.training_plan().set_params(self._params)
        if self._plan is not None and self._plan._setup is not None:
            self._plan._setup = dataclasses.replace(self._plan._setup, training_args=now)

    def _renew_model(self, keep_weights: bool) -> None:
        """The plan or the arguments of its model have changed: start anew, or go on with the same parameters."""
        kept = self._params if keep_weights and self._weights_matter and self._bundle is not None else None
        before, self._plan = self._plan, None
        if kept is not None:
            try:
                self.training_plan()
            except ParamsError as error:
                self._plan = before
                raise UsageError(
                    f"The global parameters do not fit the new model: {error.message}",
                    cure="keep_weights=False starts with a new model; the old one is in the experiment's folder.",
                ) from None
            except BaseException:
                self._plan = before
                raise
        else:
            self._params, self._weights_matter = None, False
        self._forget_acknowledged()
