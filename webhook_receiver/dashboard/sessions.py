"""Who is logged in to the customers page: a signed cookie, and the token that each form must bring.

Nothing is kept here: the keys are derived from SHOPSYNC_API_TOKEN, so that another token logs
everybody out. A session's id is new at each login, whatever the browser brought before.
"""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from time import monotonic
from urllib.parse import urlsplit

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.requests import Request
from starlette.responses import Response

from shopsync_pipeline.settings import Settings

COOKIE = "shopsync_session"
PATH = "/dashboard"
MAX_AGE_SECONDS = 12 * 3600
FAILURES = 10
"""Failed logins a minute in this process; then nobody may try until the minute is over."""

MINUTE = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """`entered` is False for a browser that was shown the login and no more."""

    id: str
    entered: bool


class Sessions:
    """For one token of the deployment."""

    def __init__(self, settings: Settings, token: str) -> None:
        self._token = token.encode()
        self._csrf_key = derived(token, "csrf")
        self._signer = URLSafeTimedSerializer(derived(token, "session"), salt="dashboard")
        self._app = urlsplit(settings.app_url or "")
        self._failures = 0
        self._until = monotonic() + MINUTE

    def of(self, request: Request) -> Session | None:
        """None where there is no cookie, or none of ours, or it is too old."""
        try:
            given = self._signer.loads(request.cookies.get(COOKIE, ""), max_age=MAX_AGE_SECONDS)
        except BadSignature:
            return None
        return Session(id=str(given["id"]), entered=given["in"] is True)

    def begin(self, *, entered: bool) -> Session:
        return Session(id=secrets.token_urlsafe(16), entered=entered)

    def give(self, request: Request, response: Response, session: Session) -> None:
        response.set_cookie(
            COOKIE,
            str(self._signer.dumps({"id": session.id, "in": session.entered})),
            max_age=MAX_AGE_SECONDS,
            path=PATH,
            secure=self._origin(request).startswith("https:"),
            httponly=True,
            samesite="strict",
        )

    def csrf(self, session: Session) -> str:
        return hmac.new(self._csrf_key, session.id.encode(), hashlib.sha256).hexdigest()

    def is_ours(self, request: Request, session: Session, given: str) -> bool:
        """Whether a form was sent from a page of ours, to this very session."""
        site = request.headers.get("sec-fetch-site", "same-origin")
        origin = request.headers.get("origin", self._origin(request))
        fits = hmac.compare_digest(given.encode(), self.csrf(session).encode())
        return fits and site == "same-origin" and origin == self._origin(request)

    def fits(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token)

    def may_try(self) -> bool:
        if monotonic() >= self._until:
            self._failures, self._until = 0, monotonic() + MINUTE
        return self._failures < FAILURES

    def note_failure(self) -> None:
        self._failures += 1

    def _origin(self, request: Request) -> str:
        """As the browser names it. No header of a proxy tells the scheme: a request for APP_URL's
        own host came by APP_URL's scheme, any other came straight to this port, which has no TLS.
        """
        host = request.headers.get("host", "")
        scheme = self._app.scheme if host == self._app.netloc else "http"
        return f"{scheme}://{host}"


def derived(token: str, purpose: str) -> bytes:
    return hmac.new(token.encode(), f"shopsync {purpose}".encode(), hashlib.sha256).digest()


def fernet_key(token: str) -> bytes:
    """For what stands in an address and is nobody's to read, such as where a page begins."""
    return base64.urlsafe_b64encode(derived(token, "cursor"))


def safe_next(text: str) -> str:
    """A path of our own pages, whatever was given."""
    parts = urlsplit(text) if text.isprintable() and "\\" not in text else urlsplit("")
    inside = not parts.scheme and not parts.netloc and parts.path.startswith(f"{PATH}/")
    return text if inside and "/login" not in parts.path else f"{PATH}/customers"
