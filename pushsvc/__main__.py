"""`python -m pushsvc` is the same as `pushsvc`."""

from .cli import main

main()
