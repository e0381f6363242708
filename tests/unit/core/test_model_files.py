"""NumPy models as files: what was exported comes back, everything else is refused and nothing is changed."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import joblib
import numpy as np
import pytest
import safetensors.numpy
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedplug import DataManager, NumpyTrainingPlan
from fedplug.core.errors import CodecError, FedplugError, ParamsError, PlanError, UsageError
from fedplug.core.model_files import ARRAY_FORMATS, damaged
from fedplug.core.training_plan import PlanSetup
from fedplug.core.whole_file import whole_file

SUFFIXES = [".npz", ".safetensors", ".joblib", ".skops"]


class Plan(NumpyTrainingPlan):
    model_of_the_test: ClassVar = {
        "w": np.arange(6.0).reshape(2, 3),
        "b": np.float32(0.5),
        "n/x": np.arange(2),
        "file": np.ones(1),
    }

    def init_model(self):
        return self.model_of_the_test

    def tag_parameters(self, name):
        return {"local"} if name == "b" else set()

    def training_data(self):
        return DataManager(np.zeros(4))

    def training_step(self, data, target):
        return 0.0, {}


def ready(model=None) -> NumpyTrainingPlan:
    plan = Plan()
    if model is not None:
        plan.model_of_the_test = model
    plan.setup(PlanSetup())
    return plan


def same(one, two) -> bool:
    """Compare values, shapes and dtypes, to the bit."""
    return one.keys() == two.keys() and all(
        (one[n].shape, one[n].dtype, one[n].tobytes()) == (two[n].shape, two[n].dtype, two[n].tobytes()) for n in one
    )


def bigger(plan):
    for array in plan.model().values():
        array += np.ones((), array.dtype)
    return plan


def test_a_key_that_a_reader_missed_is_not_told():
    assert damaged(Path("m.pt"), KeyError(101)).message == "m.pt is damaged, or no .pt file."
    assert "(ValueError: too short)" in damaged(Path("m.pt"), ValueError("too short")).message


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_exported_comes_back(tmp_path, suffix):
    plan = bigger(ready())
    path = plan.export_model(tmp_path / f"model{suffix}")
    assert path == tmp_path / f"model{suffix}"
    assert [each.name for each in tmp_path.iterdir()] == [path.name], "no temporary file is left"
    other = ready()
    references = dict(other.model())
    other.import_model(str(path), trusted=suffix == ".joblib")
    assert same(other.model(), plan.model())
    assert all(other.model()[name] is references[name] for name in references), "copied in place"
    assert list(other.get_params()) == ["w", "n/x", "file"]


@settings(max_examples=40)
@given(
    model=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8).filter(
            lambda name: name != "__metadata__"
        ),
        hnp.arrays(
            st.sampled_from([np.bool_, np.int8, np.uint16, np.int64, np.float16, np.float32, np.float64]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
        ),
        min_size=1,
        max_size=4,
    ),
    suffix=st.sampled_from(SUFFIXES),
)
def test_any_model_comes_back_to_the_bit(tmp_path_factory, model, suffix):
    model = {name: np.nan_to_num(array, posinf=1, neginf=1) for name, array in model.items()}
    path = tmp_path_factory.getbasetemp() / f"law{suffix}"
    ready(model).export_model(path)
    other = ready({name: np.zeros_like(array) for name, array in model.items()})
    other.import_model(path, trusted=True)
    assert same(other.model(), {name: np.asarray(array) for name, array in model.items()})


def test_other_software_reads_the_files(tmp_path):
    plan = ready()
    read = {
        ".npz": lambda path: dict(np.load(path)),
        ".safetensors": safetensors.numpy.load_file,
        ".joblib": joblib.load,
        ".skops": skops.io.load,
    }
    assert read.keys() == ARRAY_FORMATS.keys()
    for suffix, reader in read.items():
        assert same(reader(plan.export_model(tmp_path / f"m{suffix}")), plan.model())


def test_files_of_other_software_are_read(tmp_path):
    model = {name: array.copy() for name, array in bigger(ready()).model().items()}
    del model["file"]  # a name that numpy.savez cannot write
    plan = ready({name: np.zeros_like(array) for name, array in model.items()})
    np.savez_compressed(tmp_path / "m.npz", **model)
    safetensors.numpy.save_file(model, tmp_path / "m.safetensors")
    skops.io.dump(model, tmp_path / "m.skops")
    for suffix in (".npz", ".safetensors", ".skops"):
        plan.import_model(tmp_path / f"m{suffix}")
        assert same(plan.model(), model)
        for array in plan.model().values():
            array *= 0


def test_a_mismatch_lists_all_that_is_wrong_and_changes_nothing(tmp_path):
    path = ready({"w": np.ones((3, 2)), "b": np.float64(1), "n/x": np.arange(2), "new": np.ones(1)}).export_model(
        tmp_path / "m.npz"
    )
    plan = ready()
    with pytest.raises(ParamsError) as caught:
        plan.import_model(path)
    assert caught.value.message == (
        f"The model in {path} is not this plan's model:\n"
        "  - missing: file\n"
        "  - unexpected: new\n"
        "  - different: w (float64 [3, 2] in the file, float64 [2, 3] in the model), "
        "b (float64 [] in the file, float32 [] in the model)"
    )
    assert same(plan.model(), ready().model())
    many = ready({f"x{i}": np.zeros(1) for i in range(20)}).export_model(path)
    with pytest.raises(ParamsError, match="unexpected: x0, x1, x2, x3, x4, x5, x6, x7, and 12 more"):
        plan.import_model(many)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_values_that_are_not_finite_are_refused(tmp_path, suffix):
    plan = ready()
    plan.model()["w"][0, 1] = np.nan
    path = plan.export_model(tmp_path / f"m{suffix}")
    other = ready()
    with pytest.raises(ParamsError, match=r"not finite \(NaN or infinite\), in: w"):
        other.import_model(path, trusted=True)
    assert same(other.model(), ready().model())


def test_a_joblib_file_is_not_opened_without_trust(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    joblib.dump(Bomb(), tmp_path / "m.joblib")
    with pytest.raises(UsageError, match="is a joblib file, which is a pickle") as caught:
        ready().import_model(tmp_path / "m.joblib")
    assert "trusted=True" in caught.value.cure
    assert ".skops or .safetensors" in caught.value.cure
    assert not (tmp_path / "exploded").exists()


def test_a_skops_file_with_more_than_arrays_is_refused(tmp_path):
    skops.io.dump({"w": np.ones(1), "x": DataManager(np.ones(1))}, tmp_path / "m.skops")
    for trusted in (False, True):
        with pytest.raises(UsageError, match=r"holds more than arrays: fedplug.core.data.DataManager"):
            ready().import_model(tmp_path / "m.skops", trusted=trusted)


def test_an_npz_file_with_objects_is_refused(tmp_path):
    np.savez(tmp_path / "m.npz", w=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CodecError, match="Object arrays cannot be loaded"):
        ready().import_model(tmp_path / "m.npz", trusted=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("keep", [0, 7, -20])
def test_a_damaged_file_ends_in_one_error(tmp_path, suffix, keep):
    path = ready().export_model(tmp_path / f"m{suffix}")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CodecError, match=rf"m\{suffix} is damaged, or no \{suffix} file"):
        ready().import_model(path, trusted=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_something_else_ends_in_one_error(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"<html>not found</html>" * 10)
    with pytest.raises(CodecError):
        ready().import_model(path, trusted=True)
    if suffix == ".npz":
        np.save(tmp_path / "single.npy", np.ones(3))
        (tmp_path / "single.npy").rename(path)
        with pytest.raises(CodecError):
            ready().import_model(path)
    if suffix == ".joblib":
        joblib.dump([1, 2], path)
        with pytest.raises(ParamsError, match="missing: w, b, n/x, file"):
            ready().import_model(path, trusted=True)


@pytest.mark.parametrize("name", ["m", "m.pt", "m.pkl"])
def test_a_suffix_that_is_not_known_is_told(tmp_path, name):
    for call in (ready().export_model, ready().import_model):
        with pytest.raises(UsageError, match=f"'{name}': the suffix says the format") as caught:
            call(tmp_path / name)
        assert ".npz, .safetensors, .joblib, .skops" in caught.value.cure


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        ready().export_model(tmp_path / "nothing" / "m.npz")
    with pytest.raises(UsageError, match="no file"):
        ready().import_model(tmp_path / "m.npz")
    with pytest.raises(PlanError, match="not available yet"):
        Plan().export_model(tmp_path / "m.npz")
    with pytest.raises(PlanError, match="not available yet"):
        Plan().import_model(tmp_path / "m.npz")


def test_an_export_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = ready().export_model(tmp_path / "m.npz")
    before = path.read_bytes()

    def half(draft):
        draft.write_bytes(b"half of it")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), whole_file(path) as draft:
        half(draft)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skops.io", None)
    with pytest.raises(FedplugError, match="need the package skops") as caught:
        ready().export_model(tmp_path / "m.skops")
    assert "pip install skops" in caught.value.cure
