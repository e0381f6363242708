"""A backend whose gradients are private: DP-SGD under the one training loop.

Abadi et al., Deep Learning with Differential Privacy, CCS 2016, algorithm 1, in each step::

    take a random sample L            each of n samples with probability q = batch_size / n  (`draw`)
    g_i <- gradient for sample i      by Opacus, which hangs hooks into the module           (`forward`, `backward`)
    g_i <- g_i * min(1, C / ||g_i||)  C = clip                                               (`backward`)
    g <- (sum g_i + N(0, (sigma C)^2)) / (q n)                                               (`backward`)
    move the parameters by g                                                                 (`step`)

All of it up to the noise happens in `backward`. Whatever a hook does with the gradient after that (FedProx, gradient
clipping, control variates) works on what is private already, and costs no privacy.

Nothing else may move a shared parameter. The training begins with what the researcher has sent (`guard`); before each
step they must be as the step before has left them, and so must those that leave the node (`check_shared`).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer

from fedplug.core.data import BatchSource, LoaderArgs
from fedplug.core.errors import PlanError, UsageError
from fedplug.core.local_state import StateBook
from fedplug.core.noise import NoiseStream, derive_key
from fedplug.core.params import Params
from fedplug.core.privacy import PRIVACY, privacy_args
from fedplug.core.rng import SeedTree
from fedplug.core.trainer import Phase
from fedplug.core.trainer.split_data import LoaderSource
from fedplug_torch import params as torch_params
from fedplug_torch.backend import TorchBackend
from fedplug_torch.privacy import Spent, add_spent, spent_epsilon
from fedplug_torch.private_batches import pick

if TYPE_CHECKING:
    from fedplug_torch.plan import TorchTrainingPlan

_MARKS = ("grad_sample", "summed_grad", "_forward_counter", "_current_grad_sample")
"""What Opacus leaves at parameters."""

_UNEXPLAINED = 1024
"""The mean of the samples' gradients may differ from the gradient by so many eps of its dtype, relative to both."""


class NoisyOptimizer(DPOptimizer):  # type: ignore[misc] # Opacus has no types
    """Opacus's optimizer with noise from a key of ours.

    The noise of a step depends on the key, the number of the step, and the very sum that it is added to: the same sum
    gets the same noise, and a sum that differs in one bit, because a file was changed meanwhile, gets other noise.

    Args:
        optimizer: The plan's.
        key: The key of this training's noise.
        sigma: Standard deviation of the noise, in units of ``clip``.
        clip: Largest norm of one sample's gradient.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, key: bytes, sigma: float, clip: float) -> None:
        super().__init__(optimizer, noise_multiplier=sigma, max_grad_norm=clip, expected_batch_size=1)
        self.key = key
        self.count = 0

    def add_noise(self) -> None:
        """Set the gradients to the clipped sums plus noise."""
        std = float(self.noise_multiplier * self.max_grad_norm)
        self.count += 1
        if std == 0:
            for p in self.params:
                p.grad = p.summed_grad.view_as(p)
            return
        seen = hashlib.sha256()
        for p in self.params:
            seen.update(p.summed_grad.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        stream = NoiseStream(derive_key(self.key, self.count.to_bytes(8, "little"), seen.digest()))
        for p in self.params:
            noise = torch.from_numpy(stream.normal(p.numel()) * std).view(p.shape)
            p.grad = p.summed_grad.view_as(p) + noise.to(p.device, p.dtype)


class PrivateTorchBackend(TorchBackend):
    """Moves a plan's module and optimizer by private gradients.

    Args:
        plan: A plan that was set up, with ``dp_args`` of type ``local``.

    Raises:
        UsageError: Nobody has supplied the key of the noise.
    """

    protects_samples = True

    def __init__(self, plan: TorchTrainingPlan) -> None:
        super().__init__(plan)
        state = plan._state
        args = privacy_args(state.training_args, "local")
        if args is None or not state.noise_key:
            raise UsageError(
                "Local differential privacy needs a key for its noise, and a node's is not here.",
                cure="Train on a node or in a simulation; both have one.",
            )
        self._sigma, self._clip, self._delta = args["sigma"], args["clip"], args["delta"]
        self._poisson: bool = args["poisson"]
        self._noise_key = derive_key(state.noise_key, b"noise")
        self._sampling = NoiseStream(derive_key(state.noise_key, b"sampling"))
        self._log = state.log
        self._private: NoisyOptimizer | None = None
        self._hooked: GradSampleModule | None = None
        self._history: list[Spent] = []
        self._left: dict[str, torch.Tensor] = {}  # the shared parameters as the last step has left them
        self._moving: frozenset[str] = frozenset()  # those of them that steps move
        self._size = -1  # samples of the batch that was drawn; -1: there is none, or it has been used
        self._divisor = 1.0
        self._rate = 1.0
        self._unchecked = True

    # batches -----------------------------------------------------------------------------------------------

    def draw(self, source: BatchSource, loader: LoaderArgs, seed: SeedTree) -> Iterator[tuple[Any, int]]:
        """Poisson samples, as many as are asked for; or the batches of one ordinary pass.

        Who is in a Poisson sample comes from the node's key: the privacy that sampling gives is lost on somebody who
        knows the sample, and the researcher knows ``seed``. Of an ordinary pass nothing is assumed to be unknown.
        """
        if isinstance(source, LoaderSource):
            raise UsageError(
                "Local differential privacy draws the samples itself, and cannot do so from a loader.",
                cure="Give the data set instead of a loader.",
            )
        count = len(source)
        self._unchecked = True
        if self._poisson:
            self._rate = min(1.0, loader.batch_size / count)
            while True:
                picked = np.flatnonzero(self._sampling.uniform(count) < self._rate)
                batch = pick(source, picked, loader)
                self._size, self._divisor = len(picked), self._rate * count
                yield batch, len(picked)
        self._rate = 1.0
        for number, (batch, size) in enumerate(super().draw(source, loader, seed)):
            self._size, self._divisor = size, float(size)
            if number == 0:
                # A pass takes each sample once, so all its steps together are one mechanism, at sample rate 1.
                add_spent(self._history, self._sigma, 1.0, 1)
            yield batch, size

    # a routine ---------------------------------------------------------------------------------------------

    def prepare(self, phase: Phase) -> None:
        """As usual; and hang Opacus's hooks into the module before a training."""
        super().prepare(phase)
        if phase is not Phase.EVAL and self._hooked is None:
            # The wrapper itself is not called: its hooks sit in the plan's own module, whose names stay as they are.
            self._hooked = GradSampleModule(self.model, batch_first=True, loss_reduction="mean")
            shared = self._shared()
            self._moving = self._moved_of(shared)
            self._left = self._left or {name: tensor.detach().clone() for name, tensor in shared.items()}

    def forward(self, data: Any, target: Any) -> torch.Tensor:
        """The plan's loss, checked; 0 for an empty sample, of which no plan could make a loss."""
        for module in self.model.modules():  # what a forward pass without its backward pass has left of other samples
            vars(module).pop("activations", None)
            vars(module).pop("max_batch_len", None)
        for p in self.model.parameters():
            vars(p).pop("_current_grad_sample", None)
            p._forward_counter = 0
        if self._size == 0:
            return torch.zeros((), device=self.device)
        return super().forward(data, target)

    def backward(self, loss: torch.Tensor) -> None:
        """Private gradients: of each sample, clipped, added up, with noise, over the expected size of a sample."""
        size, self._size = self._size, -1
        if size < 0:
            raise UsageError(
                "Local differential privacy takes one gradient of each batch that it has drawn, and no other.",
                cure="A hook or trainer that calls backward by itself cannot be used with dp_args of type local.",
            )
        private = self._optimizer()
        private.zero_grad(set_to_none=True)
        if size:
            with warnings.catch_warnings():
                # Torch tells that the data need no gradient, as it does once for each training with Opacus.
                warnings.filterwarnings("ignore", "Full backward hook is firing")
                loss.backward()
            self._check_gradients(private, size)
        for p in private.params:
            if getattr(p, "grad_sample", None) is None:
                p.grad_sample = p.new_zeros((size, *p.shape))
        private.expected_batch_size = self._divisor
        private.pre_step()
        if self._poisson:
            add_spent(self._history, self._sigma, self._rate, 1)
        for p in private.params:  # the largest part of the memory
            p.grad_sample = p.summed_grad = None

    def step(self) -> None:
        """One step of the optimizer, from where the one before has ended.

        Raises:
            PlanError: Something else has changed a shared parameter or buffer meanwhile.
        """
        shared = self._shared()
        self._check(shared)
        self._moving = self._moved_of(shared)
        super().step()
        for name in self._moving:
            self._left[name].copy_(shared[name].detach())

    def discharge(self) -> None:
        """Forget gradients, and take Opacus's hooks out of the module."""
        super().discharge()
        if self._hooked is not None:
            self._hooked.remove_hooks()
            self._hooked = None
            for p in self.model.parameters():
                for name in _MARKS:
                    vars(p).pop(name, None)

    def clone(self) -> TorchBackend:
        """Not possible.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "Local differential privacy (dp_args) trains one model; a method with several would use each sample "
            "several times.",
            cure="Use dp_args of type 'central', or a plan that trains one model.",
        )

    # the account -------------------------------------------------------------------------------------------

    def account(self, book: StateBook, *, first: bool) -> dict[str, float]:
        """As `Backend.account`."""
        found = book.values(PRIVACY)
        history: list[Spent] = [list(entry) for entry in found.get("history", [])]
        # Rounds that left no account may have been without any noise.
        whole = bool(found.get("whole", first))
        for sigma, rate, steps in self._history:
            add_spent(history, float(sigma), float(rate), int(steps))
        rates = [float(rate) for _, rate, _ in self._history]
        self._history = []
        book.keep(PRIVACY, values={"history": history, "whole": whole})
        told = {"dp_delta": self._delta, "dp_sample_rate": max(rates, default=self._rate)}
        epsilon = spent_epsilon(history, self._delta) if whole else float("inf")
        if np.isfinite(epsilon):
            return {"dp_epsilon": epsilon, **told}
        why = "sigma is 0 in some round" if whole else "earlier rounds have left no account at this node"
        self._log(f"No epsilon can be stated for local differential privacy: {why}.")
        return told

    def _optimizer(self) -> NoisyOptimizer:
        """The present optimizer in its private dress."""
        if self.optimizer is None:
            raise PlanError("This plan was set up without an optimizer; it can be tested, not trained.")
        if self._private is None or self._private.original_optimizer is not self.optimizer:
            count = self._private.count if self._private else 0
            self._private = NoisyOptimizer(self.optimizer, self._noise_key, self._sigma, self._clip)
            self._private.count = count  # noise never repeats within a training
        return self._private

    def _check_gradients(self, private: NoisyOptimizer, size: int) -> None:
        """Refuse gradients of samples that are not: of parts of samples, or of only a part of the loss."""
        gap = total = 0.0
        eps = 0.0
        for p in private.params:
            each = getattr(p, "grad_sample", None)
            if each is not None and (not isinstance(each, torch.Tensor) or len(each) != size):
                raise PlanError(
                    "Local differential privacy needs one gradient for each sample of a batch, but a layer gave "
                    f"{len(each)} for {size} samples.",
                    cure="Every layer with parameters must get its batch as the first dimension, one row a sample.",
                )
            if self._unchecked and p.grad is not None:
                mean = torch.zeros_like(p.grad) if each is None else each.mean(0)
                gap += float((p.grad - mean).double().square().sum())
                total += float(p.grad.double().square().sum())
                total += 0.0 if each is None else float(each.double().square().sum()) / size
                eps = max(eps, torch.finfo(p.dtype).eps)
        self._unchecked = False
        if gap > (_UNEXPLAINED * eps) ** 2 * total:
            raise PlanError(
                "A part of the loss does not come from the samples, such as a penalty on the weights or a layer whose "
                "parameters are used outside of its forward; local differential privacy cannot train on it.",
                cure="Penalise weights with the optimizer's weight_decay; let layers be called as modules.",
            )

    # nothing else moves ------------------------------------------------------------------------------------

    def guard(self, start: Params) -> None:
        """As `Backend.guard`."""
        self._left = {name: tensor.to(self.device) for name, tensor in torch_params.unpack(start).items()}

    def check_shared(self, params: Params) -> None:
        """As `Backend.check_shared`."""
        self._check({name: tensor.to(self.device) for name, tensor in torch_params.views(params).items()})

    def _shared(self) -> dict[str, torch.Tensor]:
        """The shared parameters and buffers, live."""
        tensors = torch_params.distinct(self.model.state_dict(keep_vars=True))[0]
        local = set(self._plan.parameter_tags().local)
        return {name: tensor for name, tensor in tensors.items() if name not in local}

    def _moved_of(self, shared: Mapping[str, torch.Tensor]) -> frozenset[str]:
        """The names of those that the optimizer moves."""
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        moved = {id(p) for group in groups for p in group["params"]}
        return frozenset(name for name, tensor in shared.items() if id(tensor) in moved)

    def _check(self, found: Mapping[str, torch.Tensor]) -> None:
        for name, now in found.items():
            before = self._left.get(name)
            if before is not None and torch_params.bits_equal(now.detach(), before):
                continue
            if name not in self._moving:
                raise PlanError(
                    f"Training has changed {name!r}, which the optimizer does not move; local differential privacy "
                    "protects what the optimizer moves, and this would leave the node without noise.",
                    cure="Keep it at the node: tag it 'local' in tag_parameters, or set "
                    "training_args['share_persistent_buffers'] = False.",
                )
            raise PlanError(
                f"Something else than the optimizer's steps has changed {name!r}; local differential privacy protects "
                "what the steps do, and this would leave the node without noise.",
                cure="Do not write to the model's parameters in training_data, training_step, testing_step or hooks: "
                "change gradients in on_batch_backward. Or use dp_args of type 'central'.",
            )
