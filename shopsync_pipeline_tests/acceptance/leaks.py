"""The search for canaries in all that a deployment leaves.

At the end of every deployment, after whatever a test did with it, they are planted, and each place
is searched: both databases as `pg_dump` shows them and as their files are, every file of the home
folder, what the receiver shows, and what the process list shows of each process.

A secret may be nowhere, in no spelling. A person may be in `customers` and in a webhook's body.
"""

import base64
import html
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

import requests as http
from dotenv import dotenv_values
from psycopg.conninfo import conninfo_to_dict

from shopsync_pipeline import local
from shopsync_pipeline.db import credentials, integrations
from shopsync_pipeline.db.binaries import programs_for
from shopsync_pipeline.db.credentials import Cipher
from shopsync_pipeline.db.engine import libpq_url
from shopsync_pipeline_tests.acceptance.canary import Canary, plant
from shopsync_pipeline_tests.acceptance.deployment import Deployment, processes_of

PEOPLE = "public.customers"
INBOX = "public.webhook_events"
"""There a person is in `body` alone, which is bytea and dumped as hexadecimal digits."""

Texts = Mapping[str, str]
"""What is not to be found, by what it is."""


def nothing_leaked(deployment: Deployment) -> None:
    """Fails with what was found where; the texts themselves are not told."""
    canary = Canary()
    plant(deployment, canary)
    found = leaks(deployment, canary)
    assert not found, "\n".join(found)


def leaks(deployment: Deployment, canary: Canary) -> list[str]:
    """What was found, and where."""
    stores = {**canary.secrets, **_stored_secrets(deployment)}
    own = _own_secrets(deployment)
    everything = {**stores, **own, **canary.person}
    found = [
        *_in_databases(deployment, {**stores, **own}, canary.person),
        *_in_data_files(deployment, stores),
        *_in_files(deployment, everything, {**stores, **canary.person}),
        *_in_metrics(deployment, everything),
        *_in_processes(deployment, everything, stores),
    ]
    return sorted(set(found))


def _stored_secrets(deployment: Deployment) -> Texts:
    """All that is encrypted in the table, in the clear: also what was granted meanwhile."""
    cipher = Cipher(deployment.settings.required_encryption_keys())
    found: dict[str, str] = {}
    for store in integrations.everything(deployment.conn):
        held = credentials.load(deployment.conn, cipher, store.id)
        texts = {
            "access token": held.access_token,
            "refresh token": held.refresh_token,
            "client secret": held.client_secret,
            "webhook secret": held.webhook_secret,
        }
        found |= {f"{name} of {store.shop}": text for name, text in texts.items() if text}
    return found


def _own_secrets(deployment: Deployment) -> Texts:
    made = dotenv_values(deployment.settings.secrets_file)
    given = {f"webhook secret {n}": s for n, s in enumerate(deployment.settings.webhook_secrets)}
    return {name: text for name, text in {**made, **given}.items() if text}


def spellings(text: str) -> set[bytes]:
    """As it stands, in URLs, JSON, JSON within JSON, HTML, hexadecimal digits, and within a longer
    text in base64."""
    raw = text.encode()
    once = json.dumps(text)[1:-1]
    texts = {text, quote(text, safe=""), quote_plus(text), once, json.dumps(once)[1:-1]}
    texts |= {html.escape(text), raw.hex(), raw.hex().upper(), text.replace("\\", "\\\\")}
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + raw).decode()
        whole = coded[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        texts |= {whole, whole.replace("+", "-").replace("/", "_")}
    return {each.encode() for each in texts}


def found_in(data: bytes, texts: Texts) -> Iterator[str]:
    """Which of them stand there, in any spelling."""
    for what, text in texts.items():
        if any(spelling in data for spelling in spellings(text)):
            yield what


def _in_databases(deployment: Deployment, hidden: Texts, person: Texts) -> Iterator[str]:
    settings = deployment.settings
    for url in (settings.database_url, settings.dagster_postgres_url):
        assert url is not None
        for table, rows in by_table(_dump(url)):
            found = [*found_in(rows, hidden)]
            if table == INBOX:
                found += [what for what, text in person.items() if text.encode() in rows]
            elif table != PEOPLE:
                found += found_in(rows, person)
            yield from (f"{table}: {what}" for what in found)


def _dump(url: str) -> bytes:
    """By pg_dump, which hears the password from its environment."""
    names = {"host", "port", "user", "password", "dbname", "options"}
    given = {name: str(value) for name, value in conninfo_to_dict(libpq_url(url)).items() if value}
    env = {f"PG{name.upper()}": given[name] for name in names & given.keys()}
    env["PGDATABASE"] = env.pop("PGDBNAME")
    return subprocess.run(
        [programs_for(None) / "pg_dump"], env={**os.environ, **env}, capture_output=True, check=True
    ).stdout


def by_table(dump: bytes) -> Iterator[tuple[str, bytes]]:
    """The rows of each table, and first what is said besides."""
    schema, *parts = dump.split(b"\nCOPY ")
    yield "the schema", schema
    for part in parts:
        name, _, rest = part.partition(b" ")
        rows, _, after = rest.partition(b"\n\\.\n")
        yield name.decode(), rows
        yield f"after {name.decode()}", after


def _in_data_files(deployment: Deployment, hidden: Texts) -> Iterator[str]:
    """What Postgres writes, its log of changes included, and as it stands there."""
    cluster = (local.cluster(deployment.settings) / "cluster").resolve()
    for path in _files(cluster):
        data = _content(path)
        found = (what for what, text in hidden.items() if text.encode() in data)
        yield from (f"{path.name} of Postgres: {what}" for what in found)


def _in_files(deployment: Deployment, hidden: Texts, of_stores: Texts) -> Iterator[str]:
    """Of the home folder, and what `shopsync up` says; the file of secrets holds its own."""
    home = deployment.home
    cluster = local.cluster(deployment.settings) / "cluster"
    for path in (*_files(home), *home.parent.glob("up*.log")):
        if not path.is_relative_to(cluster):
            texts = of_stores if path == deployment.settings.secrets_file else hidden
            found = found_in(_content(path), texts)
            yield from (f"{path.relative_to(home.parent)}: {what}" for what in found)


def _files(folder: Path) -> Iterator[Path]:
    """Those that are there; a folder that goes meanwhile is left out."""
    for parent, _, names in os.walk(folder):
        yield from (path for name in names if (path := Path(parent, name)).is_file())


def _content(path: Path) -> bytes:
    """Nothing of what has gone meanwhile, for the deployment works on."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _in_metrics(deployment: Deployment, hidden: Texts) -> Iterator[str]:
    bearer = {"Authorization": f"Bearer {deployment.settings.api_token}"}
    for path in ("/metrics", "/readyz", "/healthz", "/openapi.json"):
        for headers in ({}, bearer):
            answer = http.get(deployment.receiver + path, headers=headers, timeout=10)
            yield from (f"{path}: {what}" for what in found_in(answer.content, hidden))


def _in_processes(deployment: Deployment, hidden: Texts, of_stores: Texts) -> Iterator[str]:
    """Command lines of all processes; of ours the environment too, which holds what is the
    deployment's own by its nature."""
    theirs = {what: text for what, text in of_stores.items() if text not in _given(deployment)}
    for pid in processes_of(deployment.home):
        yield from _in_proc(pid, "environ", theirs)
    for entry in Path("/proc").glob("[0-9]*"):
        yield from _in_proc(int(entry.name), "cmdline", hidden)


def _given(deployment: Deployment) -> set[str]:
    return set(_own_secrets(deployment).values())


def _in_proc(pid: int, part: str, hidden: Texts) -> Iterator[str]:
    try:
        data = Path(f"/proc/{pid}/{part}").read_bytes()
    except OSError:  # it has just ended
        return
    yield from (f"{part} of a process: {what}" for what in found_in(data, hidden))
