"""Runtimes of the networks on this machine: images in, member scores out."""
