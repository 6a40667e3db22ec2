"""The SQL of jobs, a file for each of their walks. Statements take lists, so that calls can share a transaction."""
