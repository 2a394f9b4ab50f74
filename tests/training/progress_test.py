"""The progress line."""

import pytest

from massformer_jax.command import duration
from massformer_jax.training import progress

TERMS = {
    **{"loss": 12.0, "loss_cls": 1.0, "loss_mask": 2.0, "loss_dice": 3.0, "edge_loss": 4.0},
    **{"skipped": 0.0, "gradient_norm": 1.0},
}


def test_speed_and_time_left_leave_out_pauses(monkeypatch, capsys, tmp_path):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    written = {}
    with progress.Progress(
        tmp_path, 0, total_steps=100, batch_size=16, every=10, schedule=lambda step: 0.5
    ) as run:
        monkeypatch.setattr(run, "write", lambda step, scalars: written.update({step: scalars}))
        assert [step for step in range(1, 101) if run.is_due(step)] == list(range(10, 101, 10))
        now += 60
        assert run.pause(1) == 60
        run.report(1, TERMS)
        assert "images/s" not in capsys.readouterr().out
        now += 3.6
        with run.part("input"):
            now += 9
        with run.part("checkpoint"):
            now += 5.4
        run.report(10, {**TERMS, "skipped": 2.0})
    terms = {f"train/{name}": value for name, value in TERMS.items()}
    assert written[1] == {**terms, "train/learning_rate": 0.5}
    speed = {"images_per_second": 8, "seconds_input": 1, "seconds_checkpoint": 0.6}
    expected = {f"train/{name}": value for name, value in speed.items()}
    expected |= {"train/seconds_step": 0.4, "train/skipped": 2.0, "train/learning_rate": 0.5}
    assert written[10] == pytest.approx(terms | expected)
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
    assert duration(seconds) == words
