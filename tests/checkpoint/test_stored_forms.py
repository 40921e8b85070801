"""Arrays in slices, bfloat16 as uint16, float16, and what a whole run makes of them."""

from __future__ import annotations

import pickle

import ml_dtypes
import numpy as np
import pytest

from reparam.checkpoint import load_checkpoint, save_checkpoint
from reparam.checkpoint.inspection import inspect
from reparam.checkpoint.pipeline import fuse
from reparam.checkpoint.stored_forms import NAME_TABLE, SLICE_TABLE, joined
from reparam.equivalence import Probing, verify
from reparam.errors import CheckpointError, NotFusibleError
from tests.weights import cspresnet_arrays, repvgg_arrays, write

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
QUICK = Probing(network=False)


def sliced(arrays: dict, most: int) -> dict:
    """``arrays`` in the slices that Paddle writes with protocol 2, with a small limit."""
    value, table = dict(arrays), {}
    for key, array in arrays.items():
        if array.size > most:
            flat, names = value.pop(key).flatten(), []
            for start in range(0, flat.size, most):
                names.append(f"{key}@@.{len(names)}")
                value[names[-1]] = flat[start : start + most]
            table[key] = {"OriginShape": array.shape, "slices": names}
    return {**value, NAME_TABLE: {key: f"p_{key}" for key in arrays}, SLICE_TABLE: table}


def dump(folder, value, protocol=2):
    path = folder / "ckpt.pdparams"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


class TestSlices:
    @pytest.mark.parametrize("wrap", [lambda v: v, lambda v: {"model": v, "epoch": 1}])
    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_are_put_together(self, tmp_path, prefix, wrap):
        arrays = {prefix + key: array for key, array in repvgg_arrays().items()}
        found = load_checkpoint(dump(tmp_path, wrap(sliced(arrays, 50))))
        assert set(found.arrays) == set(repvgg_arrays())
        for key, array in repvgg_arrays().items():
            assert np.array_equal(found.arrays[key], array)
            assert found.arrays[key].dtype == array.dtype
            assert not found.arrays[key].flags.writeable
        assert "left out: 'epoch'" in found.layout.notices or wrap({}) == {}
        assert found.names == {key: f"p_{prefix}{key}" for key in repvgg_arrays()}

    def test_stand_where_their_first_slice_stood(self):
        arrays = {"b@@.0": np.ones(2), "b@@.1": np.zeros(1), "a": np.ones(1)}
        table = {"b": {"OriginShape": (3,), "slices": ["b@@.0", "b@@.1"]}}
        assert list(joined(arrays, table)) == ["b", "a"]

    def test_as_paddle_cuts_them(self, tmp_path, monkeypatch):
        """The oracle: Paddle's own cutting and putting together, with its limit lowered."""
        from reparam.adapters.paddle_models import import_paddle

        import_paddle()
        from paddle.framework import io_utils

        source = io_utils._unpack_saved_dict
        code = source.__code__.replace(
            co_consts=tuple(2**8 - 1 if c == 2**30 - 1 else c for c in source.__code__.co_consts)
        )
        assert code != source.__code__
        cut = type(source)(code, source.__globals__)
        arrays = repvgg_arrays()
        path = dump(tmp_path, cut(dict(arrays), 2))
        assert b"@@.1" in path.read_bytes()
        theirs = io_utils._pack_loaded_dict(pickle.loads(path.read_bytes()))
        ours = load_checkpoint(path).arrays
        assert set(ours) == set(theirs) == set(arrays)
        assert all(np.array_equal(ours[key], theirs[key]) for key in arrays)

    def test_of_a_part_chosen_by_its_prefix(self, tmp_path):
        arrays = {f"backbone.{key}": array for key, array in repvgg_arrays().items()}
        arrays["neck.weight"] = np.ones(200, np.float32)
        found = load_checkpoint(dump(tmp_path, sliced(arrays, 50)), prefix="backbone")
        assert set(found.arrays) == set(repvgg_arrays())

    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda v: v.pop("w@@.1"), "lacks 1 of 3 slices"),
            (lambda v: v.update({SLICE_TABLE: [1]}), "no table"),
            (lambda v: v[SLICE_TABLE]["w"].update(OriginShape=(3, 3)), "for the shape (3, 3)"),
            (lambda v: v[SLICE_TABLE]["w"].update(OriginShape=(-2, -5)), "for the shape"),
            (lambda v: v[SLICE_TABLE]["w"].update(OriginShape="10"), "no list of slices"),
            (lambda v: v[SLICE_TABLE]["w"].update(slices=[]), "lacks"),
            (lambda v: v[SLICE_TABLE]["w"].update(slices=["w@@.0"] * 3), "stored twice"),
            (lambda v: v[SLICE_TABLE]["w"].update(slices=[0, 1, 2]), "no list of slices"),
            (lambda v: v[SLICE_TABLE]["w"].pop("slices"), "no list of slices"),
            (lambda v: v[SLICE_TABLE].update(x=v[SLICE_TABLE]["w"]), "stored twice"),
            (lambda v: v.update({"w": np.ones(2)}), "stored twice"),
            (lambda v: v.update({"w@@.1": np.ones(4, np.float32)}), "of several dtypes"),
            (lambda v: v.update({"w@@.1": np.ones((2, 2))}), "not flat"),
            (lambda v: v[SLICE_TABLE].update({3: v[SLICE_TABLE].pop("w")}), "no list of slices"),
        ],
    )
    def test_a_table_that_does_not_fit_is_refused(self, tmp_path, spoil, said):
        value = sliced({"w": np.arange(10.0).reshape(2, 5)}, 4)
        spoil(value)
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(dump(tmp_path, value, 4))
        assert said in str(caught.value)

    def test_one_slice_named_many_times_does_not_fill_the_memory(self, tmp_path):
        piece = np.zeros(100_000)
        value: dict = {f"w@@.{i}": piece for i in range(1000)}  # one array in the pickle
        table = {"OriginShape": (1000, 100_000), "slices": list(value)}
        with pytest.raises(CheckpointError, match="bytes in slices in a file of"):
            load_checkpoint(dump(tmp_path, {**value, SLICE_TABLE: {"w": table}}))


def test_one_array_named_endlessly_is_refused(tmp_path):
    piece = np.zeros(100_000)
    with pytest.raises(CheckpointError, match="many times larger than the file"):
        load_checkpoint(dump(tmp_path, {f"w{i}": piece for i in range(100)}))
    assert len(load_checkpoint(dump(tmp_path, {f"w{i}": piece for i in range(4)})).arrays) == 4


def cast(arrays: dict, dtype, statistics=None) -> dict:
    """In another dtype; all but kernels in ``statistics`` if given, as mixed precision does it."""
    return {
        key: array.astype(dtype if array.ndim == 4 or statistics is None else statistics)
        for key, array in arrays.items()
    }


class TestHalfPrecision:
    @pytest.mark.parametrize("ending", ["pdparams", "safetensors"])
    @pytest.mark.parametrize("dtype", ["float16", BFLOAT16])
    def test_round_trip(self, tmp_path, dtype, ending):
        arrays = {**cast(repvgg_arrays(), dtype), "scalar": np.array(1.5, dtype)}
        path = tmp_path / f"x.{ending}"
        save_checkpoint(path, arrays)
        found = load_checkpoint(path)
        assert set(found.arrays) == set(arrays)
        for key, array in arrays.items():
            assert found.arrays[key].dtype == array.dtype
            assert found.arrays[key].shape == array.shape
            assert found.arrays[key].tobytes() == array.tobytes()
            assert not found.arrays[key].flags.writeable
        assert inspect(path).dtypes == {np.dtype(dtype).name: len(arrays)}

    def test_bfloat16_is_uint16_in_a_pickle_and_that_is_said(self, tmp_path):
        path = write(tmp_path, cast(repvgg_arrays(), BFLOAT16))
        stored = pickle.loads(path.read_bytes())
        assert {array.dtype for array in stored.values()} == {np.dtype(np.uint16)}
        assert "uint16 are bfloat16" in " ".join(load_checkpoint(path).layout.notices)

    def test_big_endian_uint16(self, tmp_path):
        values = np.array([1.5, -2.0], BFLOAT16)
        path = dump(tmp_path, {"w": values.view(np.uint16).astype(">u2")})
        assert load_checkpoint(path).arrays["w"].tolist() == [1.5, -2.0]

    @pytest.mark.parametrize("ending", ["pdparams", "safetensors"])
    @pytest.mark.parametrize("make", [repvgg_arrays, cspresnet_arrays])
    @pytest.mark.parametrize("dtype", ["float16", BFLOAT16])
    @pytest.mark.parametrize("statistics", [None, np.float32])
    def test_fuse_and_verify(self, tmp_path, dtype, statistics, make, ending):
        source = write(tmp_path, cast(make(), dtype, statistics))
        result = fuse(source, tmp_path / f"out.{ending}")
        fused = load_checkpoint(result.output).arrays
        for block in result.report.fused:
            assert [fused[key].dtype for key in block.keys] == [dtype, dtype]
        found = verify(source, result.output, QUICK)
        assert found.verdict == "equivalent"
        assert verify(source, probing=QUICK).verdict == "equivalent"
        worst = found.stages[1].worst_block
        assert 0 < worst.distance <= worst.bound

    @pytest.mark.parametrize("dtype", ["float16", BFLOAT16])
    def test_a_wrong_value_shows(self, tmp_path, dtype):
        source = write(tmp_path, cast(repvgg_arrays(), dtype))
        output = fuse(source).output
        arrays = dict(load_checkpoint(output).arrays)
        key = "stage1.0.rbr_reparam.weight"
        wrong = arrays[key].astype(np.float64)
        wrong[0, 0] += 0.5
        other = write(tmp_path, {**arrays, key: wrong.astype(dtype)}, "wrong.pdparams")
        found = verify(source, other, QUICK)
        assert found.verdict == "different"
        assert "stage1.0" in found.first_difference

    def test_leftovers_beside_the_branches_are_told(self, tmp_path):
        source = write(tmp_path, cast(repvgg_arrays(), BFLOAT16))
        fused = load_checkpoint(fuse(source).output).arrays
        both = {**load_checkpoint(source).arrays, **fused}
        report = fuse(write(tmp_path, both, "both.pdparams")).report
        assert "left from an earlier fusion" in " ".join(report.notices)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_values_that_are_not_finite(self, tmp_path, bad):
        arrays = cast(repvgg_arrays(), BFLOAT16)
        arrays["linear.bias"][1] = bad
        path = write(tmp_path, arrays)
        assert inspect(path).not_finite == ("linear.bias",)
        with pytest.raises(CheckpointError, match=r"'linear\.bias' holds a value that is not"):
            fuse(path)

    def test_a_sum_that_float16_does_not_hold(self, tmp_path):
        arrays = cast(repvgg_arrays(), "float16", np.float32)
        arrays["stage0.rbr_dense.bn.weight"] = np.full(8, 1e6, np.float32)
        with pytest.raises(NotFusibleError, match=r"(?s)stage0.*65504"):
            fuse(write(tmp_path, arrays))

    def test_what_paddle_writes(self, tmp_path):
        from reparam.adapters.paddle_models import import_paddle

        paddle = import_paddle()
        for name in ("bfloat16", "float16"):
            layer = paddle.nn.Conv2D(3, 4, 3)
            layer.to(dtype=name)
            path = tmp_path / f"{name}.pdparams"
            paddle.save(layer.state_dict(), str(path))
            found = load_checkpoint(path).arrays["weight"]
            assert found.dtype.name == name
            exact = layer.weight.astype("float32").numpy()
            assert np.array_equal(found.astype(np.float32), exact)
            save_checkpoint(tmp_path / f"again.{name}.pdparams", load_checkpoint(path).arrays)
            layer.weight.set_value(paddle.zeros_like(layer.weight))
            layer.set_state_dict(paddle.load(str(tmp_path / f"again.{name}.pdparams")))
            assert np.array_equal(layer.weight.astype("float32").numpy(), exact)
