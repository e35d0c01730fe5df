#!/usr/bin/env bash
# Writes the King James texts of examples/data anew from Debian's packages bible-kjv and bible-kjv-text: narrative books of
# the Old Testament to train on, and others to test with.  One verse a line, an empty line between chapters.
#
#     tools/king_james.sh OUTPUT_DIRECTORY
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: tools/king_james.sh OUTPUT_DIRECTORY" >&2; exit 2; }

# chapters BOOK...: "Ge1:1 In the beginning" becomes "In the beginning"
chapters() {
    bible -f Gen1:1-Rev22:21 | awk -v books=" $* " '
        { match($1, /[0-9]+:[0-9]+$/); book = substr($1, 1, RSTART - 1); split(substr($1, RSTART), at, ":")
          if (!index(books, " " book " ")) next
          if (NR > 1 && at[2] == 1 && written) print ""
          sub(/^[^ ]+ /, ""); print; written = 1 }'
}
chapters Ge Exo Josh Jdgs 1Sm 2Sm >"$1/king-james.txt"
chapters Ruth 1Ki >"$1/king-james-held-out.txt"
