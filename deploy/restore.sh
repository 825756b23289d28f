#!/bin/sh
# deploy/restore.sh DIRECTORY: what deploy/backup.sh wrote there, into databases that are empty.
#
# Stop Shopsync first, and bring back the secrets: the encryption key is not in a backup. Settings
# come as they do for backup.sh.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DIRECTORY" >&2; exit 2; }
here=$(dirname "$0")
for name in shopsync dagster; do
    [ -f "$1/$name.dump" ] || { echo "$1/$name.dump is not there." >&2; exit 1; }
done
if [ -z "${PGSERVICEFILE-}" ]; then
    exec "${PYTHON:-$here/../.venv/bin/python}" "$here/pg_services.py" --alone "$0" "$@"
fi
relations="SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p', 'v')
  AND relnamespace::regnamespace::text !~ '^(pg_|information_schema)'"
relations_in() {
    psql --no-psqlrc --tuples-only --no-align --dbname "service=$1" --command "$relations"
}
for name in shopsync dagster; do
    if ! pg_restore --file /dev/null "$1/$name.dump"; then
        echo "$1/$name.dump cannot be read to its end. Nothing was changed." >&2
        exit 1
    fi
    found=$(relations_in "$name")
    if [ "$found" -ne 0 ]; then
        echo "The database of $name is not empty: it has $found tables and views. Nothing was changed." >&2
        echo "Give an empty one, or put this one aside; see docs/how-to/restore.md." >&2
        exit 1
    fi
done
# As text, without a setting that servers before 17 do not know. What ends too soon, whichever of
# the three programs it is, ends before the COMMIT.
for name in shopsync dagster; do
    { echo 'BEGIN;' && pg_restore --no-owner --no-acl --file - "$1/$name.dump" && echo 'COMMIT;'; } |
        LC_ALL=C sed '/^SET transaction_timeout = 0;$/d' |
        psql --no-psqlrc --quiet --output /dev/null --set ON_ERROR_STOP=1 --dbname "service=$name"
    if [ "$(relations_in "$name")" -eq 0 ]; then
        echo "The database of $name was not restored, and is empty still." >&2
        exit 1
    fi
done
cat <<END
Restored from $1. Now: shopsync db upgrade, shopsync db roles, then start Shopsync (make up does all
three), and: shopsync sync, then shopsync reconcile, which finds what was deleted since the backup.
END
