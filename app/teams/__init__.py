"""Teams and their API keys. A key is shown once, when it is made; what is stored is its SHA-256."""
