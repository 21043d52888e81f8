// What the page's charts need of ECharts; scripts/_assets.py makes one file of it. A part that is missing here is
// missing on the page, without a word from ECharts.

import { LineChart, ScatterChart, CustomChart } from "echarts/charts";
import { DataZoomSliderComponent, GridComponent, LegendComponent, TooltipComponent } from "echarts/components";
import { init, use } from "echarts/core";
import { CanvasRenderer } from "echarts/renderers";

use([LineChart, ScatterChart, CustomChart, DataZoomSliderComponent, GridComponent, LegendComponent, TooltipComponent, CanvasRenderer]);

export { init };
