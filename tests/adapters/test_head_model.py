"""Head models: what they compute in every form, opset and batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reparam.adapters.head_model import OWN, PADDLEDETECTION, build_head
from reparam.adapters.head_model_writer import GraphWriter
from reparam.adapters.onnx_checks import check_model, load_strictly
from reparam.adapters.onnx_model import interface_of, op_counts
from reparam.detection.certifying import certify
from reparam.detection.decoding import decode, rounding_bounds
from reparam.detection.records import DECODED, NMS, Maps, Selection
from reparam.detection.selecting import Detections, select
from reparam.errors import ExportError
from tests.adapters.heads import MAPS, SELECTION, SIZES, drawn_maps, planned, run_head

FORMS = [(DECODED, OWN), (NMS, OWN), (NMS, PADDLEDETECTION)]
NOTHING = -20.0


def rows_of(found: Detections) -> np.ndarray:
    """Return detections as rows of PaddleDetection's layout: by image, class and score."""
    rows = []
    for image, count in enumerate(found.count):
        own = [
            (found.classes[image, k], found.scores[image, k], *found.boxes[image, k])
            for k in range(count)
        ]
        rows += sorted(own, key=lambda row: (row[0], -row[1]))
    return np.array(rows, np.float32).reshape(-1, 6)


@pytest.mark.parametrize("opset", range(11, 22))
@pytest.mark.parametrize(("head", "layout"), FORMS)
@pytest.mark.parametrize("sizes", [SIZES, None], ids=["fixed", "open"])
def test_every_opset_gives_a_valid_model_with_the_same_answer(
    opset: int, head: str, layout: str, sizes
) -> None:
    plan = planned(
        head=head, layout=layout, sizes=sizes, opset=opset,
        selection=replace(SELECTION, candidates=15),
    )  # fmt: skip
    model = build_head(plan)
    check_model(model.SerializeToString())
    assert interface_of(model).opset == opset
    extra = {"scale_factor": np.ones((2, 2), np.float32)} if layout != OWN else {}
    found = run_head(plan, drawn_maps(2), **extra)
    expected = run_head(replace(plan, opset=17, sizes=SIZES), drawn_maps(2), **extra)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("candidates", [None, 15, 10**6])
@pytest.mark.parametrize("sizes", [SIZES, None], ids=["sizes", "open"])
def test_answers_are_the_references(batch: int, fixed: bool, candidates, sizes) -> None:
    selection = replace(SELECTION, candidates=candidates)
    plan = planned(selection=selection, batch=batch if fixed else None, sizes=sizes)
    arrays = drawn_maps(batch, seed=batch)
    arrays[0][-1] = arrays[2][-1] = arrays[4][-1] = NOTHING  # the last image shows nothing
    boxes, scores = run_head(replace(plan, head=DECODED), arrays)
    box_bound, score_bound = rounding_bounds(MAPS, arrays)
    truth = decode(MAPS, arrays)
    assert (np.abs(boxes - truth[0]) <= box_bound).all()
    assert np.abs(scores - truth[1]).max() <= score_bound
    found = Detections(*run_head(plan, arrays))
    expected = select(boxes, scores, selection)
    assert (found.count > 0).tolist() == [True] * (batch - 1) + [False]
    for name in ("boxes", "scores", "classes", "count"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert certify(boxes, scores, selection, found) is None


@pytest.mark.parametrize("top_k", [1, 40, 5000])
def test_paddledetections_layout_holds_the_same(top_k: int) -> None:
    selection = replace(SELECTION, top_k=top_k)
    arrays = drawn_maps(3, seed=4)
    scale = np.array([[1, 1], [0.5, 2], [0.3, 1.7]], np.float32)
    own = Detections(*run_head(planned(selection=selection), arrays))
    rows, count = run_head(
        planned(selection=selection, layout=PADDLEDETECTION), arrays, scale_factor=scale
    )
    assert count.dtype == np.int32
    np.testing.assert_array_equal(count, own.count)
    expected = rows_of(own)
    expected[:, 2:] /= np.repeat(scale, own.count, axis=0)[:, [1, 0, 1, 0]]
    np.testing.assert_array_equal(rows, expected)


def test_a_scale_factor_of_zero_loses_no_detection() -> None:
    arrays = drawn_maps(2)
    plan = planned(layout=PADDLEDETECTION)
    whole = run_head(plan, arrays, scale_factor=np.ones((2, 2), np.float32))
    rows, count = run_head(plan, arrays, scale_factor=np.zeros((2, 2), np.float32))
    np.testing.assert_array_equal(count, whole[1])
    np.testing.assert_array_equal(rows[:, :2], whole[0][:, :2])
    assert count.sum() > 0
    assert not np.isfinite(rows[:, 2:]).any()


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("layout", [OWN, PADDLEDETECTION])
@pytest.mark.parametrize("candidates", [None, 5])
def test_no_object_at_all_is_an_empty_result(batch: int, layout: str, candidates) -> None:
    arrays = drawn_maps(batch)
    for cls in arrays[::2]:
        cls[:] = NOTHING
    plan = planned(layout=layout, selection=replace(SELECTION, candidates=candidates))
    extra = {"scale_factor": np.ones((batch, 2), np.float32)} if layout != OWN else {}
    found = run_head(plan, arrays, **extra)
    if layout == OWN:
        boxes, scores, classes, count = found
        assert not boxes.any()
        assert not scores.any()
        assert (classes == -1).all()
        assert count.tolist() == [0] * batch
    else:
        assert found[0].shape == (0, 6)
        assert found[1].tolist() == [0] * batch


def test_images_do_not_touch_each_other() -> None:
    arrays = drawn_maps(5, seed=9)
    together = run_head(planned(), arrays)
    for image in range(5):
        alone = run_head(planned(), [array[image : image + 1] for array in arrays])
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_array_equal(one[image], other[0])


@pytest.mark.parametrize("candidates", [None, 1, 15, 300])
@pytest.mark.parametrize("layout", [OWN, PADDLEDETECTION])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_maps_that_are_no_numbers_spoil_only_their_own_image(
    odd: float, layout: str, candidates
) -> None:
    arrays = drawn_maps(2)
    for array in arrays:
        array[0, ..., ::3] = odd
    plan = planned(layout=layout, selection=replace(SELECTION, candidates=candidates))
    extra = {"scale_factor": np.ones((2, 2), np.float32)} if layout != OWN else {}
    found = run_head(plan, arrays, **extra)
    whole = run_head(plan, drawn_maps(2), **extra)
    if layout == OWN:
        for one, other in zip(found, whole, strict=True):
            np.testing.assert_array_equal(one[1], other[1])
    else:
        np.testing.assert_array_equal(found[0][found[1][0] :], whole[0][whole[1][0] :])


def test_equal_scores_come_out_the_same_in_every_run() -> None:
    arrays = drawn_maps(3)
    for cls in arrays[::2]:
        cls[:] = np.round(cls)
    first = run_head(planned(), arrays)
    boxes, scores = run_head(planned(head=DECODED), arrays)
    assert certify(boxes, scores, SELECTION, Detections(*first)) is None
    for one, other in zip(first, run_head(planned(), arrays), strict=True):
        np.testing.assert_array_equal(one, other)


def test_tiny_scores_of_late_images_keep_their_order() -> None:
    """Image and score share a key; in floating point the score would drown."""
    arrays = drawn_maps(40, sizes=((1, 2), (2, 4), (4, 8)))
    for cls in arrays[::2]:
        cls[:] = cls / 3 - 9
    selection = Selection(0.0, 1.0, 50)
    plan = planned(selection=selection, sizes=None)
    boxes, scores = run_head(replace(plan, head=DECODED), arrays)
    found = Detections(*run_head(plan, arrays))
    assert len(np.unique(found.scores[-1])) > 40
    assert certify(boxes, scores, selection, found) is None


def test_open_sizes_take_any() -> None:
    sizes = ((3, 9), (6, 18), (12, 36))
    arrays = drawn_maps(1, sizes=sizes)
    found = run_head(planned(head=DECODED, sizes=None), arrays)
    fixed = run_head(planned(head=DECODED, sizes=sizes), arrays)
    for one, other in zip(found, fixed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_numbers_of_levels_bins_and_classes() -> None:
    maps = Maps((64, 8), 1, (-2.0, -1.0, 0.5, 3.0))
    rng = np.random.default_rng(0)
    arrays = [
        rng.normal(0, 1, (2, channels, *size)).astype(np.float32)
        for size in ((1, 2), (8, 16))
        for channels in (1, 16)
    ]
    session = load_strictly(
        build_head(planned(maps=maps, head=DECODED, sizes=None)).SerializeToString()
    )
    boxes, scores = session.run(None, dict(zip(maps.names, arrays, strict=True)))
    truth, bounds = decode(maps, arrays), rounding_bounds(maps, arrays)
    assert (np.abs(boxes - truth[0]) <= bounds[0]).all()
    assert np.abs(scores - truth[1]).max() <= bounds[1]


def test_names_and_shapes_are_what_callers_are_promised() -> None:
    own = interface_of(build_head(planned()))
    assert [(v.name, v.shape, v.dtype) for v in own.outputs] == [
        ("boxes", ("batch", 40, 4), "float32"),
        ("scores", ("batch", 40), "float32"),
        ("classes", ("batch", 40), "int64"),
        ("count", ("batch",), "int64"),
    ]
    assert [v.name for v in own.inputs] == list(MAPS.names)
    decoded = interface_of(build_head(planned(head=DECODED, batch=2)))
    assert [(v.name, v.shape) for v in decoded.outputs] == [
        ("boxes", (2, 630, 4)), ("scores", (2, 3, 630)),
    ]  # fmt: skip
    theirs = interface_of(build_head(planned(layout=PADDLEDETECTION, sizes=None)))
    assert [(v.name, v.shape, v.dtype) for v in theirs.outputs] == [
        ("fetch_name_0", ("detections", 6), "float32"),
        ("fetch_name_1", ("batch",), "int32"),
    ]
    assert theirs.inputs[0].shape == ("batch", 3, "height_32", "width_32")
    assert theirs.inputs[-1].name == "scale_factor"
    assert theirs.inputs[-1].shape == ("batch", 2)


def test_decoding_is_few_nodes() -> None:
    counts = op_counts(build_head(planned(head=DECODED)))
    assert counts == {
        "Add": 1, "Concat": 2, "MatMul": 1, "Mul": 1, "Reshape": 7, "Sigmoid": 1, "Softmax": 1,
        "Transpose": 1,
    }  # fmt: skip


def test_only_asked_for_candidates_are_sorted_out() -> None:
    plain = op_counts(build_head(planned()))
    limited = op_counts(build_head(planned(selection=replace(SELECTION, candidates=5))))
    assert limited["TopK"] == plain["TopK"] + 1


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"head": "raw"}, "decoded or nms"),
        ({"layout": "other"}, "a layout is one of own, paddledetection"),
        ({"head": DECODED, "layout": PADDLEDETECTION}, "selected boxes"),
        ({"opset": 10}, "opset 11 or newer"),
        ({"batch": 0}, "a batch is 1 or more"),
        ({"sizes": ((5, 6),)}, "each stride"),
        ({"selection": Selection(score_threshold=-0.1)}, "a score threshold"),
        ({"selection": Selection(score_threshold=1.0)}, "a score threshold"),
        ({"selection": Selection(score_threshold=float("nan"))}, "a score threshold"),
        ({"selection": Selection(iou_threshold=1.1)}, "an overlap threshold"),
        ({"selection": Selection(top_k=0)}, "at least one detection"),
        ({"selection": Selection(candidates=0)}, "at least one box"),
    ],
)
def test_what_cannot_be_a_head_is_refused(changes, match: str) -> None:
    with pytest.raises(ExportError, match=match):
        build_head(planned(**changes))


def test_a_constant_has_one_value() -> None:
    writer = GraphWriter()
    assert writer.constant("one", [1]) == writer.constant("one", [1]) == "one"
    with pytest.raises(ValueError, match="'one' has two values"):
        writer.constant("one", [2])
