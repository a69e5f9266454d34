"""What is run by hand: it takes long, or wants root, a sound card, another architecture. See
docs/verification.md."""

import argparse
import math


def above_zero(text: str) -> float:
    """An argument that is a number above 0, whole where it is written so. Raises
    ArgumentTypeError."""
    try:
        found = int(text) if text.isdecimal() else float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return found


def counted(text: str) -> int:
    """An argument that is a whole number above 0. Raises ArgumentTypeError."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)
