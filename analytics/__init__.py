"""The lake as analysts see it: relations, frames and data sets of a range of days, exports, and the audit."""

from clickwell.analytics.pairs import get_query_document_pairs
from clickwell.analytics.signals import get_retriever_signals

__all__ = ["get_query_document_pairs", "get_retriever_signals"]
