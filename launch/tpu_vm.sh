#!/usr/bin/env bash
# Trains on a Cloud TPU slice (v4, v5e, v5p, v6e) from a queued resource, and asks for it again when it is preempted.
#
#   launch/tpu_vm.sh NAME ZONE ACCELERATOR --config CONFIG --workdir gs://BUCKET/NAME [train options]
#   launch/tpu_vm.sh pets us-central1-a v5litepod-256 --config vit_i21k --workdir gs://my-bucket/pets
#
# Environment: SPOT=1 (default; 0 for on demand), RUNTIME (by accelerator), POLL (seconds), MAX_RESTARTS, KEEP=1 (leaves
# the slice at the end). Needs gcloud with a project, and a bucket that the slice may write.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ $# -lt 4 ]]; then
  echo "usage: launch/tpu_vm.sh NAME ZONE ACCELERATOR --config CONFIG --workdir gs://BUCKET/NAME" >&2
  exit 2
fi
name=$1 zone=$2 accelerator=$3
shift 3
SPOT=${SPOT:-1} POLL=${POLL:-30} MAX_RESTARTS=${MAX_RESTARTS:-100} KEEP=${KEEP:-0}

case $accelerator in
  v4-*) runtime=tpu-ubuntu2204-base ;;
  v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
  v5p-*) runtime=v2-alpha-tpuv5 ;;
  v6e-*) runtime=v2-alpha-tpuv6e ;;
  *)
    echo "tpu_vm.sh knows no accelerator '$accelerator': name one like v4-8, v5litepod-256, v5p-8 or v6e-16" >&2
    exit 2
    ;;
esac
runtime=${RUNTIME:-$runtime}

queued() { gcloud compute tpus queued-resources "$@" --zone="$zone"; }

state() { queued describe "$name" --format='value(state.state)' 2>/dev/null || echo NONE; }

# Waits until the slice is there; asks for it, again if need be.
obtain() {
  local now
  while true; do
    now=$(state)
    case $now in
      ACTIVE) return ;;
      NONE)
        local spot=()
        if [[ $SPOT == 1 ]]; then spot=(--spot); fi
        queued create "$name" --node-id="$name" --accelerator-type="$accelerator" --runtime-version="$runtime" \
          "${spot[@]}"
        ;;
      SUSPENDED | SUSPENDING | FAILED) release ;;
      *)
        echo "$name is $now" >&2
        sleep "$POLL"
        ;;
    esac
  done
}

release() { queued delete "$name" --force --quiet; }

everywhere() { gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"; }

# The working copy as it is committed, into a virtual environment of its own on every host.
install() {
  git archive --format=tar.gz --output="$archive" HEAD
  gcloud compute tpus tpu-vm scp "$archive" "$name:vit_jax.tar.gz" --zone="$zone" --worker=all
  # shellcheck disable=SC2016 # expanded there
  everywhere 'set -e; mkdir -p vit_jax; tar -xzf vit_jax.tar.gz -C vit_jax; cd vit_jax
    command -v python3.11 >/dev/null || { sudo apt-get update -q; sudo apt-get install -qy python3.11-venv; }
    python3.11 -m venv "$HOME/venv"; "$HOME/venv/bin/pip" install -q -c requirements/constraints.txt ".[tpu,gcs]"'
}

log=$(mktemp) archive=$(mktemp)
trap 'rm -f "$log" "$archive"' EXIT
printf -v arguments ' %q' "$@"
for ((restart = 0; restart <= MAX_RESTARTS; restart++)); do
  obtain
  install || continue
  # gcloud does not pass the status on from all workers: it is read from what they print.
  # shellcheck disable=SC2016 # expanded there
  everywhere '"$HOME/venv/bin/python" -m vit_jax train'"$arguments"'; echo "vit_jax exit status $?"' 2>&1 | tee "$log" || true
  statuses=$(sed -n 's/.*vit_jax exit status \([0-9]*\).*/\1/p' "$log" | sort -un | tr '\n' ' ')
  case " $statuses" in
    " 0 ")
      if [[ $KEEP != 1 ]]; then release; fi
      exit 0
      ;;
    *" 2 "*)
      echo "there is something to put right: see above; the slice $name is kept" >&2
      exit 2
      ;;
  esac
  echo "statuses '$statuses' (75: preempted): going on from the last checkpoint" >&2
done
echo "restarted $MAX_RESTARTS times: giving up; the slice $name is kept" >&2
exit 1
