#!/usr/bin/env bash
# Start the image that build-without-engine.sh made and see it answer: first by `buildah run`, then on a root file
# system that is really read-only, without capabilities, with only /tmp writable.
#     docker/try-image.sh [CHECKPOINTS]        a folder of checkpoints to serve in place of those in the image
# Settings: IMAGE, PORT, REQUEST (the JSON body to send), DRIVER (of buildah's storage).
set -euo pipefail

IMAGE=${IMAGE:-localhost/ferry}
PORT=${PORT:-8765}
REQUEST=${REQUEST:-'{"text": "Where is the station?", "source": "en", "target": "de"}'}
CHECKPOINTS=${1:+$(realpath "$1")}
URL=http://127.0.0.1:$PORT
DRIVER=${DRIVER:-vfs}

main() {
    container=$(builder from "$IMAGE")
    trap 'stop; builder rm "$container" >/dev/null' EXIT

    echo "== buildah run --isolation chroot, as the image's user"
    start builder run --isolation chroot --network host --env FERRY_PORT="$PORT" \
        ${CHECKPOINTS:+--volume "$CHECKPOINTS:/checkpoints:ro"} "$container" -- ferry serve
    ask
    echo "health check: $(builder run --isolation chroot --network host --env FERRY_PORT="$PORT" "$container" -- \
        "${HEALTH[@]}" && echo healthy)"
    stop

    echo "== read-only root file system, tmpfs on /tmp, no capabilities"
    start unshare --mount -- bash -c "$READ_ONLY" read-only "$(builder mount "$container")" "$PORT" "$CHECKPOINTS"
    ask
}

HEALTH=(python3 -c "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['FERRY_PORT'] + '/health/ready', timeout=4)")

# What an engine does for `--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges --user 10001:10001`.
# shellcheck disable=SC2016
READ_ONLY='
set -e
mount --bind "$1" "$1"
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$1/tmp"
mount -t proc proc "$1/proc"
mount --bind /dev "$1/dev"
if [ -n "$3" ]; then mount --bind -o ro "$3" "$1/checkpoints"; fi
mount -o remount,bind,ro "$1"
exec env -i PATH=/opt/ferry/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp PYTHONUNBUFFERED=1 FERRY_HOST=127.0.0.1 FERRY_PORT="$2" \
    chroot "$1" setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
    sh -c "touch /x /opt/x /checkpoints/x 2>&1 | sed s/^/expected:\ /; cd /tmp && exec ferry serve"
'

builder() {
    buildah --storage-driver "$DRIVER" "$@"
}

start() {
    "$@" &
    started=$!
    for _ in $(seq 120); do
        curl --silent --fail "$URL/health/ready" >/dev/null && return
        kill -0 "$started" 2>/dev/null || { echo "the service ended before it was ready" >&2; exit 1; }
        sleep 0.5
    done
    echo "the service was not ready within a minute" >&2
    exit 1
}

ask() {
    local process answer
    process=$(service)
    grep -E '^(Uid|Gid|CapEff|NoNewPrivs|VmRSS):' "/proc/$process/status"
    answer=$(curl --silent --show-error --fail-with-body "$URL/v1/translate" -H 'content-type: application/json' \
        -d "$REQUEST")
    echo "$answer"
}

# The process id of the service: the last in the line of children of what was started.
service() {
    local process=$started child
    while child=$(pgrep --parent "$process" --newest); do process=$child; done
    echo "$process"
}

stop() {
    [ -n "${started:-}" ] || return 0
    local status=0
    kill -TERM "$(service)" 2>/dev/null || true
    wait "$started" || status=$?
    echo "ended by SIGTERM with exit status $status"
    started=
}

main
