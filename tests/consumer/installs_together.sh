#!/bin/sh
# Six installations at a time from one build folder are each whole.
#
#   installs_together.sh CMAKE BUILD     three rounds; installs what needs no build, the documents
set -eu
cmake=$1 build=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
install_one() { "$cmake" --install "$build" --component docs --prefix "$1" > "$1.log" 2>&1 || { cat "$1.log"; return 1; }; }

install_one "$work/alone"
papers=share/doc/dm2-doc
for round in 1 2 3; do
  processes=
  for i in 1 2 3 4 5 6; do
    install_one "$work/$round.$i" &
    processes="$processes $!"
  done
  for process in $processes; do wait "$process"; done
  for i in 1 2 3 4 5 6; do diff -r "$work/alone/$papers" "$work/$round.$i/$papers"; done
done
