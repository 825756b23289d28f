"""`python -m webhook_receiver`: prints `receiver listening on URL` and ends on SIGTERM."""

import logging
import sys

from shopsync_pipeline.db import schema
from shopsync_pipeline.errors import ConfigurationError, DatabaseTrouble
from shopsync_pipeline.faults import told
from shopsync_pipeline.settings import Settings
from webhook_receiver.app import database_url
from webhook_receiver.lines import once
from webhook_receiver.logs import log_to_files
from webhook_receiver.server import serve

log = logging.getLogger("webhook_receiver")


def main() -> None:
    try:
        settings = Settings.from_env()
        settings.required_encryption_keys()
        log_to_files(settings)
        _check_schema(settings)
        serve(settings)
    except ConfigurationError as error:
        sys.exit(str(error))
    except Exception as error:  # noqa: BLE001  # its text may quote a secret
        sys.exit(told(error))


def _check_schema(settings: Settings) -> None:
    """Raises ConfigurationError for the tables of another release. A database that is down is no
    reason not to start: deliveries are answered 503 and come again."""
    try:
        once(database_url(settings), schema.check)
    except DatabaseTrouble as error:
        log.warning("The receiver starts without its database. %s", error)


if __name__ == "__main__":
    main()
