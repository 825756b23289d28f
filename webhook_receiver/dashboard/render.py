"""Templates, and how moments, amounts and states are said on a page."""

import hashlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

TITLES = {
    "needs_reauth": "Access refused",
    "needs_scope": "Permission missing",
    "paused": "Paused by Shopify",
    "gone": "Store gone",
}
REMEDIES = {
    "needs_reauth": "Shopify refuses the token. Connect the store again with a new one.",
    "needs_scope": "Grant the app read_customers in Shopify, then connect the store again.",
    "paused": "The store is frozen or unpaid at Shopify. It is tried again by itself.",
    "gone": "Shopify knows no such store any more. Disconnect it, or check its domain.",
}
LATE_AFTER = timedelta(hours=2)
STEPS = ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h"), (86400 * 60, 86400, "days"))


def ago(moment: datetime, now: datetime) -> str:
    """Coarse below a minute, so that a page which shows it is the same for a minute."""
    seconds = (now - moment).total_seconds()
    if seconds < 60:
        return "just now"
    for most, unit, name in STEPS[1:]:
        if seconds < most:
            count = int(seconds // unit)
            return f"{count} {'day' if name == 'days' and count == 1 else name} ago"
    return f"{moment:%Y-%m-%d}"


def time_tag(moment: datetime | None, missing: str = "never") -> Markup:
    if moment is None:
        return Markup("{}").format(missing)
    utc = moment.astimezone(UTC)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        utc.isoformat(timespec="milliseconds"),
        f"{utc:%Y-%m-%d %H:%M:%S} UTC",
        ago(utc, datetime.now(UTC)),
    )


def exact(moment: datetime | None) -> Markup:
    """The moment itself, for a history."""
    if moment is None:
        return Markup("—")
    utc = moment.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        utc.isoformat(timespec="milliseconds"), f"{utc:%Y-%m-%d %H:%M:%S}"
    )


def money(amount: Decimal | None, currency: str | None) -> str:
    return "—" if amount is None else f"{amount:,.2f} {currency or ''}".strip()


def lasted(span: timedelta) -> str:
    seconds = span.total_seconds()
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    for most, unit, name in STEPS:
        if seconds < most:
            return f"{seconds / unit:.0f} {name}"
    return f"{span.days} days"


def is_late(moment: datetime | None) -> bool:
    return moment is not None and datetime.now(UTC) - moment > LATE_AFTER


class Pages:
    """Renders templates; an undefined name is a fault, and everything is escaped."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=PackageLoader("webhook_receiver"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(titles=TITLES, remedies=REMEDIES, is_late=is_late)
        self._templates.filters.update(
            ago=time_tag, exact=exact, money=money, lasted=lasted, number="{:,}".format
        )

    def text(self, template: str, **values: Any) -> str:
        return self._templates.get_template(template).render(values)

    def whole(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        """A page with the frame around it; `request.state` knows who looks at it."""
        given = {"csrf": request.state.csrf, "entered": request.state.entered, **values}
        return HTMLResponse(self.text(template, **given), status)

    def fragment(self, request: Request, text: str, announced: str = "") -> Response:
        """A part of a page; 204 where the browser has the very same already."""
        version = version_of(text)
        if request.query_params.get("v") == version:
            return Response(status_code=204)
        return HTMLResponse(
            self.text("fragment.html", text=Markup(text), version=version, announced=announced)  # noqa: S704  # rendered by us, escaped
        )


def version_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
