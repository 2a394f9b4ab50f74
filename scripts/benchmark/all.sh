#!/usr/bin/env bash
# Measures what docs/performance.md shows: bash scripts/benchmark/all.sh cpu|memory|compare…
# A GPU: make benchmark-gpu. PYTHON may be a command with arguments, such as "taskset -c 0,1 python".
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra python <<<"${PYTHON:-python}"
failed=0

# measure NAME ARGUMENT…: the result goes to benchmarks/NAME.json; after an error what was there
# stays and the rest is still measured.
measure() {
  local name=$1
  shift
  echo "$name" >&2
  if "${python[@]}" -m scripts.benchmark --json "$@" >"benchmarks/$name.json.part"; then
    mv "benchmarks/$name.json.part" "benchmarks/$name.json"
  else
    rm "benchmarks/$name.json.part"
    failed=1
  fi
}

for part in "$@"; do
  case $part in
    cpu)
      for model in massformer_r50 massformer_r18_lite; do
        measure "cpu_inference_${model}_1024x1024" --task inference --model $model --size 1024x1024
        measure "cpu_train_${model}_512x512" --task train --model $model --size 512x512 --batch 2
      done
      measure cpu_inference_massformer_r50_3072x4096 --task inference --size 3072x4096 --runs 1
      ;;
    memory)
      measure cpu_inference_massformer_r50_8192x8192 --task inference --size 8192x8192 --compile-only
      measure cpu_train_massformer_r50_1024x1024 --task train --size 1024x1024 --compile-only
      ;;
    compare)
      for size in 512x512 1024x1024; do
        measure "cpu_deform_conv_massformer_r50_$size" --task deform_conv --size $size --compare
      done
      ;;
    *)
      echo "error: $part is none of cpu, memory, compare" >&2
      exit 2
      ;;
  esac
done
exit $failed
