"""The whole product in one terminal, and how to break it.

run        embedded PostgreSQL, a simulated Apiframe, the service, and one job through them
workers    the processes that run the loops, started again whenever they are killed
troubles   what a visitor of `/ops/demo` may do to all that
counting   what became of the jobs of this run, by the books of both sides
"""
