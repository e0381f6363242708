"""The names by which FederatedScope's Trainer page edits hooks, over `HookSet`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from fedplug.core.errors import UsageError
from fedplug.core.trainer.hook_set import HookSet, check_insert_mode
from fedplug.core.trainer.hooks import Hook
from fedplug.core.trainer.points import Phase, Trigger


class SeedNames(ABC):
    """``register_hook_in_train`` and its like, for one model or for the one of ``model_idx``."""

    @abstractmethod
    def hook_set(self, phase: Phase | str, model_idx: int = 0) -> HookSet:
        """The hooks of a phase, of one model."""

    @property
    def hooks_in_train(self) -> HookSet:
        """The hooks of training, to look at and to edit."""
        return self.hook_set(Phase.TRAIN)

    @property
    def hooks_in_eval(self) -> HookSet:
        """The hooks of evaluation."""
        return self.hook_set(Phase.EVAL)

    @property
    def hooks_in_finetune(self) -> HookSet:
        """The hooks of fine-tuning."""
        return self.hook_set(Phase.FINETUNE)

    def register_hook_in_train(
        self,
        new_hook: Any,
        target_trigger: Trigger | str,
        insert_pos: int | None = None,
        base_hook: Any = None,
        insert_mode: str = "before",
        *,
        model_idx: int = 0,
    ) -> Hook:
        """Add a hook to training.

        Args:
            new_hook: A hook, or any callable that takes the context.
            target_trigger: When to call it.
            insert_pos: Its position; -1 is last, as is the default.
            base_hook: The hook, its function or its name, that it is put next to.
            insert_mode: ``before`` or ``after`` the base.
            model_idx: Of which model, where there are several.

        Raises:
            UsageError: The position does not exist, or both a position and a base are given.
            UnknownNameError: There is no such trigger, base or mode.
        """
        return self._register(Phase.TRAIN, new_hook, target_trigger, insert_pos, base_hook, insert_mode, model_idx)

    def register_hook_in_eval(
        self,
        new_hook: Any,
        target_trigger: Trigger | str,
        insert_pos: int | None = None,
        base_hook: Any = None,
        insert_mode: str = "before",
        *,
        model_idx: int = 0,
    ) -> Hook:
        """Add a hook to evaluation; see `register_hook_in_train`."""
        return self._register(Phase.EVAL, new_hook, target_trigger, insert_pos, base_hook, insert_mode, model_idx)

    def register_hook_in_finetune(
        self,
        new_hook: Any,
        target_trigger: Trigger | str,
        insert_pos: int | None = None,
        base_hook: Any = None,
        insert_mode: str = "before",
        *,
        model_idx: int = 0,
    ) -> Hook:
        """Add a hook to fine-tuning; see `register_hook_in_train`."""
        return self._register(Phase.FINETUNE, new_hook, target_trigger, insert_pos, base_hook, insert_mode, model_idx)

    def replace_hook_in_train(
        self, new_hook: Any, target_trigger: Trigger | str, target_hook_name: str | None = None, *, model_idx: int = 0
    ) -> Hook:
        """Put a hook in the place of another of training; without a name, of all at the trigger.

        Raises:
            UnknownNameError: There is none of that name; nothing has changed then.
        """
        return self._replace(Phase.TRAIN, new_hook, target_trigger, target_hook_name, model_idx)

    def replace_hook_in_eval(
        self, new_hook: Any, target_trigger: Trigger | str, target_hook_name: str | None = None, *, model_idx: int = 0
    ) -> Hook:
        """Put a hook in the place of another of evaluation; see `replace_hook_in_train`."""
        return self._replace(Phase.EVAL, new_hook, target_trigger, target_hook_name, model_idx)

    def replace_hook_in_finetune(
        self, new_hook: Any, target_trigger: Trigger | str, target_hook_name: str | None = None, *, model_idx: int = 0
    ) -> Hook:
        """Put a hook in the place of another of fine-tuning; see `replace_hook_in_train`."""
        return self._replace(Phase.FINETUNE, new_hook, target_trigger, target_hook_name, model_idx)

    def reset_hook_in_train(
        self, target_trigger: Trigger | str, target_hook_name: str | None = None, *, model_idx: int = 0
    ) -> int:
        """Remove a hook of training; without a name, all of the trigger.

        Returns:
            The position where it stood; -1 if all were removed.

        Raises:
            UnknownNameError: There is none of that name.
        """
        return self._reset(Phase.TRAIN, target_trigger, target_hook_name, model_idx)

    def reset_hook_in_eval(
        self, target_trigger: Trigger | str, target_hook_name: str | None = None, *, model_idx: int = 0
    ) -> int:
        """Remove a hook of evaluation; see `reset_hook_in_train`."""
        return self._reset(Phase.EVAL, target_trigger, target_hook_name, model_idx)

    def reset_hook_in_finetune(
        self, target_trigger: Trigger | str, target_hook_name: str | None = None, *, model_idx: int = 0
    ) -> int:
        """Remove a hook of fine-tuning; see `reset_hook_in_train`."""
        return self._reset(Phase.FINETUNE, target_trigger, target_hook_name, model_idx)

    def _register(
        self, phase: Phase, new: Any, trigger: Trigger | str, position: int | None, base: Any, mode: str, model: int
    ) -> Hook:
        check_insert_mode(mode)
        if position is not None and base is not None:
            raise UsageError("Give insert_pos or base_hook, not both.")
        place = {} if base is None else {mode: base}
        return self.hook_set(phase, model).add(new, trigger, index=position, **place)

    def _replace(self, phase: Phase, new: Any, trigger: Trigger | str, name: str | None, model: int) -> Hook:
        hooks = self.hook_set(phase, model)
        if name is not None:
            return hooks.replace(name, new, trigger)
        hooks.clear(trigger)
        return hooks.add(new, trigger)

    def _reset(self, phase: Phase, trigger: Trigger | str, name: str | None, model: int) -> int:
        hooks = self.hook_set(phase, model)
        if name is None:
            hooks.clear(trigger)
            return -1
        removed = [each.answers_to(name) for each in hooks[trigger]]
        hooks.remove(name, trigger)
        return removed.index(True)
