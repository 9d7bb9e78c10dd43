"""Widths without scores: SynExp, PreCrop, PreConfig, and networks rebuilt at new widths."""
