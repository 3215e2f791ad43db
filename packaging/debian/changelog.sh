#!/bin/sh
# Prints CHANGELOG.md as a Debian package's changelog, a stanza a version.
#
#   changelog.sh CHANGELOG.md VERSION MAINTAINER [SECONDS]    VERSION: of what is unreleased; SECONDS: its date, from 1970 on
#
# A version without a date of its own has the date that was given (SOURCE_DATE_EPOCH, as reproducible packages have it), else
# that of the file. Links keep their text, code its words.
set -eu
seconds=${4:-${SOURCE_DATE_EPOCH:-$(stat -c %Y "$1")}}
awk -v version="$2" -v maintainer="$3" -v date="$(LC_ALL=C date -u -R -d "@$seconds")" '
  function flush(  words, n, i, line) {
    if (item == "") return
    gsub(/\]\([^)]*\)/, "", item); gsub(/[`\[*]/, "", item)
    n = split(item, words, /[ \t]+/); line = "  *"
    for (i = 1; i <= n; ++i) {
      if (words[i] == "") continue
      if (length(line) + 1 + length(words[i]) > 79) { print line; line = "   " }
      line = line " " words[i]
    }
    print line; item = ""; ++items
  }
  function finish() {
    flush()
    if (!open) return
    print "\n -- " maintainer "  " date "\n"
  }
  /^## / {
    name = $2; gsub(/[][]/, "", name)
    if (name == "Unreleased") name = version
    if (open && name == last) { flush(); next }  # not released under another number yet
    finish(); open = 1; items = 0; last = name
    print "dm2 (" name ") unstable; urgency=medium\n"
    next
  }
  !open { next }
  /^#/ || /^[ \t]*$/ { flush(); next }
  /^[*-] / { flush(); item = substr($0, 3); next }
  { item = item " " $0 }
  END { finish() }
' "$1"
