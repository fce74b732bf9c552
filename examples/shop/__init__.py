"""A shop with a login and two slow pages, in Starlette and in FastAPI: the one line that lets each answer later."""
