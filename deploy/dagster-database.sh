#!/bin/sh
# Run once by Postgres's image on an empty volume: Dagster's own role and database.
set -eu
psql --username "$POSTGRES_USER" --set ON_ERROR_STOP=1 --set password="$DAGSTER_PASSWORD" <<'SQL'
CREATE ROLE dagster LOGIN PASSWORD :'password' CONNECTION LIMIT 80;
CREATE DATABASE dagster OWNER dagster;
SQL
