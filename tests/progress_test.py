"""The progress line."""

import pytest

from massformer_jax import progress

TERMS = {
    **{"loss": 12.0, "loss_cls": 1.0, "loss_mask": 2.0, "loss_dice": 3.0, "edge_loss": 4.0},
    "skipped": 0.0,
}


def test_speed_and_time_left_leave_out_pauses(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    line = progress.Progress(0, 100, 16)
    now += 60
    assert line.pause(1) == 60
    assert line.report(1, TERMS) == {}
    assert "images/s" not in capsys.readouterr().out
    now += 3.6
    with line.part("input"):
        now += 9
    with line.part("checkpoint"):
        now += 5.4
    speed = line.report(10, {**TERMS, "skipped": 2.0})
    assert speed == pytest.approx(
        {
            **{"images_per_second": 8, "seconds_input": 1, "seconds_checkpoint": 0.6},
            "seconds_step": 0.4,
        }
    )
    printed = capsys.readouterr().out
    assert printed.startswith("step 10/100  loss 12.00  (class 1.000  mask 2.000")
    assert "  2 skipped  8.00 images/s" in printed
    assert printed.endswith(
        "8.00 images/s (seconds: input 1.000, step 0.400, checkpoint 0.600)  3 min left\n"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0 s"), (59.6, "1 min"), (4321.0, "1 h 12 min"), (2e5, "2 d 7 h"), (61.0, "1 min 1 s")],
)
def test_duration(seconds, words):
    assert progress.duration(seconds) == words
