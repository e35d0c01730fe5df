#!/bin/sh
# Forecasting from end to end: what the pages do not try: arrays, runs that go on, plans, and what is said of bad input.
#
#     forecasting.sh PROGRAM ROOT TEMPORARY_DIRECTORY
set -u
program=$1
root=$(cd "$2" && pwd)
work=$3/forecasting.$$
. "$(dirname "$0")/checks.sh"
mkdir -p "$work" || exit 1
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
waves=$root/examples/waves
cd "$work" || exit 1
trap 'rm -rf "$work"' EXIT
cut -d, -f1-5 "$waves/speeds.csv" >four.csv

shares="--train-share 0.6 --validation-share 0.1"
new="pretrain --task forecasting --config $waves/gcgru.json --data $waves/speeds.csv --steps-per-day 24 $shares --batch-size 8"
expect whole "$program" $new --adjacency "$waves/roads.csv" --output whole --steps 20 --learning-rate 0.01 --quiet
expect plan "$program" $new --adjacency "$waves/roads.csv" --output planned --steps 20 --dry-run
[ ! -e planned ] || fail "a plan left planned"
expect judged "$program" eval whole --data "$waves/speeds.csv" --json
grep -q '"task":"forecasting".*"horizons":\[{"mae"' judged.out || fail "judged: $(cat judged.out)"
expect further "$program" pretrain --model whole --data "$waves/speeds.csv" --output further --steps 2 --batch-size 8 --quiet
expect online "$program" eval whole --data "$waves/speeds.csv" --online both --max-batches 12 --json
grep -q '"learns":"both"' online.out || fail "online: $(cat online.out)"
expect online_plan "$program" eval whole --data "$waves/speeds.csv" --online adcsd --dry-run

windows() { # FILE
    sed -n 's/.*"windows": *\([0-9]*\).*/\1/p' "$1"
}
for share in "--train-share 0.6" "--validation-share 0.1"; do # the other one stays what it was
    # shellcheck disable=SC2086
    expect share "$program" eval whole --data "$waves/speeds.csv" --series-part validation $share --json
    expect stored "$program" eval whole --data "$waves/speeds.csv" --series-part validation --json
    [ -n "$(windows stored.out)" ] && [ "$(windows share.out)" = "$(windows stored.out)" ] || fail "$share: $(cat share.out stored.out)"
done

# ---- bad input ----
bad 2 "--adjacency is needed" $new --output never
bad 2 "--steps-per-day: found 12, expected the 24" eval whole --data "$waves/speeds.csv" --steps-per-day 12
bad 2 "--train-share: found 0.5, expected the 0.6" eval whole --data "$waves/speeds.csv" --train-share 0.5
bad 2 "--validation-share: found 0.2, expected the 0.1" eval whole --data "$waves/speeds.csv" --validation-share 0.2
bad 2 "--normalize: found node, expected the channel" eval whole --data "$waves/speeds.csv" --normalize node
bad 1 "takes no series" pretrain --task forecasting --config "$root/examples/unet/config.json" --data "$waves/speeds.csv" --output never
bad 2 "found 2 files" eval whole --data "$waves/speeds.csv,$waves/roads.csv"
bad 1 "found 4 nodes, expected the model's num_nodes 6" eval whole --data four.csv
bad 2 "--online-learning-rate: has no meaning without --online" eval whole --data "$waves/speeds.csv" --online-learning-rate 1
bad 2 "--online: is an option of --task forecasting" eval "$root/models/sprig-5m" --data "$root/examples/data/king-james-held-out.txt" --online adcsd
bad 2 "--validation-split: has no meaning for --task forecasting" train whole --data "$waves/speeds.csv" --validation-split 0.1 --output never
[ $failures = 0 ]
