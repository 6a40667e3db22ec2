"""SQL of files, by what it is for."""
