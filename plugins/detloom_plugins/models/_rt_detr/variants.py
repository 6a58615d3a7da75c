"""The sizes of RT-DETR, as published."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Variant:
    """depths, widths: blocks and channels of the four stages of the backbone; bottleneck: its kind of block.
    encoder_width, encoder_ffn: channels of the encoder; expansion: of its fusion blocks; decoder_layers: number.

    The rest is the same for all published sizes and is named so that other sizes can be made. stem_width: channels of
    the stem; decoder_width: of the decoder, and decoder_ffn: of its hidden layers.
    """

    name: str
    parameters: str
    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    bottleneck: bool
    decoder_layers: int
    expansion: float = 1.0
    encoder_width: int = 256
    encoder_ffn: int = 1024
    stem_width: int = 64
    decoder_width: int = 256
    decoder_ffn: int = 1024


NARROW, WIDE = (64, 128, 256, 512), (256, 512, 1024, 2048)
VARIANTS = (
    Variant("r18", "20 M", (2, 2, 2, 2), NARROW, False, decoder_layers=3, expansion=0.5),
    Variant("r34", "31 M", (3, 4, 6, 3), NARROW, False, decoder_layers=4, expansion=0.5),
    Variant("r50", "43 M", (3, 4, 6, 3), WIDE, True, decoder_layers=6),
    Variant("r101", "77 M", (3, 4, 23, 3), WIDE, True, decoder_layers=6, encoder_width=384, encoder_ffn=2048),
)
