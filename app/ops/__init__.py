"""For whoever runs the service. This package reads everything and decides nothing."""
