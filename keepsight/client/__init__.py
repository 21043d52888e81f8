"""All that a program needs to call the service: `Client`, `AsyncClient`, and what they raise. Needs httpx alone.

The modules beside this one hold the types of answers (`api`) and the parts that the clients are made of.
"""

from keepsight.client.async_client import AsyncClient
from keepsight.client.errors import ApiError, ClientError, ServiceUnreachableError, UploadError
from keepsight.client.retries import Retries
from keepsight.client.sync_client import Client

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "ClientError",
    "Retries",
    "ServiceUnreachableError",
    "UploadError",
    "__version__",
]

__version__ = "0.2.0"
