/* What a board's JSON must be: Grafana's own types, with every enum as the text or number that stands in JSON. */
import type { AnnotationQuery, Dashboard, Panel, RowPanel } from "@grafana/schema";
import type * as bargauge from "raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen";
import type * as heatmap from "raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen";
import type * as stat from "raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as timeline from "raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen";
import type * as table from "raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type * as timeseries from "raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";
import type { AnnotationTarget } from "raw/dashboard/x/dashboard_types.gen";

type Plain<T> = T extends string ? `${T}`
  : T extends (infer U)[] ? Plain<U>[]
  : T extends object ? { [K in keyof T]: Plain<T[K]> }
  : T;

/* The schema knows an annotation's query of no data source: these are what Grafana's Prometheus and Grafana itself read. */
type Drawn = Omit<AnnotationQuery, "target"> & { expr: string; step: string; titleFormat: string; textFormat: string; tagKeys: string };
type Told = Omit<AnnotationQuery, "target"> & { target: AnnotationTarget };

type Of<T extends string, Options, Custom = {}> =
  Omit<Panel<{}, Partial<Custom>>, "type" | "options"> & { type: T; options: Partial<Options> };
type Known =
  | Of<"bargauge", bargauge.Options>
  | Of<"heatmap", heatmap.Options, heatmap.FieldConfig>
  | Of<"stat", stat.Options>
  | Of<"state-timeline", timeline.Options, timeline.FieldConfig>
  | Of<"table", table.Options>
  | Of<"timeseries", timeseries.Options, timeseries.FieldConfig>;

export type Board = Plain<
  Omit<Dashboard, "annotations" | "panels"> & {
    annotations: { list: (AnnotationQuery | Drawn | Told)[] };
    panels: (RowPanel | Known)[];
  }
>;
