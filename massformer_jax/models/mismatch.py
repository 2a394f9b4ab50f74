"""The message about tensors that do not fit a model: all of them, grouped, with suggestions."""

import difflib
from collections.abc import Collection, Iterable

# A file may have any number of names; the released models have 660.
_LINES = 1000  # number of lines for one group, at most
# Comparing names is slow: so many are compared with each of the first hundred of a group.
_CANDIDATES = 300
_LENGTH = 120  # length of a name that is shown; released names have at most 90 characters


def mismatch_message(
    missing: Collection[str],
    left_over: Collection[str],
    misshapen: Collection[str],
    *,
    expected: Iterable[str],
    given: Iterable[str],
) -> str:
    """Returns a message of several lines, the first of which is a summary.

    Args:
        missing: names that the model has and the file lacks.
        left_over: names that the file has and the model lacks.
        misshapen: lines that tell the name and the shapes of a tensor.
        expected: all names of the model. Where all names with one prefix are missing, one line
            stands for them: `decode_head.* (500 tensors)`.
        given: all names of the file, for `left_over` in the same way.
    """
    kinds = (
        f"{len(names)} {kind}"
        for kind, names in (
            ("missing", missing),
            ("left over", left_over),
            ("misshapen", misshapen),
        )
        if names
    )
    lost, extra = _grouped(missing, expected), _grouped(left_over, given)
    lines = [f"tensors do not fit: {', '.join(kinds)}"]
    for title, group, others in (("missing", lost, extra), ("left over", extra, lost)):
        if group:
            lines.append(f"  {title}:")
        candidates = [name[:_LENGTH] for name in list(others)[:_CANDIDATES]]
        for i, (prefix, count) in enumerate(list(group.items())[:_LINES]):
            among = candidates if i < 100 else []
            near = difflib.get_close_matches(prefix[:_LENGTH], among, n=1, cutoff=0.8)
            text = _plain(prefix) + (f" ({count} tensors)" if count > 1 else "")
            lines.append(f"    {text}" + (f"; is it {_plain(near[0])}?" if near else ""))
        if len(group) > _LINES:
            lines.append(f"    and {len(group) - _LINES} more")
    if misshapen:
        lines.append("  misshapen:")
        lines += [f"    {line}" for line in list(misshapen)[:_LINES]]
        if len(misshapen) > _LINES:
            lines.append(f"    and {len(misshapen) - _LINES} more")
    return "\n".join(lines)


def _grouped(names: Collection[str], universe: Iterable[str]) -> dict[str, int]:
    """Groups names by prefixes, and returns the number of names in each group.

    The prefix of a group is the shortest that only these names have, and no other of the universe.
    """
    chosen = set(names)
    present = {prefix for name in universe if name not in chosen for prefix in _prefixes(name)}
    groups: dict[str, list[str]] = {}
    for name in names:
        shared = next((prefix for prefix in _prefixes(name) if prefix not in present), name)
        groups.setdefault(shared, []).append(name)
    return {
        members[0] if len(members) == 1 else f"{shared}*": len(members)
        for shared, members in groups.items()
    }


def _prefixes(name: str) -> list[str]:
    """Returns `a.` and `a.b.` for `a.b.c`, and at most ten prefixes for a hostile name."""
    parts = name.split(".", 10)
    return [".".join(parts[:i]) + "." for i in range(1, len(parts))]


def _plain(name: str) -> str:
    """Returns a name without control characters, which could change a terminal."""
    name = name if len(name) <= _LENGTH else name[:_LENGTH] + "…"
    return name if name.isprintable() else ascii(name)
