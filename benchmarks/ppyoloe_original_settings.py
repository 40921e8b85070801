"""What PaddleDetection's configurations of PP-YOLOE give the parts of the network."""

from __future__ import annotations

from typing import Any

_MULTIPLIERS = {"t": (0.375, 0.33), "s": (0.50, 0.33), "m": (0.75, 0.67), "l": (1.0, 1.0),
                "x": (1.25, 1.33)}  # fmt: skip


def settings_of(name: str) -> dict[str, Any]:
    """Return the arguments of the parts of ``ppyoloe_s``, ``ppyoloe_plus_t`` and so on."""
    plus, size = "plus" in name, name[-1]
    width, depth = _MULTIPLIERS[size]
    scale = {"width_mult": width, "depth_mult": depth}
    tiny = plus and size == "t"
    found: dict[str, Any] = {
        "backbone": {"use_large_stem": True, "use_alpha": plus, **scale},
        "neck": {"out_channels": [384, 384, 384] if tiny else [768, 384, 192], **scale},
        "head": {"num_classes": 80},
    }
    if tiny:
        found["head"]["attn_conv"] = "repvgg"
        found["aux"] = {"num_classes": 80, "feat_in": 288, "feat_out": 288,
                        "fpn_strides": [32, 16, 8]}  # fmt: skip
    return found
