"""A whole service with nothing set up: embedded PostgreSQL and Valkey, and the all-in-one runner."""
