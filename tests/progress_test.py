"""The progress line."""

import pytest

from massformer_jax import progress

TERMS = {"loss": 12.0, "loss_cls": 1.0, "loss_mask": 2.0, "loss_dice": 3.0, "edge_loss": 4.0}


def test_speed_and_time_left_leave_out_pauses(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    line = progress.Progress(0, 100, 16)
    now += 60
    assert line.pause(1) == 60
    assert line.report(1, TERMS) == 0
    assert "images/s" not in capsys.readouterr().out
    now += 18
    assert line.report(10, TERMS) == pytest.approx(8)
    printed = capsys.readouterr().out
    assert printed.startswith("step 10/100  loss 12.00  (class 1.000  mask 2.000")
    assert printed.endswith("8.00 images/s  3 min left\n")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0 s"), (59.6, "1 min"), (4321.0, "1 h 12 min"), (2e5, "2 d 7 h"), (61.0, "1 min 1 s")],
)
def test_duration(seconds, words):
    assert progress.duration(seconds) == words
