"""Drawing by pygal: SVG without script or style of its own, the same for the same figures.

The page's style (style.css.jinja) decides how a line looks, by the name of its series. Each chart describes in words
what it shows, for those who cannot see it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

WIDTH, HEIGHT = 280, 140
WIDE, ROW_HEIGHT = 430, 26
FONT_SIZE = 11
LONGEST_NAME = 28
MANY_POINTS = 25
FARTHEST = 1e9
"""What lies farther from 0 is drawn here; pygal counts the ticks of an axis one by one."""
LEAST_SPAN = 1e-12
"""What lies closer together is drawn as one."""


@dataclass(frozen=True)
class Chart:
    """A chart; `svg` is empty if there is nothing to draw."""

    title: str
    svg: str = ""


@dataclass(frozen=True)
class Series:
    """What is drawn alike: points, and a line through them."""

    name: str
    points: Sequence[tuple[float, float]]
    line: bool = True
    dots: bool = True


def by_step(
    where: str, title: str, series: Sequence[Series], *, text: Callable[[float], str], is_share: bool = False
) -> Chart:
    """Lines over the steps of a training."""
    import pygal

    series = [one for one in series if one.points]
    if not series:
        return Chart(title)
    values = [_bounded(value) for one in series for _, value in one.points]
    last = max(1.0, *(step for one in series for step, _ in one.points))
    low, high = min(0.0, *values), max(0.0, *values)
    svg = _drawn(
        pygal.XY,
        f"{where}, {title} by step: {'; '.join(_told(series, text))}.",
        [
            (
                one.name,
                [(step, _bounded(value)) for step, value in one.points],
                {"show_dots": one.dots and len(one.points) <= MANY_POINTS},
            )
            for one in series
        ],
        width=WIDTH,
        height=HEIGHT,
        range=(0.0, 1.0) if is_share else (low, high if high - low > LEAST_SPAN else low + 1.0),
        xrange=(0.0, last),
        truncate_label=-1,
        x_labels=sorted({0.0, float(last // 2), last}),
        y_labels=[0.0, 0.5, 1.0] if is_share else _ticks(low, high),
        value_formatter="{:.0%}".format if is_share else text,
        x_value_formatter="{:g}".format,
    )
    return Chart(title, svg)


def _told(series: Sequence[Series], text: Callable[[float], str]) -> list[str]:
    """What the lines of each model do, in words."""
    told = []
    for name in dict.fromkeys(one.name for one in series):
        lines = [one.points for one in series if one.name == name]
        begin, end, most = (
            _span(values, text)
            for values in (
                [points[0][1] for points in lines],
                [points[-1][1] for points in lines],
                [max(value for _, value in points) for points in lines],
            )
        )
        told.append(f"{name} from {begin} to {end}, at most {most}")
    return told


def _span(values: Sequence[float], text: Callable[[float], str]) -> str:
    low, high = text(min(values)), text(max(values))
    return low if low == high else f"{low}-{high}"


def by_name(title: str, names: Sequence[str], series: Sequence[Series], *, told: Sequence[str]) -> Chart:
    """Shares from left to right, a row for each name."""
    import pygal

    if not names:
        return Chart(title)
    values = [value for one in series for value, _ in one.points]
    low, high = min(values), max(values)
    margin = (high - low) / 20 if high - low > LEAST_SPAN else 0.01
    svg = _drawn(
        pygal.XY,
        f"{title}: {'; '.join(told)}.",
        [(one.name, list(one.points), {"stroke": one.line, "show_dots": one.dots, "dots_size": 4}) for one in series],
        width=WIDE,
        height=ROW_HEIGHT * len(names) + 40,
        range=(-0.5, len(names) - 0.5),
        xrange=(low - margin, high + margin),
        y_labels=[{"label": name, "value": row} for row, name in enumerate(names)],
        truncate_label=LONGEST_NAME,
        x_labels=_ticks(low, high),
        x_value_formatter="{:.1%}".format,
        value_formatter=str,
    )
    return Chart(title, svg)


def by_bin(
    title: str, bins: Sequence[str], labels: Sequence[str], *, counts: Mapping[str, Sequence[int]], told: Sequence[str]
) -> Chart:
    """Histograms as shares, side by side.

    Args:
        title: The title of the chart.
        bins: The names of the bins.
        labels: The names of bins that are shown.
        counts: The counts in each bin, by the name of the series.
        told: Descriptions of what it shows.
    """
    import pygal

    shares = {name: [count / sum(own) for count in own] for name, own in counts.items() if sum(own)}
    if not shares:
        return Chart(title)
    svg = _drawn(
        pygal.Bar,
        f"{title}: {'; '.join(told)}.",
        [(name, own, {}) for name, own in shares.items()],
        width=WIDE,
        height=HEIGHT,
        x_labels=bins,
        x_labels_major=labels,
        show_minor_x_labels=False,
        truncate_label=-1,
        y_labels=_ticks(0.0, max(share for own in shares.values() for share in own)),
        value_formatter="{:.0%}".format,
    )
    return Chart(title, svg)


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers from the lowest to the highest."""
    if high - low <= LEAST_SPAN:
        return [low]
    size = 10.0 ** floor(log10((high - low) / 4))
    step = next(size * factor for factor in (1, 2, 5, 10) if high - low <= 4 * size * factor)
    return [float(f"{number * step:.3g}") for number in range(ceil(low / step), floor(high / step) + 1)]


def _bounded(value: float) -> float:
    return min(FARTHEST, max(-FARTHEST, value))


def _drawn(
    kind: type[Any], description: str, series: Sequence[tuple[str, Any, dict[str, Any]]], **options: Any
) -> Markup:
    """The SVG of a pygal chart."""
    from pygal.etree import etree
    from pygal.style import Style

    etree.to_etree()  # lxml, where it is installed, would write the same in other words
    style = Style(font_family="sans-serif", label_font_size=FONT_SIZE, major_label_font_size=FONT_SIZE)
    chart = kind(
        style=style,
        js=(),
        no_prefix=True,
        disable_xml_declaration=True,
        show_legend=False,
        margin=6,
        dots_size=2,
        **options,
    )
    for name, values, how in series:
        chart.add(name, values, **how)
    chart.add_xml_filter(partial(_bare, names=[name for name, *_ in series], description=description))
    return Markup(chart.render(is_unicode=True))


def _bare(root: Element, names: Sequence[str], description: str) -> Element:
    """Leaves nothing but shapes and text: the style and the description are the page's."""
    for child in list(root):
        if child.tag in ("defs", "title") or not isinstance(child.tag, str):
            root.remove(child)
    for name in ("id", "xmlns"):  # HTML needs no namespace, and one page no identifier that is the same in all charts
        root.attrib.pop(name)
    root.set("role", "img")
    root.set("aria-label", description)
    for parent in list(root.iter()):
        classes = parent.get("class", "").split()
        if "series" in classes:
            number = next(int(name.removeprefix("serie-")) for name in classes if name.startswith("serie-"))
            parent.set("class", f"series {names[number]}")
        for child in list(parent):
            if child.tag == "desc" and child.get("class") == "value":
                child.tag, child.attrib = "title", {}  # browsers show it under the pointer
            elif child.tag in ("desc", "title") or child.get("class") in ("plot text-overlay", "tooltip"):
                parent.remove(child)
    return root
