"""Decoded images of a folder, kept from run to run: index, pixels, decoding processes."""
