#!/usr/bin/env bash
# The embedded model from text to adapters: about 25 minutes on four H200 with the defaults, or on one H100 with MINUTES=20.
#   CORPUS=folder of *.jsonl.zst shards (docs/training.md tells their form)   WORK=where everything is written
#   PRETRAIN="--init FOLDER --lr 2.5e-3" goes on from the weights of an earlier run
set -euo pipefail
cd "$(dirname "$0")/.."
CORPUS=${CORPUS:?name the folder of corpus shards}
WORK=${WORK:-out}
MINUTES=${MINUTES:-20}        # wall clock of pretraining
PASSES=${PASSES:-40}          # files of freshly rendered chat rows that are mixed in
ROWS=${ROWS:-20000}           # code rows in each of them
ADAPTER_ROWS=${ADAPTER_ROWS:-24000}  # fresh code rows that CODE is trained on, once each; THEORY gets half as many
TWOFOLD=${TWOFOLD:-twofold}
LAUNCH=${LAUNCH:-$TWOFOLD}    # several GPUs: "torchrun --standalone --nproc-per-node 4 -m twofold"
PRETRAIN=${PRETRAIN:-}        # more flags for pretraining
FILTER=${FILTER:-true}        # a command that gets a folder of chat rows and may drop some, such as overlap with public benchmarks
JOBS=${JOBS:-$(nproc)}        # rendering and tokenising side by side
mkdir -p "$WORK/mid" "$WORK/corpus"
export WORK ROWS TWOFOLD FILTER DROP=${DROP:-} RAYON_NUM_THREADS=${RAYON_NUM_THREADS:-2}

# 1. The tokenizer, once: data/ must hold rows (twofold data build).
[ -d "$WORK/tokenizer" ] || $TWOFOLD train tokenizer --corpus "$CORPUS" --out "$WORK/tokenizer"

# 2. Text to token files, one process a shard, with the chats that notebooks and guides hold; chat rows rendered afresh for every pass,
#    each with its own seed. Training starts as soon as the first slices are there and takes in the others as they come.
shard() {  # flags, shard
  $TWOFOLD train corpus $1 --source "$2" --tokenizer "$WORK/tokenizer" --out "$WORK/corpus" --name text ${DROP:+--drop "$DROP"}
}
pass() {
  $TWOFOLD data build --out "$WORK/mid/$1" --code "$ROWS" --theory $((ROWS * 3 / 5)) --seed "$1" --base 0.04 --stitched 0.5 --noted 0.75 --no-evaluation && $FILTER "$WORK/mid/$1" &&
    $TWOFOLD train corpus --source "" --rows "$WORK/mid/$1" --tokenizer "$WORK/tokenizer" --out "$WORK/corpus" --name "mid$1"
}
export -f shard pass
{ ls "$CORPUS"/*.jsonl.zst | xargs -P "$JOBS" -I{} bash -c 'shard "" {}'; ls "$CORPUS"/*.jsonl.zst | xargs -P "$JOBS" -I{} bash -c 'shard "--no-text --mine 3" {}'; } > "$WORK/corpus.log" 2>&1 &
fresh() {
  $TWOFOLD data build --out "$WORK/adapters" --code "$ADAPTER_ROWS" --theory $((ADAPTER_ROWS / 2)) --seed 1000 --stitched 0.35 --noted 0.75 --no-evaluation && $FILTER "$WORK/adapters"
}
{ seq 1 "$PASSES" | xargs -P "$JOBS" -I{} bash -c 'pass {}'; fresh; } > "$WORK/mid.log" 2>&1 &
rows=$!

# 3. Pretraining by the clock: mixes, schedules and the NF4-aware finish are in the Config of train/pretrain.py.
$LAUNCH train pretrain --corpus "$WORK/corpus" --tokenizer "$WORK/tokenizer" --out "$WORK/pretrain" --minutes "$MINUTES" --wait-for notebook,docs,chat-code,chat-theory $PRETRAIN

# 4. NF4, then both adapters on it, over rows that nothing has seen.
$TWOFOLD train quantize --model "$WORK/pretrain" --out "$WORK/base"
wait "$rows"
train() {
  $TWOFOLD train "$1" --base "$WORK/base" --data "$WORK/adapters/$2" --out "$WORK/$1" --epochs 1 --batch 16384 --micro 16384 --lr "$3" > "$WORK/$1.log" 2>&1
}
CUDA_VISIBLE_DEVICES=0 train code train.jsonl 1.5e-3 &
CUDA_VISIBLE_DEVICES=${SECOND:-0} train theory train_theory.jsonl 1e-3 &
wait
tail -n 1 "$WORK/code.log" "$WORK/theory.log"
