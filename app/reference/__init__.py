"""The API reference: what OpenAPI says of each route. The words are the handlers' docstrings; the shapes are here."""
