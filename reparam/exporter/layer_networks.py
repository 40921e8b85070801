"""A network of the user's own as a value to export: proved before anything is made from it."""

from __future__ import annotations

from collections.abc import Sequence

from reparam.adapters.foreign_converting import tried_blocks
from reparam.adapters.foreign_methods import block_paths
from reparam.adapters.foreign_models import ForeignModel
from reparam.checkpoint import Checkpoint
from reparam.checkpoint.fusing import need_finite
from reparam.equivalence.layer_reading import layer_as_meant
from reparam.equivalence.layer_verification import LayerTruth
from reparam.exporter.layer_fusing import convert_proved
from reparam.exporter.networks import CLASSIFIER_SIZE, Network, source_notices


def network_of_model(
    checkpoint: Checkpoint,
    model: ForeignModel,
    *,
    fuse: bool = True,
    input_size: tuple[int, int] | None = None,
    skip: Sequence[str] = (),
) -> Network:
    """Return the user's network with the weights of a checkpoint, its blocks converted.

    Args:
        checkpoint: in any form; a half-fused one is finished.
        fuse: convert each block by its own method; otherwise as it is in the checkpoint.
        input_size: (H, W) of an image that it runs on; 224 x 224 if None.
        skip: paths of blocks to leave as they are.

    Raises:
        UnsupportedModelError: the network cannot be built, or does not run.
        CheckpointError: the checkpoint is not of that network.
        NotFusibleError, NotEquivalentError: a block cannot be converted, or not rightly.
    """
    need_finite(checkpoint.arrays)
    size = input_size or CLASSIFIER_SIZE
    meant, told = layer_as_meant(checkpoint.arrays, model, size)
    truth = LayerTruth(checkpoint.arrays, model, size, meant)
    layer, blocks = truth.layer.network, block_paths(truth.layer.network)
    notices = [*source_notices(checkpoint), *told]
    proved = convert_proved(truth, skip)
    conversion, left = proved.conversion, proved.left
    converted = [done.where for done in conversion.converted]
    fused = [path for path in blocks if path not in converted] if not fuse else blocks
    fused = [path for path in fused if path not in {one.where for one in left}]
    if fuse:
        layer = conversion.layer
        notices += [f"left as it is: {one.where}: {one.reason}" for one in left]
        notices += proved.notices
    form = "deploy" if not converted else "mixed" if conversion.already else "train-time"
    return Network(
        name=model.spec,
        original=truth.layer,
        exported=truth.layer.around(layer).traceable(),
        input_name=truth.layer.input_name,
        channels=truth.channels,
        default_size=size,
        source=checkpoint.path,
        source_sha256=checkpoint.sha256,
        source_form=form,
        settings=dict(model.arguments),
        blocks=tuple(blocks),
        fused=tuple(fused),
        counted=False,
        notices=tuple(notices),
        finish=fuse,
    )


def has_branches(checkpoint: Checkpoint, model: ForeignModel) -> bool:
    """Whether there is a block in a checkpoint that its network's own methods convert.

    Raises:
        UnsupportedModelError, CheckpointError, NotFusibleError: as :func:`network_of_model`.
    """
    return bool(tried_blocks(model.layer_of(checkpoint.arrays)))
