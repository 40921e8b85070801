"""Opening ONNX files: what is refused, and with which words; what is accepted all the same."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from reparam.errors import EXIT_UNUSABLE, GraphError
from reparam.graph.files import Opened, open_model
from tests.graph.bad_models import (
    BAD,
    FLOAT,
    GOOD,
    branch,
    chain_backwards,
    conv,
    good,
    model,
    outside,
    relu,
    value,
    weight,
    with_if,
)


def put(folder: Path, content: bytes | onnx.ModelProto, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


def opened(folder: Path, content: bytes | onnx.ModelProto, **options: bool) -> Opened:
    return open_model(put(folder, content), **options)


def refused(path: Path) -> str:
    with pytest.raises(GraphError) as caught:
        open_model(path)
    assert caught.value.exit_code == EXIT_UNUSABLE
    assert str(path) in caught.value.what
    return str(caught.value)


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_refused(tmp_path: Path, name: str) -> None:
    make, said = BAD[name]
    put(tmp_path, weight().raw_data, "w.bin")
    message = refused(put(tmp_path, make()))
    assert said in message
    assert len(message.splitlines()) <= 4


def test_good_file_is_not_refused(tmp_path: Path) -> None:
    found = opened(tmp_path, good())
    assert found.notices == found.data_files == found.overridable == ()
    assert found.bytes == len(GOOD)
    assert found.sha256 == hashlib.sha256(GOOD).hexdigest()
    assert [node.op_type for node in found.model.graph] == ["Conv", "Relu"]
    stored = found.model.graph.initializers["w"].const_value
    np.testing.assert_array_equal(stored.numpy(), numpy_helper.to_array(weight()))
    assert not stored.numpy().flags.writeable


def test_absent_folder_pipe_and_unreadable(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "gone.onnx")
    assert "directory; needed: a file" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "a pipe; needed: a file" in refused(tmp_path / "pipe.onnx")
    link = tmp_path / "link.onnx"
    link.symlink_to(link)
    assert "symbolic links" in refused(link)


@pytest.mark.skipif(not hasattr(onnx.ModelProto(), "configuration"), reason="newer than this onnx")
def test_distribution_over_devices_is_refused(tmp_path: Path) -> None:
    proto = good(ir_version=11)
    proto.configuration.add(name="two", num_devices=2)
    assert "several devices" in refused(put(tmp_path, proto))
    proto = good(ir_version=11)
    proto.graph.node[0].device_configurations.add(configuration_id="two")
    assert "several devices of node 'conv_c'" in refused(put(tmp_path, proto))


class TestWeightsOutside:
    """Weights in another file: only in the folder of the model, and only if all are there."""

    def test_are_found(self, tmp_path: Path) -> None:
        put(tmp_path, b"head" + weight().raw_data, "w.bin")
        found = opened(tmp_path, outside("w.bin", "4", "1536"))
        assert found.data_files == (tmp_path / "w.bin",)
        assert found.bytes == (tmp_path / "model.onnx").stat().st_size + 1540
        assert set(found.data_sha256()) == {tmp_path / "w.bin"}
        stored = found.model.graph.initializers["w"].const_value
        np.testing.assert_array_equal(stored.numpy(), numpy_helper.to_array(weight()))

    def test_are_found_in_a_folder_inside_and_by_links_that_stay_inside(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "parts").mkdir()
        put(tmp_path / "parts", weight().raw_data, "real.bin")
        (tmp_path / "parts" / "w.bin").symlink_to("real.bin")
        (tmp_path / "hard.bin").hardlink_to(tmp_path / "parts" / "real.bin")
        for location in ("parts/real.bin", "parts/w.bin", "./parts/w.bin", "hard.bin"):
            found = opened(tmp_path, outside(location))
            assert found.model.graph.initializers["w"].const_value.numpy().any()

    def test_are_not_followed_out_of_the_folder(self, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        folder.mkdir()
        put(tmp_path, weight().raw_data, "secret.bin")
        (folder / "w.bin").symlink_to("../secret.bin")
        (folder / "elsewhere").symlink_to("..")
        for location in ("w.bin", "elsewhere/secret.bin"):
            message = refused(put(folder, outside(location)))
            assert "outside of its folder" in message
            assert "a link to" in message

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
    def test_may_not_be_a_second_name_of_a_file_of_someone_else(self, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        folder.mkdir()
        secret = put(tmp_path, weight().raw_data, "secret.bin")
        (folder / "w.bin").hardlink_to(secret)
        assert open_model(put(folder, outside("w.bin"))).data_files
        os.chown(folder, 12345, 12345)
        assert "a second name of a file of someone else" in refused(folder / "model.onnx")

    def test_may_be_beside_a_model_in_a_folder_that_is_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        put(tmp_path / "real", weight().raw_data, "w.bin")
        put(tmp_path / "real", outside("w.bin"))
        (tmp_path / "link").symlink_to("real")
        assert open_model(tmp_path / "link" / "model.onnx").data_files

    def test_are_no_folder_and_no_pipe(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        for location in ("folder", "pipe"):
            assert "no regular file" in refused(put(tmp_path, outside(location)))

    def test_of_a_constant_are_found_too(self, tmp_path: Path) -> None:
        put(tmp_path, weight().raw_data, "w.bin")
        tensor = outside("w.bin").graph.initializer[0]
        node = helper.make_node("Constant", [], ["w"], value=tensor)
        found = opened(tmp_path, model([node, conv(), relu("c", "y")]))
        stored = next(iter(found.model.graph)).attributes["value"].as_tensor()
        np.testing.assert_array_equal(stored.numpy(), numpy_helper.to_array(weight()))

    def test_of_no_elements_need_no_bytes(self, tmp_path: Path) -> None:
        proto = outside("gone.bin")
        proto.graph.initializer[0].dims[:] = [0, 3, 4, 4]
        found = opened(tmp_path, proto)
        assert found.model.graph.initializers["w"].const_value.numpy().shape == (0, 3, 4, 4)
        assert not found.data_files


class TestOrder:
    """Nodes in no order that ONNX allows are sorted, and nothing else is moved."""

    def test_unsorted_nodes_are_sorted(self, tmp_path: Path) -> None:
        found = opened(tmp_path, model([relu("c", "y"), conv()], [weight()]))
        assert [node.op_type for node in found.model.graph] == ["Conv", "Relu"]
        assert any("sorted" in notice for notice in found.notices)

    def test_a_chain_backwards_is_turned_around(self, tmp_path: Path) -> None:
        found = opened(tmp_path, chain_backwards(50))
        assert [node.name for node in found.model.graph] == [f"relu_v{i}" for i in range(1, 51)]

    def test_what_an_inner_graph_reads_comes_before_it(self, tmp_path: Path) -> None:
        proto = with_if(branch("then", relu("c", "t"), output="t"))
        nodes = list(proto.graph.node)
        del proto.graph.node[:]
        proto.graph.node.extend(nodes[::-1])
        found = opened(tmp_path, proto)
        assert [node.op_type for node in found.model.graph] == ["Conv", "If"]

    def test_inner_graphs_are_sorted_too(self, tmp_path: Path) -> None:
        then = branch("then", relu("s", "t"), relu("c", "s"), output="t")
        found = opened(tmp_path, with_if(then))
        inner = list(found.model.graph)[1].attributes["then_branch"].as_graph()
        assert [node.name for node in inner] == ["relu_s", "relu_t"]

    def test_sorted_nodes_stay_as_they_are(self, tmp_path: Path) -> None:
        nodes = [relu("x", "b"), relu("x", "a"), conv(), relu("c", "y")]
        found = opened(tmp_path, model(nodes, [weight()]))
        assert [node.name for node in found.model.graph] == [node.name for node in nodes]


class TestLeftAlone:
    """What is unusual and no reason to refuse a file."""

    @pytest.mark.parametrize("domain", ["", "ai.onnx", "com.example"])
    def test_unknown_operators(self, tmp_path: Path, domain: str) -> None:
        node = helper.make_node("Mystery", ["c"], ["y"], domain=domain, level=3)
        opsets = [helper.make_opsetid("com.example", 1)]
        found = opened(tmp_path, model([conv(), node], [weight()], opsets=opsets))
        (said,) = found.notices
        assert "Mystery" in said
        assert list(found.model.graph)[1].attributes["level"].as_int() == 3

    def test_an_unknown_operator_does_not_hide_an_invalid_one(self, tmp_path: Path) -> None:
        node = helper.make_node("Mystery", ["c"], ["d"])
        bad = helper.make_node("Relu", ["d", "d"], ["y"])
        assert "2" in refused(put(tmp_path, model([conv(), node, bad], [weight()])))

    def test_names_of_nodes_may_be_missing_or_the_same(self, tmp_path: Path) -> None:
        nodes = [conv(), relu("c", "d", "same"), relu("d", "e", "same"), relu("e", "y")]
        nodes[-1].name = ""
        found = opened(tmp_path, model(nodes, [weight()]))
        assert [node.name for node in found.model.graph][1:3] == ["same", "same"]

    def test_tensors_of_no_elements_and_of_no_axes(self, tmp_path: Path) -> None:
        empty = numpy_helper.from_array(np.zeros((0, 3), np.float32), "empty")
        scalar = numpy_helper.from_array(np.float32(2), "scalar")
        node = helper.make_node("Mul", ["x", "scalar"], ["y"])
        found = opened(tmp_path, model([node], [empty, scalar]))
        values = {k: v.const_value.numpy() for k, v in found.model.graph.initializers.items()}
        assert values["empty"].shape == (0, 3)
        assert values["scalar"].shape == ()
        assert values["scalar"] == 2

    def test_an_output_without_a_shape_and_a_graph_without_a_name(self, tmp_path: Path) -> None:
        proto = good(outputs=[value("y", FLOAT, None)])
        proto.graph.name = ""
        assert opened(tmp_path, proto).model.graph.outputs[0].shape is None

    @pytest.mark.parametrize("opset", [7, 8, 22, 40])
    def test_other_versions_of_the_operators_are_told(self, tmp_path: Path, opset: int) -> None:
        (said,) = opened(tmp_path, good(opset=opset)).notices
        assert f"version {opset}; tested are 9 to 21" in said

    @pytest.mark.parametrize("opset", range(9, 22))
    def test_tested_versions_are_not_told(self, tmp_path: Path, opset: int) -> None:
        assert opened(tmp_path, good(opset=opset)).notices == ()

    def test_a_newer_format_is_told(self, tmp_path: Path) -> None:
        found = opened(tmp_path, good(ir_version=onnx.IR_VERSION + 5))
        assert f"IR version is {onnx.IR_VERSION + 5}" in found.notices[0]
        assert found.model.ir_version == onnx.IR_VERSION + 5

    def test_the_other_name_of_the_operator_set(self, tmp_path: Path) -> None:
        proto = good()
        proto.opset_import[0].domain = "ai.onnx"
        assert opened(tmp_path, proto).model.opset_imports == {"": 17}


class TestOverridable:
    """Initializers that are inputs too."""

    INPUTS = (value("x", FLOAT, ["n", 3, 16, 16]), value("w", FLOAT, weight().dims))

    @pytest.mark.parametrize("ir_version", [3, 4, 8])
    def test_are_told_and_stay(self, tmp_path: Path, ir_version: int) -> None:
        found = opened(tmp_path, good(ir_version=ir_version, inputs=self.INPUTS))
        assert found.overridable == ("w",)
        assert "1 of its 1 initializers are inputs too" in found.notices[0]
        assert [entry.name for entry in found.model.graph.inputs] == ["x", "w"]
        assert found.model.ir_version == ir_version

    def test_need_not_be_inputs_in_an_old_file_either(self, tmp_path: Path) -> None:
        found = opened(tmp_path, good(ir_version=3))
        assert found.notices == found.overridable == ()
        assert found.model.ir_version == 4

    @pytest.mark.parametrize(("ir_version", "then"), [(3, 4), (4, 4), (8, 8)])
    def test_are_constants_when_asked_for(self, tmp_path: Path, ir_version: int, then: int) -> None:
        proto = good(ir_version=ir_version, inputs=self.INPUTS)
        found = opened(tmp_path, proto, bake_inputs=True)
        assert found.notices == found.overridable == ()
        assert [entry.name for entry in found.model.graph.inputs] == ["x"]
        stored = found.model.graph.initializers["w"]
        assert not stored.is_graph_input()
        np.testing.assert_array_equal(stored.const_value.numpy(), numpy_helper.to_array(weight()))
        assert found.model.ir_version == then


def test_no_byte_of_a_file_outside_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    secret = put(tmp_path, weight().raw_data, "secret.bin")
    (folder / "w.bin").symlink_to(secret)
    opened_paths: list[str] = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda p, *a, **k: opened_paths.append(str(p)) or real(p, *a, **k)
    )
    for location in ("w.bin", "../secret.bin", str(secret)):
        refused(put(folder, outside(location)))
    assert str(secret) not in opened_paths
    assert str(folder / "w.bin") not in opened_paths
    assert str(folder / "model.onnx") in opened_paths
