"""Checks the results of `make sample`: its files, and a score which shows that it has learnt.

python -m scripts.ci.check_sample sample
"""

import json
import pathlib
import sys


def main(folder: pathlib.Path) -> None:
    """Runs the checks."""
    summary = json.loads((folder / "run/eval/metrics.json").read_text())
    score, constant = summary["mIoU"], summary["best_constant_mIoU"]
    assert score > 8 * constant, f"mIoU {score:.3f}, one class everywhere has {constant:.3f}"
    pictures = list((folder / "run/eval").glob("*.png"))
    assert len(pictures) == len(summary["images"]) == 8, f"{len(pictures)} pictures"
    page = (folder / "run/eval/report.html").read_text()
    assert len(page.encode()) < 5_000_000, f"report.html has {len(page.encode())} bytes"
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("<")[0])
    assert set(data["pictures"]) == set(summary["images"]), "pictures of the report"
    assert list((folder / "run/scalars").glob("events*")), "no TensorBoard scalars"
    assert list((folder / "run/checkpoints").glob("[0-9]*")), "no checkpoint"
    assert list((folder / "run/best").glob("[0-9]*")), "no best checkpoint"
    photographs = list((folder / "photos/images/test").iterdir())
    for path in photographs:
        for name in (f"{path.stem}.png", f"{path.stem}_overlay.jpg"):
            assert (folder / "predictions" / name).is_file(), f"{name} is missing"
    print(
        f"{len(pictures)} comparisons, a report of {len(page.encode()) / 1e6:.1f} MB, "
        f"{len(photographs)} predictions, mIoU {100 * score:.2f} against {100 * constant:.2f} of "
        "one class everywhere"
    )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
