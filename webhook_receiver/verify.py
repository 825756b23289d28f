"""Which integrations a delivery belongs to: those whose own secrets signed it.

Where an integration has secrets of its own, only those are tried for it; the deployment's sign for
the others. An unknown shop, one that left and a bad signature are told apart in the log and never
in the answer, nor by how long it takes.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from shopsync_pipeline.db import credentials, inbox
from shopsync_pipeline.db.credentials import Cipher, Signer
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.models import Delivery
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.shopify.webhooks import COMPLIANCE_TOPICS, HANDLED, verified
from webhook_receiver.seldom import Seldom

PREFIX = "[Shopify Customer Webhook]"
CACHED_SECRETS = 10_000
DECOY = ("a shop that is not known costs as much as one that is",)

log = logging.getLogger(__name__)


class Unverified(Exception):
    """No integration's secret signed this delivery; the answer is 401 whatever the reason.
    `tried` are the integrations whose secrets did not."""

    def __init__(self, tried: Sequence[str] = ()) -> None:
        super().__init__()
        self.tried = tried


class Unreadable(Exception):
    """The secrets that may have signed it cannot be decrypted; Shopify must send it again."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`own` says whether the secrets tried were the integration's own."""

    integration_id: str
    own: bool
    signed: bool
    readable: bool = True


class Inbox:
    """Takes deliveries in: verifies, then stores for each integration that may have them."""

    def __init__(self, settings: Settings) -> None:
        cipher = Cipher(settings.required_encryption_keys())
        self._decrypted = lru_cache(CACHED_SECRETS)(cipher.decrypt)
        self._deployment = settings.webhook_secrets
        self._faults = Seldom(log.error)
        self._stores = Seldom(log.warning)
        self._strangers = Seldom(log.warning)  # any number of names: they drown out no store

    def take(self, conn: Conn, delivery: Delivery) -> bool:
        """Committed when this returns; whether it is new to anybody. Raises Unverified or
        Unreadable, having stored nothing."""
        signers = credentials.signers(conn, delivery.shop)
        heard = [s for s in signers if s.is_active or delivery.topic in COMPLIANCE_TOPICS]
        if not heard:
            verified(delivery, self._deployment or DECOY)
            raise _unverified(self._strangers, delivery, "it has no active integration")
        verdicts = [self._judge(delivery, signer) for signer in heard]
        signed = [v.integration_id for v in verdicts if v.signed]
        if not signed:
            raise self._refused(delivery, verdicts)
        status = "pending" if delivery.topic in HANDLED else "ignored"
        new = inbox.store(conn, delivery, signed, status)
        log.info("%s Received %s from %s", PREFIX, delivery.topic, delivery.shop)
        return new > 0

    def _judge(self, delivery: Delivery, signer: Signer) -> Verdict:
        try:
            secrets = self._secrets(signer)
        except ConfigurationError as error:
            self._faults.tell(f"{PREFIX} {delivery.shop}: {error}")
            return Verdict(
                integration_id=signer.integration_id, own=True, signed=False, readable=False
            )
        return Verdict(
            integration_id=signer.integration_id,
            own=bool(signer.secrets),
            signed=verified(delivery, secrets),
        )

    def _secrets(self, signer: Signer) -> Sequence[str]:
        if not signer.secrets:
            return self._deployment
        return [s for s in map(self._decrypted, signer.secrets) if s]

    def _refused(self, delivery: Delivery, verdicts: list[Verdict]) -> Exception:
        if not all(v.readable for v in verdicts):
            return Unreadable()
        tried = []
        if any(v.own for v in verdicts):
            tried.append("the store's own secrets do not fit")
        if not all(v.own for v in verdicts):
            set_ = "does not fit" if self._deployment else "is not set"
            tried.append(f"SHOPIFY_WEBHOOK_SECRET {set_}")
        known = [v.integration_id for v in verdicts]
        return _unverified(self._stores, delivery, " and ".join(tried), known)


def _unverified(
    log_lines: Seldom, delivery: Delivery, why: str, tried: Sequence[str] = ()
) -> Unverified:
    """Only the reason and the shop, which is well-formed: headers are anybody's text."""
    log_lines.tell(f"{PREFIX} Verification failed for {delivery.shop}: {why}")
    return Unverified(tried)
