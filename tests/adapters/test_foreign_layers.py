"""Layers of the user's own: loaded strictly in either form, converted on a copy, once each."""

from __future__ import annotations

import numpy as np
import pytest

from reparam.adapters.foreign_converting import convert
from reparam.adapters.foreign_layers import input_channels, load_in_its_form
from reparam.adapters.foreign_methods import block_paths
from reparam.adapters.foreign_models import ForeignModel
from reparam.adapters.foreign_parts import copy_of, shapes_of, sublayer
from reparam.adapters.foreign_running import Call, calls_of, feed, run_block
from reparam.adapters.paddle_models import import_paddle, state_of
from reparam.errors import CheckpointError, NotFusibleError, UnsupportedModelError
from tests.own_network import Block, Branch, build, randomised, weights

BLOCKS = ["stem", "body.0", "body.1"]
X = np.random.default_rng(5).normal(size=(1, 3, 12, 10)).astype(np.float32)


class TestConvert:
    def test_every_block_on_a_copy(self):
        layer = randomised(build())
        before = dict(state_of(layer))
        found = convert(layer)
        assert [done.where for done in found.converted] == BLOCKS == block_paths(layer)
        assert found.already == ()
        after = dict(state_of(layer))
        assert after.keys() == before.keys()
        assert all((after[key] == before[key]).all() for key in before)
        assert not any(key.startswith("stem.wide") for key in shapes_of(found.layer))

    def test_what_was_done_is_told(self):
        stem, body, _ = convert(randomised(build())).converted
        assert stem.kind == "tests.own_network.Block"
        assert stem.method == "convert_to_deploy"
        assert stem.added == ("stem.one.weight", "stem.one.bias")
        assert "stem.alpha" in stem.replaced
        assert stem.parameters_before == 8 * 3 * 10 + 4 * 8 + 1
        assert stem.parameters_after == 8 * 3 * 9 + 8
        assert "body.0.identity.weight" in body.replaced

    def test_converting_twice_is_converting_once(self):
        """The method fails when called again; the blocks are in deploy form then."""
        once = convert(randomised(build())).layer
        twice = convert(once)
        assert twice.converted == ()
        assert list(twice.already) == BLOCKS
        assert run_block(twice.layer, Call((X,), {}), "float32")[0].shape == (1, 5)

    def test_skipped_blocks_stay(self):
        found = convert(randomised(build()), skip=["body"])
        assert [done.where for done in found.converted] == ["stem"]
        assert "body.0.wide.conv.weight" in shapes_of(found.layer)

    def test_an_outer_block_that_converts_the_inner_ones(self):
        class Outer(Block):  # its own branches, and a block inside
            def __init__(self):
                super().__init__(4, 4)
                self.inner = Block(4, 4)

            def forward(self, x):
                return self.inner(super().forward(x))

            def convert_to_deploy(self):
                super().convert_to_deploy()
                self.inner.convert_to_deploy()

        found = convert(randomised(import_paddle().nn.Sequential(Outer())))
        assert [done.where for done in found.converted] == ["0"]
        assert found.already == ()  # the inner one was not called again
        assert not any("wide" in key for key in shapes_of(found.layer))

    def test_an_outer_block_that_leaves_the_inner_ones(self):
        class Outer(Block):
            def __init__(self):
                super().__init__(4, 4)
                self.inner = Block(4, 4)

        found = convert(randomised(import_paddle().nn.Sequential(Outer())))
        assert [done.where for done in found.converted] == ["0", "0.inner"]

    def test_the_network_itself_may_be_the_block(self):
        found = convert(randomised(Block(3, 4)))
        assert [done.where for done in found.converted] == ["(root)"]
        again = convert(found.layer)
        assert again.already == ("(root)",)
        assert shapes_of(again.layer) == shapes_of(found.layer)

    def test_a_method_that_does_nothing(self):
        class Idle(Branch):
            def convert_to_deploy(self):
                return None

        found = convert(Idle(3, 4, 3, 1, 1))
        assert found.converted == ()
        assert found.already == ("(root)",)

    def test_re_parameterize_is_a_method_too(self):
        class Clas(Block):
            convert_to_deploy = None

            def re_parameterize(self):
                Block.convert_to_deploy(self)

        (done,) = convert(randomised(Clas(3, 4))).converted
        assert done.method == "re_parameterize"

    @pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
    def test_a_method_that_fails_names_the_block(self, kind):
        class Broken(Block):
            def convert_to_deploy(self):
                raise kind("no good\nat all")

        layer = randomised(import_paddle().nn.Sequential(Broken(3, 4)))
        with pytest.raises(NotFusibleError) as caught:
            convert(layer)
        assert caught.value.exit_code == 1
        assert "block '0': its convert_to_deploy() failed" in caught.value.what
        assert f"{kind.__name__}: no good" in caught.value.found
        assert "Broken" in caught.value.why

    def test_what_a_method_prints_goes_to_stderr(self, capsys):
        class Loud(Block):
            def convert_to_deploy(self):
                print("converting")
                super().convert_to_deploy()

        convert(randomised(Loud(3, 4)))
        assert capsys.readouterr() == ("", "converting\n")

    def test_a_network_that_cannot_be_copied(self):
        class Stuck(Block):
            def __deepcopy__(self, memo):
                raise TypeError("cannot be copied")

        with pytest.raises(UnsupportedModelError, match="cannot copy the network Stuck"):
            copy_of(Stuck(3, 4))


class TestLoad:
    def test_both_forms_and_half_of_each(self):
        layer = load_in_its_form(build(), weights())
        whole = dict(state_of(convert(layer).layer))
        half = dict(state_of(convert(layer, skip=["body.0"]).layer))
        for arrays in (weights(), whole, half):
            loaded = load_in_its_form(build(), arrays)
            found = dict(state_of(loaded))
            assert found.keys() == arrays.keys()
            assert all((found[key] == arrays[key]).all() for key in arrays)

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda a: a.pop("norm._mean"), "1 missing: norm._mean"),
            (lambda a: a.pop("stem.wide.norm.bias"), "1 missing: stem.wide.norm.bias"),
            (lambda a: a.update(more=a["norm.bias"]), "1 unexpected: more"),
            (lambda a: a.update({"head.bias": a["head.bias"][:3]}), r"needs float32 \(5,\)"),
        ],
    )
    def test_every_key_is_accounted_for(self, spoil, message):
        arrays = weights()
        spoil(arrays)
        with pytest.raises(CheckpointError, match=message):
            load_in_its_form(build(), arrays)

    def test_a_deploy_checkpoint_with_a_key_missing(self):
        arrays = dict(state_of(convert(load_in_its_form(build(), weights())).layer))
        del arrays["stem.one.bias"]
        with pytest.raises(CheckpointError, match=r"1 missing: stem.one.bias"):
            load_in_its_form(build(), arrays)

    def test_a_checkpoint_of_another_width(self):
        with pytest.raises(CheckpointError, match="of another shape"):
            load_in_its_form(build(width=12), weights())


class TestFeed:
    def test_a_tensor_or_a_dict_with_the_image(self):
        plain, wrapped = randomised(build()), randomised(build(as_dict=True))
        first, second = feed(plain, X.shape), feed(wrapped, X.shape)
        assert (first.key, second.key) == (None, "image")
        assert (first.input_name, second.input_name) == ("pixels", "image")
        tensor = import_paddle().to_tensor(X)
        assert (first(tensor)[0].numpy() == second(tensor)[0].numpy()).all()

    def test_outputs_that_are_no_tensors_are_left_out(self):
        class Odd(Branch):
            def forward(self, x):
                return {"none": None, "y": (super().forward(x), 3, [x + 1])}

        assert len(feed(Odd(3, 4, 3, 1, 1), X.shape)(import_paddle().to_tensor(X))) == 2

    def test_a_network_that_does_not_run(self):
        with pytest.raises(UnsupportedModelError) as caught:
            feed(build(), (1, 4, 8, 8))
        assert "does not run on an image" in caught.value.what
        assert "--input-size other than 8x8" in caught.value.hint

    def test_a_network_without_outputs(self):
        class Silent(Branch):
            def forward(self, x):
                return None

        with pytest.raises(UnsupportedModelError, match="it returned no tensor"):
            feed(Silent(3, 4, 3, 1, 1), X.shape)

    def test_channels_are_those_of_a_convolution(self):
        nn = import_paddle().nn
        assert input_channels(build(width=16)) == [3, 16]
        assert input_channels(nn.Linear(3, 3)) == []
        assert input_channels(nn.Conv2D(6, 3, 1, groups=3)) == [6]
        assert input_channels(nn.Sequential(nn.Conv2D(8, 3, 1), nn.Conv2D(3, 8, 1))) == [3, 8]

    def test_channels_are_tried(self):
        class Late(import_paddle().nn.Layer):  # made first, run last
            def __init__(self):
                super().__init__()
                self.second, self.first = Branch(7, 2, 1, 1, 1), Branch(5, 7, 3, 1, 1)

            def forward(self, x):
                return self.second(self.first(x))

        assert ForeignModel("unused:unused").fed(Late(), (8, 8)).channels == 5
        with pytest.raises(UnsupportedModelError, match="does not run"):
            ForeignModel("unused:unused", {}, input_channels=7).fed(Late(), (8, 8))

    def test_how_blocks_are_called(self):
        class Pair(Branch):
            def forward(self, x, *, scale, more):
                return super().forward(x) * scale + more["of it"][0]

        class Whole(import_paddle().nn.Layer):
            def __init__(self):
                super().__init__()
                self.pair, self.never = Pair(3, 3, 3, 1, 1), Block(3, 3)

            def forward(self, x):
                y = self.pair(x, scale=2, more={"of it": [x + 1]})
                return self.pair(y, scale=3, more={"of it": [x]})

        layer = randomised(Whole())
        fed = feed(layer, X.shape)
        calls = calls_of(fed, ["pair", "never"], X)
        assert list(calls) == ["pair"]
        call = calls["pair"]  # the first of two
        assert call.kwargs["scale"] == 2
        assert [a.shape for a in call.arrays()] == [X.shape, X.shape]
        changed = call.with_arrays([X * 2, X * 3])
        assert (changed.kwargs["more"]["of it"][0] == X * 3).all()
        (y,) = run_block(sublayer(layer, "pair"), call, "float32")
        assert y.shape == X.shape

    def test_running_does_not_print_on_stdout(self, capsys):
        class Loud(Branch):
            def forward(self, x):
                print("running")
                return super().forward(x)

        feed(Loud(3, 4, 3, 1, 1), X.shape)
        assert capsys.readouterr() == ("", "running\n")
