"""The HTTP API: its routes, the bodies of requests, the answers."""
