#!/usr/bin/env bash
# static-build.sh FILE: builds the release binary without any dynamic library and puts it there. With PGO=1 it is optimised by what
# the bench's cases do: two builds and half a minute of load over loopback (docs/adr/0022-measured-options.md).
set -euo pipefail
cd "$(dirname "$0")/.."
out=$1
# Naming the target, even though it is the host's, keeps the flag away from build scripts and procedural macros.
target=$(rustc -vV | sed -n 's/^host: //p')
# Names of functions stay for backtraces; lines, which are most of the size, go.
export CARGO_PROFILE_RELEASE_STRIP=debuginfo
mkdir -p "$(dirname "$out")"
if [ "${PGO:-0}" = 1 ]; then
    make release-pgo
    built=${CARGO_TARGET_DIR:-target}/pgo
else
    RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked -p hornpipe --target "$target"
    built=${CARGO_TARGET_DIR:-target}
fi
cp "$built/$target/release/hornpipe" "$out"
# A program header that asks for a loader would mean that something was linked dynamically after all.
if readelf -l "$out" | grep -q 'INTERP'; then
    echo "$out isn't static" >&2
    exit 1
fi
