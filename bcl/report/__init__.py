"""Reports: comparison of runs, tables, charts and the page."""

from bcl.report.page import render_report as render_report
from bcl.report.tables import text_table as text_table
