"""Who may ask: a bearer token of the deployment, compared in constant time."""

import hmac

from starlette.exceptions import HTTPException
from starlette.requests import Request


def require_bearer(request: Request, token: str | None, variable: str) -> None:
    """Raises HTTPException: 503 that names the variable where it is not set, 401 for another token
    or none."""
    if token is None:
        raise HTTPException(503, f"{variable} is not set, so this is shut. Set it and restart.")
    if not _same(request.headers.getlist("authorization"), token):
        raise HTTPException(
            401,
            f"Send the header Authorization: Bearer followed by {variable}.",
            {"WWW-Authenticate": "Bearer"},
        )


def _same(given: list[str], token: str) -> bool:
    if len(given) != 1:
        return False
    scheme, _, credentials = given[0].partition(" ")
    fits = hmac.compare_digest(credentials.strip().encode("latin-1"), token.encode())
    return fits and scheme.lower() == "bearer"
