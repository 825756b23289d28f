#!/bin/sh
# deploy/backup.sh DIRECTORY: the tables and Dagster's database, as pg_dump's custom format.
#
# While everything runs, or not. Settings come from the environment, or from `.env` in the working
# directory, as for `shopsync`; the embedded Postgres is started where it must be.
set -eu
umask 077
[ $# -eq 1 ] || { echo "usage: $0 DIRECTORY" >&2; exit 2; }
here=$(dirname "$0")
if [ -z "${PGSERVICEFILE-}" ]; then
    exec "${PYTHON:-$here/../.venv/bin/python}" "$here/pg_services.py" "$0" "$@"
fi
for name in shopsync dagster; do
    if [ -e "$1/$name.dump" ]; then
        echo "$1/$name.dump is there already. Give each backup a directory of its own." >&2
        exit 1
    fi
done
mkdir -p "$1"
# Dagster's second: it has the runs that the rows of the first name.
for name in shopsync dagster; do
    pg_dump --dbname "service=$name" --format custom --no-owner --no-acl --file "$1/$name.part"
    mv "$1/$name.part" "$1/$name.dump"
done
cat <<END
Saved $1/shopsync.dump and $1/dagster.dump. They hold customers' data: keep them as you keep the database.
Not in them, and to be kept apart: SHOPSYNC_ENCRYPTION_KEY, without which every store must be
connected again, and the other secrets of your environment or of secrets.env in SHOPSYNC_HOME.
END
