#!/usr/bin/env bash
# Shows what the first host prints, as it comes. Another one: scripts/launch/tpu/follow.sh 3
set -euo pipefail
# shellcheck source=scripts/launch/tpu/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

on_workers --worker="${1:-0}" 'tail -n 100 -F massformer.log'
