#!/usr/bin/env bash
# A run ends with the same bytes on 1, 2, 3 and 4 processes: same_bytes.sh TRAIN MAKE_SHAPES FOLDER MPIRUN...
#
# For each of several recipes: the checkpoints of N processes are compared with those of one, then a run that is stopped
# on two processes in the middle of an epoch, and goes on on three.
set -euo pipefail
train=$1 make_shapes=$2 work=$3
shift 3
mpirun=("$@")
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
rm -rf "$work"
mkdir -p "$work"
cd "$work"
"$make_shapes" -o shapes --train 86 --val 30 > /dev/null

# run PROCESSES EXPERIMENT FLAG...: 86 pictures are 21 micro-batches of four, so that an epoch's last step has one of the
# four or three of the six that the others have. 0 processes: without mpirun.
run() {
  local count=$1 name=$2 start=()
  shift 2
  [ "$count" -eq 0 ] || start=("${mpirun[@]}" -n "$count")
  "${start[@]}" "$train" shapes --token-label-data shapes/labels -m quick -b 4 --epochs 2 --warmup-epochs 1 --threads 1 \
    --workers 1 --device cpu --lr 1e-3 --output . --experiment "$name" "$@" > "$name.log" 2>&1
}
same() {
  local file
  for file in last best epoch-0002; do
    cmp "$1/$file.safetensors" "$2/$file.safetensors" || { echo "$1 and $2 differ in $file"; tail -5 "$2.log"; exit 1; }
  done
}

recipes=("lion|--grad-accum-steps 4"
         "adamw|--grad-accum-steps 4 --model-ema-decay 0.9 --opt adamw --clip-grad 0.05 --weight-decay 0.05"
         "six|--grad-accum-steps 6 --clip-grad 0.5 --no-mix-token")
for recipe in "${recipes[@]}"; do
  name=${recipe%%|*}
  read -ra flags <<< "${recipe#*|}"
  run 0 "$name" "${flags[@]}"
  for count in 1 2 3 4; do
    [ "$name" = lion ] || [ "$count" = 2 ] || [ "$count" = 3 ] || continue
    run "$count" "$name-$count" "${flags[@]}"
    same "$name" "$name-$count"
  done
  echo "$name: same bytes"
done

# --profile changes no byte, and tells where each process's time went: six steps an epoch, a row each.
run 2 profiled --grad-accum-steps 4 --profile --log-interval 1
same lion profiled
rows=$(tail -n +2 profiled/profile.csv | awk -F, 'NF == 6 && $2 > 0 && $4 > 0 && $5 > 0 && $6 > 100000' | wc -l)
[ "$rows" -eq 12 ] || { echo "profile.csv has $rows good rows"; cat profiled/profile.csv; exit 1; }
grep -Eq '^  process 1  data .* computing .* exchange .* a step$' profiled.log || { tail -5 profiled.log; exit 1; }
echo "profiled: same bytes"

# Killed in the middle of an epoch on two processes; goes on on three, and is stopped there; goes on without mpirun. A run
# that was over before it was killed is begun anew.
for try in 1 2 3 4 5 6 7 8 9 10; do
  rm -rf broken
  run 2 broken --grad-accum-steps 4 --checkpoint-steps 1 &
  broken=$!
  until [ -e broken/last.safetensors ]; do
    kill -0 "$broken" 2> /dev/null || { echo "ended before its first checkpoint"; cat broken.log; exit 1; }
    sleep 0.02
  done
  pgrep -f "^$train .*experiment broken" | xargs -r kill -KILL || true
  wait "$broken" || true
  grep -q "^best epoch" broken.log || break
  [ "$try" -lt 10 ] || { echo "ten runs were over before they were killed"; exit 1; }
done
run 3 broken --grad-accum-steps 4 --resume auto --stop-after 1
run 0 broken --grad-accum-steps 4 --resume auto --stop-after 0
same lion broken
echo "killed, resumed on other numbers: same bytes"
