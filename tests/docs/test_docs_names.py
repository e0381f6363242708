"""docs/names.md has every name of the pages it comes from, and each row leads to something that is there."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

import fedplug
import fedplug_declearn
import fedplug_scaffold
import fedplug_sklearn
import fedplug_torch
from fedplug import Experiment, TrainingArgs
from fedplug.core import numpy_backend, processes
from fedplug.core.data import LoaderArgs
from fedplug.researcher import breakpoints, kept_params
from fedplug.researcher.folders import experiments_root
from fedplug.researcher.history_entries import NodeEntry
from fedplug.researcher.snapshot import Snapshot

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "names.md"
_LEFT_OUT = "Left out, and why"

# What the Experiment and Training-Plan pages print, and what Fed-BioMed 6.4 has beyond them, by section of the page.
SOURCES = {
    "Experiment": """
        Experiment tags set_tags nodes set_nodes all_federation_nodes filtered_federation_nodes
        training_data set_training_data from_tags
        FederatedDataset FederatedDataSet data node_ids sample_sizes shapes set_federated_dataset
        Requests.list Requests.search Requests.ping_nodes verbose
        training_plan_class set_training_plan_class keep_weights training_plan_path training_plan
        training_plan_file display check_training_plan_status TrainingPlanStatusReply
        training_plan_approve description
        model_args set_model_args training_args set_training_args set_training_arguments
        aggregator set_aggregator agg_optimizer set_agg_optimizer node_selection_strategy strategy set_strategy
        round_limit set_round_limit round_current run rounds increase run_once test_after
        training_replies node_id node_name timing sample_size state_id experiment_id success msg dataset_id params
        params_path optimizer_args encrypted encryption_factor request_id protocol_version
        aggregated_params retain_full_history set_retain_full_history
        test_ratio set_test_ratio ratio shuffle_testing_dataset test_metric set_test_metric metric metric_args
        test_metric_args set_test_metric_args flag
        test_on_local_updates set_test_on_local_updates test_on_global_updates set_test_on_global_updates
        tensorboard set_tensorboard monitor set_monitor Monitor tensorboard_results_path runs
        experimentation_folder set_experimentation_folder experimentation_path Experiment_0001 FEDBIOMED_DIR
        id info researcher_id requests config_path secagg set_secagg secagg_setup SecureAggregation LOM analytics
        preprocessing set_preprocessing commit_experiment_history save_aggregated_params save_training_replies
        load_training_replies
        exp_exceptions FederatedWorkflow TrainingPlanWorkflow TrainingJob Job
        job_id command training_plan_url params_url train_request training_reply n_features n_classes
    """,
    "Breakpoints": """
        save_breakpoints set_save_breakpoints breakpoint load_breakpoint path
        breakpoint_RRRR breakpoint_RRRR.json model_RRRR.py model_params_<uuid>.mpk aggregated_params_<uuid>.mpk
        id breakpoint_version training_data experimentation_folder tags nodes secagg node_state model_args
        training_plan_class_name training_args training_plan_path model_weights_path round_current round_limit
        aggregator agg_optimizer node_selection_strategy aggregated_params training_replies preprocessing
    """,
    "Training arguments": """
        optimizer_args lr loader_args batch_size epochs num_updates batch_maxnum dry_run test_ratio test_batch_size
        test_on_local_updates test_on_global_updates shuffle_testing_dataset test_metric test_metric_args log_interval
        fedprox_mu use_gpu dp_args share_persistent_buffers random_seed
        TrainingArgs default_scheme scheme default_value dict get [] update ^= get_state_breakpoint
        load_state_breakpoint testing_arguments pure_training_arguments dp_arguments loader_arguments
        optimizer_arguments extra_scheme
    """,
    "Training plans": """
        TorchTrainingPlan BaseTrainingPlan SKLearnTrainingPlan FedPerceptron FedSGDClassifier FedSGDRegressor
        SKLEARN_MODELS __init__ init_model init_optimizer init_dependencies training_data training_step data target
        forward testing_step postprocess model optimizer model_args training_args optimizer_args loader_args
        node_id round source save_code add_preprocess pre_processes ProcessTypes DATA_LOADER PARAMS
        tag_parameters local persistent export_model import_model
        get_model_params only_trainable exclude_buffers local_params set_model_params after_training_params flatten
        post_init aggregator_args initialize_optimizer get_model_wrapper_class set_optimizer
        training_routine history_monitor node_args testing_routine before_train training_data_loader
        testing_data_loader correction_state aggregator_name initial_parameters send_to_device
        torch nn F PytorchDataLoader datasets transforms
    """,
    "Data": """
        DataManager dataset target loader_kwargs batch_size shuffle drop_last
        TabularDataset input_columns target_columns transform target_transform ImageFolderDataset MnistDataset
        MedNistDataset MedicalFolderDataset data_modalities target_modalities CustomDataset read get_item
        dataloadingplan PreprocType FEDCOMBAT
    """,
    "Metrics": """
        MetricTypes ACCURACY F1_SCORE PRECISION RECALL MEAN_SQUARE_ERROR MEAN_ABSOLUTE_ERROR EXPLAINED_VARIANCE
        Custom Custom_1
    """,
    "Optimizers": """
        torch.optim NativeTorchOptimizer Optimizer decay modules regularizers AdaGrad Adam EWMA Momentum RMSProp Yogi
        YogiMomentum ScaffoldClient ScaffoldServer FedProx Lasso Ridge aux optim_aux_var set_aux
    """,
    "Aggregators": """
        Aggregator aggregate model_params weights check_values create_aggregator_args set_fds set_training_plan_type
        save_state_breakpoint load_state_breakpoint FedAverage FedProx Scaffold server_lr fds
    """,
    "Strategies": "DefaultStrategy Strategy sample_nodes from_nodes round_i refine",
    "Differential privacy": "type local central sigma clip",
}

# Where a name would be found if it were there; a name that stands alone on the page must be in none of them.
_MODULES = (fedplug, fedplug_torch, fedplug_sklearn, fedplug_declearn, fedplug_scaffold)
_PLACES = [*_MODULES, Experiment, fedplug.TrainingPlan, fedplug_torch.TorchTrainingPlan]


@cache
def tables() -> dict[str, list[list[str]]]:
    """The rows of each table as lists of cells, by the heading above."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("|") and not line.startswith(("| there", "| ---")):
            cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
            found.setdefault(heading, []).append(cells)
    return found


def rows() -> Iterator[tuple[str, list[str]]]:
    """Section and cells of every row about a name that is there."""
    for section, found in tables().items():
        if section != _LEFT_OUT:
            for cells in found:
                yield section, cells


def marked(cell: str) -> list[str]:
    """What a cell shows as code."""
    return re.findall(r"`([^`]+)`", cell)


def plain(name: str) -> str:
    """A name of the left-out table without what it belongs to: ``set_secagg`` of ``Experiment.set_secagg``."""
    keyed = re.fullmatch(r'[\w.]+\["(\w+)"\]', name)
    return keyed[1] if keyed else re.sub(r"^[A-Z]\w+\.", "", name)


@cache
def keys() -> dict[str, set[str]]:
    """What may stand in brackets after a word of the page."""
    dp = TrainingArgs.from_dict({"dp_args": {"sigma": 1, "clip": 1}}).dp_args or {}
    return {
        "training_args": set(TrainingArgs.default_scheme()),
        "optimizer_args": set(TrainingArgs().optimizer_args),
        "loader_args": set(LoaderArgs().as_dict()),
        "dp_args": set(dp),
        "reply": set(NodeEntry(samples=1).record("n", 0)),
        "breakpoint.json": {field.name for field in msgspec.structs.fields(Snapshot)},
    }


def files() -> set[str]:
    inside = (breakpoints.MANIFEST, breakpoints.PARAMS, breakpoints.PLAN)
    return {*(f"breakpoint_0001/{name}" for name in inside), f"{kept_params.FOLDER}/params_0001.safetensors"}


def public(name: str) -> Any:
    for module in _MODULES:
        if name in module.__all__:
            return getattr(module, name)
    raise LookupError(f"{name} is no public name")


def resolve(here: str) -> None:
    """Find what a cell of the second column names.

    Raises:
        LookupError, AttributeError: It is not there.
    """
    if keyed := re.fullmatch(r'([\w.]+)\["(\w+)"\]', here):
        if keyed[2] not in keys()[keyed[1]]:
            raise LookupError(here)
    elif own := re.fullmatch(r"def (\w+)", here):  # a method that a plan may have, and the library looks for
        if f'"{own[1]}"' not in inspect.getsource(numpy_backend) + inspect.getsource(processes):
            raise LookupError(here)
    elif here.startswith("$"):
        assert experiments_root().as_posix().endswith(here.partition("/")[2])
    elif "/" in here:
        if here not in files():
            raise LookupError(here)
    else:
        path, _, argument = here.removesuffix(")").partition("(")
        first, *rest = path.split(".")
        found = public(first)
        for name in rest:
            found = _member(found, name)
        if argument and argument not in _arguments(found):
            raise LookupError(here)


def _member(found: Any, name: str) -> Any:
    if inspect.isclass(found) and any(name in inspect.get_annotations(base) for base in found.__mro__):
        return None  # an attribute that its objects have
    return getattr(found, name)


def _arguments(found: Any) -> set[str]:
    return set(inspect.signature(found).parameters)


@cache
def known_tests() -> set[str]:
    """``file.py::test_name``, and the same after the folder of the file, for every test of the repository."""
    found = set()
    for file in [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "plugins").glob("*/tests/test_*.py")]:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found |= {f"{file.name}::{node.name}", f"{file.parent.name}/{file.name}::{node.name}"}
    return found


# the page ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", SOURCES)
def test_no_name_of_the_sources_is_missing_and_none_is_made_up(section):
    told = {name for cells in tables()[section] for name in marked(cells[0])}
    left_out = {plain(name) for cells in tables()[_LEFT_OUT] if cells[1] == section for name in marked(cells[0])}
    assert told & left_out == set()
    assert sorted(told | left_out) == sorted(set(SOURCES[section].split()))


def test_the_tables_are_those_of_the_sources():
    assert set(tables()) == {*SOURCES, _LEFT_OUT}
    assert {len(cells) for _, cells in rows()} == {4}
    assert {cells[1] for cells in tables()[_LEFT_OUT]} <= set(SOURCES)
    assert all(len(cells) == 3 and cells[2] for cells in tables()[_LEFT_OUT])


def test_what_each_row_leads_to_is_there():
    lost = []
    for section, (there, here, _, _) in rows():
        assert marked(here), there
        for name in marked(here):
            try:
                resolve(name)
            except (AttributeError, LookupError) as error:
                lost.append(f"{section}, {there}: {error!r}")
    assert lost == []


def test_each_row_has_tests_and_they_are_there():
    lost = []
    for section, (there, _, _, shown_by) in rows():
        assert marked(shown_by), there
        lost += [f"{section}, {there}: {test}" for test in marked(shown_by) if test not in known_tests()]
    assert lost == []


def test_what_is_left_out_is_not_there():
    found = []
    for name in (name for cells in tables()[_LEFT_OUT] for name in marked(cells[0])):
        keyed = re.fullmatch(r'([\w.]+)\["(\w+)"\]', name)
        owner, _, member = name.rpartition(".")
        if keyed:
            there = keyed[2] in keys()[keyed[1]]
        elif owner:
            there = hasattr(public(owner), member)
        else:
            there = any(hasattr(place, name) for place in _PLACES) or name in keys()["training_args"]
        found += [name] if there else []
    assert found == []


def test_the_imports_of_the_page_work():
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)  # the page is ours
    assert {"Experiment", "TorchTrainingPlan", "FedAverage", "MetricTypes", "TrainingArgs"} <= set(names)


@pytest.mark.parametrize(
    "wrong",
    [
        "Experiment.set_tag", "Nothing", "Experiment.run(round)", 'training_args["epoch"]', "def testing_stepp",
        "breakpoint_0001/model.pt", 'breakpoint.json["model"]', "TrainingPlan.testing_step",
    ],
)  # fmt: skip
def test_a_name_that_leads_nowhere_is_found_out(wrong):
    with pytest.raises((AttributeError, LookupError)):
        resolve(wrong)
