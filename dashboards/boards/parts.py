"""What boards are made of: words of the catalogue as PromQL, panels, rows, variables, annotations, links.

    own("ticks_total"), signal("host.cpu_busy_ratio")  -> selectors over names that exist, or KeyError
    stat, lines, table, states, heat, bars             -> panels, with unit and description of the catalogue
    board(...)                                         -> Dashboard: ids, grid, variables, annotations, links

Known panel types only, and no data source but the variable's: a board must work where we have never been.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    heatmap,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.builders import stat as stats
from grafana_foundation_sdk.builders import (
    table as tables,
)
from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as m
from grafana_foundation_sdk.models import prometheus as prom

from agent.catalogue import SIGNALS
from agent.telemetry import METRICS

GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "#8e8e8e"
SOURCE: Final = m.DataSourceRef(type_val="prometheus", uid="${datasource}")
_GRAFANA: Final = m.DataSourceRef(type_val="grafana", uid="-- Grafana --")
TAG: Final = "homeostat"
RATE: Final = "[$__rate_interval]"
RANGE: Final = "[$__range]"
HERE: Final = {"job": "$job", "instance": "$instance"}
"""Which agents: on every selector of every board."""

_UNITS: Final = {
    "seconds": "s", "bytes": "bytes", "ratio": "percentunit", "celsius": "celsius", "watts": "watt",
    "hertz": "hertz", "count": "short", "per_second": "ops", "bytes_per_second": "Bps", "bool": "short",
    "": "short",
}  # fmt: skip
"""Units of the catalogue -> units of Grafana."""


# ---------------------------------------------------------------- words


def own(name: str, **labels: str) -> str:
    """Return the selector of a metric about the agent itself; `_bucket`, `_sum` and `_count` of a histogram, too."""
    name = f"homeostat_{name}"
    bare = name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
    known = METRICS[name if name in METRICS else bare]
    unknown = labels.keys() - {*known.labels, "le"}
    if unknown and "signal" not in known.labels:  # else labels of the series follow
        raise KeyError(f"{name} has no label {', '.join(sorted(unknown))}")
    return name + _braces(labels)


def signal(name: str, **labels: str) -> str:
    """Return the selector of a signal of the catalogue."""
    return SIGNALS[name].exported + _braces(labels)


def up(**labels: str) -> str:
    """Return the selector of Prometheus' own word on who answers."""
    return "up" + _braces(labels)


def _braces(labels: Mapping[str, str]) -> str:
    return "{" + ", ".join(_matcher(k, v) for k, v in {**HERE, **labels}.items()) + "}"


def _matcher(label: str, value: str) -> str:
    bare = value.removeprefix("!")
    pattern = any(one in bare for one in ("$", "|", ".+", ".*"))
    not_, is_ = ("!~", "=~") if pattern else ("!=", "=")
    return f'{label}{is_ if bare == value else not_}"{bare}"'


def named(expr: str) -> str:
    """Join what entities are called (label `name`): keys of processes and GPUs are for machines."""
    return f"{expr} * on (job, instance, entity) group_left (name) {own('entity_info')}"


def unit_of(name: str) -> str:
    """Return Grafana's unit of a signal."""
    return _UNITS[SIGNALS[name].unit]


def says(name: str) -> str:
    """Return what the catalogue says of a signal, as a sentence."""
    text = SIGNALS[name].help
    return f"{text[0].upper()}{text[1:]}."


# ---------------------------------------------------------------- panels


@dataclass(frozen=True, slots=True)
class Q:
    """One query of a panel. legend: with {{label}}s; instant: only the newest value."""

    expr: str
    legend: str = "__auto"
    instant: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """From `value` on it has this colour; None = from below everything."""

    value: float | None
    color: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: the value of a query, or a label.

    source   the name of a label, or the refId of a query
    steps    colours of its cells
    url      where a click leads; may use ${__data.fields.NAME}
    """

    source: str
    title: str
    unit: str = ""
    steps: tuple[Step, ...] = ()
    url: str = ""
    maps: Mapping[str, tuple[str, str]] | None = None
    gauge: bool = False


def ok_until(warn: float, bad: float) -> tuple[Step, ...]:
    """Green, then yellow from `warn`, red from `bad`."""
    return Step(None, GREEN), Step(warn, YELLOW), Step(bad, RED)


def bad_from(value: float, color: str = RED) -> tuple[Step, ...]:
    """Green, and from `value` on bad."""
    return Step(None, GREEN), Step(value, color)


def good_from(value: float, color: str = RED) -> tuple[Step, ...]:
    """Bad, and from `value` on green."""
    return Step(None, color), Step(value, GREEN)


YES_NO: Final = {"0": ("no", GREEN), "1": ("yes", RED)}
"""Of a state that is bad when it is so."""
FINE: Final = {"0": ("no", RED), "1": ("yes", GREEN)}
"""Of a state that is good when it is so."""
PLAIN: Final = (Step(None, BLUE),)


def _targets(
    queries: Sequence[Q], *, form: prom.PromQueryFormat = prom.PromQueryFormat.TIME_SERIES
) -> list[variants.Dataquery]:
    as_table = form is prom.PromQueryFormat.TABLE
    return [
        prom.Dataquery(
            expr=q.expr,
            ref_id=chr(ord("A") + i),
            legend_format=q.legend,
            instant=q.instant or as_table,
            range_val=not (q.instant or as_table),
            format_val=form,
            editor_mode=prom.QueryEditorMode.CODE,
            datasource=SOURCE,
        )
        for i, q in enumerate(queries)
    ]


def _maps(maps: Mapping[str, tuple[str, str]]) -> list[m.ValueMapping]:
    words = {
        value: m.ValueMappingResult(text=text, color=color, index=i)
        for i, (value, (text, color)) in enumerate(maps.items())
    }
    return [m.ValueMap(options=words)]


def _steps(steps: Iterable[Step]) -> m.ThresholdsConfig:
    made = [m.Threshold(value=one.value, color=one.color) for one in steps]
    return m.ThresholdsConfig(mode=m.ThresholdsMode.ABSOLUTE, steps=made)


def _finish(
    panel: m.Panel,
    title: str,
    help_: str,
    targets: list[variants.Dataquery],
    *,
    unit: str,
    size: tuple[int, int],
    none: str,
    steps: Sequence[Step],
    by_steps: bool = False,
    maps: Mapping[str, tuple[str, str]] | None = None,
    decimals: float | None = None,
    low: float | None = None,
    high: float | None = None,
    url: str = "",
) -> m.Panel:
    """Set what all panels share. none: what stands there when there is no value, in words."""
    panel.title, panel.description, panel.targets = title, help_, targets
    panel.datasource, panel.transparent, panel.repeat_direction = SOURCE, None, None
    panel.grid_pos = m.GridPos(w=size[0], h=size[1])
    config = panel.field_config or m.FieldConfigSource()
    panel.field_config = config
    one = config.defaults
    one.unit, one.no_value, one.decimals, one.min_val, one.max_val = (
        unit, none, decimals, low, high,
    )  # fmt: skip
    one.thresholds = _steps(steps or PLAIN)
    mode = m.FieldColorModeId.THRESHOLDS if by_steps else m.FieldColorModeId.PALETTE_CLASSIC
    one.color = m.FieldColor(mode=mode)
    if maps:
        one.mappings = _maps(maps)
    if url:
        one.links = [
            m.DashboardLink(title="open", url=url, type_val=m.DashboardLinkType.LINK, target_blank=False)
        ]  # fmt: skip
    return panel


def stat(
    title: str,
    help_: str,
    *queries: Q,
    unit: str = "short",
    size: tuple[int, int] = (4, 4),
    none: str = "not known",
    steps: Sequence[Step] = PLAIN,
    maps: Mapping[str, tuple[str, str]] | None = None,
    decimals: float | None = None,
    line: bool = False,
    name: bool = False,
    url: str = "",
) -> m.Panel:
    """One number, large. line: how it came there, below; name: the legend beside it."""
    built = (
        stats.Panel()
        .graph_mode(looks.BigValueGraphMode.AREA if line else looks.BigValueGraphMode.NONE)
        .color_mode(looks.BigValueColorMode.BACKGROUND if len(steps) > 1 or maps else looks.BigValueColorMode.VALUE)
        .text_mode(looks.BigValueTextMode.VALUE_AND_NAME if name else looks.BigValueTextMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .build()
    )  # fmt: skip
    asked = [Q(q.expr, q.legend, instant=not line) for q in queries]
    return _finish(
        built, title, help_, _targets(asked), unit=unit, size=size, none=none, steps=steps, by_steps=True,
        maps=maps, decimals=decimals, url=url,
    )  # fmt: skip


def lines(
    title: str,
    help_: str,
    *queries: Q,
    unit: str = "short",
    size: tuple[int, int] = (12, 8),
    none: str = "not known",
    low: float | None = 0.0,
    high: float | None = None,
    stacked: bool = False,
    band: tuple[str, str] | None = None,
    dashed: Sequence[str] = (),
    steps: Sequence[Step] = (),
    decimals: float | None = None,
) -> m.Panel:
    """Series over time. band: legends of the lower and the upper end of what is expected; dashed: of limits."""
    drawn = (
        timeseries.Panel()
        .draw_style(looks.GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(30 if stacked else 0)
        .show_points(looks.VisibilityMode.NEVER)
        .span_nulls(False)
        .stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL if stacked else looks.StackingMode.NONE))
        .thresholds_style(common.GraphThresholdsStyleConfig().mode(
            looks.GraphThresholdsStyleMode.DASHED if steps else looks.GraphThresholdsStyleMode.OFF))
        .legend(common.VizLegendOptions().display_mode(looks.LegendDisplayMode.LIST)
                .placement(looks.LegendPlacement.BOTTOM).show_legend(True).calcs([]))
        .tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING))
    )  # fmt: skip
    if band:
        lower, upper = band
        drawn = drawn.override_by_name(lower, [*_thin(BLUE)]).override_by_name(
            upper,
            [*_thin(BLUE), _set("custom.fillBelowTo", lower), _set("custom.fillOpacity", 15)],
        )
    for pattern in dashed:
        drawn = drawn.override_by_regexp(
            f"/{pattern}/",
            [
                _set("custom.lineStyle", {"fill": "dash", "dash": [8, 8]}),
                _set("color", {"mode": "fixed", "fixedColor": RED}),
            ],
        )
    return _finish(
        drawn.build(), title, help_, _targets(queries), unit=unit, size=size, none=none, steps=steps, low=low,
        high=high, decimals=decimals,
    )  # fmt: skip


def _thin(color: str) -> list[m.DynamicConfigValue]:
    return [_set("custom.lineWidth", 0), _set("color", {"mode": "fixed", "fixedColor": color})]


def _set(what: str, value: object) -> m.DynamicConfigValue:
    return m.DynamicConfigValue(id_val=what, value=value)


def states(
    title: str,
    help_: str,
    *queries: Q,
    maps: Mapping[str, tuple[str, str]] = YES_NO,
    size: tuple[int, int] = (12, 8),
    none: str = "not known",
    steps: Sequence[Step] = (),
    unit: str = "short",
) -> m.Panel:
    """What was so, and when: a bar for each series. steps: colours of a number, where it is no state."""
    built = (
        statetimeline.Panel()
        .merge_values(True)
        .show_value(looks.VisibilityMode.NEVER)
        .row_height(0.85)
        .fill_opacity(80)
        .legend(common.VizLegendOptions().display_mode(looks.LegendDisplayMode.LIST)
                .placement(looks.LegendPlacement.BOTTOM).show_legend(True).calcs([]))
        .build()
    )  # fmt: skip
    return _finish(
        built, title, help_, _targets(queries), unit=unit, size=size, none=none, steps=steps or PLAIN,
        by_steps=True, maps=None if steps else maps,
    )  # fmt: skip


def bars(
    title: str,
    help_: str,
    *queries: Q,
    unit: str = "short",
    size: tuple[int, int] = (12, 8),
    none: str = "not known",
    steps: Sequence[Step] = PLAIN,
    decimals: float | None = None,
) -> m.Panel:
    """How much of each, as bars: the newest value."""
    built = (
        bargauge.Panel()
        .display_mode(looks.BarGaugeDisplayMode.BASIC)
        .orientation(looks.VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .show_unfilled(True)
        .build()
    )
    asked = [Q(q.expr, q.legend, instant=True) for q in queries]
    return _finish(
        built, title, help_, _targets(asked), unit=unit, size=size, none=none, steps=steps, by_steps=True, low=0.0,
        decimals=decimals,
    )  # fmt: skip


def heat(
    title: str,
    help_: str,
    buckets: str,
    *,
    by: str = "le",
    size: tuple[int, int] = (12, 8),
    none: str = "nothing was measured yet",
) -> m.Panel:
    """Show how a histogram of ours was filled over time."""
    built = heatmap.Panel().calculate(calculate=False).hide_y_histogram().cell_gap(1).build()
    expr = f"sum by ({by}) (increase({buckets}{RATE}))"
    targets = _targets([Q(expr, "{{le}}")], form=prom.PromQueryFormat.HEATMAP)
    return _finish(built, title, help_, targets, unit="short", size=size, none=none, steps=PLAIN)


def table(
    title: str,
    help_: str,
    queries: Sequence[Q],
    columns: Sequence[Column],
    *,
    size: tuple[int, int] = (24, 8),
    none: str = "nothing",
    sort: str = "",
    descending: bool = True,
) -> m.Panel:
    """Rows by labels, a column for each query. Its queries must keep the same labels, those of its columns."""
    names = {c.source if len(c.source) > 1 else _value(c.source, queries): c for c in columns}
    built = tables.Panel().show_header(show_header=True).cell_height(looks.TableCellHeight.SM)
    if sort:
        built = built.sort_by([common.TableSortByFieldState().display_name(sort).desc(descending)])
    for c in columns:
        properties = [_set("unit", c.unit)] if c.unit else []
        if c.steps:
            properties.append(_set("thresholds", _steps(c.steps)))
        if c.maps:
            properties.append(_set("mappings", _maps(c.maps)))
        if c.gauge:
            properties += [
                _set("custom.cellOptions", {"type": "gauge", "mode": "basic"}),
                _set("min", 0), _set("max", 1),
            ]  # fmt: skip
        elif c.steps or c.maps:
            properties.append(_set("custom.cellOptions", {"type": "color-text"}))
        if c.url:
            properties.append(_set("links", [{"title": "open", "url": c.url}]))
        if properties:
            built = built.override_by_name(c.title, properties)
    panel = _finish(
        built.build(), title, help_, _targets(queries, form=prom.PromQueryFormat.TABLE), unit="short", size=size, none=none,
        steps=(), by_steps=True,
    )  # fmt: skip
    panel.transformations = [
        m.DataTransformerConfig(id_val="merge", options={}),
        m.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True},
                "indexByName": {name: i for i, name in enumerate(names)},
                "renameByName": {name: c.title for name, c in names.items()},
            },
        ),
    ]
    return panel


def _value(ref: str, queries: Sequence[Q]) -> str:
    """Return what Grafana calls the value of a query in a table."""
    return f"Value #{ref}" if len(queries) > 1 else "Value"


# ---------------------------------------------------------------- a board


@dataclass(frozen=True, slots=True)
class Row:
    """A part of a board under a title; panels flow into lines of 24."""

    title: str
    panels: tuple[m.Panel, ...]


def choice(
    name: str,
    label: str,
    help_: str,
    query: str,
    *,
    many: bool = False,
    regex: str = "",
    hidden: bool = False,
) -> m.VariableModel:
    """Return a variable whose values Prometheus knows. many: several, or all."""
    hide = m.VariableHide.HIDE_VARIABLE if hidden else m.VariableHide.DONT_HIDE
    every = m.VariableOption(text="All", value="$__all") if many else None
    return m.VariableModel(
        type_val=m.VariableType.QUERY,
        name=name,
        label=label,
        description=help_,
        query=query,
        datasource=SOURCE,
        regex=regex,
        multi=many,
        include_all=many,
        all_value=".+" if many else None,
        current=every,
        refresh=m.VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=m.VariableSort.ALPHABETICAL_ASC,
        hide=hide,
        skip_url_sync=None,
        allow_custom_value=None,
        auto=None,
        auto_min=None,
        auto_count=None,
    )


def values(label: str, selector: str) -> str:
    """Return the query of a variable: the values that a label has."""
    return f"label_values({selector}, {label})"


def _variables(more: Sequence[m.VariableModel]) -> list[m.VariableModel]:
    built = METRICS["homeostat_build_info"].name
    source = m.VariableModel(
        type_val=m.VariableType.DATASOURCE,
        name="datasource",
        label="Data source",
        description="The Prometheus that scrapes homeostat.",
        query="prometheus",
        hide=m.VariableHide.DONT_HIDE,
        refresh=m.VariableRefresh.ON_DASHBOARD_LOAD,
        skip_url_sync=None,
        multi=False,
        include_all=False,
        allow_custom_value=None,
        auto=None,
        auto_min=None,
        auto_count=None,
        regex="",
    )
    return [
        source,
        choice("job", "Job", "Scrape jobs of homeostat.", values("job", built), many=True),
        choice(
            "instance", "Agent", "Which agents: the addresses that are scraped.",
            values("instance", f'{built}{{job=~"$job"}}'), many=True,
        ),
        *more,
        choice(
            "console", "Console", "Where the console is; links lead there.",
            values("url", own("console_info")), hidden=True,
        ),
    ]  # fmt: skip


class _Drawn(m.AnnotationQuery):
    """An annotation out of metrics; how it reads is known to Grafana's Prometheus, not to its schema."""

    def __init__(self, name: str, color: str, expr: str, title: str, text: str) -> None:
        super().__init__(
            name=name, icon_color=color, expr=expr, datasource=SOURCE, enable=True, built_in=None
        )
        self.title, self.text = title, text

    def to_json(self) -> dict[str, object]:
        return {
            **super().to_json(), "step": "", "titleFormat": self.title, "textFormat": self.text,
            "tagKeys": "instance",
        }  # fmt: skip


def _annotations() -> list[m.AnnotationQuery]:
    told = m.AnnotationTarget(limit=200, match_any=False, tags=[TAG], type_val="tags")
    return [
        m.AnnotationQuery(
            name="Annotations & Alerts", datasource=_GRAFANA, enable=True, hide=True, icon_color="rgba(0, 211, 255, 1)",
            type_val="dashboard", built_in=1,
        ),
        _Drawn(
            "Incidents", RED, own("incident_opened_timestamp_seconds", severity="page|warning") + " > 0",
            "{{severity}}: {{entity}}", "{{cause}} ({{incident}})",
        ),
        _Drawn(
            "Acts", BLUE, own("run_started_timestamp_seconds", state="acting|verifying|holding|undoing") + " > 0",
            "{{playbook}} on {{entity}}", "{{state}}, for incident {{incident}} ({{run}})",
        ),
        _Drawn(
            "Changes", ORANGE,
            f"sum by (instance, kind) (changes({own('changes_total', by='others')}{RATE})) > 0",
            "{{kind}}", "changed by others",
        ),
        # with the texts and links that the connector grafana_annotations writes; off, as the metrics tell of the same
        m.AnnotationQuery(
            name="Told by homeostat", datasource=_GRAFANA, enable=False, icon_color=GREY, target=told, built_in=None,
        ),
    ]  # fmt: skip


def _links() -> list[m.DashboardLink]:
    return [
        m.DashboardLink(
            title="homeostat", type_val=m.DashboardLinkType.DASHBOARDS, tags=[TAG], icon="external link",
            include_vars=True, keep_time=True, tooltip="The other boards",
        ),
        m.DashboardLink(
            title="Console", type_val=m.DashboardLinkType.LINK, url="${console}/", icon="bolt", target_blank=True,
            tooltip="The agent's own page: evidence, approvals, why and why not",
        ),
    ]  # fmt: skip


def to(uid: str, query: str = "") -> str:
    """Return a link to one of our boards, which keeps time and agents."""
    kept = "&".join(f"${{{name}:queryparam}}" for name in ("datasource", "job", "instance"))
    return f"/d/{uid}?${{__url_time_range}}&{kept}" + (f"&{query}" if query else "")


def board(
    uid: str,
    title: str,
    help_: str,
    variables: Sequence[m.VariableModel],
    rows: Sequence[Row],
    *,
    since: str = "now-6h",
) -> m.Dashboard:
    """Lay out a board. What a person on call asks first stands in the first row, on the left."""
    made: list[m.Panel | m.RowPanel] = []
    y = 0
    for row in rows:
        made.append(m.RowPanel(
            title=row.title, id_val=len(made) + 1, grid_pos=m.GridPos(x=0, y=y, w=24, h=1), collapsed=False,
        ))  # fmt: skip
        x, y, tallest = 0, y + 1, 0
        for panel in row.panels:
            panel.grid_pos = at = panel.grid_pos or m.GridPos()
            if x + at.w > 24:
                x, y, tallest = 0, y + tallest, 0
            at.x, at.y = x, y
            x, tallest = x + at.w, max(tallest, at.h)
            panel.id_val = len(made) + 1
            made.append(panel)
        y += tallest
    return m.Dashboard(
        uid=uid,
        title=title,
        description=help_,
        tags=[TAG],
        editable=True,
        graph_tooltip=m.DashboardCursorSync.CROSSHAIR,
        time=m.DashboardDashboardTime(from_val=since, to="now"),
        timezone="browser",
        refresh="30s",
        schema_version=41,
        version=1,
        panels=made,
        templating=m.DashboardDashboardTemplating(list_val=_variables(variables)),
        annotations=m.AnnotationContainer(list_val=_annotations()),
        links=_links(),
    )
