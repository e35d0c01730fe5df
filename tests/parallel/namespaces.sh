#!/bin/sh
# Training on two machines, as far as one can play them: two network namespaces with addresses of their own, joined by a virtual cable.
# Everything that the processes tell each other goes over TCP from 10.177.0.1 to 10.177.0.2.
#
#     namespaces.sh PROGRAM MODEL_DIR TOKENIZER DATA TEMPORARY_DIRECTORY
#
# Exit status 77 (skipped) without mpirun or where namespaces may not be made (it takes root and iproute2).
set -u
program=$(realpath "$1")
model=$(realpath "$2")
tokenizer=$(realpath "$3")
data=$(realpath "$4")
work=$5/namespaces.$$
here=cambium-a-$$
there=cambium-b-$$
command -v mpirun >/dev/null && command -v ip >/dev/null || exit 77
clean() {
    ip netns del "$here" 2>/dev/null
    ip netns del "$there" 2>/dev/null
    rm -rf "$work"
}
ip netns add "$here" 2>/dev/null || exit 77
trap clean EXIT
ip netns add "$there" && ip link add "va$$" netns "$here" type veth peer name "vb$$" netns "$there" || exit 77
ip -n "$here" address add 10.177.0.1/24 dev "va$$"
ip -n "$there" address add 10.177.0.2/24 dev "vb$$"
for space in "$here va$$" "$there vb$$"; do
    # shellcheck disable=SC2086
    set -- $space
    ip -n "$1" link set lo up
    ip -n "$1" link set "$2" up
done
mkdir -p "$work" && cd "$work" || exit 1

# What mpirun calls instead of ssh: AGENT ADDRESS COMMAND...
cat >agent <<END
#!/bin/sh
shift
exec ip netns exec $there unshare --uts sh -c 'hostname $there; eval "\$0"' "\$*"
END
chmod +x agent

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
options="--tokenizer $tokenizer --data $data --target-modules all-linear --dtype f32 --batch-size 2 --sequence-length 64 --steps 6 --seed 5 --max-records 1"
# shellcheck disable=SC2086
"$program" train "$model" $options --output one >one.out 2>&1 || { cat one.out; exit 1; }
sent() {
    ip netns exec "$there" cat "/sys/class/net/vb$$/statistics/tx_bytes"
}
before=$(sent)
# shellcheck disable=SC2086
ip netns exec "$here" unshare --uts sh -c 'hostname '"$here"'; exec mpirun "$@"' mpirun -np 2 --host 10.177.0.1:1,10.177.0.2:1 \
    --mca plm_rsh_agent "$work/agent" --mca btl tcp,self --mca btl_tcp_if_include 10.177.0.0/24 --mca oob_tcp_if_include 10.177.0.0/24 \
    "$program" train "$model" $options --output "$work/two" >two.out 2>&1 </dev/null || { cat two.out; grep -q "knows no MPI" two.out && exit 77; exit 1; }
after=$(sent)
losses() {
    sed 's/.*"loss":\([-0-9.e]*\),"learning_rate.*/\1/' "$1/log.jsonl"
}
losses one >a
losses two >b
paste a b | awk '{ d = $1 - $2; if (NF != 2 || d > 1e-5 || d < -1e-5) { print "FAIL: step " NR ": " $0; bad = 1 } } END { exit bad || NR != 6 }' || exit 1
[ $((after - before)) -gt 1000000 ] || { echo "FAIL: $((after - before)) bytes went over the cable, expected the gradients of six steps"; exit 1; }
echo "two namespaces: six steps with the losses of one process, $((after - before)) bytes sent over the cable"
