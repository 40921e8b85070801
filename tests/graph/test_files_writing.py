"""Writing ONNX files: nothing is lost, the same model gives the same bytes, whole or not at all."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from reparam.adapters.onnx_runtime import open_session, run_onnx
from reparam.errors import GraphError, OutputError
from reparam.graph import files, files_writing
from reparam.graph.files import data_of, open_model, save_model
from tests.graph.bad_models import conv, good, model, outside, relu, value, weight
from tests.graph.full_models import full_model, normal

IMAGE = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)

# Each has a file in bad_models that is refused.
REFUSED = ("ModelProto.training_info", "TrainingInfoProto.", "GraphProto.sparse_initializer",
           "AttributeProto.sparse_tensor", "SparseTensorProto.", "TypeProto.map_type", "Map.",
           "TypeProto.opaque_type", "Opaque.", "TensorProto.segment", "Segment.",
           "ModelProto.configuration", "NodeProto.device_configurations", "DeviceConfiguration",
           "NodeDeviceConfiguration", "ShardingSpec", "ShardedDim", "SimpleShardedDim",
           "IntIntListEntry")  # fmt: skip
# Other places for the data of a tensor; test_types_of_weights_stay and TestOutside use them.
ENCODINGS = {
    f"TensorProto.{field}"
    for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data",
                  "external_data", "data_location")
}  # fmt: skip


def round_trip(folder: Path, proto: Any, **options: Any) -> Any:
    """Return what is read from a file that was written from what was read from a file."""
    (folder / "a.onnx").write_bytes(proto.SerializeToString())
    save_model(open_model(folder / "a.onnx").model, folder / "b.onnx", **options)
    return onnx.load(folder / "b.onnx")


def same(first: Any, second: Any) -> bool:
    return bool(normal(first).SerializeToString() == normal(second).SerializeToString())


def test_nothing_is_lost(tmp_path: Path) -> None:
    proto = full_model()
    assert str(normal(round_trip(tmp_path, proto))) == str(normal(proto))


def test_nothing_is_lost_with_weights_outside(tmp_path: Path) -> None:
    proto = full_model()
    assert str(normal(round_trip(tmp_path, proto, external=True))) == str(normal(proto))
    assert data_of(tmp_path / "b.onnx").stat().st_size >= 4 * 1536


def test_the_full_model_has_every_field_that_is_not_refused() -> None:
    every: set[str] = set()
    waiting = [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        new = {f"{message.name}.{field.name}" for field in message.fields} - every
        every |= new
        waiting += [field.message_type for field in message.fields if new and field.message_type]
    refused = {name for name in every if name.startswith(REFUSED)}
    assert every - fields_of(full_model()) - refused - ENCODINGS == set()


def fields_of(message: Any) -> set[str]:
    found = set()
    for descriptor, content in message.ListFields():
        found.add(f"{message.DESCRIPTOR.name}.{descriptor.name}")
        if descriptor.type == descriptor.TYPE_MESSAGE:
            for entry in [content] if hasattr(content, "ListFields") else content:
                found |= fields_of(entry)
    return found


def test_sameness_sees_what_is_lost() -> None:
    proto = full_model()
    assert same(proto, full_model())
    for field in ("doc_string", "functions", "metadata_props", "opset_import", "model_version"):
        less = full_model()
        less.ClearField(field)
        assert not same(proto, less)
    for field in ("quantization_annotation", "value_info", "initializer", "doc_string"):
        less = full_model()
        less.graph.ClearField(field)
        assert not same(proto, less)


def test_what_a_file_says_of_a_weight_a_second_time_is_not_repeated(tmp_path: Path) -> None:
    proto = good()
    proto.graph.value_info.append(value("w", TensorProto.FLOAT, weight().dims))
    assert same(round_trip(tmp_path, proto), good())


def test_onnx_ir_logs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    round_trip(tmp_path, full_model())
    assert not caplog.records


def test_a_file_in_the_order_of_the_format_comes_back_byte_by_byte(tmp_path: Path) -> None:
    proto = good()
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(2), "light"))
    proto.graph.initializer.append(weight("unread", 1))
    round_trip(tmp_path, proto)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("opset", range(9, 22))
def test_versions_stay(tmp_path: Path, opset: int) -> None:
    inputs = [value("x", 1, ["n", 3, 16, 16]), value("w", 1, weight().dims)]
    for ir_version in range(3, 11):
        proto = good(opset=opset, ir_version=ir_version, inputs=inputs)
        assert same(round_trip(tmp_path, proto, force=True), proto)


@cache
def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    floats = rng.normal(size=(40, 33)).astype(np.float32)
    made: dict[str, Any] = {}
    for name, dtype in (("FLOAT", "f4"), ("FLOAT16", "f2"), ("DOUBLE", "f8"), ("COMPLEX64", "c8"),
                        ("COMPLEX128", "c16"), ("INT64", "i8"), ("INT32", "i4"), ("INT16", "i2"),
                        ("INT8", "i1"), ("UINT64", "u8"), ("UINT32", "u4"), ("UINT16", "u2"),
                        ("UINT8", "u1"), ("BOOL", "?")):  # fmt: skip
        array = (floats * 100).astype(np.int64).astype(dtype) if dtype[0] in "iu" else floats
        made[name] = numpy_helper.from_array(array.astype(dtype), "w")
    for name in ("BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT8E4M3FNUZ", "FLOAT8E5M2FNUZ"):
        kind = TensorProto.DataType.Value(name)
        made[name] = helper.make_tensor("w", kind, floats.shape, floats.ravel())
    for name in ("INT4", "UINT4"):
        small = np.arange(1320 * 2 + 1) % 8
        made[name] = helper.make_tensor("w", TensorProto.DataType.Value(name), small.shape, small)
    return made


def stored(name: str, numbers: Any, raw: bool) -> Any:
    """Return a tensor whose numbers are in ``raw_data``, or in the field that its type has."""
    kind = TensorProto.DataType.Value(name)
    tensor = TensorProto(name="w", data_type=kind, dims=numbers.shape)
    content = ir.tensor(numbers, dtype=ir.DataType(kind)).tobytes()
    if raw:
        tensor.raw_data = content
    elif name in {"FLOAT", "COMPLEX64"}:
        tensor.float_data.extend(np.frombuffer(content, "f4"))
    elif name in {"DOUBLE", "COMPLEX128"}:
        tensor.double_data.extend(np.frombuffer(content, "f8"))
    elif name == "INT64":
        tensor.int64_data.extend(numbers.reshape(-1))
    elif name in {"UINT32", "UINT64"}:
        tensor.uint64_data.extend(numbers.reshape(-1))
    elif name in {"INT32", "INT16", "INT8"}:
        tensor.int32_data.extend(numbers.reshape(-1))
    else:
        tensor.int32_data.extend(np.frombuffer(content, "u2" if "16" in name else "u1"))
    return tensor


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("elements", ["many", "few"])
@pytest.mark.parametrize("name", arrays())
def test_types_of_weights_stay(tmp_path: Path, name: str, elements: str, raw: bool) -> None:
    whole = numpy_helper.to_array(arrays()[name])
    numbers = whole if elements == "many" else whole.reshape(-1)[:7]
    tensor = stored(name, numbers, raw)
    proto = model([helper.make_node("Identity", ["w"], ["y"])], [tensor], opset=21, ir_version=10,
                  outputs=[value("y", tensor.data_type, numbers.shape)])  # fmt: skip
    before = ir.serde.deserialize_tensor(tensor)
    for external in (False, True):
        written = round_trip(tmp_path, proto, external=external, force=True)
        assert same(written, proto)
        held = open_model(tmp_path / "b.onnx").model.graph.initializers["w"].const_value
        assert held.dtype == before.dtype
        assert held.tobytes() == before.tobytes()
        assert held.numpy().shape == numbers.shape
        assert held.numpy().tobytes() == before.numpy().tobytes()
    assert data_of(tmp_path / "b.onnx").exists() == (elements == "many")


class TestOutside:
    """Weights in a second file."""

    def opened(self, folder: Path, location: str = "w.bin") -> ir.Model:
        (folder / location).write_bytes(weight().raw_data)
        (folder / "model.onnx").write_bytes(outside(location).SerializeToString())
        return open_model(folder / "model.onnx").model

    def test_stay_outside_where_they_were(self, tmp_path: Path) -> None:
        written = save_model(self.opened(tmp_path), tmp_path / "new.onnx")
        data = tmp_path / "new.onnx.data"
        assert written.data_bytes == data.stat().st_size == 1536
        assert written.data_sha256 == files.sha256_of(data)
        assert written.sha256 == files.sha256_of(tmp_path / "new.onnx")
        assert written.bytes == (tmp_path / "new.onnx").stat().st_size
        (entry,) = onnx.load(tmp_path / "new.onnx", load_external_data=False).graph.initializer
        assert entry.external_data[0].value == data.name
        assert same(onnx.load(tmp_path / "new.onnx"), good())

    def test_come_inside_when_asked_for(self, tmp_path: Path) -> None:
        save_model(self.opened(tmp_path), tmp_path / "new.onnx", external=False)
        assert not data_of(tmp_path / "new.onnx").exists()
        assert (tmp_path / "new.onnx").read_bytes() == good().SerializeToString()

    def test_run_as_the_others_do(self, tmp_path: Path) -> None:
        save_model(self.opened(tmp_path), tmp_path / "out.onnx")
        save_model(self.opened(tmp_path), tmp_path / "in.onnx", external=False)
        (a,) = run_onnx(open_session(tmp_path / "out.onnx"), IMAGE)
        (b,) = run_onnx(open_session(tmp_path / "in.onnx"), IMAGE)
        np.testing.assert_array_equal(a, b)
        assert a.any()

    def test_begin_at_pages(self, tmp_path: Path) -> None:
        proto = model([conv(), conv("y", ["x", "v"])], [weight(), weight("v", 1)])
        round_trip(tmp_path, proto, external=True)
        held = onnx.load(tmp_path / "b.onnx", load_external_data=False).graph.initializer
        assert [entry.external_data[1].value for entry in held] == ["0", "4096"]
        assert same(onnx.load(tmp_path / "b.onnx"), proto)

    def test_are_not_written_into_when_the_model_replaces_itself(self, tmp_path: Path) -> None:
        read = self.opened(tmp_path, "model.onnx.data")
        before = (tmp_path / "model.onnx.data").stat().st_ino
        for _ in range(2):
            save_model(read, tmp_path / "model.onnx", force=True)
            assert same(onnx.load(tmp_path / "model.onnx"), good())
        assert (tmp_path / "model.onnx.data").stat().st_ino != before
        held = read.graph.initializers["w"].const_value.numpy()
        np.testing.assert_array_equal(held, numpy_helper.to_array(weight()))

    def test_are_what_becomes_of_a_model_that_does_not_fit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "LIMIT", 1000)
        monkeypatch.setattr(files_writing, "LIMIT", 1000)
        assert same(round_trip(tmp_path, good()), good())
        assert data_of(tmp_path / "b.onnx").exists()
        with pytest.raises(GraphError, match="does not fit into one file"):
            save_model(open_model(tmp_path / "a.onnx").model, tmp_path / "c.onnx", external=False)
        assert not (tmp_path / "c.onnx").exists()

    def test_are_no_file_without_heavy_weights(self, tmp_path: Path) -> None:
        round_trip(tmp_path, model([relu("x", "y")]), external=True)
        assert not data_of(tmp_path / "b.onnx").exists()


class TestWhole:
    """A file appears whole or not at all, and always with the same bytes."""

    def test_bytes_are_the_same_each_time(self, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").write_bytes(full_model().SerializeToString())
        found = set()
        for name in ("1.onnx", "2.onnx"):
            told = save_model(open_model(tmp_path / "a.onnx").model, tmp_path / name)
            found.add((tmp_path / name).read_bytes())
            assert told.sha256 == files.sha256_of(tmp_path / name)
        assert len(found) == 1

    def test_writing_twice_is_writing_once(self, tmp_path: Path) -> None:
        round_trip(tmp_path, full_model())
        first = (tmp_path / "b.onnx").read_bytes()
        save_model(open_model(tmp_path / "b.onnx").model, tmp_path / "c.onnx")
        assert (tmp_path / "c.onnx").read_bytes() == first

    def test_model_is_not_changed(self, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").write_bytes(full_model().SerializeToString())
        read = open_model(tmp_path / "a.onnx").model
        before = {name: held.const_value for name, held in read.graph.initializers.items()}
        save_model(read, tmp_path / "b.onnx", external=True)
        for name, held in read.graph.initializers.items():
            assert held.const_value is before[name]

    def test_a_check_that_fails_leaves_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").write_bytes(good().SerializeToString())
        read = open_model(tmp_path / "a.onnx").model
        seen = []

        def check(draft: Path) -> None:
            seen.append(onnx.load(draft))
            raise GraphError("no")

        with pytest.raises(GraphError, match="no"):
            save_model(read, tmp_path / "b.onnx", external=True, check=check)
        assert same(seen[0], good())
        assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]

    def test_a_file_that_is_there_stays(self, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").write_bytes(good().SerializeToString())
        read = open_model(tmp_path / "a.onnx").model
        for name in ("b.onnx", "b.onnx.data"):
            (tmp_path / name).write_text("mine")
            with pytest.raises(OutputError, match="exists already"):
                save_model(read, tmp_path / "b.onnx", external=True)
            assert (tmp_path / name).read_text() == "mine"
            (tmp_path / name).unlink()

    def test_an_invalid_model_is_not_written(self, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").write_bytes(good().SerializeToString())
        read = open_model(tmp_path / "a.onnx").model
        read.graph.node(1).attributes["alpha"] = ir.AttrFloat32("alpha", 1.0)
        with pytest.raises(GraphError, match="Unrecognized attribute: alpha"):
            save_model(read, tmp_path / "b.onnx")
        assert not (tmp_path / "b.onnx").exists()

    def test_what_onnx_ir_refuses_leaves_the_model_as_it_was(self, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").write_bytes(good().SerializeToString())
        read = open_model(tmp_path / "a.onnx").model
        held = read.graph.initializers["w"].const_value
        read.graph.node(1).attributes["odd"] = ir.Attr(
            "odd", ir.AttributeType.SPARSE_TENSOR, object()
        )
        with pytest.raises(GraphError, match="cannot be written"):
            save_model(read, tmp_path / "b.onnx")
        assert read.graph.initializers["w"].const_value is held


class TestNewWeights:
    """Weights that were put into a model after it was read."""

    def saved(self, folder: Path, array: Any, **options: Any) -> Any:
        (folder / "a.onnx").write_bytes(good(**options).SerializeToString())
        read = open_model(folder / "a.onnx").model
        new = ir.Value(name="new", const_value=ir.tensor(array, name="new"))
        read.graph.initializers["new"] = new
        read.graph.node(0).replace_input_with(1, new)
        del read.graph.initializers["w"]
        save_model(read, folder / "b.onnx")
        return onnx.load(folder / "b.onnx")

    def test_of_any_layout_are_written_as_they_are(self, tmp_path: Path) -> None:
        array = numpy_helper.to_array(weight())
        for layout in (np.asfortranarray(array), array[::-1].copy()[::-1]):
            written = self.saved(tmp_path, layout)
            (entry,) = written.graph.initializer
            np.testing.assert_array_equal(numpy_helper.to_array(entry), array)
            (tmp_path / "b.onnx").unlink()

    def test_raise_an_ir_version_that_wants_them_to_be_inputs(self, tmp_path: Path) -> None:
        inputs = [value("x", 1, ["n", 3, 16, 16]), value("w", 1, weight().dims)]
        (tmp_path / "a.onnx").write_bytes(good(ir_version=3, inputs=inputs).SerializeToString())
        read = open_model(tmp_path / "a.onnx").model
        array = numpy_helper.to_array(weight("new", 1))
        new = ir.Value(name="new", const_value=ir.tensor(array, name="new"))
        read.graph.initializers["new"] = new
        read.graph.node(0).replace_input_with(1, new)
        save_model(read, tmp_path / "b.onnx")
        written = onnx.load(tmp_path / "b.onnx")
        onnx.checker.check_model(written)
        assert written.ir_version == 4
        assert [entry.name for entry in written.graph.input] == ["x", "w"]
