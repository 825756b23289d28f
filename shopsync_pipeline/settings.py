"""What an operator can set, read once from the environment; no connection is made here.

A variable of the process wins over `.env` in the working directory, and that over
`secrets.env` in the home folder, which `shopsync up` writes. See `.env` in the README.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from dotenv import dotenv_values

from shopsync_pipeline.errors import ConfigurationError

SHOP = re.compile(r"[a-z0-9][a-z0-9-]*\.myshopify\.com")
ORGANIZATION = re.compile(r"[A-Za-z0-9_-]{1,64}")
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`home` holds data, logs and secrets of this deployment; URLs are as the user gave them."""

    home: Path
    database_url: str | None = field(default=None, repr=False)
    dagster_postgres_url: str | None = field(default=None, repr=False)
    receiver_database_url: str | None = field(default=None, repr=False)
    encryption_keys: tuple[str, ...] = field(default=(), repr=False)
    webhook_secrets: tuple[str, ...] = field(default=(), repr=False)
    cron_secret: str | None = field(default=None, repr=False)
    api_token: str | None = field(default=None, repr=False)
    app_url: str | None = None
    alert_webhook_url: str | None = field(default=None, repr=False)
    shopify_api_version: str = "2026-10"
    shopify_endpoint: str = "https://{shop}"
    orgs_per_run: int = 250
    webserver_port: int = 3001
    webserver_url: str | None = None
    receiver_host: str = "127.0.0.1"
    receiver_port: int = 3000
    webhook_linger_seconds: int = 300
    webhook_drain_max_seconds: int = 900
    webhook_lease_seconds: int = 60

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Raises ConfigurationError that names the variable which cannot be used."""
        values = _layers() if environ is None else dict(environ)
        return cls(
            home=Path(values.get("SHOPSYNC_HOME") or ".shopsync").absolute(),
            database_url=values.get("DATABASE_URL") or None,
            dagster_postgres_url=values.get("DAGSTER_POSTGRES_URL") or None,
            receiver_database_url=values.get("RECEIVER_DATABASE_URL") or None,
            encryption_keys=_list(values.get("SHOPSYNC_ENCRYPTION_KEY")),
            webhook_secrets=_list(values.get("SHOPIFY_WEBHOOK_SECRET")),
            cron_secret=values.get("CRON_SECRET") or None,
            api_token=values.get("SHOPSYNC_API_TOKEN") or None,
            app_url=_address(
                "APP_URL",
                values.get("APP_URL") or values.get("NEXT_PUBLIC_APP_URL"),
                "the public address of the receiver, such as https://sync.example.com",
            ),
            alert_webhook_url=_alert_webhook_url(values.get("ALERT_WEBHOOK_URL")),
            shopify_api_version=values.get("SHOPIFY_API_VERSION") or cls.shopify_api_version,
            shopify_endpoint=_endpoint(values.get("SHOPIFY_ENDPOINT") or cls.shopify_endpoint),
            orgs_per_run=_positive(values, "ORGS_PER_RUN", cls.orgs_per_run),
            webserver_port=_positive(values, "DAGSTER_WEBSERVER_PORT", cls.webserver_port, 65535),
            webserver_url=_address(
                "DAGSTER_WEBSERVER_URL",
                values.get("DAGSTER_WEBSERVER_URL"),
                "where people reach Dagster's UI, such as https://dagster.example.com",
            ),
            receiver_host=values.get("RECEIVER_HOST") or cls.receiver_host,
            receiver_port=_positive(values, "RECEIVER_PORT", cls.receiver_port, 65535),
            webhook_linger_seconds=_linger(values, cls.webhook_linger_seconds),
            webhook_drain_max_seconds=_positive(
                values, "WEBHOOK_DRAIN_MAX_SECONDS", cls.webhook_drain_max_seconds
            ),
            webhook_lease_seconds=_positive(
                values, "WEBHOOK_LEASE_SECONDS", cls.webhook_lease_seconds
            ),
        )

    @property
    def ui_here(self) -> str:
        """Of the UI that `shopsync up` starts, on this machine."""
        return f"http://127.0.0.1:{self.webserver_port}"

    @property
    def ui_url(self) -> str:
        """Of Dagster's UI, for links that people follow; no slash at its end."""
        return self.webserver_url or self.ui_here

    @property
    def secrets_file(self) -> Path:
        return self.home / "secrets.env"

    def required_database_url(self) -> str:
        """Raises ConfigurationError where no database is named."""
        return self._required("DATABASE_URL", self.database_url)

    def required_encryption_keys(self) -> tuple[str, ...]:
        """Raises ConfigurationError where no key is given."""
        self._required("SHOPSYNC_ENCRYPTION_KEY", ",".join(self.encryption_keys))
        return self.encryption_keys

    @staticmethod
    def _required(variable: str, value: str | None) -> str:
        if not value:
            raise ConfigurationError(
                f"{variable} is not set. Set it, or start with `shopsync up`, which provides it."
            )
        return value


def checked_shop(text: str) -> str:
    """The shop's myshopify domain in lower case; the only way a host name may be made.

    Raises ConfigurationError for anything else, a URL or another host in particular.
    """
    shop = text.strip().lower()
    if not SHOP.fullmatch(shop):
        raise ConfigurationError(
            f"{text!r} is not a shop: give its domain, such as my-store.myshopify.com."
        )
    return shop


def checked_organization(text: str) -> str:
    """Raises ConfigurationError for an id that could not be a partition key."""
    if not ORGANIZATION.fullmatch(text):
        raise ConfigurationError(
            f"{text!r} is not an organization id: 1 to 64 letters, digits, '_' or '-'."
        )
    return text


def _layers() -> dict[str, str]:
    below = {k: v for k, v in dotenv_values(".env").items() if v is not None}
    merged = {**below, **os.environ}
    home = Path(merged.get("SHOPSYNC_HOME") or ".shopsync")
    secrets = {k: v for k, v in dotenv_values(home / "secrets.env").items() if v is not None}
    return {**secrets, **merged}


def _list(value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (value or "").split(",") if part.strip())


def _positive(values: Mapping[str, str], name: str, default: int, most: int = 10**6) -> int:
    text = values.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= most:
        raise ConfigurationError(f"{name} must be a whole number from 1 to {most}, not {text!r}.")
    return int(text)


def _linger(values: Mapping[str, str], default: int) -> int:
    """Seconds, 0 for not at all, -1 for as long as the deployment runs."""
    name = "WEBHOOK_LINGER_SECONDS"
    if values.get(name) in ("0", "-1"):
        return int(values[name])
    return _positive(values, name, default)


def _address(variable: str, text: str | None, meaning: str) -> str | None:
    """Without a slash at its end; paths are put behind it. Links are shown, so no password."""
    if not text:
        return None
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise ConfigurationError(f"{variable} must be {meaning}.")
    if parts.username is not None:
        raise ConfigurationError(f"{variable} must not hold a login: it is shown in links.")
    return text.rstrip("/")


def _alert_webhook_url(text: str | None) -> str | None:
    """By https, or to this machine. Whoever has it can post, so it is not told."""
    if not text:
        return None
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
        (host or "").encode("idna")  # a label that is empty or too long has no address
    except ValueError:
        host = None
    near = host in LOOPBACK and parts.scheme == "http"
    if not host or not (near or parts.scheme == "https") or parts.username is not None:
        raise ConfigurationError(
            "ALERT_WEBHOOK_URL must begin with https:// and a host name, or with "
            "http://127.0.0.1:PORT for a service on this machine."
        )
    return text


def _endpoint(template: str) -> str:
    """Anything but Shopify's own hosts must be loopback: a token is sent there."""
    if template == Settings.shopify_endpoint:
        return template
    parts = urlsplit(template)
    loopback = parts.hostname in LOOPBACK
    plain = parts.scheme == "http" and parts.username is None and "{shop}" in parts.path
    if not (loopback and plain):
        raise ConfigurationError(
            "SHOPIFY_ENDPOINT must be https://{shop}, or http://127.0.0.1:PORT/{shop} "
            "for a simulator on this machine."
        )
    return template.rstrip("/")
