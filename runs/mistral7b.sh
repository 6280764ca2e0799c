#!/usr/bin/env bash
# CODE and THEORY for Mistral-7B-Instruct-v0.3 by QLoRA, on one GPU or several. Each run first says how long it will take and what it will cost;
# started again after an interruption, it goes on. Then `twofold ask --model mistral-7b "..."` finds the adapters in out/.
#   BASE=mistral-7b    the hub model (accept its licence there, then `hf auth login`), another hub id of the family, or a folder
#   MEMORY=0           GiB of GPU memory to take; 20 is the setting for a card of 24 GB; 0 takes what is free
#   GPUS=1 PRICE=2.5   GPUs to train on; dollars an hour of one, for the estimate
#   EPOCHS=2 OUT=out   passes over the rows; where code/ and theory/ are written
set -euo pipefail
cd "$(dirname "$0")/.."
BASE=${BASE:-mistral-7b}
MEMORY=${MEMORY:-0}
GPUS=${GPUS:-1}
PRICE=${PRICE:-2.5}
EPOCHS=${EPOCHS:-2}
OUT=${OUT:-out}
TWOFOLD=${TWOFOLD:-twofold}
LAUNCH=$TWOFOLD
[ "$GPUS" -gt 1 ] && LAUNCH="accelerate launch --num_processes $GPUS -m twofold"
export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True} # less memory lost between blocks

# 1. The rows, where they are not there yet.
[ -s data/train.jsonl ] && [ -s data/train_theory.jsonl ] || $TWOFOLD data build

# 2. Both adapters, the same configuration for both: they serve together. 2e-4 is the usual rate for a 7B; 32 k tokens a step are about 110 rows.
train() {
  local out=$OUT/$1
  if [ -f "$out/adapter_model.safetensors" ] && [ ! -f "$out/snapshot.pt" ]; then
    echo "$out is finished; delete it to train it again" >&2
    return
  fi
  $LAUNCH train "$1" --base "$BASE" --out "$out" --epochs "$EPOCHS" --lr 2e-4 --batch 32768 --memory "$MEMORY" --price "$PRICE" --snapshot-minutes 5
}
train code
train theory
