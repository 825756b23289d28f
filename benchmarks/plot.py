"""Bars for the README: an SVG without a background, in colours that light and dark pages bear."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TEXT = "#7d8590"
MEASURED = "#4c8ed9"
AIM = "#d9822b"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, and sharp at any size
    "svg.hashsalt": "shopsync",  # the same figures give the same file
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
}
BAR_INCHES = 0.34
PANEL_INCHES = 0.85


@dataclass(frozen=True, kw_only=True)
class Bar:
    """`aim` is the most that is allowed, or the least where `at_least`."""

    label: str
    value: float
    aim: float | None = None
    at_least: bool = False

    @property
    def told(self) -> str:
        sign = "≥" if self.at_least else "≤"
        value = f"{self.value:,.0f}" if self.value >= 100 else f"{self.value:.3g}"
        return value + ("" if self.aim is None else f"  (aim {sign} {self.aim:,g})")


def draw(path: Path, footnote: str, panels: Mapping[str, Sequence[Bar]]) -> None:
    """One panel for each unit, with a bar for each measured value and a mark at its aim."""
    heights = [PANEL_INCHES + BAR_INCHES * len(bars) for bars in panels.values()]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, sum(heights) + 0.2), layout="constrained")
        axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
        for each, (unit, bars) in zip(axes, panels.items(), strict=True):
            _panel(each, unit, bars)
        figure.supxlabel(footnote, fontsize=8)
        figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})


def _panel(axes: Axes, unit: str, bars: Sequence[Bar]) -> None:
    axes.barh([bar.label for bar in bars], [bar.value for bar in bars], color=MEASURED)
    for place, bar in enumerate(bars):
        axes.text(1.02, place, bar.told, va="center", transform=axes.get_yaxis_transform())
        if bar.aim is not None:
            axes.plot([bar.aim] * 2, [place - 0.45, place + 0.45], color=AIM, linewidth=2.5)
    axes.set_xlim(0, 1.05 * max(max(bar.value, bar.aim or 0) for bar in bars))
    axes.invert_yaxis()
    axes.set_title(unit, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
