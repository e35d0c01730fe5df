#!/bin/sh
# The commands of docs/formats.md, word for word and in order, as a reader of the page would type them in the repository's root.
#
#     formats_page.sh PROGRAM ROOT TEMPORARY_DIRECTORY
set -eu
program=$1
root=$2
work=$3/formats_page.$$
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/bin"
ln -s "$program" "$work/bin/cambium"
ln -s "$root/models" "$root/examples" "$work"
PATH=$work/bin:$PATH
cd "$work"
sed -n 's/^    \(cambium .*\)/\1/p' "$root/docs/formats.md" >commands
test "$(wc -l <commands)" -ge 7
while read -r command; do
    if ! sh -c "$command" </dev/null >said.out 2>said.err; then
        echo "docs/formats.md: $command" && cat said.err && exit 1
    fi
    case $command in
    *" convert "* | *" merge "*) grep -q '^same likeliest token' said.out || { echo "docs/formats.md: $command: not compared" && exit 1; } ;;
    esac
done <commands
for made in sprig-q8.gguf sprig-again/config.json adapter.gguf adapter-mlx/adapters.safetensors sprig-merged.gguf; do
    test -s "$made" || { echo "docs/formats.md: $made is missing" && exit 1; }
done
