# What tests of the program say and count; sourced by them, with the program in $program.  Each ends by $failures.
failures=0
fail() {
    failures=$((failures + 1))
    echo "FAIL: $*"
}
expect() { # NAME COMMAND...: it succeeds; what it says is in NAME.out and NAME.err
    check=$1
    shift
    "$@" >"$check.out" 2>"$check.err" </dev/null || fail "$check: exit status $?: $(cat "$check.err")"
}
bad() { # STATUS TEXT ARGUMENTS...
    wanted=$1
    text=$2
    shift 2
    "$program" "$@" >bad.out 2>bad.err </dev/null
    status=$?
    [ "$status" = "$wanted" ] || fail "cambium $*: exit status $status, expected $wanted: $(cat bad.err)"
    grep -v "warning" bad.err >bad.said
    [ "$(wc -l <bad.said)" = 1 ] || fail "cambium $*: expected one line: $(cat bad.err)"
    grep -qF -e "$text" bad.said || fail "cambium $*: expected \"$text\" in: $(cat bad.err)"
    [ -e never ] && fail "cambium $*: left $(ls never)" && rm -rf never
}
over() { # FILE FIELD NUMBER: the number of that field of a line of JSON is over NUMBER
    found=$(sed -n "s/.*\"$2\": *\([-0-9.e+]*\).*/\1/p" "$1")
    awk -v x="$found" -v least="$3" 'BEGIN { exit !(x != "" && x + 0 > least) }' || fail "$1: $2 is \"$found\", expected over $3"
}
