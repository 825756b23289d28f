"""Plots of figures by day, for whoever looks at the asset in Dagster.

Each has one row an organization: its name, its lines, and in words what they end at. Lines and
words have enough contrast on white and on Dagster's dark ground, all else is transparent. SVG, for
it is small and sharp; text stays text, in the browser's font.

Only a run of `customer_metrics` imports this, as `metrics`.
"""

import io
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from urllib.parse import quote

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FIRST, SECOND, WORDS = "#2f7fd6", "#c2610c", "#797979"
FONT = "DejaVu Sans"
"""By which matplotlib measures text."""

NOTHING_ABOUT_IT = dict.fromkeys(("Creator", "Date", "Format", "Type"))
WIDTH, ROW, FOOT = 7.2, 0.5, 0.3
"""Inches."""

LONGEST_NAME = 24
A_MONTH = 30
LEAST_LAG = 0.01
"""Seconds; the scale of lags begins here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A column of `by_day`, its colour, and what is said of all its values that are known, which
    are one or more."""

    column: str
    colour: str
    told: Callable[["pd.Series[float]"], str]


def growth(frame: pd.DataFrame) -> str:
    """Customers by day, each row on a scale of its own."""
    return _drawn(
        "Customers by day",
        frame,
        [Line(column="customers", colour=FIRST, told=_grown)],
        lambda axes: axes.margins(y=0.25),
    )


def opt_in(frame: pd.DataFrame) -> str:
    """The share of customers who consent, on a scale from none to all."""
    return _drawn(
        "Share of customers who consent to marketing, by day",
        frame,
        [
            Line(column="email_rate", colour=FIRST, told=lambda v: f"e-mail {v.iloc[-1]:.1%}"),
            Line(column="sms_rate", colour=SECOND, told=lambda v: f"SMS {v.iloc[-1]:.1%}"),
        ],
        lambda axes: axes.set_ylim(-0.1, 1.1),
    )


def latency(frame: pd.DataFrame) -> str:
    """Median time from Shopify to the row, all on one scale, of which each step is ten times."""
    lags = frame[["webhook_lag", "pull_lag"]].clip(lower=LEAST_LAG)

    def scale(axes: Axes) -> None:
        axes.set_yscale("log")
        axes.set_ylim(LEAST_LAG / 2, max(10.0, lags.max().max() * 2))

    return _drawn(
        "Median time from Shopify to the row, by day",
        lags,
        [
            Line(column="webhook_lag", colour=FIRST, told=lambda v: f"webhook {_span(v)}"),
            Line(column="pull_lag", colour=SECOND, told=lambda v: f"pull {_span(v)}"),
        ],
        scale,
    )


def _grown(customers: "pd.Series[float]") -> str:
    month = customers.iloc[-A_MONTH - 1 :]
    now = f"{month.iloc[-1]:,.0f}"
    grown = month.iloc[-1] - month.iloc[0]
    return f"{now} ({grown:+,.0f} in {len(month) - 1} days)" if len(month) > 1 else now


def _span(lags: "pd.Series[float]") -> str:
    seconds = lags.iloc[-1]
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} s"


def _drawn(
    title: str, frame: pd.DataFrame, lines: Sequence[Line], scale: Callable[[Axes], object]
) -> str:
    """The picture as Markdown."""
    names = list(frame.index.unique("organization"))
    height = ROW * len(names) + FOOT
    with _style():
        figure = Figure(figsize=(WIDTH, height))
        rows = figure.subplots(len(names), squeeze=False, sharex=True)[:, 0]
        figure.subplots_adjust(0.24, FOOT / height, 0.68, 1, hspace=0.3)
        for axes, name in zip(rows, names, strict=True):
            axes.axis("off")
            scale(axes)
            _write(axes, -0.03, 0.5, _short(name), WORDS, ha="right")
            _draw(axes, frame.loc[name], lines)
        days = frame.index.get_level_values("day")
        if days.min() < days.max():
            _write(rows[-1], 0, -0.3, f"{days.min():%-d %b}", WORDS)
        _write(rows[-1], 1, -0.3, f"{days.max():%-d %b %Y}", WORDS, ha="right")
        return f"![{title}]({_data_uri(figure)})"


def _style() -> AbstractContextManager[None]:
    return mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "shopsync", "font.sans-serif": [FONT]}
    )


def _draw(axes: Axes, of_one: pd.DataFrame, lines: Sequence[Line]) -> None:
    known = [(line, of_one[line.column].dropna()) for line in lines]
    drawn = [(line, values) for line, values in known if len(values)]
    if not drawn:
        _write(axes, 1.04, 0.5, "nothing measured yet", WORDS)
    for place, (line, values) in enumerate(drawn):
        axes.plot(values.index, values, color=line.colour, lw=1.6)
        axes.plot(values.index[-1:], values[-1:], "o", color=line.colour, ms=4, clip_on=False)
        height = 0.5 + 0.42 * ((len(drawn) - 1) / 2 - place)
        _write(axes, 1.04, height, line.told(values), line.colour)


def _write(axes: Axes, x: float, y: float, text: str, colour: str, ha: str = "left") -> None:
    axes.text(x, y, text, color=colour, ha=ha, va="center", size=9, transform=axes.transAxes)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _data_uri(figure: Figure) -> str:
    """Not in base64, which Postgres could not compress."""
    picture = io.StringIO()
    figure.savefig(picture, format="svg", transparent=True, metadata=NOTHING_ABOUT_IT)
    _, _, svg = picture.getvalue().partition('DTD/svg11.dtd">')
    plain = re.sub(r"\s+", " ", svg.strip()).replace(f"'{FONT}', ", "")
    short = re.sub(r'(?<= d=")[^"]+', _short_path, plain)
    quoted = quote(short.replace('"', "'"), safe="/:;,='")
    return f"data:image/svg+xml,{quoted}"


def _short_path(found: re.Match[str]) -> str:
    """Tenths of a point are enough."""
    rounded = re.sub(r"(\d\.\d)\d+", r"\1", found[0].strip()).replace(".0 ", " ")
    return re.sub(r" ?([A-Za-z]) ?", r"\1", rounded).replace(" ", ",")
