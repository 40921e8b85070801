"""Which methods are meant to bring a block to deploy form, and which are about something else."""

from __future__ import annotations

import functools
import os

import pytest

from reparam.adapters.foreign_converting import convert, tried_blocks
from reparam.adapters.foreign_methods import (
    METHODS,
    block_paths,
    changed_inside,
    method_of,
    missing_arguments,
)
from reparam.adapters.foreign_parts import fingerprint, outermost, places_of, put, sublayer
from reparam.adapters.paddle_models import import_paddle
from tests.faulty_blocks import Block, NeedsArguments, Placeholder, Residual, Returns, Whole
from tests.own_network import randomised

nn = import_paddle().nn


class TestMethods:
    @pytest.mark.parametrize("name", METHODS)
    def test_every_name(self, name):
        kind = type("Named", (nn.Layer,), {name: lambda self: None})
        assert method_of(kind()) == name
        assert missing_arguments(kind()) is None

    def test_paddle_itself_has_none(self):
        assert not any(hasattr(nn.Layer, name) for name in METHODS)
        assert block_paths(nn.Sequential(nn.Conv2D(3, 3, 1), nn.BatchNorm2D(3))) == []

    def test_decorated_static_and_optional(self):
        class Decorated(nn.Layer):
            @import_paddle().no_grad()
            def fuse(self):
                pass

        class Static(nn.Layer):
            @staticmethod
            def rep():
                pass

        class Optional(nn.Layer):
            def reparameterize(self, keep=False, *rest, **others):
                pass

        patched = nn.Layer()
        patched.fuse = functools.partial(os.path.basename, "x")
        found = [method_of(part) for part in (Decorated(), Static(), Optional(), patched)]
        assert found == ["fuse", "rep", "reparameterize", "fuse"]

    def test_what_only_has_the_name(self):
        class Property(nn.Layer):
            @property
            def rep(self):
                raise AssertionError("read")

        class Merging(nn.Layer):
            def fuse(self, low, high):
                raise AssertionError("called")

        class Sampling(nn.Layer):
            def re_parameterize(self, mean, variance):
                raise AssertionError("called")

        class Part(nn.Layer):
            def __init__(self):
                super().__init__()
                self.fuse = nn.Conv2D(3, 3, 1)
                self.rep = True
                self.convert_to_deploy = None

        for part in (Property(), Merging(), Sampling(), Part()):
            assert method_of(part) is None
            assert missing_arguments(part) is None  # these names are used for other things

    def test_a_method_that_needs_arguments(self):
        assert method_of(NeedsArguments(3)) is None
        assert missing_arguments(NeedsArguments(3)) == ("switch_to_deploy", ["device"])


class TestParts:
    def test_names_with_dots(self):
        layer, inner = nn.Layer(), nn.Sequential(nn.ReLU())
        layer.add_sublayer("head.0", inner)
        layer.add_sublayer("head", nn.Sequential(nn.GELU()))
        assert sublayer(layer, "head.0") is inner
        assert sublayer(layer, "head.0.0") is inner[0]
        assert sublayer(layer, "head.1") is None

    def test_a_part_in_two_places(self):
        shared = nn.Conv2D(3, 3, 1)
        layer = nn.Sequential(shared, nn.Sequential(shared))
        assert list(places_of(layer, shared)) == ["0", "1.0"]
        put(layer, shared, nn.ReLU())
        assert list(layer.state_dict()) == []

    def test_a_part_that_is_kept_in_a_list_besides(self):
        class Listing(nn.Layer):
            def __init__(self):
                super().__init__()
                self.parts, self.named, self.pair = [], {}, ()
                for name in ("a", "b"):
                    part = self.add_sublayer(name, nn.Conv2D(3, 3, 1))
                    self.parts.append(part)
                    self.named[name] = part
                    self.pair += (part,)

        layer, new = Listing(), nn.ReLU()
        old = layer.parts[1]
        put(layer, old, new)
        assert layer.parts[1] is layer.named["b"] is layer.pair[1] is sublayer(layer, "b") is new
        assert layer.parts[0] is layer.named["a"] is layer.pair[0] is not new

    def test_fingerprints_show_what_a_method_may_change(self):
        block = Placeholder(3)
        before = fingerprint(block)
        block.train()
        assert fingerprint(block) == before
        block.is_repped = True
        assert fingerprint(block) != before
        block.is_repped = False
        del block.__dict__["is_repped"]
        assert fingerprint(block) == before
        block.rbr_dense.bn.bias.set_value(block.rbr_dense.bn.bias + 1)
        assert fingerprint(block) != before

    def test_outermost(self):
        assert outermost(["a.b", "a", "ab", "c.d"]) == ["a", "ab", "c.d"]
        assert outermost(["", "a"]) == [""]

    def test_blocks_that_account_for_a_change(self):
        before, after = randomised(Whole(2)), randomised(Whole(2))
        after.rep()
        assert changed_inside(before, after) == ["stem", "body.0", "body.1"]
        after.stem.weight.set_value(after.stem.weight * 2)
        assert changed_inside(before, after) == ["stem", "body.0", "body.1"]
        after.add_parameter("more", after.create_parameter([1]))
        assert changed_inside(before, after) == []


class TestConverting:
    def test_a_method_that_returns_the_layer_to_use(self):
        layer = randomised(nn.Sequential(Returns(3, 4, 3), nn.ReLU(), Residual(4)))
        found = convert(layer)
        assert [done.where for done in found.converted] == ["0", "2"]
        assert [type(part).__name__ for part in found.layer] == ["Conv2D", "ReLU", "Conv2D"]
        assert found.converted[0].added == ("0.weight", "0.bias")
        assert list(found.arrays) == ["0.weight", "0.bias", "2.weight", "2.bias"]

    def test_a_network_that_converts_itself_once(self):
        layer = randomised(Whole())
        found = convert(layer)
        assert [done.where for done in found.converted] == ["(root)"]
        assert found.layer.is_repped
        again = convert(found.layer)  # it fails, and there is no BatchNorm left
        assert again.converted == ()
        assert again.already == ("(root)",)

    def test_a_skipped_block_is_not_converted_by_one_around_it(self):
        found = convert(randomised(Whole()), skip=["body.1"])
        assert [done.where for done in found.converted] == ["stem", "body.0", "body.2"]
        assert "body.1.m.conv.weight" in found.arrays

    def test_a_block_used_twice(self):
        block = Returns(3, 3, 3)
        found = convert(randomised(nn.Sequential(block, nn.ReLU(), block)))
        assert found.layer[0] is found.layer[2]
        assert list(found.arrays) == ["0.weight", "0.bias", "2.weight", "2.bias"]

    def test_methods_that_do_something(self):
        class Idle(nn.Layer):
            def fuse(self):
                return 3

        layer = randomised(nn.Sequential(Idle(), Block(3), Placeholder(3)))
        assert block_paths(layer) == ["0", "1", "2"]
        assert tried_blocks(layer) == ["1", "2"]
        assert convert(layer).already == ("0",)
