"""The demo: reports on every flight that left New York City in 2013, run in parallel and pushed to a page."""
