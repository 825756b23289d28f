"""Credentials at rest: encrypted before they reach Postgres, decrypted after they leave it.

The keys are Fernet keys, the first of which encrypts; the others are for what an earlier
first key wrote. A database dump without them holds no token.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.models import Credentials


class Cipher:
    """Raises ConfigurationError for a key that is none."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        try:
            fernets = [Fernet(key) for key in keys]
            self._fernet = MultiFernet(fernets)
        except ValueError:
            raise ConfigurationError(
                "SHOPSYNC_ENCRYPTION_KEY holds something that is no Fernet key (32 bytes in "
                "url-safe base64)."
            ) from None
        self._first = fernets[0]

    def encrypt(self, text: str | None) -> str | None:
        return None if text is None else self._fernet.encrypt(text.encode()).decode()

    def decrypt(self, text: str | None) -> str | None:
        """Raises ConfigurationError where no key fits."""
        if text is None:
            return None
        try:
            return self._fernet.decrypt(text.encode()).decode()
        except InvalidToken:
            raise ConfigurationError(
                "Stored credentials cannot be decrypted: SHOPSYNC_ENCRYPTION_KEY lacks the key "
                "that encrypted them. Add it, or connect the store again."
            ) from None

    def renewed(self, text: str) -> str | None:
        """The same secret under the first key, `text` itself where it is already; None where no
        key fits."""
        try:
            self._first.decrypt(text.encode())
        except InvalidToken:
            with suppress(InvalidToken):
                return self._fernet.rotate(text.encode()).decode()
            return None
        return text

    def seal(self, credentials: Credentials) -> str:
        """All of them as one encrypted text, for a request that waits for its run."""
        sealed = self._fernet.encrypt(json.dumps(asdict(credentials), default=str).encode())
        return sealed.decode()

    def unseal(self, sealed: str) -> Credentials:
        """Raises ConfigurationError where no key fits."""
        given = json.loads(self.decrypt(sealed) or "{}")
        for name in ("expires_at", "refresh_expires_at"):
            given[name] = datetime.fromisoformat(given[name]) if given[name] else None
        return Credentials(**given)


def any_stored(conn: Conn) -> bool:
    """Whether a new encryption key would make something unreadable."""
    return (
        conn.execute(
            """
            SELECT 1 FROM integrations
            WHERE coalesce("accessToken", "refreshToken", "clientSecret", "webhookSecret")
                  IS NOT NULL
            UNION ALL SELECT 1 FROM sync_requests WHERE "credentials" IS NOT NULL LIMIT 1
            """
        ).fetchone()
        is not None
    )


def load(conn: Conn, cipher: Cipher, integration_id: str) -> Credentials:
    row = conn.execute(
        """
        SELECT "accessToken", "accessTokenExpiresAt", "clientId", "clientSecret",
               "refreshToken", "refreshTokenExpiresAt", "webhookSecret"
        FROM integrations WHERE "id" = %s
        """,
        [integration_id],
    ).fetchone()
    assert row is not None, integration_id
    return Credentials(
        access_token=cipher.decrypt(row[0]),
        expires_at=row[1],
        client_id=row[2],
        client_secret=cipher.decrypt(row[3]),
        refresh_token=cipher.decrypt(row[4]),
        refresh_expires_at=row[5],
        webhook_secret=cipher.decrypt(row[6]),
    )


def store(conn: Conn, cipher: Cipher, integration_id: str, credentials: Credentials) -> None:
    """Replace all of them by one statement, so that a pair of tokens is never torn apart.

    A webhook secret that is not given stays: it signs what was made by hand in the store.
    """
    conn.execute(
        """
        UPDATE integrations SET
          "accessToken" = %s, "accessTokenExpiresAt" = %s, "clientId" = %s, "clientSecret" = %s,
          "refreshToken" = %s, "refreshTokenExpiresAt" = %s,
          "webhookSecret" = coalesce(%s, "webhookSecret"), "updatedAt" = clock_timestamp()
        WHERE "id" = %s
        """,
        [
            cipher.encrypt(credentials.access_token),
            credentials.expires_at,
            credentials.client_id,
            cipher.encrypt(credentials.client_secret),
            cipher.encrypt(credentials.refresh_token),
            credentials.refresh_expires_at,
            cipher.encrypt(credentials.webhook_secret),
            integration_id,
        ],
    )


def fingerprint(conn: Conn, cipher: Cipher, integration_id: str) -> str | None:
    """Another text whenever the access token is another one, and the same whatever key has it
    encrypted; for comparing within a process, never to be stored or shown."""
    row = conn.execute(
        'SELECT "accessToken" FROM integrations WHERE "id" = %s', [integration_id]
    ).fetchone()
    token = cipher.decrypt(row[0]) if row else None
    return None if token is None else hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Signer:
    """An integration of a shop and the encrypted secrets of its own, which may sign its webhooks;
    with none of its own, the deployment's sign."""

    integration_id: str
    is_active: bool
    secrets: Sequence[str] = field(repr=False)


def signers(conn: Conn, shop: str) -> list[Signer]:
    """Every integration of this shop, of any organization, also those that left."""
    rows = conn.execute(
        """
        SELECT "id", "isActive", "clientSecret", "webhookSecret" FROM integrations
        WHERE "shop" = %s ORDER BY "id"
        """,
        [shop],
    ).fetchall()
    return [
        Signer(integration_id=row[0], is_active=row[1], secrets=[s for s in row[2:] if s])
        for row in rows
    ]


def without_secret(conn: Conn) -> list[tuple[str, str]]:
    """Organization and shop of active stores with real-time sync and no signing secret of their
    own."""
    return conn.execute(
        """
        SELECT "organizationId", "shop" FROM integrations
        WHERE "isActive" AND "realtimeSince" IS NOT NULL
          AND coalesce("clientSecret", "webhookSecret") IS NULL
        ORDER BY 1, 2
        """
    ).fetchall()
