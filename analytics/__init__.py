"""The lake as analysts see it: relations, frames and data sets of a range of days, exports, and the audit."""
