#!/usr/bin/env bash
# An evaluation has the same counts on 1, 2, 3 and 7 processes: same_counts.sh EVALUATE MAKE_SHAPES WEIGHTS FOLDER MPIRUN...
#
# 70 pictures are five batches, the last one short; one picture cannot be read. With seven processes two have none.
set -euo pipefail
evaluate=$1 make_shapes=$2 weights=$3 work=$4
shift 4
mpirun=("$@")
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
rm -rf "$work"
mkdir -p "$work"
cd "$work"
"$make_shapes" -o shapes --train 14 --val 70 --seed 3 > /dev/null
bad=$(find shapes/val -name '*.png' | sort | sed -n 40p)
echo "no picture" > "$bad"
flags=(shapes -w "$weights" -b 16 --threads 1 --workers 1 --device cpu)
fail() {
  echo "$*"
  cat out err
  exit 1
}
# counts NAME PROGRAM...: what has to be the same, from the JSON line, into NAME.counts. The bad picture makes the code 1.
counts() {
  local name=$1 code=0
  shift
  "$@" "${flags[@]}" --json --per-class "$name.csv" > out 2> err || code=$?
  [ "$code" = 1 ] || fail "$name: exit code $code"
  [ "$(grep -c "left out $bad" err)" = 1 ] || fail "$name: the bad picture is not named once"
  grep -o '"top1".*"bad":[0-9]*' out > "$name.counts" || fail "$name: no counts"
}
counts one "$evaluate"
for n in 1 2 3 7; do counts "mpirun$n" "${mpirun[@]}" -n "$n" "$evaluate"; done
counts own "$evaluate" --processes 2
for name in mpirun1 mpirun2 mpirun3 mpirun7 own; do
  if ! cmp one.counts "$name.counts" || ! cmp one.csv "$name.csv"; then fail "$name counts otherwise"; fi
done
grep -q '"samples":69,"bad":1$' one.counts || fail "not all pictures were counted: $(cat one.counts)"

# Too many bad pictures, found by another process than the first; and what is wrong for all.
code=0
"$evaluate" "${flags[@]}" --processes 3 --max-bad 0 > out 2> err || code=$?
grep -q "1 of 70 pictures are bad so far, the limit is 0" err || fail "--max-bad is not told"
[ "$code" = 3 ] || fail "--max-bad: exit code $code"
code=0
"$evaluate" nowhere -w "$weights" --device cpu --processes 2 > out 2> err || code=$?
[ "$(grep -c '^evaluate: nowhere' err)" = 1 ] || fail "the missing folder is not told once"
[ "$code" = 3 ] || fail "no folder: exit code $code"
echo "1, 2, 3 and 7 processes: same counts"
