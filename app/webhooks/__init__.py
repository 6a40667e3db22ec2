"""Webhooks are inbound: Apiframe's messages about our jobs.

The URL's token is checked before the database is touched, then the signature over the raw bytes. A signed message is kept
as a Receipt and applied in one transaction; it is acknowledged after the commit. A message without a signature is a hint:
the job is asked after, and that answer is applied. A wrong signature applies nothing.
"""
