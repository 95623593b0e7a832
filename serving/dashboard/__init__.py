"""The dashboard's page: one HTML file, one style sheet, one script, and uPlot (MIT, its licence beside it)."""
