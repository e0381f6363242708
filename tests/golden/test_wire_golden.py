"""The bytes of version 1 do not change: a node of today must understand a researcher of tomorrow.

If a test here fails, the wire format has changed: that needs a new version, not new files. (Before anything was
released, TASK was written anew for `TrainRequest.train` and `TrainRequest.acked_state`, and OFFER for
`TrainReply.state_id`, and PLAN_ASK and PLAN_STATUS were added; since the first release the rule holds.) What comes to
it since then goes only to those who say that they know it: SUMS, `Get.sums`, `Welcome.capabilities`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from fedplug.wire import Blob, decode_header, decode_table, encode_header, params_of, plan_of
from fedplug.wire.headers import AnyHeader

FOLDER = Path(__file__).parent / "wire_v1"
_spec = importlib.util.spec_from_file_location("wire_headers", Path(__file__).parent / "wire_headers.py")
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)


@pytest.mark.parametrize("name", sorted(golden.HEADERS))
def test_a_header_decodes_and_encodes_to_its_golden_bytes(name):
    data = (FOLDER / f"{name}.bin").read_bytes()
    assert decode_header(data) == golden.HEADERS[name]
    assert encode_header(decode_header(data)) == data
    assert encode_header(golden.HEADERS[name]) == data


def test_there_is_a_golden_file_for_every_type():
    tags = {kind.__struct_config__.tag for kind in AnyHeader.__args__}
    assert tags == set(golden.HEADERS)
    assert {path.stem for path in FOLDER.iterdir()} == tags | {"params", "params-table", "plan"}


def test_arrays_decode_from_their_golden_bytes():
    spec = decode_table((FOLDER / "params-table.bin").read_bytes())
    data = (FOLDER / "params.bin").read_bytes()
    blob_id = golden.PARAMS.fingerprint()
    params = params_of(spec, data, blob_id)
    assert bytes(params.buffer) == bytes(golden.PARAMS.buffer)
    assert spec == golden.PARAMS.spec
    assert blob_id == "cc05da638bea909d36380db4ead901dd01c7bdbd30aa1ce95c1274097b12481a"
    blob = Blob.of_params(golden.PARAMS)
    assert blob.table == (FOLDER / "params-table.bin").read_bytes()
    assert blob.buffer == data


def test_a_plan_decodes_from_its_golden_bytes():
    data = (FOLDER / "plan.bin").read_bytes()
    assert plan_of(data, golden.PLAN.hash) == golden.PLAN
    assert Blob.of_plan(golden.PLAN).buffer == data
