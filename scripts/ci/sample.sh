#!/usr/bin/env bash
# The whole way on a small rendered dataset, from photographs to segmented pictures: `make sample`
# calls it. Starts afresh each time: removes the folder sample/ of the checkout, and nothing else.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}

heading() { printf '\n== %s\n' "$1"; }

rm -rf sample

heading "1/4  Render photographs and label maps in the layout of MaSS13K: sample/photos"
"$python" -m massformer_jax.data.sample --output sample/photos

heading "2/4  Package them as a TFDS dataset: sample/data"
"$python" -m massformer_jax.data.build --manual_dir sample/photos --data_dir sample/data

heading "3/4  Train and evaluate configs/sample.py: sample/run"
"$python" -m massformer_jax.main --config=configs/sample.py --workdir=sample/run

heading "4/4  Segment the test photographs: sample/predictions"
"$python" -m massformer_jax.predict --checkpoint sample/run --output sample/predictions \
  --write labels,overlay sample/photos/images/test

heading "Written in $((SECONDS / 60)) min $((SECONDS % 60)) s:"
cat <<'END'
  sample/photos/       the rendered dataset: images/ and annotations/
  sample/data/         the same as TFDS records
  sample/run/          checkpoints, and scalars for TensorBoard
  sample/run/eval/     scores (metrics.json), and a page to look at them (report.html);
                       photograph, truth and prediction side by side
  sample/predictions/  label maps of the test photographs, and overlays in colour
Open, for instance:
END
first() { find "$1" -name "$2" | sort | sed -n '1s/^/  /p'; }
first sample/run/eval '*.html'
first sample/run/eval '*.png'
first sample/predictions '*_overlay.*'
echo "Losses and scores over the steps: pip install tensorboard; tensorboard --logdir sample/run"
