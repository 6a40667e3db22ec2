"""SQL of teams, by what it is for."""
