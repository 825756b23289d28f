"""Where a page of the list begins, as it stands in an address: encrypted, for it holds a person's
email or name, and tied to its order."""

import json

from cryptography.fernet import Fernet, InvalidToken

from shopsync_pipeline.db.customer_list import Place


class Cursors:
    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(key)

    def write(self, place: Place | None, order: str) -> str | None:
        if place is None:
            return None
        told = json.dumps([order, place.key, place.id, place.backwards])
        return self._fernet.encrypt(told.encode()).decode()

    def read(self, text: str, order: str) -> Place | None:
        """None, which is the list's beginning, for what is none of ours or of another order."""
        try:
            of, key, row, backwards = json.loads(self._fernet.decrypt(text.encode()))
        except InvalidToken:
            return None
        return Place(key=key, id=row, backwards=backwards) if of == order else None
