"""Rules in a configuration: a regular expression of paths or names, and what it decides."""

import re
from typing import Any


def is_pattern(text: Any) -> bool:
    """Tells whether this is a regular expression."""
    try:
        re.compile(text)
    except (TypeError, re.error):
        return False
    return isinstance(text, str)


def is_placement(rule: Any) -> bool:
    """Tells whether this is a rule of `sharding.parameter_specs`: a text, and one or several."""
    if not isinstance(rule, list | tuple) or len(rule) != 2:
        return False
    axes = rule[1] if isinstance(rule[1], list | tuple) else (rule[1] or "-",)
    return isinstance(rule[0], str) and all(isinstance(axis, str | None) for axis in axes)


def is_multiplier(rule: Any) -> bool:
    """Tells whether this is a rule of `optimizer.parameter_groups`: a pattern and a factor."""
    if not isinstance(rule, list | tuple) or len(rule) != 2:
        return False
    pattern, factor = rule
    return is_pattern(pattern) and isinstance(factor, int | float) and factor >= 0
