#!/bin/sh
# One database and one role each for Prescore and Airflow; run by PostgreSQL's image on an empty volume.
set -eu
for name in prescore airflow; do
  psql --username "${POSTGRES_USER:-postgres}" --dbname postgres --set ON_ERROR_STOP=1 \
    --set name="$name" --set password="$(cat "${SECRETS:-/run/secrets}/${name}_password")" <<'SQL'
create role :"name" login password :'password';
create database :"name" owner :"name";
revoke all on database :"name" from public;
SQL
done
