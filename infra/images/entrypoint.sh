#!/bin/sh
# Let PRESCORE_X_FILE name a file with the value of PRESCORE_X, then become the command.
# Secrets thus stay out of the container's definition, where anyone who may inspect it reads them.
set -eu
for name in $(env | sed -n 's/^\(PRESCORE_[A-Z0-9_]*\)_FILE=.*/\1/p'); do
  eval "file=\${${name}_FILE}"
  if [ ! -r "$file" ]; then
    echo "entrypoint: ${name}_FILE names '$file', which cannot be read" >&2
    exit 2
  fi
  export "$name=$(cat "$file")"
  unset "${name}_FILE"
done
exec "$@"
