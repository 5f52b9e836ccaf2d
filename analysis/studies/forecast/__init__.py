"""What a run will forget, said before it happens: forecasts beside what training did (docs/theory.md, section 2).

`network` (NTK-CL's own tasks), `sequential` (the linear baseline, exact), `new_data` (a folder of images to come),
`engine` (the whole run, into `RUN/analysis/forecast.json`), `cost` (what that would take), `table` (the table and what
it means).
"""

from analysis.studies.forecast.cost import forecast_cost
from analysis.studies.forecast.engine import compute_forecast, forecast_file
from analysis.studies.forecast.table import told

__all__ = ["compute_forecast", "forecast_cost", "forecast_file", "told"]
