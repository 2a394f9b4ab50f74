"""Tests of the arithmetic of rows against a loop over all rows, without a network."""

import jax
import numpy as np
import pytest

from massformer_jax.inference.row_plan import RowPlan

# (shown, answered): as it is, padded, enlarged, shrunk to a few rows, and both by odd factors.
SIZES = [(256, 256), (257, 257), (257, 900), (300, 7), (511, 333), (1000, 1001), (1, 5), (5, 1)]


def plans():
    for shown, answered in SIZES:
        for fused_strip in (3, 16, 1000):
            for parts in (1, 2, 8):
                padded = -(-shown // 256) * 256
                yield RowPlan(answered, shown, padded, fused_strip, parts)


def taps(row, plan):
    """Returns the rows of the input between which a row of the answer lies (half-pixel centres)."""
    centre = max((row + 0.5) * plan.shown / plan.answered - 0.5, 0.0)
    upper = min(int(centre), plan.shown - 1)
    return upper, min(upper + 1, plan.shown - 1), centre - upper


def held(plan, part):
    """Returns the rows of the fused map that a part holds: its own, and some of its neighbours."""
    own = plan.padded // 2 // plan.parts
    return range(part * own - plan.halo, (part + 1) * own + plan.halo)


def strips(plan, part):
    """Returns the first row of each strip of a part; as in `in_strips`, the last is moved back."""
    rows = plan.rows(part)
    begin = int(rows.start)
    assert rows.count == plan.count and 1 <= plan.strip <= plan.count
    return [begin + min(i, plan.count - plan.strip) for i in range(0, plan.count, plan.strip)]


def check(plan):
    """Checks that one part computes each row of the answer, once, from rows its strip reads."""
    find = jax.jit(lambda start, part: plan.source(start, part, np.float32))
    computed = []
    for part in range(plan.parts):
        rows = held(plan, part)
        assert plan.held == 2 * len(rows) and plan.begin(part) == 2 * rows[0]
        places = {}
        for start in strips(plan, part):
            source = jax.device_get(find(start, part))
            # As many rows for every strip, all of them held.
            assert source.rows.count == plan.span // 2 and plan.span % 2 == 0
            first = int(source.rows.start)
            assert 0 <= first <= len(rows) - source.rows.count
            read = 2 * rows[first]  # the row of the input that the strip's source begins at
            for i in range(plan.strip):
                found = [int(x[i]) + read for x in (source.upper, source.lower)]
                inside = all(0 <= int(x[i]) < plan.span for x in (source.upper, source.lower))
                places[start + i] = (*found, float(source.share[i]), inside)
        assert sorted(places) == list(range(min(places), min(places) + plan.count))
        computed += [(part, row, *places[row]) for row in sorted(places)]
    kept = [computed[i] for rows in plan.kept for i in range(rows.start, rows.stop)]
    assert [row for _, row, *_ in kept] == list(range(plan.answered))
    for part, row, upper, lower, share, inside in kept:
        wanted = taps(row, plan)
        assert (upper, lower) == wanted[:2] and inside, f"row {row} of part {part}"
        assert share == pytest.approx(wanted[2], abs=1e-5)
        # Where the fused map is doubled, the row above and the row below are read, too.
        above, below = max(upper // 2 - 1, 0), min(lower // 2 + 1, plan.padded // 2 - 1)
        assert above in held(plan, part) and below in held(plan, part), f"row {row} of {part}"
    return len(kept)


@pytest.mark.slow
def test_every_row_lies_within_what_its_strip_reads():
    assert sum(check(plan) for plan in plans()) == 3 * 3 * sum(answered for _, answered in SIZES)


def test_a_strip_reads_no_more_than_the_longest_one_needs():
    """A strip reads pairs of rows, beginning with an even row."""
    plan = RowPlan(answered=900, shown=257, padded=512, fused_strip=16)
    assert plan.strip == 112
    needed = []
    for start in strips(plan, 0):
        (upper, _, _), (_, lower, _) = taps(start, plan), taps(start + plan.strip - 1, plan)
        needed.append(lower // 2 - upper // 2 + 1)
    assert plan.span == 2 * max(needed)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("bounds", property(lambda plan: RowPlan.bounds.func(plan) // 2 * 2)),
        ("starts", property(lambda plan: RowPlan.starts.fget(plan) - [0, 0, 1, 0])),
        ("kept", property(lambda plan: RowPlan.kept.fget(plan)[::-1])),
        ("halo", property(lambda plan: 1)),
        ("span", property(lambda plan: RowPlan.span.func(plan) - 2)),
        ("begin", lambda plan, part: RowPlan.begin(plan, part) - 2),
    ],
)
def test_a_wrong_plan_is_noticed(name, wrong):
    """Each part of the arithmetic is made wrong by a little."""
    settings = {"answered": 333, "shown": 511, "padded": 512, "fused_strip": 16, "parts": 4}
    check(RowPlan(**settings))
    spoiled = type("Spoiled", (RowPlan,), {name: wrong})
    with pytest.raises(AssertionError):
        check(spoiled(**settings))
