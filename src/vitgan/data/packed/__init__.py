"""Packed folders: images of one size in a few large files, written once and read at random."""
