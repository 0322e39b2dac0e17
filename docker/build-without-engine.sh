#!/usr/bin/env bash
# Build the CPU image where there is neither a Docker engine nor a registry: Debian's buildah on a debootstrap base.
#     docker/build-without-engine.sh            (as root, on Debian with buildah and debootstrap, python3 = 3.11)
# The Debian mirror is the one apt is set up with; the wheels come from where pip is set up to find them.
# Settings: WORK (scratch folder), PYTHON, SUITE, BASE and IMAGE (names of the images), DOCKERFILE, DRIVER (of buildah's
# storage; vfs works everywhere). A base that is there is kept.
set -euo pipefail
cd "$(dirname "$0")/.."

WORK=${WORK:-/var/tmp/ferry-image}
PYTHON=${PYTHON:-python3}
SUITE=${SUITE:-bookworm}
BASE=${BASE:-localhost/ferry-base}
IMAGE=${IMAGE:-localhost/ferry}
DOCKERFILE=${DOCKERFILE:-docker/Dockerfile}
DRIVER=${DRIVER:-vfs}

main() {
    mkdir -p "$WORK"
    builder inspect --type image "$BASE" >/dev/null 2>&1 || make_base
    collect_wheels
    # --format docker: the OCI format has no health check.
    builder bud --format docker --isolation chroot --network host \
        --build-arg BASE_IMAGE="$BASE" --build-arg PIP_OPTIONS="--no-index --find-links /wheels" \
        --volume "$WORK/wheels:/wheels:ro" --file "$DOCKERFILE" --tag "$IMAGE" .
    builder images "$IMAGE"
}

make_base() {
    local root="$WORK/base" sources container
    sources=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' "Created-By: Packages" \
        | awk -v suite="$SUITE" '$2 ~ "^" suite "(-updates|-security)?$" {print "deb", $0}' | sort -u)
    rm -rf "$root"
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv \
        "$SUITE" "$root" "$(awk -v suite="$SUITE" '$3 == suite {print $2; exit}' <<<"$sources")"
    echo "$sources" >"$root/etc/apt/sources.list"
    chroot "$root" sh -c 'apt-get update && DEBIAN_FRONTEND=noninteractive apt-get upgrade --yes && apt-get clean'
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/* "$root"/var/log/* "$root"/usr/share/{doc,man,info,locale}/*
    container=$(builder from scratch)
    builder add --quiet "$container" "$root" /
    builder config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd python3 "$container"
    builder commit --quiet --rm "$container" "$BASE"
    rm -rf "$root"
}

collect_wheels() {
    "$PYTHON" -c 'import sys; sys.exit(None if sys.version_info[:2] == (3, 11) else "PYTHON has to be 3.11, as in the base")'
    "$PYTHON" -c "import sys, tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*p['dependencies'], *(p['optional-dependencies']['train'] if 'train' in sys.argv[1] else []), sep='\n')" \
        "$DOCKERFILE" >"$WORK/requirements.txt"
    "$PYTHON" -m pip download --quiet --only-binary :all: --dest "$WORK/wheels" \
        --constraint constraints.txt --requirement "$WORK/requirements.txt"
}

builder() {
    buildah --storage-driver "$DRIVER" "$@"
}

main
