"""Every table, a page for each part. Keys are UUIDv7, times are timestamptz, enumerations are text with a CHECK."""
