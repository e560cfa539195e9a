#!/bin/sh
# Runs inside of a machine that a real systemd manages: a trust domain, a second node with the
# systemd attestor, and units that ask it for their identity. Prints one JSON line a check.
set -eu
exec 2>/out/errors
version=$(systemctl --version | head -n 1 | cut -d ' ' -f 2)
line() {
    printf '{"client":"systemd","version":"%s","check":"%s","ok":%s,"detail":"%s"}\n' \
        "$version" "$1" "$2" "$3" >>/out/results
}
until_true() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        if [ "$tries" -gt 300 ]; then
            echo "not in time: $*" >&2
            return 1
        fi
        sleep 0.1
    done
}
D=/run/interop
mkdir -p "$D"
export MUSTER_NODE_SOCKET="$D/private/admin.sock"
/muster dev --no-demo --json --dir "$D/dev" >"$D/dev.out" &
until_true grep -q '"ready"' "$D/dev.out"
server=$(sed 's/.*"server_admin_socket":"\([^"]*\)".*/\1/' "$D/dev.out" | head -n 1)
token=$(/muster token create --json --server-socket "$server" | tr -d ' \n' | sed 's/.*"value":"\([^"]*\)".*/\1/')
sed -e "s|^data_dir = .*|data_dir = \"$D/data\"|" \
    -e "s|^workload_socket = .*|workload_socket = \"$D/workload.sock\"|" \
    -e "s|^admin_socket = .*|admin_socket = \"$MUSTER_NODE_SOCKET\"|" \
    -e "s|^token = .*|token = \"$token\"|" "$D/dev/node/node.toml" >"$D/node.toml"
echo '[attest.systemd]' >>"$D/node.toml"
/muster node run --config "$D/node.toml" 2>/out/node.log &
/muster entry create --server-socket "$server" \
    --parent-id "spiffe://example.org/spire/agent/join_token/$token" \
    --spiffe-id spiffe://example.org/interop/pay \
    --selector systemd:id:pay.service \
    --selector systemd:fragment_path:/etc/systemd/system/pay.service \
    --selector systemd:slice:system.slice >&2
until_true test -S "$D/workload.sock"

# A unit that has the entry's name, file and slice.
if systemctl start pay.service && grep -q spiffe://example.org/interop/pay "$D/pay"; then
    line unit-svid true "by id, fragment_path and slice"
else
    line unit-svid false "see the errors"
fi
# The same program, in another unit.
if systemctl start other.service; then
    line other-unit false "another unit received the SVID as well"
else
    line other-unit true "another unit is denied"
fi
# What the node says of a service that stays.
systemctl start stays.service
pid=$(systemctl show --property MainPID --value stays.service)
/muster node explain "$pid" >"$D/explained" || true
if grep -q 'systemd:id:stays.service' "$D/explained"; then
    line unit-facts true "muster node explain shows the unit"
else
    cat "$D/explained" >&2
    line unit-facts false "see the errors"
fi
