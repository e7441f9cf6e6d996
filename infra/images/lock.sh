#!/bin/sh
# Derive each image's lock file from requirements.lock: the same versions and hashes, fewer packages. Needs uv.
set -eu
cd "$(dirname "$0")"

derive() {
  name=$1
  shift
  uv pip compile ../../pyproject.toml "$@" --constraint ../../requirements.lock --output-file "$name.lock" --quiet \
    --generate-hashes --universal --python-version 3.11 --no-strip-extras \
    --no-emit-index-url --no-emit-find-links --no-annotate --no-header
}

derive lookup
derive worker --extra materialize
derive airflow --extra materialize --extra airflow
