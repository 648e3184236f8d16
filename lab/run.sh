#!/bin/sh
# Builds and runs a program of this workspace (aimq-lab, aimq-bench, aimq-hunt, aimq-sqlfuzz), having checked that this machine
# can build anything at all: lab/run.sh PROGRAM [ARGUMENT]...
set -eu
cd "$(dirname "$0")/.."
program=$1
shift

if ! command -v cargo >/dev/null; then
    echo "A Rust toolchain is needed (1.88 or later): see https://rustup.rs" >&2
    exit 1
fi

missing=
command -v cc >/dev/null || missing="$missing gcc libc6-dev"
command -v python3 >/dev/null || missing="$missing python3 python3-pip"
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "  installing system packages:$missing"
        # shellcheck disable=SC2086 # a list
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y $missing >/dev/null ||
            { apt-get update -qq && apt-get install -qq -y $missing >/dev/null; }
    else
        printf 'System packages are missing. Run this, then try again:\n\n    sudo apt-get install -y%s\n\n' "$missing" >&2
        exit 1
    fi
fi

# These programs have no use for the linker flags that cargo-pgrx chooses, nor for those of the user.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_TARGET_DIR
(while sleep 10 && kill -0 $$ 2>/dev/null; do echo "  … building $program itself (once)" >&2; done) &
ticker=$!
trap 'kill $ticker 2>/dev/null' EXIT
# What measures must not be slow itself: its listeners and clients share the machine with the servers.
profile=dev folder=debug
if [ "$program" = aimq-bench ]; then profile=harness folder=harness; fi
cargo build --quiet --locked -p "$program" --profile "$profile" --target-dir target
kill $ticker
trap - EXIT
exec "target/$folder/$program" "$@"
