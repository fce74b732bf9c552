"""The Python client, `pushsvc_client`, where it is installed beside the server: `pip install pushsvc-client`."""

try:
    from pushsvc_client import *  # noqa: F403
    from pushsvc_client import __all__ as __all__
except ModuleNotFoundError as error:
    if error.name != "pushsvc_client":
        raise
    raise ModuleNotFoundError(
        "pushsvc.client is a distribution of its own: pip install pushsvc-client", name="pushsvc_client"
    ) from None
