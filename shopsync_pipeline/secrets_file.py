"""The file of secrets in the home folder: what nobody gave and `shopsync up` made, so that the next
start and the other commands find it. Only its owner may read it.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TextIO

from cryptography.fernet import Fernet
from dotenv import dotenv_values

from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.settings import Settings

ENCRYPTION_KEY = "SHOPSYNC_ENCRYPTION_KEY"


def kept(settings: Settings, name: str) -> str | None:
    return dotenv_values(settings.secrets_file).get(name) or None


def made(settings: Settings, name: str, make: Callable[[], str]) -> str:
    """The secret of this deployment by that name, made and kept at the first need."""
    with _held(settings) as file:
        if found := kept(settings, name):
            return found
        value = make()
        file.write(f"{name}={value}\n")
    return value


def keep(settings: Settings, values: Mapping[str, str]) -> None:
    """What the commands of this home shall find set, in place of what was kept by those names.

    Whoever is killed meanwhile leaves the file as it was, or as it shall be.
    """
    path = settings.secrets_file
    with _held(settings), NamedTemporaryFile("w", dir=path.parent, delete=False) as new:
        lines = path.read_text().splitlines()
        others = [line for line in lines if line.partition("=")[0] not in values]
        new.write("\n".join([*others, *(f"{name}={text}" for name, text in values.items()), ""]))
        new.flush()
        os.fsync(new.fileno())
        Path(new.name).replace(path)


@contextmanager
def _held(settings: Settings) -> Iterator[TextIO]:
    """The file of secrets, to append to, held against others: two first starts must agree."""
    settings.home.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(settings.secrets_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(descriptor), settings.secrets_file.stat()):
                yield file
                return  # else it was replaced while we waited for it


def fresh_key() -> str:
    return Fernet.generate_key().decode()


def with_new_key(settings: Settings) -> Settings:
    """`settings` with a fresh key in front of the old ones, kept in the file of secrets; what runs
    could not read what that encrypts. Raises ConfigurationError where the keys come from elsewhere.
    """
    if settings.encryption_keys != _list_of(kept(settings, ENCRYPTION_KEY)):
        raise ConfigurationError(
            f"{ENCRYPTION_KEY} is set by the environment or .env, not by {settings.secrets_file}. "
            "Change it there: docs/security.md has the steps."
        )
    return _keep_keys(settings, (fresh_key(), *settings.encryption_keys))


def without_old_keys(settings: Settings) -> Settings:
    """Nothing is under them any more."""
    return _keep_keys(settings, settings.encryption_keys[:1])


def _keep_keys(settings: Settings, keys: tuple[str, ...]) -> Settings:
    keep(settings, {ENCRYPTION_KEY: ",".join(keys)})
    return replace(settings, encryption_keys=keys)


def _list_of(text: str | None) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()
