import pytest
import torch
from conversion.weights_file import DTYPE_NAMES, write_safetensors
from safetensors import safe_open


def write(path, tensors, **options):
    announced = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_safetensors(path, announced, lambda name: tensors[name], **options)


def test_the_library_reads_what_is_written(tmp_path):
    tensors = {
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "π": torch.randn(3),
        **{str(dtype): torch.randint(0, 2, (5,)).to(dtype) for dtype in DTYPE_NAMES},
    }
    sizes = []
    write(tmp_path / "a.safetensors", tensors, on_written=sizes.append)
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            assert file.get_tensor(name).dtype == tensor.dtype
            assert torch.equal(file.get_tensor(name), tensor)
    assert sum(sizes) == sum(tensor.nbytes for tensor in tensors.values())


def test_tensors_are_read_one_at_a_time_in_the_order_of_the_file(tmp_path):
    read = []

    def make(name):
        read.append(name)
        return torch.ones(2)

    write_safetensors(tmp_path / "a", dict.fromkeys("cab", (torch.float32, (2,))), make)
    assert read == ["a", "b", "c"]


def test_a_tensor_other_than_announced_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="x: announced"):
        write_safetensors(tmp_path / "a", {"x": (torch.float32, (2,))}, lambda name: torch.ones(3))
