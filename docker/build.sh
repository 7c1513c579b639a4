#!/usr/bin/env bash
# build.sh [TAG]: the container image by whichever engine answers.
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${1:-hornpipe:latest}
if docker info >/dev/null 2>&1; then
    exec docker build -f docker/Dockerfile -t "$tag" .
fi
# OCI's own format has no place for a health check.
if command -v podman >/dev/null; then
    exec podman build --format docker --ignorefile docker/Dockerfile.dockerignore -f docker/Dockerfile -t "$tag" .
elif command -v buildah >/dev/null; then
    exec buildah bud --format docker --ignorefile docker/Dockerfile.dockerignore -f docker/Dockerfile -t "$tag" .
fi
echo "no container engine answers: start docker, or install podman or buildah; 'make image-tree' works without" >&2
exit 1
