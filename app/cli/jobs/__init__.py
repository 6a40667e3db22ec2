"""Commands of jobs: find them, look into them, follow them, submit and act. All of it over the routes that callers have."""
