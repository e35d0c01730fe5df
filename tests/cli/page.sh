#!/bin/sh
# The commands of a page of docs, word for word and in order, as a reader of the page would type them in the repository's root: those
# that are indented by four blanks.  FILEs are what they must have made.
#
#     page.sh PROGRAM ROOT TEMPORARY_DIRECTORY PAGE FILE...
set -eu
program=$1
root=$2
page=$4
work=$3/$(basename "$page" .md)_page.$$
shift 4
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/bin"
ln -s "$program" "$work/bin/cambium"
ln -s "$root/models" "$root/examples" "$work"
PATH=$work/bin:$PATH
cd "$work"
sed -n 's/^    \(\(cambium\|printf\) .*\)/\1/p' "$root/$page" >commands
test "$(wc -l <commands)" -ge 5
while read -r command; do
    if ! sh -c "$command" </dev/null >said.out 2>said.err; then
        echo "$page: $command" && cat said.err && exit 1
    fi
    case $command in
    *" --model "* | *" merge --into "* | *" --config "* | *" sentinel "*) ;; # there is no one model to compare with
    *" convert "* | *" merge "*) grep -q '^same likeliest token' said.out || { echo "$page: $command: not compared" && exit 1; } ;;
    esac
done <commands
for made in "$@"; do
    test -s "$made" || { echo "$page: $made is missing" && exit 1; }
done
