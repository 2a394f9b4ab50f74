"""Readers of values on the command line: sizes and counts."""

import argparse
import re


def parse_size(text: str) -> tuple[int, int]:
    """Returns the numbers of rows and columns that a text of the form "HxW" gives.

    Raises:
        argparse.ArgumentTypeError: the text has another form.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW, as 3072x4096")
    return int(match[1]), int(match[2])


def parse_count(text: str) -> int:
    """Returns the positive number that a text gives.

    Raises:
        argparse.ArgumentTypeError: the text is not a positive number.
    """
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)
