"""Names of parameters by the kind of layer that holds them."""

from __future__ import annotations

from torch import nn

NORM_LAYERS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,  # BatchNorm1d to 3d, SyncBatchNorm, InstanceNorm1d to 3d
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
"""The normalisation layers of torch that have parameters or buffers."""


def norm_layer_names(model: nn.Module, kinds: tuple[type[nn.Module], ...] = NORM_LAYERS) -> frozenset[str]:
    """The names of all parameters and buffers that lie in layers of certain kinds.

    Args:
        model: Where to look.
        kinds: Classes of layers; the normalisation layers by default.
    """
    return frozenset(
        f"{place}.{name}" if place else name
        for place, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, kinds)
        for name in layer.state_dict()
    )
