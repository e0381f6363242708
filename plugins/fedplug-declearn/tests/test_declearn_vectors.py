"""What is kept: arrays and plain data, there and back to the bit; and that nothing travels that is not listed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from declearn.model.sklearn import NumpyVector
from declearn.model.torch import TorchVector
from declearn.optimizer import list_optim_modules
from declearn.optimizer.modules import AuxVar, ScaffoldAuxVar, ScaffoldClientModule, ScaffoldServerModule
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

import fedplug_declearn
from fedplug import Params
from fedplug.core.errors import UsageError
from fedplug_declearn import vectors
from fedplug_declearn.specs import ALLOWED, aux_name

SOURCES = Path(fedplug_declearn.__file__).parent
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
FLOATS = st.sampled_from([np.float16, np.float32, np.float64])
ARRAYS = FLOATS.flatmap(lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, max_dims=3)))
MANY = st.dictionaries(NAMES, ARRAYS, min_size=1, max_size=4)


def bits(arrays: Any) -> dict[str, Any]:
    return {name: (np.asarray(each).dtype, np.shape(each), np.asarray(each).tobytes()) for name, each in arrays.items()}


# what travels ----------------------------------------------------------------------------------------------


def test_only_scaffolds_variables_are_on_the_list():
    assert dict(ALLOWED) == {"scaffold": (ScaffoldClientModule, ScaffoldServerModule)}


def test_every_module_of_declearns_is_known_to_talk_or_not():
    """One that a later declearn adds, and that talks, must not go unnoticed."""
    talking = set()
    for name, kind in list_optim_modules().items():
        if name not in ("gaussian-noise", "torch-optim"):
            talking |= {name} if aux_name(kind()) else set()
    assert talking == {"scaffold-client", "scaffold-server"}


# what is kept ----------------------------------------------------------------------------------------------

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
STATES = st.recursive(
    PLAIN | MANY.map(NumpyVector),
    lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=3) | st.lists(inner, max_size=3),
    max_leaves=8,
)


def comparable(state: Any) -> Any:
    if isinstance(state, NumpyVector):
        return ("vector", bits(state.coefs))
    if isinstance(state, dict):
        return {key: comparable(each) for key, each in state.items()}
    return [comparable(each) for each in state] if isinstance(state, list) else (type(state), state)


def without_vectors(packed: Any) -> bool:
    if isinstance(packed, Params):
        return True
    if isinstance(packed, dict | list):
        return all(map(without_vectors, packed.values() if isinstance(packed, dict) else packed))
    return packed is None or isinstance(packed, bool | int | float | str)


@given(STATES)
def test_a_state_is_kept_to_the_bit_as_plain_data(state):
    packed = vectors.pack(state)
    assert without_vectors(packed)
    assert comparable(vectors.unpack(packed, {})) == comparable(state)


@given(MANY)
def test_what_is_given_back_is_nobody_elses(arrays):
    packed = vectors.pack(NumpyVector(arrays))
    for found in (vectors.unpack(packed, {}), vectors.unpack(packed, {})):
        for each in found.coefs.values():
            each[...] = 7
    assert bits(packed) == bits(arrays)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_are_kept_to_the_bit(dtype):
    """A state may be more precise than its parameter, e.g. behind clipping: it stays so."""
    values = {
        "w": torch.randn(3, 2, generator=torch.Generator().manual_seed(1)).to(dtype),
        "s": torch.ones((), dtype=dtype),
    }
    like = {name: each.bfloat16() for name, each in values.items()}
    found = vectors.unpack(vectors.pack({"m": TorchVector(values)}), like)["m"]
    assert isinstance(found, TorchVector)
    assert all(
        torch.equal(found.coefs[name], each) and found.coefs[name].dtype is dtype for name, each in values.items()
    )


def test_sets_are_kept_in_order():
    assert vectors.pack({"clients": {"q", "p"}}) == {"clients": ["p", "q"]}


@pytest.mark.parametrize("thing", [object(), {1: 2}, [object()], {"a": ScaffoldAuxVar(state=0.0)}, b"x", print])
def test_what_is_not_on_the_list_is_not_kept(thing):
    with pytest.raises(UsageError, match="which cannot be kept"):
        vectors.pack(thing)


# where nothing can hide ------------------------------------------------------------------------------------


def test_nothing_of_it_unpickles_or_uses_declearns_own_decoders():
    files = sorted(SOURCES.glob("*.py"))
    assert len(files) >= 5
    used: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                used |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Attribute | ast.Name):
                used.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    banned = ("pickle", "dill", "marshal", "shelve", "serialize", "msgpack", "eval", "exec", "from_specs", "load")
    assert not [name for name in used if any(part in banned for part in name.split("."))]
    assert not [name for name in used if "serializ" in name]
    assert "declearn.optimizer.modules" in used


def test_importing_the_plugin_does_not_import_declearn():
    code = "import sys, fedplug_declearn as f; f.fedplug_register_agg_optimizers(); f.CosineDecay(0.1, 5)\n"
    code += "print([name for name in ('declearn', 'torch', 'sklearn') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = fedplug_declearn.Nonsense
    assert all(getattr(fedplug_declearn, name) for name in fedplug_declearn.__all__)


def test_variables_of_declearns_are_never_made_from_what_came():
    """`AuxVar.from_dict` of whatever class: only arrays are read."""
    assert issubclass(ScaffoldAuxVar, AuxVar)
    text = "".join(file.read_text(encoding="utf-8") for file in SOURCES.glob("*.py"))
    assert "from_dict" not in text
