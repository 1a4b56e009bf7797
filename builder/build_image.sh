#!/bin/sh
# build_image.sh cpu|cuda TAG [CONTEXT]: builds the container image, with docker where its daemon
# answers, else with buildah.
#
# As root on Debian, buildah and its needs are installed. Where no registry can be reached, the base
# is made from Debian's packages, and from NVIDIA's on the Python index. BASE_IMAGE, RUNTIME_IMAGE
# and the Dockerfile's other arguments come from the environment, HF_TOKEN goes in as a secret. So do
# the settings by which pip and apt reach their indexes here.
set -eu
accel=$1
tag=$2
here=$(dirname "$0")
context=${3:-$here/..}
python=${PYTHON:-python3}
secrets=$(mktemp -d "${TMPDIR:-/tmp}/gguf-worker-build.XXXXXX")
how=
trap leave EXIT
trap 'exit 130' INT TERM

leave() {
    rm -rf "$secrets"
    # Stages that are nothing but a name leave a mounted container behind.
    [ "${how%%,*}" != buildah ] || buildah_ rm --all >/dev/null 2>&1 || true
}

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

progress() {
    sh "$here/progress.sh" "$@"
}

# Prints one of pip's settings, the environment's first. Files and indexes of this machine are left
# out: the build cannot see them.
pip_setting() {
    "$python" -m pip config list 2>/dev/null |
        sed -n "s/^\(:env:\|global\|install\)\.$1='\(.*\)'\$/\2/p" |
        sed '/^\//{/\.crt$\|\.pem$/!d};/^file:/d' | head -n 1
}

lend() {
    {
        echo "[global]"
        for name in index-url trusted-host proxy default-timeout; do
            value=$(pip_setting "$name")
            [ -z "$value" ] || echo "$name = $value"
        done
        authorities=$(pip_setting cert)
        if [ -f "$authorities" ]; then
            cp "$authorities" "$secrets/ca_certificates"
            echo "cert = /run/secrets/ca_certificates"
        fi
    } >"$secrets/pip_conf"
    mirrors bookworm >"$secrets/apt_sources"
    [ -s "$secrets/apt_sources" ] || rm "$secrets/apt_sources"
    [ -z "${HF_TOKEN:-}" ] || printf %s "$HF_TOKEN" >"$secrets/HF_TOKEN"
}

# Prints where this machine gets the packages of a Debian release, if that is its own release.
mirrors() {
    command -v apt-get >/dev/null 2>&1 || return 0
    # shellcheck disable=SC2016
    apt-get indextargets --format 'deb $(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' \
        2>/dev/null | grep " $1" | sort -u || true
}

# install PROGRAM PACKAGES...
install() {
    program=$1
    shift
    command -v "$program" >/dev/null 2>&1 && return
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        remedy="Start docker, or run this as root on Debian or Ubuntu."
        fail "there is no docker daemon here, and no $program. $remedy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    progress "Looking up Debian's packages" apt-get update
    progress "Installing $program" apt-get install --yes --no-install-recommends "$@"
}

buildah_() {
    sh "$here/buildah.sh" "$@"
}

# Whether an image is here, or can be fetched.
have() {
    buildah_ inspect --type image "$1" >/dev/null 2>&1 ||
        buildah_ pull --quiet "$1" >/dev/null 2>&1
}

# Makes an image of Debian's packages; a new one each week, for the sake of security updates.
debian() {
    image=localhost/gguf-worker-debian:$(date +%G-%V)
    RUNTIME_IMAGE=$image
    buildah_ inspect --type image "$image" >/dev/null 2>&1 && return
    install mmdebstrap mmdebstrap debian-archive-keyring
    made=$here/../.cache/image/debian.tar
    url=http://deb.debian.org
    # $1 is for the hook's own shell.
    # shellcheck disable=SC2016
    sources='"$1/etc/apt/sources.list"'
    # The image names Debian's public mirrors, and no name server of this machine.
    # shellcheck disable=SC2016
    set -- --variant=minbase --include=ca-certificates,python3,python3-venv,libgomp1 \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --customize-hook='rm -f "$1/etc/resolv.conf" "$1/etc/hostname"' \
        --customize-hook="echo 'deb $url/debian bookworm main' >$sources" \
        --customize-hook="echo 'deb $url/debian bookworm-updates main' >>$sources" \
        --customize-hook="echo 'deb $url/debian-security bookworm-security main' >>$sources" \
        bookworm "$made"
    [ ! -f "$secrets/apt_sources" ] || set -- "$@" "$secrets/apt_sources"
    progress "No registry can be reached: making a base from Debian's packages" mmdebstrap "$@"
    container=$(buildah_ from scratch)
    buildah_ add --quiet "$container" "$made" / >/dev/null
    path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    buildah_ config --env "PATH=$path" "$container"
    buildah_ commit --quiet --rm "$container" "$image" >/dev/null
    rm "$made"
}

# build MESSAGE ARGUMENTS...
build() {
    message=$1
    shift
    # Without the type, buildah takes a variable of the same name, or nothing.
    for secret in "$secrets"/*; do
        set -- --secret "id=$(basename "$secret"),type=file,src=$secret" "$@"
    done
    if [ "$how" = docker ]; then
        set -- env DOCKER_BUILDKIT=1 docker build --progress plain "$@"
    else
        # The format of docker's own: the other one has no health checks.
        set -- sh "$here/buildah.sh" build --isolation chroot --layers --format docker "$@"
    fi
    progress "$message" "$@"
}

# Makes an image with CUDA's compiler.
cuda() {
    made_from=$(cat "$here/requirements-cuda.txt" "$here/image/cuda-base.Dockerfile" \
        "$here/image/install.sh" "$here/image/lay_out_cuda.sh" | cksum)
    BASE_IMAGE=localhost/gguf-worker-cuda:${RUNTIME_IMAGE##*:}-${made_from%% *}
    buildah_ inspect --type image "$BASE_IMAGE" >/dev/null 2>&1 && return
    build "No registry can be reached: making a base with NVIDIA's packages" \
        --tag "$BASE_IMAGE" --build-arg "RUNTIME_IMAGE=$RUNTIME_IMAGE" \
        --file "$here/image/cuda-base.Dockerfile" "$here"
}

bases() {
    if [ -z "${RUNTIME_IMAGE:-}" ]; then
        RUNTIME_IMAGE=$(sed -n 's/^ARG RUNTIME_IMAGE=//p' "$context/Dockerfile")
        have "$RUNTIME_IMAGE" || debian
    fi
    # A build looks up both bases of the Dockerfile, also the one that is not needed.
    [ "$accel" = cuda ] || : "${BASE_IMAGE:=$RUNTIME_IMAGE}"
    if [ -z "${BASE_IMAGE:-}" ]; then
        # The variable is the Dockerfile's.
        # shellcheck disable=SC2016
        BASE_IMAGE=$(sed -n 's/^FROM ${BASE_IMAGE:-\(.*\)} AS base-cuda$/\1/p' "$context/Dockerfile")
        have "$BASE_IMAGE" || cuda
    fi
}

case $accel in
cpu | cuda) ;;
*) fail "the image is for cpu or cuda, not for '$accel'." ;;
esac

lend
if docker info >/dev/null 2>&1; then
    how="docker"
else
    install buildah buildah
    [ "$(id -u)" = 0 ] || fail "buildah is used as root here. Start docker, or run this as root."
    how="buildah, $(buildah_ info --format '{{.store.GraphDriverName}}') storage in .cache/image"
    bases
fi

set -- --tag "$tag" --build-arg "ACCEL=$accel"
for name in BASE_IMAGE RUNTIME_IMAGE CUDA_ARCHITECTURES MODEL MODEL_REVISION MODEL_SHA256 \
    HF_ENDPOINT VERSION REVISION; do
    eval "value=\${$name:-}"
    [ -z "$value" ] || set -- "$@" --build-arg "$name=$value"
done
build "Building $tag with $how; minutes the first time" "$@" "$context"
