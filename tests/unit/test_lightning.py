import os
import pickle
import pickletools
import struct
import sys
import time
import tracemalloc
import warnings
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
import torch
from conversion.errors import ConversionError
from conversion.lightning import Name, OriginalCheckpoint, Placeholder, read_pickle
from safetensors.torch import save_file
from torch import nn

from tests.original_checkpoint import write_checkpoint


def archive(path, pickle_bytes, records=None, compression=zipfile.ZIP_STORED):
    """A file as torch.save lays it out, around any pickle."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickle_bytes)
        for name, data in (records or {}).items():
            file.writestr(f"archive/{name}", data)
    return path


def tensor_pickle(shape=(2, 3), strides=(3, 1), offset=0, num_elements=6, storage="FloatStorage", key="0", extra=()):
    """The pickle of {"state_dict": {"x": tensor}} in torch's own words, with whatever numbers are asked for."""

    class Persistent(pickle.Pickler):
        def persistent_id(self, value):
            return value.identity if isinstance(value, StorageStandIn) else None

    class StorageStandIn:
        identity = ("storage", getattr(torch, storage), key, "cpu", num_elements)

    class TensorStandIn:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (StorageStandIn(), offset, shape, strides, False, {}, *extra)

    from io import BytesIO

    stream = BytesIO()
    Persistent(stream, 2).dump({"state_dict": {"x": TensorStandIn()}})
    return stream.getvalue()


def read(path, name="x"):
    with OriginalCheckpoint(path) as checkpoint:
        return checkpoint.read(name)


# ------------------------------------------------------------------------------------------------------------ tensors


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
def test_a_tensor_is_read_as_torch_reads_it(tmp_path, dtype):
    tensor = (3 * torch.randn(3, 5, 2)).to(dtype)
    path = write_checkpoint(tmp_path / "a.ckpt", {"x": tensor})
    values = read(path)
    assert values.dtype == dtype
    assert torch.equal(values, torch.load(path, weights_only=True)["state_dict"]["x"])


def test_views_of_one_storage_are_read_each_for_itself(tmp_path):
    base = torch.arange(24.0)
    views = {
        "whole": base,
        "slice": base[5:9],
        "transposed": base.view(4, 6).t(),
        "strided": base.view(2, 3, 4)[:, ::2, 1::2],
        "expanded": base[3:4].expand(5, 2),
        "scalar": base[7],
        "single": base.view(4, 6)[1:2, 2:3],
        "empty": base[:0].view(0, 3),
    }
    path = write_checkpoint(tmp_path / "a.ckpt", views)
    with OriginalCheckpoint(path) as checkpoint:
        assert checkpoint.names == list(views)
        for name, view in views.items():
            values = checkpoint.read(name)
            assert torch.equal(values, view), name
            assert values.stride() == torch.empty(view.shape).stride(), name
            assert values.untyped_storage().nbytes() == view.numel() * 4, name


def test_parameters_and_tensors_with_attributes_are_read_as_tensors(tmp_path):
    marked = torch.randn(3)
    marked.note = "attribute"
    state = {"parameter": nn.Parameter(torch.randn(2, 2)), "marked": marked, "module": nn.Linear(2, 3).weight}
    with OriginalCheckpoint(write_checkpoint(tmp_path / "a.ckpt", state)) as checkpoint:
        for name, tensor in state.items():
            assert torch.equal(checkpoint.read(name), tensor.detach()), name


def test_a_state_dict_of_a_module_keeps_its_order_and_values(tmp_path):
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    with OriginalCheckpoint(write_checkpoint(tmp_path / "a.ckpt", module.state_dict())) as checkpoint:
        assert checkpoint.names == list(module.state_dict())
        assert all(torch.equal(checkpoint.read(name), value) for name, value in module.state_dict().items())


def test_a_state_dict_saved_alone_is_read(tmp_path):
    torch.save({"x": torch.ones(2)}, tmp_path / "a.pt")
    assert torch.equal(read(tmp_path / "a.pt"), torch.ones(2))


def test_values_outlive_the_open_file(tmp_path):
    values = read(write_checkpoint(tmp_path / "a.ckpt", {"x": torch.arange(1000.0)}))
    (tmp_path / "a.ckpt").unlink()
    assert torch.equal(values, torch.arange(1000.0))


def test_hyper_parameters_are_read_as_plain_values(tmp_path):
    settings = {"sample_rate": 24000, "ratio": 0.5, "flag": False, "path": Path("x"), "list": [1, ("a", None)]}
    path = write_checkpoint(tmp_path / "a.ckpt", {"x": torch.ones(1)}, hyper_parameters=settings)
    with OriginalCheckpoint(path) as checkpoint:
        found = dict(checkpoint.hyper_parameters)
    assert isinstance(found.pop("path"), Placeholder)
    assert found == {key: value for key, value in settings.items() if key != "path"}


def test_a_file_written_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = write_checkpoint(tmp_path / "a.ckpt", {"x": torch.ones(2)})
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read(path), torch.ones(2))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"strides": (-3, 1)}, "strides"),
        ({"strides": (3,)}, "equally many"),
        ({"shape": (2, -3)}, "strides are not equally many whole numbers"),
        ({"shape": (2, 2.0)}, "whole numbers"),
        ({"shape": [2, 3]}, "whole numbers"),
        ({"offset": -1}, "whole numbers"),
        ({"offset": 1}, "reaches to element 7 of a storage of 6"),
        ({"offset": 2**80}, "whole numbers"),
        ({"shape": (3, 3)}, "reaches to element 9"),
        ({"shape": (2**62, 2**62), "strides": (2**62, 1)}, "reaches to element"),
        ({"shape": (2**40,), "strides": (0,)}, "more than the file has"),
        ({"num_elements": 7}, "7 elements has 24 bytes"),
        ({"num_elements": -6}, "name and a size"),
        ({"num_elements": 2**62}, "bytes in the file"),
        ({"key": "1"}, "no record data/1"),
        ({"key": "../0"}, "no record data/../0"),
        ({"key": 0}, "name and a size"),
        ({"storage": "QInt8Storage"}, "a torch.QInt8Storage, is not one of plain numbers"),
        ({"storage": "ComplexFloatStorage"}, "not one of plain numbers"),
        ({"storage": "Tensor"}, "not one of plain numbers"),
        ({"extra": ({"neg": True},)}, "conjugate or negative"),
    ],
)
def test_a_tensor_with_impossible_numbers_is_refused_by_name_and_reason(tmp_path, change, reason):
    path = archive(tmp_path / "a.ckpt", tensor_pickle(**change), {"data/0": bytes(24)})
    with OriginalCheckpoint(path) as checkpoint, pytest.raises(ConversionError, match="x cannot be read") as caught:
        checkpoint.record("x")
    assert reason in str(caught.value)


def test_a_value_that_is_no_tensor_is_refused_only_when_it_is_asked_for(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = torch.eye(3).to_sparse()
    state = {"x": torch.ones(1), "sparse": sparse, "array": np.ones(2), "number": 3, "none": None}
    with OriginalCheckpoint(write_checkpoint(tmp_path / "a.ckpt", state)) as checkpoint:
        assert torch.equal(checkpoint.read("x"), torch.ones(1))
        with pytest.raises(ConversionError, match=r"sparse cannot be read: .*torch\._utils\._rebuild_sparse_tensor"):
            checkpoint.read("sparse")
        with pytest.raises(ConversionError, match=r"array cannot be read: .*numpy"):
            checkpoint.read("array")
        with pytest.raises(ConversionError, match="number cannot be read: it is a int"):
            checkpoint.read("number")
        with pytest.raises(ConversionError, match="none cannot be read: it is a NoneType"):
            checkpoint.read("none")


# --------------------------------------------------------------------------------------------------- foreign objects


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class RunsOnState:
    """Runs a command when its state is restored, also through each slot that a pickle has for it."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __setstate__(self, state):
        Path(state["marker"]).touch()


class RunsOnItems(list):
    def __init__(self, marker=None):
        super().__init__([str(marker)] if marker else [])

    def append(self, item):
        Path(item).touch()

    def extend(self, items):
        for item in items:
            Path(item).touch()


class RunsOnNew:
    def __new__(cls, marker, *, other=None):
        Path(marker).touch()
        return super().__new__(cls)

    def __init__(self, marker, *, other=None):
        self.marker = str(marker)

    def __getnewargs_ex__(self):
        return (self.marker,), {"other": 1}


def hostile_objects(marker, protocol):
    return [
        Runs(f"touch {marker}"),
        RunsOnState(marker),
        *([RunsOnItems(marker)] if protocol > 1 else []),  # before that, items go to the constructor
        [({"deep": [Runs(f"touch {marker}")]},)],
        {"inner": RunsOnState(marker)},
    ]


@pytest.mark.parametrize("protocol", range(6))
def test_no_code_of_a_checkpoint_runs(tmp_path, protocol):
    marker = tmp_path / "ran"
    for position, hostile in enumerate(hostile_objects(marker, protocol)):
        root = {"callbacks": hostile, "state_dict": {"bad": hostile}, "hyper_parameters": {"sample_rate": hostile}}
        data = pickle.dumps(root, protocol)
        pickle.loads(data)
        assert marker.exists(), f"object {position} is not hostile, so this test proves nothing"
        marker.unlink()
        path = archive(tmp_path / f"{position}.ckpt", data)
        with OriginalCheckpoint(path) as checkpoint, pytest.raises(ConversionError, match="bad cannot be read"):
            checkpoint.record("bad")
        assert not marker.exists()


def test_an_object_made_with_arguments_by_keyword_does_not_run(tmp_path):
    marker = tmp_path / "ran"
    data = pickle.dumps({"state_dict": {}, "callbacks": RunsOnNew(marker)}, 4)
    assert "NEWOBJ_EX" in {instruction.name for instruction, _, _ in pickletools.genops(data)}
    marker.unlink()
    assert isinstance(read_pickle(data)["callbacks"], Placeholder)
    assert not marker.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cposix\nsystem\n(S'touch {marker}'\ntR.",
        b"(S'touch {marker}'\niposix\nsystem\n.",
        b"(cposix\nsystem\nS'touch {marker}'\no.",
        b'cbuiltins\nexec\n(S\'open("{marker}", "w")\'\ntR.',
        b"cbuiltins\ngetattr\n(cos\npath\nS'exists'\ntRS'x'\n\x85R.",
        # torch's own rebuilders, fed with a function in place of a class or a function in place of a function.
        b"ctorch._tensor\n_rebuild_from_type_v2\n(cposix\nsystem\nN(S'touch {marker}'\ntNtR.",
        b"ccopyreg\n_reconstructor\n(cposix\nsystem\nNNtR.",
        # State for a dict, which the standard machine would set as attributes.
        b"ccollections\nOrderedDict\n)R}S'items'\ncposix\nsystem\nsb.",
    ],
)
def test_hand_written_programs_do_not_run(tmp_path, program):
    marker = tmp_path / "ran"
    assert read_pickle(program.replace(b"{marker}", str(marker).encode())) is not None
    assert not marker.exists()


def test_a_module_that_a_pickle_names_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "named_by_a_pickle.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    found = read_pickle(b"cnamed_by_a_pickle\nanything\n.")
    assert found == Name("named_by_a_pickle", "anything")
    assert "named_by_a_pickle" not in sys.modules


def test_state_for_a_tensor_does_not_change_it(tmp_path):
    data = tensor_pickle()
    # `b` applies a state to what lies on top: here {"shape": (9, 9)} to the tensor, before it goes into its dict.
    position = data.rindex(b"R") + 1
    data = data[:position] + b"}X\x05\x00\x00\x00shape(K\x09K\x09tsb" + data[position:]
    with OriginalCheckpoint(archive(tmp_path / "a.ckpt", data, {"data/0": bytes(24)})) as checkpoint:
        assert checkpoint.record("x").shape == (2, 3)


def test_objects_of_any_kind_beside_the_tensors_are_passed_over(tmp_path):
    extras = {
        "sets": [{1, 2}, frozenset("ab")],
        "numbers": [1 + 2j, np.float32(3), np.arange(3)],
        "when": datetime(2024, 8, 1, tzinfo=timezone.utc),
        "bytes": [b"x", bytearray(b"y")],
        "dtype": torch.float32,
        "size": torch.Size([2]),
        "device": torch.device("cpu"),
        "class": nn.Linear,
        "module": nn.Linear(2, 2),
        "optimizer_states": [torch.optim.AdamW([nn.Parameter(torch.ones(2))]).state_dict()],
    }
    path = write_checkpoint(tmp_path / "a.ckpt", {"x": torch.ones(2)}, **extras)
    assert torch.equal(read(path), torch.ones(2))


def test_a_key_whose_hash_would_overflow_the_stack_is_passed_over():
    nested = b"]" + b"\x85" * 200_000
    found = read_pickle(b"\x80\x04}" + nested + b"K\x01sX\x01\x00\x00\x00aK\x02s.")
    assert found["a"] == 2
    assert len(found) == 2


def binary(text):
    return b"X" + struct.pack("<I", len(text)) + text


LONG_NAME = b"a" * 2**20
LONG_NUMBER = b"\x8b" + struct.pack("<i", 6 * 2**20) + b"\x01" * 6 * 2**20


@pytest.mark.parametrize(
    ("said_once", "used"),
    [
        (b"c" + LONG_NAME + b"\nb\nq\x000", b"h\x00)R"),
        (b"(" + binary(b"storage") + b"c" + LONG_NAME + b"\nb\nNNNtq\x000", b"h\x00Q"),
        (b"(" + binary(b"storage") + b"ctorch\nFloatStorage\n" + binary(LONG_NAME) + b"NK\x01tq\x000", b"h\x00Q"),
        (b"(" + b"K\x01N\x86" * 2**14 + b"l\x85q\x000ccollections\nOrderedDict\nq\x010", b"h\x01h\x00R"),
        (LONG_NUMBER + b"q\x000", b"}h\x00Ns"),
        (b")q\x000" + b"h\x00h\x00\x86q\x000" * 60, b"}h\x00Ns"),
    ],
    ids=["name", "kind of storage", "record", "pairs", "number", "tuple"],
)
def test_what_a_pickle_says_once_costs_no_more_each_time_it_is_used(said_once, used):
    began = time.process_time()
    tracemalloc.start()
    try:
        assert len(read_pickle(b"(" + said_once + used * 3000 + b"l.")) == 3000
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 5


def test_a_memo_index_of_four_billion_takes_no_memory():
    assert read_pickle(b"\x80\x04K\x05r\xff\xff\xff\xff0j\xff\xff\xff\xff.") == 5


# ------------------------------------------------------------------------------------------------------ broken files


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\x80\x04K",
        b"K\x01",
        b"\x85.",
        b"s.",
        b"t.",
        b"h\x07.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"X\xff\xff\xff\x7fabc.",
        b"K\x01K\x02\x93.",
        b"\x82\x01.",
        b"\xff.",
        b"}(K\x01u.",
        b"I" + b"9" * 5000 + b"\n.",
        b"(o.",
        b"\x97.",
    ],
)
def test_a_broken_pickle_is_one_line(data):
    with pytest.raises(ConversionError, match="pickle is broken") as caught:
        read_pickle(data)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("instruction", [b"(", b"}", b"N0"])
def test_a_pickle_of_endless_steps_is_given_up(instruction):
    with pytest.raises(ConversionError, match=r"no STOP within 1,048,576 steps"):
        read_pickle(instruction * (2**20 + 1))


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    whole = write_checkpoint(tmp_path / "a.ckpt", {"x": torch.arange(500.0)}).read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "cut.ckpt").write_bytes(whole[:length])
        with pytest.raises(ConversionError) as caught:
            read(tmp_path / "cut.ckpt")
        assert str(caught.value).isprintable()
        assert "cut.ckpt" in str(caught.value)


def test_a_changed_byte_gives_the_same_values_or_one_line(tmp_path):
    whole = write_checkpoint(tmp_path / "a.ckpt", {"x": torch.arange(50.0)}).read_bytes()
    generator = np.random.default_rng(0)
    num_refused = 0
    for position in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[position] ^= int(generator.integers(1, 256))
        (tmp_path / "changed.ckpt").write_bytes(changed)
        try:
            values = read(tmp_path / "changed.ckpt")
        except ConversionError as error:
            num_refused += str(error).isprintable()
        except KeyError as error:
            raise AssertionError(f"byte {position} loses the tensor without a word") from error
        else:
            assert torch.equal(values, torch.arange(50.0)), f"byte {position}"
    assert num_refused > 50


def test_a_changed_byte_of_the_data_is_found_by_its_checksum(tmp_path):
    path = write_checkpoint(tmp_path / "a.ckpt", {"x": torch.full((100,), 1.5), "y": torch.ones(3)})
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<f", 1.5) * 10) + 8] ^= 1
    path.write_bytes(data)
    with OriginalCheckpoint(path) as checkpoint:
        assert torch.equal(checkpoint.read("y"), torch.ones(3))
        with pytest.raises(ConversionError, match="checksum of the data of x is wrong"):
            checkpoint.read("x")


def save_legacy(path):
    torch.save({"state_dict": {"x": torch.ones(2)}}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("<!DOCTYPE html>"), "torch.save writes zip files, and this is none"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0"), "Git LFS pointer"),
        (save_legacy, "before release 1.6"),
        (lambda path: path.write_bytes(pickle.dumps({"state_dict": {}})), "this is none"),
        (lambda path: save_file({"x": torch.ones(2)}, path), "safetensors"),
        (lambda path: archive(path, pickle.dumps([1])), "holds no dict"),
        (lambda path: archive(path, pickle.dumps({"state_dict": [1]})), "state_dict is not a dict"),
        (lambda path: archive(path, pickle.dumps({"state_dict": Path("x")})), "state_dict is not a dict"),
        (lambda path: archive(path, b"K\x01."), "holds no dict"),
        (lambda path: archive(path, pickle.dumps({}), compression=zipfile.ZIP_DEFLATED), "compressed"),
        (lambda path: archive(path, pickle.dumps({}), {"byteorder": b"big"}), "other byte order"),
        (lambda path: archive(path, b"N" * (33 * 2**20)), "far more than any"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: None, "No such file"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_its_reason(tmp_path, write, reason):
    path = tmp_path / "source.ckpt"
    write(path)
    with pytest.raises(ConversionError, match=r"source\.ckpt") as caught:
        OriginalCheckpoint(path)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_zip_file_without_a_pickle_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as file:
        file.writestr("archive/model.json", "{}")
    with pytest.raises(ConversionError, match=r"without data\.pkl"):
        OriginalCheckpoint(tmp_path / "a.ckpt")
