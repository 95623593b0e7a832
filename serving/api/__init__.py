"""The HTTP API: capture, query, delete, boosts. `app.build_app` puts it together, `server.serve` runs it."""
