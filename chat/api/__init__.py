"""The manners of the HTTP API, the same on every route."""
