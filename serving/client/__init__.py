"""A client of the HTTP API, with the lake's analytics and training beside it.

```python
from clickwell import Client

with Client(api_key="cw_...", base_url="https://events.example") as client:
    client.interactions.create("doc-7", ["click"], position=2, metadata={"query": "tent"}, user_id="u-1")
    page = client.interactions.list(feature_id="doc-7", days=7)
    client.interactions.delete(user_id="u-1")
signals = client.analytics.get_retriever_signals("shop")
```
"""

from clickwell.serving.client.aio import AsyncClient
from clickwell.serving.client.blocking import Client

__all__ = ["AsyncClient", "Client"]
