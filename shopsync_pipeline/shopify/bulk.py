"""Bulk operations: Shopify reads all customers of a store in the background and leaves them as a
file of JSON lines, one customer each, on a storage server for seven days.

Documents and answers as plain values, and the file as rows, a chunk at a time. Nothing here
waits for an operation; that is `sync.bulk`'s.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from shopsync_pipeline.errors import BulkFailed, Unreachable
from shopsync_pipeline.models import CustomerRow
from shopsync_pipeline.shopify.answers import SHAPE_ERRORS, as_documented, decoded
from shopsync_pipeline.shopify.customers import rows_of
from shopsync_pipeline.shopify.documents import document
from shopsync_pipeline.shopify.transport import (
    CONNECT_TIMEOUT,
    NO_ANSWER,
    READ_TIMEOUT,
    new_session,
)

UNDER_WAY = ("CREATED", "RUNNING")
COMPLETED = "COMPLETED"
ACCESS_DENIED = "ACCESS_DENIED"
"""The error code of an operation that FAILED since the app may not read so."""

BLOCK = 1 << 18
"""Bytes asked of the file at once."""

ENOUGH = 1 << 24
"""Bytes of lines after which a chunk is full, however few they are."""

LONGEST_LINE = 1 << 26


@dataclass(frozen=True, kw_only=True, slots=True)
class BulkOperation:
    """`rows` are those that were read so far; `url` is None until it is COMPLETED, and for ever
    where there are no rows."""

    id: str
    status: str
    error_code: str | None
    created_at: datetime
    completed_at: datetime | None
    rows: int
    url: str | None


def customers_query(mark: str) -> str:
    """The document that Shopify executes. Its first line tells the operation from other tools'.

    Without a filter, for the index behind filters lags; and without a sort key: with one,
    Shopify was seen to leave rows out.
    """
    _, _, fields = document("CustomerFields").partition("{")
    return f"{_mark(mark)}\n{{ customers {{ edges {{ node {{{fields} }} }} }}"


def _mark(mark: str) -> str:
    return f"# Shopsync reads all customers of {mark}"


def operation_of(shop: str, node: Mapping[str, Any]) -> BulkOperation:
    """From BulkOperationFields.graphql. Raises BrokenAnswer where it is not as documented."""
    with as_documented(shop, "a bulk operation"):
        return BulkOperation(
            id=node["id"],
            status=node["status"],
            error_code=node["errorCode"],
            created_at=datetime.fromisoformat(node["createdAt"]),
            completed_at=datetime.fromisoformat(done) if (done := node["completedAt"]) else None,
            rows=int(node["rootObjectCount"]),
            url=node["url"],
        )


def ours_among(shop: str, data: Mapping[str, Any], mark: str) -> list[BulkOperation]:
    """Those of the operations in the data of BulkOperations.graphql that were started with this
    mark, the newest first."""
    with as_documented(shop, "the list of bulk operations"):
        nodes = data["bulkOperations"]["nodes"]
        ours = [node for node in nodes if str(node["query"]).startswith(_mark(mark))]
    return [operation_of(shop, node) for node in ours]


def started_of(shop: str, data: Mapping[str, Any]) -> BulkOperation | str:
    """The operation in the data of BulkOperationRun.graphql, or the code of the user error for
    which there is none."""
    with as_documented(shop, "the start of a bulk operation"):
        payload = data["bulkOperationRunQuery"]
        for error in payload["userErrors"]:
            return str(error["code"])
        operation = payload["bulkOperation"]
    return operation_of(shop, operation) if operation else "no operation and no reason"


def asked_of(shop: str, data: Mapping[str, Any]) -> BulkOperation | None:
    """The operation in the data of BulkOperationById.graphql; None where Shopify knows it not."""
    with as_documented(shop, "a bulk operation"):
        node = data["bulkOperation"]
    return None if node is None else operation_of(shop, node)


class BulkFile:
    """The result of a COMPLETED operation, read once from its beginning to its end.

    The URL is signed: whoever has it may read, so no token of ours goes there. `endpoint` is
    where the Admin API is asked: a result on plain http is accepted only from a simulator there.
    """

    def __init__(self, shop: str, url: str, *, endpoint: str) -> None:
        """Raises BulkFailed for a URL that is not to be trusted."""
        self._shop = shop
        self._url = url
        try:
            parts, ours = urlsplit(url), urlsplit(endpoint)
            plain = bool(parts.hostname) and "@" not in parts.netloc  # no login to send along
        except ValueError:
            plain = False
        if not plain:
            raise BulkFailed(shop, "the result of the bulk operation has no valid URL")
        simulated = ours.scheme == "http" and (parts.scheme, parts.netloc) == (
            ours.scheme,
            ours.netloc,
        )
        if parts.scheme != "https" and not simulated:
            raise BulkFailed(shop, "the result of the bulk operation is not on https")
        self._session = new_session(url)
        self._response: requests.Response | None = None
        self._etag: str | None = None
        self._rest = b""
        self.position = 0
        """Bytes of the lines that were given out."""

    def close(self) -> None:
        self._drop()
        self._session.close()

    def rows(self, most: int) -> list[CustomerRow]:
        """The next customers, at most about `most`; none at the end.

        Raises Unreachable when the connection breaks: called again, it goes on where it was.
        Raises BulkFailed for what is no line of a customer, or is not served any longer.
        """
        try:
            response = self._response or self._open()
            lines, last = self._lines(response, most)
        except NO_ANSWER as error:
            self._drop()
            raise Unreachable(
                self._shop, f"the result of the bulk operation broke off ({type(error).__name__})"
            ) from None
        rows = self._decoded(lines)
        self.position += len(lines)
        self._rest = last
        return rows

    def _open(self) -> requests.Response:
        headers = {"Accept-Encoding": "identity"}  # positions are bytes of the file itself
        if self.position:
            headers |= {"Range": f"bytes={self.position}-"}
            headers |= {"If-Range": self._etag} if self._etag else {}
        response = self._session.get(
            self._url,
            headers=headers,
            stream=True,
            allow_redirects=False,
            timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
        )
        self._response, self._rest = response, b""
        status = response.status_code
        if status != (206 if self.position else 200):
            self._drop()
            what = f"the result of the bulk operation is not served (HTTP {status})"
            passing = status in (408, 429) or status >= 500
            raise (Unreachable if passing else BulkFailed)(self._shop, what)
        self._etag = response.headers.get("ETag")
        return response

    def _lines(self, response: requests.Response, most: int) -> tuple[bytes, bytes]:
        """Whole lines, and the beginning of the next one."""
        blocks, ends, size = [self._rest], self._rest.count(b"\n"), len(self._rest)
        while ends < most and not (ends and size > ENOUGH):
            if size > LONGEST_LINE:
                raise BulkFailed(self._shop, "the result of the bulk operation has no lines")
            block = response.raw.read1(BLOCK, decode_content=False)
            if not block:
                return b"".join(blocks), b""
            blocks.append(block)
            ends += block.count(b"\n")
            size += len(block)
        text = b"".join(blocks)
        end = text.rfind(b"\n") + 1
        return text[:end], text[end:]

    def _decoded(self, lines: bytes) -> list[CustomerRow]:
        try:
            # One line after the other: a chunk of decoded objects costs more than it decodes.
            return rows_of(decoded(line) for line in lines.splitlines())
        except SHAPE_ERRORS:
            raise BulkFailed(
                self._shop,
                f"the result of the bulk operation is broken near byte {self.position}",
            ) from None

    def _drop(self) -> None:
        if self._response is not None:
            with suppress(OSError, urllib3.exceptions.HTTPError):
                self._response.close()
        self._response = None
