"""The part of `fedplug.TrainingPlan` that is about files: its own text, and its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fedplug.core import model_files
from fedplug.core.errors import PlanError, UsageError
from fedplug.core.model_files import ModelFormat
from fedplug.core.whole_file import whole_file

if TYPE_CHECKING:
    from fedplug.core.plan_source import PlanBundle


class PlanFiles:
    """Text and model of a plan, to and from files."""

    framework: ClassVar[str]

    _imported: Callable[[], None] | None = None
    """Told of a model that was imported: the experiment whose global model this plan holds goes on from it."""

    # its text ----------------------------------------------------------------------------------------------

    def source(self) -> str:
        """All text that is executed at the nodes: import lines, the class, then each helper module.

        Raises:
            PlanSourceError: The class is not from an experiment, and cannot travel.
        """
        return self._bundle().text

    def save_code(self, path: str | Path) -> Path:
        """Write the plan to a Python file, and its helper modules beside it.

        The file can be given as ``training_plan_path``.

        Args:
            path: The file, e.g. ``"plans/my_plan.py"``; replaced if it is there.

        Raises:
            UsageError: It has another suffix, its folder is not there, or a helper would replace another file.
        """
        bundle, target = self._bundle(), Path(path).expanduser()
        if target.suffix != ".py" or not target.parent.is_dir():
            raise UsageError(
                f"The code of a plan cannot be written to {target}.",
                cure="Give the path of a .py file in a folder that is there.",
            )
        texts = {target: bundle.code}
        for name, text in bundle.helpers.items():
            parts = name.split(".")
            package = any(other.startswith(f"{name}.") for other in bundle.helpers)
            parts = [*parts, "__init__"] if package else parts
            file = target.parent.joinpath(*parts).with_suffix(".py")
            if file in texts or (file.exists() and file.read_text(encoding="utf-8") != text):
                raise UsageError(f"Helper module {name!r} would replace {file}.", cure="Give a path in another folder.")
            texts[file] = text
        for file, text in texts.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(file) as draft:
                draft.write_bytes(text.encode())
        return target

    def _bundle(self) -> PlanBundle:
        from fedplug.core.plan_source import bundle_plan

        return bundle_plan(type(self))  # type: ignore[arg-type] # only plans derive from this class

    # its model ---------------------------------------------------------------------------------------------

    def export_model(self, path: str | Path) -> Path:
        """Write the whole model (local parameters and buffers too) to a file that other software can read.

        The suffix says the format. PyTorch: ``.pt``, ``.pth`` and ``.bin`` are ``torch.save(model.state_dict())``.
        NumPy: ``.npz``, and ``.joblib`` and ``.skops`` of the dict of arrays. scikit-learn: ``.joblib`` and ``.skops``
        of the fitted estimator, ``.npz`` of its parameters. All: ``.safetensors``.

        Args:
            path: The file; it is replaced as a whole, or stays as it was.

        Raises:
            PlanError: The plan has no model yet.
            UsageError: The suffix is not known, or the folder is not there.
        """
        return model_files.write_model(self._model_object(), path, self._model_formats())

    def import_model(self, path: str | Path, trusted: bool = False) -> None:
        """Take over the model from a file that `export_model` or other software has written.

        An experiment's own plan (``experiment.training_plan()``) takes it for the experiment: the next round starts
        with it.

        Args:
            path: The file; its suffix says the format.
            trusted: Read it even if it holds more than arrays, which can run any code its maker has put in. Only
                for files that you have made yourself.

        Raises:
            PlanError: The plan has no model yet.
            UsageError: There is no such file, its suffix is not known, or it must be trusted and is not.
            CodecError: It is damaged.
            ParamsError: It is another model (all differences are listed), or has a value that is not finite.
        """
        self._model_object()  # no file is opened for a plan that was not set up
        self._take_model_object(model_files.read_model(path, self._model_formats(), trusted=trusted), path)
        if self._imported is not None:
            self._imported()

    def _model_formats(self) -> Mapping[str, ModelFormat]:
        """The formats of `_model_object`, by suffix."""
        raise PlanError(f"A plan of framework {self.framework!r} cannot write its model to a file.")

    def _model_object(self) -> Any:
        """What an export holds, e.g. a ``state_dict``."""
        raise PlanError(f"A plan of framework {self.framework!r} cannot write its model to a file.")

    def _take_model_object(self, found: Any, path: str | Path) -> None:
        """Check what was read from ``path`` and copy it into the model; nothing is changed if it does not fit."""
        raise PlanError(f"A plan of framework {self.framework!r} cannot read its model from a file.")
